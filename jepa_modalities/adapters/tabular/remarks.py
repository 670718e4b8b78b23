"""What each column of a table was taken for, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jepa_modalities.adapters.tabular.preprocess import TablePreprocess
from jepa_modalities.data.table import SPLITS, moments

if TYPE_CHECKING:
    from pandas import DataFrame

SHOWN = 8  # columns that are named
LOOKED_AT = 1000  # values of a text column
MOSTLY = 0.8  # share of them that makes a remark


def columns_in_words(
    process: TablePreprocess, frame: DataFrame, categorical: Sequence[str] = ()
) -> list[str]:
    """One line per kind of column, then what may have been meant otherwise.

    Args:
        process: fitted.
        frame: the training rows.
        categorical: columns that were named as categories; there are no remarks on them.
    """
    kinds = {column.name: column.kind for column in process.columns}
    parts = {
        "numbers": [name for name, kind in kinds.items() if kind == "numeric"],
        "dates": [name for name, kind in kinds.items() if kind == "date"],
        "categories": [
            f"{c.name} ({len(c.levels)})" for c in process.columns if c.kind == "category"
        ],
        "left out, all values equal": [name for name in process.names if name not in kinds],
    }
    lines = [f"{len(names)} {what}: {_listed(names)}" for what, names in parts.items() if names]
    lines += _names(process.names)
    for column in process.columns:
        if column.kind == "category" and column.name not in categorical:
            lines += _remark(frame, column.name, column.levels)
    return lines


def _names(names: Sequence[str]) -> list[str]:
    """Sentences on names that a CSV file without header, or with an index, leads to."""
    found = [
        f"note: column {name!r} has no name in the file; if it only counts the rows, leave it out "
        f"with data.drop"
        for name in names
        if name.startswith("Unnamed: ")
    ]
    counted = {str(number) for number in range(len(names))}
    if not set(names) <= counted and all(map(_is_number, names)):
        found.append(
            f"note: the columns are named {_listed(names)}: if the file has no header, write one"
        )
    return found


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _remark(frame: DataFrame, name: str, levels: Sequence[str]) -> list[str]:
    """A sentence on text that looks like numbers, dates or a split; none on other columns."""
    import pandas as pd

    if set(levels) <= set(SPLITS):
        return [
            f"note: {name!r} holds {', '.join(sorted(levels))} and counts as a category: if it "
            f"says which rows to train on, name it in data.split"
        ]
    values = frame[name].dropna().iloc[:LOOKED_AT]
    if not len(values) or not all(isinstance(value, str) for value in values):
        return []
    taken = f"note: {name!r} is text, so it counts as a category of {len(levels)} levels, but"
    dotted = values.str.replace(",", ".", regex=False)
    share = float(pd.to_numeric(dotted, errors="coerce").notna().mean())
    if share >= MOSTLY:
        return [
            f"{taken} {share:.0%} of its values look like numbers: empty the other cells, write "
            f"decimal points, or name it in data.categorical"
        ]
    try:
        moments(values)
    except ValueError:
        return []
    return [f"{taken} its values look like dates: name it in data.dates"]
