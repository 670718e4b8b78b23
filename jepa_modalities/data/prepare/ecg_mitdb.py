"""MIT-BIH Arrhythmia Database (Moody & Mark 2001) -> HDF5, with beats and rhythms."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from jepa_modalities.data.prepare.ecg import (
    Item,
    OnError,
    Source,
    prepare_recordings,
)
from jepa_modalities.data.prepare.ecg_wfdb import (
    DEFAULT_ANNOTATOR,
    headers_below,
    read_wfdb,
    record_name,
    with_payload,
)
from jepa_modalities.data.prepare.part import Prepared, Progress

# Training and test recordings without a patient in common, but for 201 and 202 (de Chazal,
# O'Dwyer & Reilly 2004, table I); the paced 102, 104, 107 and 217 are in neither.
DS1 = (
    *(101, 106, 108, 109, 112, 114, 115, 116, 118, 119, 122),
    *(124, 201, 203, 205, 207, 208, 209, 215, 220, 223, 230),
)
DS2 = (
    *(100, 103, 105, 111, 113, 117, 121, 123, 200, 202, 210),
    *(212, 213, 214, 219, 221, 222, 228, 231, 232, 233, 234),
)
FOLD = {str(number): 1 for number in DS1} | {str(number): 2 for number in DS2}


def prepare_mitdb(
    source: str | Path,
    out: str | Path,
    on_error: OnError = "skip",
    workers: int = 1,
    resume: bool = True,
    *,
    annotator: str = DEFAULT_ANNOTATOR,
    compress: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Pack MIT-BIH records with their annotations into HDF5.

    `fold` is 1 for the training recordings of the inter-patient split (DS1), 2 for its test
    recordings (DS2), -1 for the others. Recordings 201 and 202 are of one patient.

    Args:
        source: folder with .hea, .dat and annotation files.
        out: path of the .h5 file.
        on_error: see `prepare_recordings`.
        workers: processes.
        resume: see `prepare_recordings`.
        annotator: extension of the annotation files, which every record needs.
        compress: see `prepare_recordings`.
        progress: see `prepare_recordings`.
    """
    folder = Path(source)
    items = [
        Item(
            record_name(folder, header),
            with_payload(header, annotator),
            "mitdb",
            patient_id="201" if header.stem == "202" else header.stem,
            fold=FOLD.get(header.stem, -1),
        )
        for header in headers_below(folder)
    ]
    reader = partial(read_wfdb, annotator=annotator)
    given = Source("mitdb", items, reader, settings={"annotator": annotator})
    return prepare_recordings(
        given, out, on_error, workers, resume, compress=compress, progress=progress
    )
