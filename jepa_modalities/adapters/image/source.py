"""The images of a run: pretraining part, held-out part, test part."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from jepa_modalities.adapters.image.config import ImageData
from jepa_modalities.adapters.image.model import resized
from jepa_modalities.adapters.stamped import read_stamped, write_stamped
from jepa_modalities.core.draw import seeded
from jepa_modalities.data.image import ImageSet, digits, open_images, splits
from jepa_modalities.data.loader import decode_resized


class ImageSource:
    """Opens the training images and splits off the held-out part.

    The held-out share is never seen in pretraining: the collapse monitor, the online probe and
    every choice look there. The test images are opened for evaluation only, and only scored then.

    Args:
        data: paths and sizes.

    Raises:
        ValueError: no usable images.
    """

    def __init__(self, data: ImageData) -> None:
        self.data = data
        if not 0 <= data.holdout < 1 or (data.limit is not None and data.limit < 1):
            raise ValueError(
                f"data.holdout = {data.holdout}, data.limit = {data.limit}: give a share of at "
                f"least 0 and below 1, and a limit of at least 1"
            )
        everything = self._open(data.path, "train")
        count = len(everything) if data.limit is None else min(data.limit, len(everything))
        # The order of the held-out split is fixed: it does not depend on the run's seed.
        shuffled = torch.randperm(len(everything), generator=seeded(0, 3, 0))[:count]
        held = int(count * data.holdout)
        if count - held < 1:
            raise ValueError(
                f"data.holdout = {data.holdout} leaves no image of {count} to train on"
            )
        self.everything = everything
        self.held_rows = shuffled[:held].sort().values
        self.train_rows = shuffled[held:].sort().values
        self.images: Tensor | None = None
        if everything.images is not None:
            self.images = everything.images[self.train_rows]
        self._device_images: Tensor | None = None
        self._test: ImageSet | None = None

    def _open(self, path: str, split: str) -> ImageSet:
        if path == "digits":
            if self.data.channels != 1:
                raise ValueError("data.path = 'digits' is grey: set data.channels to 1")
            development, test = digits()
            return development if split == "train" else test
        if not path:
            raise ValueError(
                "data.path is not given: name a folder of images, an .h5, .npy or .npz file, "
                "or 'digits'"
            )
        given = split == "test" and bool(self.data.test_path)
        part = None if given and not splits(path) else split
        return open_images(path, part, channels=self.data.channels, on_error=self.data.on_error)

    def __len__(self) -> int:
        return len(self.train_rows)

    @property
    def streamed(self) -> ImageSet:
        """The pretraining images when they stay on disk."""
        return self.everything.subset(self.train_rows)

    @property
    def test(self) -> ImageSet:
        """The test images.

        Raises:
            ValueError: neither `data.test_path` nor a test split of `data.path`.
        """
        if self._test is None:
            self._test = self._open(self.data.test_path or self.data.path, "test")
        return self._test

    def on_device(self, device: torch.device) -> Tensor:
        """All pretraining images as uint8 on the device, copied once."""
        assert self.images is not None
        if self._device_images is None or self._device_images.device != device:
            self._device_images = self.images.to(device)
        return self._device_images

    def pixels(self, images: ImageSet, rows: Tensor) -> Tensor:
        """Whole images at the encoder's size, uint8, (rows, channels, height, width)."""
        if images.images is None:
            return decode_resized(images, rows, self.data.size)
        return resized(images.images[rows], self.data.size)

    def sample(self, count: int, seed: int) -> Tensor:
        """Up to `count` random pretraining images at the encoder's size, uint8."""
        chosen = torch.randperm(len(self), generator=seeded(seed, 4, 0))[:count]
        return self.pixels(self.everything, self.train_rows[chosen])

    def monitor(self, count: int) -> tuple[Tensor, Tensor | None]:
        """Held-out images (pretraining images where none are held out) and their labels."""
        rows = (self.held_rows if len(self.held_rows) >= 50 else self.train_rows)[:count]
        labels = self.everything.labels
        return self.pixels(self.everything, rows), None if labels is None else labels[rows]

    def statistics(self, folder: Path | None = None) -> tuple[list[float], list[float]]:
        """Mean and standard deviation per channel in 0..1, of up to 10,000 pretraining images.

        Args:
            folder: of the run, where those of images that stay on disk are kept: a run that goes on
                decodes nothing for them. None for nowhere.
        """
        path = None
        if folder is not None and self.images is None:
            path = folder / "statistics.safetensors"
        settings = json.dumps([asdict(self.data), len(self)])
        found = read_stamped(path, settings)
        if found is None:
            x = self.sample(10_000, 0).float() / 255
            found = {"mean": x.mean((0, 2, 3)), "std": x.std((0, 2, 3)).clamp_min(1e-3)}
            write_stamped(path, found, settings)
        return found["mean"].tolist(), found["std"].tolist()
