"""Numeric columns on a common scale: quantile to normal, standard, or robust with soft clipping."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Array = NDArray[np.float64]
Method = Literal["quantile", "standard", "robust"]
METHODS: tuple[str, ...] = ("quantile", "standard", "robust")


@dataclass(frozen=True)
class Scale:
    """What was measured on the training rows.

    Attributes:
        method: see `fit_scale`.
        center: (columns,), float64.
        width: (columns,), float64, never 0.
        quantiles: (columns, points), ascending, float64; no points but for "quantile".
    """

    method: str
    center: Array
    width: Array
    quantiles: Array


def fit_scale(values: Array, method: str = "quantile") -> Scale:
    """Measure the training rows; NaN is left out.

    Args:
        values: (rows, columns).
        method: "quantile" maps the empirical distribution to a standard normal one; "standard"
            takes mean and standard deviation; "robust" takes median and quartiles and clips softly
            at 3 (RealMLP, Holzmueller et al. 2024, section 3).

    Raises:
        ValueError: unknown method.
    """
    if method not in METHODS:
        raise ValueError(
            f"data.numeric = {method!r} is not known; choose one of {', '.join(METHODS)}"
        )
    rows, columns = values.shape
    quantiles = np.empty((columns, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column may be missing altogether
        if method == "robust":
            low, center, high = np.nanquantile(values, (0.25, 0.5, 0.75), axis=0)
            # Half the range where the quartiles coincide (a mostly constant column).
            span = (np.nanmax(values, axis=0) - np.nanmin(values, axis=0)) / 2
            width = np.where(high > low, high - low, span)
        else:
            center, width = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
        if method == "quantile" and columns:
            # About 30 rows per point, as in the tabular literature (Gorishniy et al. 2021).
            points = max(min(rows // 30, 1000), min(rows, 10), 2)
            quantiles = np.nanquantile(values, np.linspace(0, 1, points), axis=0).T
    quantiles = np.maximum.accumulate(np.nan_to_num(quantiles), axis=1)
    center, width = np.nan_to_num(center), np.nan_to_num(width)
    return Scale(method, center, np.where(width > 0, width, 1.0), quantiles)


def apply_scale(scale: Scale, values: Array) -> NDArray[np.float32]:
    """Scaled columns, float32, NaN where missing; values beyond the training range stay finite.

    Args:
        scale: of as many columns.
        values: (rows, columns).
    """
    if scale.method != "quantile":
        # No training value is clipped; far ones would overflow float32, or their square float64.
        most = 1e100 if scale.method == "robust" else 1e6
        with np.errstate(over="ignore"):
            scaled = np.clip((values - scale.center) / scale.width, -most, most)
        if scale.method == "robust":
            scaled = scaled / np.sqrt(1 + (scaled / 3) ** 2)
        return scaled.astype(np.float32)
    out = np.empty(values.shape, dtype=np.float32)
    if not out.size:
        return out
    points = scale.quantiles.shape[1]
    levels = np.linspace(0, 1, points)
    # The ends of the training range get the middle of their bin instead of +-infinity.
    edge = 0.5 / points
    for number, (column, known) in enumerate(zip(values.T, scale.quantiles, strict=True)):
        # From both sides: a value that fills many rows lies in the middle of its plateau.
        up = np.interp(column, known, levels)
        down = -np.interp(-column, -known[::-1], -levels[::-1])
        out[:, number] = ndtri(np.clip((up + down) / 2, edge, 1 - edge))
    return out
