"""Masks in time: ECG-JEPA's interval sampler, blocks of equal length, and their ring variants."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from jepa_modalities.core.masking import Masks


class IntervalMasker:
    """Hide intervals of random length until a random share of the time is left (ECG-JEPA).

    Weimann & Conrad (2024), masking as released: an interval is picked with probability
    proportional to its length, a block of uniform length between `min_block` and what remains to be
    hidden is placed inside it; a last piece shorter than `min_block` is glued to a block, so no
    lone one arises. Drawn for the whole batch at once. All hidden tokens are targets.

    Args:
        steps: tokens along time.
        min_block: least length of a hidden block, tokens (0.5 s = 10 tokens of 50 ms).
        keep: share of visible tokens, drawn once per batch between the two.
        ring: turn each mask by a random offset. Without it both ends of a record are visible in
            78 % of the masks and its centre in 10 %.
        channels: rows of tokens (leads) that share the time mask; token = channel * steps + time.
        target_share: share of the hidden tokens that are predicted, a random subset.

    Raises:
        ValueError: numbers that leave nothing visible or nothing hidden.
    """

    def __init__(
        self,
        steps: int,
        min_block: int = 10,
        keep: tuple[float, float] = (0.15, 0.25),
        ring: bool = False,
        channels: int = 1,
        target_share: float = 1.0,
    ) -> None:
        check(steps, keep, target_share)
        if not 1 <= min_block <= steps:
            raise ValueError(
                f"mask.min_block makes {min_block} tokens of {steps}; give a time of at least one "
                f"token and at most data.crop"
            )
        self.steps, self.min_block, self.keep, self.ring = steps, min_block, keep, ring
        self.channels, self.target_share = channels, target_share

    def __call__(self, batch_size: int, generator: Generator, valid: Tensor | None = None) -> Masks:
        """Masks for `batch_size` records, each its own; padding is not supported."""
        refuse_padding(valid)
        keep = drawn_keep(self.steps, self.keep, generator)
        hidden = intervals(batch_size, self.steps, keep, self.min_block, generator)
        if self.ring:
            hidden = turned(hidden, generator)
        return masks_of(hidden, self.channels, self.target_share, generator)


class BlockTimeMasker:
    """Time cut into blocks of equal length; a random part of the blocks is visible.

    Short alternating pieces instead of few long gaps: the setting with which prediction of fixed
    kernel responses worked on small data. The grid of blocks starts at a random offset on a ring,
    so every token is visible equally often. All hidden tokens are targets.

    Args:
        steps: tokens along time.
        block: length of a block, tokens.
        keep, channels, target_share: see `IntervalMasker`.

    Raises:
        ValueError: numbers that leave nothing visible or nothing hidden.
    """

    def __init__(
        self,
        steps: int,
        block: int,
        keep: tuple[float, float] = (0.4, 0.4),
        channels: int = 1,
        target_share: float = 1.0,
    ) -> None:
        check(steps, keep, target_share)
        if not 1 <= block <= steps // 2:
            raise ValueError(
                f"mask.min_block makes {block} tokens of {steps}; blocks need at least one token "
                f"and at most half of data.crop"
            )
        self.steps, self.block, self.keep = steps, block, keep
        self.channels, self.target_share = channels, target_share

    def __call__(self, batch_size: int, generator: Generator, valid: Tensor | None = None) -> Masks:
        """Masks for `batch_size` records, each its own; padding is not supported."""
        refuse_padding(valid)
        keep = drawn_keep(self.steps, self.keep, generator)
        blocks = math.ceil(self.steps / self.block)
        rank = torch.rand(batch_size, blocks, generator=generator).argsort(1).argsort(1)
        # Whole blocks in random order; the one that crosses the limit is cut.
        place = rank.repeat_interleave(self.block, 1)[:, : self.steps] * self.steps
        order = (place + torch.arange(self.steps)).argsort(1)
        hidden = torch.ones(batch_size, self.steps, dtype=torch.bool)
        hidden.scatter_(1, order[:, :keep], False)
        return masks_of(turned(hidden, generator), self.channels, self.target_share, generator)


def check(steps: int, keep: tuple[float, float], target_share: float) -> None:
    """Raise ValueError unless something stays visible and something is hidden and predicted."""
    low, high = (math.ceil(share * steps) for share in keep)
    if not 0 < low <= high < steps:
        raise ValueError(
            f"mask.keep = {keep} of {steps} tokens along time leaves {low} to {high} visible; give "
            f"two ascending shares that leave at least one token visible and one hidden"
        )
    if not 0 < target_share <= 1:
        raise ValueError(f"mask.target_share = {target_share}: give a share above 0, up to 1")


def refuse_padding(valid: Tensor | None) -> None:
    """Raise ValueError: training crops have no padding, so a masker never sees any."""
    if valid is not None:
        raise ValueError("the ECG maskers need whole crops; use mask.kind = 'random' with padding")


def drawn_keep(steps: int, keep: tuple[float, float], generator: Generator) -> int:
    """Visible tokens along time of this batch: one draw, so that the masks can be stacked."""
    low, high = keep
    return math.ceil((low + (high - low) * float(torch.rand((), generator=generator))) * steps)


def intervals(
    batch_size: int, steps: int, keep: int, min_block: int, generator: Generator
) -> Tensor:
    """The interval sampler for the batch: hidden tokens, bool, (batch, steps).

    Picking an interval with probability proportional to its length is picking a visible token, so
    no lists of intervals are kept. Every sample hides exactly steps - keep tokens.

    Args:
        batch_size: samples.
        steps: tokens along time.
        keep: visible tokens of every sample.
        min_block: least length of a block.
        generator: the only source of randomness.
    """
    hidden = torch.zeros(batch_size, steps, dtype=torch.bool)
    place = torch.arange(steps)
    while bool((rest := steps - keep - hidden.sum(1)).any()):
        score = torch.rand(batch_size, steps, generator=generator).masked_fill_(hidden, -1.0)
        start, end = run_around(hidden, score.argmax(1))
        first, second = torch.rand(2, batch_size, generator=generator)
        span = (rest - min_block + 1).clamp(min=1)
        long = rest >= min_block
        block = torch.where(long, min_block + (first * span).long(), rest)
        length = end - start
        begin = start + (second * (length - block + 1).clamp(min=1)).long()
        # What is left over is glued to the block that its interval touches.
        touches = torch.stack([start > 0, end < steps], 1)
        right = torch.where(touches.all(1), second < 0.5, touches[:, 1])
        glued = torch.where(right, end - block, start)
        begin = torch.where(long | ~touches.any(1), begin, glued)
        whole = length <= block
        begin, block = torch.where(whole, start, begin), torch.where(whole, length, block)
        block = torch.where(rest > 0, block, 0)
        inside = place >= begin[:, None]
        hidden |= inside & (place < (begin + block)[:, None])
    return hidden


def run_around(hidden: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
    """First token and end of the visible run that holds `token`; long, (batch,) each."""
    place, steps = torch.arange(hidden.shape[1]), hidden.shape[1]
    before = torch.where(hidden & (place < token[:, None]), place, -1).amax(1)
    after = torch.where(hidden & (place > token[:, None]), place, steps).amin(1)
    return before + 1, after


def turned(hidden: Tensor, generator: Generator) -> Tensor:
    """Each row turned on a ring by its own random offset."""
    steps = hidden.shape[1]
    offset = torch.randint(0, steps, (len(hidden), 1), generator=generator)
    return hidden.gather(1, (torch.arange(steps) + offset) % steps)


def masks_of(hidden: Tensor, channels: int, target_share: float, generator: Generator) -> Masks:
    """Index masks from equally many hidden tokens per row, repeated over the channels.

    Args:
        hidden: bool, (batch, steps).
        channels: rows of tokens that share the mask.
        target_share: share of the hidden tokens that are targets.
        generator: of the random subset.
    """
    steps = hidden.shape[1]
    order = hidden.byte().argsort(dim=1, stable=True)
    keep = int((~hidden[0]).sum())
    context, targets = order[:, :keep], order[:, keep:]
    if target_share < 1:
        count = max(round(target_share * targets.shape[1]), 1)
        score = torch.rand(targets.shape, generator=generator)
        targets = targets.gather(1, score.topk(count, 1).indices.sort(1).values)
    row = torch.arange(channels)[:, None] * steps
    context, targets = ((part[:, None] + row).flatten(1) for part in (context, targets))
    return Masks(context[:, None], targets[:, None])
