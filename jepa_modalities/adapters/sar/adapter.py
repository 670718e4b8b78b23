"""The SAR adapter: opens chips, makes batches on the device, names targets and scores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jepa_modalities.adapters.base import Plan, build_masker
from jepa_modalities.adapters.sar.augment import (
    Move,
    change,
    cut,
    draw_move,
    moves_only,
    resized_crop,
    tokens_inside,
)
from jepa_modalities.adapters.sar.config import SarAugmentConfig, SarConfig
from jepa_modalities.adapters.sar.fixed import fixed_target
from jepa_modalities.adapters.sar.model import SarModality, geometry, tokenizer
from jepa_modalities.adapters.sar.source import SarSource
from jepa_modalities.adapters.sar.tokenizer import blank
from jepa_modalities.core.batch import Batch, Tokens
from jepa_modalities.core.draw import Draw
from jepa_modalities.core.masking import Masker, Masks
from jepa_modalities.core.registry import adapters


@adapters.register("sar")
class SarAdapter:
    """SAR chips for JEPA (see `adapters.base.Adapter`).

    Args:
        config: of the run.
        folder: run folder; nothing is kept there.

    Raises:
        ValueError: data or choices that cannot work, before anything is trained.
    """

    def __init__(self, config: SarConfig, folder: Path | None = None) -> None:
        self.config, self.folder = config, folder
        self.geometry = geometry(config)
        _check(config)
        masker = build_masker(config, self.geometry)  # impossible masks are told before data
        self.source = SarSource(config.data)
        if self.source.padded:
            _check_padding(config)
            if masker is not None:
                self._check_room(masker)
        self.tokenizer = tokenizer(config.data).fit(self.source.sample(2_000))
        self._target: tuple[nn.Module, int] | None = None
        self._resident: tuple[Tensor, Tensor | None] | None = None
        # Of the last evaluation, for the pictures.
        self.confusion: Any = None
        self.metrics: dict[str, float] = {}
        if config.evaluate.enabled:
            from jepa_modalities.adapters.sar.evaluator import check

            check(self)

    def __len__(self) -> int:
        return len(self.source)

    def embedding(self) -> nn.Module:
        """Linear on patches."""
        return SarModality.embedding(self.config)

    def target(self) -> tuple[nn.Module, int] | None:
        """The fixed target that `target.kind` names, or None."""
        if self.config.target.kind == "ema":
            return None
        if self._target is None:
            self._target = fixed_target(self.config, self.source)
        return self._target

    def _stored(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """All chips and, where the encoder sees any, their gradient maps (half precision)."""
        if self._resident is None or self._resident[0].device != device:
            images, maps = self.source.images, None
            if self.tokenizer.maps:
                parts = [
                    self.tokenizer.gradients(part.to(device), self.source.padded).half()
                    for part in images.split(256)
                ]
                maps = torch.cat(parts).contiguous(memory_format=torch.channels_last)
            self._resident = (images.to(device), maps)
        return self._resident

    def feed(
        self, plan: Plan, masker: Masker | None, device: torch.device
    ) -> Iterator[tuple[Batch, Masks | None]]:
        """Batches and masks on `device`; all chips lie there."""
        self.tokenizer.to(device)
        images, maps = self._stored(device)
        for ids, draw in plan:
            yield self._batch(images, maps, ids, draw, masker)

    def _batch(
        self, images: Tensor, maps: Tensor | None, ids: Tensor, draw: Draw, masker: Masker | None
    ) -> tuple[Batch, Masks | None]:
        config, padded = self.config, self.source.padded
        context, sample, raw, masks = None, None, None, None
        if masker is not None:
            chips, part, move = self._view(images, maps, ids, config.augment, draw)
            masks = self._masks(masker, ids, move, draw).to(images.device)
            sample = context = self.tokenizer.tokens(chips, part, padded)
            if masks.hidden is None and self._sees_neighbours:
                context = self._blanked(chips, masks, sample)
            raw = None if config.target.kind == "ema" else chips
        views, seen = [], []
        for _ in range(config.views):
            chips, part, move = self._view(images, maps, ids, config.view_augment, draw)
            views.append(self.tokenizer.tokens(chips, part, padded))
            seen.append(self._inside(ids, move, whole=False) if padded else None)
        keep = self._keep(seen, draw, images.device)
        first = sample if sample is not None else views[0]
        return (
            Batch(
                context if context is not None else first, first, tuple(views), keep, raw, ids=ids
            ),
            masks,
        )

    def _view(
        self,
        images: Tensor,
        maps: Tensor | None,
        ids: Tensor,
        augment: SarAugmentConfig,
        draw: Draw,
    ) -> tuple[Tensor, Tensor | None, Move]:
        """Chips `ids` and their maps at the encoder's size, and where they were cut."""
        size, rows = self.config.data.size, ids.to(images.device)
        move = draw_move(augment, self.source.room[ids], draw)
        if moves_only(augment):
            seen = None if maps is None else cut(maps, move, size, rows)
            return cut(images, move, size, rows), seen, move
        images = change(images[rows], augment, draw)
        if augment.crop != (1.0, 1.0):
            chips = resized_crop(images, augment, size, move.flip, draw)
            fresh = self.tokenizer.gradients(chips, False) if self.tokenizer.maps else None
            return chips, fresh, move
        fresh = (
            self.tokenizer.gradients(images, self.source.padded) if self.tokenizer.maps else None
        )
        return cut(images, move, size), None if fresh is None else cut(fresh, move, size), move

    def _inside(self, ids: Tensor, move: Move, whole: bool) -> Tensor:
        data = self.config.data
        return tokens_inside(self.source.box[ids], move, data.size, data.patch, whole)

    def _masks(self, masker: Masker, ids: Tensor, move: Move, draw: Draw) -> Masks:
        """Masks that neither show nor predict tokens with padding."""
        if not self.source.padded:
            return draw.masks(masker)
        # The masker draws for the global batch; of the others' rows only the numbers matter.
        valid = torch.ones(draw.batch_size, self.geometry.num_tokens, dtype=torch.bool)
        valid[draw.start : draw.stop] = self._inside(ids, move, whole=True)
        return masker(draw.batch_size, draw.generator, valid).rows(draw.start, draw.stop)

    def _check_room(self, masker: Any) -> None:
        """Every padded chip must have tokens to show and to hide, wherever a window falls.

        Small chips are never shifted, so their middle cut tells.
        """
        ids = torch.arange(len(self))
        middle = self.source.room.sum(-1).div(2, rounding_mode="floor")
        still = Move(middle, torch.zeros(len(ids), dtype=torch.bool))
        few = masker.fewest(self._inside(ids, still, whole=True)) < 2
        if bool(few.any()):
            raise ValueError(
                f"data.path: {int(few.sum())} of {len(self)} chips are so small (the first "
                f"{self.source.sizes[few][0].tolist()} pixels) that a masked region can hold fewer "
                f"than 2 of their tokens; choose a smaller data.patch or data.size, or "
                f"data.fit = 'resize'"
            )

    @property
    def _sees_neighbours(self) -> bool:
        """Whether a token's numbers depend on pixels of other tokens."""
        return bool(self.tokenizer.maps) or self.tokenizer.transform == "log"

    def _blanked(self, chips: Tensor, masks: Masks, whole: Tokens) -> Tokens:
        """The same chips when only the context is known: maps and mean see no hidden pixel."""
        shown = torch.zeros(len(chips), self.geometry.num_tokens, dtype=torch.bool)
        shown = shown.to(chips.device).scatter_(1, masks.context[:, 0], True)
        chips = blank(chips, shown, self.config.data.patch)
        maps = self.tokenizer.gradients(chips, True) if self.tokenizer.maps else None
        return Tokens(self.tokenizer.tokens(chips, maps).values, whole.positions, whole.valid)

    def _keep(self, seen: list[Tensor | None], draw: Draw, device: torch.device) -> Tensor | None:
        """Random token numbers of each view, long, (views, batch, keep); never padding.

        A chip with fewer real tokens shows some of them twice.
        """
        tokens = self.geometry.num_tokens
        count = max(round(self.config.view_keep * tokens), 1)
        if not seen or (count == tokens and not self.source.padded):
            return None
        score = draw.uniform(len(seen), tokens).transpose(0, 1)
        if any(part is not None for part in seen):
            real = torch.stack([part for part in seen if part is not None])
            score = score.masked_fill(~real, -1.0)
            order = score.argsort(-1, descending=True)
            place = torch.arange(count) % real.sum(-1, keepdim=True)
            return order.gather(-1, place).to(device)
        return score.topk(count, dim=-1).indices.sort(-1).values.to(device)

    def monitor(self) -> tuple[Tokens, Tensor | None]:
        """Up to 600 labelled chips held out for choices (or of the pool), with their labels."""
        if not self.config.evaluate.enabled:
            images, labels = self.source.sample(600), None
        else:
            train = self.source.labelled("train")
            kept, held = self.source.held_out()
            rows = (held if len(held) >= 50 else kept)[:: max(1, len(held) // 600)][:600]
            images, labels = train.images[rows], train.labels[rows]
        tokens: Tokens = self.tokenizer(images.to(self.tokenizer.device))
        return tokens, labels

    def evaluate(self, encoders: dict[str, list[nn.Module]], run: Path) -> dict[str, float]:
        """Score the encoders beside their controls."""
        from jepa_modalities.adapters.sar.evaluator import evaluate

        self.metrics = evaluate(self, encoders, run)
        return self.metrics

    def pictures(self, encoders: dict[str, list[nn.Module]]) -> dict[str, Any]:
        """Chips and gradients, masks, predictions, confusion matrix, few-shot curve."""
        from jepa_modalities.adapters.sar.picture import pictures

        return pictures(self, encoders)


def _check(config: SarConfig) -> None:
    """Choices that exclude each other, before data are read."""
    if config.views not in (0, 2):
        raise ValueError(f"views = {config.views}: two-view terms need 2, others 0")
    if not 0 < config.view_keep <= 1:
        raise ValueError(f"view_keep = {config.view_keep}: give a share above 0, up to 1")
    if config.mask.kind == "window" and config.data.maps:
        raise ValueError(
            f"data.maps = {config.data.maps} would show the encoder hidden pixels beside visible "
            f"ones in every window; set data.maps to () or mask.kind to 'random', whose context is "
            f"made from visible pixels only"
        )
    if config.encoder.stem != "linear":
        raise ValueError("encoder.stem: SAR knows 'linear' only")
    for name in ("augment", "view_augment"):
        shift = getattr(config, name).shift
        if not 0 <= shift <= config.data.margin:
            raise ValueError(
                f"{name}.shift = {shift}: give 0 to data.margin = {config.data.margin}, the pixels "
                f"that are kept around the chip's middle"
            )


def _check_padding(config: SarConfig) -> None:
    """What does not go together with padded chips."""
    if config.mask.kind == "block":
        raise ValueError(
            "mask.kind = 'block' needs complete chips, but some are smaller than data.size with "
            "its margin and padded; use 'window' or 'random', or data.fit = 'resize'"
        )
    for name in ("augment", "view_augment"):
        if getattr(config, name).crop != (1.0, 1.0):
            raise ValueError(
                f"{name}.crop resizes, but some chips are padded; set data.fit to 'resize' or "
                f"{name}.crop to (1, 1)"
            )
