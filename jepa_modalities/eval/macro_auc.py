"""Macro AUC over classes that may be missing, and its resamples for paired intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
RESAMPLES = 1000


def aucs(truth: ArrayLike, scores: ArrayLike) -> Array:
    """Area under the ROC curve of each class, NaN where it has no positive or no negative.

    Args:
        truth: 0 or 1, (rows, classes).
        scores: higher = more likely, (rows, classes).

    Raises:
        ValueError: scores that are NaN.
    """
    y, s = np.asarray(truth), np.asarray(scores)
    if bad := int(np.isnan(s).any(-1).sum()):
        raise ValueError(f"the scores of {bad} of {len(s)} rows are NaN: features or model broke")
    return _weighted_aucs(y, s, np.ones((1, len(y))))[0]


def macro_auc(truth: ArrayLike, scores: ArrayLike) -> float:
    """Mean of `aucs` over the classes that the rows hold both ways.

    Raises:
        ValueError: no such class.
    """
    found = aucs(truth, scores)
    if np.isnan(found).all():
        raise ValueError(
            f"none of the {found.size} classes has both a positive and a negative among these rows"
        )
    return float(np.nanmean(found))


def _weighted_aucs(y: NDArray[Any], s: NDArray[Any], counts: Array) -> Array:
    """AUCs where every row counts so often, (resamples, classes); ties count half."""
    found = np.full((len(counts), y.shape[1]), np.nan)
    for column in range(y.shape[1]):
        order = np.argsort(s[:, column], kind="stable")
        value, positive = s[order, column], y[order, column].astype(bool)
        weight = counts[:, order]
        first = np.flatnonzero(np.r_[True, value[1:] != value[:-1]])  # of equal scores
        plus = np.add.reduceat(weight * positive, first, axis=1)
        minus = np.add.reduceat(weight * ~positive, first, axis=1)
        below = np.cumsum(minus, axis=1) - minus / 2
        pairs = plus.sum(1) * minus.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            found[:, column] = np.where(pairs > 0, (plus * below).sum(1) / pairs, np.nan)
    return found


def resamples(truth: ArrayLike, num: int = RESAMPLES, seed: int = 0) -> Array:
    """Bootstrap counts of the rows, (resamples, rows): the same for every arm, so paired.

    A draw in which a class has lost its positives or negatives is drawn again, so that all draws
    score the same classes. With classes so rare that fewer than one draw in 20 keeps them all,
    draws stay as they are, and `resampled_macro` leaves out what a draw lacks, for all arms alike.

    Args:
        truth: (rows, classes); classes that are constant in it do not count.
        num: number of resamples.
        seed: of the resamples.
    """
    y = np.asarray(truth).astype(np.float64)
    y = y[:, (y.sum(0) > 0) & (y.sum(0) < len(y))]
    generator = np.random.default_rng(seed)
    kept: list[Array] = []
    while True:
        drawn = generator.integers(0, len(y), (num, len(y)))
        drawn += len(y) * np.arange(num)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=num * len(y)).reshape(num, len(y))
        positives = counts @ y
        fine = ((positives > 0) & (positives < len(y))).all(1)
        if not kept and fine.mean() < 1 / 20:
            return counts.astype(np.float64)
        kept.append(counts[fine].astype(np.float64))
        if sum(map(len, kept)) >= num:
            return np.concatenate(kept)[:num]


def resampled_macro(truth: ArrayLike, scores: ArrayLike, counts: Array) -> Array:
    """Macro AUC of every resample, (resamples,), over the classes that it holds both ways."""
    y = np.asarray(truth)
    both = (y.sum(0) > 0) & (y.sum(0) < len(y))
    found = _weighted_aucs(y[:, both], np.asarray(scores)[:, both], counts)
    return np.asarray(np.nanmean(found, axis=1))


def resample_count(truth: NDArray[Any]) -> int:
    """`RESAMPLES`, or the published 100 where the test set is so large that it would take long."""
    return RESAMPLES if truth.size * RESAMPLES < 3e7 else 100
