"""Probes on frozen features: logistic regression, ridge, nearest neighbours, RBF machine.

Every choice (C, ridge weight, gamma) is made on a held-out tenth of the TRAINING rows; test rows
enter only the last prediction, test labels never.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from jepa_modalities.eval.least_squares import solve_ridge

# scikit-learn's C: the weight of the summed loss against half the squared norm.
C_GRID: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
# Ridge weights per training row, on standardised features.
RIDGE_GRID: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)
ROTATION_LIMIT = 2**26  # numbers in the matrices whose eigenvectors are wanted: half a GiB
SVM_LIMIT = 10_000  # rows; a kernel matrix grows with their square


@dataclass(frozen=True)
class Fit:
    """What a probe returns.

    Attributes:
        predictions: one label per test row, (rows,), in the training labels' dtype.
        chosen: the settings, and the accuracy on the held-out part that picked them, `held_out`.
        seconds: wall-clock time of choosing, fitting and predicting.
        scores: log-odds, votes or outputs, (rows, classes), higher = more likely; None for none.
        classes: labels of the columns of `scores`, ascending.
    """

    predictions: NDArray[Any]
    chosen: dict[str, Any]
    seconds: float
    scores: NDArray[np.float32] | None = None
    classes: NDArray[Any] | None = None


def check_rows(train_x: ArrayLike, train_y: ArrayLike, test_x: ArrayLike) -> tuple[Any, Any, Any]:
    """The three as arrays; a ValueError names what a probe cannot use."""
    arrays = [("train_x", np.asarray(train_x)), ("test_x", np.asarray(test_x))]
    for name, x in arrays:
        if x.ndim != 2 or not x.size:
            raise ValueError(f"{name} has shape {x.shape}; expected (rows, width), not empty")
        if (bad := ~np.isfinite(x).all(axis=1)).any():
            raise ValueError(
                f"{name}: {int(bad.sum())} rows hold NaN or infinite values (first: row "
                f"{int(bad.argmax())}); impute or drop them before the probe"
            )
    x, t, y = arrays[0][1], arrays[1][1], np.asarray(train_y)
    if x.shape[1] != t.shape[1]:
        raise ValueError(f"train_x is {x.shape[1]} wide, test_x {t.shape[1]}; use one pooling")
    if y.shape != (len(x),):
        raise ValueError(f"train_y has shape {y.shape}; expected one label per row, ({len(x)},)")
    if y.dtype.kind == "f" and np.isnan(y).any():
        raise ValueError(f"train_y: {int(np.isnan(y).sum())} labels are NaN; drop these rows")
    if len(np.unique(y)) < 2:
        raise ValueError("train_y holds one class; a probe needs at least 2")
    return x, y, t


def holdout(labels: ArrayLike, every: int = 10, seed: int = 0) -> NDArray[np.bool_]:
    """True for a stratified tenth of the rows: one in `every`; each class keeps a row outside.

    Raises:
        ValueError: too few rows for even one held-out row.
    """
    y = np.asarray(labels)
    generator = np.random.default_rng(seed)
    code = np.unique(y, return_inverse=True)[1]
    order = np.lexsort((generator.random(len(y)), code))
    held = np.zeros(len(y), dtype=bool)
    held[order[int(generator.integers(every)) :: every]] = True
    held &= np.bincount(code)[code] > 1
    if not held.any():
        raise ValueError(
            f"{len(y)} labelled rows of {len(np.unique(y))} classes are too few to hold out one in "
            f"{every}, or every row has a class of its own"
        )
    return held


def floats(x: NDArray[Any]) -> Tensor:
    """A copy in float32, or in float64 where float32 would lose digits (int32, float64)."""
    return torch.from_numpy(x.astype(np.result_type(x.dtype, np.float32)))


def standardise(train: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread over the rows, (..., 1, width) each; constant columns get spread 1.

    Args:
        train: (..., rows, width).
    """
    variance, mean = torch.var_mean(train, dim=-2, correction=0, keepdim=True)
    rounding = 8 * torch.finfo(train.dtype).eps * mean.abs()
    return mean, torch.where(variance.sqrt() > rounding, variance.sqrt(), 1.0)


