"""Tables and their columns' roles: features, target and split columns, and the bundled table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jepa_modalities.data.table_file import read_frame, stored, table_files

if TYPE_CHECKING:
    from pandas import DataFrame, Series

SPLITS = ("train", "val", "test")
MOST_CLASSES = 20  # a numeric target with more different values is a regression


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


def open_table(
    path: str,
    target: str = "",
    split: str = "",
    task: str = "auto",
    categorical: Sequence[str] = (),
    dates: Sequence[str] = (),
    drop: Sequence[str] = (),
    text: Sequence[str] = (),
) -> Table:
    """A file with the roles of its columns; what is not given comes from `datasets.json`, if any.

    Args:
        path: see `read_frame`, or "breast_cancer" for scikit-learn's bundled table.
        target: column to predict; may have gaps; empty: none, or the stored table's own.
        split: column of "train", "val", "test"; empty: the stored table's own, or drawn.
        task: "auto", "classification" or "regression".
        categorical: columns that are categories whatever their dtype.
        dates: text columns that hold dates, in ISO 8601.
        drop: columns to leave out.
        text: columns of CSV files that are kept as they are spelled, as categorical ones are.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a name that is no column or has two roles, an unknown split, or a target that
            is no number.
    """
    if not path:
        raise ValueError("data.path is not given: name a .csv, .csv.gz or .parquet file")
    about: dict[str, Any] = {}
    if path == "breast_cancer":
        frame, target = _breast_cancer(), target or "target"
    else:
        about = stored(table_files(path)[0])
        known = categorical or about.get("categorical", ())
        frame = read_frame(path, (*known, *text))
        target = target or about.get("target", "")
        split = split or ("split" if about and "split" in frame.columns else "")
    roles = [("target", target), ("split", split), *(("drop", name) for name in drop)]
    roles += [("dates", name) for name in dates] + [("categorical", name) for name in categorical]
    for role, name in roles:
        if name and name not in frame.columns:
            raise ValueError(f"data.{role} names {name!r}; {path} has {list(frame.columns)}")
        others = [other for other, column in roles if name and column == name and other != role]
        if others and {role, *others} & {"target", "split", "drop"}:
            raise ValueError(f"data.{role} and data.{others[0]} both name {name!r}; choose one")
    features = frame.drop(columns=[name for name in (target, split, *drop) if name])
    features = parsed(features, dates)
    values, missing, kind = None, np.zeros(len(frame), dtype=bool), ""
    if target:
        told = about.get("task", "auto")
        told = "classification" if told in ("binclass", "multiclass") else told
        values, missing, kind = _target(frame[target], told if task == "auto" else task)
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


def moments(column: Series[Any]) -> Series[Any]:
    """Dates, UTC; text in ISO 8601 only, since 01/02 is another day in another country.

    Raises:
        ValueError: other text.
    """
    import pandas as pd

    try:
        return pd.to_datetime(column, utc=True, format="ISO8601")
    except (ValueError, TypeError) as error:
        if "ISO8601" not in str(error):
            raise
        said = str(error).split(". ")[0]
        raise ValueError(
            f"{said}; write dates as 2024-01-31, or parse them: pandas.to_datetime(column, "
            f"dayfirst=True)"
        ) from None


def parsed(frame: DataFrame, names: Sequence[str]) -> DataFrame:
    """A table with dates where there was text.

    Args:
        frame: of any columns.
        names: text columns that hold dates; those that are not there are left out.

    Raises:
        ValueError: numbers, or text that is no date in ISO 8601; names the column.
    """
    import pandas as pd

    found = {}
    for name in (name for name in names if name in frame.columns):
        try:
            if pd.api.types.is_numeric_dtype(frame[name]) and frame[name].notna().any():
                raise ValueError(f"it holds numbers ({frame[name].dtype})")
            found[name] = moments(frame[name])
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"data.dates: column {name!r} holds no dates: {error}") from None
    return frame.assign(**found) if found else frame


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
    return _text(column), missing, task


def _splits(column: Any, path: str, name: str) -> NDArray[np.str_]:
    found = _text(column)
    if strange := sorted(set(found.tolist()) - set(SPLITS)):
        empty = f" and {int(column.isna().sum())} empty cells" if column.isna().any() else ""
        raise ValueError(
            f"{path}: split column {name!r} holds {[s for s in strange if s][:5]}{empty}, "
            f"expected {SPLITS}"
        )
    if not (found == "train").any():
        raise ValueError(f"{path}: no row of split column {name!r} is 'train'")
    return found


def _text(column: Any) -> NDArray[np.str_]:
    """Values as text, empty where missing."""
    return np.array(["" if gap else str(v) for v, gap in zip(column, column.isna(), strict=True)])
