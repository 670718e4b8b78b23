"""PTB-XL (Wagner et al. 2020) -> HDF5, with statements and official folds."""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath

from jepa_modalities.data.ecg.wfdb import read_record
from jepa_modalities.data.prepare.ecg import (
    Item,
    OnError,
    Read,
    Source,
    prepare_recordings,
)
from jepa_modalities.data.prepare.ecg_wfdb import years
from jepa_modalities.data.prepare.part import Prepared, Progress
from jepa_modalities.data.refusal import refusing

EXTRA = "\0extra"  # key of fields without a column
TABLES = ("ptbxl_database.csv", "scp_statements.csv")
# PTB-XL writes 300 for ages above 89.
HIDDEN_AGE, OLDEST = 300.0, 90.0


def prepare_ptbxl(
    source: str | Path,
    out: str | Path,
    on_error: OnError = "skip",
    workers: int = 1,
    resume: bool = True,
    *,
    rate: int | None = None,
    compress: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Pack PTB-XL into HDF5.

    Labels are all statements of `scp_statements.csv` in its order, 1 where a record's `scp_codes`
    names one, whatever its likelihood (as Strodthoff et al. and ECG-JEPA do). The attribute
    `label_table` (JSON) says for each whether it is a diagnostic, form or rhythm statement, and
    its super- and subclass. `patient_id` and `filename_hr` may be missing.

    Args:
        source: folder with the two tables and records100 and / or records500.
        out: path of the .h5 file.
        on_error: see `prepare_recordings`.
        workers: processes.
        resume: see `prepare_recordings`.
        rate: 100 or 500 Hz; 500 where it is there, if not given.
        compress: see `prepare_recordings`.
        progress: see `prepare_recordings`.
    """
    given = ptbxl_source(Path(source), rate)
    return prepare_recordings(
        given, out, on_error, workers, resume, compress=compress, progress=progress
    )


def ptbxl_source(folder: Path, rate: int | None) -> Source:
    """The recordings that `ptbxl_database.csv` names.

    Raises:
        FileNotFoundError: a table or the records are missing.
        ValueError: columns are missing, or a rate that there is not.
    """
    rows = read_table(folder / TABLES[0], ("ecg_id", "scp_codes", "strat_fold"))
    statements = label_table(folder / TABLES[1])
    chosen = _rate(folder, rate)
    items: list[Item] = []
    missing: list[tuple[str, str]] = []
    for row in rows:
        number = whole(row, "ecg_id", folder / TABLES[0])
        stem = row.get("filename_lr" if chosen == 100 else "filename_hr") or _stem(number, chosen)
        header = below(folder, f"{stem}.hea", TABLES[0])
        name = f"{number:05d}"
        if header is None:
            missing.append((name, f"{TABLES[0]} names {stem}, which is not there"))
            continue
        try:
            codes = ast.literal_eval(row["scp_codes"])
            unknown = [code for code in codes if code not in statements]
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            missing.append((name, f"{TABLES[0]} has scp_codes = {row['scp_codes']!r}, no dict"))
            continue
        if unknown:
            missing.append((name, f"its code {unknown[0]} is not in {TABLES[1]}"))
            continue
        items.append(_item(row, name, header, tuple(codes), folder / TABLES[0]))
    return Source(
        "ptbxl",
        items,
        partial(read_at, rate=float(chosen)),
        tuple(statements),
        tuple(folder / table for table in TABLES),
        {"rate": chosen},
        tuple(missing),
        {"label_table": json.dumps(statements)},
    )


def _item(
    row: Mapping[str, str], name: str, header: Path, codes: tuple[str, ...], table: Path
) -> Item:
    age = years(row.get("age", ""))
    return Item(
        name,
        (header, header.with_suffix(".dat")),
        "ptbxl",
        patient_id=row.get("patient_id", "").removesuffix(".0"),
        fold=whole(row, "strat_fold", table) if row["strat_fold"] else -1,
        labels=codes,
        age=OLDEST if age == HIDDEN_AGE else age,
        sex=whole(row, "sex", table) if row.get("sex") else -1,
    )


def read_at(item: Item, rate: float) -> Read:
    """A WFDB record that must have this rate, Hz.

    Raises:
        ValueError: another rate; see also `read_record`.
    """
    recording = read_record(item.files[0])
    if recording.fs != rate:
        raise ValueError(
            f"its header says {recording.fs:g} Hz, the data set has {rate:g} Hz; copy it again"
        )
    return Read(recording)


def _stem(number: int, rate: int) -> str:
    folder = f"records{rate}/{number // 1000 * 1000:05d}"
    return f"{folder}/{number:05d}_{'lr' if rate == 100 else 'hr'}"


def _rate(folder: Path, rate: int | None) -> int:
    there = [known for known in (500, 100) if (folder / f"records{known}").is_dir()]
    if not there:
        raise FileNotFoundError(
            f"{folder} has neither records100 nor records500; give PTB-XL's own folder"
        )
    if rate is not None and rate not in there:
        raise ValueError(f"rate = {rate}; {folder} has {' and '.join(map(str, there))} Hz")
    return there[0] if rate is None else rate


def label_table(path: Path) -> dict[str, dict[str, str | bool]]:
    """Kind and classes of every statement, by code."""
    table: dict[str, dict[str, str | bool]] = {}
    for row in read_table(path, ("diagnostic", "form", "rhythm", "diagnostic_class")):
        code = row.get("") or row.get("scp_code") or next(iter(row.values()))
        kinds = {kind: _true(row[kind]) for kind in ("diagnostic", "form", "rhythm")}
        table[code] = {
            **kinds,
            "superclass": row["diagnostic_class"],
            "subclass": row.get("diagnostic_subclass", ""),
            "description": row.get("description", ""),
        }
    return table


def _true(text: str) -> bool:
    return (years(text) or 0) > 0


def whole(row: Mapping[str, str], column: str, table: Path) -> int:
    """A whole number of a table, which may be written as 3.0.

    Raises:
        ValueError: another thing; names table and column.
    """
    try:
        return int(float(row[column]))
    except (ValueError, OverflowError):
        raise ValueError(
            f"{table}: {column} = {row[column]!r}, expected a whole number; copy the table again"
        ) from None


def below(folder: Path, name: str, table: str) -> Path | None:
    """A file that a table names, below the folder; None where it is not there.

    Raises:
        ValueError: the name leads out of the folder.
    """
    pieces = PurePosixPath(name)
    if pieces.is_absolute() or ".." in pieces.parts:
        raise ValueError(
            f"{folder / table} names {name!r}, which is not below {folder}; copy the table again"
        )
    try:
        return folder / name if (folder / name).is_file() else None
    except OSError:  # a name that no file can have
        return None


def read_table(path: Path, needed: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a CSV file as text; empty where a row is short.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column is missing, or there are no rows.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no table {path}; copy it there")
    with (
        refusing(path, "a CSV table", "copy it again"),
        path.open(newline="", encoding="utf-8-sig") as file,
    ):
        reader = csv.DictReader(file, restkey=EXTRA, restval="")
        names = reader.fieldnames or []
        rows = list(reader)
    if lacking := [name for name in needed if name not in names]:
        raise ValueError(
            f"{path} lacks the column {lacking[0]}; it has {', '.join(names) or 'none'}"
        )
    if long := [number for number, row in enumerate(rows, 1) if EXTRA in row]:
        raise ValueError(f"{path}: row {long[0]} has more fields than the heading; copy it again")
    if not rows:
        raise ValueError(f"{path} has no rows")
    return rows
