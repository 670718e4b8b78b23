"""The bar for SAR chips: features that no gradient descent has touched.

Three roles: the control to beat, a further input to the probe, and a fixed target.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_modalities.adapters.sar.target import RADII, gradient_targets, weighted_sum
from jepa_modalities.adapters.sar.tokenizer import centre, transformed

SIDE = 16  # cells per side of the bar's pictures
RAW_SIDE = 32


@torch.no_grad()
def bar_features(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Centred-log pixels and ratio gradients of the whole chip, each averaged to 16 x 16.

    Args:
        images: amplitude, negative on padding, (batch, 1, height, width); the windows reach beyond
            `size` where the chip does.
        size: height and width of the middle that the encoder sees, pixels.

    Returns:
        (batch, 1,280).
    """
    middle = centre(images, size)
    log = transformed(middle, middle >= 0, "log")
    return torch.cat(
        [F.adaptive_avg_pool2d(log, SIDE).flatten(1), gradient_features(images, size)], 1
    )


@torch.no_grad()
def gradient_features(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Ratio gradients (radii 5, 9, 13, 17) of the whole chip, the middle averaged to 16 x 16.

    Args:
        images: see `bar_features`.
        size: see `bar_features`.

    Returns:
        (batch, 1,024).
    """
    real = images >= 0
    valid = None if bool(real.all()) else real
    maps = gradient_targets(images.clamp_min(0), RADII, valid=valid)
    return F.adaptive_avg_pool2d(centre(maps, size), SIDE).flatten(1)


def raw_features(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Amplitude of the middle averaged to 32 x 32, (batch, 1,024); padding counts as 0."""
    side = min(RAW_SIDE, *size)
    return F.adaptive_avg_pool2d(centre(images, size).clamp_min(0), side).flatten(1)


@torch.no_grad()
def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing with mirrored borders, cut at 4 sigma (as scipy.ndimage)."""
    reach = min(round(4 * sigma), min(images.shape[-2:]) - 1)
    weight = [math.exp(-((n / sigma) ** 2) / 2) for n in range(-reach, reach + 1)]
    weight = [w / sum(weight) for w in weight]
    x = F.pad(images, (reach,) * 4, mode="reflect")
    return weighted_sum(weighted_sum(x, weight, -1), weight, -2)


@torch.no_grad()
def hog_cells(images: Tensor, cell: int, bins: int = 9) -> Tensor:
    """Unsigned gradient orientations per cell, weighted by length (Dalal & Triggs 2005).

    Central differences, zero at the border.

    Args:
        images: (batch, 1, height, width), sides divisible by `cell`.
        cell: side, pixels.
        bins: orientations between 0 and 180 degrees.

    Returns:
        (batch, bins, height / cell, width / cell), mean over the pixels of the cell.
    """
    across, down = torch.zeros_like(images), torch.zeros_like(images)
    across[..., 1:-1] = images[..., 2:] - images[..., :-2]
    down[..., 1:-1, :] = images[..., 2:, :] - images[..., :-2, :]
    angle = torch.atan2(down, across).remainder(math.pi)
    index = (angle * (bins / math.pi)).long().clamp_max(bins - 1)
    votes = images.new_zeros(len(images), bins, *images.shape[2:])
    votes.scatter_(1, index, torch.hypot(across, down))
    return F.avg_pool2d(votes, cell)


@torch.no_grad()
def hog_features(
    images: Tensor, size: tuple[int, int], sigma: float = 1.5, cell: int = 8
) -> Tensor:
    """HOG of the smoothed middle: 9 bins, 8-pixel cells, blocks of 2 x 2 cells, L2-Hys.

    Speckle drowns the gradients of the chip as it is, so it is smoothed first.

    Args:
        images: see `bar_features`.
        size: see `bar_features`.
        sigma: of the smoothing, pixels.
        cell: side of a cell, pixels.

    Returns:
        (batch, blocks * 36).
    """
    cells = hog_cells(blur(centre(images, size).clamp_min(0), sigma), cell)
    blocks = F.unfold(cells, 2)  # (batch, 36, blocks)
    blocks = F.normalize(blocks, dim=1, eps=1e-6).clamp_max(0.2)
    return F.normalize(blocks, dim=1, eps=1e-6).flatten(1)
