"""Chips of any size on one canvas: centre crop, zero-pad or resize."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Fit = Literal["pad", "crop", "resize"]


def place(chip: NDArray[np.float32], size: tuple[int, int], fit: Fit) -> NDArray[np.float32]:
    """One chip (height, width) on a canvas of `size`.

    What is cut off or left free is halved between the two sides; an odd pixel goes to the end.

    Raises:
        ValueError: fit "crop" and a chip smaller than the canvas.
    """
    if chip.shape == size:
        return chip
    if fit == "resize":
        chip = _covering(chip, size)
    elif fit == "crop" and (chip.shape[0] < size[0] or chip.shape[1] < size[1]):
        raise ValueError(
            f"{chip.shape[0]} x {chip.shape[1]} pixels are less than the canvas of {size[0]} x "
            f"{size[1]}; fit 'pad' centres it on zeros, or choose a smaller size"
        )
    canvas = np.zeros(size, np.float32)
    (to_row, from_row), (to_column, from_column) = (
        overlap(chip.shape[axis], size[axis]) for axis in (0, 1)
    )
    canvas[to_row, to_column] = chip[from_row, from_column]
    return canvas


def overlap(native: int, side: int) -> tuple[slice, slice]:
    """Which pixels of the canvas a chip fills, and which of the chip's those are, on one axis."""
    length = min(native, side)
    to, begin = (side - length) // 2, (native - length) // 2
    return slice(to, to + length), slice(begin, begin + length)


def _covering(chip: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Scaled (bilinear, antialiased, so never below 0) until it just covers `size`."""
    height, width = chip.shape
    scale = max(size[0] / height, size[1] / width)
    target = (max(round(height * scale), size[0]), max(round(width * scale), size[1]))
    pixels = torch.from_numpy(np.ascontiguousarray(chip))[None, None]
    return F.interpolate(pixels, target, mode="bilinear", antialias=True)[0, 0].numpy()


def validity(sizes: Tensor, canvas: tuple[int, int]) -> Tensor | None:
    """True where `place` with fit "pad" put a chip's own pixels.

    Args:
        sizes: height and width of the chips, (chips, 2).
        canvas: height and width.

    Returns:
        bool, (chips, height, width), or None where no chip is smaller than the canvas.
    """
    if not len(sizes) or bool((sizes >= torch.tensor(canvas)).all()):
        return None
    inside = []
    for axis, side in enumerate(canvas):
        length = sizes[:, axis, None].clamp(max=side)
        begin = (side - length).div(2, rounding_mode="floor")
        place = torch.arange(side)
        inside.append((place >= begin) & (place < begin + length))
    return inside[0][:, :, None] & inside[1][:, None, :]
