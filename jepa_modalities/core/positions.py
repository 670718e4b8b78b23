"""Position codes: fixed sin-cos on any grid, a learned table, and buckets of relative offsets."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sincos(positions: Tensor, dim: int) -> Tensor:
    """Fixed sine-cosine code of grid coordinates (I-JEPA, appendix A; MAE).

    The channels are split evenly over the axes, the LAST axis (x) first, as in the published code.
    For an axis of width d: omega_i = 10000^(-i / (d/2)), code = [sin(p omega), cos(p omega)].

    Args:
        positions: (tokens, axes) coordinates 0, 1, 2, ... on the grid.
        dim: width, divisible by 2 * axes.

    Returns:
        (tokens, dim), float32.

    Raises:
        ValueError: `dim` cannot be split over the axes.
    """
    axes = positions.shape[-1]
    if dim % (2 * axes):
        raise ValueError(
            f"encoder.dim = {dim} must be divisible by {2 * axes} for {axes}-D sin-cos positions; "
            f"choose a multiple of {2 * axes}"
        )
    half = dim // (2 * axes)
    steps = torch.arange(half, dtype=torch.float64, device=positions.device)
    omega = 10000.0 ** (-steps / half)
    angle = positions.flip(-1).double()[..., None] * omega  # (tokens, axes, half)
    return torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(-2).float()


class SinCosPosition(nn.Module):
    """`sincos` times a scale, as a module; the last table is kept while the grid stays the same.

    Args:
        dim: width of the code.
        scale: factor on the code (1.0 for images; smaller where position would drown content).
    """

    def __init__(self, dim: int, scale: float = 1.0) -> None:
        super().__init__()
        self.dim, self.scale = dim, scale
        self._last: tuple[Tensor, Tensor] | None = None

    def forward(self, positions: Tensor) -> Tensor:
        """(tokens, axes) -> (tokens, dim)."""
        if self._last is None or self._last[0] is not positions:
            # Keyed on the very tensor: adapters hand out one coordinate table per grid and device.
            self._last = (positions, sincos(positions, self.dim) * self.scale)
        return self._last[1]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_last": None}


class LearnedPosition(nn.Module):
    """A learned vector per token, N(0, std^2) at the start.

    Args:
        num_tokens: length of the table; shorter or longer inputs are an error.
        dim: width.
        std: at the start.
    """

    def __init__(self, num_tokens: int, dim: int, std: float = 0.02) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(num_tokens, dim).normal_(std=std))

    def forward(self, positions: Tensor) -> Tensor:
        """(tokens, axes) -> (tokens, dim).

        Raises:
            ValueError: the number of tokens differs from the table's.
        """
        if len(positions) != len(self.table):
            raise ValueError(
                f"encoder.position = 'learned' holds {len(self.table)} positions but the input has "
                f"{len(positions)} tokens; use encoder.position = 'sincos' for other sizes"
            )
        return self.table


# Piecewise index of an offset along one axis (iRPE, Wu et al. 2021, equation 18; ratio 1.9).
ALPHA, BETA, GAMMA = 1.9, 3.8, 15.2
LIMIT = int(BETA)


def relative_index(offset: int) -> int:
    """Index of an offset along one axis, -3 to 3: fine nearby, coarse far away.

    0, 1, 2, 2, 3, 3, 3, ... for 0, 1, 2, ...; negative offsets mirror it.
    """
    length = abs(offset)
    if length > ALPHA:
        far = ALPHA + math.log(length / ALPHA) / math.log(GAMMA / ALPHA) * (BETA - ALPHA)
        length = min(round(far), LIMIT)
    return length if offset >= 0 else -length


def num_buckets(axes: int) -> int:
    """Buckets of a grid with so many axes, one of them for pairs with a prefix token: 50 in 2-D."""
    return (2 * LIMIT + 1) ** axes + 1


def relative_buckets(positions: Tensor, num_prefix: int = 0) -> Tensor:
    """Bucket of each pair of tokens ("product" of iRPE: one index per axis, first axis slowest).

    Args:
        positions: integer coordinates, (tokens, axes).
        num_prefix: tokens without a place in front; their pairs share the last bucket.

    Returns:
        Long, (prefix + tokens, prefix + tokens): entry [i, j] is for query i and key j.
    """
    place = positions.round().long()
    offset = place[:, None] - place[None]  # (tokens, tokens, axes)
    # Offsets beyond 3 differ no more once they round to 3: 16 entries serve any grid.
    reach = 16
    table = torch.tensor([relative_index(n) + LIMIT for n in range(-reach, reach + 1)])
    index = table.to(place.device)[offset.clamp(-reach, reach) + reach]
    bucket = torch.zeros_like(index[..., 0])
    for axis in range(positions.shape[1]):
        bucket = bucket * (2 * LIMIT + 1) + index[..., axis]
    last = num_buckets(positions.shape[1]) - 1
    return nn.functional.pad(bucket, (num_prefix, 0, num_prefix, 0), value=last)


class NoPosition(nn.Module):
    """Adds nothing: for blocks that know relative positions."""

    def forward(self, positions: Tensor) -> Tensor:
        """(tokens, axes) -> zeros (tokens, 1)."""
        return positions.new_zeros(len(positions), 1)


class RelativePosition(nn.Module):
    """Buckets of any part of a grid; the table of the last grid is kept.

    Args:
        num_prefix: prefix tokens in front of every sequence.
    """

    def __init__(self, num_prefix: int = 0) -> None:
        super().__init__()
        self.num_prefix = num_prefix
        self._last: tuple[Tensor, Tensor] | None = None

    def forward(self, positions: Tensor, index: Tensor | None = None) -> Tensor:
        """Buckets of each pair in a sequence.

        Args:
            positions: of the whole grid, (tokens, axes).
            index: token numbers of each sequence, (sequences, keep); None for the whole grid.

        Returns:
            Long, (sequences or 1, prefix + keep, prefix + keep).
        """
        if self._last is None or self._last[0] is not positions:
            self._last = (positions, relative_buckets(positions, self.num_prefix))
        table = self._last[1]
        if index is None:
            return table[None]
        front = torch.arange(self.num_prefix, device=index.device).expand(len(index), -1)
        full = torch.cat([front, index + self.num_prefix], dim=1)
        return table[full[:, :, None], full[:, None, :]]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_last": None}


def grid_positions(*sizes: int) -> Tensor:
    """Integer coordinates of a grid in raster order: (tokens, axes), float32.

    `grid_positions(height, width)` for images, `grid_positions(length)` for sequences.
    """
    axes = torch.meshgrid(*(torch.arange(size) for size in sizes), indexing="ij")
    return torch.stack(axes, dim=-1).reshape(-1, len(sizes)).float()
