"""Ridge regression whose strength is picked by leave-one-out in closed form: for few labels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from jepa_modalities.eval.probes import Fit, check_rows, floats, standardise

# Penalties per training row on standardised features, half a decade apart.
GRID: tuple[float, ...] = tuple(10 ** (n / 2) for n in range(-6, 7))


@dataclass(frozen=True)
class LinearModel:
    """Scores = (x - mean) / std @ weight + level.

    Attributes:
        mean: (1, width).
        std: (1, width).
        weight: float64, (width, classes).
        level: float64, (classes,).
        chosen: penalty and its leave-one-out accuracy.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    level: Tensor
    chosen: dict[str, Any]


def loo_ridge(x_rows: NDArray[Any], label: Tensor, grid: Sequence[float] = GRID) -> LinearModel:
    """Ridge regression on one-hot labels, its penalty chosen by leave-one-out on the given rows.

    With H = X (X'X + nw)^-1 X' of centred features, the prediction for row i without row i is
    y_i - (y_i - yhat_i) / (1 - H_ii - 1 / n) (Hastie et al. 2009, equation 7.64): one
    eigendecomposition serves every penalty. Highest accuracy wins, then the smaller squared error.

    Args:
        x_rows: (rows, width).
        label: class numbers from 0, long, (rows,).
        grid: penalties w per training row.
    """
    train = floats(x_rows)
    mean, std = standardise(train)
    x = ((train - mean) / std).double()
    onehot = F.one_hot(label).double()
    level = onehot.mean(0)
    y, count = onehot - level, len(x)
    left, square, back = _axes(x)
    inner = left.T @ y
    tried: list[tuple[float, float, float]] = []
    for weight in sorted(grid, reverse=True):
        shrink = square / (square + weight * count)
        fitted = left @ (shrink[:, None] * inner)
        leverage = (left.square() @ shrink + 1 / count).clamp_max(1 - 1e-9)
        error = (y - fitted) / (1 - leverage)[:, None]
        hit = ((y - error + level).argmax(1) == label).double().mean()
        tried.append((float(hit), -float(error.square().mean()), weight))
    accuracy, _, best = max(tried)
    solution = back @ (inner / (square + best * count)[:, None])
    return LinearModel(mean, std, solution, level, {"weight": best, "held_out": accuracy})


def loo_ridge_probe(
    train_x: ArrayLike, train_y: ArrayLike, test_x: ArrayLike, grid: Sequence[float] = GRID
) -> Fit:
    """`loo_ridge` as a probe.

    Args:
        train_x: (rows, width).
        train_y: labels of any dtype, (rows,).
        test_x: (test rows, width).
        grid: penalties w per training row.

    Raises:
        ValueError: see `eval.probes.check_rows`.
    """
    start = time.perf_counter()
    x_rows, y_rows, t_rows = check_rows(train_x, train_y, test_x)
    classes, code = np.unique(y_rows, return_inverse=True)
    model = loo_ridge(x_rows, torch.from_numpy(code), grid)
    t = ((floats(t_rows) - model.mean) / model.std).double()
    scores = t @ model.weight + model.level
    return Fit(
        classes[scores.argmax(1).numpy()],
        model.chosen,
        time.perf_counter() - start,
        scores.float().numpy(),
        classes,
    )


def _axes(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Left singular vectors (rows, r), squared singular values (r,), and X' left (width, r)."""
    if len(x) <= x.shape[1]:
        square, left = torch.linalg.eigh(x @ x.T)
        real = square > 1e-10 * square[-1]
        left, square = left[:, real], square[real]
        return left, square, x.T @ left
    square, right = torch.linalg.eigh(x.T @ x)
    real = square > 1e-10 * square[-1]
    right, root = right[:, real], square[real].sqrt()
    return x @ right / root, square[real], right * root
