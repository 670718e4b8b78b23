"""Crops of stored recordings at the encoder's rate, without reading more than they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_modalities.adapters.ecg.conform import PreprocessConfig, steps, unit_factor
from jepa_modalities.adapters.ecg.signal import ratio, resampled, resampled_length, source_range
from jepa_modalities.data.ecg.file import ECGRecords
from jepa_modalities.data.ecg.layout import INVALID

MOST = 2**22  # values of recordings that are conformed whole at a time


def renamed(records: ECGRecords, config: PreprocessConfig) -> ECGRecords:
    """Recordings whose lead names the configuration's aliases have replaced."""
    if not config.aliases:
        return records
    alias = dict(config.aliases)
    return replace(records, lead_names=tuple(alias.get(n, n) for n in records.lead_names))


def num_samples(records: ECGRecords, config: PreprocessConfig) -> NDArray[np.int64]:
    """Length of each recording at the encoder's rate, (records,)."""
    return resampled_length(records.length, records.fs, config.fs)


def crops(
    records: ECGRecords,
    rows: Sequence[int] | NDArray[np.int64],
    start: Sequence[int] | NDArray[np.int64] | int,
    samples: int,
    config: PreprocessConfig,
) -> NDArray[np.float32]:
    """Crops of recordings at the encoder's rate, equal to crops of the conformed recordings.

    Where neither rate nor filters ask for more, only the crop is read, one gather for all.

    Args:
        records: from `open_records`.
        rows: numbers of the recordings.
        start: first sample of each crop, counted at the encoder's rate.
        samples: per crop, at the encoder's rate.
        config: see `PreprocessConfig`.

    Returns:
        float32 (rows, leads, samples), in physical units; NaN for absent leads and behind the end
        of shorter recordings.

    Raises:
        ValueError: units that do not fit.
    """
    records = renamed(records, config).select(np.asarray(rows, np.int64))
    starts = np.broadcast_to(np.asarray(start, np.int64), (len(records),))
    if (starts < 0).any():
        raise ValueError(f"a crop begins at sample {starts.min()}; expected 0 or more")
    scale = _Scale.of(records, config)
    out = np.full((len(records), len(config.leads), samples), np.nan, np.float32)
    counts = np.clip(num_samples(records, config) - starts, 0, samples)
    # Filters, z-scores and gaps look beyond the crop: those recordings are conformed whole.
    beyond = config.highpass > 0 or bool(config.notch) or config.normalise == "record"
    pending = counts > 0
    kinds = set(zip(records.fs[pending].tolist(), counts[pending].tolist(), strict=True))
    for rate, count in sorted(kinds) if not beyond else ():
        mine = np.flatnonzero((records.fs == rate) & (counts == count))
        values, complete = _cut(records, mine, starts[mine], count, scale, config)
        out[mine[complete], :, :count] = values.transpose(0, 2, 1)
        pending[mine[complete]] = False
    for mine in _alike(records, np.flatnonzero(pending), len(config.leads)):
        whole = _whole(records, mine, scale, config)
        for row, signal in zip(mine.tolist(), whole, strict=True):
            part = signal[:, starts[row] : starts[row] + samples]
            out[row, :, : part.shape[1]] = part
    return out


def _alike(records: ECGRecords, rows: NDArray[np.int64], leads: int) -> list[NDArray[np.int64]]:
    """Recordings of one rate and length together, `MOST` values at a time."""
    groups = []
    for rate, length in sorted(
        set(zip(records.fs[rows].tolist(), records.length[rows].tolist(), strict=True))
    ):
        mine = rows[(records.fs[rows] == rate) & (records.length[rows] == length)]
        groups += np.split(mine, range(most := max(MOST // (length * leads), 1), len(mine), most))
    return groups


def _whole(
    records: ECGRecords, rows: NDArray[np.int64], scale: _Scale, config: PreprocessConfig
) -> NDArray[Any]:
    """Recordings of one rate and length, conformed whole: (rows, leads, new samples)."""
    at = np.broadcast_to(np.arange(records.length[rows[0]]), (len(rows), records.length[rows[0]]))
    column, there = scale.column[rows][:, None], scale.there[rows][:, None]
    integers = np.take_along_axis(records.gather(rows, at), column, 2)
    values = (integers - scale.zero[rows][:, None]) * scale.factor[rows][:, None]
    values[(integers == INVALID) | ~there] = np.nan
    # Every step treats each lead alone: the leads of all recordings stand side by side.
    side_by_side = values.transpose(1, 0, 2).reshape(len(values[0]), -1)
    done = steps(side_by_side, float(records.fs[rows[0]]), config)
    return done.T.reshape(len(rows), -1, len(done))


@dataclass(frozen=True)
class _Scale:
    """How each encoder lead of each recording follows from its integers; all (records, leads)."""

    there: NDArray[np.bool_]
    column: NDArray[np.int64]
    zero: NDArray[np.float64]
    factor: NDArray[np.float64]

    @classmethod
    def of(cls, records: ECGRecords, config: PreprocessConfig) -> _Scale:
        """Raises ValueError for a unit that cannot be turned into the encoder's."""
        column = records.columns(config.leads)
        there = column >= 0
        column = column.clip(0)
        factor = 1 / np.take_along_axis(records.gain, column, 1)
        zero = np.take_along_axis(records.baseline, column, 1)
        unit = np.take_along_axis(records.unit, column, 1)
        for name in np.unique(unit[there]):
            mine = there & (unit == name)
            first = records.record_id[np.argwhere(mine)[0][0]]
            factor[mine] *= unit_factor(str(name), config.unit, f"record {first}")
        return cls(there, column, zero, factor)


def _cut(
    records: ECGRecords,
    rows: NDArray[np.int64],
    starts: NDArray[np.int64],
    count: int,
    scale: _Scale,
    config: PreprocessConfig,
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Crops of recordings of one rate that depend on complete samples only.

    Returns:
        float (complete rows, count, leads), NaN for absent leads; and bool (rows,): complete.
    """
    up, down = ratio(float(records.fs[rows[0]]), config.fs)
    ranges = np.array([source_range(int(start), count, up, down) for start in starts])
    index = ranges[:, :1] + np.arange((ranges[:, 1] - ranges[:, 0]).max())
    integers = records.gather(rows, index.clip(0, records.length[rows, None] - 1))
    column, there = scale.column[rows], scale.there[rows]
    if column.shape[1] != integers.shape[2] or (column != np.arange(column.shape[1])).any():
        integers = np.take_along_axis(integers, column[:, None], 2)
    complete = ~((integers.min(1) == INVALID) & there).any(1)
    mine = rows
    if not complete.all():
        integers, mine = integers[complete], rows[complete]
    # Single precision has room for any integer here; resampling sums, so it gets double.
    kind = np.float32 if up == down else np.float64
    values: NDArray[Any] = integers.astype(kind)
    values -= scale.zero[mine][:, None].astype(kind)
    values *= scale.factor[mine][:, None].astype(kind)
    if up != down:
        pieces = [
            resampled(piece, int(low), int(start), count, up, down)
            for piece, low, start in zip(values, ranges[complete, 0], starts[complete], strict=True)
        ]
        values = np.stack(pieces) if pieces else np.zeros((0, count, values.shape[2]))
    if not there.all():
        np.copyto(values, np.nan, where=~there[complete][:, None])
    return values, complete
