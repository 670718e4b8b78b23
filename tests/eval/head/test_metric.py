"""Scores, paired differences and ranks against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_modalities.eval.head.metric import average_ranks, outcome, paired, resampled, scores
from jepa_modalities.eval.statistics import Interval


def pair_auc(score: np.ndarray, y: np.ndarray) -> float:
    """Share of (positive, negative) pairs in the right order, equal scores half."""
    won = [1.0 if p > n else 0.5 if p == n else 0.0 for p in score[y == 1] for n in score[y == 0]]
    return float(np.mean(won))


def binary(rows: int, seeds: int, seed: int, levels: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = rng.integers(0, levels, (seeds, rows)) / levels
    y = rng.integers(0, 2, rows)
    y[:2] = 0, 1
    return np.stack([1 - p, p], axis=2), y


@given(st.integers(3, 30), st.integers(1, 3), st.integers(0, 99), st.sampled_from([3, 1000]))
@settings(max_examples=30, deadline=None)
def test_scores_are_their_definitions(rows: int, seeds: int, seed: int, levels: int) -> None:
    p, y = binary(rows, seeds, seed, levels)
    for number in range(seeds):
        guess = [1 if b > a else 0 for a, b in p[number]]
        expected = sum(int(g == t) for g, t in zip(guess, y, strict=True)) / rows
        assert scores("accuracy", p, y)[number] == pytest.approx(expected)
        assert scores("auc", p, y)[number] == pytest.approx(pair_auc(p[number, :, 1], y))
        error = np.sqrt(sum((a - b) ** 2 for a, b in zip(p[number, :, 1], y, strict=True)) / rows)
        assert scores("rmse", p[:, :, 1], y)[number] == pytest.approx(error)


@pytest.mark.parametrize("metric", ["accuracy", "auc", "rmse"])
def test_resamples_are_the_metric_on_resampled_rows(metric: str) -> None:
    p, y = binary(25, 2, 0)
    p = p[:, :, 1] if metric == "rmse" else p
    found = resampled(metric, p, y, num=8, seed=3)
    drawn = np.random.default_rng(3).integers(0, 25, (8, 25))
    expected = [scores(metric, p[:, rows], y[rows]).mean() for rows in drawn]
    assert found == pytest.approx(np.array(expected))


def test_better_is_positive_for_every_metric() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    good = np.clip(y + 0.3 * rng.standard_normal((2, 400)), 0.01, 0.99)
    bad = np.clip(y + 1.5 * rng.standard_normal((3, 400)), 0.01, 0.99)
    for metric in ("accuracy", "auc", "rmse"):
        a, b = (
            (good, bad)
            if metric == "rmse"
            else tuple(np.stack([1 - x, x], axis=2) for x in (good, bad))
        )
        difference = paired(metric, a, b, y)
        assert difference.low > 0 and outcome(difference) == "beats"
        assert outcome(paired(metric, b, a, y)) == "falls below"
        assert paired(metric, a, a, y) == (0.0, 0.0, 0.0)
        expected = abs(scores(metric, a, y).mean() - scores(metric, b, y).mean())
        assert difference.mean == pytest.approx(expected)


def test_a_tie_is_whatever_touches_zero() -> None:
    assert outcome(Interval(0.1, 0.0, 0.2)) == "tie"
    assert outcome(Interval(-0.1, -0.2, 0.01)) == "tie"
    assert outcome(Interval(0.1, 0.01, 0.2)) == "beats"


def test_ranks() -> None:
    table = [[0.9, 0.8, 0.8], [1.0, 2.0, 3.0]]
    # Table 1, higher is better: 1, 2.5, 2.5; table 2, lower is better: 1, 2, 3.
    assert average_ranks(table, [False, True]).tolist() == [1.0, 2.25, 2.75]


def test_complaints() -> None:
    p, y = binary(10, 1, 0)
    with pytest.raises(ValueError, match="metric 'f1' is not known"):
        scores("f1", p, y)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(9,\) labels"):
        scores("accuracy", p, y[:9])
    with pytest.raises(ValueError, match="auc needs two classes, found 3"):
        scores("auc", np.concatenate([p, p[..., :1]], axis=2), y)
