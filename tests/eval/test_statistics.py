"""Intervals against plain loops, and their coverage on simulated data."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jepa_modalities.eval import statistics
from jepa_modalities.eval.statistics import (
    bootstrap_interval,
    bootstrap_intervals,
    paired_bootstrap,
    resampled_means,
    t_interval,
)


def loop_means(values: np.ndarray, num: int, seed: int) -> list[float]:
    """The same resamples, one at a time."""
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, len(values), (num, len(values)))
    return [sum(values[i] for i in row) / len(values) for row in drawn]


def test_resampled_means_equal_a_loop_over_resamples() -> None:
    values = np.random.default_rng(1).normal(size=7)
    np.testing.assert_allclose(resampled_means(values, 30, 5)[0], loop_means(values, 30, 5))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(size=(2, 9))
    whole = resampled_means(values, 25, 3)
    monkeypatch.setattr(statistics, "CHUNK", 40)  # four resamples at a time
    np.testing.assert_allclose(resampled_means(values, 25, 3), whole)


def test_interval_is_the_percentiles_of_the_loop() -> None:
    values = np.random.default_rng(2).integers(0, 2, 11).astype(float)
    means = sorted(loop_means(values, 201, 0))
    mean, low, high = bootstrap_interval(values, num=201, seed=0, level=0.9)
    assert mean == pytest.approx(sum(values) / 11)
    assert low == pytest.approx(means[10])  # 5 % of 200 steps
    assert high == pytest.approx(means[190])


def test_seeds_are_averaged_first() -> None:
    scores = np.random.default_rng(3).integers(0, 2, (3, 40)).astype(float)
    assert bootstrap_interval(scores) == bootstrap_interval(scores.sum(0) / 3)


def test_paired_uses_the_same_resamples_for_both() -> None:
    generator = np.random.default_rng(4)
    a, b = generator.normal(size=12), generator.normal(size=12)
    first, second = loop_means(a, 101, 7), loop_means(b, 101, 7)
    expected = sorted(x - y for x, y in zip(first, second, strict=True))
    found = paired_bootstrap(a, b, num=101, seed=7, level=0.9)
    assert found.mean == pytest.approx(np.mean(a) - np.mean(b))
    assert (found.low, found.high) == pytest.approx((expected[5], expected[95]))


def test_paired_difference_of_a_constant_shift_is_exact() -> None:
    a = np.random.default_rng(5).normal(size=50)
    assert paired_bootstrap(a + 0.25, np.stack([a, a])) == pytest.approx((0.25, 0.25, 0.25))


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    generator, truth, hits = np.random.default_rng(6), 0.7, 0
    rows = (generator.random((400, 150)) < truth).astype(float)
    for interval in bootstrap_intervals(rows, num=400):
        hits += interval.low <= truth <= interval.high
    assert 0.90 <= hits / 400 <= 0.98


def test_t_interval_formula_and_coverage() -> None:
    values = [0.8, 0.9, 0.7, 0.84]
    mean = sum(values) / 4
    error = math.sqrt(sum((v - mean) ** 2 for v in values) / 3 / 4)
    # Table of Student's t, 3 degrees of freedom, two-sided 95 %.
    assert t_interval(values) == pytest.approx(
        (mean, mean - 3.1824463 * error, mean + 3.1824463 * error)
    )
    draws = np.random.default_rng(8).normal(size=(1000, 4))
    found = [t_interval(row) for row in draws]
    assert 0.93 <= sum(i.low <= 0 <= i.high for i in found) / 1000 <= 0.97


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval([]), "not empty"),
        (lambda: bootstrap_interval([0.0, np.nan]), "1 scores are NaN"),
        (lambda: bootstrap_interval([1.0], level=1.0), "0 < level < 1"),
        (lambda: paired_bootstrap([1.0, 0.0], [1.0]), "found 2 and 1"),
        (lambda: t_interval([0.5]), "at least 2"),
        (lambda: t_interval([0.5, np.inf]), "1 values are NaN or infinite"),
    ],
)
def test_errors_say_what_was_found(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
