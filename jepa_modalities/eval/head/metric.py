"""Scores of heads on test rows, and paired differences between two arms.

Arms are compared on the same rows: every bootstrap resample of the rows weighs both alike.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jepa_modalities.eval.statistics import Interval, resampled_means

Floats = NDArray[np.float64]
Metric = Literal["accuracy", "auc", "rmse"]
METRICS: tuple[Metric, ...] = ("accuracy", "auc", "rmse")
LOWER_IS_BETTER = ("rmse",)


def scores(metric: Metric, predictions: ArrayLike, truth: ArrayLike) -> Floats:
    """One score per seed, (seeds,), over all test rows at once.

    Args:
        metric: `accuracy`, `auc` (two classes) or `rmse` (in the target's unit).
        predictions: probabilities (seeds, rows, classes), or numbers (seeds, rows).
        truth: class numbers or numbers, (rows,).

    Raises:
        ValueError: unknown metric, shapes that do not fit, AUC without exactly two classes.
    """
    p, y = _checked(metric, predictions, truth)
    if metric == "accuracy":
        found: Floats = (p.argmax(-1) == y).mean(axis=1)
        return found
    if metric == "rmse":
        error: Floats = np.sqrt(np.square(p - y).mean(axis=1))
        return error
    counts = np.ones((1, len(y)))
    return np.concatenate([_weighted_auc(seed[:, 1], y, counts) for seed in p])


def resampled(
    metric: Metric, predictions: ArrayLike, truth: ArrayLike, num: int = 1000, seed: int = 0
) -> Floats:
    """The score averaged over seeds in each of `num` bootstrap resamples of the rows, (num,).

    The resamples depend on (rows, num, seed) only: calls for two arms are paired.

    Args:
        metric: see `scores`.
        predictions: see `scores`.
        truth: see `scores`.
        num: number of resamples.
        seed: of the resamples.
    """
    p, y = _checked(metric, predictions, truth)
    if metric == "accuracy":
        right = (p.argmax(-1) == y).mean(axis=0)
        return resampled_means(right[None], num, seed)[0]
    if metric == "rmse":
        squared = resampled_means(np.square(p - y), num, seed)
        found: Floats = np.sqrt(squared).mean(axis=0)
        return found
    generator, rows = np.random.default_rng(seed), len(y)
    step = max(1, 2_000_000 // rows)
    parts = []
    for start in range(0, num, step):
        size = min(step, num - start)
        drawn = generator.integers(0, rows, (size, rows)) + rows * np.arange(size)[:, None]
        count = np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows)
        aucs = [_weighted_auc(each[:, 1], y, count.astype(np.float64)) for each in p]
        parts.append(np.mean(aucs, axis=0))
    return np.concatenate(parts)


def paired(
    metric: Metric,
    first: ArrayLike,
    second: ArrayLike,
    truth: ArrayLike,
    num: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """How much better the first arm is than the second, positive = better for every metric.

    Args:
        metric: see `scores`.
        first: predictions of one arm, see `scores`.
        second: of the other on the same rows; the number of seeds may differ.
        truth: see `scores`.
        num: number of resamples.
        seed: of the resamples.
        level: coverage that is aimed at.

    Returns:
        The difference of the means over seeds, and the percentile interval over test rows.
    """
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    mean = sign * float(scores(metric, first, truth).mean() - scores(metric, second, truth).mean())
    difference = resampled(metric, first, truth, num, seed)
    difference = sign * (difference - resampled(metric, second, truth, num, seed))
    low, high = np.quantile(difference, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high))


def outcome(difference: Interval) -> str:
    """ "beats", "tie" or "falls below": an interval that touches zero is a tie."""
    if difference.mean > 0 and difference.low > 0:
        return "beats"
    return "falls below" if difference.mean < 0 and difference.high < 0 else "tie"


def average_ranks(table: ArrayLike, lower_is_better: ArrayLike) -> Floats:
    """Mean rank of every arm over tables, 1 = best; equal scores share their mean rank.

    Args:
        table: scores, (tables, arms).
        lower_is_better: one bool per table, (tables,).

    Returns:
        (arms,).
    """
    from scipy.stats import rankdata

    values = np.asarray(table, dtype=np.float64)
    sign = np.where(np.asarray(lower_is_better, dtype=bool), 1.0, -1.0)
    ranks: Floats = rankdata(values * sign[:, None], axis=1).mean(axis=0)
    return ranks


def _checked(metric: Metric, predictions: ArrayLike, truth: ArrayLike) -> tuple[Floats, Floats]:
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} is not known; choose from {', '.join(METRICS)}")
    p, y = np.asarray(predictions, dtype=np.float64), np.asarray(truth)
    axes = 2 if metric == "rmse" else 3
    if p.ndim != axes or y.shape != p.shape[1:2]:
        shape = "(seeds, rows)" if axes == 2 else "(seeds, rows, classes)"
        raise ValueError(
            f"predictions of shape {p.shape} for {y.shape} labels; {metric} expects {shape} and "
            f"(rows,)"
        )
    if metric == "auc" and p.shape[2] != 2:
        raise ValueError(f"auc needs two classes, found {p.shape[2]}")
    return p, y


def _weighted_auc(score: Floats, y: Floats, counts: Floats) -> Floats:
    """Area under the ROC curve for each set of row counts, (sets,); ties count half.

    Args:
        score: of class 1, (rows,).
        y: 0 or 1, (rows,).
        counts: how often each row is in a resample, (sets, rows).
    """
    order = np.argsort(score, kind="stable")
    ordered = score[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    counts, label = counts[:, order], y[order]
    positive = np.add.reduceat(counts * label, first, axis=1)
    negative = np.add.reduceat(counts * (1 - label), first, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(1) * negative.sum(1)
    area = (positive * (below + negative / 2)).sum(1)
    return np.divide(area, pairs, out=np.full(len(pairs), 0.5), where=pairs > 0)
