"""The Adapter protocol, and the one function that turns a run's choices into a JEPA."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from jepa_modalities.config import RunConfig
from jepa_modalities.core.batch import Batch, Tokens
from jepa_modalities.core.block import Style
from jepa_modalities.core.draw import Draw, fixed_random
from jepa_modalities.core.encoder import TokenEncoder
from jepa_modalities.core.jepa import JEPA
from jepa_modalities.core.losses import Gather, Prediction, Regulariser, Visible
from jepa_modalities.core.masking import BlockMasker, Masker, Masks, RandomMasker
from jepa_modalities.core.positions import LearnedPosition, NoPosition, SinCosPosition
from jepa_modalities.core.predictor import Predictor
from jepa_modalities.core.registry import modalities
from jepa_modalities.core.target import EmaTarget, FixedTarget, HandOver, Target

# One micro-batch: row numbers of this process, and the random numbers that belong to them.
Plan = Iterable[tuple[Tensor, Draw]]


@dataclass(frozen=True)
class Geometry:
    """What the core must know of a tokenised sample.

    Attributes:
        features: width of a raw token.
        grid: tokens per axis, e.g. (rows, columns).
    """

    features: int
    grid: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens per sample."""
        return math.prod(self.grid)


class Modality(Protocol):
    """What loading and using an encoder needs to know: no data, no training.

    A modality may also define `encoder(config, geometry, embed) -> nn.Module | None`, its own
    encoder, `masker(config, geometry) -> Masker | None`, its own masker for this mask kind, and
    `predictor(config, geometry) -> Callable[..., Predictor] | None`, what is called in place of
    `Predictor`; None where the common one is meant. `remarks(config, samples) -> list[str]` says
    what in a user's data, as `read` returned them, the features suffer from.
    `numbers(config) -> int`, how many a first layer holds at least that is not built without
    taking memory, is held against an encoder file before that.
    With `outline(config) -> Outline` its runs can be estimated before any data are there (`jm
    estimate`).
    """

    Config: type[Any]

    @staticmethod
    def geometry(config: Any) -> Geometry:
        """Token width and grid of a run."""

    @staticmethod
    def embedding(config: Any) -> nn.Module:
        """The first learned layer."""

    @staticmethod
    def tokenizer(config: Any) -> nn.Module:
        """A tokenizer with blank statistics, to be filled from the encoder file."""

    @staticmethod
    def read(config: Any, raw: Any) -> Any:
        """A user's data as the tokenizer takes it."""


class Parts(Protocol):
    """What `build_jepa` asks for: an adapter has it, and an outline without data."""

    geometry: Geometry

    def embedding(self) -> nn.Module:
        """The first learned layer: raw tokens -> width."""

    def target(self) -> tuple[nn.Module, int] | None:
        """The fixed target's function and width, or None for EMA latents alone."""


class Adapter(Parts, Protocol):
    """One modality: how raw samples become tokens, batches, targets and scores.

    The constructor opens and checks the data and fits what needs no gradient (a dictionary), so
    that every complaint comes before long work. Everything random is a function of its arguments.

    `config` may be completed by what the data say (the columns of a table): encoder files carry
    this one. An adapter may also have `terms() -> list[nn.Module]`, loss terms beside the
    prediction and the regulariser; `blocks: Blocks | None` (see `core.draw`) where its data are
    not in memory; `about: list[str]`, lines on the data to print before training; `mark: str`, by
    which a run that goes on notices that the training data have changed, beside their number;
    `probed: bool`, whether there is anything to probe; and `adopt(tokenizer, encoder, config)`,
    where more than `tokenizer` has to change when data are scored with what an encoder file holds.
    """

    config: Any
    tokenizer: nn.Module

    def __len__(self) -> int:
        """Training samples."""

    def feed(
        self, plan: Plan, masker: Masker | None, device: torch.device
    ) -> Iterator[tuple[Batch, Masks | None]]:
        """Batches and masks on the device, in the plan's order."""

    def monitor(self) -> tuple[Tokens, Tensor | None]:
        """A fixed subset of the training samples for the collapse monitor and the online probe."""

    def evaluate(self, encoders: dict[str, list[nn.Module]], run: Path) -> dict[str, float]:
        """Score encoders and controls: flat metrics."""

    def pictures(self, encoders: dict[str, list[nn.Module]]) -> dict[str, Any]:
        """Pictures for the report."""


