"""The HDF5 file of prepared images: written whole or not at all, the same bytes every time."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from jepa_modalities.data.container import open_container, write_text
from jepa_modalities.data.prepare.part import Entry

BLOCK = 64 << 20  # bytes that are copied at a time
# The oldest format that takes attributes above 64 KiB (thousands of class names).
FORMAT = ("v110", "v110")

Skipped = tuple[tuple[str, str], ...]


def write_hdf5(
    out: Path,
    payload: Path,
    entries: Sequence[Entry],
    skipped: Skipped,
    settings: Mapping[str, Any],
    fingerprint: str,
) -> None:
    """Write `images`, `labels`, `names` (pixels) or `webp`, `offset`, `label`, `name` (files).

    Args:
        out: the file, which appears when it is complete.
        payload: pixels or encoded images, one after the other.
        entries: name, label, sha256 and end in the payload, one per image in it.
        skipped: name and reason of what was left out.
        settings: size (None for encoded files), channels, split and classes.
        fingerprint: what `finished` compares.
    """
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    pixels = settings["size"] is not None
    try:
        with h5py.File(temporary, "w", libver=FORMAT) as file:
            if pixels:
                shape = (len(entries), *settings["size"], settings["channels"])
                _copy(payload, file.create_dataset("images", shape, np.uint8))
            else:
                ends = np.array([0, *(entry["end"] for entry in entries)], np.int64)
                _copy(payload, file.create_dataset("webp", (int(ends[-1]),), np.uint8))
                file["offset"] = ends
            if settings["classes"]:
                labels = np.array([entry["label"] for entry in entries], np.int64)
                file["labels" if pixels else "label"] = labels
                write_text(file, "classes", ",".join(settings["classes"]))
            file["names" if pixels else "name"] = fixed_width([entry["name"] for entry in entries])
            file["sha256"] = fixed_width([entry["sha256"] for entry in entries])
            if skipped:
                file["skipped"] = fixed_width([name for name, _ in skipped])
                file["skipped_reason"] = fixed_width([reason for _, reason in skipped])
            if settings["split"]:
                write_text(file, "split", settings["split"])
            write_text(file, "encoding", "pixels" if pixels else "source files")
            write_text(file, "fingerprint", fingerprint)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


def fixed_width(values: Sequence[str]) -> Any:
    """UTF-8 of fixed width: unlike HDF5's variable strings, the same bytes every time."""
    return np.array([value.encode(errors="replace") for value in values], np.bytes_)


def _copy(payload: Path, dataset: h5py.Dataset) -> None:
    """The payload's bytes as the dataset's content, a block of rows at a time."""
    source = np.memmap(payload, np.uint8, "r", shape=dataset.shape)
    row = int(np.prod(dataset.shape[1:], dtype=np.int64))
    rows = max(1, BLOCK // row)
    for low in range(0, len(source), rows):
        dataset[low : low + rows] = source[low : low + rows]


def made_before(path: Path, fingerprint: str, key: str) -> tuple[int, Skipped] | None:
    """Number of records and what was left out, where `path` has this fingerprint; else None.

    Args:
        path: of the file.
        fingerprint: of sources and settings.
        key: text that every record has, such as "sha256".
    """
    try:
        with open_container(path) as file:
            if file.text("fingerprint") != fingerprint:
                return None
            skipped: Skipped = ()
            if "skipped" in file:
                both = (file.texts(name).tolist() for name in ("skipped", "skipped_reason"))
                skipped = tuple(zip(*both, strict=True))
            return len(file.dataset(key, "S")), skipped
    except (FileNotFoundError, ValueError):  # damaged, or not ours
        return None
