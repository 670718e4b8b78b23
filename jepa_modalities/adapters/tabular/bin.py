"""Quantile bins of numeric features and the piecewise-linear code on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS = 200_000  # more rows move a quantile by less than a thousandth of the range
NARROWEST = 1e-6  # width of a bin over the range of its feature
REACH = 10.0  # how many bins the open ends go on


def bin_edges(numeric: NDArray[Any], bins: int, seed: int = 0) -> list[NDArray[np.float64]]:
    """Edges of at most `bins` bins per feature: its different quantiles (Gorishniy et al. 2022).

    NaN is left out; a feature without two values that float32 tells apart gets one bin around it.

    Args:
        numeric: (rows, features).
        bins: at most; the rows where there are fewer.
        seed: of the sample where there are many rows.
    """
    if len(numeric) > ROWS:
        numeric = numeric[np.random.default_rng(seed).permutation(len(numeric))[:ROWS]]
    levels = np.linspace(0, 1, max(min(bins, len(numeric) - 1), 1) + 1)
    found = []
    for column in numeric.T.astype(np.float64):
        known = column[~np.isnan(column)]
        edges = np.unique(np.quantile(known, levels)) if known.size else np.zeros(1)
        edges = _apart(edges)
        found.append(edges if len(edges) > 1 else edges[0] + np.array([-0.5, 0.5]))
    return found


def _apart(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ascending edges without those that are too close to the one before."""
    precision = float(np.spacing(np.float32(np.abs(edges).max())))
    least = max(NARROWEST * (edges[-1] - edges[0]), 4 * precision)
    kept = [edges[0]]
    for edge in edges[1:]:
        if edge - kept[-1] >= least:
            kept.append(edge)
    return np.array(kept)


def piecewise_linear(
    numeric: NDArray[Any], edges: Sequence[NDArray[np.float64]]
) -> NDArray[np.float32]:
    """Share of each bin that a value has passed (Gorishniy et al. 2022, equation 1).

    First and last bin go on beyond the training range, by `REACH` of their widths; missing values
    are all 0.

    Args:
        numeric: (rows, features).
        edges: of each feature, ascending.

    Returns:
        (rows, sum of bins), float32, features one after the other.
    """
    parts = [np.empty((len(numeric), 0), np.float32)]
    for column, edge in zip(numeric.T, edges, strict=True):
        share = (column[:, None] - edge[:-1]) / np.diff(edge)
        low = np.full(share.shape[1], 0.0)
        high = np.full(share.shape[1], 1.0)
        low[0], high[-1] = -REACH, 1 + REACH
        parts.append(np.nan_to_num(np.clip(share, low, high)).astype(np.float32))
    return np.concatenate(parts, axis=1)
