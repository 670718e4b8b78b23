"""Scalings by their formulas, and their way through JSON and tensors."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jepa_modalities.data.sar import Scaling, measure_scaling

SCALINGS = st.builds(
    Scaling,
    kind=st.sampled_from(["amplitude", "linear", "db"]),
    gain=st.floats(1e-3, 1e3),
    low=st.floats(-80, -10),
    high=st.floats(-9, 30),
)


@given(SCALINGS, st.lists(st.floats(0, 1e3, width=32), min_size=1, max_size=20))
def test_by_the_formula(scaling: Scaling, magnitudes: list[float]) -> None:
    found = scaling(torch.tensor(magnitudes))
    for value, magnitude in zip(found.tolist(), magnitudes, strict=True):
        if scaling.kind == "amplitude":
            expected = magnitude
        elif scaling.kind == "linear":
            expected = min(scaling.gain * magnitude, 1)
        else:
            level = -math.inf if magnitude == 0 else 20 * math.log10(scaling.gain * magnitude)
            expected = min(max((level - scaling.low) / (scaling.high - scaling.low), 0), 1)
        assert value == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert (found >= 0).all()


@given(SCALINGS)
def test_states_come_back(scaling: Scaling) -> None:
    assert Scaling(**json.loads(json.dumps(scaling.to_json()))) == scaling
    assert Scaling.from_tensor(scaling.to_tensor()) == scaling


def test_measured_scalings_span_the_training_chips() -> None:
    chips = torch.linspace(0.01, 3, 10_000).reshape(4, 1, 50, 50)
    linear = measure_scaling(chips, "linear", quantiles=(0.1, 0.9))
    assert 1 / linear.gain == pytest.approx(0.01 + 0.9 * 2.99, rel=1e-3)
    assert float((linear(chips) == 1).float().mean()) == pytest.approx(0.1, abs=1e-3)
    db = measure_scaling(chips, "db", quantiles=(0.1, 0.9))
    assert db.low == pytest.approx(20 * math.log10(0.01 + 0.1 * 2.99), abs=0.01)
    assert db.high == pytest.approx(20 * math.log10(0.01 + 0.9 * 2.99), abs=0.01)
    assert measure_scaling(chips, "amplitude") == Scaling()


def test_padding_has_no_level() -> None:
    chips = torch.full((1, 1, 4, 4), 0.5)
    chips[..., 2:] = 100.0
    valid = torch.ones(1, 4, 4, dtype=torch.bool)
    valid[..., 2:] = False
    assert measure_scaling(chips, "linear", valid).gain == pytest.approx(2)
    assert measure_scaling(chips, "db", valid).high == pytest.approx(20 * math.log10(0.5), abs=1e-4)
    with pytest.raises(ValueError, match="no positive magnitude"):
        measure_scaling(torch.zeros(1, 1, 2, 2), "db")


def test_impossible_scalings_are_refused() -> None:
    for wrong, message in (
        ({"kind": "log"}, "kind = 'log'; give amplitude, linear or db"),
        ({"gain": 0.0}, r"gain = 0\.0; give a positive"),
        ({"gain": math.inf}, "gain = inf"),
        ({"low": 3.0, "high": 3.0}, r"low = 3\.0 must be below scaling\.high = 3\.0"),
    ):
        with pytest.raises(ValueError, match=message):
            Scaling(**wrong)  # type: ignore[arg-type]
