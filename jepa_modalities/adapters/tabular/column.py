"""Columns of any dtype as numbers or as keys: what a table holds before anything is fitted."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jepa_modalities.data.table import moments

if TYPE_CHECKING:
    from pandas import DataFrame, Series

NUMERIC = ("integer", "floating", "mixed-integer-float", "decimal", "empty")
MIXED = ("mixed", "mixed-integer")  # perhaps floats and decimals
DATES = ("datetime64", "datetime", "date")
DURATIONS = ("timedelta64", "timedelta")
# A date becomes its day number and the phases of its year, week and day.
PERIODS = {"year": 365.2425, "week": 7.0, "day": 1.0}
DATE_PARTS = ("elapsed", *(f"{period}_{wave}" for period in PERIODS for wave in ("sin", "cos")))
DAY = 86_400_000_000  # microseconds
WHOLE = re.compile(r"-?(0|[1-9][0-9]*)\.0")


def as_frame(raw: Any) -> tuple[DataFrame, bool]:
    """A table as a DataFrame with text column names, and whether the names are its own.

    Args:
        raw: a DataFrame (anything with `to_pandas` too), or a 2-D array or tensor, whose columns
            are called x0, x1, ...

    Raises:
        TypeError: a sparse matrix.
        ValueError: not two axes, no columns, two columns of one name, or complex numbers.
    """
    import pandas as pd

    if hasattr(raw, "to_pandas"):
        raw = raw.to_pandas()
    named = isinstance(raw, pd.DataFrame)
    if named:
        frame = raw
    elif hasattr(raw, "tocsr"):
        raise TypeError("found a sparse matrix, expected a dense table; call .toarray() first")
    else:
        array = np.asarray(raw)
        if array.ndim != 2:
            raise ValueError(
                f"found an array of shape {array.shape}, expected 2-D (rows, columns). Reshape "
                f"your data to one row per sample"
            )
        frame = pd.DataFrame(array)
        if array.dtype == object:
            frame = frame.infer_objects()
    names = (
        [str(name) for name in frame.columns] if named else [f"x{i}" for i in range(len(frame.T))]
    )
    if not names:
        raise ValueError(
            f"found a table of shape {frame.shape}: 0 feature(s) while a minimum of 1 is required"
        )
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"columns {twice} occur more than once; rename or drop one of each")
    frame = frame.set_axis(names, axis=1)
    if bad := [name for name in names if getattr(frame[name].dtype, "kind", "") == "c"]:
        raise ValueError(
            f"Complex data not supported: column {bad[0]!r}; split real and imaginary parts"
        )
    return frame, named


def kind_of(column: Series[Any]) -> str:
    """ "numeric", "date" or "category"; booleans and text are categories, durations are numeric."""
    import pandas as pd

    kinds = pd.api.types
    if isinstance(column.dtype, pd.CategoricalDtype) or kinds.is_bool_dtype(column.dtype):
        return "category"
    if kinds.is_numeric_dtype(column.dtype) or is_duration(column):
        return "numeric"
    if kinds.is_datetime64_any_dtype(column.dtype):
        return "date"
    if column.dtype != object:
        return "category"
    found = kinds.infer_dtype(column, skipna=True)
    if found in NUMERIC or (found in MIXED and all(map(_is_number, column.dropna()))):
        return "numeric"
    return "date" if found in DATES else "category"


def _is_number(value: object) -> bool:
    real = int | float | Decimal | np.integer | np.floating
    return isinstance(value, real) and not isinstance(value, bool)


def is_duration(column: Series[Any]) -> bool:
    """Whether a column holds durations, as NumPy, Arrow or Python objects."""
    import pandas as pd

    if column.dtype == object:
        return pd.api.types.infer_dtype(column, skipna=True) in DURATIONS
    return getattr(column.dtype, "kind", "") == "m"


def numbers(column: Series[Any]) -> NDArray[np.float64]:
    """A numeric column, (rows,), missing values as NaN.

    Raises:
        ValueError: text that is no number, or an infinite value; names the column.
    """
    import pandas as pd

    if is_duration(column):
        seconds = pd.to_timedelta(column.astype(object)).dt.total_seconds()
        return np.asarray(seconds, dtype=np.float64)
    if column.dtype.kind in "fiu" and isinstance(column.dtype, np.dtype):
        values = column.to_numpy(dtype=np.float64)
    else:
        try:
            plain = pd.to_numeric(column.astype(object), errors="raise")
            values = plain.astype("float64").to_numpy()
        except (ValueError, TypeError) as error:
            found = _no_number(column) or str(error)
            raise ValueError(
                f"column {column.name!r} was numeric when fitted; now: {found}. Clean it, or fit "
                f"again with this column named as categorical"
            ) from None
    if np.isinf(values).any():
        raise ValueError(
            f"column {column.name!r} holds {int(np.isinf(values).sum())} infinite values (inf), "
            f"first in row {column.index[np.isinf(values).argmax()]}; replace them by NaN, which "
            f"counts as missing"
        )
    return values


def _no_number(column: Series[Any]) -> str:
    """What text stands first where numbers are expected, and its row; "" for none."""
    import pandas as pd

    text = column[[isinstance(value, str) for value in column]]
    strange = text[pd.to_numeric(text, errors="coerce").isna()]
    return f"{strange.iloc[0]!r} in row {strange.index[0]}" if len(strange) else ""


def dates(column: Series[Any]) -> NDArray[np.float64]:
    """A date column as (rows, parts), parts as in `DATE_PARTS`; missing dates as NaN.

    Raises:
        ValueError: numbers, or text that is no date in ISO 8601; names the column.
    """
    import pandas as pd

    try:
        if pd.api.types.is_numeric_dtype(column.dtype) and column.notna().any():
            raise ValueError(f"numbers ({column.dtype}), whose unit is not known")
        days = (
            moments(column)
            .dt.as_unit("us")
            .dt.tz_localize(None)
            .to_numpy()
            .astype("datetime64[us]")
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"column {column.name!r} held dates when fitted; now: {error}") from None
    elapsed = np.where(np.isnat(days), np.nan, days.astype(np.int64) / DAY)
    phases = [2 * np.pi * elapsed / period for period in PERIODS.values()]
    return np.stack([elapsed, *(wave(p) for p in phases for wave in (np.sin, np.cos))], axis=1)


def key(value: object) -> str:
    """One spelling for equal categories: 3, 3.0, "3" and "3.0" are the same one."""
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    text = str(value)
    return text.removesuffix(".0") if WHOLE.fullmatch(text) else text


def keys(column: Series[Any]) -> tuple[NDArray[np.int64], list[str]]:
    """Row -> number in a list of spellings, -1 where missing, and the list.

    Raises:
        ValueError: lists, dicts or other values that are no category; names the column.
    """
    import pandas as pd

    def spelled(value: Any) -> str:
        hash(value)  # lists have no hash
        return key(value)

    kind = pd.api.types.infer_dtype(column, skipna=True) if column.dtype == object else "string"
    try:
        if kind not in ("string", "boolean", "integer"):  # 1 == True, and yet two categories
            column = column.map(spelled, na_action="ignore")
        codes, unique = pd.factorize(column, use_na_sentinel=True)
    except (TypeError, NotImplementedError):
        raise ValueError(
            f"column {column.name!r} holds lists or the like ({column.dtype}), expected one value "
            f"per row; make columns of their items, or drop it"
        ) from None
    return codes.astype(np.int64), [key(value) for value in unique]
