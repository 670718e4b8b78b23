"""The synthetic heart follows its equation, and its rhythms are what they are called."""

from __future__ import annotations

import numpy as np
import pytest

from jepa_modalities.data.ecg import synthetic as module
from jepa_modalities.data.ecg.synthetic import (
    ANGLE,
    DOWER,
    GAIN,
    HEIGHT,
    RHYTHMS,
    WIDTH,
    synthetic_ecg,
    synthetic_records,
)


def test_dipole_solves_the_equation() -> None:
    fs, period, samples = 2000.0, 0.8, 2400
    angle = (2 * np.pi * np.arange(samples) / fs / period) % (2 * np.pi) - np.pi
    found = module._dipole(
        angle[None], np.full((1, samples), period), np.zeros((1, samples), np.bool_),
        np.array([0]), fs, np.random.default_rng(3),
    )[0]  # fmt: skip
    # The same heart, from the documentation: its draws, then Euler steps of the formula.
    rng = np.random.default_rng(3)
    height = HEIGHT * rng.lognormal(0, 0.2, (1, 5, 1)) + 0.03 * rng.standard_normal((1, 5, 3))
    spread = np.array([0.1, 0.01, 0, 0.01, 0.1])
    centre = ANGLE + spread * rng.standard_normal((1, 5))
    speed, stretch = 2 * np.pi / period, np.sqrt(1 / period)
    z = np.zeros(3)
    error = 0.0
    for step in range(samples):
        slope = -z
        for wave in range(5):
            place = centre[0, wave] * (1 if wave == 2 else stretch)
            away = (angle[step] - place + np.pi) % (2 * np.pi) - np.pi
            b = WIDTH[wave] * stretch
            bump = np.exp(-(away**2) / (2 * b**2))
            slope = slope - height[0, wave] * speed * away / b**2 * bump
        z = z + slope / fs
        error = max(error, float(np.abs(z - found[step]).max()))
    assert error < 0.02 * np.abs(found).max()


def test_leads_obey_einthoven_and_goldberger() -> None:
    made = synthetic_ecg(6, fs=250, seconds=4, noise=0)
    x = dict(zip(made.leads, made.signals.astype(int).transpose(2, 0, 1), strict=True))
    wander = synthetic_ecg(6, fs=250, seconds=4, noise=0).signals.astype(int)
    np.testing.assert_array_equal(wander, made.signals)
    assert DOWER.shape == (8, 3)
    # The baseline of each lead wanders on its own, so slopes are compared, not values.
    for name, expected in (
        ("III", x["II"] - x["I"]),
        ("aVR", -(x["I"] + x["II"]) / 2),
        ("aVL", x["I"] - x["II"] / 2),
        ("aVF", x["II"] - x["I"] / 2),
    ):
        difference = np.diff(x[name], axis=1) - np.diff(expected, axis=1)
        assert np.abs(difference).max() < 0.01 * GAIN < np.abs(np.diff(x[name])).max()


def test_rhythms_are_what_they_are_called() -> None:
    made = synthetic_ecg(120, fs=200, seconds=20, seed=1)
    assert made.signals.shape == (120, 4000, 12) and made.signals.dtype == np.int16
    assert np.bincount(made.rhythm).tolist() == [20] * len(RHYTHMS)
    assert made.labels.sum(1).tolist() == [1] * 120
    rate, spread, regular = (np.zeros(120) for _ in range(3))
    for row in range(120):
        periods = np.diff(np.flatnonzero(made.beat[row])) / 200
        rate[row], spread[row] = 60 / periods.mean(), periods.std() / periods.mean()
        regular[row] = np.abs(periods[2:] - periods[:-2]).mean() / periods.mean()
    of = {name: made.rhythm == number for number, name in enumerate(RHYTHMS)}
    assert rate[of["bradycardia"]].max() < 60 < rate[of["sinus"]].min()
    assert rate[of["sinus"]].max() < 100 < rate[of["tachycardia"]].min()
    assert spread[of["fibrillation"]].min() > 0.1 > spread[of["sinus"]].max()
    # Every second beat comes early, again and again.
    assert spread[of["bigeminy"]].min() > 0.2 and regular[of["bigeminy"]].max() < 0.1
    # R waves of V5 stand at the marked samples.
    for row in np.flatnonzero(of["sinus"])[:5]:
        lead = made.signals[row, :, 10].astype(int)
        beats = np.flatnonzero(made.beat[row])
        for beat in beats[(beats > 20) & (beats < 3980)]:
            around = lead[beat - 20 : beat + 21]
            assert abs(int(around.argmax()) - 20) <= 4


def test_a_long_pause_before_the_complex_in_block() -> None:
    """The P wave of first-degree block comes 0.1 s and more earlier than in sinus rhythm."""
    made = synthetic_ecg(60, fs=500, seconds=10, seed=2, noise=0)

    def before(name: str) -> float:
        times = []
        for row in np.flatnonzero(made.rhythm == RHYTHMS.index(name)):
            lead = made.signals[row, :, 1].astype(float)
            beats = np.flatnonzero(made.beat[row])
            for beat in beats[(beats > 300) & (beats < 4900)]:
                part = lead[beat - 200 : beat - 40]  # 0.4 to 0.08 s before R
                times.append((200 - int(part.argmax())) / 500)
        return float(np.median(times))

    assert before("av_block") > before("sinus") + 0.07


def test_same_seed_same_hearts_however_many() -> None:
    many, few = synthetic_ecg(70, seconds=3, seed=5), synthetic_ecg(9, seconds=3, seed=5)
    np.testing.assert_array_equal(many.signals[:9], few.signals)
    assert (synthetic_ecg(9, seconds=3, seed=6).signals != few.signals).any()
    with pytest.raises(ValueError, match="fs = 20"):
        synthetic_ecg(1, fs=20)


def test_as_recordings() -> None:
    records = synthetic_records(12, 6, fs=100, seconds=3)
    assert len(records) == 24 and records.fold.tolist() == [1] * 12 + [9] * 6 + [10] * 6
    assert records.label_names == RHYTHMS and set(records.source) == {"synthetic"}
    np.testing.assert_array_equal(records.physical(7), synthetic_ecg(24, 100, 3).signals[7] / GAIN)
