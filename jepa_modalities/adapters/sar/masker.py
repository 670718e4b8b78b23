"""Maskers that know padding: local windows with shown mask tokens (SAR-JEPA), and random tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from jepa_modalities.core.masking import Masks, RandomMasker


class LocalWindowMasker:
    """Each group sees one window of the grid, most of it as mask tokens (SAR-JEPA, LoMaR).

    The corners' rows and columns are drawn without replacement, so the windows of a step differ in
    both. Every image gets each window once: (batch, windows, ...), never window-major rows beside
    image-major ones.

    Args:
        grid: tokens (rows, columns).
        window: tokens (rows, columns); None for half of the grid per side.
        num_windows: windows per image.
        ratio: share of a window that is hidden, rounded down.
        shared: the same windows for the whole batch (the published code), or each image its own.

    Raises:
        ValueError: windows that do not fit, or hide nothing or everything.
    """

    shows_hidden = True

    def __init__(
        self,
        grid: tuple[int, int],
        window: tuple[int, int] | None = None,
        num_windows: int = 4,
        ratio: float = 0.8,
        shared: bool = True,
    ) -> None:
        self.grid, self.num_windows, self.ratio, self.shared = grid, num_windows, ratio, shared
        self.window = window or (max(grid[0] // 2, 1), max(grid[1] // 2, 1))
        self.places = tuple(n - m + 1 for n, m in zip(grid, self.window, strict=True))
        if min(self.window) < 1 or min(self.places) < 1:
            raise ValueError(f"mask.window = {self.window} does not fit on a grid of {grid} tokens")
        if not 1 <= num_windows <= min(self.places):
            raise ValueError(
                f"mask.num_windows = {num_windows}: a window of {self.window} tokens has "
                f"{self.places[0]} rows and {self.places[1]} columns to stand on in a grid of "
                f"{grid}; give 1 to {min(self.places)}, or a smaller window"
            )
        self.size = self.window[0] * self.window[1]
        self.num_hidden = int(self.size * ratio)
        if not 0 < self.num_hidden < self.size:
            raise ValueError(
                f"mask.ratio = {ratio} hides {self.num_hidden} of the {self.size} tokens of a "
                f"window; at least one must be hidden and one visible"
            )

    def __call__(self, batch_size: int, generator: Generator, valid: Tensor | None = None) -> Masks:
        """Masks on the CPU.

        Args:
            batch_size: images.
            generator: the only source of randomness.
            valid: False where a token is padding, bool, (batch, tokens). Padding is neither
                visible nor a target: its places repeat real tokens, as context with
                `context_valid` False.

        Returns:
            context (batch, windows, window): visible tokens first, then the hidden ones; targets
            (batch, windows, hidden) are these.

        Raises:
            ValueError: a window with fewer than two real tokens.
        """
        index = self._windows(batch_size, generator)
        score = torch.rand(index.shape, generator=generator)
        num_visible = self.size - self.num_hidden
        if valid is None:
            order, real = score.argsort(-1), None
        else:
            inside = valid.cpu().gather(1, index.flatten(1)).view_as(index)
            order, real = place_real(score, inside, self.ratio, num_visible)
        hidden = torch.zeros(index.shape, dtype=torch.bool)
        hidden[..., num_visible:] = True
        context = index.gather(-1, order)
        return Masks(context, context[..., num_visible:].contiguous(), hidden, real)

    def fewest(self, valid: Tensor) -> Tensor:
        """Least number of real tokens in any window that could be drawn, long, (batch,).

        Args:
            valid: False where a token is padding, bool, (batch, tokens).
        """
        grid = valid.view(-1, 1, *self.grid).float()
        counts = F.avg_pool2d(grid, self.window, stride=1) * self.size
        return counts.flatten(1).amin(1).round().long()

    def _windows(self, batch_size: int, generator: Generator) -> Tensor:
        """Token numbers of each window in raster order, long, (batch, windows, window)."""
        rows = 1 if self.shared else batch_size
        top, left = (
            torch.rand(rows, places, generator=generator).argsort(-1)[:, : self.num_windows]
            for places in self.places
        )
        height, width = self.window
        inside = torch.arange(height)[:, None] * self.grid[1] + torch.arange(width)
        index = (top * self.grid[1] + left)[..., None] + inside.flatten()
        return index.expand(batch_size, -1, -1)


class RealTokenMasker:
    """`RandomMasker` whose numbers of tokens do not shrink where some chips have padding.

    Args:
        num_tokens: tokens per chip.
        keep: see `RandomMasker`.
    """

    def __init__(self, num_tokens: int, keep: tuple[float, float] = (0.4, 0.6)) -> None:
        self._plain = RandomMasker(num_tokens, keep)
        self.num_tokens, self.keep = num_tokens, keep

    def fewest(self, valid: Tensor) -> Tensor:
        """Number of real tokens, long, (batch,)."""
        return valid.sum(-1)

    def __call__(self, batch_size: int, generator: Generator, valid: Tensor | None = None) -> Masks:
        """Masks on the CPU; padding as in `LocalWindowMasker`.

        Raises:
            ValueError: a chip with fewer than two real tokens.
        """
        if valid is None:
            return self._plain(batch_size, generator)
        low, high = self.keep
        share = low + (high - low) * float(torch.rand((), generator=generator))
        score = torch.rand(batch_size, 1, self.num_tokens, generator=generator)
        count = min(max(round(share * self.num_tokens), 1), self.num_tokens - 1)
        order, real = place_real(score, valid.cpu()[:, None], 1 - share, count)
        return Masks(order[..., :count], order[..., count:], context_valid=real[..., :count])


def place_real(
    score: Tensor, real: Tensor, ratio: float, num_visible: int
) -> tuple[Tensor, Tensor]:
    """Fill visible and hidden places with real tokens only; where they run out they repeat.

    Args:
        score: random, (batch, groups, tokens).
        real: False on padding, bool, like `score`.
        ratio: share of the real tokens that is hidden.
        num_visible: places for visible tokens; the others are for hidden ones.

    Returns:
        Token of each place, long, like `score`, visible places first; and False where a place
        repeats a token, bool.

    Raises:
        ValueError: a group with fewer than two real tokens.
    """
    count = real.sum(-1, keepdim=True)
    if int(count.min()) < 2:
        raise ValueError(
            f"a chip shows {int(count.min())} whole tokens in a masked region, but one must be "
            f"visible and one hidden: leave small chips out or choose a smaller data.patch"
        )
    order = score.masked_fill(~real, 2.0).argsort(-1)  # real tokens first
    hidden = (count * ratio).long().clamp_min(1)
    hidden = torch.minimum(hidden, count - 1)
    visible = count - hidden
    place = torch.arange(score.shape[-1])
    later = place - num_visible
    source = torch.where(later < 0, place % visible, visible + later % hidden)
    fresh = torch.where(later < 0, place < visible, later < hidden)
    return order.gather(-1, source), fresh
