"""Images decoded on demand: crops by worker processes for training, whole images for evaluation."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jepa_modalities.data.image import ImageSet

# A JPEG is decoded at least so many times larger than needed: the resize then hides its scaling.
MARGIN = 2.0
# Resize 256, crop 224: the usual share of the shorter side that evaluation looks at.
EVALUATION_SCALE = 256 / 224


class ImageBatch(NamedTuple):
    """What the loader yields.

    Attributes:
        images: uint8, (batch, channels, height, width).
        labels: int64, (batch,), or None.
        ids: numbers of the images as requested, int64, (batch,).
    """

    images: Tensor
    labels: Tensor | None
    ids: Tensor


class StreamedImages(Dataset[ImageBatch]):
    """Crops of images; one item is a whole batch, so that its randomness lies with the caller.

    Args:
        image_set: encoded or resident.
        size: (height, width) of the crops, pixels.
    """

    def __init__(self, image_set: ImageSet, size: tuple[int, int]) -> None:
        self.image_set, self.size = image_set, size

    def __getitem__(self, request: tuple[Tensor, Tensor]) -> ImageBatch:
        """Crop and resize (bicubic, antialiased) the boxes of `request` out of their images.

        Args:
            request: ids (batch,) and boxes (batch, 4): top, left, height, width as shares of the
                image. An image that is asked for several times is decoded once.
        """
        ids = torch.as_tensor(request[0], dtype=torch.long)
        boxes = torch.as_tensor(request[1], dtype=torch.float64)
        images = torch.empty(len(ids), self.image_set.channels, *self.size, dtype=torch.uint8)
        for row in sorted(set(ids.tolist())):
            places = (ids == row).nonzero().squeeze(1)
            crops = self._crops(row, boxes[places].tolist())
            images[places] = torch.stack(crops)
        labels = None if self.image_set.labels is None else self.image_set.labels[ids]
        return ImageBatch(images, labels, ids)

    def _crops(self, row: int, boxes: list[list[float]]) -> list[Tensor]:
        needed = [
            MARGIN * side / min(box[2 + axis] for box in boxes)
            for axis, side in enumerate(self.size)
        ]
        image = self.image_set.open(row, (needed[0], needed[1]))
        return [_tensor(_crop(image, box, self.size)) for box in boxes]


def loader(
    image_set: ImageSet,
    requests: Iterable[tuple[Tensor, Tensor]],
    size: int | tuple[int, int],
    workers: int = 4,
) -> DataLoader[ImageBatch]:
    """Batches of crops in the order of `requests`, the same for any number of workers.

    Args:
        image_set: encoded or resident.
        requests: ids (batch,) and boxes (batch, 4) of relative top, left, height, width; drawn in
            the calling process, a few batches ahead of use.
        size: of the crops, pixels; one number for squares.
        workers: processes that decode; 0 decodes in the calling process.

    Returns:
        An iterable of `ImageBatch`.
    """
    dataset = StreamedImages(image_set, _pair(size))
    sampler: Any = requests  # typed as row numbers; here an item is a batch, its key a request
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers > 0 else None,
        worker_init_fn=_leave_signals,
        pin_memory=torch.cuda.is_available(),
    )


def _leave_signals(worker: int) -> None:
    """Ctrl-C and SIGTERM reach the whole process group; the training process decides what to do.

    Workers that died of them would take its checkpoint along. They end with that process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def decode_resized(
    image_set: ImageSet, ids: Tensor | Sequence[int], size: int | tuple[int, int]
) -> Tensor:
    """Whole images for evaluation: resized to 256/224 of `size`, then the centre cut out.

    Args:
        image_set: encoded or resident.
        ids: numbers of the images, (batch,).
        size: (height, width), pixels; one number for squares, whose shorter side then becomes
            size * 256 / 224.

    Returns:
        uint8, (batch, channels, height, width).
    """
    rows, size = torch.as_tensor(ids).tolist(), _pair(size)
    whole = [EVALUATION_SCALE * side for side in size]

    def one(row: int) -> Tensor:
        image = image_set.open(row, (MARGIN * max(whole), MARGIN * max(whole)))
        scale = max(whole[0] / image.height, whole[1] / image.width)
        height, width = size[0] / scale / image.height, size[1] / scale / image.width
        return _tensor(_crop(image, [(1 - height) / 2, (1 - width) / 2, height, width], size))

    with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
        parts = list(pool.map(one, rows))
    return torch.stack(parts) if parts else torch.empty(0, image_set.channels, *size).byte()


def _crop(image: Image.Image, box: Sequence[float], size: tuple[int, int]) -> Image.Image:
    """Cut a relative box out and resize it in one step, without rounding it to whole pixels."""
    top, left, height, width = box
    right, bottom = min(left + width, 1.0), min(top + height, 1.0)  # rounding may pass the border
    area = (left * image.width, top * image.height, right * image.width, bottom * image.height)
    return image.resize(size[::-1], Image.Resampling.BICUBIC, box=area)


def _tensor(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return math.floor(height), math.floor(width)
