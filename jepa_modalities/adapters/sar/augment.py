"""Shifts, flips, crops, contrast, gain and speckle of SAR chips; numbers come from a Draw."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_modalities.adapters.crop import crop_boxes
from jepa_modalities.adapters.sar.config import SarAugmentConfig
from jepa_modalities.adapters.sar.tokenizer import PADDING
from jepa_modalities.core.draw import Draw
from jepa_modalities.data.sar.speckle import gamma_speckle


@dataclass(frozen=True)
class Move:
    """Where each chip is cut out.

    Attributes:
        offset: first row and column on the canvas, long, (rows, 2).
        flip: bool, (rows,).
    """

    offset: Tensor
    flip: Tensor


def moves_only(config: SarAugmentConfig) -> bool:
    """Whether chips are only shifted and flipped, so that stored gradient maps stay true."""
    return config.crop == (1.0, 1.0) and not (config.contrast or config.gain or config.looks)


def draw_move(config: SarAugmentConfig, room: Tensor, draw: Draw) -> Move:
    """A cut for every chip, on the CPU.

    Args:
        config: of the augmentation.
        room: first and last offset that is allowed, long, (rows, axes, 2).
        draw: of the step.
    """
    low, high = room.unbind(-1)
    middle = room.sum(-1).div(2, rounding_mode="floor")
    span = 2 * config.shift + 1
    step = (draw.uniform(2) * span).long() - config.shift
    offset = torch.minimum(torch.maximum(middle + step, low), high)
    flip = draw.uniform() < 0.5
    return Move(offset, flip if config.flip else torch.zeros_like(flip))


def cut(x: Tensor, move: Move, size: tuple[int, int], rows: Tensor | None = None) -> Tensor:
    """Whole pixels of each chip: (chips, channels, canvas, canvas) -> (rows, channels, *size).

    Args:
        x: chips; fastest where their memory format is channels last.
        move: the cut of each row.
        size: height and width, pixels.
        rows: the chip of each row, long, (rows,); all chips in turn if not given.
    """
    row = move.offset[:, :1] + torch.arange(size[0])
    column = move.offset[:, 1:] + torch.arange(size[1])
    column = torch.where(move.flip[:, None], column.flip(1), column)
    chip = torch.arange(len(x), device=x.device) if rows is None else rows
    row, column = row.to(x.device)[:, :, None], column.to(x.device)[:, None, :]
    place = (chip[:, None, None] * x.shape[2] + row) * x.shape[3] + column
    pixels = x.movedim(1, -1).reshape(-1, x.shape[1]).index_select(0, place.flatten())
    return pixels.view(*place.shape, -1).movedim(-1, 1)


def change(images: Tensor, config: SarAugmentConfig, draw: Draw) -> Tensor:
    """Contrast, gain and speckle; padding stays padding.

    Args:
        images: amplitude, negative on padding, (rows, 1, height, width).
        config: of the augmentation.
        draw: of the step.
    """
    real, device = images >= 0, images.device
    x = images

    def strength(amount: float) -> Tensor:
        return (draw.uniform(1, 1, 1, low=-1.0) * amount).to(device)

    if config.contrast:  # torchvision's: a blend with the mean, cut to the range
        mean = (x * real).sum((2, 3), keepdim=True) / real.sum((2, 3), keepdim=True).clamp_min(1)
        x = (mean + (x - mean) * (1 + strength(config.contrast))).clamp(0, 1)
    if config.gain:
        x = x * strength(config.gain).exp()
    if config.looks:
        shape = (draw.batch_size, *x.shape[1:])
        speckle = gamma_speckle(shape, config.looks, draw.generator)[draw.start : draw.stop]
        x = x * speckle.sqrt().to(device)
    return torch.where(real, x, PADDING)


def resized_crop(
    images: Tensor, config: SarAugmentConfig, size: tuple[int, int], flip: Tensor, draw: Draw
) -> Tensor:
    """A random part of each chip at `size`, bilinear, mirrored where `flip`.

    Args:
        images: amplitude without padding, (rows, 1, height, width).
        config: of the augmentation.
        size: height and width, pixels.
        flip: bool, (rows,).
        draw: of the step.
    """
    top, left, height, width = crop_boxes(draw, config.crop, config.ratio).unbind(1)
    matrix = torch.zeros(len(images), 2, 3)
    matrix[:, 0, 0] = torch.where(flip, -width, width)
    matrix[:, 1, 1] = height
    matrix[:, 0, 2], matrix[:, 1, 2] = 2 * left + width - 1, 2 * top + height - 1
    grid = F.affine_grid(matrix.to(images.device), [len(images), 1, *size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def tokens_inside(
    box: Tensor, move: Move, size: tuple[int, int], patch: int, whole: bool
) -> Tensor:
    """Which tokens of a cut show the chip, bool, (rows, tokens); computed on the CPU.

    Args:
        box: where the chip lies on its canvas, long, (rows, axes, 2).
        move: the cut.
        size: of the cut, pixels.
        patch: side of a token, pixels.
        whole: every pixel must be the chip's; else one is enough.
    """
    inside = []
    for axis, side in enumerate(size):
        begin, end = (box[:, axis, end] - move.offset[:, axis] for end in (0, 1))
        if axis == 1:
            mirrored = side - end, side - begin
            begin = torch.where(move.flip, mirrored[0], begin)
            end = torch.where(move.flip, mirrored[1], end)
        first = torch.arange(0, side, patch)
        begin, end = begin[:, None], end[:, None]
        full = (first >= begin) & (first + patch <= end)
        part = (first + patch > begin) & (first < end)
        inside.append(full if whole else part)
    return (inside[0][:, :, None] & inside[1][:, None, :]).flatten(1)
