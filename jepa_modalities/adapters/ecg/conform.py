"""Recordings of any rate, unit and leads at the rate, in the unit and leads of an encoder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jepa_modalities.adapters.ecg.signal import (
    fill_gaps,
    filtered,
    ratio,
    resampled,
    resampled_length,
    source_range,
)
from jepa_modalities.data.ecg.lead import MILLIVOLTS, STANDARD_LEADS, lead_name, unit_name


@dataclass(frozen=True)
class PreprocessConfig:
    """What a recording becomes before it is cut into tokens.

    Steps, in this order: leads by name, gaps, filters at the native rate, resampling, perhaps
    z-score per record; then constants per lead and clip (Weimann & Conrad, ECG-JEPA, section 1.1
    of the method's data preparation).
    """

    leads: tuple[str, ...] = STANDARD_LEADS
    """leads in the encoder's order"""
    fs: float = 500.0
    """sampling rate of the encoder, Hz"""
    unit: str = "mV"
    """of the signals; NU for sources that were normalised before they were stored"""
    highpass: float = 0.0
    """corner of a zero-phase high-pass, Hz; 0 for none"""
    notch: tuple[float, ...] = ()
    """mains frequencies to take out, Hz"""
    normalise: Literal["constants", "record", "none"] = "constants"
    """mean and std per lead of the data set, of each record, or neither"""
    clip: float = 5.0
    """limit after normalisation; 0 for none"""
    aliases: tuple[tuple[str, str], ...] = ()
    """further lead names, e.g. MLII II"""
    groups: tuple[str, ...] = ("",)
    """sources with constants of their own; the first also stands for all others"""

    def __post_init__(self) -> None:
        spelled = tuple(lead_name(lead) for lead in self.leads)
        if not spelled or len(set(spelled)) != len(spelled):
            raise ValueError(f"leads = {self.leads}: give each lead once, and at least one")
        if not self.fs > 0:
            raise ValueError(f"fs = {self.fs}: give a sampling rate above 0 Hz")
        if min(self.highpass, self.clip, *self.notch) < 0:
            raise ValueError("highpass, notch and clip must not be negative; 0 means none")
        if not self.groups or len(set(self.groups)) != len(self.groups):
            raise ValueError(f"groups = {self.groups}: give each source once, and at least one")
        object.__setattr__(self, "leads", spelled)
        object.__setattr__(self, "unit", unit_name(self.unit))

    @classmethod
    def from_json(cls, text: str) -> PreprocessConfig:
        """The inverse of `to_json`."""
        content = json.loads(text)
        content["aliases"] = tuple(tuple(pair) for pair in content["aliases"])
        for name in ("leads", "notch", "groups"):
            content[name] = tuple(content[name])
        return cls(**content)

    def to_json(self) -> str:
        """All fields; with the tensors of `ECGPreprocess` that is its whole state."""
        return json.dumps(asdict(self))


def missing_leads(leads: Sequence[str], config: PreprocessConfig) -> tuple[str, ...]:
    """The encoder's leads that are not among `leads`, in any spelling: they will be masked."""
    have = {lead_name(lead, dict(config.aliases)) for lead in leads}
    return tuple(lead for lead in config.leads if lead not in have)


def conform(
    signal: Any, fs: float, leads: Sequence[str], config: PreprocessConfig, unit: str = "mV"
) -> NDArray[np.float32]:
    """A recording at the encoder's rate, in its leads and unit.

    Args:
        signal: (samples, leads) in `unit`, NaN for missing samples.
        fs: Hz.
        leads: names in the signal's order, any spelling; others than the encoder's are left out.
        config: see `PreprocessConfig`.
        unit: of the signal.

    Returns:
        float32 (encoder's leads, samples); absent leads and leads of NaN only are NaN.

    Raises:
        ValueError: names that do not fit the signal, no lead in common, or another kind of unit.
    """
    given = np.asarray(signal, np.float64)
    names = [lead_name(lead, dict(config.aliases)) for lead in leads]
    if given.ndim != 2 or given.shape[1] != len(names):
        raise ValueError(
            f"found a signal of shape {given.shape} with {len(names)} lead names, expected "
            f"(samples, {len(names)})"
        )
    columns = np.array([names.index(lead) if lead in names else -1 for lead in config.leads])
    if (columns < 0).all():
        raise ValueError(
            f"none of the leads {', '.join(names)} is known to the encoder, which has "
            f"{', '.join(config.leads)}; name them, or map them with aliases such as MLII II"
        )
    factor = unit_factor(unit, config.unit, "the signal")
    there = columns >= 0
    out_samples = int(resampled_length(len(given), fs, config.fs))
    out = np.full((len(config.leads), out_samples), np.nan, np.float32)
    piece = given[:, columns[there]] * factor
    out[there] = steps(piece, fs, config).T
    return out


def steps(signal: NDArray[np.float64], fs: float, config: PreprocessConfig) -> NDArray[Any]:
    """Gaps, filters, resampling, z-score: (samples, leads) -> (new samples, leads)."""
    up, down = ratio(fs, config.fs)
    samples = len(signal) * up // down
    out = np.full((samples, signal.shape[1]), np.nan)
    whole = fill_gaps(signal)
    there = ~np.isnan(whole).any(0)  # the others hold nothing but NaN
    whole = whole[:, there]
    if not there.any() or samples == 0:
        return out
    if config.highpass > 0 or config.notch:
        whole = filtered(whole, fs, config.highpass, config.notch)
    first, last = source_range(0, samples, up, down)
    at = np.arange(first, last).clip(0, len(whole) - 1)
    whole = resampled(whole[at], first, 0, samples, up, down)
    if config.normalise == "record":
        std = whole.std(0)
        whole = (whole - whole.mean(0)) / np.where(std > 1e-9, std, 1)
    out[:, there] = whole
    return out


def unit_factor(unit: str, wanted: str, what: str) -> float:
    unit = unit_name(unit)
    if unit == wanted:
        return 1.0
    if unit in MILLIVOLTS and wanted in MILLIVOLTS:
        return MILLIVOLTS[unit] / MILLIVOLTS[wanted]
    raise ValueError(
        f"{what} is in {unit or 'no unit'}, the encoder expects {wanted}; scale the signal to "
        f"{wanted}, or set unit to {unit or 'NU'} and use constants of your own training data"
    )
