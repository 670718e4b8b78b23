"""Images <-> patches in raster order, for every modality on a pixel grid."""

from __future__ import annotations

from torch import Tensor


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cut into non-overlapping patches in raster order.

    Args:
        images: (batch, channels, height, width), sides divisible by `patch`.
        patch: side in pixels.

    Returns:
        (batch, tokens, channels * patch * patch): each patch flattened as (channel, row, column),
        so that a linear layer on it equals a convolution with kernel = stride = patch.
    """
    batch, channels, height, width = images.shape
    grid = images.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpatchify(values: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """Inverse of `patchify`: (batch, tokens, features) -> (batch, channels, height, width)."""
    rows, columns = grid
    x = values.unflatten(1, (rows, columns)).unflatten(3, (-1, patch, patch))
    return x.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
