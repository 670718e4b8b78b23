"""What a run's choices say about an ECG encoder, without opening any data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jepa_modalities.adapters.base import Geometry, block_style
from jepa_modalities.adapters.ecg.bar import KernelBank, LocalTargets, default_dilations
from jepa_modalities.adapters.ecg.config import ECGConfig
from jepa_modalities.adapters.ecg.embedding import ConvStem, KernelStem, LeadPosition
from jepa_modalities.adapters.ecg.encoder import (
    ECGTransformer,
    MultiScaleConv,
    SequenceEncoder,
    StateSpace,
)
from jepa_modalities.adapters.ecg.masker import BlockTimeMasker, IntervalMasker
from jepa_modalities.adapters.ecg.predictor import LeadPredictor
from jepa_modalities.adapters.ecg.preprocess import ECGPreprocess, conform, crops, num_samples
from jepa_modalities.adapters.ecg.tokenizer import ECGTokenizer
from jepa_modalities.adapters.outline import Outline
from jepa_modalities.core.masking import Masker
from jepa_modalities.core.positions import LearnedPosition, NoPosition, SinCosPosition
from jepa_modalities.core.predictor import Predictor
from jepa_modalities.core.registry import modalities
from jepa_modalities.data.ecg.file import open_records


def in_samples(config: ECGConfig, name: str, seconds: float) -> int:
    """Seconds as samples at the encoder's rate.

    Raises:
        ValueError: less than a sample, or no whole number of samples.
    """
    exact = seconds * config.preprocess.fs
    if exact < 0.999 or abs(exact - round(exact)) > 1e-3 * max(exact, 1):
        raise ValueError(
            f"{name} = {seconds} s is {exact:g} samples at preprocess.fs = "
            f"{config.preprocess.fs:g} Hz; choose a time of whole samples"
        )
    return round(exact)


def steps(config: ECGConfig, seconds: float, name: str = "data.crop") -> int:
    """Seconds as tokens along time.

    Raises:
        ValueError: `data.patch` does not divide the time.
    """
    patch = in_samples(config, "data.patch", config.data.patch)
    samples = in_samples(config, name, seconds)
    if samples % patch:
        raise ValueError(
            f"{name} = {seconds} s cannot be cut into tokens of data.patch = {config.data.patch} s"
        )
    return samples // patch


def geometry(config: ECGConfig) -> Geometry:
    """Token width and grid: (time,), or (leads, time) with a token per lead."""
    patch = in_samples(config, "data.patch", config.data.patch)
    leads, time = len(config.preprocess.leads), steps(config, config.data.crop)
    if config.data.tokens == "lead":
        return Geometry(patch, (leads, time))
    return Geometry(leads * patch, (time,))


def by_lead(config: ECGConfig) -> bool:
    """Whether every lead has tokens of its own."""
    return config.data.tokens == "lead"


@modalities.register("ecg")
class ECGModality:
    """ECGs without data: what loading and embedding need (see `adapters.base.Modality`)."""

    Config = ECGConfig

    @staticmethod
    def geometry(config: ECGConfig) -> Geometry:
        """Token width and grid."""
        return geometry(config)

    @staticmethod
    def embedding(config: ECGConfig) -> nn.Module:
        """Linear per token, overlapping convolutions, or random kernels that are still zero.

        Raises:
            ValueError: a stem that mixes leads where every lead has its own tokens.
        """
        shape, choice = geometry(config), config.encoder
        if choice.stem == "linear":
            return nn.Linear(shape.features, choice.dim)
        if by_lead(config):
            raise ValueError(f"encoder.stem = {choice.stem!r} needs data.tokens = 'joint'")
        leads = len(config.preprocess.leads)
        patch = shape.features // leads
        if choice.stem == "conv":
            return ConvStem(leads, patch, choice.dim)
        dilations = default_dilations(shape.num_tokens * patch)
        bank = KernelBank(choice.stem_kernels, leads, 1, dilations)
        return KernelStem(leads, patch, choice.dim, LocalTargets(bank, patch, choice.stem_dim))

    @staticmethod
    def outline(config: ECGConfig) -> Outline:
        """Networks and batch of a run, for estimates."""
        from jepa_modalities.adapters.ecg.outline import outline

        return outline(config)

    @staticmethod
    def tokenizer(config: ECGConfig) -> nn.Module:
        """A tokenizer whose constants are filled from the encoder file."""
        patch = in_samples(config, "data.patch", config.data.patch)
        return ECGTokenizer(ECGPreprocess(config.preprocess), patch, by_lead(config))

    @staticmethod
    def encoder(config: ECGConfig, shape: Geometry, embed: nn.Module) -> nn.Module:
        """The encoder that `encoder.mixer` names.

        Raises:
            ValueError: choices that exclude each other.
        """
        choice, channels = config.encoder, shape.grid[0] if len(shape.grid) == 2 else 1
        position: nn.Module
        if choice.position == "learned":
            position = LearnedPosition(shape.num_tokens, choice.dim)
        elif choice.position == "relative":
            position = NoPosition()
        elif channels > 1:
            position = LeadPosition(channels, choice.dim, choice.position_scale)
        else:
            position = SinCosPosition(choice.dim, choice.position_scale)
        if choice.mixer == "attention":
            if choice.cross_pattern and channels == 1:
                raise ValueError("encoder.cross_pattern needs data.tokens = 'lead'")
            if choice.cross_pattern and choice.position == "relative":
                raise ValueError(
                    "encoder.cross_pattern adds positions before every block: choose "
                    "encoder.position = 'sincos' or 'learned'"
                )
            return ECGTransformer(
                shape.grid[-1],
                channels,
                choice.cross_pattern,
                embed=embed,
                position=position,
                dim=choice.dim,
                depth=choice.depth,
                heads=choice.heads,
                style=block_style(config, shape),
                num_prefix=choice.num_prefix,
            )
        if channels > 1 or choice.num_prefix:
            raise ValueError(
                f"encoder.mixer = {choice.mixer!r} works along time: it needs data.tokens = "
                f"'joint' and encoder.num_prefix = 0"
            )
        mixers: list[nn.Module] = [
            MultiScaleConv(choice.dim, choice.kernel, choice.dilations)
            if choice.mixer == "dilated"
            else StateSpace(choice.dim)
            for _ in range(choice.depth)
        ]
        return SequenceEncoder(embed, position, choice.dim, mixers, block_style(config, shape))

    @staticmethod
    def masker(config: ECGConfig, shape: Geometry) -> Masker | None:
        """The maskers in seconds; None for the kinds of all modalities.

        Raises:
            ValueError: settings that no sample can satisfy.
        """
        mask, time = config.mask, shape.grid[-1]
        channels = shape.num_tokens // time
        if mask.kind == "interval":
            block = max(round(mask.min_block / config.data.patch), 1)
            return IntervalMasker(time, block, mask.keep, mask.ring, channels, mask.target_share)
        if mask.kind == "blocks":
            block = max(round(mask.min_block / config.data.patch), 1)
            return BlockTimeMasker(time, block, mask.keep, channels, mask.target_share)
        return None

    @staticmethod
    def predictor(config: ECGConfig, shape: Geometry) -> Callable[..., Predictor] | None:
        """The predictor of one lead at a time; None for the common one.

        Raises:
            ValueError: no tokens per lead, or masks that leave leads unequally many.
        """
        if not config.predictor.by_lead:
            return None
        if not by_lead(config) or config.mask.kind not in ("interval", "blocks"):
            raise ValueError(
                f"predictor.by_lead needs data.tokens = 'lead' and masks that all leads share, "
                f"mask.kind = 'interval' or 'blocks'; found {config.data.tokens!r} and "
                f"{config.mask.kind!r}"
            )
        return partial(LeadPredictor, leads=shape.grid[0])

    @staticmethod
    def remarks(config: ECGConfig, samples: Tensor) -> list[str]:
        """Which of the encoder's leads are missing in how many recordings.

        Args:
            config: of the encoder.
            samples: from `read`.
        """
        absent = samples.isnan().all(2)  # (records, leads)
        counts = absent.sum(0).tolist()
        lacking = {n: c for n, c in zip(config.preprocess.leads, counts, strict=True) if c}
        if not lacking:
            return []
        few, many = int(absent.any(1).sum()), len(absent)
        named = ", ".join(n if c == many else f"{n} ({c:,})" for n, c in lacking.items())
        which = "the recordings" if few == many else f"{few:,} of {many:,} recordings"
        return [
            f"{which} lack the leads {named}; they are masked, and features are less reliable than "
            f"with all {len(config.preprocess.leads)} leads"
        ]

    @staticmethod
    def read(config: ECGConfig, raw: Any) -> Tensor:
        """A user's recordings at the encoder's rate and leads, NaN where there is nothing.

        Args:
            config: of the encoder.
            raw: path of a file that `jm prepare` made; or (signals, fs, lead names[, unit]) with
                signals (records, leads, samples) or a list of (leads, samples); or a tensor that is
                conformed already, (records, leads, samples).

        Returns:
            (records, leads, samples), float32, in physical units; shorter ones end in NaN.

        Raises:
            ValueError: another shape, or no lead in common.
        """
        if isinstance(raw, str | Path):
            records = open_records(str(raw))
            samples = int(num_samples(records, config.preprocess).max())
            return torch.from_numpy(
                crops(records, np.arange(len(records)), 0, samples, config.preprocess)
            )
        if isinstance(raw, Tensor):
            return raw.float()
        if isinstance(raw, Mapping):
            raw = tuple(raw[name] for name in ("signals", "fs", "leads"))
        if not isinstance(raw, Sequence) or len(raw) not in (3, 4):
            raise ValueError(
                f"found {type(raw).__name__}, expected a path or (signals, fs, lead names)"
            )
        signals, fs, leads, *unit = raw
        return conformed(config, signals, fs, leads, *unit)


def conformed(
    config: ECGConfig, signals: Any, fs: float, leads: Sequence[str], unit: str | None = None
) -> Tensor:
    """Recordings of one rate and one set of leads as the tokenizer takes them.

    Args:
        config: of the encoder.
        signals: (records, leads, samples), or a list of (leads, samples) of any lengths.
        fs: Hz.
        leads: names in the signals' order.
        unit: of the signals; the encoder's if not given.

    Returns:
        (records, encoder's leads, samples), float32; shorter ones end in NaN.
    """
    if len(signals) == 0:
        raise ValueError("signals hold no recordings; at least one is needed")
    choice = config.preprocess
    parts = [conform(np.asarray(s).T, fs, leads, choice, unit or choice.unit) for s in signals]
    longest = max(part.shape[1] for part in parts)
    out = np.full((len(parts), len(choice.leads), longest), np.nan, np.float32)
    for row, part in enumerate(parts):
        out[row, :, : part.shape[1]] = part
    return torch.from_numpy(out)
