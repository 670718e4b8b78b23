"""Synthetic 12-lead ECG: a dynamical model of the heart's dipole, for demonstrations and tests.

Nothing here was measured on a person. The model is that of McSharry et al. (IEEE Trans. Biomed.
Eng. 50, 2003): a point runs round a limit cycle, once per beat, and is pulled up and down by the
waves P, Q, R, S and T as it passes their angles,

    dz/dt = -sum_i a_i w (d_i / b_i^2) exp(-d_i^2 / 2 b_i^2) - (z - z0),   d_i = angle - angle_i,

with w the angular velocity. As in Sameni et al. (EURASIP J. Adv. Signal Process. 2007) there are
three such z, the components of a dipole (left, down, back), and w is a factor of the waves, so
that heights do not depend on the rate. The matrix of Dower et al. (1980) turns them into leads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_modalities.data.ecg.file import ECGRecords, memory_records
from jepa_modalities.data.ecg.lead import STANDARD_LEADS

# One rhythm per recording, in this order.
RHYTHMS = ("sinus", "bradycardia", "tachycardia", "fibrillation", "bigeminy", "av_block")
# P, Q, R, S, T at a rate of 60 per minute: angles and widths in rad (McSharry et al., table I).
ANGLE = np.array([-np.pi / 3, -np.pi / 12, 0.0, np.pi / 12, np.pi / 2])
WIDTH = np.array([0.25, 0.1, 0.1, 0.1, 0.4])
# Heights of the dipole's components in mV; ours, chosen to look like a healthy adult's leads.
HEIGHT = np.array(
    [
        [0.10, 0.11, 0.02],  # P: left and down
        [-0.12, -0.05, -0.25],  # Q: the septum, to the right and front
        [1.10, 0.80, 0.35],  # R: the left ventricle
        [-0.25, -0.15, 0.45],  # S: its base, to the back
        [0.28, 0.22, -0.16],  # T
    ]
)
# An ectopic ventricular beat: no P, a broad tall complex, a T of the other sign.
ECTOPIC_HEIGHT = np.array(
    [[0, 0, 0], [0.1, 0.1, 0], [-1.3, 1.2, 1.0], [0, 0, 0], [0.5, -0.4, -0.4]]
)
ECTOPIC_WIDTH = np.array([0.25, 0.2, 0.28, 0.2, 0.45])
# Dower et al. 1980: leads I, II, V1 to V6 from the components left, down, back.
DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
GAIN = 1000.0  # integers per mV of the stored signals
RATE = {"bradycardia": (40, 55), "tachycardia": (105, 140)}  # beats per minute; else 60 to 95
CHUNK = 60  # recordings that are made at a time
LEAD_IN = 4.0  # seconds before the recording, in which the equation forgets where it began


@dataclass(frozen=True)
class SyntheticECG:
    """Synthetic recordings.

    Attributes:
        signals: int16 (records, samples, 12), `GAIN` integers per mV, in the standard order.
        rhythm: int64 (records,), number in `RHYTHMS`.
        beat: bool (records, samples), True at the sample where the R wave peaks.
        fs: Hz.
    """

    signals: NDArray[np.int16]
    rhythm: NDArray[np.int64]
    beat: NDArray[np.bool_]
    fs: float

    @property
    def leads(self) -> tuple[str, ...]:
        """Names of the leads in order."""
        return STANDARD_LEADS

    @property
    def labels(self) -> NDArray[np.uint8]:
        """One column per rhythm, (records, rhythms)."""
        return np.eye(len(RHYTHMS), dtype=np.uint8)[self.rhythm]


def synthetic_ecg(
    records: int, fs: float = 100.0, seconds: float = 10.0, seed: int = 0, noise: float = 0.02
) -> SyntheticECG:
    """Recordings of `RHYTHMS` in turn, each of another heart.

    The first recordings are the same however many are asked for.

    Args:
        records: how many.
        fs: Hz, at least 50.
        seconds: duration of each.
        seed: of everything random.
        noise: standard deviation of white noise, mV.

    Raises:
        ValueError: sizes that make no recording.
    """
    if records < 1 or fs < 50 or seconds < 2:
        raise ValueError(
            f"records = {records}, fs = {fs}, seconds = {seconds}; expected at least 1, 50 and 2"
        )
    samples = round(fs * seconds)
    parts = []
    for number, low in enumerate(range(0, records, CHUNK)):
        rng = np.random.default_rng([seed, number])
        rhythm = np.arange(low, low + CHUNK) % len(RHYTHMS)
        parts.append((*_hearts(rhythm, fs, samples, noise, rng), rhythm))
    signals, beat, rhythm = (np.concatenate(part)[:records] for part in zip(*parts, strict=True))
    return SyntheticECG(signals, rhythm, beat, fs)


def _hearts(
    rhythm: NDArray[np.int64], fs: float, samples: int, noise: float, rng: np.random.Generator
) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Signals (records, samples, 12) and beats (records, samples) of one chunk."""
    cut, count = round(LEAD_IN * fs), len(rhythm)
    samples += cut
    period, ectopic = _beats(rhythm, samples / fs, rng)
    # Times of the R waves -> their first samples -> a running count: the last R before a sample.
    peak_time = np.cumsum(period, 1) - period - rng.uniform(0, 1, (count, 1)) * period[:, :1]
    first = np.ceil(peak_time * fs).astype(np.int64)
    inside = (first >= 0) & (first < samples)
    peak = np.zeros((count, samples), np.bool_)
    peak[np.nonzero(inside)[0], first[inside]] = True
    beat = peak.cumsum(1) + (first < 0).sum(1, keepdims=True) - 1
    time = np.arange(samples) / fs
    mine = np.take_along_axis(period, beat, 1)
    turn = (time - np.take_along_axis(peak_time, beat, 1)) / mine
    # The first half turn ends one beat, the second begins the next.
    late = turn >= 0.5
    angle = 2 * np.pi * (turn - late)
    wide = np.take_along_axis(ectopic, beat + late, 1)
    dipole = _dipole(angle, mine, wide, rhythm, fs, rng)
    dipole += _fibrillation(rhythm, time, rng)
    eight = dipole @ DOWER.T
    one, two = eight[..., :1], eight[..., 1:2]
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    leads = np.concatenate([*limb, eight[..., 2:]], -1)
    leads += _wander(time, count, rng) + noise * rng.standard_normal(leads.shape)
    leads -= np.median(leads, 1, keepdims=True)
    integers = np.rint(leads[:, cut:] * GAIN).clip(-32767, 32767).astype(np.int16)
    return integers, peak[:, cut:]


