"""Schedules against their formulas: step 1 is the start, the last step the end."""

from __future__ import annotations

import math

import pytest

from jepa_modalities.core.schedules import cosine, linear, warmup_cosine


@pytest.mark.parametrize("schedule", [linear, cosine])
def test_ends(schedule) -> None:  # type: ignore[no-untyped-def]
    assert schedule(1, 11, 0.04, 0.4) == pytest.approx(0.04)
    assert schedule(11, 11, 0.04, 0.4) == pytest.approx(0.4)
    assert schedule(500, 11, 0.04, 0.4) == pytest.approx(0.4)
    assert schedule(6, 11, 0.04, 0.4) == pytest.approx(0.22)  # both pass the middle half-way
    assert schedule(1, 1, 0.5, 0.9) == pytest.approx(0.5)


def test_every_step_by_formula() -> None:
    for step in range(1, 12):
        share = (step - 1) / 10
        assert linear(step, 11, 0.996, 1.0) == pytest.approx(0.996 + share * 0.004)
        expected = 0.4 + (0.04 - 0.4) * 0.5 * (1 + math.cos(math.pi * share))
        assert cosine(step, 11, 0.04, 0.4) == pytest.approx(expected)


def test_warmup_cosine() -> None:
    rates = [warmup_cosine(step, 30, 10, 2e-4, 1e-3, 1e-6) for step in range(1, 31)]
    for step in range(1, 11):
        assert rates[step - 1] == pytest.approx(2e-4 + 8e-4 * (step - 1) / 10)
    for step in range(11, 31):
        share = (step - 11) / 19
        expected = 1e-6 + (1e-3 - 1e-6) * 0.5 * (1 + math.cos(math.pi * share))
        assert rates[step - 1] == pytest.approx(expected)
    assert rates[0] == pytest.approx(2e-4)
    assert rates[10] == pytest.approx(1e-3) == max(rates)
    assert rates[-1] == pytest.approx(1e-6)
    assert warmup_cosine(1, 5, 0, 2e-4, 1e-3, 1e-6) == pytest.approx(1e-3)
