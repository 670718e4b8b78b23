"""`open_images`: folders, HDF5, NumPy files and digits as one `ImageSet`."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jepa_modalities.data.decode import (
    RESIDENT_BYTES,
    Channels,
    EncodedImages,
    join_encoded,
    scan,
    to_pixels,
)

OnError = Literal["raise", "skip"]
Resident = Literal["auto"] | bool
SHOWN = 10  # names in a message


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with their labels, in memory or (images of mixed or large sizes) still encoded.

    Attributes:
        images: uint8, (images, channels, height, width), or None where they are decoded on demand.
        labels: class numbers, int64, (images,), or None where there are none.
        classes: names of the classes; empty without labels.
        names: of each image, for messages.
        channels: 1 (grey) or 3 (RGB).
        encoded: where the encoded images lie, or None where `images` holds them.
        skipped: names of unreadable images that were left out.
    """

    images: Tensor | None
    labels: Tensor | None
    classes: tuple[str, ...]
    names: tuple[str, ...]
    channels: Channels
    encoded: EncodedImages | None = None
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, rows: Tensor | Sequence[int]) -> ImageSet:
        """The images `rows` (numbers, not a mask), in that order."""
        index = torch.as_tensor(rows, dtype=torch.long)
        numbers = index.tolist()
        return ImageSet(
            None if self.images is None else self.images[index],
            None if self.labels is None else self.labels[index],
            self.classes,
            tuple(self.names[row] for row in numbers),
            self.channels,
            None if self.encoded is None else self.encoded.subset(numbers),
            self.skipped,
        )

    def open(self, row: int, at_least: tuple[float, float] | None = None) -> Image.Image:
        """One image as 8-bit grey or RGB.

        Args:
            row: number of the image.
            at_least: JPEGs may be decoded smaller, but not below this (height, width) in pixels:
                several times faster for photographs.

        Raises:
            OSError: the file changed or vanished since it was opened; the message names it.
        """
        if self.images is not None:
            pixels = self.images[row].permute(1, 2, 0).numpy()
            return Image.fromarray(pixels[..., 0] if self.channels == 1 else pixels)
        assert self.encoded is not None
        try:
            image = self.encoded.open(row)
            if at_least is not None:
                side = int(np.ceil(max(at_least)))  # EXIF may swap the sides
                image.draft(None, (side, side))
            return to_pixels(image, self.channels)
        except Exception as error:
            raise OSError(f"{self.names[row]} can no longer be read: {error}") from error


def open_images(
    path: str | Path,
    split: str | None = None,
    *,
    channels: Channels | None = 3,
    on_error: OnError = "raise",
    resident: Resident = "auto",
) -> ImageSet:
    """Open images of any supported kind; everything unreadable is reported here, before training.

    Args:
        path: a folder (class folders or flat, with or without `train`, `val`, `test` below), an .h5
            file (`webp`, `offset`, `label`; or `images`, `labels`), an .npy file (labels beside it
            in `<stem>_labels.npy`) or an .npz file (`images`, `labels`). Several, joined by commas
            or named by a pattern such as `cifar10_train_*.h5`, are put one after the other.
        split: which part. None: `train` where there are splits. `test` means `val` where there is
            no `test`. Data without splits count as `train`.
        channels: 1 converts to grey, 3 to RGB, None keeps grey only where all images are grey.
        on_error: unreadable images stop with a list of their names, or are left out and counted.
        resident: keep decoded pixels in memory. "auto": where all have one size and up to 2 GiB;
            arrays always are.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: no usable images; the message names the file and the remedy.
    """
    from jepa_modalities.data import array, folder, hdf5

    parts = _expand(path)
    found = [_part_splits(part) or ("train",) for part in parts]
    chosen = choose_split(tuple(dict.fromkeys(s for some in found for s in some)), split, path)
    sets = []
    for part, available in zip(parts, found, strict=True):
        if chosen not in available:
            continue
        if part.is_dir():
            sets.append(folder.read(part, chosen, channels, on_error, resident))
        elif part.suffix == ".npy" or part.suffix == ".npz":
            sets.append(array.read(part, channels))
        else:
            sets.append(hdf5.read(part, channels, on_error, resident))
    return join(sets) if len(sets) > 1 else sets[0]


def splits(path: str | Path) -> tuple[str, ...]:
    """Names of the splits that `path` holds (as in `open_images`); empty where it has none."""
    return tuple(dict.fromkeys(name for part in _expand(path) for name in _part_splits(part)))


def choose_split(available: tuple[str, ...], split: str | None, path: str | Path) -> str:
    """The split to read.

    Raises:
        ValueError: it is not there, or cannot be guessed.
    """
    if split is None:
        if "train" in available or len(available) == 1:
            return "train" if "train" in available else available[0]
    elif split in available:
        return split
    elif split == "test" and "val" in available:
        return "val"
    wanted = "none was named" if split is None else f"not {split!r}"
    raise ValueError(
        f"{path} has the split(s) {', '.join(available)}, {wanted}; name one of them, or give the "
        f"other images with --data.test-path"
    )


