"""Simulated targets: point scatterers with shadow in correlated speckle. Not real data.

A chip is the band-limited complex image of a flat scene: Gaussian clutter, boxes that are a vehicle
seen at some aspect, their scatterers (brighter on the side that faces the radar), their shadow, and
thermal noise; its magnitude is kept. Geometry follows MSTAR: 0.2 m per pixel, -35 dB Taylor
weighting, the radar below the picture, so that shadows point up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_modalities.data.sar.chip import Chips
from jepa_modalities.data.sar.speckle import band_window

SPACING = 0.2  # metres per pixel
BANDWIDTH = 0.8
BLOCK = 128  # chips that are drawn together: the first chips do not depend on how many there are
CLUTTER, NOISE = 0.05, 0.008  # root mean square magnitudes; MSTAR's clutter is about 0.05
SHADOW = 0.2  # of the clutter: sidelobes and motion fill shadows
BODY = 0.07  # magnitude of the surfaces between the scatterers
SCATTERER_GAP = 0.7  # metres between the scatterers along an edge


@dataclass(frozen=True)
class Box:
    """A part of a vehicle, metres; x points to the vehicle's front.

    Attributes:
        x: of its centre.
        y: of its centre.
        length: along x.
        width: along y.
        height: of its top above the ground.
        strength: of its scatterers.
    """

    x: float
    y: float
    length: float
    width: float
    height: float
    strength: float = 1.0


# Invented vehicles with the sizes of real ones.
VEHICLES: dict[str, tuple[Box, ...]] = {
    "bulldozer": (
        Box(-0.4, 0, 4.6, 2.6, 1.6),
        Box(-0.6, 0, 1.6, 1.6, 3.0, 0.8),
        Box(2.5, 0, 0.6, 4.0, 1.3, 2.0),
    ),
    "car": (Box(0, 0, 4.4, 1.8, 1.0), Box(-0.3, 0, 2.2, 1.6, 1.5, 0.8)),
    "launcher": (
        Box(0, 0, 6.6, 2.8, 1.4),
        Box(-0.9, 0.8, 3.6, 0.6, 3.2, 1.3),
        Box(-0.9, -0.8, 3.6, 0.6, 3.2, 1.3),
    ),
    "tank": (
        Box(0, 0, 6.6, 3.4, 1.3),
        Box(0.2, 0, 2.8, 2.6, 2.2, 1.2),
        Box(3.6, 0, 4.0, 0.3, 1.8, 0.7),
    ),
    "transporter": (Box(0, 0, 7.4, 2.9, 2.0), Box(1.6, 0, 0.9, 0.9, 2.5, 0.8)),
    "truck": (Box(2.4, 0, 1.7, 2.4, 2.5, 1.2), Box(-1.1, 0, 4.6, 2.5, 1.7)),
}


def synthetic_chips(
    count: int = 1024, size: int = 64, seed: int = 0, depression: float = 17.0
) -> Chips:
    """Simulated chips of invented vehicles at random aspects, classes in turn.

    Target position, aspect, brightness of clutter and target, and scatterers vary from chip to
    chip; brightness does not tell the class. The first n chips are the same for every `count`.

    Args:
        count: number of chips.
        size: side in pixels of 0.2 m, at least 48.
        seed: another one gives other chips.
        depression: angle of the radar above the horizon, degrees; smaller ones cast longer shadows.

    Raises:
        ValueError: too small a size, no chips, or an angle not between 5 and 80 degrees.
    """
    if size < 48:
        raise ValueError(f"size = {size}; the vehicles need at least 48 pixels")
    if count < 1 or not 5 <= depression <= 80:
        raise ValueError(
            f"count = {count}, depression = {depression}; give at least 1 chip and 5 to 80 degrees"
        )
    classes = tuple(VEHICLES)
    labels = torch.arange(count) % len(classes)
    parts = []
    for first in range(0, count, BLOCK):
        number = (torch.arange(first, first + BLOCK) % len(classes)).numpy()
        block = _block(number, size, np.random.default_rng([seed, first]), depression)
        parts.append(block[: count - first])
    names = tuple(f"synthetic/{classes[label]}/{row:05d}" for row, label in enumerate(labels))
    sizes = torch.tensor([[size, size]]).expand(count, 2).contiguous()
    return Chips(torch.cat(parts)[:, None], None, labels, classes, names, sizes)


def _block(
    label: NDArray[np.int64], size: int, rng: np.random.Generator, depression: float
) -> Tensor:
    """Magnitudes (chips, size, size), float32."""
    count = len(label)
    boxes = _boxes()[torch.from_numpy(label)]
    aspect = torch.from_numpy(rng.uniform(0, 2 * math.pi, count)).float()
    centre = torch.from_numpy(rng.uniform(-2, 2, (count, 2))).float() * SPACING
    centre[:, 0] += 0.08 * size * SPACING  # below the middle: the shadow needs room above
    covered, shaded = _shade(boxes, aspect, centre, size, depression)
    clutter_level = CLUTTER * torch.from_numpy(rng.lognormal(0, 0.3, count)).float()
    gain = torch.from_numpy(rng.lognormal(0, 0.3, count)).float()
    # Grass is not the same everywhere: a smooth log-normal texture of about 2 m.
    texture = (0.25 * _smooth(_noise(rng, count, size).real, 10.0)).exp()
    level = clutter_level[:, None, None] * texture
    level = torch.where(shaded, SHADOW * level, level)
    level = torch.where(covered, BODY * gain[:, None, None], level)
    scene = level * _noise(rng, count, size)
    spectrum = torch.fft.fft2(scene)
    spectrum += _points(boxes, aspect, centre, gain, size, depression, rng)
    window = band_window(size, BANDWIDTH)
    window = window[:, None] * window
    image = torch.fft.ifft2(spectrum * (window / window.square().mean().sqrt()))
    return (image + NOISE * _noise(rng, count, size)).abs()


def _noise(rng: np.random.Generator, count: int, size: int) -> Tensor:
    """Complex Gaussian noise of power 1, (count, size, size)."""
    parts = rng.standard_normal((2, count, size, size), np.float32) * np.float32(math.sqrt(0.5))
    return torch.complex(torch.from_numpy(parts[0]), torch.from_numpy(parts[1]))


def _smooth(values: Tensor, width: float) -> Tensor:
    """Gaussian smoothing of `width` pixels (standard deviation), brought to unit variance."""
    frequency = torch.fft.fftfreq(values.shape[-1])
    transfer = (-2 * (math.pi * width * frequency).square()).exp()
    smooth = torch.fft.ifft2(torch.fft.fft2(values) * transfer[:, None] * transfer).real
    return smooth / smooth.std()


def _boxes() -> Tensor:
    """All vehicles' boxes, (vehicles, boxes, 6): x, y, length, width, height, strength."""
    most = max(len(boxes) for boxes in VEHICLES.values())
    table = torch.zeros(len(VEHICLES), most, 6)
    for row, boxes in enumerate(VEHICLES.values()):
        for place, box in enumerate(boxes):
            values = [box.x, box.y, box.length, box.width, box.height, box.strength]
            table[row, place] = torch.tensor(values)
    return table


