"""Images in NumPy files, and the checks of any array of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_modalities.data.archive import load_npy, load_npz
from jepa_modalities.data.decode import Channels
from jepa_modalities.data.image import ImageSet
from jepa_modalities.data.refusal import refusing

MOST_CLASSES = 1_000_000  # a label above is a mistake, and its names would fill the memory
SHAPES = "(images, height, width), or that with channels (1, 3 or 4) last or second"


def read(path: Path, channels: Channels | None) -> ImageSet:
    """An .npz file with `images` and perhaps `labels`, or an .npy file with its labels beside it.

    Raises:
        ValueError: a damaged file, missing arrays or values that are no images.
    """
    if path.suffix == ".npy":
        beside = path.with_name(f"{path.stem}_labels.npy")
        labels = load_npy(beside) if beside.exists() else None
        return from_array(load_npy(path), labels, (), path, channels)
    found = load_npz(path, "images", ("labels", "label"))
    return from_array(found["images"], found.get("labels", found.get("label")), (), path, channels)


def from_array(
    images: NDArray[Any],
    labels: NDArray[Any] | None,
    classes: tuple[str, ...],
    path: Path,
    channels: Channels | None,
) -> ImageSet:
    """Check and convert an array of images.

    Args:
        images: uint8 0..255, or float in 0..1 or 0..255; (images, height, width), with 1, 3 or 4
            (transparency) channels last or first.
        labels: integers from 0, or names; (images,).
        classes: names of the classes, where known.
        path: for messages.
        channels: as in `open_images`.

    Raises:
        ValueError: another shape or type, NaN or infinite values (naming the row), or wrong labels.
    """
    if images.ndim == 3:
        images = images[..., None]
    elif images.ndim == 4 and images.shape[-1] not in (1, 3, 4) and images.shape[1] in (1, 3, 4):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
        raise ValueError(f"{path}: images have shape {images.shape}; expected {SHAPES}")
    if 0 in images.shape:
        raise ValueError(f"{path} holds no images: shape {images.shape}")
    pixels = _to_channels(_to_bytes(images, path), channels)
    found, classes = to_labels(labels, classes, len(pixels), path)
    names = tuple(f"{path.name}[{row}]" for row in range(len(pixels)))
    depth: Channels = 1 if pixels.shape[1] == 1 else 3
    return ImageSet(pixels, found, classes, names, depth)


def to_labels(
    labels: NDArray[Any] | None, classes: tuple[str, ...], count: int, path: Path
) -> tuple[Tensor | None, tuple[str, ...]]:
    """Check labels and name the classes.

    Raises:
        ValueError: another number of labels than images, or values that are no class numbers.
    """
    if labels is None:
        return None, ()
    if labels.shape != (count,):
        raise ValueError(
            f"{path}: labels have shape {labels.shape} for {count:,} images; expected ({count},)"
        )
    if labels.dtype.kind in "SU":
        with refusing(path, "labels", "write their names as UTF-8"):
            text = np.char.decode(labels, "utf-8") if labels.dtype.kind == "S" else labels
        names, numbers = np.unique(text, return_inverse=True)
        return torch.from_numpy(numbers.astype(np.int64)), tuple(names.tolist())
    numeric = labels.dtype.kind in "iufb"
    whole = labels.astype(np.int64) if numeric else None
    if whole is None or (whole != labels).any() or (whole < 0).any():
        raise ValueError(
            f"{path}: labels must be whole numbers from 0 or names, found {labels.dtype} such as "
            f"{labels[0]!r}; leave them out if they are no classes"
        )
    top = int(whole.max()) + 1
    if top > MOST_CLASSES:
        raise ValueError(f"{path}: label {top - 1:,} is no class number; number the classes from 0")
    if classes and top > len(classes):
        raise ValueError(f"{path}: label {top - 1} but only {len(classes)} names in 'classes'")
    return torch.from_numpy(whole), classes or tuple(str(number) for number in range(top))


def _to_bytes(images: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    """0..255 from uint8 or checked floats, a block of rows at a time."""
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        raise ValueError(
            f"{path}: images are {images.dtype}; expected uint8 (0..255) or float (0..1 or 0..255)"
        )
    low, high = np.inf, -np.inf
    for start in range(0, len(images), 256):
        block = images[start : start + 256]
        bad = ~np.isfinite(block).all(axis=(1, 2, 3))
        if bad.any():
            raise ValueError(
                f"{path}: row {start + int(bad.argmax())} of images holds NaN or infinite values; "
                f"repair or remove it"
            )
        low, high = min(low, block.min()), max(high, block.max())
    if low < 0 or high > 255:
        raise ValueError(
            f"{path}: float images span {low:g} to {high:g}; expected 0 to 1 or 0 to 255 (undo any "
            f"standardisation: it is part of the encoder)"
        )
    scale = 255 if high <= 1 else 1
    result = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), 256):
        result[start : start + 256] = np.rint(images[start : start + 256] * scale)
    return result


def _to_channels(images: NDArray[np.uint8], channels: Channels | None) -> Tensor:
    """(images, height, width, 1, 3 or 4) -> (images, channels, height, width), as Pillow does."""
    parts = []
    for start in range(0, len(images), 1024):
        x = torch.from_numpy(np.ascontiguousarray(images[start : start + 1024])).permute(0, 3, 1, 2)
        if x.shape[1] == 4:  # on white, as transparent files
            alpha = x[:, 3:].int()
            x = ((x[:, :3].int() * alpha + 255 * (255 - alpha) + 127) // 255).to(torch.uint8)
        if channels == 1 and x.shape[1] == 3:
            red, green, blue = x.int().unbind(1)  # ITU-R 601 luma in 16-bit fixed point
            luma = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
            x = luma[:, None].to(torch.uint8)
        if channels == 3 and x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        parts.append(x.contiguous())
    return torch.cat(parts)