def _own(config: RunConfig, piece: str, *arguments: Any) -> Any:
    """A piece that the run's modality makes itself, or None."""
    if config.modality not in modalities:  # an adapter on its own, without a modality
        return None
    make = getattr(modalities[config.modality], piece, None)
    return None if make is None else make(config, *arguments)


def build_encoder(config: RunConfig, geometry: Geometry, embed: nn.Module) -> nn.Module:
    """The encoder of a run, freshly drawn from torch's global generator.

    Raises:
        ValueError: sizes that make no encoder.
    """
    choice = config.encoder
    for name in ("dim", "depth", "heads"):
        if getattr(choice, name) < 1:
            raise ValueError(f"encoder.{name} = {getattr(choice, name)}: give at least 1")
    own: nn.Module | None = _own(config, "encoder", geometry, embed)
    if own is not None:
        return own
    position: nn.Module
    if choice.position == "relative":
        position = NoPosition()
    elif choice.position == "learned":
        std = 0.02 * choice.position_scale
        position = LearnedPosition(geometry.num_tokens, choice.dim, std)
    else:
        position = SinCosPosition(choice.dim, choice.position_scale)
    return TokenEncoder(
        embed,
        position,
        choice.dim,
        choice.depth,
        choice.heads,
        block_style(config, geometry),
        choice.num_prefix,
        shows_hidden=getattr(build_masker(config, geometry), "shows_hidden", False),
    )


def block_style(config: RunConfig, geometry: Geometry) -> Style:
    """The style of the encoder's blocks; the predictor has its own width of the MLPs.

    Raises:
        ValueError: an unknown name.
    """
    choice = config.encoder
    return Style(
        choice.mlp_ratio,
        choice.norm,
        choice.activation,
        choice.bias,
        choice.init,
        choice.rescale,
        choice.rescale_by,
        len(geometry.grid) if choice.position == "relative" else 0,
    )


def build_masker(config: RunConfig, geometry: Geometry) -> Masker | None:
    """The masker of a run; None without masked prediction.

    Raises:
        ValueError: settings that no sample can satisfy.
    """
    mask = config.mask
    if mask.kind == "none":
        return None
    own: Masker | None = _own(config, "masker", geometry)
    if own is not None:
        return own
    if mask.kind == "random":
        return RandomMasker(geometry.num_tokens, mask.keep)
    if mask.kind != "block":
        raise ValueError(f"mask.kind = {mask.kind!r} is not known to modality {config.modality!r}")
    if len(geometry.grid) > 2:
        raise ValueError(
            f"mask.kind = 'block' knows images and sequences, not a grid of {geometry.grid}; use "
            f"'random'"
        )
    rows, columns = geometry.grid if len(geometry.grid) == 2 else (1, geometry.num_tokens)
    return BlockMasker(
        (rows, columns),
        mask.num_targets,
        mask.target_scale,
        mask.target_aspect,
        mask.context_scale,
        min_keep=mask.min_keep,
        lengths=mask.lengths,
        reference=mask.reference,
    )


