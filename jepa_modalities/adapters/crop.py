"""Random resized crops, for every modality on a pixel grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jepa_modalities.core.draw import Draw


def crop_boxes(
    draw: Draw, scale: tuple[float, float], ratio: tuple[float, float], tries: int = 10
) -> Tensor:
    """Boxes of a random resized crop, relative (top, left, height, width), (rows, 4).

    As torchvision's: an area and an aspect (log-uniform) are drawn up to `tries` times until the
    box fits; here all tries at once. Falls back to the whole image.
    """
    area = draw.uniform(tries, low=scale[0], high=scale[1])
    aspect = draw.uniform(tries, low=math.log(ratio[0]), high=math.log(ratio[1])).exp()
    place = draw.uniform(2)
    height, width = (area / aspect).sqrt(), (area * aspect).sqrt()
    fits = (height <= 1) & (width <= 1)
    first = fits.byte().argmax(1, keepdim=True)
    height = torch.where(fits.any(1, keepdim=True), height.gather(1, first), 1.0)
    width = torch.where(fits.any(1, keepdim=True), width.gather(1, first), 1.0)
    corner = place * (1 - torch.cat([height, width], 1))
    return torch.cat([corner, height, width], 1)