def digits() -> tuple[ImageSet, ImageSet]:
    """The 8 x 8 digits of scikit-learn (no download): 1,200 for development and 597 for the test.

    The split is the same always: `RandomState(0).permutation(1797)`, of which the first 1,080 are
    for training, the next 120 to hold out, the last 597 to test. Grey values 0..16 become 0..255.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.RandomState(0).permutation(len(bunch.images))
    pixels = np.rint(bunch.images[order] * (255 / 16)).astype(np.uint8)
    everything = ImageSet(
        torch.from_numpy(pixels)[:, None],
        torch.from_numpy(bunch.target[order].astype(np.int64)),
        tuple(str(name) for name in bunch.target_names),
        tuple(f"digits[{row}]" for row in order),
        1,
    )
    rows = torch.arange(len(everything))
    return everything.subset(rows[:1200]), everything.subset(rows[1200:])


def from_encoded(
    encoded: EncodedImages,
    labels: Tensor | None,
    classes: tuple[str, ...],
    where: Path,
    channels: Channels | None,
    on_error: OnError,
    resident: Resident,
) -> ImageSet:
    """Verify encoded images by decoding all of them once, and keep the pixels if that is wanted.

    Raises:
        ValueError: unreadable images, or `resident=True` with images of different sizes.
    """
    budget = {True: float("inf"), False: 0.0, "auto": float(RESIDENT_BYTES)}[resident]
    found = scan(encoded, channels or 3, budget)
    if resident is True and found.pixels is None and found.sizes:
        sizes = ", ".join(f"{height} x {width}" for height, width in found.sizes[:3])
        raise ValueError(
            f"{where} holds images of different sizes ({sizes}, ...), which cannot be one array in "
            f"memory; use resident='auto'"
        )
    if found.failed:
        _report(encoded, found.failed, where, on_error)
    kept = [row for row in range(len(encoded)) if row not in found.failed]
    colour_channels: Channels = channels or (3 if found.colour else 1)
    everything = ImageSet(
        None if found.pixels is None else torch.from_numpy(found.pixels)[:, :colour_channels],
        labels,
        classes,
        encoded.names,
        colour_channels,
        encoded if found.pixels is None else None,
        tuple(encoded.names[row] for row in sorted(found.failed)),
    )
    return everything.subset(kept) if found.failed else everything


def _report(encoded: EncodedImages, failed: dict[int, str], where: Path, on_error: str) -> None:
    if on_error == "skip" and len(failed) < len(encoded):
        return
    shown = [f"  {encoded.names[row]}: {failed[row]}" for row in sorted(failed)[:SHOWN]]
    more = [f"  and {len(failed) - SHOWN:,} more"] if len(failed) > SHOWN else []
    remedy = (
        "none is left to train on"
        if len(failed) == len(encoded)
        else "repair or remove them, or leave them out with --data.on-error skip"
    )
    head = f"{len(failed):,} of {len(encoded):,} images in {where} cannot be read:"
    raise ValueError("\n".join([head, *shown, *more, remedy]))


def join(sets: Sequence[ImageSet]) -> ImageSet:
    """Several sets as one, in order.

    Raises:
        ValueError: their classes, sizes or channels differ, or only some have labels.
    """
    first = sets[0]
    for other in sets[1:]:
        pair = f"{first.names[0]} and {other.names[0]} belong to sets that cannot be joined: "
        if first.classes != other.classes or (first.labels is None) != (other.labels is None):
            raise ValueError(pair + f"classes {first.classes or 'none'}, {other.classes or 'none'}")
        if first.channels != other.channels or (first.images is None) != (other.images is None):
            raise ValueError(pair + "give channels 1 or 3, and resident False for mixed sizes")
        if first.images is not None and other.images is not None:
            shapes = tuple(first.images.shape[1:]), tuple(other.images.shape[1:])
            if shapes[0] != shapes[1]:
                raise ValueError(pair + f"shapes {shapes[0]} and {shapes[1]}")
    return ImageSet(
        None
        if first.images is None
        else torch.cat([s.images for s in sets if s.images is not None]),
        None
        if first.labels is None
        else torch.cat([s.labels for s in sets if s.labels is not None]),
        first.classes,
        tuple(name for s in sets for name in s.names),
        first.channels,
        join_encoded([s.encoded for s in sets if s.encoded is not None]) if first.encoded else None,
        tuple(name for s in sets for name in s.skipped),
    )


def _expand(path: str | Path) -> list[Path]:
    """Existing files or folders that `path` names: one, several by commas, or a pattern."""
    whole = Path(path).expanduser()
    if str(path) and whole.exists():
        _check_kind(whole)
        return [whole]
    parts: list[Path] = []
    for piece in (text.strip() for text in str(path).split(",")):
        given = Path(piece).expanduser()
        if not piece:
            raise FileNotFoundError(f"data.path = {str(path)!r} has an empty part; name a file")
        matches = [given] if given.exists() else [Path(p) for p in sorted(glob.glob(str(given)))]
        if not matches:
            above = next(parent for parent in given.absolute().parents if parent.exists())
            raise FileNotFoundError(
                f"data.path: {piece!r} does not exist (there is {above}); give a folder of images "
                f"or an .h5, .npy or .npz file with --data.path, or set the variable JEPA_DATA to "
                f"the folder of the data sets"
            )
        parts += matches
    for part in parts:
        _check_kind(part)
    return parts


def _check_kind(part: Path) -> None:
    if part.is_dir() or part.suffix in (".h5", ".hdf5", ".npy", ".npz"):
        return
    raise ValueError(
        f"data.path: {part} is a file of kind {part.suffix or '(none)'!r}; give a folder of images "
        f"(here: {part.parent}) or an .h5, .npy or .npz file"
    )


def _part_splits(part: Path) -> tuple[str, ...]:
    from jepa_modalities.data import folder, hdf5

    if part.is_dir():
        return tuple(folder.split_folders(part))
    return hdf5.split_of(part) if part.suffix in (".h5", ".hdf5") else ()
