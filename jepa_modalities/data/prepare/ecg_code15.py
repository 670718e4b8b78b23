"""CODE-15 % (Ribeiro et al. 2021) -> HDF5.

Written from the documented layout; the real set was not tried.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np

from jepa_modalities.data.container import open_container
from jepa_modalities.data.ecg.lead import STANDARD_LEADS
from jepa_modalities.data.ecg.quantise import quantised
from jepa_modalities.data.ecg.wfdb import Recording
from jepa_modalities.data.prepare.ecg import (
    Item,
    OnError,
    Read,
    Source,
    prepare_recordings,
)
from jepa_modalities.data.prepare.ecg_ptbxl import read_table
from jepa_modalities.data.prepare.ecg_wfdb import years
from jepa_modalities.data.prepare.part import Prepared, Progress

TABLE = "exams.csv"
LABELS = ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF", "normal_ecg")
RATE = 400.0


def prepare_code15(
    source: str | Path,
    out: str | Path,
    on_error: OnError = "skip",
    workers: int = 1,
    resume: bool = True,
    *,
    compress: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Pack CODE-15 % into HDF5.

    The zeros around a recording of 7 or 10 s are stripped, the rate is kept. Its float32 values
    become 16-bit integers with a gain per lead (`data.ecg.quantise`); the unit is taken as mV, as
    ECG-JEPA does. Labels are the six abnormalities and `normal_ecg`.

    Args:
        source: folder with exams.csv and exams_part*.hdf5.
        out: path of the .h5 file.
        on_error: see `prepare_recordings`.
        workers: processes.
        resume: see `prepare_recordings`.
        compress: see `prepare_recordings`.
        progress: see `prepare_recordings`.
    """
    folder = Path(source)
    rows = {row["exam_id"]: row for row in read_table(folder / TABLE, ("exam_id", *LABELS[:6]))}
    items: list[Item] = []
    missing: list[tuple[str, str]] = []
    parts = sorted(folder.glob("exams_part*.hdf5"), key=lambda path: (len(path.name), path.name))
    if not parts:
        raise FileNotFoundError(f"{folder} holds no exams_part*.hdf5; download the parts")
    seen: set[str] = set()
    for part in parts:
        with open_container(part) as file:
            exams = file.read("exam_id", "iu")
            file.dataset("tracings", "f", (3,))
        for row, number in enumerate(exams.tolist()):
            name = str(number)
            if name in rows:
                items.append(_item(rows[name], part, row))
                seen.add(name)
            elif number == 0:
                missing.append((f"{part.name}[{row}]", "exam_id 0 marks no exam"))
            else:
                missing.append((name, f"it is not in {TABLE}"))
    away = [name for name in rows if name not in seen]
    missing += [
        (name, f"{rows[name].get('trace_file') or 'its file'} is not there or lacks it")
        for name in away
    ]
    given = Source("code15", items, _read, LABELS, (folder / TABLE,), missing=tuple(missing))
    return prepare_recordings(
        given, out, on_error, workers, resume, compress=compress, progress=progress
    )


def _item(row: Mapping[str, str], part: Path, place: int) -> Item:
    return Item(
        row["exam_id"],
        (part,),
        "code15",
        place,
        patient_id=row.get("patient_id", ""),
        labels=tuple(name for name in LABELS if _true(row.get(name, ""))),
        age=years(row.get("age", "")),
        sex={"true": 0, "false": 1, "1": 0, "0": 1}.get(row.get("is_male", "").lower(), -1),
    )


def _true(text: str) -> bool:
    return text.strip().lower() in ("true", "1", "1.0")


@lru_cache(maxsize=1)
def _opened(path: Path, process: int) -> h5py.File:
    """One handle per process, as they do not survive a fork; records come in the file's order."""
    return h5py.File(path)


def _read(item: Item) -> Read:
    tracing = _opened(item.files[0], os.getpid())["tracings"][item.row]
    if tracing.ndim != 2 or tracing.shape[1] != len(STANDARD_LEADS):
        raise ValueError(f"its tracing has shape {tracing.shape}, expected (samples, 12)")
    used = np.flatnonzero((tracing != 0).any(1))
    if len(used) == 0:
        raise ValueError("it holds zeros only")
    signal, gains = quantised(tracing[used[0] : used[-1] + 1])
    width = len(gains)
    recording = Recording(
        signal,
        RATE,
        STANDARD_LEADS,
        gains,
        (0,) * width,
        ("mV",) * width,
        sha256=hashlib.sha256(np.ascontiguousarray(tracing).tobytes()).hexdigest(),
    )
    return Read(recording)
