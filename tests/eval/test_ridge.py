"""Ridge with closed-form leave-one-out against fits that really leave one row out."""

from __future__ import annotations

import numpy as np
import pytest

from jepa_modalities.eval.ridge import GRID, loo_ridge_probe


def drawn(rows: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % 3
    return rng.normal(size=(rows, width)) + 0.6 * rng.normal(size=(3, width))[y], y


def ridge(x: np.ndarray, y: np.ndarray, t: np.ndarray, penalty: float) -> np.ndarray:
    """Outputs on t: penalty on the weights of centred features, free intercept."""
    level, mean = y.mean(0), x.mean(0)
    z = x - mean
    weights = np.linalg.solve(z.T @ z + penalty * np.eye(x.shape[1]), z.T @ (y - level))
    return (t - mean) @ weights + level


@pytest.mark.parametrize(("rows", "width"), [(24, 7), (18, 40)])
def test_leave_one_out_by_really_leaving_out(rows: int, width: int) -> None:
    x, y = drawn(rows, width)
    labels, onehot = np.array(["a", "b", "c"])[y], np.eye(3)[y]
    t, _ = drawn(11, width, seed=1)
    mean, std = x.mean(0), x.std(0)
    z, s = (x - mean) / std, (t - mean) / std
    tried = []
    for weight in GRID:
        guesses = []
        for row in range(rows):
            rest = np.arange(rows) != row
            guesses.append(ridge(z[rest], onehot[rest], z[[row]], weight * rows)[0])
        error = ((np.array(guesses) - onehot) ** 2).mean()
        accuracy = (np.argmax(guesses, 1) == y).mean()
        tried.append((accuracy, -error, weight))
    accuracy, _, best = max(tried)
    fit = loo_ridge_probe(x, labels, t)
    assert fit.chosen["weight"] == pytest.approx(best)
    assert fit.chosen["held_out"] == pytest.approx(accuracy)
    expected = ridge(z, onehot, s, best * rows)
    assert fit.scores is not None and fit.classes is not None
    np.testing.assert_allclose(fit.scores, expected, rtol=1e-4, atol=1e-4)
    assert (fit.predictions == np.array(["a", "b", "c"])[expected.argmax(1)]).all()
    assert fit.classes.tolist() == ["a", "b", "c"]


def test_constant_and_repeated_columns_are_no_problem() -> None:
    x, y = drawn(20, 5)
    wide = np.concatenate([x, x, np.ones((20, 3))], axis=1)
    fit = loo_ridge_probe(wide, y, wide)
    z = (wide - wide.mean(0)) / np.where(wide.std(0) > 1e-9, wide.std(0), 1.0)
    expected = ridge(z, np.eye(3)[y], z, fit.chosen["weight"] * 20)
    assert fit.scores is not None
    np.testing.assert_allclose(fit.scores, expected, rtol=1e-4, atol=1e-4)


def test_noise_gets_the_strongest_penalty_region() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(60, 200)), np.arange(60) % 3
    assert loo_ridge_probe(x, y, x).chosen["held_out"] < 0.6


def test_rows_that_no_probe_can_use() -> None:
    x, y = drawn(12, 4)
    with pytest.raises(ValueError, match="one class"):
        loo_ridge_probe(x, np.zeros(12), x)
    with pytest.raises(ValueError, match="wide"):
        loo_ridge_probe(x, y, x[:, :2])
