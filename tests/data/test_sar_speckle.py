"""Speckle has the statistics of the formulas; the Lee filters equal their definition by loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from jepa_modalities.data.sar.despeckle import half_windows, lee, refined_lee
from jepa_modalities.data.sar.speckle import (
    add_speckle,
    band_window,
    correlated_speckle,
    equivalent_looks,
    gamma_speckle,
)

RAYLEIGH_VARIATION = math.sqrt(4 / math.pi - 1)  # 0.5227


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def correlation(values: Tensor, lag: int) -> float:
    centred = (values - values.mean()).double()
    return float((centred * centred.roll(lag, -1)).mean() / centred.square().mean())


# Simulation.


@pytest.mark.parametrize("looks", [1, 2, 4.4, 16])
def test_gamma_speckle_has_mean_one_and_variance_one_over_looks(looks: float) -> None:
    found = gamma_speckle((300, 300), looks, seeded())
    # Standard errors for 90,000 pixels: of the mean 1 / sqrt(90000 looks), of the variance a few.
    assert float(found.mean()) == pytest.approx(1, abs=5 / math.sqrt(90_000 * looks))
    assert float(found.var()) * looks == pytest.approx(1, abs=0.05)
    # Skewness of Gamma(L, 1/L): 2 / sqrt(L).
    third = ((found - 1) ** 3).mean() / found.var() ** 1.5
    assert float(third) == pytest.approx(2 / math.sqrt(looks), rel=0.1)
    assert correlation(found, 1) == pytest.approx(0, abs=0.02)


def test_single_look_amplitude_is_rayleigh() -> None:
    for bandwidth in (None, 0.8):
        found = add_speckle(torch.full((300, 300), 3.0), 1, seeded(), bandwidth)
        assert float(found.mean()) == pytest.approx(3 * math.sqrt(math.pi) / 2, rel=0.01)
        assert float(found.std() / found.mean()) == pytest.approx(RAYLEIGH_VARIATION, rel=0.02)


@pytest.mark.parametrize("looks", [1, 3])
def test_correlated_speckle_has_the_correlation_of_the_band(looks: int) -> None:
    found = correlated_speckle((30, 64, 64), looks, seeded(), bandwidth=0.75)
    assert float(found.mean()) == pytest.approx(1, abs=0.01)
    assert float(found.var()) * looks == pytest.approx(1, abs=0.05)
    # Intensity correlation = |field correlation|^2; the field's is the transform of the power
    # spectrum (Siegert), here by a plain sum over the frequencies.
    power = band_window(64, 0.75).double() ** 2
    for lag in (1, 2, 3, 8):
        terms = [
            float(p) * math.cos(2 * math.pi * float(f) * lag)
            for p, f in zip(power, torch.fft.fftfreq(64), strict=True)
        ]
        expected = (sum(terms) / float(power.sum())) ** 2
        assert correlation(found, lag) == pytest.approx(expected, abs=0.02)
        assert correlation(found.transpose(1, 2), lag) == pytest.approx(expected, abs=0.02)
    assert correlation(found, 1) > 0.4  # as MSTAR's clutter, and unlike white speckle


def test_band_window_is_a_taylor_window_in_the_band() -> None:
    window = band_window(100, 0.8)
    frequency = torch.fft.fftfreq(100).abs()
    assert (window[frequency > 0.4] == 0).all() and (window[frequency < 0.4] > 0.15).all()
    assert float(window[0]) == 1 and torch.equal(window[1:], window[1:].flip(0))
    order = frequency.argsort()
    assert (window[order].diff() <= 1e-6).all()
    # The point response's highest sidelobe lies at -35 dB.
    response = torch.fft.ifft(band_window(100, 0.8), n=100)
    padded = torch.zeros(6400)
    padded[:50] = band_window(100, 0.8)[:50]
    padded[-50:] = band_window(100, 0.8)[50:]
    level = 20 * (torch.fft.ifft(padded).abs() / response.abs().max() * 64 + 1e-12).log10()
    half = level[:3200]
    first_null = int((half.diff() > 0).nonzero()[0])
    assert float(half[first_null:].max()) == pytest.approx(-35, abs=1.5)


def test_speckle_is_reproducible_and_refuses_impossible_looks() -> None:
    for make in (gamma_speckle, correlated_speckle):
        one, two, other = (make((4, 8, 8), 2, seeded(seed)) for seed in (1, 1, 2))
        assert torch.equal(one, two) and not torch.equal(one, other)
        for looks in (0, -1, float("nan")):
            with pytest.raises(ValueError, match="give a positive number"):
                make((8, 8), looks)
    with pytest.raises(ValueError, match=r"looks = 1\.5: .*whole number"):
        correlated_speckle((8, 8), 1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bandwidth = 0"):
        correlated_speckle((8, 8), 1, bandwidth=0)


def test_speckle_multiplies() -> None:
    amplitude = torch.rand(16, 16, generator=seeded(3)) + 0.1
    factor = gamma_speckle((16, 16), 3, seeded(5)).sqrt()
    assert torch.equal(add_speckle(amplitude, 3, seeded(5)), amplitude * factor)


# Looks.


@pytest.mark.parametrize("looks", [1, 4])
def test_equivalent_looks(looks: int) -> None:
    intensity = 0.2 * gamma_speckle((5, 120, 120), looks, seeded())
    found = equivalent_looks(intensity, "intensity")
    assert found.shape == (5,)
    np.testing.assert_allclose(found, looks, rtol=0.06)
    amplitude = equivalent_looks(intensity.sqrt())
    np.testing.assert_allclose(amplitude, looks if looks == 1 else 1.066 * looks, rtol=0.06)
    np.testing.assert_allclose(equivalent_looks(7 * intensity, "intensity"), found, rtol=1e-6)


def test_equivalent_looks_by_loops_on_valid_pixels() -> None:
    values = torch.rand(3, 4, generator=seeded())
    valid = torch.tensor([[True, True, False, True]]).expand(3, 4)
    kept = [float(values[r, c]) for r in range(3) for c in (0, 1, 3)]
    mean = sum(kept) / 9
    variance = sum((value - mean) ** 2 for value in kept) / 8
    found = equivalent_looks(values, "intensity", valid)
    assert float(found) == pytest.approx(mean**2 / variance, rel=1e-9)
    assert float(equivalent_looks(torch.ones(3, 4))) == float("inf")


# Filters.


def mirrored(image: np.ndarray, row: int, column: int) -> float:
    height, width = image.shape
    row, column = abs(row), abs(column)
    return image[min(row, 2 * height - 2 - row), min(column, 2 * width - 2 - column)]


def lee_value(pixels: list[float], centre: float, speckle: float) -> float:
    mean = sum(pixels) / len(pixels)
    variance = sum((pixel - mean) ** 2 for pixel in pixels) / len(pixels)
    if variance == 0:
        return mean
    weight = (1 - speckle / (variance / mean**2)) / (1 + speckle)
    return mean + min(max(weight, 0), 1) * (centre - mean)


@pytest.mark.parametrize("quantity", ["amplitude", "intensity"])
def test_lee_by_plain_loops(quantity: str) -> None:
    image = np.random.default_rng(0).gamma(2, 1, (9, 8))
    speckle = (4 / math.pi - 1 if quantity == "amplitude" else 1) / 2
    found = lee(torch.from_numpy(image), 2, 5, quantity)  # type: ignore[arg-type]
    for row in range(9):
        for column in range(8):
            window = [
                mirrored(image, row + r, column + c) for r in range(-2, 3) for c in range(-2, 3)
            ]
            expected = lee_value(window, image[row, column], speckle)
            assert float(found[row, column]) == pytest.approx(expected, rel=1e-9)


def half_by_definition(direction: int, side: int, row: int, column: int) -> bool:
    """Offsets from the centre, -3..3; the edge's line belongs to both halves."""
    across = [column, row - column, row, row + column][direction]
    return across <= 0 if side == 0 else across >= 0


