"""Lee and refined Lee filters: baselines and optional pre-filters (SAR-JEPA filters nothing)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_modalities.data.sar.speckle import RAYLEIGH

Quantity = Literal["amplitude", "intensity"]


def lee(values: Tensor, looks: float, window: int = 7, quantity: Quantity = "intensity") -> Tensor:
    """Lee filter: mean + k (value - mean) with the statistics of a square window.

    k = clip((1 - Cu^2 / Ci^2) / (1 + Cu^2), 0, 1); Ci is the window's coefficient of variation, Cu
    that of speckle (J.-S. Lee, PAMI-2, 1980). Borders are mirrored.

    Args:
        values: (..., height, width), at least 0.
        looks: of the image; see `equivalent_looks`.
        window: odd side, pixels.
        quantity: of the values.

    Returns:
        Filtered values of the same shape and type.

    Raises:
        ValueError: an even window, or one larger than twice a side.
    """
    if window < 3 or window % 2 == 0:
        raise ValueError(f"window = {window}; give an odd number of at least 3")
    planes, padded = _planes(values, window // 2)
    mean, square = _box(padded, window), _box(padded.square(), window)
    variance = (square - mean.square()).clamp_min(0)
    return (
        _shrink(planes, mean, variance, _variation(looks, quantity)).reshape_as(values).to(values)
    )


def refined_lee(values: Tensor, looks: float, quantity: Quantity = "intensity") -> Tensor:
    """Refined Lee filter: as `lee`, with statistics from the half of a 7 x 7 window that lies on
    the pixel's side of an edge.

    The edge's direction is the strongest of four gradients of the 3 x 3 means of 3 x 3 pixels; its
    side is the one whose mean is nearer to the centre's (J.-S. Lee, Computer Graphics and Image
    Processing 15, 1981).

    Args:
        values: (..., height, width), at least 0, sides of at least 4.
        looks: of the image.
        quantity: of the values.

    Returns:
        Filtered values of the same shape and type.

    Raises:
        ValueError: a side below 4.
    """
    halves = half_windows().to(values.device)
    weights = (halves / halves.sum((1, 2), keepdim=True))[:, None]
    planes, padded = _planes(values, 3)
    means, squares = F.conv2d(padded, weights), F.conv2d(padded.square(), weights)
    chosen = _half(planes)
    mean = means.gather(1, chosen)
    variance = (squares.gather(1, chosen) - mean.square()).clamp_min(0)
    return (
        _shrink(planes, mean, variance, _variation(looks, quantity)).reshape_as(values).to(values)
    )


def half_windows() -> Tensor:
    """Eight halves of 7 x 7 pixels with their edge line, float64, (8, 7, 7).

    Two per direction, the side of the first sub-windows and its opposite: columns (left, right),
    falling diagonal (upper right, lower left), rows (top, bottom), rising diagonal (upper left,
    lower right).
    """
    row, column = torch.meshgrid(torch.arange(7), torch.arange(7), indexing="ij")
    firsts = [column <= 3, column >= row, row <= 3, row + column <= 6]
    seconds = [column >= 3, column <= row, row >= 3, row + column >= 6]
    pairs = [half for pair in zip(firsts, seconds, strict=True) for half in pair]
    return torch.stack(pairs).double()


# Gradients of a 3 x 3 grid of means, one side minus the other, in the directions of `half_windows`.
_GRADIENTS = torch.tensor(
    [
        [[1, 0, -1], [1, 0, -1], [1, 0, -1]],
        [[0, 1, 1], [-1, 0, 1], [-1, -1, 0]],
        [[1, 1, 1], [0, 0, 0], [-1, -1, -1]],
        [[1, 1, 0], [1, 0, -1], [0, -1, -1]],
    ],
    dtype=torch.float64,
)
# The means that lie straight across the edge: (direction, side) -> row, column in the 3 x 3 grid.
_ACROSS = ((1, 0), (1, 2), (0, 2), (2, 0), (0, 1), (2, 1), (0, 0), (2, 2))


def _half(planes: Tensor) -> Tensor:
    """Number of the half window of every pixel, (images, 1, height, width)."""
    means = _box(F.pad(planes, (3, 3, 3, 3), mode="reflect"), 3)  # also 2 pixels beyond borders
    height, width = planes.shape[-2:]
    grid = torch.stack(
        [means[:, 0, r : r + height, c : c + width] for r in (0, 2, 4) for c in (0, 2, 4)],
        1,
    ).unflatten(1, (3, 3))
    strength = torch.einsum("nrchw,drc->ndhw", grid, _GRADIENTS.to(grid)).abs()
    # Mirrored corners have no gradient but rounding: do not let that choose.
    noise = 1e-9 * grid.flatten(1, 2).mean(1, keepdim=True)
    direction = torch.where(strength > noise, strength, 0).argmax(1, keepdim=True)
    away = torch.stack([(grid[:, r, c] - grid[:, 1, 1]).abs() for r, c in _ACROSS], 1)
    away = away.unflatten(1, (4, 2))
    index = direction[:, :, None].expand(-1, 1, 2, -1, -1)
    side = away.gather(1, index).squeeze(1).argmin(1, keepdim=True)
    return 2 * direction + side


def _planes(values: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Values as float64 (images, 1, height, width), and with mirrored borders."""
    height, width = values.shape[-2:]
    if min(height, width) <= reach:
        raise ValueError(
            f"images of {height} x {width} pixels are too small for a window of {2 * reach + 1}: "
            f"give sides of at least {reach + 1}"
        )
    planes = values.reshape(-1, 1, height, width).double()
    return planes, F.pad(planes, (reach,) * 4, mode="reflect")


def _box(padded: Tensor, window: int) -> Tensor:
    """Means of all windows, one axis after the other."""
    kernel = padded.new_full((1, 1, window, 1), 1 / window)
    return F.conv2d(F.conv2d(padded, kernel), kernel.transpose(2, 3))


def _variation(looks: float, quantity: Quantity) -> float:
    """Squared coefficient of variation of speckle."""
    if not (math.isfinite(looks) and looks > 0):
        raise ValueError(f"looks = {looks}; give a positive number")
    return (RAYLEIGH if quantity == "amplitude" else 1.0) / looks


def _shrink(values: Tensor, mean: Tensor, variance: Tensor, speckle: float) -> Tensor:
    """Lee's weighting of value and mean; a window without variation keeps its mean."""
    share = speckle * mean.square() / variance.clamp_min(1e-300)
    weight = ((1 - share) / (1 + speckle)).clamp(0, 1)
    return mean + weight * (values - mean)
