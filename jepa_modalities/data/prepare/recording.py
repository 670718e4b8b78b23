"""The HDF5 file of recordings: written whole or not at all, the same bytes every time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from jepa_modalities.data.container import write_text
from jepa_modalities.data.ecg.layout import LAYOUT
from jepa_modalities.data.ecg.lead import STANDARD_LEADS
from jepa_modalities.data.prepare.part import Entry
from jepa_modalities.data.prepare.record import FORMAT, Skipped, fixed_width

BLOCK = 64 << 20  # bytes that are copied at a time
ROWS = 1 << 14  # rows per compressed chunk where lengths differ


def write_recordings(
    out: Path,
    payload: Path,
    entries: Sequence[Entry],
    skipped: Skipped,
    settings: Mapping[str, Any],
    about: Mapping[str, str],
) -> None:
    """Write the layout of `data.ecg.layout`.

    Args:
        out: the file, which appears when it is complete.
        payload: int16 (samples, leads) of each recording, one after the other.
        entries: one per recording in the payload, as `data.prepare.ecg.entry_of` makes them.
        skipped: name and reason of what was left out.
        settings: `labels` (class names, or None for those that occur) and `compress`.
        about: further attributes.
    """
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with h5py.File(temporary, "w", libver=FORMAT) as file:
            write_text(file, "layout", LAYOUT)
            for name, text in about.items():
                write_text(file, name, text)
            _write_signals(file, payload, entries, bool(settings["compress"]))
            _write_columns(file, entries)
            _write_labels(file, entries, settings["labels"])
            _write_annotations(file, entries)
            if skipped:
                file["skipped"] = fixed_width([name for name, _ in skipped])
                file["skipped_reason"] = fixed_width([reason for _, reason in skipped])
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


def _write_signals(
    file: h5py.File, payload: Path, entries: Sequence[Entry], compress: bool
) -> None:
    width = max(len(entry["leads"]) for entry in entries)
    lengths = np.array([entry["length"] for entry in entries], np.int64)
    equal = len(set(lengths.tolist())) == 1
    if equal:
        shape: tuple[int, ...] = (len(entries), int(lengths[0]), width)
        chunk: tuple[int, ...] | None = (1, *shape[1:])
    else:
        shape = (int(lengths.sum()), width)
        chunk = (min(ROWS, shape[0]), width) if compress else None
        file["starts"] = np.cumsum(lengths) - lengths
        file["lengths"] = lengths
    choice = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    choice.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    choice.set_obj_track_times(False)  # the same bytes every time
    if chunk is not None:
        choice.set_chunk(chunk)
    if compress:
        choice.set_shuffle()
        choice.set_deflate(4)
    else:  # all at once, in order: the reader maps the file without asking HDF5 for each record
        choice.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, b"signals", h5py.h5t.STD_I16LE, space, choice)
    signals = file["signals"]
    at = 0
    for block in _blocks(payload, entries, width):
        if equal:
            count = len(block) // shape[1]
            signals[at : at + count] = block.reshape(count, *shape[1:])
            at += count
        else:
            signals[at : at + len(block)] = block
            at += len(block)


def _blocks(payload: Path, entries: Sequence[Entry], width: int) -> Iterator[NDArray[np.int16]]:
    """Whole recordings, filled up to `width` columns, about `BLOCK` bytes at a time."""
    source = np.memmap(payload, "<i2", "r")
    waiting: list[NDArray[np.int16]] = []
    size = at = 0
    for entry in entries:
        count = entry["length"] * len(entry["leads"])
        signal = source[at : at + count].reshape(entry["length"], -1)
        at += count
        waiting.append(np.pad(signal, ((0, 0), (0, width - signal.shape[1]))))
        size += waiting[-1].nbytes
        if size >= BLOCK:
            yield np.concatenate(waiting)
            waiting, size = [], 0
    if waiting:
        yield np.concatenate(waiting)


def _write_columns(file: h5py.File, entries: Sequence[Entry]) -> None:
    width = max(len(entry["leads"]) for entry in entries)
    found = {lead for entry in entries for lead in entry["leads"]}
    names = [lead for lead in STANDARD_LEADS if lead in found]
    names += sorted(found - set(names))
    number = {lead: place for place, lead in enumerate(names)}
    index = np.full((len(entries), width), -1, np.int16)
    gain = np.ones((len(entries), width), np.float64)
    baseline = np.zeros((len(entries), width), np.int32)
    unit = np.full((len(entries), width), "", object)
    for row, entry in enumerate(entries):
        columns = slice(0, len(entry["leads"]))
        index[row, columns] = [number[lead] for lead in entry["leads"]]
        gain[row, columns], baseline[row, columns] = entry["gain"], entry["baseline"]
        unit[row, columns] = entry["unit"]
    file.attrs["lead_names"] = fixed_width(names)
    file["lead_index"], file["gain"], file["baseline"] = index, gain, baseline
    file["unit"] = fixed_width(unit.ravel().tolist()).reshape(unit.shape)
    for name in ("record_id", "patient_id", "source", "comments", "sha256"):
        file[name] = fixed_width([entry[name] for entry in entries])
    kinds = {"fs": np.float64, "fold": np.int16, "age": np.float32, "sex": np.int8}
    for name, kind in kinds.items():
        values = [np.nan if entry[name] is None else entry[name] for entry in entries]
        file[name] = np.array(values, kind)


def _write_labels(file: h5py.File, entries: Sequence[Entry], names: list[str] | None) -> None:
    if names is None:
        names = sorted({name for entry in entries for name in entry["labels"]})
    if not names:
        return
    number = {name: place for place, name in enumerate(names)}
    labels = np.zeros((len(entries), len(names)), np.uint8)
    for row, entry in enumerate(entries):
        labels[row, [number[name] for name in entry["labels"] if name in number]] = 1
    file["labels"], file["label_names"] = labels, fixed_width(names)


def _write_annotations(file: h5py.File, entries: Sequence[Entry]) -> None:
    lists = [entry["annotations"] or [[], [], []] for entry in entries]
    lengths = np.array([len(sample) for sample, _, _ in lists], np.int64)
    file["ann_starts"], file["ann_lengths"] = np.cumsum(lengths) - lengths, lengths
    file["ann_sample"] = np.array([s for sample, _, _ in lists for s in sample], np.int64)
    file["ann_symbol"] = fixed_width([s for _, symbol, _ in lists for s in symbol])
    file["ann_aux"] = fixed_width([a for _, _, aux in lists for a in aux])
