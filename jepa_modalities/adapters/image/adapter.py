"""The image adapter: opens images, makes batches on the device, names targets and scores."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jepa_modalities.adapters.base import Plan, build_masker
from jepa_modalities.adapters.crop import crop_boxes
from jepa_modalities.adapters.image.augment import apply_warp, colour, draw_warp, moves
from jepa_modalities.adapters.image.config import AugmentConfig, ImageConfig
from jepa_modalities.adapters.image.model import embedding, geometry
from jepa_modalities.adapters.image.source import ImageSource
from jepa_modalities.adapters.image.target import fixed_target
from jepa_modalities.adapters.image.tokenizer import ImageTokenizer
from jepa_modalities.core.batch import Batch, Tokens
from jepa_modalities.core.draw import Draw
from jepa_modalities.core.masking import Masker, Masks
from jepa_modalities.core.registry import adapters
from jepa_modalities.data.loader import loader


@adapters.register("image")
class ImageAdapter:
    """Images for JEPA (see `adapters.base.Adapter`).

    Args:
        config: of the run.
        folder: run folder, where a fitted dictionary and the statistics of images that stay on disk
            are kept for resuming; None for nowhere.
        target: a fixed target and its width from another run's `target()`, for runs that share one.

    Raises:
        ValueError: data or choices that cannot work, before anything is trained.
    """

    def __init__(
        self,
        config: ImageConfig,
        folder: Path | None = None,
        target: tuple[nn.Module, int] | None = None,
    ) -> None:
        self.config, self.folder = config, folder
        if config.views not in (0, 2):
            raise ValueError(f"views = {config.views}: two-view terms need 2, others 0")
        if not 0 < config.view_keep <= 1:
            raise ValueError(f"view_keep = {config.view_keep}: give a share above 0, up to 1")
        if config.encoder.stem == "conv" and config.mask.kind != "none":
            raise ValueError(
                "encoder.stem = 'conv' lets hidden patches leak into visible ones; use 'linear' "
                "with masked prediction"
            )
        self.geometry = geometry(config)
        build_masker(config, self.geometry)  # impossible masks are told before data are read
        self.source = ImageSource(config.data)
        self.tokenizer = ImageTokenizer(config.data.patch, *self.source.statistics(folder))
        self._target = target
        if config.evaluate.enabled:
            from jepa_modalities.adapters.image.evaluator import check

            check(self)

    def __len__(self) -> int:
        return len(self.source)

    def embedding(self) -> nn.Module:
        """Linear on patches, or the convolutional stem."""
        return embedding(self.config)

    @property
    def caches(self) -> bool:
        """Whether the fixed target is read from a table instead of computed per batch."""
        target, resident = self.config.target, self.source.images is not None
        return resident and target.kind != "ema" and target.cache and not moves(self.config.augment)

    def target(self) -> tuple[nn.Module, int] | None:
        """The fixed target that `target.kind` names, or None."""
        if self.config.target.kind == "ema":
            return None
        if self._target is None:
            self._target = fixed_target(self.config, self.source, self.caches, self.folder)
        return self._target

    def feed(
        self, plan: Plan, masker: Masker | None, device: torch.device
    ) -> Iterator[tuple[Batch, Masks | None]]:
        """Batches and masks on `device`; images that are not in memory are decoded by workers."""
        self.tokenizer.to(device)
        if self.source.images is not None:
            images = self.source.on_device(device)
            for ids, draw in plan:
                masks = None if masker is None else draw.masks(masker).to(device)
                yield self._resident(images[ids.to(images.device)], ids, draw), masks
            return
        yield from self._streamed(plan, masker, device)

    def _streamed(
        self, plan: Plan, masker: Masker | None, device: torch.device
    ) -> Iterator[tuple[Batch, Masks | None]]:
        config = self.config
        waiting: deque[tuple[Tensor, Draw, Masks | None]] = deque()
        crops = [config.augment] * (config.mask.kind != "none")
        crops += [config.view_augment] * config.views

        def requests() -> Iterator[tuple[Tensor, Tensor]]:
            for ids, draw in plan:
                masks = None if masker is None else draw.masks(masker)
                boxes = torch.cat([crop_boxes(draw, c.crop, c.ratio) for c in crops])
                waiting.append((ids, draw, masks))
                yield ids.repeat(len(crops)), boxes

        size, workers = config.data.size, config.train.workers
        for images, _, _ in loader(self.source.streamed, requests(), size, workers):
            ids, draw, masks = waiting.popleft()
            parts = images.to(device, non_blocking=True).float().split(len(ids))
            # The worker has cropped; whatever else moves the image is the same as in memory.
            rest = [draw_warp(replace(c, crop=(1.0, 1.0)), draw) for c in crops]
            moved = [
                apply_warp(p, w, size, c.border) for p, w, c in zip(parts, rest, crops, strict=True)
            ]
            yield self._batch(moved, ids, draw), None if masks is None else masks.to(device)

    def _resident(self, images: Tensor, ids: Tensor, draw: Draw) -> Batch:
        config, images = self.config, images.float()
        size = config.data.size
        moved, flip = [], None
        if config.mask.kind != "none":
            warp = draw_warp(config.augment, draw)
            flip = warp.flip
            moved.append(apply_warp(images, warp, size, config.augment.border))
        for _ in range(config.views):
            warp = draw_warp(config.view_augment, draw)
            moved.append(apply_warp(images, warp, size, config.view_augment.border))
        return self._batch(moved, ids, draw, flip)

    def _batch(
        self, moved: list[Tensor], ids: Tensor, draw: Draw, flip: Tensor | None = None
    ) -> Batch:
        """Colour, tokens and views from images whose geometry is settled."""
        config = self.config
        raw, sample = None, None
        if config.mask.kind != "none":
            clean, *moved = moved
            if config.target.kind != "ema":
                mirrored = torch.zeros_like(ids) if flip is None else flip.long()
                raw = (2 * ids + mirrored).to(clean.device) if self.caches else clean
            sample = self._tokens(clean, config.augment, draw)
        views = tuple(self._tokens(view, config.view_augment, draw) for view in moved)
        keep = None
        count = max(round(config.view_keep * self.geometry.num_tokens), 1)
        if views and count < self.geometry.num_tokens:
            score = draw.uniform(len(views), self.geometry.num_tokens)
            keep = score.topk(count, dim=-1).indices.sort(-1).values.transpose(0, 1)
            keep = keep.to(views[0].values.device)
        first = sample if sample is not None else views[0]
        return Batch(first, first, views, keep, raw, ids=ids)

    def _tokens(self, images: Tensor, augment: AugmentConfig, draw: Draw) -> Tokens:
        tokens: Tokens = self.tokenizer(colour(images, augment, draw))
        return tokens

    def monitor(self) -> tuple[Tokens, Tensor | None]:
        """Up to 1,000 images held out of pretraining (or its first ones), with labels if known."""
        images, labels = self.source.monitor(1000)
        device = self.tokenizer.mean.device
        tokens: Tokens = self.tokenizer(images.to(device))
        return tokens, labels

    def evaluate(self, encoders: dict[str, list[nn.Module]], run: Path) -> dict[str, float]:
        """Score the encoders beside raw pixels and the patch dictionary."""
        from jepa_modalities.adapters.image.evaluator import evaluate

        return evaluate(self, encoders, run)

    def pictures(self, encoders: dict[str, list[nn.Module]]) -> dict[str, Any]:
        """Masks, PCA colours, attention and neighbours for the report."""
        from jepa_modalities.adapters.image.evaluator import pictures

        return pictures(self, encoders)
