"""Open prepared HDF5 files of recordings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from jepa_modalities.data.ecg.layout import LAYOUT
from jepa_modalities.data.ecg.records import (
    PER_RECORD,
    Annotations,
    ECGRecords,
    Stretch,
    to_text,
)

__all__ = ["Annotations", "ECGRecords", "memory_records", "open_records"]


def open_records(path: str | Path | Sequence[str | Path]) -> ECGRecords:
    """Open files that `jm prepare` made from recordings.

    Labels of several files are joined by name: a class that a file does not know is 0 there.

    Args:
        path: a file, a pattern such as `ecg_*.h5`, or several of them.

    Raises:
        FileNotFoundError: no file there.
        ValueError: not such a file.
    """
    given = [path] if isinstance(path, str | Path) else list(path)
    files: list[Path] = []
    for item in given:
        there = [Path(item)] if Path(item).is_file() else [Path(p) for p in sorted(glob(str(item)))]
        if not there:
            raise FileNotFoundError(
                f"no file {item}; make one with `jm prepare ptbxl|cinc2021|wfdb|... SOURCE {item}`"
            )
        files += there
    parts = [_open(file) for file in files]
    return parts[0] if len(parts) == 1 else _joined(parts)


def memory_records(
    signals: NDArray[np.int16],
    fs: float,
    leads: Sequence[str],
    gain: float,
    *,
    unit: str = "mV",
    source: str = "memory",
    labels: NDArray[np.uint8] | None = None,
    label_names: Sequence[str] = (),
    fold: NDArray[np.int64] | None = None,
) -> ECGRecords:
    """Recordings of one length that are in memory, behind the same interface as files.

    Args:
        signals: int16 (records, samples, leads).
        fs: Hz.
        leads: standard names.
        gain: integers per unit.
        unit: of the signals.
        source: data set.
        labels: uint8 (records, classes).
        label_names: of the classes.
        fold: (records,); -1 for all if not given.

    Raises:
        ValueError: arrays that do not fit each other.
    """
    count, length, width = signals.shape
    if len(leads) != width or (labels is not None and labels.shape != (count, len(label_names))):
        raise ValueError(
            f"signals of shape {signals.shape} with {len(leads)} leads and labels of shape "
            f"{None if labels is None else labels.shape} for {len(label_names)} classes do not fit"
        )
    flat = np.ascontiguousarray(signals).reshape(-1, width)
    zeros, empty = np.zeros(count, np.int64), np.full(count, "")
    return ECGRecords(
        record_id=np.array([f"{source}-{row:06d}" for row in range(count)]),
        source=np.full(count, source),
        patient_id=empty,
        fold=np.full(count, -1) if fold is None else np.asarray(fold, np.int64),
        fs=np.full(count, float(fs)),
        length=np.full(count, length),
        lead_names=tuple(leads),
        lead_index=np.tile(np.arange(width), (count, 1)),
        gain=np.full((count, width), float(gain)),
        baseline=np.zeros((count, width)),
        unit=np.full((count, width), unit),
        labels=labels,
        label_names=tuple(label_names),
        age=np.full(count, np.nan, np.float32),
        sex=np.full(count, -1),
        comments=empty,
        label_table={},
        stretches=(Stretch(None, None, flat.shape, length, flat),),
        stretch=zeros,
        start=np.arange(count) * length,
        ann_start=zeros,
        ann_length=zeros,
    )


def _open(path: Path) -> ECGRecords:
    try:
        file = h5py.File(path)
    except OSError as error:
        raise ValueError(f"{path} is not a complete HDF5 file ({error}); make it again") from error
    with file:
        found = file.attrs.get("layout")
        if found != LAYOUT:
            raise ValueError(
                f"{path} has layout {found!r}, expected {LAYOUT!r}: it was not made by `jm "
                f"prepare` from recordings, or by another version; make it again"
            )
        signals = file["signals"]
        count = len(file["record_id"])
        equal = signals.ndim == 3
        length = int(signals.shape[1]) if equal else None
        shape = (count * length, signals.shape[2]) if length is not None else signals.shape
        piece = Stretch(path.absolute(), _place(signals), shape, length)
        if length is not None:
            starts, lengths = np.arange(count) * length, np.full(count, length, np.int64)
        else:
            starts, lengths = file["starts"][:], file["lengths"][:]
        zeros = np.zeros(count, np.int64)
        return ECGRecords(
            record_id=to_text(file["record_id"][:]),
            source=to_text(file["source"][:]),
            patient_id=to_text(file["patient_id"][:]),
            fold=file["fold"][:].astype(np.int64),
            fs=file["fs"][:],
            length=lengths,
            lead_names=tuple(to_text(np.asarray(file.attrs["lead_names"])).tolist()),
            lead_index=file["lead_index"][:].astype(np.int64),
            gain=file["gain"][:],
            baseline=file["baseline"][:].astype(np.float64),
            unit=to_text(file["unit"][:]),
            labels=file["labels"][:] if "labels" in file else None,
            label_names=tuple(to_text(file["label_names"][:]).tolist()) if "labels" in file else (),
            age=file["age"][:],
            sex=file["sex"][:].astype(np.int64),
            comments=to_text(file["comments"][:]),
            label_table=json.loads(file.attrs.get("label_table", "{}")),
            stretches=(piece,),
            stretch=zeros,
            start=starts.astype(np.int64),
            ann_start=file["ann_starts"][:],
            ann_length=file["ann_lengths"][:],
        )


def _place(signals: h5py.Dataset) -> int | None:
    """Byte of the first sample where all samples lie one after the other in the file, else None."""
    if signals.chunks is None:
        offset = signals.id.get_offset()
        return None if offset is None else int(offset)
    if signals.compression is not None or signals.shuffle or 0 in signals.shape:
        return None
    if signals.chunks != (1, *signals.shape[1:]):
        return None
    ends = [signals.id.get_chunk_info_by_coord((row, 0, 0)) for row in (0, len(signals) - 1)]
    step = int(np.prod(signals.shape[1:])) * signals.dtype.itemsize
    # Chunks are allocated early and in order, so that first and last settle all between them.
    if ends[1].byte_offset - ends[0].byte_offset != step * (len(signals) - 1):
        return None
    return int(ends[0].byte_offset)


def _joined(parts: Sequence[ECGRecords]) -> ECGRecords:
    leads = list(dict.fromkeys(lead for part in parts for lead in part.lead_names))
    classes = list(dict.fromkeys(name for part in parts for name in part.label_names))
    width = max(part.lead_index.shape[1] for part in parts)
    columns: dict[str, list[Any]] = {name: [] for name in PER_RECORD}
    stretches: list[Stretch] = []
    for part in parts:
        renamed = np.array([*(leads.index(lead) for lead in part.lead_names), -1])
        labels = np.zeros((len(part), len(classes)), np.uint8)
        if part.labels is not None and part.label_names:
            labels[:, [classes.index(name) for name in part.label_names]] = part.labels
        wide = {
            "lead_index": _widened(renamed[part.lead_index], width, -1),
            "gain": _widened(part.gain, width, 1),
            "baseline": _widened(part.baseline, width, 0),
            "unit": _widened(part.unit, width, ""),
            "stretch": part.stretch + len(stretches),
            "labels": labels,
        }
        for name, values in columns.items():
            values.append(wide[name] if name in wide else getattr(part, name))
        stretches += part.stretches
    joined: dict[str, Any] = {name: np.concatenate(v) for name, v in columns.items()}
    if not classes:
        joined["labels"] = None
    return ECGRecords(
        **joined,
        lead_names=tuple(leads),
        label_names=tuple(classes),
        label_table={k: v for part in parts for k, v in part.label_table.items()},
        stretches=tuple(stretches),
    )


def _widened(values: NDArray[Any], width: int, fill: Any) -> NDArray[Any]:
    more = width - values.shape[1]
    return np.pad(values, ((0, 0), (0, more)), constant_values=fill) if more else values
