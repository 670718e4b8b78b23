"""Masks as index tensors, and samplers that draw them for a whole batch at once."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Masks:
    """Which tokens are context and which are predicted.

    Block b is predicted from context group b when groups == blocks, from the only group when
    groups == 1.

    Attributes:
        context: token numbers, long, (batch, groups, keep).
        targets: token numbers, long, (batch, blocks, targets).
        hidden: True where a context position is shown as a mask token, bool, like `context`. The
            hidden positions of a group are its last ones, and the targets of its block in order.
        context_valid: False where `context` is filled up to the longest, bool, like `context`.
    """

    context: Tensor
    targets: Tensor
    hidden: Tensor | None = None
    context_valid: Tensor | None = None

    def _map(self, change: Any) -> Masks:
        parts: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: change(part) for k, part in parts.items() if part is not None})

    def rows(self, start: int, stop: int) -> Masks:
        """The masks of samples start..stop-1: one process's slice of the global batch."""
        return self._map(lambda part: part[start:stop])

    def to(self, device: torch.device | str) -> Masks:
        """The same masks on `device`."""
        return self._map(lambda part: part.to(device, non_blocking=True))


class Masker(Protocol):
    """A pure function of its arguments: same generator state, same masks."""

    def __call__(
        self, batch_size: int, generator: Generator, valid: Tensor | None = None
    ) -> Masks: ...


def gather(values: Tensor, index: Tensor) -> Tensor:
    """Pick tokens per sample.

    Args:
        values: (batch, tokens, ...).
        index: token numbers, long, (batch, groups, keep).

    Returns:
        (batch, groups, keep, ...). No index of the values' width is ever made.
    """
    batch, tokens = values.shape[:2]
    first = torch.arange(batch, device=index.device).mul_(tokens).view(-1, 1, 1)
    return values.flatten(0, 1).index_select(0, (index + first).flatten()).unflatten(0, index.shape)


def random_subset(available: Tensor, keep: int, generator: Generator) -> Tensor:
    """`keep` random True positions of each row, in ascending order.

    Args:
        available: bool, (..., tokens), with at least `keep` True in every row.
        keep: how many.
        generator: the only source of randomness.

    Returns:
        Token numbers, long, (..., keep).
    """
    score = torch.rand(available.shape, generator=generator).masked_fill_(~available, -1.0)
    return score.topk(keep, dim=-1).indices.sort(dim=-1).values


def trim(available: Tensor, generator: Generator) -> Tensor:
    """Equal lengths by dropping a RANDOM part of each row down to the shortest row's length.

    Cutting the tail instead, as the published code does, removes the bottom rows of the image
    (upstream issue 60).
    """
    return random_subset(available, int(available.sum(-1).min()), generator)


def pad(available: Tensor) -> tuple[Tensor, Tensor]:
    """All True positions of each row, filled up to the longest row: (index, valid)."""
    count = available.sum(-1, keepdim=True)
    index = available.byte().argsort(dim=-1, descending=True, stable=True)[..., : int(count.max())]
    valid = torch.arange(index.shape[-1]) < count
    return torch.where(valid, index, index[..., :1]), valid


class RandomMasker:
    """A random part of the tokens is context, the rest is predicted as one block.

    Args:
        num_tokens: tokens per sample.
        keep: share of visible tokens, drawn once per batch between the two (I-JEPA's "random"
            baseline: 0.4 to 0.6); equal bounds make it constant.

    Raises:
        ValueError: no token would be visible, or none hidden.
    """

    def __init__(self, num_tokens: int, keep: tuple[float, float] = (0.4, 0.6)) -> None:
        counts = [round(share * num_tokens) for share in keep]
        if not (0 < counts[0] <= counts[1] < num_tokens):
            raise ValueError(
                f"mask.keep = {keep} of {num_tokens} tokens leaves {counts[0]} to {counts[1]} "
                f"visible; give two ascending shares that leave at least one token visible and one "
                f"hidden"
            )
        self.num_tokens, self.keep = num_tokens, keep

    def __call__(self, batch_size: int, generator: Generator, valid: Tensor | None = None) -> Masks:
        low, high = self.keep
        share = low + (high - low) * float(torch.rand((), generator=generator))
        score = torch.rand(batch_size, self.num_tokens, generator=generator)
        total = self.num_tokens
        if valid is not None:  # padding is neither context nor target
            score = score.masked_fill(~valid.cpu(), 2.0)
            total = int(valid.sum(-1).min())
        count = min(max(round(share * total), 1), total - 1)
        order = score.argsort(dim=-1)
        context = order[:, :count].sort(dim=-1).values
        targets = order[:, count:total].sort(dim=-1).values
        return Masks(context[:, None], targets[:, None])


