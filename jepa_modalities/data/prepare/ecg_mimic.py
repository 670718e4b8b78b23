"""MIMIC-IV-ECG (Gow et al. 2023) -> HDF5: signals only, for pretraining.

Written from the documented layout; the real set was not tried.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from jepa_modalities.data.prepare.ecg import (
    Item,
    OnError,
    Source,
    prepare_recordings,
)
from jepa_modalities.data.prepare.ecg_ptbxl import below, read_at, read_table
from jepa_modalities.data.prepare.part import Prepared, Progress

TABLE = "record_list.csv"
RATE = 500.0


def prepare_mimic_iv_ecg(
    source: str | Path,
    out: str | Path,
    on_error: OnError = "skip",
    workers: int = 1,
    resume: bool = True,
    *,
    compress: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Pack MIMIC-IV-ECG into HDF5.

    Recordings are those of `record_list.csv`: `record_id` is the study, `patient_id` the subject.
    Leads keep their order, which has aVF before aVL. There are no diagnoses.

    Args:
        source: folder with record_list.csv and files/.
        out: path of the .h5 file.
        on_error: see `prepare_recordings`.
        workers: processes.
        resume: see `prepare_recordings`.
        compress: see `prepare_recordings`.
        progress: see `prepare_recordings`.
    """
    folder = Path(source)
    items: list[Item] = []
    missing: list[tuple[str, str]] = []
    for row in read_table(folder / TABLE, ("subject_id", "study_id", "path")):
        header = below(folder, f"{row['path']}.hea", TABLE)
        if header is not None:
            files = (header, header.with_suffix(".dat"))
            items.append(Item(row["study_id"], files, "mimic_iv_ecg", patient_id=row["subject_id"]))
        else:
            missing.append((row["study_id"], f"{TABLE} names {row['path']}, which is not there"))
    given = Source(
        "mimic_iv_ecg",
        items,
        partial(read_at, rate=RATE),
        tables=(folder / TABLE,),
        missing=tuple(missing),
    )
    return prepare_recordings(
        given, out, on_error, workers, resume, compress=compress, progress=progress
    )
