"""Random crops, flips, warps and colour, batched on the device; numbers come from a Draw."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_modalities.adapters.crop import crop_boxes
from jepa_modalities.adapters.image.config import AugmentConfig
from jepa_modalities.core.draw import Draw


@dataclass(frozen=True)
class Warp:
    """Geometry of each sample's change.

    Attributes:
        matrix: output -> input coordinates in -1..1, (rows, 2, 3), or None for no crop or warp.
        flip: bool, (rows,), or None.
    """

    matrix: Tensor | None
    flip: Tensor | None


def draw_warp(config: AugmentConfig, draw: Draw) -> Warp:
    """The geometry of every sample, on the CPU."""
    flip = draw.uniform() < 0.5 if config.flip else None
    if not moves(config):
        return Warp(None, flip)
    rows = draw.rows
    angle = draw.uniform(low=-1.0) * math.radians(config.rotate)
    shear = draw.uniform(low=-1.0) * config.shear
    scale = 1 + draw.uniform(low=-1.0) * config.zoom
    shift = draw.uniform(2, low=-2.0, high=2.0) * config.shift
    cos, sin = angle.cos() * scale, angle.sin() * scale
    matrix = torch.zeros(rows, 2, 3)
    matrix[:, 0, 0], matrix[:, 0, 1] = cos, shear * cos - sin
    matrix[:, 1, 0], matrix[:, 1, 1] = sin, shear * sin + cos
    matrix[:, :, 2] = shift
    if config.crop != (1.0, 1.0):
        top, left, height, width = crop_boxes(draw, config.crop, config.ratio).unbind(1)
        size = torch.stack([width, height], 1)
        centre = torch.stack([2 * left + width - 1, 2 * top + height - 1], 1)
        matrix[:, :, 2] = matrix[:, :, 2] + centre
        matrix[:, :, :2] *= size[:, None, :]
    return Warp(matrix, flip)


def moves(config: AugmentConfig) -> bool:
    """Whether more than a flip changes the geometry."""
    return config.crop != (1.0, 1.0) or any(
        (config.rotate, config.shift, config.zoom, config.shear)
    )


def apply_warp(images: Tensor, warp: Warp, size: tuple[int, int], border: str) -> Tensor:
    """Warp float images (batch, channels, height, width) to `size` by bilinear sampling."""
    if warp.matrix is not None:
        shape = [len(images), images.shape[1], *size]
        grid = F.affine_grid(warp.matrix.to(images.device), shape, align_corners=False)
        images = F.grid_sample(images, grid, padding_mode=border, align_corners=False)
    elif images.shape[-2:] != size:
        images = F.interpolate(images, size, mode="bilinear", antialias=True)
    if warp.flip is not None:
        flip = warp.flip.to(images.device).view(-1, 1, 1, 1)
        images = torch.where(flip, images.flip(-1), images)
    return images


def colour(images: Tensor, config: AugmentConfig, draw: Draw) -> Tensor:
    """Brightness, contrast, saturation, channel gain, grey and noise on 0..255 float images."""
    if not (config.colour or config.grey or config.noise):
        return images
    device, rows, channels = images.device, len(images), images.shape[1]

    def strength(amount: float, width: int = 1) -> Tensor:
        on = draw.uniform(1) < config.colour
        change = draw.uniform(width, low=-1.0) * amount * on
        return (1 + change).view(rows, width, 1, 1).to(device)

    if config.colour:
        images = images * strength(config.brightness) * strength(config.gain, channels)
        mean = images.mean((1, 2, 3), keepdim=True)
        images = mean + (images - mean) * strength(config.contrast)
        if channels == 3:
            luma = images.mean(1, keepdim=True)
            images = luma + (images - luma) * strength(config.saturation)
    if config.grey and channels == 3:
        on = (draw.uniform() < config.grey).view(-1, 1, 1, 1).to(device)
        images = torch.where(on, images.mean(1, keepdim=True), images)
    if config.noise:
        noise = draw.normal(*images.shape[1:]).to(device)
        images = images + noise * (255 * config.noise)
    return images.clamp(0, 255)
