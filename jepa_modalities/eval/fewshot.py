"""Few labels: class-balanced draws that are the same for every arm, scored with an interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from jepa_modalities.core.threads import threads
from jepa_modalities.eval.probes import (
    Fit,
    check_rows,
    floats,
    linear_probe,
    rotate,
    solve_logistic,
    standardise,
)
from jepa_modalities.eval.statistics import Interval, bootstrap_interval, t_interval

# Values of scikit-learn's C for about a hundred standardised rows.
FEW_GRID: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0)
# Standardised training features of the draws that are solved together, in numbers.
CHUNK = 20_000_000

Probe = Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], Fit]


@dataclass(frozen=True)
class FewShot:
    """Accuracies over label draws.

    Attributes:
        mean: over the draws; with `low` and `high` the t-interval over draws (other labels, the
            same test samples), or the bootstrap over test samples where there is one draw only.
        low: lower end.
        high: upper end.
        accuracies: one per draw, (draws,): subtract two arms' arrays for a paired comparison.
        predictions: (draws, test rows), in the dtype of the labels.
        chosen: the settings picked inside each draw's labels.
        rows: labelled rows per draw.
    """

    mean: float
    low: float
    high: float
    accuracies: NDArray[np.float64]
    predictions: NDArray[Any]
    chosen: tuple[dict[str, Any], ...]
    rows: int


def class_draws(
    labels: ArrayLike, counts: int | Sequence[int], draws: int, seed: int = 0
) -> NDArray[np.int64]:
    """Rows of each draw, class by class: a function of labels, counts and seed alone.

    Args:
        labels: (rows,).
        counts: rows per class, one number or one per class in ascending order of the labels.
        draws: number of draws.
        seed: of the draws.

    Returns:
        Row numbers, (draws, sum of counts); random order inside a class.

    Raises:
        ValueError: a class has fewer rows than asked for.
    """
    classes, code, have = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    want = np.broadcast_to(np.asarray(counts), classes.shape)
    if (have < want).any() or (want < 1).any():
        worst = int((have - want).argmin())
        raise ValueError(
            f"class {classes[worst]!r} has {have[worst]} rows but {want[worst]} were asked for; "
            f"give at least 1 and at most {have.min()} per class"
        )
    generator = np.random.default_rng(seed)
    order = np.argsort(generator.random((draws, len(code))), axis=1)
    order = np.take_along_axis(order, np.argsort(code[order], axis=1, kind="stable"), axis=1)
    first = np.cumsum(have) - have
    columns = np.concatenate([at + np.arange(n) for at, n in zip(first, want, strict=True)])
    return order[:, columns]


def k_shot(
    features: ArrayLike,
    labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    shots: int = 10,
    draws: int = 20,
    seed: int = 0,
    probe: Probe | None = None,
    grid: Sequence[float] = FEW_GRID,
) -> FewShot:
    """Accuracy with `shots` labels per class, over class-balanced draws.

    The probe is logistic regression on features standardised by the draw's own rows; C comes from
    cross-validation inside the draw (at most 5 folds; the grid's second value for one shot).

    Args:
        features: (rows, width).
        labels: (rows,).
        test_features: (test rows, width).
        test_labels: (test rows,), used for the score only.
        shots: labels per class.
        draws: number of draws, at least 2.
        seed: of the draws: the same for every arm.
        probe: replaces the logistic regression: (train_x, train_y, test_x) -> Fit.
        grid: values of C.

    Raises:
        ValueError: too few rows of a class, fewer than two draws, or see `check_rows`.
    """
    if draws < 2:
        raise ValueError(f"draws = {draws}; an interval over draws needs at least 2")
    x, y, t = check_rows(features, labels, test_features)
    truth = _truth(test_labels, len(t))
    index = class_draws(y, shots, draws, seed)
    if probe is None:
        # These products are so small that waiting for a second thread costs more: two gain a fifth
        # on idle cores, but took 20 times longer beside another busy process.
        with threads(1):
            predictions, chosen = _logistic_draws(x, y, t, index, shots, grid)
    else:
        fits = [probe(x[rows], y[rows], t) for rows in index]
        predictions, chosen = np.stack([f.predictions for f in fits]), [f.chosen for f in fits]
    return _summary(predictions, truth, chosen, index.shape[1], seed)


def label_fraction(
    features: ArrayLike,
    labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    fractions: Sequence[float] = (0.01, 0.1, 1.0),
    draws: int = 5,
    seed: int = 0,
    probe: Probe = linear_probe,
) -> dict[float, FewShot]:
    """Accuracy with a stratified part of the labels, for each fraction.

    Every class keeps its share, but at least 2 rows (all, where it has fewer), so that a held-out
    part exists; `FewShot.rows` says how many labels that were. The whole set is drawn once.

    Args:
        features: (rows, width).
        labels: (rows,).
        test_features: (test rows, width).
        test_labels: (test rows,), used for the score only.
        fractions: in (0, 1].
        draws: subsets per fraction below 1.
        seed: of the subsets: the same for every arm.
        probe: (train_x, train_y, test_x) -> Fit.

    Raises:
        ValueError: a fraction outside (0, 1], or whatever the probe finds wrong.
    """
    if bad := [part for part in fractions if not 0 < part <= 1]:
        raise ValueError(f"fractions {bad} are out of range; give values above 0 and up to 1")
    x, y, t = check_rows(features, labels, test_features)
    truth = _truth(test_labels, len(t))
    have = np.unique(y, return_counts=True)[1]
    result = {}
    for part in fractions:
        want = np.minimum(np.maximum(np.rint(part * have).astype(int), 2), have)
        index = class_draws(y, want.tolist(), 1 if part == 1 else draws, seed)
        fits = [probe(x[rows], y[rows], t) for rows in index]
        predictions = np.stack([fit.predictions for fit in fits])
        chosen = [fit.chosen for fit in fits]
        result[part] = _summary(predictions, truth, chosen, index.shape[1], seed)
    return result


def _truth(test_labels: ArrayLike, rows: int) -> NDArray[Any]:
    truth = np.asarray(test_labels)
    if truth.shape != (rows,):
        raise ValueError(f"test_labels have shape {truth.shape}; expected one per row, ({rows},)")
    return truth


def _summary(
    predictions: NDArray[Any],
    truth: NDArray[Any],
    chosen: Sequence[dict[str, Any]],
    rows: int,
    seed: int,
) -> FewShot:
    correct = (predictions == truth).astype(np.float64)
    accuracies = correct.mean(axis=1)
    single = len(accuracies) == 1
    interval: Interval = (
        bootstrap_interval(correct[0], seed=seed) if single else t_interval(accuracies)
    )
    return FewShot(*interval, accuracies, predictions, tuple(chosen), rows)


def _logistic_draws(
    x: NDArray[Any],
    y: NDArray[Any],
    t: NDArray[Any],
    index: NDArray[np.int64],
    shots: int,
    grid: Sequence[float],
) -> tuple[NDArray[Any], list[dict[str, Any]]]:
    """Predictions (draws, test rows) and settings of the balanced draws in `index`."""
    classes, code = np.unique(y, return_inverse=True)
    # Rows of a draw lie class by class, so one set of labels and folds serves all draws.
    label = torch.from_numpy(code[index[0]])
    fold = torch.arange(len(label)) % shots % min(5, shots)
    features, test = floats(x), floats(t)
    # One shift for all: changes no prediction, but keeps the digits of features far from zero.
    centre = features.mean(0)
    features, test = features.sub_(centre), test.to(features.dtype).sub_(centre)
    predictions, chosen = [], []
    step = max(1, CHUNK // (index.shape[1] * x.shape[1]))
    for start in range(0, len(index), step):
        train = features[torch.from_numpy(index[start : start + step])]
        mean, std = standardise(train)
        z, back = rotate(((train - mean) / std).float())
        w, accuracy, best = _cross_validated(z, label, fold, sorted(grid))
        weight = w[..., :-1] if back is None else w[..., :-1] @ back.mT  # (draws, classes, width)
        weight = weight / std
        level = w[..., -1] - (weight * mean).sum(-1)
        scores = (weight.flatten(0, 1) @ test.T).view(*level.shape, -1) + level[..., None]
        predictions.append(classes[scores.argmax(1).numpy()])
        chosen += [
            {"C": sorted(grid)[b], "held_out": a}
            for a, b in zip(accuracy.tolist(), best.tolist(), strict=True)
        ]
    return np.concatenate(predictions), chosen


def _cross_validated(
    z: Tensor, label: Tensor, fold: Tensor, grid: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (draws, classes, width + 1) at each draw's best C, its accuracy and its number.

    Args:
        z: features of the draws, (draws, rows, width).
        label: class number of the rows, the same in every draw, (rows,).
        fold: number of the rows' fold, (rows,).
        grid: values of C, ascending: among equals the first, most regularised, wins.
    """
    draws, rows = z.shape[:2]
    onehot = F.one_hot(label).T.to(z.dtype).expand(draws, -1, -1)
    every = z.new_ones(draws, 1, rows)
    folds = int(fold.max()) + 1
    inside = (fold != torch.arange(folds)[:, None]).to(z.dtype)  # (folds, rows)
    hit, full, w, whole = [], [], None, None
    for c in grid:
        whole = solve_logistic(z, onehot, every, 1 / (c * rows), whole)
        full.append(whole[:, 0])
        if folds == 1:  # one shot: nothing can be held out
            continue
        penalty = 1 / (c * inside.sum().item() / folds)
        # A rough solution is enough to compare values of C by accuracy.
        w = solve_logistic(z, onehot, inside.expand(draws, -1, -1), penalty, w, tolerance=0.01)
        scores = torch.einsum("gfkw,gnw->gfkn", w, F.pad(z, (0, 1), value=1.0))
        right = scores.argmax(2) == label  # (draws, folds, rows)
        hit.append((right * (1 - inside)).sum((1, 2)) / rows)
    if folds == 1:
        best = torch.full((draws,), min(1, len(grid) - 1))
        accuracy = torch.full((draws,), torch.nan)
    else:
        table = torch.stack(hit, dim=1)
        best, accuracy = table.argmax(1), table.amax(1)
    return torch.stack(full, dim=1)[torch.arange(draws), best], accuracy, best
