"""Chips in one file: NumPy arrays, and the HDF5 of `jm prepare sar`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_modalities.data.archive import load_npy, load_npz
from jepa_modalities.data.container import Container, open_container
from jepa_modalities.data.sar.canvas import overlap
from jepa_modalities.data.sar.decode import to_magnitude
from jepa_modalities.data.sar.source import PREPARED, Decoded, Options, Size, checked, report


def read_array(path: Path, options: Options, canvas: Size | None) -> Decoded:
    """Chips of an .npy, .npz (`chips`, perhaps `labels`) or prepared .h5 file.

    Raises:
        ValueError: a damaged file, missing arrays, or unusable chips.
    """
    if options.where or options.index is not None:
        raise ValueError(f"{path} has no index; leave index and selectors of its columns out")
    if path.suffix.lower() in PREPARED:
        return _prepared(path, options, canvas)
    chips, labels = _numpy(path)
    if chips.ndim not in (3, 4):
        raise ValueError(
            f"{path}: chips have shape {chips.shape}; expected (chips, height, width[, channels])"
        )
    names = tuple(f"{path.name}[{row}]" for row in range(len(chips)))
    found, classes = None, tuple[str, ...]()
    if labels is not None:
        if labels.shape != (len(chips),):
            raise ValueError(
                f"{path}: labels have shape {labels.shape} for {len(chips):,} chips; expected "
                f"({len(chips)},)"
            )
        classes = tuple(str(value) for value in np.unique(labels).tolist())
        found = tuple(str(value) for value in labels.tolist())
    sizes = np.tile(np.array(chips.shape[1:3], np.int64), (len(chips), 1))
    return _usable(path, chips, sizes, found, classes, names, options, canvas)


def _numpy(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    if path.suffix.lower() == ".npy":
        beside = path.with_name(f"{path.stem}_labels.npy")
        return load_npy(path), load_npy(beside) if beside.exists() else None
    found = load_npz(path, "chips", ("labels",))
    return found["chips"], found.get("labels")


def _prepared(path: Path, options: Options, canvas: Size | None) -> Decoded:
    with open_container(path) as file:
        if not {"chips", "sizes", "names"} <= set(file.names()):
            raise ValueError(
                f"{path} holds {file.names() or 'nothing'}; expected 'chips', 'sizes' and 'names', "
                f"as `jm prepare sar` writes them"
            )
        names, sizes = file.texts("names"), file.read("sizes", "iu", (2,)).astype(np.int64)
        chips = file.read("chips", "f", (3,))
        numbers, classes = None, tuple[str, ...]()
        if "labels" in file:
            classes = tuple((file.text("classes") or "").split(","))
            numbers = _numbers(file, "labels", len(classes))
        count = len(names)
        if sizes.shape != (count, 2) or len(chips) != count or (sizes < 1).any():
            raise ValueError(
                f"{path}: {count:,} names, {len(chips):,} chips and sizes of shape {sizes.shape} "
                f"(from {sizes.min(initial=1)} pixels) do not fit each other; prepare it again"
            )
        if numbers is not None and len(numbers) != count:
            raise ValueError(f"{path}: {len(numbers):,} labels for {count:,} chips")
        rows = _rows_of_split(file, count, options.split)
    found = None if numbers is None else tuple(classes[number] for number in numbers[rows])
    kept = tuple(names[rows].tolist())
    return _usable(path, chips[rows], sizes[rows], found, classes, kept, options, canvas)


def prepared_splits(path: Path) -> tuple[str, ...]:
    """Names of the splits in a prepared file."""
    with open_container(path) as file:
        return _splits(file)


def _splits(file: Container) -> tuple[str, ...]:
    found = file.text("splits")
    return () if found is None else tuple(found.split(","))


def _numbers(file: Container, name: str, most: int) -> NDArray[np.int64]:
    """Whole numbers from 0 to below `most`."""
    found = file.read(name, "iu").astype(np.int64)
    if ((found < 0) | (found >= most)).any():
        raise ValueError(
            f"{file.path}: {name!r} goes from {found.min()} to {found.max()}, but has names for 0 "
            f"to {most - 1}; prepare it again"
        )
    return found


def _rows_of_split(file: Container, count: int, split: str | None) -> NDArray[np.int64]:
    known = _splits(file)
    if split == "all" or (split is None and "train" not in known):
        return np.arange(count)
    if not known and split == "train":
        return np.arange(count)
    wanted = split or "train"
    if wanted not in known:
        raise ValueError(
            f"{file.path} has no split {wanted!r}; it has {', '.join(known) or 'none'}; give one "
            f"of them, or 'all'"
        )
    numbers = _numbers(file, "split", len(known))
    if len(numbers) != count:
        raise ValueError(f"{file.path}: 'split' has {len(numbers):,} entries for {count:,} chips")
    return np.flatnonzero(numbers == known.index(wanted))


def _usable(
    path: Path,
    chips: NDArray[Any],
    sizes: NDArray[np.int64],
    labels: tuple[str, ...] | None,
    classes: tuple[str, ...],
    names: tuple[str, ...],
    options: Options,
    canvas: Size | None,
) -> Decoded:
    """Chips of an array as magnitudes."""
    images, rows, extents, skipped = [], [], [], []
    for row, (chip, (height, width)) in enumerate(zip(chips, sizes, strict=True)):
        # Take the padding off: a prepared chip lies in the middle of its canvas.
        (filled_rows, _), (filled_columns, _) = (
            overlap(side, chip.shape[axis]) for axis, side in enumerate((height, width))
        )
        native = chip[filled_rows, filled_columns]
        try:
            pixels = to_magnitude(native, options.quantity, options.channel)
            images.append(checked(pixels, options, canvas))
            rows.append(row)
            extents.append(native.shape[:2])
        except ValueError as error:
            skipped.append((names[row], str(error)))
    report(skipped, len(rows), path, options.on_error)
    if not rows:
        raise ValueError(f"{path} holds no chips: shape {chips.shape}")
    found = None if labels is None else tuple(labels[row] for row in rows)
    kept = tuple(names[row] for row in rows)
    extent = np.array(extents, np.int64)
    return Decoded(images, sizes[rows], extent, found, classes, kept, tuple(skipped))
