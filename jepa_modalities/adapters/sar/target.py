"""Ratio gradients at several scales: the fixed target of SAR-JEPA, and features without learning.

Li et al. 2024 (SAR-JEPA), section "multi-scale gradient by ratio". Speckle is multiplicative, so
the logarithm of a ratio of mean amplitudes on both sides of a pixel does not depend on the local
level, where a difference would.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_modalities.adapters.patch import patchify

Window = Literal["areal", "gaussian"]
RADII: tuple[int, ...] = (5, 9, 13, 17)
EPS = 0.01
# Pixels. Larger blocks leave the cache, and the system clears their memory anew for every step:
# 64 chips of 80 x 80 in one piece took 1.4 to 1.8 times as long.
CACHED = 200_000


@torch.no_grad()
def gradient_targets(
    image: Tensor,
    radii: Sequence[int] = RADII,
    eps: float = EPS,
    window: Window = "areal",
    shared_centre: bool = True,
    normalise: Literal["scale"] | None = None,
    valid: Tensor | None = None,
    name: str = "image",
) -> Tensor:
    """Gradient magnitude by ratio, sqrt(G_x^2 + G_y^2), at each scale (SAR-JEPA, section 3).

    Args:
        image: amplitude in 0..1, (batch, 1, height, width).
        radii: half sides of the windows, pixels; a window is 2 radius + 1 pixels wide.
        eps: added to every pixel, after reflecting the border.
        window: "areal" weighs all pixels alike; "gaussian" by a truncated Gaussian of standard
            deviation 0.3 (radius - 1) + 0.8 whose centre row or column belongs to neither half.
        shared_centre: areal only: the centre row or column belongs to both halves (the published
            code) or to neither (the paper's figure).
        normalise: "scale" divides each scale by its standard deviation over batch and pixels.
        valid: False where a pixel is padding, bool, like `image`: means are then taken over the
            real pixels only; a direction of which one half is all padding counts as zero.
        name: of the file or batch, for messages.

    Returns:
        (batch, scales, height, width), float32, scales in the order of `radii`.

    Raises:
        ValueError: another shape, unknown settings, or a side not larger than a radius.
    """
    _check(image, radii, eps, window, name)
    size = image.new_empty((len(image), len(radii), *image.shape[-2:]), dtype=torch.float32)
    for part in _parts(image):
        real = None if valid is None else valid[part]
        ratios = _log_ratios(image[part], radii, eps, window, shared_centre, real)
        for scale, (across, down) in enumerate(ratios):
            torch.sqrt(across.square_().addcmul_(down, down), out=size[part, scale, None])
    if normalise == "scale":
        spread = size.std((0, 2, 3), keepdim=True)
        size = size / torch.where(spread > 0, spread, 1.0)
    elif normalise is not None:
        raise ValueError(f"normalise = {normalise!r} is not known; choose None or 'scale'")
    return size


@torch.no_grad()
def gradient_components(
    image: Tensor,
    radii: Sequence[int] = RADII,
    eps: float = EPS,
    window: Window = "areal",
    shared_centre: bool = True,
    valid: Tensor | None = None,
    name: str = "image",
) -> Tensor:
    """G_x = ln(left / right) and G_y = ln(up / down) of the windows around each pixel.

    Arguments as for `gradient_targets`.

    Returns:
        (batch, scales, 2, height, width), float32, G_x first.
    """
    _check(image, radii, eps, window, name)
    shape = (len(image), len(radii), 2, *image.shape[-2:])
    found = image.new_empty(shape, dtype=torch.float32)
    for part in _parts(image):
        real = None if valid is None else valid[part]
        ratios = _log_ratios(image[part], radii, eps, window, shared_centre, real)
        for scale, pair in enumerate(ratios):
            found[part, scale] = torch.cat(pair, dim=1)
    return found


Pair = tuple[Tensor, Tensor]


def _parts(image: Tensor) -> Iterator[slice]:
    """Chips to work on at once: as many as a CPU's cache holds with what is made of them."""
    pixels = image.shape[-2] * image.shape[-1]
    step = max(CACHED // pixels, 1) if image.device.type == "cpu" else max(len(image), 1)
    return (slice(start, start + step) for start in range(0, len(image), step))


def _log_ratios(
    image: Tensor,
    radii: Sequence[int],
    eps: float,
    window: Window,
    shared_centre: bool,
    valid: Tensor | None,
) -> Iterator[Pair]:
    """G_x and G_y of each radius, (batch, 1, height, width) each, fresh memory."""
    reach = max(radii)

    def padded(values: Tensor) -> Tensor:
        # Reflecting by the largest radius serves all: a smaller margin is a part of it.
        return F.pad(values.float(), (reach,) * 4, mode="reflect")

    halves = _areal_halves if window == "areal" else _gaussian_halves
    x = padded(image) + eps
    if valid is None:
        ratios = ((before / after).log_() for before, after in halves(x, radii, shared_centre))
    else:
        real = padded(valid)
        pairs = halves(x * real, radii, shared_centre), halves(real, radii, shared_centre)
        ratios = (_ratio_of_means(*both).log_() for both in zip(*pairs, strict=True))
    return zip(ratios, ratios, strict=True)


def _ratio_of_means(sums: Pair, counts: Pair) -> Tensor:
    """First over second; 1 where a half is all padding."""
    known = (counts[0] > 0) & (counts[1] > 0)
    return torch.where(known, sums[0] * counts[1] / (sums[1] * counts[0]), 1.0)


def _areal_halves(x: Tensor, radii: Sequence[int], shared_centre: bool) -> Iterator[Pair]:
    """Sums over both halves of each window, along x and then y, radius by radius.

    From one integral image, in float64: box sums are differences of numbers up to the number of
    pixels, of which float32 would keep three digits.
    """
    reach = max(radii)
    height, width = (side - 2 * reach for side in x.shape[-2:])
    table = F.pad(x.double().cumsum(-1).cumsum_(-2), (1, 0, 1, 0))
    for radius in radii:
        first, full = reach - radius, 2 * radius + 1
        gap = 0 if shared_centre else 1
        half = radius + 1 - gap
        for axis, other, size, across in ((-1, -2, width, height), (-2, -1, height, width)):
            rows = table.narrow(other, first + full, across) - table.narrow(other, first, across)
            rows = rows.narrow(axis, first, size + full)
            # Both halves are the same sum at two places, so one pass serves both.
            long = size + full - half
            run = (rows.narrow(axis, half, long) - rows.narrow(axis, 0, long)).float()
            yield run.narrow(axis, 0, size), run.narrow(axis, radius + gap, size)


def _gaussian_halves(x: Tensor, radii: Sequence[int], shared_centre: bool) -> Iterator[Pair]:
    """The same for Gaussian weights, without the centre."""
    reach = max(radii)
    for radius in radii:
        weight = gaussian_weights(radius)
        inside = reach - radius
        part = x.narrow(-1, inside, x.shape[-1] - 2 * inside)
        part = part.narrow(-2, inside, x.shape[-2] - 2 * inside)
        for axis, other in ((-1, -2), (-2, -1)):
            rows = weighted_sum(part, weight, other)
            size = rows.shape[axis] - 2 * radius
            before = weighted_sum(rows, weight[:radius], axis).narrow(axis, 0, size)
            after = weighted_sum(rows, weight[radius + 1 :], axis)
            yield before, after.narrow(axis, radius + 1, size)


def gaussian_weights(radius: int) -> list[float]:
    """A Gaussian on 2 radius + 1 pixels, 1 at the centre; OpenCV's rule for its deviation."""
    sigma = 0.3 * (radius - 1) + 0.8
    return [math.exp(-((offset / sigma) ** 2) / 2) for offset in range(-radius, radius + 1)]


def weighted_sum(x: Tensor, weight: Sequence[float], axis: int) -> Tensor:
    """Correlation with a row of weights along `axis`, without padding.

    One addition per tap: on one CPU thread ten times faster than a convolution of one channel.
    """
    size = x.shape[axis] - len(weight) + 1
    total = x.narrow(axis, 0, size) * weight[0]
    for place, factor in enumerate(weight[1:], start=1):
        total.add_(x.narrow(axis, place, size), alpha=factor)
    return total


def _check(image: Tensor, radii: Sequence[int], eps: float, window: str, name: str) -> None:
    if image.ndim != 4 or image.shape[1] != 1:
        raise ValueError(
            f"{name}: found shape {tuple(image.shape)}, expected (batch, 1, height, width); take "
            f"the amplitude of complex or multi-channel chips first"
        )
    if not radii or min(radii) < 1:
        raise ValueError(f"radii = {tuple(radii)}: give at least one radius of at least 1 pixel")
    if eps <= 0:
        raise ValueError(f"eps = {eps}: give more than 0, or black pixels have no ratio")
    if window not in ("areal", "gaussian"):
        raise ValueError(f"window = {window!r} is not known; choose 'areal' or 'gaussian'")
    height, width = image.shape[-2:]
    if min(height, width) <= max(radii):
        raise ValueError(
            f"{name}: {height} x {width} pixels, but reflecting its border by the radius "
            f"{max(radii)} needs sides above {max(radii)}; use smaller radii or larger chips"
        )


class GradientTarget(nn.Module):
    """Ratio gradients of a chip as the pixels of each token (SAR-JEPA, section 3).

    Args:
        patch: side of a token, pixels.
        radii, eps, window, shared_centre: see `gradient_targets`.
        padded: whether chips may have padding (negative pixels).
    """

    spread: Tensor

    def __init__(
        self,
        patch: int,
        radii: Sequence[int] = RADII,
        eps: float = EPS,
        window: Window = "areal",
        shared_centre: bool = True,
        padded: bool = False,
    ) -> None:
        super().__init__()
        self.patch, self.radii, self.eps, self.padded = patch, tuple(radii), eps, padded
        self.window: Window = window
        self.shared_centre = shared_centre
        self.register_buffer("spread", torch.ones(len(self.radii)))

    def fit(self, images: Tensor) -> GradientTarget:
        """Divide each scale by its standard deviation over these chips from now on."""
        maps = self._maps(images)
        if self.padded:
            real = (images >= 0).expand_as(maps)
            spread = torch.stack([maps[:, n][real[:, n]].std() for n in range(maps.shape[1])])
        else:
            spread = maps.std((0, 2, 3))
        self.spread.copy_(torch.where(spread > 0, spread, 1.0))
        return self

    def _maps(self, images: Tensor) -> Tensor:
        real = images >= 0 if self.padded else None
        return gradient_targets(
            images.clamp_min(0), self.radii, self.eps, self.window, self.shared_centre, valid=real
        )

    def forward(self, images: Tensor) -> Tensor:
        """Amplitude (batch, 1, height, width) -> (batch, tokens, scales * patch^2)."""
        return patchify(self._maps(images) / self.spread.view(-1, 1, 1), self.patch)
