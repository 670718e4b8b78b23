"""Speckle: simulation (white gamma, or correlated as in a band-limited image) and looks.

Model: intensity = reflectivity * n, n of mean 1 and variance 1 / looks (Goodman, JOSA 66, 1976).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

# Variance over squared mean of single-look amplitude (Rayleigh).
RAYLEIGH = 4 / math.pi - 1


def gamma_speckle(
    shape: Sequence[int], looks: float, generator: torch.Generator | None = None
) -> Tensor:
    """White speckle: independent intensity factors from Gamma(looks, 1 / looks), float32, `shape`.

    They lie on the generator's device, as in the other functions here.

    Raises:
        ValueError: looks not positive.
    """
    _check_looks(looks)
    alpha = torch.full(tuple(shape), float(looks), device=_device(generator))
    return torch._standard_gamma(alpha, generator) / looks


def correlated_speckle(
    shape: Sequence[int],
    looks: int,
    generator: torch.Generator | None = None,
    bandwidth: float = 0.8,
    sidelobes: float = 35.0,
) -> Tensor:
    """Speckle of an oversampled image: the mean of `looks` intensities of band-limited noise.

    Complex Gaussian noise is filtered in the Fourier domain, so that its correlation is that of a
    point's response; opposite borders are neighbours.

    Args:
        shape: (..., height, width).
        looks: a whole number of independent looks.
        generator: of the random numbers.
        bandwidth: share of the sampling rate that the signal fills: pixel spacing over unweighted
            resolution; 0.8 in MSTAR (0.202 m against 0.254 m).
        sidelobes: of the Taylor weighting, dB below the peak; 35 in MSTAR.

    Returns:
        Intensity factors with mean 1 and variance 1 / looks, float32, `shape`.

    Raises:
        ValueError: looks is no positive whole number, or bandwidth not in 0..1.
    """
    _check_whole(looks)
    window = band_window(shape[-2], bandwidth, sidelobes)[:, None]
    window = window * band_window(shape[-1], bandwidth, sidelobes)
    device = _device(generator)
    window = (window / window.square().mean().sqrt()).to(device)  # keeps the power of the noise
    total = torch.zeros(tuple(shape), device=device)
    for _ in range(int(looks)):
        parts = torch.randn(2, *shape, generator=generator, device=device) * math.sqrt(0.5)
        noise = torch.fft.ifft2(torch.fft.fft2(torch.complex(parts[0], parts[1])) * window)
        total += noise.real.square() + noise.imag.square()
    return total / looks


def band_window(length: int, bandwidth: float, sidelobes: float = 35.0) -> Tensor:
    """Transfer function along one axis: a Taylor window over the middle `bandwidth` of all
    frequencies, 0 beyond, 1 in the middle; float32, (length,), in the order of `torch.fft`.

    Raises:
        ValueError: bandwidth not in 0..1.
    """
    if not 0 < bandwidth <= 1:
        raise ValueError(f"bandwidth = {bandwidth}; give a share above 0 and at most 1")
    from scipy.signal.windows import taylor

    fine = 1024
    table = torch.from_numpy(taylor(fine + 1, nbar=4, sll=sidelobes, norm=True, sym=True)).float()
    place = (torch.fft.fftfreq(length).abs() * 2 / bandwidth).clamp(max=1)
    inside = torch.fft.fftfreq(length).abs() * 2 <= bandwidth
    return table[(fine / 2 * (1 + place)).round().long()] / table[fine // 2] * inside


def add_speckle(
    amplitude: Tensor,
    looks: float,
    generator: torch.Generator | None = None,
    bandwidth: float | None = None,
) -> Tensor:
    """Amplitudes times the square root of speckle.

    Args:
        amplitude: (..., height, width), at least 0.
        looks: of the speckle; fewer looks are rougher.
        generator: of the random numbers.
        bandwidth: None for white speckle, else of `correlated_speckle`.
    """
    if bandwidth is None:
        factor = gamma_speckle(amplitude.shape, looks, generator)
    else:
        _check_whole(looks)
        factor = correlated_speckle(amplitude.shape, int(looks), generator, bandwidth)
    return amplitude * factor.sqrt().to(amplitude)


def equivalent_looks(
    values: Tensor,
    quantity: Literal["amplitude", "intensity"] = "amplitude",
    valid: Tensor | None = None,
) -> Tensor:
    """Equivalent number of looks of homogeneous areas: mean^2 / variance of the intensity.

    For amplitude, the same ratio times 4 / pi - 1: exact for one look, 4 % high for two, up to 9 %
    for many.

    Args:
        values: (..., height, width), one area each.
        quantity: of the values.
        valid: bool, broadcast to `values`: pixels that count.

    Returns:
        float64, (...); infinite where all pixels are equal.
    """
    values = values.double()
    weight = torch.ones_like(values) if valid is None else valid.expand_as(values).double()
    count = weight.sum((-2, -1))
    mean = (values * weight).sum((-2, -1)) / count
    spread = (values - mean[..., None, None]).square() * weight
    variance = spread.sum((-2, -1)) / (count - 1)
    return mean.square() / variance * (RAYLEIGH if quantity == "amplitude" else 1)


def _check_whole(looks: float) -> None:
    _check_looks(looks)
    if looks != int(looks):
        raise ValueError(f"looks = {looks}: correlated speckle needs a whole number of looks")


def _device(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device


def _check_looks(looks: float) -> None:
    if not (math.isfinite(looks) and looks > 0):
        raise ValueError(f"looks = {looks}; give a positive number")
