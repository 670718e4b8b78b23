"""What a caller gave to a table's estimator, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from sklearn.utils import check_array
from sklearn.utils.validation import validate_data


def checked(estimator: Any, X: Any, reset: bool) -> Any:
    """A DataFrame as it is, anything else as a 2-D array; sets or compares what `fit` has seen.

    Names are compared by the table's own preprocessing, which takes columns in any order.

    Args:
        estimator: whose `n_features_in_` and `feature_names_in_` are set or compared.
        X: table.
        reset: in `fit`.

    Raises:
        TypeError: a sparse matrix.
        ValueError: not two axes, no rows or columns, infinite values.
    """
    if hasattr(X, "to_pandas"):
        X = X.to_pandas()
    if hasattr(X, "iloc") and hasattr(X, "columns"):
        if reset:
            validate_data(estimator, X, reset=True, skip_check_array=True)
        if not len(X) or not len(X.columns):
            raise ValueError(
                f"found a table of shape {X.shape}: 0 sample(s) or 0 feature(s) while a minimum of "
                f"1 is required"
            )
        return X
    X = check_array(X, dtype=None, ensure_all_finite="allow-nan", estimator=estimator)
    validate_data(estimator, X, reset=reset, skip_check_array=True)
    return X


def columns_named(
    categorical: Sequence[str | int] | None, columns: Sequence[str], named: bool
) -> tuple[str, ...]:
    """Names of the columns that are categories; whole numbers count the columns of an array.

    Raises:
        ValueError: a number that counts no column.
    """
    given = [] if categorical is None else list(categorical)
    found = []
    for item in given:
        if named or not isinstance(item, Integral):
            found.append(str(item))
            continue
        if not -len(columns) <= item < len(columns):
            raise ValueError(f"categorical = {given}: the array has {len(columns)} columns")
        found.append(columns[int(item)])
    return tuple(found)


def check_settings(settings: Any) -> None:
    """Complain about settings that a table in memory cannot follow.

    Raises:
        ValueError: not a mapping of names, or one that says where the data come from.
    """
    if settings is None:
        return
    if not isinstance(settings, Mapping) or not all(isinstance(name, str) for name in settings):
        raise ValueError(f"settings = {settings!r}: give a dict of dotted names and values")
    if "train.epochs" in settings:
        raise ValueError("settings names 'train.epochs': a table is pretrained for `steps`")
    scales = ("data.numeric", "data.max_levels")
    if bad := [n for n in settings if n.startswith(("data.", "shape.")) and n not in scales]:
        raise ValueError(
            f"settings names {bad[0]!r}: columns are chosen by the DataFrame that `fit` gets, and "
            f"by `categorical`"
        )
