"""Any table -> arrays, fitted on training rows; stored as tensors and JSON, never as a pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_modalities.adapters.tabular.column import (
    DATE_PARTS,
    as_frame,
    dates,
    key,
    keys,
    kind_of,
    numbers,
)
from jepa_modalities.adapters.tabular.scale import Scale, apply_scale, fit_scale

if TYPE_CHECKING:
    from pandas import DataFrame

BOOLEAN = {"True": "1", "False": "0"}  # what else may be meant by them
UNKNOWN, MISSING, RESERVED = 0, 1, 2  # category codes: never seen; empty; then the levels


@dataclass(frozen=True)
class TableArrays:
    """A table as two arrays.

    Attributes:
        numeric: scaled numbers, float32, (rows, numeric features), NaN = missing.
        category: codes, int64, (rows, categorical features): 0 unknown, 1 missing, then levels.
    """

    numeric: NDArray[np.float32]
    category: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numeric)


@dataclass(frozen=True)
class Column:
    """One column that features are made of.

    Attributes:
        name: of the column.
        kind: "numeric", "date" or "category".
        parts: of a date, see `column.DATE_PARTS`, those that vary.
        levels: of a category, most frequent first; level i has the code i + 2.
    """

    name: str
    kind: str
    parts: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()


@dataclass(frozen=True)
class TablePreprocess:
    """What was measured on the training rows, and how to apply it.

    Features are ordered numeric first (parts of dates among them), then categorical, each in the
    order of the columns.

    Attributes:
        names: of all columns, in the order of the training table.
        named: whether these names came with the table; else columns are matched by position.
        columns: those that features are made of; the others did not vary.
        scale: of the numeric features.
    """

    names: tuple[str, ...]
    named: bool
    columns: tuple[Column, ...]
    scale: Scale

    @classmethod
    def fit(
        cls,
        frame: Any,
        numeric: str = "quantile",
        categorical: Sequence[str] | None = None,
        max_levels: int = 256,
    ) -> TablePreprocess:
        """Measure the training rows; columns that do not vary are left out.

        Args:
            frame: DataFrame of any dtypes, or a 2-D array.
            numeric: "quantile" (to a normal distribution), "standard" or "robust" (soft clipping).
            categorical: columns that are categories whatever their dtype; None for none.
            max_levels: the most frequent levels that are told apart; all others are "unknown".

        Raises:
            ValueError: fewer than 2 rows, a name that is no column, infinite values, or no column
                that varies.
        """
        table, named = as_frame(frame)
        if len(table) < 2:
            raise ValueError(
                f"found {len(table)} sample(s) (n_samples={len(table)}), at least 2 are needed"
            )
        forced = {str(name) for name in categorical or ()}
        if strange := sorted(forced - set(table.columns)):
            raise ValueError(
                f"data.categorical names {strange}; the columns are {list(table.columns)}"
            )
        columns: list[Column] = []
        values: list[NDArray[np.float64]] = []
        for name in table.columns:
            kind = "category" if name in forced else kind_of(table[name])
            if kind == "category":
                levels = _levels(table, name, max_levels)
                if levels is not None:
                    columns.append(Column(name, kind, levels=levels))
                continue
            found = dates(table[name]) if kind == "date" else numbers(table[name])[:, None]
            varies = _varies(found)
            if varies.any():
                labels = zip(DATE_PARTS if kind == "date" else ("",), varies, strict=True)
                parts = tuple(part for part, keep in labels if keep and part)
                columns.append(Column(name, kind, parts))
                values.append(found[:, varies])
        made = [f"{c.name}:{part}" for c in columns for part in c.parts]
        if twice := sorted(set(made) & {column.name for column in columns}):
            raise ValueError(f"columns {twice} are named like parts of dates; rename them")
        if not columns:
            raise ValueError(
                f"none of the {len(table.columns)} column(s) varies over the {len(table)} rows; "
                f"nothing can be learned from this table"
            )
        stacked = np.concatenate([np.empty((len(table), 0)), *values], axis=1)
        return cls(tuple(table.columns), named, tuple(columns), fit_scale(stacked, numeric))

    @property
    def numeric_names(self) -> tuple[str, ...]:
        """Names of the numeric features; a date's are `<column>:<part>`."""
        found: list[str] = []
        for column in self.columns:
            if column.kind == "numeric":
                found.append(column.name)
            found += [f"{column.name}:{part}" for part in column.parts]
        return tuple(found)

    @property
    def category_names(self) -> tuple[str, ...]:
        """Names of the categorical features."""
        return tuple(column.name for column in self._categories)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of all features, numeric first: one token each."""
        return self.numeric_names + self.category_names

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Codes per categorical feature, the two reserved ones included."""
        return tuple(len(column.levels) + RESERVED for column in self._categories)

    @property
    def text(self) -> tuple[str, ...]:
        """Columns of levels that a file may spell like numbers; booleans are none."""
        return tuple(c.name for c in self._categories if not set(c.levels) <= BOOLEAN.keys())

    @property
    def _categories(self) -> list[Column]:
        return [column for column in self.columns if column.kind == "category"]

    def transform(self, frame: Any) -> TableArrays:
        """Arrays of a table with the same columns, in any order; unseen levels are "unknown".

        Raises:
            ValueError: columns are missing or unexpected (named), or hold what they cannot.
        """
        table = self.match(frame)
        numeric: list[NDArray[np.float64]] = [np.empty((len(table), 0))]
        category: list[NDArray[np.int64]] = []
        for column in self.columns:
            values = table[column.name]
            if column.kind == "numeric":
                numeric.append(numbers(values)[:, None])
            elif column.kind == "date":
                kept = [DATE_PARTS.index(part) for part in column.parts]
                numeric.append(dates(values)[:, kept])
            else:
                category.append(_codes(*keys(values), column.levels))
        scaled = apply_scale(self.scale, np.concatenate(numeric, axis=1))
        codes = np.stack(category, axis=1) if category else np.empty((len(table), 0), np.int64)
        return TableArrays(scaled, codes)

    def match(self, frame: Any) -> DataFrame:
        """A table with the columns that are used, by name; by position where one has no names.

        Raises:
            ValueError: naming what is missing and what is unexpected.
        """
        table, named = as_frame(frame)
        if not (named and self.named):
            if len(table.columns) != len(self.names):
                raise ValueError(
                    f"X has {len(table.columns)} features, but {len(self.names)} features are "
                    f"expected: {list(self.names)}"
                )
            table = table.set_axis(list(self.names), axis=1)
        used = [column.name for column in self.columns]
        lacking = [name for name in used if name not in table.columns]
        extra = [name for name in table.columns if name not in self.names]
        if lacking or extra:
            said = [f"columns {lacking} are missing"] if lacking else []
            said += [f"columns {extra} are unexpected"] if extra else []
            raise ValueError(
                f"{' and '.join(said)}; the table needs the columns it was fitted with: "
                f"{list(self.names)} (in any order)"
            )
        return table

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors (float64) and a JSON-able dict, from which `from_state` makes an equal object."""
        tensors = {
            name: torch.from_numpy(np.ascontiguousarray(getattr(self.scale, name)))
            for name in ("center", "width", "quantiles")
        }
        about = {
            "names": list(self.names),
            "named": self.named,
            "numeric": self.scale.method,
            "columns": [asdict(column) for column in self.columns],
        }
        return tensors, about

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> TablePreprocess:
        """The inverse of `state`."""
        columns = tuple(
            Column(c["name"], c["kind"], tuple(c["parts"]), tuple(c["levels"]))
            for c in about["columns"]
        )
        arrays = (tensors[name].double().cpu().numpy() for name in ("center", "width", "quantiles"))
        return cls(
            tuple(about["names"]), bool(about["named"]), columns, Scale(about["numeric"], *arrays)
        )


def _varies(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Columns with two different values, or with one and gaps."""
    known = ~np.isnan(values)
    low = np.where(known, values, np.inf).min(axis=0)
    high = np.where(known, values, -np.inf).max(axis=0)
    return known.any(axis=0) & ((low < high) | ~known.all(axis=0))


def _levels(table: DataFrame, name: str, most: int) -> tuple[str, ...] | None:
    """Levels by frequency, equal ones by name; None where the column does not vary."""
    codes, spelled = keys(table[name])
    counts: dict[str, int] = {}
    for level, count in zip(
        spelled, np.bincount(codes[codes >= 0], minlength=len(spelled)).tolist(), strict=True
    ):
        counts[level] = counts.get(level, 0) + count
    if len(counts) + bool((codes < 0).any()) < 2:
        return None
    ordered = sorted(counts, key=lambda level: (-counts[level], level))
    return tuple(ordered[:most])


def _codes(
    codes: NDArray[np.int64], spelled: Sequence[str], levels: Sequence[str]
) -> NDArray[np.int64]:
    number = {level: code for code, level in enumerate(levels, start=RESERVED)}
    if set(levels) <= BOOLEAN.keys():
        number |= {BOOLEAN[level]: code for level, code in number.items()}
    found = [number.get(level, UNKNOWN) for level in spelled]
    return np.array([*found, MISSING], dtype=np.int64)[codes]  # -1 is the last: missing


__all__ = ["MISSING", "RESERVED", "UNKNOWN", "Column", "TableArrays", "TablePreprocess", "key"]
