"""Probes against scikit-learn, closed forms and plain loops; no leak from the test rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from jepa_modalities.eval import probes
from jepa_modalities.eval.probes import (
    holdout,
    knn_probe,
    linear_probe,
    ridge_probe,
    rotate,
    solve_logistic,
    svm_probe,
)

PROBES = [linear_probe, ridge_probe, knn_probe, svm_probe]


def clusters(rows: int = 90, width: int = 6, classes: int = 3, seed: int = 0, spread: float = 1.5):
    """Overlapping Gaussian classes with columns of very different scale: x, y."""
    generator = np.random.default_rng(seed)
    y = np.arange(rows) % classes
    centre = np.random.default_rng(99).normal(size=(classes, width))
    x = (centre[y] + spread * generator.normal(size=(rows, width))) * 10.0 ** np.arange(width)
    return x, y


def standard(train: np.ndarray, x: np.ndarray) -> np.ndarray:
    return (x - train.mean(0)) / train.std(0)


@pytest.mark.parametrize("width", [5, 40])  # fewer and more columns than the 30 rows
@pytest.mark.parametrize("c", [0.01, 1.0, 30.0])
def test_solver_equals_scikit_learn(width: int, c: float) -> None:
    generator = np.random.default_rng(width)
    x = generator.normal(size=(30, width)) * (1 + np.arange(width))
    y = np.argmax(x[:, :3] + 2 * generator.normal(size=(30, 3)), axis=1)
    x -= x.mean(0)
    theirs = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(x, y)
    z, back = rotate(torch.from_numpy(x)[None])
    assert back is not None
    onehot = torch.eye(3, dtype=torch.float64)[y].T[None]
    rows = torch.ones(1, 1, 30, dtype=torch.float64)
    w = solve_logistic(z, onehot, rows, 1 / (c * 30), tolerance=1e-8, max_steps=2000)[0, 0]
    ours = x @ (w[:, :-1] @ back[0].T).numpy().T + w[:, -1].numpy()
    ours = np.exp(ours) / np.exp(ours).sum(1, keepdims=True)
    np.testing.assert_allclose(ours, theirs.predict_proba(x), atol=2e-5)


def test_solver_treats_every_group_and_problem_alone() -> None:
    torch.manual_seed(0)
    z = torch.randn(2, 20, 4, dtype=torch.float64)
    onehot = torch.eye(3, dtype=torch.float64)[torch.arange(20) % 3].T.expand(2, -1, -1)
    rows = (torch.rand(2, 3, 20) < 0.7).double()
    together = solve_logistic(z, onehot, rows, 0.05, tolerance=1e-9)
    for g in range(2):
        for p in range(3):
            kept = rows[g, p] > 0  # a row of weight 0 must count as absent
            ones = torch.ones(1, 1, int(kept.sum()), dtype=torch.float64)
            alone = solve_logistic(
                z[g : g + 1, kept], onehot[g : g + 1, :, kept], ones, 0.05, tolerance=1e-9
            )
            torch.testing.assert_close(together[g, p], alone[0, 0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(2, 30, 7), (2, 7, 30)])
def test_rotation_keeps_products_and_maps_weights_back(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(1)
    x = torch.randn(shape, dtype=torch.float64)
    x -= x.mean(1, keepdim=True)
    z, back = rotate(x)
    torch.testing.assert_close(z @ z.mT, x @ x.mT)
    u = torch.randn(2, z.shape[2], 3, dtype=torch.float64)
    torch.testing.assert_close(x @ (back @ u), z @ u)
    gram = z.mT @ z
    torch.testing.assert_close(gram, torch.diag_embed(gram.diagonal(dim1=1, dim2=2)))


def test_linear_probe_equals_scikit_learn_step_by_step() -> None:
    x, y = clusters(120)
    t = clusters(60, seed=1)[0]
    grid, held = (1e-3, 1e-1, 10.0), holdout(y, seed=3)
    scaled, accuracies = standard(x, x), []
    for c in grid:
        model = LogisticRegression(C=c, max_iter=5000, tol=1e-8).fit(scaled[~held], y[~held])
        accuracies.append(model.score(scaled[held], y[held]))
    best = grid[accuracies.index(max(accuracies))]
    expected = LogisticRegression(C=best, max_iter=5000, tol=1e-8).fit(scaled, y)
    fit = linear_probe(x, y, t, grid=grid, seed=3)
    assert fit.chosen == {"C": best, "held_out": max(accuracies)}
    assert (fit.predictions == expected.predict(standard(x, t))).mean() >= 0.98
    assert fit.scores is not None and fit.seconds > 0
    odds = fit.scores - fit.scores.mean(1, keepdims=True)
    theirs = expected.decision_function(standard(x, t))
    np.testing.assert_allclose(odds, theirs - theirs.mean(1, keepdims=True), atol=0.02)


def test_linear_probe_without_rotation_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = clusters(80)
    t = clusters(50, seed=1)[0]
    with_axes = linear_probe(x, y, t, grid=[0.1])
    monkeypatch.setattr(probes, "ROTATION_LIMIT", 0)
    without = linear_probe(x, y, t, grid=[0.1])
    np.testing.assert_allclose(with_axes.scores, without.scores, atol=5e-3)


@pytest.mark.parametrize("width", [4, 50])  # primal and dual form
def test_ridge_solves_the_normal_equations(width: int) -> None:
    x, y = clusters(40, min(width, 4))
    x = np.concatenate([x, np.random.default_rng(2).normal(size=(40, width - x.shape[1]))], axis=1)
    t, weight = x[:9] + 0.1, 0.3
    a, b = standard(x, x), standard(x, t)
    onehot = np.eye(3)[y]
    w = np.linalg.solve(a.T @ a + weight * 40 * np.eye(width), a.T @ (onehot - onehot.mean(0)))
    fit = ridge_probe(x, y, t, grid=[weight])
    np.testing.assert_allclose(fit.scores, b @ w + onehot.mean(0), atol=1e-4)


def test_ridge_weight_is_the_best_on_the_held_out_rows() -> None:
    x, y = clusters(200, 30, spread=4.0)
    held, grid = holdout(y, seed=1), (1e-3, 1.0, 1e3)
    inner = [ridge_probe_accuracy(x, y, held, weight) for weight in grid]
    fit = ridge_probe(x, y, x[:5], grid=grid, seed=1)
    assert fit.chosen["held_out"] == pytest.approx(max(inner))
    assert inner[grid.index(fit.chosen["weight"])] == max(inner)


def ridge_probe_accuracy(x, y, held, weight: float) -> float:
    a = standard(x, x)
    mean, onehot = a[~held].mean(0), np.eye(3)[y[~held]]
    b, rows = a[~held] - mean, (~held).sum()
    w = np.linalg.solve(b.T @ b + weight * rows * np.eye(30), b.T @ (onehot - onehot.mean(0)))
    guess = ((a[held] - mean) @ w + onehot.mean(0)).argmax(1)
    return float((guess == y[held]).mean())


def test_neighbours_vote_as_in_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = clusters(50)
    t = clusters(12, seed=1)[0]
    a, b = standard(x, x), standard(x, t)
    fit = knn_probe(x, y, t, neighbours=7, temperature=0.2)
    for row in range(len(t)):
        cosine = [float(p @ b[row] / math.sqrt(p @ p) / math.sqrt(b[row] @ b[row])) for p in a]
        votes = [0.0, 0.0, 0.0]
        for near in sorted(range(50), key=lambda i: -cosine[i])[:7]:
            votes[y[near]] += math.exp(cosine[near] / 0.2)
        np.testing.assert_allclose(fit.scores[row], votes, rtol=1e-4)
        assert fit.predictions[row] == votes.index(max(votes))


def test_machine_equals_scikit_learn_at_the_chosen_values() -> None:
    x, y = clusters(120)
    t = clusters(40, seed=1)[0]
    held, tried = holdout(y, seed=2), {}
    a = standard(x, x).astype(np.float32)
    for c in (1.0, 100.0):
        for gamma in (0.25, 4.0):
            model = SVC(C=c, gamma=gamma / 6).fit(a[~held], y[~held])
            tried[c, gamma / 6] = model.score(a[held], y[held])
    fit = svm_probe(x, y, t, (1.0, 100.0), (0.25, 4.0), seed=2)
    assert tried[fit.chosen["C"], fit.chosen["gamma"]] == max(tried.values())
    model = SVC(C=fit.chosen["C"], gamma=fit.chosen["gamma"]).fit(a, y)
    np.testing.assert_array_equal(fit.predictions, model.predict(standard(x, t)))


@pytest.mark.parametrize("probe", PROBES)
def test_choice_and_fit_ignore_the_other_test_rows(probe) -> None:
    x, y = clusters(100)
    t = clusters(30, seed=1)[0]
    whole, part = probe(x, y, t), probe(x, y, np.concatenate([t[:4], 1e4 * t[20:]]))
    assert whole.chosen == part.chosen
    np.testing.assert_array_equal(whole.predictions[:4], part.predictions[:4])


@pytest.mark.parametrize("probe", PROBES)
def test_separable_classes_of_any_label_type_are_found(probe) -> None:
    x, y = clusters(100, spread=0.05)
    names = np.array(["ant", "bee", "cow"])
    x = np.concatenate([x, np.full((100, 1), 7.7)], axis=1)  # a constant column does no harm
    fit = probe(x[:80], names[y[:80]], x[80:])
    np.testing.assert_array_equal(fit.predictions, names[y[80:]])
    if fit.scores is not None:
        assert fit.scores.shape == (20, 3) and list(fit.classes) == list(names)


def test_timestamps_keep_their_digits() -> None:
    seconds = 1_700_000_000 + 10 * np.arange(100)  # float32 would round to 128 s
    y = (np.arange(100) % 4 < 2).astype(int)
    x = np.stack([seconds, np.where(y, seconds, seconds - 3000)], axis=1)
    fit = ridge_probe(x, y, x, grid=[1e-3])
    a = standard(x, x.astype(float))
    w = np.linalg.solve(a.T @ a + 0.1 * np.eye(2), a.T @ (y - y.mean()))
    np.testing.assert_allclose(fit.scores[:, 1], a @ w + y.mean(), atol=1e-4)


def test_holdout_is_a_stratified_tenth_that_depends_on_the_seed() -> None:
    y = np.repeat([0, 1, 2], [100, 45, 1])
    held = holdout(y, seed=0)
    assert abs(held.sum() - 14.6) <= 1 and not held[-1]
    assert abs(held[:100].sum() - 10) <= 1 and abs(held[100:145].sum() - 4.5) <= 1
    assert np.array_equal(held, holdout(y, seed=0))
    assert not np.array_equal(held, holdout(y, seed=1))


@pytest.mark.parametrize("probe", PROBES)
def test_errors_name_what_is_wrong(probe) -> None:
    x, y = clusters(30)
    bad = x.copy()
    bad[4, 1] = np.nan
    cases = [
        ((bad, y, x), "train_x: 1 rows hold NaN.*row 4"),
        ((x, y, bad), "test_x: 1 rows"),
        ((x, np.zeros(30), x), "one class"),
        ((x, y[:-1], x), r"shape \(29,\)"),
        ((x, y, x[:, :-1]), "6 wide, test_x 5"),
        ((x, y, x[:0]), "not empty"),
        ((x, np.where(y, y, np.nan), x), "labels are NaN"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            probe(*arguments)


def test_too_few_rows_to_hold_out() -> None:
    with pytest.raises(ValueError, match="3 labelled rows of 3 classes are too few"):
        linear_probe(np.eye(3), [0, 1, 2], np.eye(3))
