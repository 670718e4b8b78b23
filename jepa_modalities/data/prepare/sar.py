"""SAR chips of any source -> one HDF5 file that `read_chips` opens at once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from jepa_modalities.data.container import write_text
from jepa_modalities.data.prepare.part import Prepared, Progress
from jepa_modalities.data.sar.canvas import place
from jepa_modalities.data.sar.mstar import index_mstar
from jepa_modalities.data.sar.source import Decoded, Options, expand, read_source, splits

BLOCK = 256  # chips that are compressed together


def prepare_chips(
    source: str | Path,
    out: str | Path,
    size: int | tuple[int, int] | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    workers: int | None = None,
    progress: Progress | None = None,
    *,
    index: str | Path | None = None,
) -> Prepared:
    """Pack chips into HDF5, with all splits in one file.

    Data set `chips` holds magnitudes, float32 (chips, height, width), each in the middle of the
    canvas; beside it lie native `sizes`, `names`, `labels` and `split` (numbers of the names in the
    attributes `classes` and `splits`).

    Args:
        source: as `path` of `read_chips`, selectors included.
        out: the file; it appears when it is complete.
        size: of the canvas; larger chips lose their borders. None: the largest chip's.
        on_error: unreadable chips stop with a list of their names, or are left out and listed.
        workers: as other preparers take it; chips are decoded by as many threads as there are
            cores.
        progress: called with (name of the file, chips written, chips in all).
        index: as in `read_chips`.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: no usable chips, sources whose classes differ, or a selector `fit`.
    """
    canvas = (size, size) if isinstance(size, int) else size
    options = Options(index=None if index is None else Path(index), on_error=on_error)
    parts: list[tuple[str, Decoded]] = []
    for path, own in expand(source, options):
        if own.fit != "pad":
            raise ValueError(f"fit = {own.fit!r}: native pixels are stored; give fit when reading")
        known = () if own.split else splits(path, own.index)
        for split in known or (own.split or "",):
            chosen = Options(**{**vars(own), "split": split or None})
            parts.append((split, read_source(path, chosen, None)))
    if canvas is None:
        largest = np.concatenate([part.sizes for _, part in parts]).max(0)
        canvas = (int(largest[0]), int(largest[1]))
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with h5py.File(temporary, "w", libver=("v110", "v110")) as file:
            _write(file, parts, canvas, partial(progress, out.name) if progress else None)
        with temporary.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    skipped = tuple(pair for _, part in parts for pair in part.skipped)
    return Prepared({out: digest}, sum(len(part.names) for _, part in parts), skipped, 0)


def prepare_mstar(
    source: str | Path,
    out: str | Path,
    size: int | tuple[int, int] | None = 128,
    on_error: Literal["raise", "skip"] = "raise",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """The ten-class task out of raw MSTAR files (`index_mstar`), as `prepare_chips` packs it.

    Chips are cropped to 128 pixels unless told otherwise: their native size names the class. The
    index is kept beside the file as `<stem>_index.csv`.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    manifest = index_mstar(source, out.with_name(f"{out.stem}_index.csv"))
    return prepare_chips(source, out, size or 128, on_error, workers, progress, index=manifest.path)


def _write(
    file: h5py.File,
    parts: list[tuple[str, Decoded]],
    canvas: tuple[int, int],
    report: Callable[[int, int], None] | None = None,
) -> None:
    classes = {part.classes for _, part in parts}
    if len(classes) > 1:
        raise ValueError(
            f"the sources have different classes ({sorted(classes)}); prepare one file each and "
            f"read them together"
        )
    images = [image for _, part in parts for image in part.images]
    rows = min(BLOCK, len(images))
    options: dict[str, Any] = {"chunks": (rows, *canvas), "compression": "gzip", "shuffle": True}
    chips = file.create_dataset("chips", (len(images), *canvas), np.float32, **options)
    for first in range(0, len(images), rows):
        block = [place(image, canvas, "pad") for image in images[first : first + rows]]
        chips[first : first + rows] = np.stack(block)
        if report is not None:
            report(first + len(block), len(images))
    file["sizes"] = np.concatenate([part.sizes for _, part in parts])
    names = [name.encode(errors="replace") for _, part in parts for name in part.names]
    file["names"] = np.array(names, np.bytes_)
    write_text(file, "quantity", "amplitude")
    (known,) = classes
    if wrong := [name for name in known if "," in name]:
        raise ValueError(f"class {wrong[0]!r} has a comma in its name; rename it")
    if known:
        number = {name: label for label, name in enumerate(known)}
        labels = [number[label] for _, part in parts for label in part.labels or ()]
        file["labels"] = np.array(labels, np.int64)
        write_text(file, "classes", ",".join(known))
    found = list(dict.fromkeys(split for split, _ in parts))
    if any(found):
        file["split"] = np.repeat(
            [found.index(split) for split, _ in parts], [len(part.names) for _, part in parts]
        )
        write_text(file, "splits", ",".join(split or "train" for split in found))
