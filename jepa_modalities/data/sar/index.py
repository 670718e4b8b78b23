"""Index files: which chips there are, their classes, splits and checksums, as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jepa_modalities.data.refusal import refusing

CLASS_COLUMNS = ("class", "ship_type", "label")
SHOWN = 5
EXTRA = "\0extra"  # key of fields without a column


@dataclass(frozen=True)
class Entry:
    """One chip of a listing.

    Attributes:
        name: member of the archive, or path below the folder.
        label: name of its class, or None.
        split: name of its split, or "".
        sha1: of the file, where the index tells, else "".
    """

    name: str
    label: str | None = None
    split: str = ""
    sha1: str = ""


def beside(path: Path) -> Path | None:
    """The index that lies beside an archive or in a folder: None where there is none.

    `a_b.zip` may have `a_b_index.csv`, `a_index.csv` or `a_b.csv`; a folder `index.csv` inside. The
    last name may be any table: it counts where it has a column `file`.
    """
    stem = path.stem
    places = [path / "index.csv"] if path.is_dir() else []
    places += [path.with_name(f"{name}_index.csv") for name in (stem, stem.rsplit("_", 1)[0])]
    found = next((place for place in places if place.is_file()), None)
    table = path.with_name(f"{stem}.csv")
    if found is None and table.is_file():
        with (
            refusing(table, "a CSV table", "remove it or name another index"),
            table.open(newline="", encoding="utf-8-sig", errors="replace") as file,
        ):
            return table if "file" in next(csv.reader(file), []) else None
    return found


def read_index(path: Path, where: Mapping[str, str]) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """The rows that `where` asks for, and the names of their classes in the order of their numbers.

    Classes are ordered by the column `label` where it numbers them, else by name.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no column `file`, an unknown column or value in `where`, or nothing left.
    """
    rows = _rows(path)
    for column, wanted in where.items():
        _check_column(column, rows[0], path)
        allowed = set(wanted.split("|"))
        found = {row[column] for row in rows}
        if not allowed & found:
            raise ValueError(
                f"{path}: no chip left with {column} = {wanted!r}; there is {_some(found)}"
            )
        rows = [row for row in rows if row[column] in allowed]
    key = next((column for column in CLASS_COLUMNS if column in rows[0]), None)
    entries = tuple(
        Entry(
            row["file"],
            None if key is None else row[key],
            row.get("split") or "",
            (row.get("sha1") or "").lower(),
        )
        for row in rows
    )
    return entries, () if key is None else _classes(rows, key, path)


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(
            f"no index {path}; give a CSV with a column 'file' (and 'class', 'split'), or leave it "
            f"out: folders then name the classes"
        )
    with (
        refusing(path, "a CSV table", "write it again as UTF-8"),
        path.open(newline="", encoding="utf-8-sig") as file,
    ):
        rows = list(csv.DictReader(file, restkey=EXTRA, restval=""))
    if not rows:
        raise ValueError(f"{path} has no rows below its heading; expected one per chip")
    if long := [number for number, row in enumerate(rows, 1) if EXTRA in row]:
        raise ValueError(f"{path}: row {long[0]} has more fields than the heading; repair it")
    _check_column("file", rows[0], path)
    return rows


def _check_column(column: str, row: Mapping[str, str], path: Path) -> None:
    if column not in row:
        raise ValueError(f"{path} has no column {column!r}; it has {', '.join(row)}")


def _classes(rows: list[dict[str, str]], key: str, path: Path) -> tuple[str, ...]:
    if unnamed := sum(not row[key] for row in rows):
        raise ValueError(
            f"{path}: {unnamed:,} of {len(rows):,} rows have no {key!r}; fill them in, or leave "
            f"the column out"
        )
    names = {row[key] for row in rows}
    if key == "label" or "label" not in rows[0]:
        digits = all(_is_number(name) for name in names)
        return tuple(sorted(names, key=int if digits else None))
    numbers = {(row["label"], row[key]) for row in rows}
    distinct = {number for number, _ in numbers if _is_number(number)}
    if not len(numbers) == len(names) == len(distinct):
        raise ValueError(
            f"{path}: columns 'label' and {key!r} contradict each other; every class needs one "
            f"whole number"
        )
    return tuple(name for _, name in sorted(numbers, key=lambda pair: int(pair[0])))


def _is_number(text: str) -> bool:
    """Whether this is a whole number that `int` takes."""
    return text.isdecimal() and len(text) < 19


def _some(values: Iterable[str]) -> str:
    values = sorted(values)
    return ", ".join(values[:SHOWN]) + (", ..." if len(values) > SHOWN else "")
