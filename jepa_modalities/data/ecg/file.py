"""Open prepared HDF5 files of recordings."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from jepa_modalities.data.container import open_container, to_text
from jepa_modalities.data.ecg.layout import LAYOUT
from jepa_modalities.data.ecg.records import (
    PER_RECORD,
    Annotations,
    ECGRecords,
    Stretch,
)
from jepa_modalities.data.refusal import refusing

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
        there = [Path(item)] if Path(item).exists() else [Path(p) for p in sorted(glob(str(item)))]
        if not there:
            raise FileNotFoundError(
                f"no file {item}; make one with `jm prepare ptbxl|cinc2021|wfdb|... SOURCE {item}`"
            )
        files += there
    if strange := [f for f in files if f.suffix not in (".h5", ".hdf5")]:
        raise ValueError(
            f"{strange[0]} is no file of `jm prepare`, whose names end in .h5; make one with "
            f"`jm prepare arrays|wfdb|... {strange[0]} OUT.h5`"
        )
    parts = [_open(file) for file in files]
    return parts[0] if len(parts) == 1 else _joined(parts)


def memory_records(
    signals: NDArray[np.int16],
    fs: float,
    leads: Sequence[str],
    gain: float | NDArray[np.float64],
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
        gain: integers per unit; one for all, or (records, leads).
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
        gain=np.array(np.broadcast_to(gain, (count, width)), np.float64),
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
    with open_container(path) as file:
        found = file.text("layout")
        if found != LAYOUT:
            raise ValueError(
                f"{path} has layout {found!r}, expected {LAYOUT!r}: it was not made by `jm "
                f"prepare` from recordings, or by another version; make it again"
            )
        signals = file.dataset("signals", "i", (2, 3))
        if signals.dtype != np.dtype("<i2"):
            raise ValueError(
                f"{path}: 'signals' are {signals.dtype}, expected int16; make it again"
            )
        record_id = file.texts("record_id")
        count, length = len(record_id), None
        shape = (int(signals.shape[0]), int(signals.shape[-1]))
        if signals.ndim == 3:
            length = int(signals.shape[1])
            if shape[0] != count:
                raise ValueError(
                    f"{path}: 'signals' holds {shape[0]:,} recordings, 'record_id' names "
                    f"{count:,}; make it again"
                )
            shape = (shape[0] * length, shape[1])
            starts, lengths = np.arange(count) * length, np.full(count, length, np.int64)
        else:
            starts, lengths = (
                file.read(name, "i").astype(np.int64) for name in ("starts", "lengths")
            )
        with refusing(path, "recordings", "make it again"):
            piece = Stretch(path.absolute(), _place(signals), shape, length)
        label_table = file.text("label_table")
        with refusing(path, "recordings (attributes `lead_names`, `label_table`)", "make it again"):
            leads = tuple(to_text(np.asarray(file.attribute("lead_names"))).tolist())
            table = json.loads(label_table or "{}")
        labelled = "labels" in file
        records = ECGRecords(
            record_id=record_id,
            source=file.texts("source"),
            patient_id=file.texts("patient_id"),
            fold=file.read("fold", "i").astype(np.int64),
            fs=file.read("fs", "f"),
            length=lengths,
            lead_names=leads,
            lead_index=file.read("lead_index", "i", (2,)).astype(np.int64),
            gain=file.read("gain", "f", (2,)),
            baseline=file.read("baseline", "if", (2,)).astype(np.float64),
            unit=file.texts("unit", (2,)),
            labels=file.read("labels", "iu", (2,)) if labelled else None,
            label_names=tuple(file.texts("label_names").tolist()) if labelled else (),
            age=file.read("age", "f"),
            sex=file.read("sex", "i").astype(np.int64),
            comments=file.texts("comments"),
            label_table=table,
            stretches=(piece,),
            stretch=np.zeros(count, np.int64),
            start=starts,
            ann_start=file.read("ann_starts", "i"),
            ann_length=file.read("ann_lengths", "i"),
        )
        _check(records, path, len(file.dataset("ann_sample", "i")))
        return records


def _check(records: ECGRecords, path: Path, annotations: int) -> None:
    """Hold the columns to each other and to the signals.

    Raises:
        ValueError: names the first that does not fit.
    """
    count, (total, width) = len(records), records.stretches[0].shape
    wide = {name: (count, width) for name in ("lead_index", "gain", "baseline", "unit")}
    if records.labels is not None:
        wide["labels"] = (count, len(records.label_names))
    for name in PER_RECORD:
        values = getattr(records, name)
        if values is not None and values.shape != wide.get(name, (count,)):
            raise ValueError(
                f"{path}: {name!r} has shape {values.shape} for {count:,} recordings, expected "
                f"{wide.get(name, (count,))}; make it again"
            )
    fits = {
        "fs": np.isfinite(records.fs) & (records.fs > 0),
        "gain": np.isfinite(records.gain) & (records.gain != 0),
        "baseline": np.isfinite(records.baseline),
        "lead_index": (records.lead_index >= -1) & (records.lead_index < len(records.lead_names)),
        "starts and lengths": _inside(records.start, records.length, total),
        "ann_starts and ann_lengths": _inside(records.ann_start, records.ann_length, annotations),
        "label_table": np.array(isinstance(records.label_table, dict)),
    }
    for name, good in fits.items():
        if not good.all():
            raise ValueError(f"{path}: {name} hold values that make no sense; make it again")


def _inside(start: NDArray[Any], length: NDArray[Any], total: int) -> NDArray[np.bool_]:
    """Where a stretch lies in 0 to `total`; written so that no sum can overflow."""
    return (start >= 0) & (length >= 0) & (length <= total) & (start <= total - length)


def _place(signals: h5py.Dataset) -> int | None:
    """Byte of the first sample where all samples lie one after the other in the file, else None.

    Raises:
        ValueError: they would end behind the file.
    """
    offset = _offset(signals)
    there = Path(signals.file.filename).stat().st_size
    if offset is not None and offset + math.prod(signals.shape) * signals.dtype.itemsize > there:
        raise ValueError("its signals end behind the file")
    return offset


def _offset(signals: h5py.Dataset) -> int | None:
    if signals.chunks is None:
        offset = signals.id.get_offset()
        return None if offset is None else int(offset)
    if signals.compression is not None or signals.shuffle or 0 in signals.shape:
        return None
    if signals.chunks != (1, *signals.shape[1:]):
        return None
    ends = [signals.id.get_chunk_info_by_coord((row, 0, 0)) for row in (0, len(signals) - 1)]
    step = math.prod(signals.shape[1:]) * signals.dtype.itemsize
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