def rotate(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Coordinates along the principal axes: same penalty and loss, far better conditioned.

    Args:
        x: centred features, (groups, rows, width).

    Returns:
        z (groups, rows, r) with r = min(rows, width), and `back` (groups, width, r): weights u on z
        equal weights `back @ u` on x. (x, None) above `ROTATION_LIMIT`; there L-BFGS may end before
        it has converged (3,456 columns, 10,718 rows: 200 steps reach a log loss of .775, not .770).
    """
    rows, width = x.shape[-2:]
    if len(x) * min(rows, width) ** 2 > ROTATION_LIMIT:
        return x, None
    if width <= rows:
        gram = torch.stack([_gram(part) for part in x])
        back = torch.linalg.eigh(gram).eigenvectors.to(x.dtype)
        return x @ back, back
    wide = x.double()
    square, left = torch.linalg.eigh(wide @ wide.mT)
    # Directions without variance carry no weight under a penalty.
    real = square > 1e-9 * square[..., -1:]
    root = torch.where(real, square, 1.0).sqrt()
    z = left * (root * real)[..., None, :]
    back = wide.mT @ (left * (real / root)[..., None, :])
    return z.to(x.dtype), back.to(x.dtype)


def _gram(x: Tensor, rows: int = 4096) -> Tensor:
    """Second moments in float64, (width, width), a few rows at a time."""
    total = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for part in torch.split(x, rows):
        wide = part.double()
        total += wide.T @ wide
    return total


def solve_logistic(
    z: Tensor,
    onehot: Tensor,
    rows: Tensor,
    penalty: float,
    start: Tensor | None = None,
    tolerance: float = 1e-3,
    max_steps: int = 200,
) -> Tensor:
    """Many multinomial logistic regressions at once by L-BFGS (Nocedal & Wright, section 7.2).

    Minimises penalty / 2 * ||w||^2 + sum_i rows_i * CE(z_i w + b, y_i), intercept free:
    scikit-learn's objective for penalty = 1 / (C * number of rows). The variables are scaled by the
    Hessian at zero, diagonal in rotated coordinates. Rows are the last axis: several times faster.

    Args:
        z: features, (groups, rows, width).
        onehot: (groups, classes, rows).
        rows: weight of each row in each problem, (groups, problems, rows); scaled to sum 1.
        penalty: on half the squared norm of the weights.
        start: a solution nearby, as returned.
        tolerance: largest norm of any problem's scaled gradient.
        max_steps: upper bound of the steps.

    Returns:
        Weights with the intercept as last column, (groups, problems, classes, width + 1).
    """
    z = F.pad(z, (0, 1), value=1.0)
    label, share = onehot[:, None], (rows / rows.sum(-1, keepdim=True))[:, :, None]
    shape = (len(z), rows.shape[1], onehot.shape[1], -1)
    ridge = z.new_full(z.shape[-1:], penalty)
    ridge[-1] = 0
    # The loss's Hessian at zero is (1/K) (I - 11'/K) times the second moment.
    moment = torch.einsum("gnw,gnw->gw", z, z)[:, None, None] / (z.shape[1] * shape[2])
    scale = (moment + ridge).clamp(min=1e-12).rsqrt()  # (groups, 1, 1, width)
    ridge = ridge * scale.square()

    def logits(v: Tensor) -> Tensor:  # (groups, problems, classes, rows)
        return ((scale * v).flatten(1, 2) @ z.mT).view(shape)

    def value(v: Tensor, out: Tensor) -> Tensor:
        loss = out.logsumexp(2, keepdim=True) - (out * label).sum(2, keepdim=True)
        return (loss * share).sum((2, 3)) + (ridge * v.square()).sum((2, 3)) / 2

    def gradient(v: Tensor, out: Tensor) -> Tensor:
        error = (out.softmax(2) - label) * share
        return scale * (error.flatten(1, 2) @ z).view(shape) + ridge * v

    v = z.new_zeros(*shape[:3], z.shape[-1]) if start is None else start / scale
    out = logits(v)
    loss, slope = value(v, out), gradient(v, out)
    history: list[tuple[Tensor, Tensor, Tensor]] = []
    slack = 8 * torch.finfo(z.dtype).eps
    for _ in range(max_steps):
        if slope.square().sum((2, 3)).max() < tolerance**2:
            break
        step = -_direction(slope, history)
        change, descent = logits(step), (slope * step).sum((2, 3))
        length = torch.ones_like(descent)
        for _ in range(30):  # backtracking, every problem for itself (Armijo)
            size = length[..., None, None]
            moved, shifted = v + size * step, out + size * change
            reached = value(moved, shifted)
            good = reached <= loss + 1e-4 * length * descent + slack * loss
            if good.all():
                break
            length = torch.where(good, length, length / 2)
        if not good.any():  # rounding leaves no descent
            break
        new = gradient(moved, shifted)
        history = [*history[-7:], _pair(moved - v, new - slope)]
        v, out, loss, slope = moved, shifted, reached, new
    return v * scale


def _pair(s: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A step, its change of gradient, and 1 / (s . y), 0 where rounding left no curvature."""
    curvature = (s * y).sum((2, 3), keepdim=True)
    known = curvature > 1e-12 * y.square().sum((2, 3), keepdim=True)
    return s, y, torch.where(known, 1 / curvature.clamp(min=1e-30), 0.0)


def _direction(slope: Tensor, history: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Inverse Hessian times gradient, problem by problem: the two-loop recursion."""
    q, factors = slope.clone(), []
    for s, y, rho in reversed(history):
        factors.append(rho * (s * q).sum((2, 3), keepdim=True))
        q -= factors[-1] * y
    if history:
        _, y, rho = history[-1]
        gain = 1 / (rho * y.square().sum((2, 3), keepdim=True)).clamp(min=1e-30)
        q *= torch.where(rho > 0, gain, 1.0)
    for (s, y, rho), factor in zip(history, reversed(factors), strict=True):
        q += s * (factor - rho * (y * q).sum((2, 3), keepdim=True))
    return q


def _tensors(x: Any, y: Any, t: Any) -> tuple[Tensor, Tensor, Tensor, NDArray[Any]]:
    """Standardised train and test features float32, label codes, and the classes."""
    classes, code = np.unique(y, return_inverse=True)
    train, test = floats(x), floats(t)
    mean, std = standardise(train)
    train, test = (part.sub_(mean).div_(std).float() for part in (train, test))
    return train, torch.from_numpy(code), test, classes


def _fit(scores: Tensor, classes: NDArray[Any], chosen: dict[str, Any], start: float) -> Fit:
    predictions = classes[scores.argmax(-1).numpy()]
    return Fit(predictions, chosen, time.perf_counter() - start, scores.float().numpy(), classes)


def linear_probe(
    train_x: ArrayLike,
    train_y: ArrayLike,
    test_x: ArrayLike,
    grid: Sequence[float] = C_GRID,
    seed: int = 0,
) -> Fit:
    """Multinomial logistic regression on standardised features, C picked on a held-out tenth.

    Args:
        train_x: (rows, width).
        train_y: labels of any dtype, (rows,).
        test_x: (test rows, width).
        grid: values of C as in scikit-learn; each starts at the solution of the one before.
        seed: of the held-out part.

    Raises:
        ValueError: features not (rows, width) or not finite, missing labels, a single class, or too
            few rows to hold any out.
    """
    start = time.perf_counter()
    x, y, t, classes = _tensors(*check_rows(train_x, train_y, test_x))
    held = torch.from_numpy(holdout(y.numpy(), seed=seed))
    z, back = rotate(x[None])
    onehot, rows = F.one_hot(y, len(classes)).T.float()[None], (~held).float()[None, None]
    grid = sorted(grid)
    weights: list[Tensor] = []
    accuracies: list[float] = []
    for c in grid:
        last = weights[-1] if weights else None
        weights.append(solve_logistic(z, onehot, rows, 1 / (c * int(rows.sum())), last))
        w = weights[-1][0, 0]
        guess = (z[0, held] @ w[:, :-1].T + w[:, -1]).argmax(-1)
        accuracies.append((guess == y[held]).double().mean().item())
    best = int(np.argmax(accuracies))  # among equals the most regularised
    penalty = 1 / (grid[best] * len(y))
    w = solve_logistic(z, onehot, torch.ones_like(rows), penalty, weights[best])[0, 0]
    scores = t @ (w[:, :-1] if back is None else w[:, :-1] @ back[0].T).T + w[:, -1]
    return _fit(scores, classes, {"C": grid[best], "held_out": accuracies[best]}, start)


def ridge_probe(
    train_x: ArrayLike,
    train_y: ArrayLike,
    test_x: ArrayLike,
    grid: Sequence[float] = RIDGE_GRID,
    seed: int = 0,
) -> Fit:
    """Ridge regression on centred one-hot labels, one Gram matrix for the whole grid.

    Args:
        train_x, train_y, test_x: see `linear_probe`.
        grid: penalties per training row: ||y - x w||^2 / rows + weight * ||w||^2.
        seed: of the held-out part.

    Raises:
        ValueError: see `linear_probe`.
    """
    start = time.perf_counter()
    x, y, t, classes = _tensors(*check_rows(train_x, train_y, test_x))
    held = torch.from_numpy(holdout(y.numpy(), seed=seed))
    onehot = F.one_hot(y, len(classes)).double()

    def accuracy(guess: Tensor, truth: Tensor) -> float:
        return (guess.argmax(-1) == truth.argmax(-1)).double().mean().item()

    scores, weight, reached = solve_ridge(x, onehot, held, t, grid, accuracy)
    return _fit(scores, classes, {"weight": weight, "held_out": reached}, start)


def knn_probe(
    train_x: ArrayLike,
    train_y: ArrayLike,
    test_x: ArrayLike,
    neighbours: int = 20,
    temperature: float = 0.1,
) -> Fit:
    """Weighted vote of the nearest neighbours by cosine (Wu et al. 2018, section 3.4).

    Args:
        train_x, train_y, test_x: see `linear_probe`.
        neighbours: k; all rows where there are fewer.
        temperature: a neighbour of similarity s votes with exp(s / temperature).
    """
    start = time.perf_counter()
    x, y, t, classes = _tensors(*check_rows(train_x, train_y, test_x))
    x, t, k = F.normalize(x), F.normalize(t), min(neighbours, len(x))
    votes = torch.zeros(len(t), len(classes))
    step = max(1, 20_000_000 // len(x))  # 80 MB of similarities at a time
    for part, out in zip(*(torch.split(a, step) for a in (t, votes)), strict=True):
        near = (part @ x.T).topk(k)
        out.scatter_add_(1, y[near.indices], (near.values / temperature).exp())
    return _fit(votes, classes, {"k": k, "temperature": temperature}, start)


def svm_probe(
    train_x: ArrayLike,
    train_y: ArrayLike,
    test_x: ArrayLike,
    c_grid: Sequence[float] = (1.0, 10.0, 100.0),
    gamma_grid: Sequence[float] = (0.25, 1.0, 4.0),
    seed: int = 0,
) -> Fit:
    """Support vector machine with RBF kernel, C and gamma picked on a held-out tenth.

    Args:
        train_x, train_y, test_x: see `linear_probe`.
        c_grid: values of C.
        gamma_grid: values of gamma times width.
        seed: of the held-out part.

    Raises:
        ValueError: more than `SVM_LIMIT` rows, or see `linear_probe`.
    """
    from sklearn.svm import SVC  # costs a second; only this probe needs it

    start = time.perf_counter()
    checked = check_rows(train_x, train_y, test_x)
    if (rows := len(checked[0])) > SVM_LIMIT:
        raise ValueError(f"{rows} rows are more than {SVM_LIMIT} for a kernel; use linear_probe")
    tensor_x, tensor_y, tensor_t, classes = _tensors(*checked)
    x, y, t = tensor_x.numpy(), tensor_y.numpy(), tensor_t.numpy()
    held = holdout(y, seed=seed)
    tried = []
    for c, gamma in product(sorted(c_grid), (gamma / x.shape[1] for gamma in sorted(gamma_grid))):
        machine = SVC(C=c, gamma=gamma).fit(x[~held], y[~held])
        tried.append((float(machine.score(x[held], y[held])), c, gamma))
    accuracy, c, gamma = max(tried, key=lambda row: row[0])
    code = SVC(C=c, gamma=gamma).fit(x, y).predict(t)
    chosen = {"C": c, "gamma": gamma, "held_out": accuracy}
    return Fit(classes[code], chosen, time.perf_counter() - start)
