"""Fixed image targets without any fit: oriented gradients and normalised pixels per token."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_modalities.adapters.image.bar import cell_size, check_images


@torch.no_grad()
def hog_tokens(images: Tensor, grid: tuple[int, int], bins: int = 9) -> Tensor:
    """Histogram of oriented gradients of each token and channel.

    Central differences (the image is continued by reflection), unsigned orientation in `bins` equal
    bins, votes weighted by the gradient's length, each histogram divided by its Euclidean length:
    the target of MaskFeat (Wei et al. 2022, section 3.2) with one cell per token.

    Args:
        images: 0..255, uint8 or float, (batch, channels, height, width).
        grid: tokens (rows, columns).
        bins: orientations between 0 and 180 degrees.

    Returns:
        (batch, tokens, channels * bins), channel by channel; zeros where a token is flat.

    Raises:
        ValueError: the grid does not divide the image.
    """
    cell = cell_size(images, grid)
    x = images.float() / 255
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    across = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    angle = torch.atan2(down, across).remainder(math.pi)
    index = (angle * (bins / math.pi)).long() % bins
    votes = x.new_zeros(*x.shape[:2], bins, *x.shape[2:])
    votes.scatter_(2, index[:, :, None], torch.hypot(across, down)[:, :, None])
    histogram = F.avg_pool2d(votes.flatten(1, 2), cell)
    histogram = histogram.view(len(x), -1, bins, *grid)
    # The floor is far below one grey level per pixel: it only keeps flat tokens at zero.
    histogram = F.normalize(histogram, dim=2, eps=1e-6)
    return histogram.flatten(3).flatten(1, 2).transpose(1, 2)


@torch.no_grad()
def pixels_tokens(images: Tensor, patch: int, normalise: bool = True) -> Tensor:
    """Pixels of each patch, minus their mean over their standard deviation (MAE, section 4.1).

    Args:
        images: 0..255, uint8 or float, (batch, channels, height, width).
        patch: side of a patch, pixels.
        normalise: False leaves pixels in 0..1.

    Returns:
        (batch, tokens, patch * patch * channels), pixel by pixel in raster order.

    Raises:
        ValueError: the patch does not divide the image.
    """
    check_images(images)
    height, width = images.shape[-2:]
    if height % patch or width % patch:
        raise ValueError(f"patch = {patch} does not divide images of {height} x {width} pixels")
    x = (images.float() / 255).unfold(2, patch, patch).unfold(3, patch, patch)
    x = x.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
    if not normalise:
        return x
    variance, mean = torch.var_mean(x, dim=-1, keepdim=True)
    return (x - mean) * (variance + 1e-6).rsqrt()  # floor as published
