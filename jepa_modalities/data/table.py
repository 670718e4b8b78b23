"""Tables from CSV and Parquet files: features, target and split columns, and the bundled table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jepa_modalities.data.refusal import refusing

if TYPE_CHECKING:
    from pandas import DataFrame

SPLITS = ("train", "val", "test")
MOST_CLASSES = 20  # a numeric target with more different values is a regression
REMEDY = "copy or write it again; Parquet also needs pyarrow"
ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")


@dataclass(frozen=True)
class Table:
    """A table whose columns have their roles.

    Attributes:
        frame: the features, rows numbered from 0.
        target: what probes predict, (rows,): float64 for regression, else text; None for none.
        missing: True where a row has no target, (rows,).
        split: "train", "val" or "test", (rows,).
        task: "classification", "regression" or "" without a target.
        categorical: columns that are categories whatever their dtype.
    """

    frame: DataFrame
    target: NDArray[Any] | None
    missing: NDArray[np.bool_]
    split: NDArray[np.str_]
    task: str
    categorical: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.frame)

    def rows(self, split: str, labelled: bool = False) -> NDArray[np.int64]:
        """Row numbers of a split, ascending; only those with a target if `labelled`."""
        chosen = self.split == split
        return np.flatnonzero(chosen & ~self.missing if labelled else chosen)


def table_files(path: str | Path) -> list[Path]:
    """The files that a path names: one, a pattern, a folder of Parquet files, or several.

    Args:
        path: parts joined by commas.

    Raises:
        FileNotFoundError: nothing there.
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
            raise FileNotFoundError(f"{what} {part}: is data.path right?")
        files += found
    return files


def is_there(path: str | Path) -> bool:
    """Whether a path names tables (see `table_files`)."""
    try:
        return bool(path) and bool(table_files(path))
    except FileNotFoundError:
        return False


def read_frame(path: str | Path) -> DataFrame:
    """The files that a path names (see `table_files`) as one DataFrame with text column names.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another ending, a file that is empty or broken, or files with other columns.
    """
    import pandas as pd

    files = table_files(path)
    frames = [_read_file(file) for file in files]
    for file, frame in zip(files, frames, strict=True):
        if different := sorted(set(frame.columns) ^ set(frames[0].columns)):
            raise ValueError(
                f"{file} and {files[0]} differ in the columns {different[:5]}; all files of a "
                f"table need the same"
            )
    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)


def _read_file(place: Path) -> DataFrame:
    import pandas as pd

    ending = next((e for e in reversed(ENDINGS) if place.name.lower().endswith(e)), None)
    if ending is None:
        raise ValueError(f"{place}: unknown kind of table; expected one of {', '.join(ENDINGS)}")
    with refusing(place, ending, REMEDY):
        if ending == ".parquet":
            frame = pd.read_parquet(place)
        else:
            # The whole file decides a column's type: a type per chunk would mix 1 and "1".
            separator = "\t" if ending.startswith(".tsv") else ","
            frame = pd.read_csv(place, sep=separator, low_memory=False)
    if not len(frame) or not len(frame.columns):
        raise ValueError(f"{place} holds {len(frame)} rows of {len(frame.columns)} columns")
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    if frame.columns.has_duplicates:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise ValueError(f"{place} has two columns {twice!r}; rename one")
    return frame


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
    return found


