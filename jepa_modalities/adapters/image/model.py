"""What a run's choices say about an image encoder, without opening any data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_modalities.adapters.base import Geometry
from jepa_modalities.adapters.image.config import ImageConfig
from jepa_modalities.adapters.image.tokenizer import ConvStem, ImageTokenizer
from jepa_modalities.adapters.outline import Outline
from jepa_modalities.core.registry import modalities
from jepa_modalities.data.image import open_images
from jepa_modalities.data.loader import decode_resized


def geometry(config: ImageConfig) -> Geometry:
    """Patch width and grid.

    Raises:
        ValueError: the patch does not divide the image.
    """
    data = config.data
    height, width = data.size
    if min(height, width, data.patch) < 1:
        raise ValueError(f"data.size = {data.size}, data.patch = {data.patch}: give at least 1")
    if height % data.patch or width % data.patch:
        raise ValueError(
            f"data.size = {data.size} cannot be cut into patches of data.patch = {data.patch}"
        )
    grid = (height // data.patch, width // data.patch)
    return Geometry(data.channels * data.patch**2, grid)


def embedding(config: ImageConfig) -> nn.Module:
    """Linear on patches, or the convolutional stem."""
    shape = geometry(config)
    if config.encoder.stem == "conv":
        rows, columns = shape.grid
        return ConvStem(
            config.data.patch, config.data.channels, config.encoder.dim, (rows, columns)
        )
    return nn.Linear(shape.features, config.encoder.dim)


@modalities.register("image")
class ImageModality:
    """Images without data: what loading and embedding need (see `adapters.base.Modality`)."""

    Config = ImageConfig

    @staticmethod
    def geometry(config: ImageConfig) -> Geometry:
        """Patch width and grid."""
        return geometry(config)

    @staticmethod
    def embedding(config: ImageConfig) -> nn.Module:
        """The first learned layer."""
        return embedding(config)

    @staticmethod
    def outline(config: ImageConfig) -> Outline:
        """Networks and batch of a run, for estimates."""
        from jepa_modalities.adapters.image.outline import outline

        return outline(config)

    @staticmethod
    def tokenizer(config: ImageConfig) -> nn.Module:
        """A tokenizer whose statistics are filled from the encoder file."""
        blank = [0.0] * config.data.channels
        return ImageTokenizer(config.data.patch, blank, [1.0] * config.data.channels)

    @staticmethod
    def read(config: ImageConfig, raw: Any) -> Tensor:
        """A user's images at the encoder's size, uint8, (samples, channels, height, width).

        Args:
            config: of the encoder.
            raw: a path (folder, .h5, .npy, .npz), a uint8 array (samples, height, width[,
                channels]), or a uint8 tensor (samples, channels, height, width).

        Raises:
            ValueError: another shape or type.
        """
        data = config.data
        if isinstance(raw, str | Path):
            images = open_images(str(raw), channels=data.channels, on_error=data.on_error)
            if images.images is None:
                return decode_resized(images, torch.arange(len(images)), data.size)
            return resized(images.images, data.size)
        if isinstance(raw, np.ndarray | Sequence):
            array = np.asarray(raw)
            if array.ndim == 3:
                array = array[..., None]
            if array.ndim != 4:
                raise ValueError(
                    f"found an array of shape {array.shape}, expected (samples, height, width"
                    f"[, {data.channels}])"
                )
            raw = torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2)
        if raw.dtype != torch.uint8:
            raise ValueError(f"found {raw.dtype} images, expected uint8 in 0..255")
        if raw.ndim != 4 or raw.shape[1] not in (1, data.channels):
            raise ValueError(
                f"found images of shape {tuple(raw.shape)}, expected (samples, {data.channels}, "
                f"height, width)"
            )
        return resized(raw.expand(-1, data.channels, -1, -1), data.size)


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 images at `size`, bilinear with antialiasing, in chunks."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    parts = [
        F.interpolate(part.float(), size, mode="bilinear", antialias=True)
        for part in images.split(512)
    ]
    return torch.cat(parts).round().clamp(0, 255).to(torch.uint8)
