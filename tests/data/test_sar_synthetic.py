"""Simulated chips: reproducible, with speckle and shadow; brightness does not name the class."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from jepa_modalities.data.sar import Chips, synthetic_chips
from jepa_modalities.data.sar.speckle import equivalent_looks
from jepa_modalities.data.sar.synthetic import (
    CLUTTER,
    SPACING,
    VEHICLES,
    _boxes,
    _outline,
    _points,
    _shade,
)


@pytest.fixture(scope="module")
def chips() -> Chips:
    return synthetic_chips(384, seed=3)


def test_what_comes_back(chips: Chips) -> None:
    assert chips.values.shape == (384, 1, 64, 64) and chips.values.dtype == torch.float32
    assert chips.valid is None and chips.sizes.tolist() == [[64, 64]] * 384
    assert chips.classes == tuple(VEHICLES) and chips.labels is not None
    assert chips.labels.tolist() == [row % len(VEHICLES) for row in range(384)]
    assert all(name.startswith("synthetic/") for name in chips.names)
    assert (chips.values > 0).all() and chips.values.isfinite().all()


def test_the_first_chips_do_not_depend_on_the_number(chips: Chips) -> None:
    some = synthetic_chips(130, seed=3)
    torch.testing.assert_close(some.values, chips.values[:130], rtol=1e-4, atol=1e-6)
    assert some.names == chips.names[:130]
    other = synthetic_chips(130, seed=4)
    assert not torch.isclose(other.values, some.values).all((1, 2, 3)).any()
    assert not torch.isclose(some.values[0], some.values[len(VEHICLES)]).all()


def test_clutter_is_correlated_single_look_speckle(chips: Chips) -> None:
    below = chips.values[:, 0, -8:]  # shadows point up; few targets reach so low
    looks = equivalent_looks(below).median()
    assert 0.6 < float(looks) < 1.05  # texture roughens single-look speckle a little
    centred = below - below.mean((1, 2), keepdim=True)
    for lag, low, high in ((1, 0.4, 0.6), (2, 0.0, 0.2)):  # MSTAR: 0.47 and 0.10
        product = (centred[..., lag:] * centred[..., :-lag]).mean((1, 2))
        assert low < float((product / centred.square().mean((1, 2))).median()) < high
    level = below.square().mean((1, 2)).sqrt().median()
    assert float(level) == pytest.approx(CLUTTER, rel=0.2)


def test_targets_are_bright_and_shadows_above_them_dark(chips: Chips) -> None:
    power = chips.values[:, 0].square()
    clutter = power[:, -8:].mean((1, 2))
    target = power[:, 28:48, 24:40].mean((1, 2))
    shadow = power[:, 8:20, 28:36].mean((1, 2))
    assert (target / clutter).median() > 5
    assert (shadow / clutter).median() < 0.5


def test_brightness_does_not_name_the_class(chips: Chips) -> None:
    from sklearn.linear_model import LogisticRegression

    x = chips.values[:, 0, -8:].flatten(1)
    features = torch.stack([x.mean(1), x.std(1), x.amax(1), x.log().mean(1)], 1).numpy()
    features = (features - features.mean(0)) / features.std(0)
    assert chips.labels is not None
    labels = chips.labels.numpy()
    model = LogisticRegression().fit(features[:192], labels[:192])
    chance = 1 / len(VEHICLES)
    # Three standard errors of 192 guesses.
    margin = 3 * math.sqrt(chance * (1 - chance) / 192)
    assert model.score(features[192:], labels[192:]) < chance + margin


def test_shadows_by_marching_from_every_pixel() -> None:
    vehicles = torch.tensor([0, 2, 3])
    aspect, centre = torch.tensor([0.4, 2.0, -1.1]), torch.tensor([[0.3, -0.2], [0, 0], [0.1, 0.4]])
    boxes = _boxes()[vehicles]
    covered, shaded = _shade(boxes, aspect, centre, 48, 30.0)
    wrong = 0
    for number in range(3):
        cosine, sine = math.cos(float(aspect[number])), math.sin(float(aspect[number]))

        def inside(
            box: torch.Tensor, down: float, right: float, c: float = cosine, s: float = sine
        ) -> bool:
            x, y = down * s + right * c, down * c - right * s
            return bool(
                abs(x - box[0]) <= box[2] / 2 and abs(y - box[1]) <= box[3] / 2 and box[2] > 0
            )

        tan = math.tan(math.radians(30))
        steps = [np.linspace(0, float(box[4]) / tan, 40) for box in boxes[number]]
        for row in range(1, 48, 5):
            for column in range(0, 48, 4):
                down = (row - 23.5) * SPACING - float(centre[number, 0])
                right = (column - 23.5) * SPACING - float(centre[number, 1])
                on = any(inside(box, down, right) for box in boxes[number])
                assert bool(covered[number, row, column]) == on
                dark = any(
                    inside(box, down + step, right)
                    for box, way in zip(boxes[number], steps, strict=True)
                    for step in way
                )
                wrong += bool(shaded[number, row, column]) != (dark and not on)
    assert shaded.any() and wrong <= 3  # steps of a few centimetres miss corners that are cut


def test_points_are_the_sum_of_shifted_deltas() -> None:
    boxes = _boxes()[torch.tensor([1, 4])]
    aspect, centre = torch.tensor([0.7, 2.9]), torch.tensor([[0.5, 0.1], [-0.3, 0.2]])
    gain = torch.tensor([1.0, 2.0])
    found = _points(boxes, aspect, centre, gain, 48, 17.0, np.random.default_rng(0))
    # The spectrum at frequency 0 is the sum of all complex amplitudes; a shift only turns phases.
    moved = _points(boxes, aspect, centre + SPACING, gain, 48, 17.0, np.random.default_rng(0))
    torch.testing.assert_close(found[:, 0, 0], moved[:, 0, 0])
    image = torch.fft.ifft2(found)
    shifted = torch.fft.ifft2(moved)
    torch.testing.assert_close(image.roll((1, 1), (1, 2)), shifted, rtol=1e-3, atol=1e-3)
    louder = _points(boxes, aspect, centre, 2 * gain, 48, 17.0, np.random.default_rng(0))
    torch.testing.assert_close(louder, 2 * found)


def test_outlines_lie_on_the_boxes() -> None:
    boxes = _boxes()
    place, normal, corner, owner = _outline(boxes)
    own = boxes.gather(1, owner[..., None].expand(-1, -1, 6))
    offset = ((place - own[..., :2]).abs() - own[..., 2:4] / 2) / own[..., 2:4].clamp_min(1e-9)
    assert (offset <= 1e-5).all() and (offset.amax(-1) > -1e-5).all()
    torch.testing.assert_close(normal.norm(dim=-1), torch.ones(place.shape[:2]))
    assert ((place - own[..., :2]) * normal).sum(-1).min() >= 0  # normals point outwards
    assert int(corner[0].sum()) == 4 * boxes.shape[1]


def test_lower_radar_casts_longer_shadows() -> None:
    boxes, aspect = _boxes(), torch.zeros(len(VEHICLES))
    areas = [
        int(_shade(boxes, aspect, torch.zeros(len(VEHICLES), 2), 64, angle)[1].sum())
        for angle in (15.0, 17.0, 45.0)
    ]
    assert areas[0] > areas[1] > areas[2] > 0


def test_impossible_requests_are_refused() -> None:
    for options, message in (
        ({"size": 32}, "size = 32; the vehicles need at least 48"),
        ({"count": 0}, "count = 0"),
        ({"depression": 2.0}, r"depression = 2\.0; give"),
    ):
        with pytest.raises(ValueError, match=message):
            synthetic_chips(**options)  # type: ignore[arg-type]
