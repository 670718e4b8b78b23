"""Real numbers as 16-bit integers with a gain per lead: exact where they came from a converter."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_modalities.data.ecg.layout import INVALID

LIMIT = 32767
# Gains of converters (integers per mV) that are tried first: steps of 1 to 0.05 uV, and 1 / 204.8
# as in 12 bits for 20 mV.
GAINS = (1.0, 10.0, 100.0, 200.0, 204.8, 250.0, 400.0, 500.0, 1000.0, 2000.0, 4880.0, 10000.0)
TOLERANCE = 2**-23  # of the largest value: float32 holds numbers to 2^-24


def quantised(signal: NDArray[Any]) -> tuple[NDArray[np.int16], tuple[float, ...]]:
    """Integers and gains with signal = integers / gain, per lead.

    A lead that is a multiple of a usual step gets that gain: nothing is lost. Otherwise the gain is
    the power of two that uses the 16 bits best: the error is at most 1 / 32,768 of the lead's
    largest value.

    Args:
        signal: (samples, leads), of any real type; NaN and infinity become `layout.INVALID`.

    Returns:
        int16 (samples, leads), and the gain of each lead.
    """
    x = np.asarray(signal, np.float64)
    missing = ~np.isfinite(x)
    x = np.where(missing, 0, x)
    gains = tuple(_gain(x[:, lead]) for lead in range(x.shape[1]))
    integers = np.rint(x * np.array(gains)).astype(np.int16)
    integers[missing] = INVALID
    return integers, gains


def _gain(lead: NDArray[np.float64]) -> float:
    largest = float(np.abs(lead).max(initial=0))
    if largest == 0:
        return 1.0
    for gain in GAINS:
        if np.rint(largest * gain) > LIMIT:
            break
        steps = lead * gain
        if np.abs(steps - np.rint(steps)).max() <= TOLERANCE * largest * gain:
            return gain
    return float(2.0 ** np.floor(np.log2(LIMIT / largest)))