def open_table(
    path: str,
    target: str = "",
    split: str = "",
    task: str = "auto",
    categorical: Sequence[str] = (),
    dates: Sequence[str] = (),
    drop: Sequence[str] = (),
) -> Table:
    """A file with the roles of its columns; what is not given comes from `datasets.json`, if any.

    Args:
        path: see `read_frame`, or "breast_cancer" for scikit-learn's bundled table.
        target: column to predict; may have gaps; empty: none, or the stored table's own.
        split: column of "train", "val", "test"; empty: the stored table's own, or drawn.
        task: "auto", "classification" or "regression".
        categorical: columns that are categories whatever their dtype.
        dates: text columns that hold dates.
        drop: columns to leave out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a name that is no column, an unknown split, or a target that is no number.
    """
    if not path:
        raise ValueError("data.path is not given: name a .csv, .csv.gz or .parquet file")
    about: dict[str, Any] = {}
    if path == "breast_cancer":
        frame, target = _breast_cancer(), target or "target"
    else:
        frame, about = read_frame(path), stored(table_files(path)[0])
        target = target or about.get("target", "")
        split = split or ("split" if about and "split" in frame.columns else "")
    roles = [("target", target), ("split", split), *(("drop", name) for name in drop)]
    roles += [("dates", name) for name in dates] + [("categorical", name) for name in categorical]
    for role, name in roles:
        if name and name not in frame.columns:
            raise ValueError(f"data.{role} names {name!r}; {path} has {list(frame.columns)}")
    features = frame.drop(columns=[name for name in (target, split, *drop) if name])
    for name in dates:
        features[name] = _parsed(features, name)
    values, missing, kind = None, np.zeros(len(frame), dtype=bool), ""
    if target:
        wanted = {"binclass": "classification", "multiclass": "classification"}
        known = wanted.get(about.get("task", ""), about.get("task", "auto"))
        values, missing, kind = _target(frame[target], known if task == "auto" else task)
    names = categorical or [n for n in about.get("categorical", ()) if n in features.columns]
    empty = np.empty(0, dtype=np.str_)
    table = Table(features.reset_index(drop=True), values, missing, empty, kind, tuple(names))
    if split:
        return replace(table, split=_splits(frame[split], path, split))
    return replace(table, split=draw_splits(table))


def draw_splits(table: Table, seed: int = 0) -> NDArray[np.str_]:
    """64 / 16 / 20 % train, val and test, (rows,); stratified where every class has 10 rows."""
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(table))
    if len(rows) < 10:
        raise ValueError(
            f"{len(rows)} rows are too few to draw a split; give at least 10, or name a column of "
            f"train, val and test with data.split"
        )
    classes = None
    if table.task == "classification" and table.target is not None:
        codes = np.unique(table.target, return_inverse=True)[1]
        codes = np.where(table.missing, codes.max() + 1, codes)
        used, counts = np.unique(codes, return_counts=True)
        classes = codes if counts.min() >= 10 and len(used) <= len(rows) // 10 else None
    rest, test = train_test_split(rows, test_size=0.2, random_state=seed, stratify=classes)
    inner = None if classes is None else classes[rest]
    train, _ = train_test_split(rest, test_size=0.2, random_state=seed, stratify=inner)
    split = np.full(len(rows), "val", dtype="<U5")
    split[train], split[test] = "train", "test"
    return split


def _breast_cancer() -> DataFrame:
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer(as_frame=True)
    frame = bunch.frame.rename(columns=lambda name: str(name).replace(" ", "_"))
    names = np.array([str(name) for name in bunch.target_names])
    return frame.assign(target=names[frame["target"].to_numpy()])


def _parsed(frame: DataFrame, name: str) -> Any:
    import pandas as pd

    try:
        return pd.to_datetime(frame[name], format="mixed")
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"data.dates: column {name!r} holds no dates: {error}") from None


def _target(column: Any, task: str) -> tuple[NDArray[Any], NDArray[np.bool_], str]:
    """Values, where they are missing, and the task."""
    import pandas as pd

    missing = column.isna().to_numpy()
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if missing.all():
        raise ValueError(f"data.target: column {column.name!r} is empty")
    if task == "auto":
        several = column.nunique() > MOST_CLASSES
        task = "regression" if numeric and several else "classification"
    if task == "regression":
        if not numeric:
            raise ValueError(
                f"data.target: column {column.name!r} holds {column.dtype}, which is no number; "
                f"set data.task to classification"
            )
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        if np.isinf(values).any():
            raise ValueError(f"data.target: column {column.name!r} holds infinite values")
        return values, missing, task
    return column.astype(object).where(~missing, "").astype(str).to_numpy("U"), missing, task


def _splits(column: Any, path: str, name: str) -> NDArray[np.str_]:
    found = column.astype(str).to_numpy("U")
    if strange := sorted(set(found) - set(SPLITS)):
        raise ValueError(f"{path}: split column {name!r} holds {strange[:5]}, expected {SPLITS}")
    if not (found == "train").any():
        raise ValueError(f"{path}: no row of split column {name!r} is 'train'")
    return found
