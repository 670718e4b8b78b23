"""Few-shot draws: balanced, equal for every arm, and chosen without a look at the test labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from jepa_modalities.eval import fewshot
from jepa_modalities.eval.fewshot import class_draws, k_shot, label_fraction
from jepa_modalities.eval.probes import Fit, knn_probe
from jepa_modalities.eval.statistics import bootstrap_interval


def clusters(rows: int, width: int = 8, seed: int = 0, spread: float = 1.2):
    generator = np.random.default_rng(seed)
    y = generator.permutation(np.arange(rows) % 3)
    centre = np.random.default_rng(99).normal(size=(3, width))
    return centre[y] + spread * generator.normal(size=(rows, width)), y


X, Y = clusters(90)
T, TRUTH = clusters(60, seed=1)


def test_draws_are_balanced_distinct_and_repeatable() -> None:
    index = class_draws(Y, 4, 6, seed=2)
    assert index.shape == (6, 12)
    for row in index:
        assert len(set(row.tolist())) == 12
        assert Y[row].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert len({tuple(row) for row in index}) == 6
    np.testing.assert_array_equal(index, class_draws(Y, 4, 6, seed=2))
    assert not np.array_equal(index, class_draws(Y, 4, 6, seed=3))
    assert [len(class_draws(Y, [1, 2, 3], 1)[0]), *Y[class_draws(Y, [1, 2, 3], 1)[0]]] == [
        6, 0, 1, 1, 2, 2, 2,
    ]  # fmt: skip


def test_every_row_is_drawn_about_equally_often() -> None:
    count = np.bincount(class_draws(Y, 10, 600).ravel(), minlength=90)
    # Binomial(600, 1/3): mean 200, standard deviation 11.5.
    assert count.min() > 200 - 5 * 11.5 and count.max() < 200 + 5 * 11.5


def test_draws_are_the_same_for_every_arm() -> None:
    seen: list[np.ndarray] = []

    def spy(x, y, t) -> Fit:
        seen.append(x[:, 0].copy())
        return Fit(np.full(len(t), y[0]), {}, 0.0)

    for width in (8, 3):  # two arms whose first column is the row's identity
        arm = np.random.default_rng(width).normal(size=(90, width))
        arm[:, 0] = np.arange(90)
        k_shot(arm, Y, arm[:10], Y[:10], shots=5, draws=4, probe=spy)
    for first, second in zip(seen[:4], seen[4:], strict=True):
        np.testing.assert_array_equal(first, second)


def loop_k_shot(x, y, t, index, shots: int, grid) -> tuple[np.ndarray, list[float], list[float]]:
    """The same protocol with scikit-learn, draw by draw and fold by fold."""
    predictions, chosen, accuracies = [], [], []
    for rows in index:
        a, b = x[rows], y[rows]
        mean, std = a.mean(0), a.std(0)
        a = (a - mean) / std
        fold = np.array([i % shots % min(5, shots) for i in range(len(rows))])
        scores = []
        for c in grid:
            right = 0
            for f in range(min(5, shots)):
                model = LogisticRegression(C=c, tol=1e-8, max_iter=5000)
                model.fit(a[fold != f], b[fold != f])
                right += int((model.predict(a[fold == f]) == b[fold == f]).sum())
            scores.append(right / len(rows))
        best = grid[scores.index(max(scores))]
        model = LogisticRegression(C=best, tol=1e-8, max_iter=5000).fit(a, b)
        predictions.append(model.predict((t - mean) / std))
        chosen.append(best)
        accuracies.append(max(scores))
    return np.stack(predictions), chosen, accuracies


@pytest.mark.parametrize("width", [8, 60])
def test_batched_probe_equals_scikit_learn_draw_by_draw(width: int) -> None:
    x, y = clusters(90, width)
    t, truth = clusters(60, width, seed=1)
    grid = (0.001, 0.1, 3.0)
    found = k_shot(x, y, t, truth, shots=5, draws=6, seed=4, grid=grid)
    expected, chosen, accuracies = loop_k_shot(x, y, t, class_draws(y, 5, 6, 4), 5, grid)
    same = [c["C"] == other for c, other in zip(found.chosen, chosen, strict=True)]
    assert sum(same) >= 5  # ties may break differently where two values of C are equally good
    assert (found.predictions[same] == expected[same]).mean() > 0.99
    np.testing.assert_allclose([c["held_out"] for c in found.chosen], accuracies, atol=1 / 15)


def test_interval_is_students_over_the_draws() -> None:
    found = k_shot(X, Y, T, TRUTH, shots=5, draws=5)
    loop = [sum(p == q for p, q in zip(row, TRUTH, strict=True)) / 60 for row in found.predictions]
    np.testing.assert_allclose(found.accuracies, loop)
    mean = sum(loop) / 5
    error = math.sqrt(sum((v - mean) ** 2 for v in loop) / 4 / 5)
    assert (found.mean, found.high) == pytest.approx((mean, mean + 2.7764451 * error))
    assert found.rows == 15


def test_test_labels_change_the_score_only() -> None:
    first = k_shot(X, Y, T, TRUTH, draws=4)
    second = k_shot(X, Y, T, TRUTH[::-1], draws=4)
    np.testing.assert_array_equal(first.predictions, second.predictions)
    assert first.chosen == second.chosen
    assert not np.array_equal(first.accuracies, second.accuracies)


def test_only_the_drawn_rows_are_used() -> None:
    free = np.setdiff1d(np.arange(90), class_draws(Y, 2, 3, seed=0))
    spoiled = X.copy()
    spoiled[free] = 1e3
    first = k_shot(X, Y, T, TRUTH, shots=2, draws=3)
    second = k_shot(spoiled, Y, T, TRUTH, shots=2, draws=3)
    np.testing.assert_array_equal(first.predictions, second.predictions)


def test_small_chunks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = k_shot(X, Y, T, TRUTH, shots=3, draws=5)
    monkeypatch.setattr(fewshot, "CHUNK", 9 * 8 * 2)  # two draws at a time
    parts = k_shot(X, Y, T, TRUTH, shots=3, draws=5)
    assert (whole.predictions == parts.predictions).mean() > 0.99


def test_the_number_of_threads_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen = torch.get_num_threads(), []

    def broken(*_):
        seen.append(torch.get_num_threads())
        raise RuntimeError("stop")

    monkeypatch.setattr(fewshot, "_logistic_draws", broken)
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="stop"):
            k_shot(X, Y, T, TRUTH, draws=2)
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_one_shot_needs_no_fold() -> None:
    found = k_shot(X, Y, T, TRUTH, shots=1, draws=3)
    assert found.rows == 3 and found.mean > 1 / 3
    assert all(c["C"] == 0.01 and math.isnan(c["held_out"]) for c in found.chosen)


def test_fractions_keep_every_class() -> None:
    y = np.repeat([0, 1, 2], [60, 25, 5])
    x = X + 4 * y[:, None]
    found = label_fraction(x, y, x, y, (0.1, 1.0), draws=3, probe=knn_probe)
    assert found[0.1].rows == 6 + 2 + 2  # 2.5 rounds to even; the small class keeps two
    assert found[0.1].predictions.shape == (3, 90) and found[1.0].predictions.shape == (1, 90)
    whole = knn_probe(x[class_draws(y, [60, 25, 5], 1)[0]], y[class_draws(y, [60, 25, 5], 1)[0]], x)
    np.testing.assert_array_equal(found[1.0].predictions[0], whole.predictions)
    assert (found[1.0].mean, found[1.0].low, found[1.0].high) == bootstrap_interval(
        (whole.predictions == y).astype(float)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: k_shot(X, Y, T, TRUTH, shots=31), "30 rows but 31"),
        (lambda: k_shot(X, Y, T, TRUTH, draws=1), "at least 2"),
        (lambda: k_shot(X, Y, T, TRUTH[:-1]), r"shape \(59,\)"),
        (lambda: label_fraction(X, Y, T, TRUTH, (0.0, 0.5)), r"\[0.0\] are out of range"),
    ],
)
def test_errors(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
