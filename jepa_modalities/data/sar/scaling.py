"""Magnitudes to the 0..1 values that an encoder sees, by rules that do not look at the chip."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

ScalingKind = Literal["amplitude", "linear", "db"]
# 20 log10 of it is -400 dB: below every sensor's noise, above the smallest float32.
TINY = 1e-20


@dataclass(frozen=True)
class Scaling:
    """A fixed map of magnitudes, the same for every chip, so that radiometry survives.

    A dataclass of plain numbers: it goes into a configuration, `to_tensor` into an encoder file.

    Raises:
        ValueError: a gain that is not positive, or `low` not below `high`.
    """

    kind: ScalingKind = "amplitude"
    """amplitude: as read. linear: times gain, clipped to 0..1. db: low..high dB become 0..1"""
    gain: float = 1.0
    """linear and db: magnitudes are multiplied by it first"""
    low: float = -50.0
    """db: this level becomes 0, dB"""
    high: float = 0.0
    """db: this level becomes 1, dB"""

    def __post_init__(self) -> None:
        if self.kind not in ("amplitude", "linear", "db"):
            raise ValueError(f"scaling.kind = {self.kind!r}; give amplitude, linear or db")
        if not (math.isfinite(self.gain) and self.gain > 0):
            raise ValueError(f"scaling.gain = {self.gain}; give a positive number")
        if not self.low < self.high:
            raise ValueError(f"scaling.low = {self.low} must be below scaling.high = {self.high}")

    def __call__(self, magnitude: Tensor) -> Tensor:
        """Scaled values of magnitudes of any shape, float32, at least 0."""
        values = magnitude.float()
        if self.kind == "amplitude":
            return values
        if self.kind == "linear":
            return (values * self.gain).clamp(0, 1)
        decibels = 20 * (values * self.gain).clamp_min(TINY).log10()
        return ((decibels - self.low) / (self.high - self.low)).clamp(0, 1)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON."""
        return asdict(self)

    def to_tensor(self) -> Tensor:
        """The fields as float64 (4,), for a buffer: kind, gain, low, high."""
        number = ("amplitude", "linear", "db").index(self.kind)
        return torch.tensor([number, self.gain, self.low, self.high], dtype=torch.float64)

    @staticmethod
    def from_tensor(state: Tensor) -> Scaling:
        """Inverse of `to_tensor`."""
        number, gain, low, high = state.tolist()
        kinds: tuple[ScalingKind, ...] = ("amplitude", "linear", "db")
        return Scaling(kinds[int(number)], gain, low, high)


def measure_scaling(
    magnitude: Tensor,
    kind: ScalingKind,
    valid: Tensor | None = None,
    quantiles: tuple[float, float] = (0.001, 0.999),
) -> Scaling:
    """A scaling whose gain or range is measured once, on training chips.

    Args:
        magnitude: (chips, 1, height, width).
        kind: linear: the upper quantile becomes 1. db: the two quantiles become 0 and 1.
        valid: bool, (chips, height, width); None where nothing is padding.
        quantiles: lower and upper, 0..1.

    Raises:
        ValueError: no positive magnitude.
    """
    if kind == "amplitude":
        return Scaling()
    pixels = magnitude.squeeze(1)[... if valid is None else valid].flatten().float()
    pixels = pixels[pixels > 0]  # empty pixels have no level
    if not len(pixels):
        raise ValueError("no positive magnitude to measure a scaling on; check the chips")
    # A million pixels say as much as all of them, and torch.quantile refuses more than 2^24.
    pixels = pixels[:: max(1, len(pixels) // 1_000_000)]
    low, high = pixels.quantile(torch.tensor(quantiles, dtype=torch.float32)).tolist()
    if kind == "linear":
        return Scaling("linear", gain=1 / high)
    return Scaling("db", low=20 * math.log10(low), high=20 * math.log10(high) + 1e-6)
