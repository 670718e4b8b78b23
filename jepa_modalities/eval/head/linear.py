"""Linear heads: ridge and logistic regression; validation rows or folds choose the penalty."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from jepa_modalities.eval.head.task import Predictions, Task
from jepa_modalities.eval.probes import (
    C_GRID,
    Fit,
    check_rows,
    floats,
    rotate,
    solve_logistic,
    standardise,
)

# Penalty per training row on standardised features: |y - x w|^2 / rows + penalty |w|^2.
PENALTIES: tuple[float, ...] = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FEW_C: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def linear(task: Task, seeds: Sequence[int] = (0,)) -> Predictions:
    """Ridge or multinomial logistic regression on standardised features.

    The penalty is chosen on the validation rows by squared error or log loss; there is nothing
    random in it, so every seed has the same predictions.

    Args:
        task: features and labels.
        seeds: only their number counts.
    """
    start = time.perf_counter()
    val, test, chosen = _ridge(task) if task.regression else _logistic(task)
    copies = [np.repeat(part.double().numpy()[None], len(seeds), 0) for part in (val, test)]
    return Predictions(copies[0], copies[1], chosen, time.perf_counter() - start)


def _ridge(task: Task) -> tuple[Tensor, Tensor, dict[str, Any]]:
    x, val, test = task.tensors()
    y, val_y, mean, std = task.targets()
    weights = ridge_path(x, y, PENALTIES)
    errors = (val.double() @ weights.T - val_y.double()[:, None]).square().mean(0)
    best = int(errors.argmin())
    outputs = [part.double() @ weights[best] * std + mean for part in (val, test)]
    return outputs[0], outputs[1], {"penalty": PENALTIES[best]}


def ridge_path(x: Tensor, y: Tensor, penalties: Sequence[float]) -> Tensor:
    """Ridge weights for every penalty from one eigendecomposition, (penalties, width), float64.

    Args:
        x: centred features, (rows, width).
        y: centred targets, (rows,).
        penalties: per training row.
    """
    x, y = x.double(), y.double()
    wide = x.shape[1] > x.shape[0]
    value, vector = torch.linalg.eigh(x @ x.T if wide else x.T @ x)
    right = vector.T @ (y if wide else x.T @ y)
    found = []
    for penalty in penalties:
        solution = vector @ (right / (value.clamp_min(0) + penalty * len(x)))
        found.append(x.T @ solution if wide else solution)
    return torch.stack(found)


def _logistic(task: Task) -> tuple[Tensor, Tensor, dict[str, Any]]:
    x, val, test = task.tensors()
    y, val_y, _, _ = task.targets()
    z, back = rotate(x[None])
    onehot = F.one_hot(y, len(task.classes)).T.float()[None]
    rows = torch.ones(1, 1, len(y))
    losses: list[float] = []
    weights: list[Tensor] = []
    start: Tensor | None = None
    for c in C_GRID:
        start = solve_logistic(z, onehot, rows, 1 / (c * len(y)), start)
        weights.append(_unrotated(start[0, 0], back))
        losses.append(float(F.cross_entropy(_logits(val, weights[-1]), val_y)))
    best = int(np.argmin(losses))
    outputs = [_logits(part, weights[best]).softmax(-1) for part in (val, test)]
    return outputs[0], outputs[1], {"C": C_GRID[best]}


def _unrotated(w: Tensor, back: Tensor | None) -> Tensor:
    """Weights on the features, (classes, width + 1), from those on rotated ones."""
    return w if back is None else torch.cat([w[:, :-1] @ back[0].T, w[:, -1:]], dim=1)


def _logits(x: Tensor, w: Tensor) -> Tensor:
    return x @ w[:, :-1].T + w[:, -1]


@dataclass(frozen=True)
class LinearModel:
    """A fitted linear head on features as they come, nothing left to standardise.

    Attributes:
        weight: float64, (width, outputs).
        bias: (outputs,).
        chosen: the setting that was picked.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    chosen: dict[str, Any]

    def __call__(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Logits or numbers, (rows, outputs)."""
        out: NDArray[np.float64] = np.asarray(x, dtype=np.float64) @ self.weight + self.bias
        return out


def fit_logistic(
    x: NDArray[Any], codes: NDArray[np.int64], grid: Sequence[float] = FEW_C, folds: int = 5
) -> LinearModel:
    """Multinomial logistic regression, C by stratified cross-validation (log loss).

    Args:
        x: (rows, width).
        codes: class numbers from 0, (rows,).
        grid: values of C as in scikit-learn.
        folds: fewer where a class has fewer rows; below 2 the middle of the grid is taken.
    """
    train = floats(x)
    mean, std = standardise(train)
    z, back = rotate(train.sub_(mean).div_(std).float()[None])
    have = np.bincount(codes)
    label = torch.from_numpy(codes)
    onehot = F.one_hot(label, len(have)).T.float()[None]
    folds = min(folds, int(have.min()))
    # Rows of a class go round the folds, in the order in which they come.
    place = np.empty(len(codes), dtype=np.int64)
    for number, count in enumerate(have):
        place[codes == number] = np.arange(count)
    fold = torch.from_numpy(place % max(folds, 1))
    ordered = sorted(grid)
    best = len(ordered) // 2
    if folds > 1:
        best = int(np.argmin(_fold_losses(z, onehot, label, fold, ordered)))
    w = solve_logistic(z, onehot, torch.ones(1, 1, len(codes)), 1 / (ordered[best] * len(codes)))
    full = _unrotated(w[0, 0], back).double()
    weight = full[:, :-1].T / std.double().T
    bias = full[:, -1] - (mean.double() @ weight)[0]
    return LinearModel(weight.numpy(), bias.numpy(), {"C": ordered[best]})


def fit_ridge(x: NDArray[Any], y: NDArray[Any]) -> LinearModel:
    """Ridge regression, its penalty by leave-one-out.

    Args:
        x: (rows, width).
        y: numbers, (rows,).
    """
    from sklearn.linear_model import RidgeCV

    train = floats(x)
    mean, std = (part.double().numpy() for part in standardise(train))
    scaled = (train.double().numpy() - mean) / std
    model = RidgeCV(alphas=[penalty * len(x) for penalty in (*PENALTIES, 10.0)])
    model.fit(scaled, np.asarray(y, dtype=np.float64))
    weight = model.coef_[:, None] / std.T
    bias = model.intercept_ - (mean @ weight)[0]
    return LinearModel(weight, bias, {"penalty": float(model.alpha_) / len(x)})


def folded_logistic(train_x: Any, train_y: Any, test_x: Any) -> Fit:
    """`fit_logistic` as a probe for few labels: C is chosen inside them (see `eval.fewshot`).

    Args:
        train_x: (rows, width).
        train_y: (rows,).
        test_x: (test rows, width).
    """
    start = time.perf_counter()
    x, y, t = check_rows(train_x, train_y, test_x)
    classes, codes = np.unique(y, return_inverse=True)
    model = fit_logistic(x, codes)
    scores = model(t)
    seconds = time.perf_counter() - start
    guess = classes[scores.argmax(-1)]
    return Fit(guess, model.chosen, seconds, scores.astype(np.float32), classes)


def _fold_losses(
    z: Tensor, onehot: Tensor, label: Tensor, fold: Tensor, grid: Sequence[float]
) -> list[float]:
    """Log loss on the rows left out, for every C; all folds are solved at once."""
    count = int(fold.max()) + 1
    inside = (fold != torch.arange(count)[:, None]).float()[None]
    losses: list[float] = []
    w: Tensor | None = None
    for c in grid:
        # A rough solution is enough to compare values of C.
        w = solve_logistic(z, onehot, inside, 1 / (c * float(inside.sum()) / count), w, 0.01)
        scores = torch.einsum("fkw,nw->nfk", w[0], F.pad(z[0], (0, 1), value=1.0))
        own = scores[torch.arange(len(label)), fold]
        losses.append(float(F.cross_entropy(own, label)))
    return losses
