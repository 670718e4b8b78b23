"""Position codes: fixed sin-cos on any grid, and a learned table."""

from __future__ import annotations

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


def grid_positions(*sizes: int) -> Tensor:
    """Integer coordinates of a grid in raster order: (tokens, axes), float32.

    `grid_positions(height, width)` for images, `grid_positions(length)` for sequences.
    """
    axes = torch.meshgrid(*(torch.arange(size) for size in sizes), indexing="ij")
    return torch.stack(axes, dim=-1).reshape(-1, len(sizes)).float()