def _axes(aspect: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors of the vehicle's x and y on the ground as (down, right), each (chips, 2)."""
    x = torch.stack([aspect.sin(), aspect.cos()], 1)
    y = torch.stack([aspect.cos(), -aspect.sin()], 1)
    return x, y


def _shade(
    boxes: Tensor, aspect: Tensor, centre: Tensor, size: int, depression: float
) -> tuple[Tensor, Tensor]:
    """Pixels that the vehicle covers, and those in its shadow: bool, (chips, size, size).

    A ground point is in a box's shadow where the way towards the radar, as far as the box's shadow
    reaches, meets the box's footprint: an intersection of a segment with a rectangle (slab test).
    """
    x, y = _axes(aspect)
    place = (torch.arange(size) - (size - 1) / 2) * SPACING
    offsets = (place - centre[:, :1], place - centre[:, 1:])  # down, right: (chips, size)
    covered = torch.zeros(len(aspect), size, size, dtype=torch.bool)
    shaded = covered.clone()
    for box in boxes.unbind(1):
        reach = (box[:, 4] / math.tan(math.radians(depression)))[:, None, None]
        enter, leave = torch.zeros(1), reach
        inside = box[:, 2, None, None] > 0  # vehicles with fewer boxes have empty ones
        footprint = inside.expand_as(covered)
        for axis, at, extent in ((x, box[:, 0], box[:, 2]), (y, box[:, 1], box[:, 3])):
            half = extent[:, None, None] / 2
            along = (
                axis[:, :1, None] * offsets[0][:, :, None]
                + axis[:, 1:, None] * offsets[1][:, None, :]
                - at[:, None, None]
            )
            # The way goes down: the coordinate changes by this per metre.
            slope = axis[:, :1, None]
            slope = torch.where(slope.abs() < 1e-6, torch.full_like(slope, 1e-6), slope)
            ends = torch.stack([(-half - along) / slope, (half - along) / slope])
            enter = torch.maximum(enter, ends.amin(0))
            leave = torch.minimum(leave, ends.amax(0))
            footprint = footprint & (along.abs() <= half)
        covered |= footprint
        shaded |= inside & (enter <= leave)
    return covered, shaded & ~covered


def _points(
    boxes: Tensor,
    aspect: Tensor,
    centre: Tensor,
    gain: Tensor,
    size: int,
    depression: float,
    rng: np.random.Generator,
) -> Tensor:
    """Spectrum of all point scatterers, (chips, size, size); positions are not rounded to pixels.

    Scatterers lie along the edges of the boxes. Edges that face the radar return most, the more
    squarely the more; corners return at every aspect. What is high lies nearer to the radar than
    the ground below it (layover).
    """
    local, normal, corner, owner = _outline(boxes)
    x, y = _axes(aspect)
    place = centre[:, None] + local[..., :1] * x[:, None] + local[..., 1:] * y[:, None]
    # The radar is below: an edge faces it by the downward part of its outward normal.
    facing = normal[..., 0] * x[:, :1] + normal[..., 1] * y[:, :1]
    weight = torch.where(corner, 0.2 + 0.8 * facing.clamp_min(0), facing.clamp_min(0).pow(3))
    box = boxes.gather(1, owner[..., None].expand(-1, -1, 6))
    strength, present, shape = box[..., 5], box[..., 2] > 0, weight.shape
    height = box[..., 4] * torch.from_numpy(rng.uniform(0, 1, shape)).float()
    place[..., 0] += height * math.tan(math.radians(depression))
    fading = torch.from_numpy(rng.lognormal(0, 0.5, shape)).float()
    phase = torch.from_numpy(rng.uniform(0, 2 * math.pi, shape)).float()
    pixels = place / SPACING + (size - 1) / 2
    # What lies outside would come in again on the other side.
    present &= ((pixels >= 0) & (pixels <= size - 1)).all(-1)
    amplitude = 0.6 * gain[:, None] * strength * (weight + 0.03) * fading * present
    frequency = -2 * math.pi * torch.fft.fftfreq(size)
    rows = torch.polar(amplitude[..., None].expand(*shape, size), pixels[..., :1] * frequency)
    rows = rows * torch.polar(torch.ones_like(phase), phase)[..., None]
    columns = torch.polar(torch.ones(*shape, size), pixels[..., 1:] * frequency)
    return rows.transpose(1, 2) @ columns


def _outline(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scatterers of every box, as many for each: 4 corners and `steps` per side.

    Returns:
        Place and outward normal in the vehicle's axes (chips, scatterers, 2), whether it is a
        corner, and the number of its box, (chips, scatterers).
    """
    steps = math.ceil(8.0 / SCATTERER_GAP)
    share = (torch.arange(steps) + 0.5) / steps * 2 - 1
    one = torch.ones(steps)
    sides = [(one, share), (-one, share), (share, one), (share, -one)]  # front, back, left, right
    unit = torch.stack([torch.stack(side, 1) for side in sides]).flatten(0, 1)
    outward = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]).repeat_interleave(steps, 0)
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    unit = torch.cat([unit, corners])
    outward = torch.cat([outward, corners * math.sqrt(0.5)])
    chips, count = boxes.shape[:2]
    place = boxes[:, :, None, :2] + unit * boxes[:, :, None, 2:4] / 2
    corner = torch.arange(len(unit)) >= 4 * steps
    owner = torch.arange(count).repeat_interleave(len(unit))
    return (
        place.flatten(1, 2),
        outward.repeat(count, 1).expand(chips, -1, -1),
        corner.repeat(count).expand(chips, -1),
        owner.expand(chips, -1),
    )
