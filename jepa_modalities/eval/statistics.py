"""Intervals for scores: bootstrap over test samples, Student's t over draws or seeds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]

# Resampling numbers made at a time: 4 million of 8 bytes bound the memory at about 100 MB.
CHUNK = 4_000_000


class Interval(NamedTuple):
    """A mean with the ends of its interval, in the unit of the scores."""

    mean: float
    low: float
    high: float


def resampled_means(scores: ArrayLike, num: int = 2000, seed: int = 0) -> Array:
    """Means of `num` bootstrap resamples of every row (Efron 1979), as count-weighted sums.

    The resamples depend on (number of samples, num, seed) only, never on the scores: rows and calls
    with the same three are paired.

    Args:
        scores: per-sample scores, (rows, samples).
        num: number of resamples.
        seed: of the resamples.

    Returns:
        (rows, num), float64.
    """
    values = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    samples = values.shape[-1]
    generator = np.random.default_rng(seed)
    means = np.empty((len(values), num))
    step = max(1, CHUNK // samples)
    for start in range(0, num, step):
        size = min(step, num - start)
        drawn = generator.integers(0, samples, (size, samples))
        drawn += samples * np.arange(size)[:, None]
        count = np.bincount(drawn.ravel(), minlength=size * samples).reshape(size, samples)
        means[:, start : start + size] = values @ count.T.astype(np.float64) / samples
    return means


def bootstrap_intervals(
    scores: ArrayLike, num: int = 2000, seed: int = 0, level: float = 0.95
) -> list[Interval]:
    """One percentile interval per row of (rows, samples), all from the same resamples.

    Raises:
        ValueError: `scores` is not (rows, samples), is empty, or has a value that is not finite;
            `num` or `level` is out of range.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"scores have shape {values.shape}; expected (rows, samples), not empty")
    if not np.isfinite(values).all():
        raise ValueError(
            f"{int((~np.isfinite(values)).sum())} scores are NaN or infinite; drop these samples"
        )
    if num < 1 or not 0 < level < 1:
        raise ValueError(f"num = {num}, level = {level}: give num >= 1 and 0 < level < 1")
    tail = (1 - level) / 2
    ends = np.quantile(resampled_means(values, num, seed), [tail, 1 - tail], axis=1)
    means = values.mean(axis=1)
    return [Interval(*map(float, row)) for row in zip(means, *ends, strict=True)]


def bootstrap_interval(
    values: ArrayLike, num: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean and percentile bootstrap interval of per-sample scores.

    Args:
        values: scores, (samples,), or (seeds, samples), which is averaged over the seeds first: the
            interval then speaks of other test samples, not of other seeds.
        num: number of resamples.
        seed: of the resamples.
        level: coverage that is aimed at.

    Raises:
        ValueError: see `bootstrap_intervals`.
    """
    return bootstrap_intervals(_over_seeds(values)[None], num, seed, level)[0]


def paired_bootstrap(
    a: ArrayLike, b: ArrayLike, num: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean and interval of a - b on the SAME samples: one resample weighs both alike.

    Args:
        a: scores of one arm, (samples,) or (seeds, samples).
        b: scores of the other on the same samples; the number of seeds may differ.
        num: number of resamples.
        seed: of the resamples.
        level: coverage that is aimed at.

    Raises:
        ValueError: the numbers of samples differ; or see `bootstrap_intervals`.
    """
    first, second = _over_seeds(a), _over_seeds(b)
    if first.shape != second.shape:
        raise ValueError(
            f"paired scores need the same samples, found {first.size} and {second.size}; score "
            f"both arms on one test set"
        )
    return bootstrap_intervals((first - second)[None], num, seed, level)[0]


def t_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean and Student's t-interval over independent draws or seeds.

    Args:
        values: one score per draw, (draws,), at least 2.
        level: coverage that is aimed at.

    Raises:
        ValueError: fewer than two values, or a value that is not finite.
    """
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or scores.size < 2:
        raise ValueError(
            f"a t-interval needs at least 2 values, found shape {scores.shape}; raise the number "
            f"of draws or seeds"
        )
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} values are NaN or infinite")
    mean = float(scores.mean())
    error = float(scores.std(ddof=1)) / scores.size**0.5
    half = float(stats.t.ppf((1 + level) / 2, scores.size - 1)) * error
    return Interval(mean, mean - half, mean + half)


def _over_seeds(values: ArrayLike) -> Array:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim not in (1, 2) or not scores.size:
        raise ValueError(
            f"scores have shape {scores.shape}; expected (samples,) or (seeds, samples), not empty"
        )
    return scores if scores.ndim == 1 else scores.mean(axis=0)
