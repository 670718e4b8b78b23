"""Operations on sampled signals: gaps, zero-phase filters, polyphase resampling."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Signal = NDArray[np.float64]


def fill_gaps(signal: Signal) -> Signal:
    """Linear interpolation over NaN, per lead; the ends take the nearest value.

    Args:
        signal: (samples, leads).

    Returns:
        The same where nothing is missing. A lead of NaN only stays NaN: it is absent.
    """
    missing = np.isnan(signal)
    if not missing.any():
        return signal
    filled = signal.copy()
    at = np.arange(len(signal))
    for lead in np.flatnonzero(missing.any(0) & ~missing.all(0)):
        gap = missing[:, lead]
        filled[gap, lead] = np.interp(at[gap], at[~gap], signal[~gap, lead])
    return filled


def filtered(signal: Signal, fs: float, highpass: float, notch: tuple[float, ...]) -> Signal:
    """Zero-phase high-pass (Butterworth, order 4) and notch filters (quality 30).

    Second-order sections: the polynomial form is badly conditioned at 0.5 Hz of 500 Hz.

    Args:
        signal: (samples, leads), without gaps.
        fs: Hz.
        highpass: corner, Hz; 0 for none.
        notch: centres, Hz; those at or above fs / 2 are left out, as the signal has none of them.

    Raises:
        ValueError: a corner at or above fs / 2.
    """
    from scipy.signal import sosfiltfilt

    if highpass >= fs / 2:
        raise ValueError(f"highpass = {highpass} Hz; a signal of {fs} Hz needs less than {fs / 2}")
    sos = _sections(fs, highpass, notch)
    if not len(sos) or len(signal) < 2:
        return signal
    # scipy's own default, shortened where a signal is shorter than it.
    pad = min(3 * (2 * len(sos) + 1), len(signal) - 1)
    return np.asarray(sosfiltfilt(sos, signal, axis=0, padlen=pad))


@lru_cache(maxsize=32)
def _sections(fs: float, highpass: float, notch: tuple[float, ...]) -> NDArray[np.float64]:
    """Second-order sections of all filters, (sections, 6)."""
    from scipy.signal import butter, iirnotch, tf2sos

    sections = [butter(4, highpass, "highpass", fs=fs, output="sos")] if highpass > 0 else []
    sections += [tf2sos(*iirnotch(centre, 30, fs)) for centre in notch if centre < fs / 2]
    return np.concatenate([np.empty((0, 6)), *sections])


def ratio(fs: float, new_fs: float) -> tuple[int, int]:
    """Whole numbers (up, down) with fs * up / down = new_fs, to one part in a thousand.

    Raises:
        ValueError: rates that are not above 0, or no such ratio below 1,000.
    """
    if not (fs > 0 and new_fs > 0):
        raise ValueError(f"sampling rates must be above 0 Hz; found {fs} and {new_fs}")
    wanted = new_fs / fs
    found = Fraction(wanted).limit_denominator(1000)
    if abs(found - wanted) > 1e-3 * wanted:
        raise ValueError(f"no ratio of small whole numbers leads from {fs} Hz to {new_fs} Hz")
    return found.numerator, found.denominator


def resampled_length(length: Any, fs: Any, new_fs: float) -> NDArray[np.int64]:
    """Samples after resampling, for arrays of lengths and rates."""
    lengths, rates = np.broadcast_arrays(np.asarray(length, np.int64), np.asarray(fs, np.float64))
    out = np.empty(lengths.shape, np.int64)
    for rate in np.unique(rates):
        up, down = ratio(float(rate), new_fs)
        out[rates == rate] = lengths[rates == rate] * up // down
    return out


@lru_cache(maxsize=32)
def _kernel(up: int, down: int) -> NDArray[np.float64]:
    """The low-pass that scipy's resample_poly uses by default."""
    from scipy.signal import firwin

    widest = max(up, down)
    return np.asarray(firwin(20 * widest + 1, 1 / widest, window=("kaiser", 5.0)))


def source_range(start: int, samples: int, up: int, down: int) -> tuple[int, int]:
    """First and last + 1 sample of the source that samples of the resampled signal depend on.

    The first is a multiple of `down`, so that resampled times stay aligned; both may lie outside
    of the signal, whose ends then are continued.
    """
    if up == down:
        return start, start + samples
    margin = (10 * max(up, down)) // up + 1
    first = ((start * down // up - margin) // down) * down
    return first, -(-(start + samples) * down // up) + margin


def resampled(piece: Signal, first: int, start: int, samples: int, up: int, down: int) -> Signal:
    """Samples of the resampled signal, computed from a piece of the source.

    Args:
        piece: (source samples, leads), the source from `first` on, as `source_range` asks.
        first: number of the piece's first sample in the source.
        start: first sample wanted, counted at the new rate.
        samples: how many.
        up: new rate = old rate * up / down.
        down: see `up`.

    Returns:
        (samples, leads), equal for every piece that holds enough of the source.
    """
    if up == down:
        return piece
    from scipy.signal import resample_poly

    whole = resample_poly(piece, up, down, axis=0, window=_kernel(up, down))
    low = start - first // down * up
    return np.asarray(whole[low : low + samples])
