"""Images in HDF5: concatenated encoded images, or a plain array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from jepa_modalities.data.array import from_array, to_labels
from jepa_modalities.data.decode import Channels, EncodedImages
from jepa_modalities.data.image import ImageSet, OnError, Resident, from_encoded

LAYOUTS = (
    "either 'webp' (uint8, encoded images one after the other) with 'offset' (images + 1) and "
    "perhaps 'label' and 'name', or 'images' (uint8, images x height x width [x channels]) with "
    "perhaps 'labels'"
)


def split_of(path: Path) -> tuple[str, ...]:
    """The file's attribute `split`, if it has one."""
    with _open(path) as file:
        return (_text(file.attrs["split"]),) if "split" in file.attrs else ()


def read(path: Path, channels: Channels | None, on_error: OnError, resident: Resident) -> ImageSet:
    """The images of one file.

    Raises:
        ValueError: not an HDF5 file, none of the two layouts, or parts that contradict each other.
    """
    with _open(path) as file:
        classes = tuple(_text(file.attrs["classes"]).split(",")) if "classes" in file.attrs else ()
        key = next((name for name in ("labels", "label") if name in file), None)
        raw = None if key is None else file[key][:]
        if "images" in file:
            return from_array(file["images"][:], raw, classes, path, channels)
        if "webp" not in file or "offset" not in file:
            raise ValueError(f"{path} holds {sorted(file) or 'nothing'}; expected {LAYOUTS}")
        encoded = _stretches(file, path)
    labels, classes = to_labels(raw, classes, len(encoded), path)
    return from_encoded(encoded, labels, classes, path, channels, on_error, resident)


def _stretches(file: h5py.File, path: Path) -> EncodedImages:
    webp, offset = file["webp"], file["offset"][:].astype(np.int64)
    if len(offset) < 2:
        raise ValueError(f"{path} holds no images: 'offset' has {len(offset)} entries")
    if offset[0] != 0 or offset[-1] != webp.shape[0] or (np.diff(offset) < 0).any():
        raise ValueError(
            f"{path}: 'offset' must rise from 0 to the {webp.shape[0]:,} bytes of 'webp', but goes "
            f"from {offset[0]:,} to {offset[-1]:,}; write the file again"
        )
    count = len(offset) - 1
    names = [f"{path.name}[{row}]" for row in range(count)]
    if "name" in file:
        given: NDArray[Any] = file["name"][:]
        names = [f"{row} {_text(name)}" for row, name in zip(names, given, strict=True)]
    # A contiguous dataset is a stretch of the file: any process can read it without HDF5.
    at = webp.id.get_offset()
    source = webp[:] if at is None else path
    start = offset[:-1] + (at or 0)
    return EncodedImages((source,), np.zeros(count, np.int64), start, np.diff(offset), tuple(names))


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path)
    except OSError as error:
        raise ValueError(f"{path} is not a complete HDF5 file ({error}); copy it again") from error


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