class BlockMasker:
    """I-JEPA's multi-block masks (section 3, "multi-block masking"), drawn for the batch at once.

    Block sizes are drawn once per batch, positions per sample; targets may overlap each other; the
    context is a block minus all targets. Every patch can be context and target.

    Args:
        grid: patches (rows, columns); a sequence is one row, its blocks are spans of any length.
        num_targets: target blocks per sample.
        target_scale: share of the grid that a target covers, low and high.
        target_aspect: height over width of a target in patches, low and high.
        context_scale: the same for the context block.
        context_aspect: height over width of the context, relative to the grid's own.
        min_keep: every sample's context has at least so many patches.
        lengths: "trim" drops a random subset down to the batch's shortest context; "pad" keeps
            every patch and marks the filled positions in `Masks.context_valid`.
        reference: reproduce the published sampler's statistics with its defects (one draw for scale
            and aspect, last row and column never used, tail cut off, min_keep on targets too): for
            comparisons only.

    Raises:
        ValueError: a target larger than the grid, or a `min_keep` that no placement can reach.
    """

    max_tries = 20

    def __init__(
        self,
        grid: tuple[int, int],
        num_targets: int = 4,
        target_scale: tuple[float, float] = (0.15, 0.2),
        target_aspect: tuple[float, float] = (0.75, 1.5),
        context_scale: tuple[float, float] = (0.85, 1.0),
        context_aspect: tuple[float, float] = (1.0, 1.0),
        min_keep: int = 4,
        lengths: str = "trim",
        reference: bool = False,
    ) -> None:
        if lengths not in ("trim", "pad"):
            raise ValueError(f"mask.lengths = {lengths!r} is not known; choose 'trim' or 'pad'")
        self.grid, self.num_targets, self.min_keep = grid, num_targets, min_keep
        self.target_scale, self.target_aspect = target_scale, target_aspect
        self.context_scale, self.context_aspect = context_scale, context_aspect
        self.lengths, self.reference = lengths, reference
        self._validate()

    def _validate(self) -> None:
        rows, columns = self.grid
        if self.reference and rows == 1:
            raise ValueError("mask.reference is the published sampler for images: no sequences")
        for name in ("target_scale", "target_aspect", "context_scale", "context_aspect"):
            low, high = getattr(self, name)
            if not 0 < low <= high or (name.endswith("scale") and high > 1):
                raise ValueError(
                    f"mask.{name} = {(low, high)}: give 0 < low <= high"
                    + " <= 1" * ("scale" in name)
                )
        for name in ("num_targets", "min_keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"mask.{name} = {getattr(self, name)}: give at least 1")
        sizes = [
            size
            for scale in self.target_scale
            for size in self._sizes(scale, self.target_aspect, clip=False)
        ]
        for height, width in sizes:
            if height > rows or width > columns:
                raise ValueError(
                    f"mask.target_scale = {self.target_scale} with mask.target_aspect = "
                    f"{self.target_aspect} makes a target of {height} x {width} patches, larger "
                    f"than the grid {rows} x {columns}; lower the scale or narrow the aspect"
                )
            if self.reference and height * width <= self.min_keep:
                raise ValueError(
                    f"mask.reference keeps only targets of more than min_keep = {self.min_keep} "
                    f"patches, but a target can be {height} x {width} on this {rows} x {columns} "
                    f"grid (the published code would loop for ever); lower mask.min_keep"
                )
            if min(height, width) < 1:
                raise ValueError(
                    f"mask.target_scale = {self.target_scale} gives an empty target on a "
                    f"{rows} x {columns} grid; raise the scale or use a smaller patch"
                )
        for tall, wide in self._sizes(self.context_scale[0], self._context_aspect()):
            worst = min(
                tall * wide - max(0, tall + h - rows) * max(0, wide + w - columns) for h, w in sizes
            )
            if worst < self.min_keep:
                raise ValueError(
                    f"mask.min_keep = {self.min_keep} can never be reached: a context of {tall} x "
                    f"{wide} patches on a {rows} x {columns} grid keeps at most {worst} beside its "
                    f"targets; lower mask.min_keep or raise mask.context_scale"
                )

    def _size(self, scale: float, aspect: float, clip: bool = True) -> tuple[int, int]:
        rows, columns = self.grid
        area = int(rows * columns * scale)
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if rows == 1:  # a sequence: blocks are spans, which have no aspect
            height, width = 1, area
        if self.reference:  # the published loop stops below the full extent
            return min(height, rows - 1), min(width, columns - 1)
        return (min(height, rows), min(width, columns)) if clip else (height, width)

    def _sizes(
        self, scale: float, aspect: tuple[float, float], clip: bool = True
    ) -> set[tuple[int, int]]:
        """Every size that a scale makes as the aspect runs over its range."""
        (rows, columns), (low, high) = self.grid, aspect
        area = max(int(rows * columns * scale), 1)
        # Height and width are rounded, so they change at these aspects only.
        edges = [(k + 0.5) ** 2 / area for k in range(rows + 1)]
        edges += [area / (k + 0.5) ** 2 for k in range(columns + 1)]
        edges = sorted([low, *(edge for edge in edges if low < edge < high), high])
        middles = [(left + right) / 2 for left, right in itertools.pairwise(edges)]
        return {self._size(scale, ratio, clip) for ratio in (low, *middles, high)}

    def _context_aspect(self) -> tuple[float, float]:
        """Height over width of the context in patches, low and high."""
        rows, columns = self.grid
        factor = 1.0 if self.reference else rows / columns
        return self.context_aspect[0] * factor, self.context_aspect[1] * factor

    def _draw(
        self, scale: tuple[float, float], aspect: tuple[float, float], generator: Generator
    ) -> tuple[float, float]:
        first, second = torch.rand(2, generator=generator).tolist()
        if self.reference:
            second = first
        return (
            scale[0] + first * (scale[1] - scale[0]),
            aspect[0] + second * (aspect[1] - aspect[0]),
        )

    def __call__(self, batch_size: int, generator: Generator, valid: Tensor | None = None) -> Masks:
        """Masks for `batch_size` samples on the CPU; `valid` is not supported on image grids."""
        if valid is not None:
            raise ValueError("BlockMasker needs complete grids; use the random masker with padding")
        target = self._size(*self._draw(self.target_scale, self.target_aspect, generator))
        context = self._size(*self._draw(self.context_scale, self._context_aspect(), generator))
        corner = self._corners(batch_size, self.num_targets, target, generator)
        if self.reference:
            return self._reference(corner, target, context, generator)
        visible = self._visible(corner, target, context, generator)
        for _ in range(self.max_tries):
            few = (visible.sum(-1) < self.min_keep).nonzero().squeeze(-1)
            if not len(few):
                break
            corner[few] = self._corners(len(few), self.num_targets, target, generator)
            visible[few] = self._visible(corner[few], target, context, generator)
        else:
            few = (visible.sum(-1) < self.min_keep).nonzero().squeeze(-1)
            # The placement that the constructor found sufficient: targets in the last corner.
            corner[few] = torch.tensor([n - m for n, m in zip(self.grid, target, strict=True)])
            start = torch.zeros(len(few), 1, 2, dtype=torch.long)
            visible[few] = (
                self._inside(start, context)
                & ~self._inside(corner[few], target).any(1, keepdim=True)
            ).squeeze(1)
        targets = self._index(corner, target)
        if self.lengths == "pad":
            index, present = pad(visible)
            return Masks(index[:, None], targets, context_valid=present[:, None])
        return Masks(trim(visible, generator)[:, None], targets)

    def _corners(
        self, batch: int, blocks: int, size: tuple[int, int], generator: Generator
    ) -> Tensor:
        """Top-left corners, long, (batch, blocks, 2)."""
        room = [n - m + (0 if self.reference else 1) for n, m in zip(self.grid, size, strict=True)]
        drawn = [torch.randint(0, n, (batch, blocks), generator=generator) for n in room]
        return torch.stack(drawn, dim=-1)

    def _inside(self, corner: Tensor, size: tuple[int, int]) -> Tensor:
        """Bool map of each block, (batch, blocks, tokens)."""
        spans = []
        for axis, (extent, length) in enumerate(zip(self.grid, size, strict=True)):
            offset = torch.arange(extent) - corner[..., axis, None]
            spans.append((offset >= 0) & (offset < length))
        return (spans[0][..., :, None] & spans[1][..., None, :]).flatten(-2)

    def _index(self, corner: Tensor, size: tuple[int, int]) -> Tensor:
        """Token numbers of each block in raster order, long, (batch, blocks, height * width)."""
        columns = self.grid[1]
        offset = torch.arange(size[0])[:, None] * columns + torch.arange(size[1])
        return (corner[..., 0] * columns + corner[..., 1])[..., None] + offset.flatten()

    def _visible(
        self,
        corner: Tensor,
        target: tuple[int, int],
        context: tuple[int, int],
        generator: Generator,
    ) -> Tensor:
        """Bool map of a freshly placed context minus all targets, (batch, tokens)."""
        place = self._corners(len(corner), 1, context, generator)
        return self._inside(place, context)[:, 0] & ~self._inside(corner, target).any(1)

    def _reference(
        self,
        corner: Tensor,
        target: tuple[int, int],
        context: tuple[int, int],
        generator: Generator,
    ) -> Masks:
        """The published sampler: retries, constraints given up one by one, tails cut (spec 1.3)."""
        forbidden = self._inside(corner, target)
        visible = torch.zeros(forbidden.shape[0], forbidden.shape[-1], dtype=torch.bool)
        todo = torch.arange(len(visible))
        for attempt in range(20 * self.num_targets + 1):
            used = forbidden[todo, : self.num_targets - attempt // 20].any(1)
            place = self._corners(len(todo), 1, context, generator)
            visible[todo] = self._inside(place, context)[:, 0] & ~used
            todo = todo[visible[todo].sum(-1) <= self.min_keep]
            if not len(todo):
                break
        shortest = int(visible.sum(-1).min())
        order = visible.byte().argsort(dim=-1, descending=True, stable=True)
        return Masks(order[:, None, :shortest], self._index(corner, target))
