"""Images in HDF5: concatenated encoded images, or a plain array."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jepa_modalities.data.array import from_array, to_labels
from jepa_modalities.data.container import Container, open_container
from jepa_modalities.data.decode import Channels, EncodedImages
from jepa_modalities.data.image import ImageSet, OnError, Resident, from_encoded

LAYOUTS = (
    "either 'webp' (uint8, encoded images one after the other) with 'offset' (images + 1) and "
    "perhaps 'label' and 'name', or 'images' (uint8, images x height x width [x channels]) with "
    "perhaps 'labels'"
)


def split_of(path: Path) -> tuple[str, ...]:
    """The file's attribute `split`, if it has one."""
    with open_container(path) as file:
        found = file.text("split")
        return () if found is None else (found,)


def read(path: Path, channels: Channels | None, on_error: OnError, resident: Resident) -> ImageSet:
    """The images of one file.

    Raises:
        ValueError: not an HDF5 file, none of the two layouts, or parts that contradict each other.
    """
    with open_container(path) as file:
        classes = tuple((file.text("classes") or "").split(","))
        classes = () if classes == ("",) else classes
        key = next((name for name in ("labels", "label") if name in file), None)
        raw = None if key is None else file.read(key, "iufbS", (0, 1, 2))
        if "images" in file:
            return from_array(file.read("images", "iuf", (3, 4)), raw, classes, path, channels)
        if "webp" not in file or "offset" not in file:
            raise ValueError(f"{path} holds {file.names() or 'nothing'}; expected {LAYOUTS}")
        encoded = _stretches(file, path)
    labels, classes = to_labels(raw, classes, len(encoded), path)
    return from_encoded(encoded, labels, classes, path, channels, on_error, resident)


def _stretches(file: Container, path: Path) -> EncodedImages:
    webp, offset = file.dataset("webp", "u"), file.read("offset", "iu").astype(np.int64)
    if webp.dtype != np.uint8:
        raise ValueError(f"{path}: 'webp' is {webp.dtype}, expected uint8; write the file again")
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
        given = file.texts("name")
        if len(given) != count:
            raise ValueError(
                f"{path}: 'name' has {len(given):,} entries for {count:,} images; write the file "
                f"again"
            )
        names = [f"{row} {name}" for row, name in enumerate(given)]
    # A contiguous dataset is a stretch of the file: any process can read it without HDF5.
    at = webp.id.get_offset()
    source = file.read("webp", "u") if at is None else path
    start = offset[:-1] + (at or 0)
    return EncodedImages((source,), np.zeros(count, np.int64), start, np.diff(offset), tuple(names))
