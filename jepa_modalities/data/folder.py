"""Images in folders: one folder per class, or flat, with or without split folders above."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from jepa_modalities.data.decode import Channels, EncodedImages
from jepa_modalities.data.image import ImageSet, OnError, Resident, from_encoded

SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".jp2",
    ".ppm",
    ".pgm",
)
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def split_folders(folder: Path) -> dict[str, Path]:
    """Split name -> sub-folder; empty where `folder` has no splits.

    Sub-folders are splits when all of them have a split's name, or when `train` stands beside `val`
    or `test`. A lone `train` among others is a class (the vehicle).
    """
    below = [child for child in _folders(folder) if next(images_below(child), None) is not None]
    names = {SPLITS.get(child.name.lower(), child.name): child for child in below}
    known = set(SPLITS.values()) & set(names)
    if known and (known == set(names) or ("train" in known and len(known) > 1)):
        return names
    return {}


def read(
    folder: Path, split: str, channels: Channels | None, on_error: OnError, resident: Resident
) -> ImageSet:
    """The images of a folder; classes are numbered in the order of their names, over all splits.

    Raises:
        ValueError: no images, class folders mixed with loose images, or unreadable images.
    """
    by_split = split_folders(folder)
    top = by_split.get(split, folder)
    files = list(images_below(top))
    if not files:
        raise ValueError(_nothing(top))
    tops = list(by_split.values()) or [folder]
    classes = sorted({file.relative_to(t).parts[0] for t in tops for file in _nested(t)})
    labels = None
    if classes:
        loose = [file for file in files if file.parent == top]
        if loose:
            raise ValueError(
                f"{top} holds both class folders ({', '.join(classes[:3])}, ...) and "
                f"{len(loose):,} loose images (such as {loose[0].name}); move the loose ones "
                f"into a class folder or away"
            )
        number = {name: label for label, name in enumerate(classes)}
        labels = torch.tensor([number[file.relative_to(top).parts[0]] for file in files])
    count = len(files)
    encoded = EncodedImages(
        tuple(files),
        np.arange(count),
        np.zeros(count, np.int64),
        np.full(count, -1, np.int64),
        tuple(file.relative_to(folder).as_posix() for file in files),
    )
    return from_encoded(encoded, labels, tuple(classes), top, channels, on_error, resident)


def images_below(folder: Path) -> Iterator[Path]:
    """All image files below `folder` by their suffix, in the order of their names."""
    for here, files in walk(folder, hidden=False):
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield here / name


def walk(folder: Path, hidden: bool = True) -> Iterator[tuple[Path, list[str]]]:
    """Every folder below `folder` (links followed) with the names of its files, in order.

    Args:
        folder: where to begin.
        hidden: go into folders whose names begin with a dot.

    Raises:
        ValueError: a link to a folder above itself, below which there would be no end.
    """
    above: dict[str, frozenset[str]] = {}
    for here, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if hidden or not name.startswith("."))
        real = os.path.realpath(here)
        trail = above.pop(here, frozenset[str]())
        if real in trail:
            raise ValueError(f"{here} is a link to {real}, a folder above it; remove the link")
        above |= dict.fromkeys((os.path.join(here, name) for name in folders), trail | {real})
        yield Path(here), sorted(files)


def _nested(folder: Path) -> Iterator[Path]:
    """One image of each sub-folder that has any."""
    for child in _folders(folder):
        first = next(images_below(child), None)
        if first is not None:
            yield first


def _folders(folder: Path) -> list[Path]:
    return sorted(c for c in folder.iterdir() if c.is_dir() and not c.name.startswith("."))


def _nothing(folder: Path) -> str:
    found = Counter(
        Path(name).suffix.lower() or "no suffix" for _, files in walk(folder) for name in files
    )
    kinds = ", ".join(f"{count:,} x {suffix}" for suffix, count in found.most_common(5))
    return (
        f"{folder} holds no images ({f'found {kinds}' if kinds else 'it is empty'}); give a folder "
        f"with files such as .jpg, .png, .webp or .tif, or with one sub-folder per class"
    )