def _beats(
    rhythm: NDArray[np.int64], seconds: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Seconds to the next beat and whether ectopic, (records, beats), for `seconds` and more."""
    bounds = np.array([RATE.get(name, (60, 95)) for name in RHYTHMS], np.float64)[rhythm]
    rate = rng.uniform(bounds[:, 0], bounds[:, 1])
    beats = int(np.ceil(seconds * 3.0)) + 3
    number = np.arange(beats)
    # Breathing and blood pressure move the sinus rate (respiratory and Mayer waves).
    cycles = rng.uniform([0.1, 0.2], [0.15, 0.35], (len(rhythm), 2)) * 60 / rate[:, None]
    turn = rng.uniform(0, 1, (len(rhythm), 2, 1)) + cycles[..., None] * number
    sway = 1 + (0.02 * np.sin(2 * np.pi * turn)).sum(1)
    sway += 0.01 * rng.standard_normal(sway.shape)
    chaos = np.exp(0.25 * rng.standard_normal(sway.shape))
    fibrillating = (rhythm == RHYTHMS.index("fibrillation"))[:, None]
    period = (60 / rate)[:, None] * np.where(fibrillating, chaos, sway)
    ectopic = (rhythm == RHYTHMS.index("bigeminy"))[:, None] & (number % 2 == 1)
    # An ectopic beat comes early, and the pause behind it makes up for that.
    before = np.roll(ectopic, -1, 1) & ~ectopic
    period = period * np.where(before, 0.7, 1) * np.where(ectopic, 1.3, 1)
    return period.clip(0.34, 2.5), ectopic


def _dipole(
    angle: NDArray[np.float64],
    period: NDArray[np.float64],
    ectopic: NDArray[np.bool_],
    rhythm: NDArray[np.int64],
    fs: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """The equation above, integrated with the trapezoidal rule: (records, samples, 3)."""
    from scipy.signal import lfilter

    count = len(rhythm)
    height = HEIGHT * rng.lognormal(0, 0.2, (count, 5, 1)) + 0.03 * rng.standard_normal(
        (count, 5, 3)
    )
    centre = ANGLE + np.array([0.1, 0.01, 0, 0.01, 0.1]) * rng.standard_normal((count, 5))
    late = rhythm == RHYTHMS.index("av_block")
    centre[late, 0] -= 0.75  # a PR interval of about 0.3 s
    height[rhythm == RHYTHMS.index("fibrillation"), 0] = 0
    speed = 2 * np.pi / period
    # Waves take a nearly constant time, so their angles grow with the rate (McSharry et al., III).
    stretch = np.sqrt(1 / period)
    force = np.zeros((*angle.shape, 3))
    for wave in range(5):
        width = np.where(ectopic, ECTOPIC_WIDTH[wave], WIDTH[wave]) * stretch
        away = angle - centre[:, wave, None] * np.where(wave == 2, 1, stretch)
        away = (away + np.pi) % (2 * np.pi) - np.pi
        shape = -speed * away / width**2 * np.exp(-(away**2) / (2 * width**2))
        size = np.where(ectopic[..., None], ECTOPIC_HEIGHT[wave], height[:, None, wave])
        force += size * shape[..., None]
    half = 1 / (2 * fs)
    taps = np.array([half, half]) / (1 + half), np.array([1, -(1 - half) / (1 + half)])
    return np.asarray(lfilter(*taps, force, axis=1))


def _fibrillation(
    rhythm: NDArray[np.int64], time: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Waves of 4 to 9 Hz instead of P, (records, samples, 3)."""
    count = len(rhythm)
    rate = rng.uniform(4, 9, (count, 1))
    slow = 0.8 * np.sin(
        2 * np.pi * (rng.uniform(0.1, 0.4, (count, 1)) * time + rng.random((count, 1)))
    )
    wave = np.sin(2 * np.pi * rate * time + slow * 3)
    there = rhythm == RHYTHMS.index("fibrillation")
    return np.where(there[:, None], wave, 0)[..., None] * np.array([0.04, 0.08, -0.08])


def _wander(time: NDArray[np.float64], count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """The baseline moves with breathing, in each lead by another part, (records, samples, 12)."""
    turn = rng.uniform(0.15, 0.35, (count, 1)) * time + rng.random((count, 1))
    return 0.08 * np.sin(2 * np.pi * turn)[..., None] * rng.standard_normal((count, 1, 12))


def synthetic_records(
    train: int, held_out: int, fs: float = 100.0, seconds: float = 10.0, seed: int = 0
) -> ECGRecords:
    """Synthetic recordings as `open_records` would give them, with rhythms as labels.

    Args:
        train: recordings with fold 1.
        held_out: recordings with fold 9, and as many with fold 10.
        fs: Hz.
        seconds: duration of each.
        seed: see `synthetic_ecg`.
    """
    made = synthetic_ecg(train + 2 * held_out, fs, seconds, seed)
    fold = np.repeat([1, 9, 10], [train, held_out, held_out])
    return memory_records(
        made.signals,
        fs,
        made.leads,
        GAIN,
        source="synthetic",
        labels=made.labels,
        label_names=RHYTHMS,
        fold=fold,
    )
