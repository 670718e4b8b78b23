"""Images -> patch tokens, and the normalisation that travels with the encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jepa_modalities.adapters.patch import patchify, unpatchify
from jepa_modalities.core.batch import Tokens
from jepa_modalities.core.positions import grid_positions


class ImageTokenizer(nn.Module):
    """Normalise and cut images; saved inside the encoder file.

    Args:
        patch: side of a patch, pixels.
        mean: per channel, in 0..1.
        std: per channel, in 0..1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, patch: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.patch = patch
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))
        self._positions: dict[tuple[int, int, torch.device], Tensor] = {}

    def forward(self, images: Tensor) -> Tokens:
        """Tokens of uint8 or 0..255 float images, (batch, channels, height, width).

        Raises:
            ValueError: wrong number of axes or channels, or sides that the patch does not divide.
        """
        if images.ndim != 4 or images.shape[1] != len(self.mean):
            raise ValueError(
                f"found images of shape {tuple(images.shape)}, expected (batch, {len(self.mean)}, "
                f"height, width); convert grey or colour first"
            )
        height, width = images.shape[-2:]
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"images of {height} x {width} pixels cannot be cut into patches of {self.patch}; "
                f"resize them or choose another data.patch"
            )
        scale = (1 / (255 * self.std)).view(-1, 1, 1)
        x = images.float() * scale - (self.mean / self.std).view(-1, 1, 1)
        return Tokens(patchify(x, self.patch), self._grid(height, width, images.device))

    def _grid(self, height: int, width: int, device: torch.device) -> Tensor:
        key = (height // self.patch, width // self.patch, device)
        if key not in self._positions:
            self._positions[key] = grid_positions(key[0], key[1]).to(device)
        return self._positions[key]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_positions": {}}


class ConvStem(nn.Module):
    """Stride-2 3x3 convolutions with group norm instead of a linear patch embedding.

    Kernels overlap and the norm spans the image, so hidden patches would leak into visible ones:
    for two-view training only (`mixes_tokens`).

    Args:
        patch: side of a patch, a power of two.
        channels: of the image.
        dim: width.
        grid: patches (rows, columns).

    Raises:
        ValueError: `patch` is not a power of two.
    """

    mixes_tokens = True

    def __init__(self, patch: int, channels: int, dim: int, grid: tuple[int, int]) -> None:
        super().__init__()
        stages = patch.bit_length() - 1
        if 2**stages != patch or stages < 1:
            raise ValueError(f"encoder.stem = 'conv' needs data.patch 2, 4, 8, ...; found {patch}")
        self.patch, self.grid = patch, grid
        layers: list[nn.Module] = []
        for stage in range(stages):
            width = max(dim >> (stages - stage), 16)
            layers += [
                nn.Conv2d(channels, width, 3, stride=2, padding=1),
                nn.GroupNorm(1, width),
                nn.GELU(),
            ]
            channels = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, dim, 1))

    def forward(self, values: Tensor) -> Tensor:
        """(batch, tokens, features) -> (batch, tokens, dim)."""
        x: Tensor = self.layers(unpatchify(values, self.patch, self.grid))
        return x.flatten(2).transpose(1, 2)
