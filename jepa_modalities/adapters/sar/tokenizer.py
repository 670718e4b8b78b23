"""SAR chips -> patch tokens, and the preprocessing that travels with the encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_modalities.adapters.patch import patchify
from jepa_modalities.adapters.sar.target import EPS, gradient_targets
from jepa_modalities.core.batch import Tokens
from jepa_modalities.core.positions import grid_positions

# Amplitudes are never negative, so a negative pixel says: padding, or hidden from the encoder.
PADDING = -1.0
LOG_FLOOR = 0.01  # added before the logarithm: black pixels stay finite (as in the gradients)
LOG_SPREAD = 0.6  # typical standard deviation of a centred-log MSTAR chip


def centre(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of (..., height, width), a view; an odd pixel is cut at the end.

    Raises:
        ValueError: smaller than `size`.
    """
    height, width = x.shape[-2:]
    if height < size[0] or width < size[1]:
        raise ValueError(
            f"found chips of {height} x {width} pixels, expected at least {size[0]} x {size[1]}; "
            f"centre them on a canvas of {PADDING:g} (padding) first"
        )
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return x[..., top : top + size[0], left : left + size[1]]


class SarTokenizer(nn.Module):
    """Transform, add gradient maps, cut; saved inside the encoder file.

    Args:
        size: height and width that the encoder sees, pixels.
        patch: side of a patch, pixels.
        transform: of the amplitude: "linear", "sqrt", or "log", whose mean over the chip's real
            pixels is subtracted: a gain on the chip then changes next to nothing.
        image: give the transformed amplitude.
        maps: radii of the ratio-gradient maps that are given too; () for none.
        margin: pixels around `size` that the maps may look at where the chip has them.
    """

    map_mean: Tensor
    map_std: Tensor

    def __init__(
        self,
        size: tuple[int, int],
        patch: int,
        transform: str = "log",
        image: bool = True,
        maps: Sequence[int] = (2, 4, 6, 8),
        margin: int = 8,
    ) -> None:
        super().__init__()
        self.size, self.patch, self.transform = (size[0], size[1]), patch, transform
        self.image, self.maps, self.margin = image, tuple(maps), margin
        self.register_buffer("map_mean", torch.zeros(len(self.maps)))
        self.register_buffer("map_std", torch.ones(len(self.maps)))
        self.register_buffer("device_mark", torch.zeros(()), persistent=False)
        self._positions: dict[torch.device, Tensor] = {}

    @property
    def device(self) -> torch.device:
        """Where the buffers lie."""
        mark: Tensor = self.device_mark  # type: ignore[assignment]
        return mark.device

    def forward(self, images: Tensor) -> Tokens:
        """Tokens of the middle of each chip; `valid` is None where no chip of the batch is padded.

        Args:
            images: amplitude in 0..1, negative on padding, (batch, 1, height, width), sides of at
                least `size`; up to `margin` pixels more per side are looked at by the maps.

        Raises:
            ValueError: another shape.
        """
        if images.ndim != 4 or images.shape[1] != 1:
            raise ValueError(
                f"found chips of shape {tuple(images.shape)}, expected (batch, 1, height, width); "
                f"take the amplitude first"
            )
        images = images.float()
        padded = bool((images < 0).any())
        maps = centre(self.gradients(images, padded), self.size) if self.maps else None
        return self.tokens(centre(images, self.size), maps, padded)

    def gradients(self, images: Tensor, padded: bool = True) -> Tensor:
        """Ratio-gradient maps before standardisation, (batch, maps, height, width).

        The chip is cut to `size` + 2 `margin` first, so a larger canvas changes nothing.

        Args:
            images: see `forward`.
            padded: whether padding is possible; looking only at real pixels costs twice the time.
        """
        most = (self.size[0] + 2 * self.margin, self.size[1] + 2 * self.margin)
        images = centre(images, (min(most[0], images.shape[-2]), min(most[1], images.shape[-1])))
        real = images >= 0 if padded else None
        return gradient_targets(images.clamp_min(0), self.maps, EPS, valid=real, name="chips")

    def tokens(self, images: Tensor, maps: Tensor | None, padded: bool = True) -> Tokens:
        """Tokens of chips that are cut to `size` already.

        Args:
            images: (batch, 1, height, width), negative on padding.
            maps: of the same pixels, from `gradients`, (batch, maps, height, width), or None.
            padded: whether padding is possible; else `valid` is None.
        """
        real = images >= 0
        channels = []
        if self.image:
            channels.append(transformed(images, real, self.transform))
        if maps is not None and self.maps:
            shape = (-1, 1, 1)
            maps = (maps.float() - self.map_mean.view(shape)).div_(self.map_std.view(shape))
            channels.append(maps.mul_(real) if padded else maps)
        x = torch.cat(channels, dim=1)
        inside = patchify(real.to(x.dtype), self.patch).amax(-1) > 0 if padded else None
        return Tokens(patchify(x, self.patch), self._grid(images.device), inside)

    def fit(self, images: Tensor) -> SarTokenizer:
        """Take mean and standard deviation of each map from chips, over their real pixels."""
        if self.maps:
            parts = []
            for part in images.split(128):
                maps = centre(self.gradients(part), self.size)
                real = (centre(part, self.size) >= 0).expand_as(maps)
                parts.append(torch.stack([real.sum((0, 2, 3)).double(), *_moments(maps, real)]))
            count, first, second = torch.stack(parts).sum(0)
            mean = first / count
            self.map_mean.copy_(mean)
            self.map_std.copy_((second / count - mean.square()).clamp_min(1e-8).sqrt())
        return self

    def _grid(self, device: torch.device) -> Tensor:
        if device not in self._positions:
            rows, columns = (side // self.patch for side in self.size)
            self._positions[device] = grid_positions(rows, columns).to(device)
        return self._positions[device]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_positions": {}}


def _moments(maps: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    values = maps.double() * real
    return values.sum((0, 2, 3)), values.square().sum((0, 2, 3))


def transformed(images: Tensor, real: Tensor, how: str) -> Tensor:
    """Amplitude as the encoder sees it, 0 on padding.

    Args:
        images: (batch, 1, height, width).
        real: False on padding, bool, like `images`.
        how: "linear", "sqrt" or "log".

    Raises:
        ValueError: unknown `how`.
    """
    x = images.clamp_min(0)
    if how == "linear":
        return x * real
    if how == "sqrt":
        return x.sqrt() * real
    if how == "log":
        x = (x + LOG_FLOOR).log()
        count = real.sum((2, 3), keepdim=True).clamp_min(1)
        mean = (x * real).sum((2, 3), keepdim=True) / count
        return (x - mean) / LOG_SPREAD * real
    raise ValueError(f"data.transform = {how!r} is not known; choose 'linear', 'sqrt' or 'log'")


def pad_canvas(values: Tensor, valid: Tensor | None) -> Tensor:
    """Chips whose padding is marked: (chips, 1, height, width) with `PADDING` where not valid."""
    return values if valid is None else values.masked_fill(~valid[:, None], PADDING)


def blank(images: Tensor, shown: Tensor, patch: int) -> Tensor:
    """Mark every pixel of a token that is not shown as `PADDING`.

    The transform's mean and the maps then know nothing of hidden pixels.

    Args:
        images: (batch, 1, height, width), sides divisible by `patch`.
        shown: bool, (batch, tokens), raster order.
        patch: side of a token, pixels.
    """
    rows, columns = (side // patch for side in images.shape[-2:])
    pixels = F.interpolate(shown.view(-1, 1, rows, columns).float(), scale_factor=float(patch))
    return images.masked_fill(pixels < 0.5, PADDING)
