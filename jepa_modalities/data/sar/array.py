"""Chips in one file: NumPy arrays, and the HDF5 of `jm prepare sar`."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

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
    try:
        loaded = np.load(path, allow_pickle=False)
        if path.suffix.lower() == ".npy":
            beside = path.with_name(f"{path.stem}_labels.npy")
            return loaded, np.load(beside, allow_pickle=False) if beside.exists() else None
        with loaded:
            if "chips" not in loaded.files:
                raise ValueError(
                    f"it holds {', '.join(loaded.files) or 'nothing'}, expected 'chips' and "
                    f"perhaps 'labels'"
                )
            return loaded["chips"], loaded["labels"] if "labels" in loaded.files else None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read as a NumPy file of chips ({error}); save plain numbers with "
            f"numpy.save or numpy.savez"
        ) from error


def _prepared(path: Path, options: Options, canvas: Size | None) -> Decoded:
    with _open(path) as file:
        if not {"chips", "sizes", "names"} <= set(file):
            raise ValueError(
                f"{path} holds {sorted(file) or 'nothing'}; expected 'chips', 'sizes' and 'names', "
                f"as `jm prepare sar` writes them"
            )
        rows = _rows_of_split(file, path, options.split)
        names = tuple(name.decode() for name in file["names"][:][rows])
        sizes = file["sizes"][:][rows].astype(np.int64)
        chips = file["chips"][:][rows]
        labels, classes = None, tuple[str, ...]()
        if "labels" in file:
            classes = tuple(str(file.attrs["classes"]).split(","))
            labels = tuple(classes[number] for number in file["labels"][:][rows])
    return _usable(path, chips, sizes, labels, classes, names, options, canvas)


def prepared_splits(path: Path) -> tuple[str, ...]:
    """Names of the splits in a prepared file."""
    with _open(path) as file:
        return tuple(str(file.attrs["splits"]).split(",")) if "splits" in file.attrs else ()


def _rows_of_split(file: h5py.File, path: Path, split: str | None) -> NDArray[np.int64]:
    everything = np.arange(len(file["names"]))
    known = str(file.attrs["splits"]).split(",") if "splits" in file.attrs else []
    if split == "all" or (split is None and "train" not in known):
        return everything
    if not known and split == "train":
        return everything
    wanted = split or "train"
    if wanted not in known:
        raise ValueError(
            f"{path} has no split {wanted!r}; it has {', '.join(known) or 'none'}; give one of "
            f"them, or 'all'"
        )
    return np.flatnonzero(file["split"][:] == known.index(wanted))


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path)
    except OSError as error:
        raise ValueError(f"{path} is not a complete HDF5 file ({error}); copy it again") from error


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
