"""Label-fraction curves for tables: few, a tenth, and all labels of the training rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_modalities.eval.fewshot import label_fraction
from jepa_modalities.eval.head.linear import fit_ridge, folded_logistic
from jepa_modalities.eval.probes import Fit
from jepa_modalities.eval.statistics import Interval, t_interval


@dataclass(frozen=True)
class Fraction:
    """Scores with a part of the labels.

    Attributes:
        rows: labelled rows per draw.
        values: accuracy, or root mean squared error in the target's unit, one per draw, (draws,);
            the same draws for every arm, so subtract two arms' arrays.
        interval: mean and t-interval over the draws; a single draw has no ends.
    """

    rows: int
    values: NDArray[np.float64]
    interval: Interval


def fractions_of(rows: int) -> tuple[float, ...]:
    """The shares max(1 %, 50 rows), 10 % and 100 %, ascending and without repetition."""
    few = max(0.01, min(1.0, 50 / rows))
    return tuple(sorted({few, max(0.1, few), 1.0}))


def label_curve(
    train_x: NDArray[np.float32],
    train_y: NDArray[np.generic],
    test_x: NDArray[np.float32],
    test_y: NDArray[np.generic],
    regression: bool = False,
    fractions: Sequence[float] | None = None,
    draws: int = 8,
    seed: int = 0,
    probe: Callable[..., Fit] = folded_logistic,
) -> dict[float, Fraction]:
    """A linear head with a part of the labels; its penalty is chosen inside them.

    Classes keep their shares, with at least 2 rows each (`eval.fewshot.label_fraction`).

    Args:
        train_x: (rows, width).
        train_y: (rows,).
        test_x: (test rows, width).
        test_y: (test rows,), for the score only.
        regression: numbers instead of classes.
        fractions: None for `fractions_of`.
        draws: subsets per fraction below 1.
        seed: of the subsets: the same for every arm.
        probe: for classes, (train_x, train_y, test_x) -> Fit.

    Raises:
        ValueError: fractions outside (0, 1], or fewer than 2 draws.
    """
    if draws < 2:
        raise ValueError(f"draws = {draws}; an interval over draws needs at least 2")
    wanted = fractions_of(len(train_x)) if fractions is None else fractions
    if not regression:
        found = label_fraction(train_x, train_y, test_x, test_y, wanted, draws, seed, probe)
        return {
            part: Fraction(few.rows, few.accuracies, Interval(few.mean, few.low, few.high))
            for part, few in found.items()
        }
    if bad := [part for part in wanted if not 0 < part <= 1]:
        raise ValueError(f"fractions {bad} are out of range; give values above 0 and up to 1")
    truth = np.asarray(test_y, dtype=np.float64)
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(len(train_x)) for _ in range(draws)]
    result = {}
    for part in wanted:
        count = max(round(part * len(train_x)), 2)
        values = []
        for order in orders[: 1 if part == 1 else draws]:
            rows = order[:count]
            guess = fit_ridge(train_x[rows], train_y[rows])(test_x)[:, 0]
            values.append(float(np.sqrt(np.square(guess - truth).mean())))
        errors = np.asarray(values)
        mean = float(errors.mean())
        nothing = Interval(mean, mean, mean)
        result[part] = Fraction(count, errors, nothing if len(errors) == 1 else t_interval(errors))
    return result
