"""A run without its data: enough to build its networks and to count what a step computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from jepa_modalities.adapters.base import Geometry
from jepa_modalities.core.batch import Batch, Tokens
from jepa_modalities.core.positions import grid_positions


class LookedUp(nn.Module):
    """Stands in an outline for a fixed target that is read from a table: shapes, no arithmetic.

    Args:
        num_tokens: of a sample.
        dim: width of the target.
    """

    def __init__(self, num_tokens: int, dim: int) -> None:
        super().__init__()
        self.num_tokens, self.dim = num_tokens, dim

    def forward(self, rows: Tensor) -> Tensor:
        """(batch, ...) -> (batch, tokens, dim), not filled."""
        return torch.empty(len(rows), self.num_tokens, self.dim, device=rows.device)


@dataclass
class Outline:
    """A run without its data: its networks, and the shape of a batch.

    Attributes:
        config: of the run, completed where the modality could tell more.
        geometry: of a sample.
        embed: makes the first learned layer.
        fixed: function and width of the fixed target, or None.
        raw: shape of what the fixed target is given for each sample; () for a row number.
        views: further views of each sample.
        keep: tokens of each view that the student sees; None for all.
        extra: makes the loss terms beside prediction and regulariser.
        samples: training samples, where they had to be opened.
        notes: what was assumed, in words.
    """

    config: Any
    geometry: Geometry
    embed: Callable[[], nn.Module]
    fixed: tuple[nn.Module, int] | None = None
    raw: tuple[int, ...] = ()
    views: int = 0
    keep: int | None = None
    extra: Callable[[], list[nn.Module]] = list
    samples: int | None = None
    notes: list[str] = field(default_factory=list)

    def embedding(self) -> nn.Module:
        """The first learned layer."""
        return self.embed()

    def target(self) -> tuple[nn.Module, int] | None:
        """The fixed target's function and width, or None."""
        return self.fixed

    def terms(self) -> list[nn.Module]:
        """Loss terms beside prediction and regulariser."""
        return self.extra()

    def batch(self, size: int, device: str) -> Batch:
        """A batch of the right shapes, not filled."""
        with torch.device(device):
            tokens = Tokens(
                torch.empty(size, self.geometry.num_tokens, self.geometry.features),
                grid_positions(*self.geometry.grid),
            )
            raw = None if self.fixed is None else torch.empty(size, *self.raw)
            keep = None
            if self.views and self.keep is not None:
                keep = torch.zeros(self.views, size, self.keep, dtype=torch.long)
        return Batch(tokens, tokens, (tokens,) * self.views, keep, raw)
