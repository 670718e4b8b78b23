"""Arms on a numeric target: ridge regression, RMSE and R2, every arm beside its controls."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from jepa_modalities.eval.arms import CONTROLS, LEARNED, Arm, Scores, check_arms, suffix
from jepa_modalities.eval.least_squares import solve_ridge
from jepa_modalities.eval.probes import (
    Fit,
    check_rows,
    floats,
    standardise,
)
from jepa_modalities.eval.statistics import resampled_means

Vector = NDArray[np.float64]

# Penalties per row; numbers want far weaker ones than classes do (13,000 rows of 512 features of a
# table: best at 1e-5, 5 % worse at 1e-3).
GRID: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


def value_holdout(values: ArrayLike, every: int = 10, seed: int = 0) -> NDArray[np.bool_]:
    """True for one row in `every`, spread evenly over the sorted values.

    Raises:
        ValueError: too few rows for even one held-out row.
    """
    y = np.asarray(values)
    generator = np.random.default_rng(seed)
    order = np.lexsort((generator.random(len(y)), y))
    held = np.zeros(len(y), dtype=bool)
    held[order[int(generator.integers(every)) :: every]] = True
    if not held.any() or held.all():
        raise ValueError(f"{len(y)} rows are too few to hold out one in {every}; add rows")
    return held


def ridge_regression(
    train_x: ArrayLike,
    train_y: ArrayLike,
    test_x: ArrayLike,
    grid: Sequence[float] = GRID,
    seed: int = 0,
) -> Fit:
    """Ridge regression on standardised features, the penalty picked on a held-out tenth.

    Args:
        train_x: (rows, width).
        train_y: numbers, (rows,).
        test_x: (test rows, width).
        grid: penalties per training row: ||y - x w||^2 / rows + weight * ||w||^2.
        seed: of the held-out part.

    Returns:
        Fit with `predictions` in the unit of `train_y`, float64.

    Raises:
        ValueError: see `probes.check_rows`, or too few rows to hold any out.
    """
    start = time.perf_counter()
    raw_x, raw_y, raw_t = check_rows(train_x, train_y, test_x)
    x, t = floats(raw_x), floats(raw_t)
    mean, std = standardise(x)
    x, t = (part.sub_(mean).div_(std).float() for part in (x, t))
    y = torch.from_numpy(raw_y.astype(np.float64))[:, None]
    held = torch.from_numpy(value_holdout(raw_y, seed=seed))

    def closeness(guess: torch.Tensor, truth: torch.Tensor) -> float:
        return -float((guess - truth).square().mean().sqrt())

    scores, weight, reached = solve_ridge(x, y, held, t, grid, closeness)
    chosen = {"weight": weight, "held_out": -reached}
    return Fit(scores[:, 0].numpy(), chosen, time.perf_counter() - start)


def score_regression(
    arms: Sequence[Arm],
    train_y: ArrayLike,
    test_y: ArrayLike,
    primary: str = "mean",
    seed: int = 0,
) -> Scores:
    """`eval.arms.score_arms` for numbers: the same arms, poolings, intervals and pairs.

    RMSE and R2 are those of each encoder seed, averaged over seeds; intervals are 95 % bootstrap
    over test rows, paired ones from the same resamples.

    Args:
        arms: with `raw` and `untrained` wherever a learned arm is among them.
        train_y: (rows,).
        test_y: (test rows,), used for the scores only.
        primary: the pooling whose keys carry no `@`.
        seed: of held-out parts and resamples.

    Returns:
        `<arm>/ridge[@<pooling>]/rmse` and `/r2` with `_low`, `_high`, `_seeds`; no r2 where few
        test rows hold so few values that those of a resample may be equal;
        `paired/<arm>-<control>/ridge[@<pooling>]/rmse`; `correct` holds squared errors, (test
        rows,), averaged over seeds.

    Raises:
        ValueError: see `score_arms`.
    """
    y, truth = np.asarray(train_y, dtype=np.float64), np.asarray(test_y, dtype=np.float64)
    check_arms(arms, y, truth, (), primary)
    metrics: dict[str, float] = {}
    squares: dict[str, Vector] = {}
    spread = resampled_means(np.stack([truth, truth**2]), seed=seed)
    variance = np.append(spread[1] - spread[0] ** 2, truth.var())
    resampled: dict[str, Vector] = {}
    for arm in arms:
        for pooling in arm.poolings:
            at = suffix(pooling, primary)
            pairs = [(train[pooling], test[pooling]) for train, test in arm.seeds()]
            metrics[f"{arm.name}/width{at}"] = float(pairs[0][0].shape[1])
            errors = np.stack(
                [(ridge_regression(x, y, t, seed=seed).predictions - truth) ** 2 for x, t in pairs]
            )
            key = f"{arm.name}/ridge{at}"
            squares[key] = errors.mean(axis=0)
            # The last column is the estimate itself.
            mse = np.column_stack([resampled_means(errors, seed=seed), errors.mean(axis=1)])
            resampled[key] = np.sqrt(mse).mean(axis=0)
            metrics |= _entry(f"{key}/rmse", resampled[key], len(pairs))
            if variance.min() > 0:
                metrics |= _entry(f"{key}/r2", 1 - (mse / variance).mean(axis=0), len(pairs))
    metrics |= _pairs(arms, primary, resampled)
    return Scores(metrics, squares)


def _entry(key: str, values: Vector, seeds: int | None = None) -> dict[str, float]:
    low, high = np.percentile(values[:-1], (2.5, 97.5))
    found = {key: float(values[-1]), f"{key}_low": float(low), f"{key}_high": float(high)}
    return found if seeds is None else {**found, f"{key}_seeds": float(seeds)}


def _pairs(arms: Sequence[Arm], primary: str, resampled: Mapping[str, Vector]) -> dict[str, float]:
    """Learned arm minus control on the same resamples: below 0 is better."""
    named = {arm.name: arm for arm in arms}
    found: dict[str, float] = {}
    for name in (n for n in LEARNED if n in named):
        for control in (c for c in CONTROLS if c in named):
            for pooling in named[name].poolings:
                same = pooling if pooling in named[control].poolings else ""
                if same not in named[control].poolings:
                    continue
                ours, theirs = suffix(pooling, primary), suffix(same, primary)
                gap = resampled[f"{name}/ridge{ours}"] - resampled[f"{control}/ridge{theirs}"]
                found |= _entry(f"paired/{name}-{control}/ridge{ours}/rmse", gap)
    return found


def rmse(predictions: NDArray[Any], truth: NDArray[Any]) -> float:
    """Root mean square error, in the unit of the target."""
    return float(np.sqrt(np.mean((predictions - truth) ** 2)))