def test_half_windows() -> None:
    found = half_windows()
    for number in range(8):
        for row in range(7):
            for column in range(7):
                expected = half_by_definition(number // 2, number % 2, row - 3, column - 3)
                assert bool(found[number, row, column]) == expected


def test_refined_lee_by_plain_loops() -> None:
    rng = np.random.default_rng(1)
    image = rng.gamma(4, 0.25, (10, 11))
    image[:, 6:] *= 5
    image[:4] *= 3
    found = refined_lee(torch.from_numpy(image), 4)
    used = set()
    for row in range(10):
        for column in range(11):
            means = {
                (r, c): sum(
                    mirrored(image, row + 2 * r + i, column + 2 * c + j)
                    for i in (-1, 0, 1)
                    for j in (-1, 0, 1)
                )
                / 9
                for r in (-1, 0, 1)
                for c in (-1, 0, 1)
            }
            strengths = []
            for direction in range(4):
                sides = [
                    [means[p] for p in means if sign * across(direction, *p) > 0]
                    for sign in (-1, 1)
                ]
                strength = abs(sum(sides[0]) - sum(sides[1]))
                strengths.append(strength if strength > 1e-9 * means[0, 0] else 0)  # not rounding
            direction = strengths.index(max(strengths))
            ends = [[(0, -1), (0, 1)], [(-1, 1), (1, -1)], [(-1, 0), (1, 0)], [(-1, -1), (1, 1)]]
            away = [abs(means[place] - means[0, 0]) for place in ends[direction]]
            side = away.index(min(away))
            window = [
                mirrored(image, row + r, column + c)
                for r in range(-3, 4)
                for c in range(-3, 4)
                if half_by_definition(direction, side, r, c)
            ]
            used.add((direction, side))
            expected = lee_value(window, image[row, column], 1 / 4)
            assert float(found[row, column]) == pytest.approx(expected, rel=1e-9)
    assert len(used) >= 6  # the image has edges of many directions


def across(direction: int, row: int, column: int) -> int:
    return [column, row - column, row, row + column][direction]


FILTERS = {
    "lee": lambda image, looks: lee(image, looks),
    "refined": lambda image, looks: refined_lee(image, looks),
}


@pytest.mark.parametrize("name", FILTERS)
@settings(max_examples=15, deadline=None)
@given(level=st.floats(1e-4, 1e4), looks=st.sampled_from([1.0, 3.0, 10.0]))
def test_properties_of_the_filters(name: str, level: float, looks: float) -> None:
    filtered = FILTERS[name]
    # A constant area returns its mean.
    flat = torch.full((9, 12), level, dtype=torch.float64)
    torch.testing.assert_close(filtered(flat, looks), flat)
    # No unit of brightness: f(c x) = c f(x).
    image = gamma_speckle((2, 12, 12), 2, seeded()).double()
    torch.testing.assert_close(filtered(level * image, looks), level * filtered(image, looks))
    # A weighted mean of what is there: never outside the range of the pixels.
    assert filtered(image, looks).amin() >= image.amin()
    assert filtered(image, looks).amax() <= image.amax()
    # A strong point is kept: k -> 1 / (1 + Cu^2) as the window's variation grows.
    point = torch.full((15, 15), 1e-6, dtype=torch.float64)
    point[7, 7] = 1.0
    kept = float(filtered(point, looks)[7, 7])
    share = 1 / 49 if name == "lee" else 1 / 28
    variation = 1 / share - 1  # squared, of a single bright pixel in the window
    weight = (1 - 1 / looks / variation) / (1 + 1 / looks)
    assert kept == pytest.approx(share + weight * (1 - share), rel=1e-3)


@pytest.mark.parametrize("name", FILTERS)
def test_filters_smooth_speckle_and_keep_the_mean(name: str) -> None:
    image = 0.3 * gamma_speckle((4, 80, 80), 4, seeded())
    found = FILTERS[name](image, 4)
    assert found.dtype == torch.float32 and found.shape == image.shape
    assert (equivalent_looks(found, "intensity") > 8 * equivalent_looks(image, "intensity")).all()
    assert float(found.mean()) == pytest.approx(0.3, rel=0.02)


def test_refined_lee_smooths_along_an_edge() -> None:
    # Lee keeps the noise near an edge, since the edge raises the window's variation.
    truth = torch.ones(80, 80)
    truth[:, 40:] = 10
    image = truth * gamma_speckle((80, 80), 8, seeded())
    beside = (slice(None), slice(37, 43))
    errors = [float((f(image, 8) / truth - 1)[beside].square().mean()) for f in FILTERS.values()]
    assert errors[1] < 0.6 * errors[0]


def test_filters_flip_with_the_image() -> None:
    image = gamma_speckle((12, 14), 3, seeded()).double()
    for filtered in FILTERS.values():
        for axis in (0, 1):
            torch.testing.assert_close(filtered(image.flip(axis), 3), filtered(image, 3).flip(axis))
        found, turned = filtered(image, 3), filtered(image.T, 3).T
        for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):  # no edge there, so no direction
            turned[corner] = found[corner]
        torch.testing.assert_close(found, turned)


def test_filters_refuse_what_they_cannot_do() -> None:
    image = torch.ones(3, 9)
    for call in (lambda: lee(image, 4), lambda: refined_lee(image, 4)):
        with pytest.raises(
            ValueError, match="images of 3 x 9 pixels are too small for a window of 7"
        ):
            call()
    with pytest.raises(ValueError, match="window = 4; give an odd number"):
        lee(torch.ones(9, 9), 4, 4)
    with pytest.raises(ValueError, match="looks = 0"):
        refined_lee(torch.ones(9, 9), 0)