def build_predictor(config: RunConfig, geometry: Geometry, target_dim: int) -> Predictor:
    """The predictor of a run, freshly drawn from torch's global generator.

    Raises:
        ValueError: choices that exclude each other.
    """
    kind: Callable[..., Predictor] = _own(config, "predictor", geometry) or Predictor
    choice, encoder = config.predictor, config.encoder
    position = None
    if choice.position == "learned":
        std = 0.02 * choice.position_scale
        position = LearnedPosition(geometry.num_tokens, choice.width, std)
    return kind(
        encoder.dim,
        choice.width,
        choice.depth,
        choice.heads or encoder.heads,
        target_dim,
        replace(block_style(config, geometry), mlp_ratio=choice.mlp_ratio),
        position=position,
        sees_prefix=choice.sees_prefix,
        num_prefix=encoder.num_prefix if choice.sees_prefix else 0,
        shows_hidden=getattr(build_masker(config, geometry), "shows_hidden", False),
        packed=choice.packed,
    )


def build_target(
    config: RunConfig, fixed: tuple[nn.Module, int] | None, gather: Gather = lambda x: x
) -> Target:
    """EMA latents, a fixed function, a hand-over from the second to the first, or both.

    A `target.kind` that ends in "+ema" predicts both from the first to the last step, each with
    weight 1.
    """
    choice = config.target
    dim, norm = config.encoder.dim, choice.layer_norm
    latent = EmaTarget(dim, norm, choice.layers, choice.centre, gather)
    if fixed is None:
        if choice.handover is not None:
            raise ValueError("target.handover needs a fixed target.kind to begin with, not 'ema'")
        return latent
    first = FixedTarget(*fixed)
    if choice.kind.endswith("+ema"):
        return HandOver(first, latent, 0.0, 0.0, rest=1.0)
    if choice.handover is None:
        return first
    return HandOver(first, latent, *choice.handover, choice.rest)


def _check_accumulate(config: RunConfig) -> None:
    """Micro-batches give the whole batch's gradient only where the loss is a mean over samples."""
    if config.regulariser.kind != "none":
        found = f"regulariser.kind = {config.regulariser.kind!r}"
    elif config.target.centre:
        found = "target.centre = True"
    else:
        return
    raise ValueError(
        f"train.accumulate = {config.train.accumulate} with {found}: its statistics need the whole "
        f"batch at once; set train.accumulate to 1 or use more processes"
    )


def build_jepa(config: RunConfig, adapter: Parts, gather: Gather = lambda x: x) -> JEPA:
    """The method that a run's choices describe, freshly drawn from (train.seed).

    Raises:
        ValueError: choices that exclude each other.
    """
    masked, predicts = config.mask.kind != "none", config.loss.weight != 0
    added = hasattr(adapter, "terms")
    if not added and config.regulariser.kind == "none" and not (masked and predicts):
        raise ValueError(
            "mask.kind = 'none' (or loss.weight = 0) and regulariser.kind = 'none' leave nothing "
            "to learn from; give one of them"
        )
    if config.train.accumulate > 1:
        _check_accumulate(config)
    with fixed_random(config.train.seed):
        encoder = build_encoder(config, adapter.geometry, adapter.embedding())
        predictor, target = None, None
        terms: list[nn.Module] = []
        if masked:
            if predicts:
                loss, target = config.loss, build_target(config, adapter.target(), gather)
                terms.append(Prediction(loss.prediction, loss.weight))
                if loss.visible:
                    dim = config.encoder.dim
                    terms.append(Visible(dim, target.dim, loss.prediction, loss.visible))
            dim = config.encoder.dim if target is None else target.dim
            predictor = build_predictor(config, adapter.geometry, dim)
        choice = config.regulariser
        if choice.kind != "none":
            predicted = target.dim if target is not None else config.encoder.dim
            dim = predicted if choice.source.startswith("predicted") else config.encoder.dim
            terms.append(
                Regulariser(
                    choice.source,
                    dim,
                    choice.widths,
                    choice.kind,
                    choice.coefficients,
                    choice.weight,
                    seed=config.train.seed,
                )
            )
        if added:
            terms += adapter.terms()  # type: ignore[attr-defined]
        if not terms:
            raise ValueError("no loss term is switched on: there is nothing to learn from")
        return JEPA(encoder, predictor, target, terms, gather)
