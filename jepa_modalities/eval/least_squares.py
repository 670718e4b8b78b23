"""Ridge regression in closed form: every penalty from one pass over the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


def solve_ridge(
    x: Tensor,
    y: Tensor,
    held: Tensor,
    t: Tensor,
    grid: Sequence[float],
    score: Callable[[Tensor, Tensor], float],
) -> tuple[Tensor, float, float]:
    """Ridge regression of all rows, with the penalty that is best on the held-out ones.

    Args:
        x: (rows, width).
        y: (rows, outputs), float64.
        held: True for the held-out rows, bool, (rows,).
        t: (test rows, width).
        grid: penalties per row.
        score: (outputs, truth) of the held-out rows -> a number, higher = better.

    Returns:
        Outputs on t (test rows, outputs), the penalty, and its score.
    """
    grid = sorted(grid, reverse=True)  # among equals the most regularised
    if int((~held).sum()) < x.shape[1]:
        tried = [score(g, y[held]) for g in _dual_ridge(x[~held], y[~held], x[held], grid)]
        best = int(np.argmax(tried))
        return _dual_ridge(x, y, t, [grid[best]])[0], grid[best], tried[best]
    part, rest = (_moments(x[rows], y[rows]) for rows in (~held, held))
    tried = [score(g, y[held]) for g in _ridge(part, x[held], grid)]
    best = int(np.argmax(tried))
    whole = [a + b for a, b in zip(part, rest, strict=True)]  # sums over rows: no second pass
    return _ridge(whole, t, [grid[best]])[0], grid[best], tried[best]


def ridge_outputs(x: Tensor, y: Tensor, t: Tensor, grid: Sequence[float]) -> list[Tensor]:
    """Ridge regression's outputs on t for each penalty per row, (test rows, outputs), float64.

    Args:
        x: (rows, width).
        y: (rows, outputs), float64.
        t: (test rows, width).
        grid: penalties per row.
    """
    if len(x) < x.shape[1]:
        return _dual_ridge(x, y, t, grid)
    return _ridge(_moments(x, y), t, grid)


def _moments(x: Tensor, y: Tensor) -> list[Tensor]:
    """Rows, sum of x, sum of y, x'x and x'y, float64."""
    x = x.double()
    return [torch.tensor(float(len(x))), x.sum(0), y.sum(0), x.T @ x, x.T @ y]


def _ridge(moments: Sequence[Tensor], t: Tensor, grid: Sequence[float]) -> list[Tensor]:
    """Outputs on t for each weight, (rows, classes), float64."""
    count, total, level, gram, cross = moments
    mean, level = total / count, level / count
    gram, cross = gram - count * torch.outer(mean, mean), cross - count * torch.outer(mean, level)
    t, eye = t.double() - mean, torch.eye(len(gram), dtype=torch.float64)
    factors = (torch.linalg.cholesky(gram + weight * count * eye) for weight in grid)
    return [t @ torch.cholesky_solve(cross, factor) + level for factor in factors]


def _dual_ridge(x: Tensor, y: Tensor, t: Tensor, grid: Sequence[float]) -> list[Tensor]:
    """The same by the Gram matrix of the rows."""
    x, t = x.double(), t.double()
    mean, level = x.mean(0), y.mean(0)
    x, t, y = x - mean, t - mean, y - level
    gram, against, eye = x @ x.T, t @ x.T, torch.eye(len(x), dtype=torch.float64)
    factors = (torch.linalg.cholesky(gram + weight * len(x) * eye) for weight in grid)
    return [against @ torch.cholesky_solve(y, factor) + level for factor in factors]
