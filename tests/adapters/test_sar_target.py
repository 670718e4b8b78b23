"""Ratio gradients against the formula, plain loops, and the statistics of speckle."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from jepa_modalities.adapters.sar.target import (
    RADII,
    GradientTarget,
    gradient_components,
    gradient_targets,
)


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def reflected(place: int, size: int) -> int:
    """Index of a pixel outside the image, mirrored without repeating the border."""
    place = abs(place)
    return 2 * (size - 1) - place if place >= size else place


def by_loops(
    image: Tensor,
    radius: int,
    eps: float,
    weight: list[float] | None = None,
    shared: bool = True,
    valid: Tensor | None = None,
) -> Tensor:
    """(2, height, width): G_x, G_y pixel by pixel, from the definition."""
    height, width = image.shape
    out = torch.zeros(2, height, width, dtype=torch.float64)
    weight = [1.0] * (2 * radius + 1) if weight is None else weight
    for y in range(height):
        for x in range(width):
            sums, counts = torch.zeros(4).double(), torch.zeros(4).double()
            for dy in range(-radius, radius + 1):
                for dx in range(-radius, radius + 1):
                    row, column = reflected(y + dy, height), reflected(x + dx, width)
                    if valid is not None and not valid[row, column]:
                        continue
                    share = weight[dy + radius] * weight[dx + radius]
                    value = (float(image[row, column]) + eps) * share
                    for number, offset in enumerate((-dx, dx, -dy, dy)):  # left right up down
                        if offset > 0 or (shared and offset == 0):
                            sums[number] += value
                            counts[number] += share
            for axis in (0, 1):
                before, after = 2 * axis, 2 * axis + 1
                if counts[before] and counts[after]:
                    ratio = sums[before] / counts[before] / (sums[after] / counts[after])
                    out[axis, y, x] = ratio.log()
    return out


@pytest.mark.parametrize("shared", [True, False])
def test_areal_by_loops(shared: bool) -> None:
    image = torch.rand(9, 11, generator=seeded())
    found = gradient_components(image[None, None], (1, 3), shared_centre=shared)
    for scale, radius in enumerate((1, 3)):
        expected = by_loops(image, radius, 0.01, shared=shared)
        torch.testing.assert_close(found[0, scale].double(), expected, rtol=1e-5, atol=2e-6)
    length = gradient_targets(image[None, None], (1, 3), shared_centre=shared)
    torch.testing.assert_close(length[0], found[0].square().sum(1).sqrt())


def test_gaussian_by_loops() -> None:
    image, radius = torch.rand(9, 8, generator=seeded(1)), 3
    sigma = 0.3 * (2 * radius * 0.5 - 1) + 0.8
    weight = [math.exp(-(n**2) / (2 * sigma**2)) for n in range(-radius, radius + 1)]
    found = gradient_components(image[None, None], (radius,), eps=0.05, window="gaussian")
    expected = by_loops(image, radius, 0.05, weight, shared=False)
    torch.testing.assert_close(found[0, 0].double(), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("window", ["areal", "gaussian"])
def test_padding_is_left_out(window: str) -> None:
    image, valid = torch.rand(10, 10, generator=seeded(2)), torch.ones(10, 10, dtype=torch.bool)
    valid[:3], valid[:, 8:] = False, False
    sigma = 0.3 * (2 - 1) + 0.8
    weight = None
    if window == "gaussian":
        weight = [math.exp(-(n**2) / (2 * sigma**2)) for n in range(-2, 3)]
    given = image.masked_fill(~valid, 9.0)  # whatever stands in the padding
    found = gradient_components(
        given[None, None],
        (2,),
        window=window,  # type: ignore[arg-type]
        valid=valid[None, None],
    )
    expected = by_loops(image, 2, 0.01, weight, shared=window == "areal", valid=valid)
    torch.testing.assert_close(found[0, 0].double(), expected, rtol=1e-5, atol=2e-6)
    other = image.masked_fill(~valid, 0.0)
    again = gradient_components(
        other[None, None],
        (2,),
        window=window,  # type: ignore[arg-type]
        valid=valid[None, None],
    )
    assert torch.equal(found, again)


def test_padding_of_a_constant_chip_makes_no_edge() -> None:
    image, valid = torch.zeros(1, 1, 40, 40), torch.zeros(1, 1, 40, 40, dtype=torch.bool)
    image[..., 10:30, 5:35], valid[..., 10:30, 5:35] = 0.3, True
    assert gradient_targets(image, (2, 5, 9), valid=valid).abs().max() < 1e-6
    assert gradient_targets(image, (2, 5, 9)).max() > 1.0  # without it the border is an edge


@pytest.mark.parametrize("window", ["areal", "gaussian"])
def test_constant_image_has_no_gradient(window: str) -> None:
    for level in (0.0, 1e-4, 0.2, 1.0):
        image = torch.full((1, 1, 48, 40), level)
        assert gradient_targets(image, window=window).abs().max() < 2e-6  # type: ignore[arg-type]


def test_step_edge() -> None:
    """Columns 0..31 are 0.2, the others 0.8: at column 31 the left half is all dark."""
    image = torch.full((1, 1, 64, 64), 0.2)
    image[..., 32:] = 0.8
    found = gradient_components(image)[0]
    for scale, r in enumerate(RADII):
        dark, bright = 0.21 * (r + 1), 0.2 + 0.8 * r + 0.01 * (r + 1)
        assert float(found[scale, 0, 40, 31]) == pytest.approx(math.log(dark / bright), abs=1e-5)
        dark, bright = 0.21 * r + 0.81, 0.81 * (r + 1)
        assert float(found[scale, 0, 40, 32]) == pytest.approx(math.log(dark / bright), abs=1e-5)
    assert found[:, 1].abs().max() < 1e-6


@pytest.mark.parametrize(
    ("radius", "across", "down", "length", "total"),
    [
        (5, -0.009290, -0.299484, 0.299628, 392.7394),
        (9, -0.016722, -0.548422, 0.548677, 574.8839),
        (13, -0.024154, -0.815228, 0.815585, 689.7148),
    ],
)
def test_ramp(radius: int, across: float, down: float, length: float, total: float) -> None:
    """Values of an independent implementation in float64."""
    image = (torch.arange(1024).view(1, 1, 32, 32) / 1024).float()
    found = gradient_components(image, (radius,))[0, 0]
    assert found[:, 16, 16].tolist() == pytest.approx([across, down], abs=2e-6)
    size = gradient_targets(image, (radius,))[0, 0]
    assert float(size[16, 16]) == pytest.approx(length, abs=2e-6)
    assert float(size.double().sum()) == pytest.approx(total, abs=2e-3)


def test_small_ramp_and_its_corner() -> None:
    image = (torch.arange(36).view(1, 1, 6, 6) / 36).float()
    found = gradient_components(image, (1,))[0, 0]
    assert found[:, 2, 3].tolist() == pytest.approx([-0.065127, -0.395709], abs=2e-6)
    assert gradient_targets(image, (1,))[0, 0, 0, 0].item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("window", ["areal", "gaussian"])
def test_symmetries(window: str) -> None:
    image = torch.rand(2, 1, 40, 36, generator=seeded(3))
    kind: dict = {"window": window, "radii": (3, 9)}  # type: ignore[type-arg]
    plain = gradient_targets(image, **kind)
    close = dict(rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient_targets(image.mT, **kind), plain.mT, **close)
    torch.testing.assert_close(gradient_targets(image.flip(-1), **kind), plain.flip(-1), **close)
    bright = gradient_targets(image * 50, eps=0.5, **kind)  # a gain on image and eps cancels
    torch.testing.assert_close(bright, plain, **close)


@pytest.mark.parametrize("level", [0.4, 0.05])
def test_speckle_statistics(level: float) -> None:
    """Standard deviation of G_x on Rayleigh speckle: the formula of two overlapping means."""
    parts = torch.randn(2, 1, 1, 512, 512, generator=seeded(4))
    rayleigh = parts.square().sum(0).sqrt() / math.sqrt(math.pi / 2)
    found = gradient_components(level * rayleigh)[0, :, 0]
    for scale, r in enumerate(RADII):
        pixels, shared = (r + 1) * (2 * r + 1), 2 * r + 1
        spread = math.sqrt((4 / math.pi - 1) * (2 * pixels - 2 * shared)) / pixels
        spread *= level / (level + 0.01)
        assert float(found[scale].std()) == pytest.approx(spread, rel=0.09)


def test_float32_keeps_small_sums_beside_bright_points() -> None:
    """A running sum in float32 would lose the dark side behind a thousand bright pixels."""
    image = torch.full((1, 1, 224, 224), 1.0)
    image[..., 120:] = torch.rand(224, 104, generator=seeded(5)) * 1e-3
    single = gradient_components(image, (5,))
    exact = by_loops_of_rows(image[0, 0].double(), 5)
    torch.testing.assert_close(single[0, 0, 0, 100].double(), exact, rtol=2e-5, atol=2e-6)


def by_loops_of_rows(image: Tensor, radius: int) -> Tensor:
    """G_x of row 100, float64, (width,)."""
    size = image.shape[1]
    rows = image[100 - radius : 101 + radius] + 0.01
    out = []
    for x in range(size):
        left = sum(rows[:, reflected(x - n, size)].sum() for n in range(radius + 1))
        right = sum(rows[:, reflected(x + n, size)].sum() for n in range(radius + 1))
        out.append((left / right).log())
    return torch.stack(out)


def test_scale_normalisation() -> None:
    image = torch.rand(3, 1, 32, 32, generator=seeded(6))
    plain, scaled = (
        gradient_targets(image, (2, 5)),
        gradient_targets(image, (2, 5), normalise="scale"),
    )
    for scale in (0, 1):
        assert float(scaled[:, scale].std()) == pytest.approx(1.0, abs=1e-5)
        expected = plain[:, scale] / plain[:, scale].std()
        torch.testing.assert_close(scaled[:, scale], expected)
    flat = gradient_targets(torch.zeros(1, 1, 16, 16), (2,), normalise="scale")
    assert torch.isfinite(flat).all()


def test_module_gives_the_pixels_of_each_token_radius_by_radius() -> None:
    image = torch.rand(2, 1, 16, 24, generator=seeded(7))
    target = GradientTarget(8, (2, 3), window="gaussian").fit(image)
    found, maps = target(image), gradient_targets(image, (2, 3), window="gaussian")
    assert found.shape == (2, 6, 2 * 64)
    for token in range(6):
        top, left = token // 3 * 8, token % 3 * 8
        for scale in (0, 1):
            expected = maps[1, scale, top : top + 8, left : left + 8] / maps[:, scale].std()
            given = found[1, token, 64 * scale : 64 * (scale + 1)].view(8, 8)
            torch.testing.assert_close(given, expected)


def test_module_ignores_padding() -> None:
    image = torch.rand(1, 1, 32, 32, generator=seeded(8))
    image[..., :8] = -1.0
    target = GradientTarget(8, (2, 3), padded=True).fit(image)
    other = image.clone()
    other[..., :8] = -0.5
    assert torch.equal(target(image), target(other))


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 1, 64, 17), {"name": "chips/a.png"}, r"chips/a\.png: 64 x 17.*radius 17"),
        ((1, 2, 64, 64), {}, r"found shape \(1, 2, 64, 64\).*amplitude"),
        ((64, 64), {}, "found shape"),
        ((1, 1, 64, 64), {"radii": ()}, r"radii = \(\)"),
        ((1, 1, 64, 64), {"radii": (0, 3)}, r"radii = \(0, 3\)"),
        ((1, 1, 64, 64), {"eps": 0.0}, r"eps = 0\.0"),
        ((1, 1, 64, 64), {"window": "box"}, "window = 'box'"),
        ((1, 1, 64, 64), {"normalise": "pixel"}, "normalise = 'pixel'"),
    ],
)
def test_complaints(shape: tuple[int, ...], options: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=message):
        gradient_targets(torch.zeros(shape), **options)


def test_autocast_changes_nothing() -> None:
    image = torch.rand(1, 1, 40, 40, generator=seeded(9))
    for window in ("areal", "gaussian"):
        plain = gradient_targets(image, window=window)  # type: ignore[arg-type]
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(gradient_targets(image, window=window), plain)  # type: ignore[arg-type]
