"""Files of tables: CSV and Parquet as they lie on disk, and what stands beside them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepa_modalities.data.refusal import refusing

if TYPE_CHECKING:
    from pandas import DataFrame

TASKS = ("classification", "binclass", "multiclass", "regression")
REMEDY = "copy or write it again (text as UTF-8, gzip as .csv.gz); Parquet also needs pyarrow"
ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")


def table_files(path: str | Path) -> list[Path]:
    """The files that a path names: one, a pattern, a folder of Parquet files, or several.

    Args:
        path: parts joined by commas.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a file is named twice.
    """
    files: list[Path] = []
    for part in [path] if Path(path).is_file() else [p.strip() for p in str(path).split(",")]:
        place = Path(part)
        if place.is_dir():
            found = sorted(place.glob("*.parquet"))
        else:
            found = [place] if place.is_file() else [Path(name) for name in sorted(glob(str(part)))]
        if not found:
            what = "no .parquet file in" if place.is_dir() else "no table at"
            raise FileNotFoundError(
                f"{what} {part}: is data.path right (for stored tables, $JEPA_DATA)?"
            )
        files += found
    seen: set[Path] = set()
    for file in files:
        if file.resolve() in seen:
            raise ValueError(f"{path} names {file} twice; its rows would be there twice")
        seen.add(file.resolve())
    return files


def is_there(path: str | Path) -> bool:
    """Whether a path names tables (see `table_files`)."""
    try:
        return bool(path) and bool(table_files(path))
    except FileNotFoundError:
        return False


def read_frame(path: str | Path, text: Sequence[str] = ()) -> DataFrame:
    """The files that a path names (see `table_files`) as one DataFrame with text column names.

    Args:
        path: see `table_files`.
        text: columns of CSV files that are kept as they are spelled, whatever they look like.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another ending, a file that is empty or broken, or files with other columns.
    """
    import pandas as pd

    files = table_files(path)
    frames = [_read_file(file, text) for file in files]
    for file, frame in zip(files, frames, strict=True):
        if different := sorted(set(frame.columns) ^ set(frames[0].columns)):
            raise ValueError(
                f"{file} and {files[0]} differ in the columns {different[:5]}; all files of a "
                f"table need the same"
            )
    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)


def _read_file(place: Path, text: Sequence[str]) -> DataFrame:
    import pandas as pd

    ending = kind_of_file(place)
    with refusing(place, ending, REMEDY):
        if ending == ".parquet":
            frame = with_index(pd.read_parquet(place))
        else:
            # The whole file decides a column's type: a type per chunk would mix 1 and "1".
            frame = read_csv(place, text, low_memory=False)
    if not len(frame) or not len(frame.columns):
        raise ValueError(f"{place} holds {len(frame)} rows of {len(frame.columns)} columns")
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    check_header(place, list(frame.columns))
    if frame.columns.has_duplicates:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise ValueError(f"{place} has two columns {twice!r}; rename one")
    return frame


def kind_of_file(place: Path) -> str:
    """Which of `ENDINGS` a name has.

    Raises:
        ValueError: none.
    """
    for ending in reversed(ENDINGS):
        if place.name.lower().endswith(ending):
            return ending
    raise ValueError(f"{place}: unknown kind of table; expected one of {', '.join(ENDINGS)}")


def separator_of(place: Path) -> str:
    """A tab in .tsv files, else a comma."""
    return "\t" if kind_of_file(place).startswith(".tsv") else ","


def read_csv(place: Path, text: Sequence[str], **choices: Any) -> Any:
    """pandas' reader: commas, or tabs in a .tsv; every row as long as the header.

    Args:
        place: of the file.
        text: columns that are kept as they are spelled.
        choices: of `pandas.read_csv`.

    Raises:
        ParserError, ParserWarning: rows of more columns than the header.
    """
    import pandas as pd

    kinds = dict.fromkeys(text, str)
    with warnings.catch_warnings():
        # Rows that are longer would be cut, or their first column taken for an index.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(place, sep=separator_of(place), dtype=kinds, index_col=False, **choices)


def with_index(frame: DataFrame) -> DataFrame:
    """A named index as columns; one without a name is left behind."""
    named = any(name is not None for name in frame.index.names)
    return frame.reset_index(drop=not named)


def check_header(place: Path, names: Sequence[str]) -> None:
    """Complain about names that say that a CSV file was not read as it was meant.

    Raises:
        ValueError: one name that holds another separator, or two equal names.
    """
    if place.name.lower().endswith(".parquet"):
        return
    import pandas as pd

    separator = separator_of(place)
    with refusing(place, "CSV", REMEDY):
        row = pd.read_csv(place, sep=separator, header=None, nrows=1, dtype=str).iloc[0]
    header = row.dropna().tolist()
    if twice := [name for name in header if header.count(name) > 1]:
        raise ValueError(f"{place} has two columns {twice[0]!r}; rename one")
    found = [mark for mark in (";", "\t", "|", ",") if mark in names[0]]
    if len(names) == 1 and found:
        raise ValueError(
            f"{place} has one column, named {names[0]!r}: its separator seems to be {found[0]!r}, "
            f"expected {separator!r}; write it again with commas (.csv) or tabs (.tsv)"
        )


def stored(path: str | Path) -> dict[str, Any]:
    """What a `datasets.json` beside the file says of it: task, target, categorical; {} if none.

    Raises:
        ValueError: the file is there but no JSON, or what it says makes no sense.
    """
    place = Path(path).parent / "datasets.json"
    if not place.is_file():
        return {}
    with refusing(place, "JSON", "repair or remove it"):
        content = json.loads(place.read_text(encoding="utf-8"))
    known = content.values() if isinstance(content, dict) else []
    entries = [entry for entry in known if isinstance(entry, dict)]
    found = next((entry for entry in entries if entry.get("file") == Path(path).name), {})
    columns = found.get("categorical", [])
    words = [found.get("task", ""), found.get("target", "")]
    if not isinstance(columns, list) or not all(isinstance(w, str) for w in (*words, *columns)):
        raise ValueError(
            f"{place}: of {Path(path).name} it says {found}; expected text for 'task' and "
            f"'target', and a list of text for 'categorical'"
        )
    if words[0] not in ("", *TASKS):
        raise ValueError(
            f"{place}: of {Path(path).name} it says 'task': {words[0]!r}; expected one of "
            f"{', '.join(TASKS)}"
        )
    return found
