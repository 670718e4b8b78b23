"""What a run's choices say about a SAR encoder, without opening any data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jepa_modalities.adapters.base import Geometry
from jepa_modalities.adapters.outline import Outline
from jepa_modalities.adapters.sar.config import SarConfig, SarData
from jepa_modalities.adapters.sar.masker import LocalWindowMasker, RealTokenMasker
from jepa_modalities.adapters.sar.tokenizer import SarTokenizer, pad_canvas
from jepa_modalities.core.masking import Masker
from jepa_modalities.core.registry import modalities
from jepa_modalities.data.sar.canvas import place, validity
from jepa_modalities.data.sar.chip import read_chips
from jepa_modalities.data.sar.scaling import Scaling


def geometry(config: SarConfig) -> Geometry:
    """Width of a token and grid.

    Raises:
        ValueError: sizes that make no grid, or a token without content.
    """
    data = config.data
    height, width = data.size
    if min(height, width, data.patch) < 1 or height % data.patch or width % data.patch:
        raise ValueError(
            f"data.size = {data.size} cannot be cut into patches of data.patch = {data.patch}"
        )
    if data.margin < 0:
        raise ValueError(f"data.margin = {data.margin}: give at least 0")
    channels = int(data.image) + len(data.maps)
    if not channels:
        raise ValueError("data.image = False and data.maps = () leave the encoder nothing to see")
    return Geometry(channels * data.patch**2, (height // data.patch, width // data.patch))


def canvas(data: SarData, margin: int | None = None) -> tuple[int, int]:
    """Height and width of the stored chips: what the encoder sees and a margin around it."""
    extra = 2 * (data.margin if margin is None else margin)
    return data.size[0] + extra, data.size[1] + extra


def scaling(data: SarData) -> Scaling:
    """The fixed map of magnitudes that the configuration names."""
    return Scaling(data.scaling, data.gain, data.low, data.high)


def tokenizer(data: SarData) -> SarTokenizer:
    """A tokenizer whose statistics are still blank."""
    return SarTokenizer(data.size, data.patch, data.transform, data.image, data.maps, data.margin)


@modalities.register("sar")
class SarModality:
    """SAR without data: what loading and embedding need (see `adapters.base.Modality`)."""

    Config = SarConfig

    @staticmethod
    def geometry(config: SarConfig) -> Geometry:
        """Width of a token and grid."""
        return geometry(config)

    @staticmethod
    def embedding(config: SarConfig) -> nn.Module:
        """Linear on patches."""
        return nn.Linear(geometry(config).features, config.encoder.dim)

    @staticmethod
    def masker(config: SarConfig, shape: Geometry) -> Masker | None:
        """Local windows, or random tokens that know padding; None for the common kinds."""
        mask = config.mask
        if mask.kind == "window":
            rows, columns = shape.grid
            return LocalWindowMasker(
                (rows, columns), mask.window, mask.num_windows, mask.ratio, mask.shared
            )
        return RealTokenMasker(shape.num_tokens, mask.keep) if mask.kind == "random" else None

    @staticmethod
    def outline(config: SarConfig) -> Outline:
        """Networks and batch of a run, for estimates."""
        from jepa_modalities.adapters.sar.outline import outline

        return outline(config)

    @staticmethod
    def tokenizer(config: SarConfig) -> nn.Module:
        """A tokenizer whose statistics are filled from the encoder file."""
        return tokenizer(config.data)

    @staticmethod
    def read(config: SarConfig, raw: Any) -> Tensor:
        """A user's chips on the encoder's canvas, float32, (chips, 1, height, width).

        Args:
            config: of the encoder; its scaling is applied.
            raw: a path as in `SarData.path`; or magnitudes (uint8 counts as 0..255, complex by its
                absolute value) as an array or tensor (chips, height, width) or (chips, 1, height,
                width), of any size: cut to the centre or padded.

        Raises:
            ValueError: another shape, or magnitudes below 0.
        """
        data = config.data
        size = canvas(data)
        if isinstance(raw, str | Path):
            chips = read_chips(raw, size, fit=data.fit, scaling=scaling(data), split="all")
            return pad_canvas(chips.values, chips.valid)
        values = torch.as_tensor(np.asarray(raw) if not isinstance(raw, Tensor) else raw)
        if values.is_complex():
            values = values.abs()
        elif values.dtype == torch.uint8:
            values = values.float() / 255
        if values.ndim == 3:
            values = values[:, None]
        if values.ndim != 4 or values.shape[1] != 1:
            raise ValueError(
                f"found chips of shape {tuple(values.shape)}, expected (chips, height, width)"
            )
        values = values.float()
        if not len(values) or bool((values < 0).any()) or not bool(values.isfinite().all()):
            raise ValueError("chips must be magnitudes: finite, at least 0, and at least one chip")
        placed = [place(chip, size, data.fit) for chip in values[:, 0].numpy()]
        native = torch.tensor(values.shape[-2:]).expand(len(values), 2)
        on_canvas = scaling(data)(torch.from_numpy(np.stack(placed))[:, None])
        return pad_canvas(on_canvas, None if data.fit == "resize" else validity(native, size))
