"""PhysioNet/CinC Challenge 2020 and 2021 (Perez Alday et al. 2020, Reyna et al. 2021) -> HDF5."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from jepa_modalities.data.prepare.ecg import (
    Item,
    OnError,
    Read,
    Source,
    prepare_recordings,
)
from jepa_modalities.data.prepare.ecg_ptbxl import read_table, whole
from jepa_modalities.data.prepare.ecg_wfdb import (
    headers_below,
    read_wfdb,
    record_name,
    with_payload,
)
from jepa_modalities.data.prepare.part import Prepared, Progress

# Folders of the official training set, and the first letters of their records' names.
SETS = {
    "cpsc_2018": "A",
    "cpsc_2018_extra": "Q",
    "st_petersburg_incart": "I",
    "ptb": "S",
    "ptb-xl": "HR",
    "georgia": "E",
    "chapman_shaoxing": "JS",
    "ningbo": "JS",
}
# JS00001 to JS10646 are Chapman-Shaoxing, those above are Ningbo.
LAST_CHAPMAN = 10646
# Where PTB-XL's folds may be found beside the records.
INDEX, FOLD = "index.csv", "ptbxl_strat_fold"
PTBXL = "ptbxl_database.csv"
UNKNOWN = "cinc2021"


def prepare_cinc2021(
    source: str | Path,
    out: str | Path,
    on_error: OnError = "skip",
    workers: int = 1,
    resume: bool = True,
    *,
    compress: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Pack a folder of challenge records (.mat and .hea) into HDF5.

    Labels are the SNOMED codes behind `Dx:` that occur. `source` becomes the data set a record
    comes from, by folder or by name (`ptbxl` for HR records, whose number is PTB-XL's ecg_id).
    PTB-XL's folds are kept where its own table `ptbxl_database.csv` lies beside the records, or an
    `index.csv` with the columns record and ptbxl_strat_fold; else a note says that records of its
    test fold cannot be told from others. Legacy headers, which WFDB's own reader rejects, are read
    too.

    Args:
        source: folder with records, below any folders.
        out: path of the .h5 file.
        on_error: see `prepare_recordings`.
        workers: processes.
        resume: see `prepare_recordings`.
        compress: see `prepare_recordings`.
        progress: see `prepare_recordings`.
    """
    folder = Path(source)
    headers = headers_below(folder)
    folds, tables = _folds(folder)
    items = [
        Item(
            record_name(folder, header),
            with_payload(header),
            set_of(header),
            fold=folds.get(header.stem, -1),
        )
        for header in headers
    ]
    given = Source("cinc2021", items, _read, tables=tables)
    return prepare_recordings(
        given, out, on_error, workers, resume, compress=compress, progress=progress
    )


def _folds(folder: Path) -> tuple[Mapping[str, int], tuple[Path, ...]]:
    """PTB-XL's official folds by record, and the tables they come from."""
    folds: dict[str, int] = {}
    tables = tuple(path for path in (folder / INDEX, folder / PTBXL) if path.is_file())
    for path in tables:
        key, column = ("ecg_id", "strat_fold") if path.name == PTBXL else ("record", FOLD)
        for row in read_table(path, (key,)):
            name = f"HR{whole(row, key, path):05d}" if path.name == PTBXL else row[key]
            if row.get(column):
                folds[name] = whole(row, column, path)
    return folds, tables


def set_of(header: Path) -> str:
    """The data set of a record, from its folders or else from its name."""
    for part in reversed(header.parts[:-1]):
        if part.lower() in SETS:
            return part.lower().replace("-", "")
    found = re.match(r"([A-Za-z]+)(\d+)", header.stem)
    if found is None:
        return UNKNOWN
    letters, number = found[1].upper(), found[2]
    if letters == "JS":
        return "chapman_shaoxing" if int(number) <= LAST_CHAPMAN else "ningbo"
    known = {prefix: name for name, prefix in SETS.items() if prefix != "JS"}
    return known.get(letters, UNKNOWN).replace("-", "")


def _read(item: Item) -> Read:
    found = read_wfdb(item)
    notes = tuple(note for note in found.recording.notes if note != "no annotations")
    if not found.labels:
        notes += ("its header names no diagnosis (Dx)",)
    if item.source == "ptbxl" and item.fold < 0:
        notes += (
            f"a record of PTB-XL without its fold; put {PTBXL} beside the records before you test "
            f"on PTB-XL",
        )
    return replace(found, recording=replace(found.recording, notes=notes))
