"""Recordings of prepared files or in memory: names, rates, labels, and their signals."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from jepa_modalities.data.container import open_container
from jepa_modalities.data.ecg.layout import INVALID
from jepa_modalities.data.refusal import refusing


@dataclass(frozen=True)
class Annotations:
    """Beats and rhythm changes of one recording.

    Attributes:
        sample: int64 (annotations,), number of the sample at the recording's own rate.
        symbol: text (annotations,), the codes of WFDB: N, V, A, +, ~ and so on.
        aux: text (annotations,), such as (AFIB at a change of rhythm.
    """

    sample: NDArray[np.int64]
    symbol: NDArray[np.str_]
    aux: NDArray[np.str_]


@dataclass(frozen=True)
class Stretch:
    """The signals of one file, mapped into memory: no HDF5 in the hot path, safe across forks.

    Attributes:
        path: of the file; None for signals in memory.
        offset: byte at which the first sample lies; None for compressed signals.
        shape: samples of all records, columns.
        length: of every record where the file holds (records, samples, columns), else None.
        array: signals in memory, (samples of all records, columns).
    """

    path: Path | None
    offset: int | None
    shape: tuple[int, int]
    length: int | None
    array: NDArray[np.int16] | None = field(default=None, compare=False, repr=False)
    cache: dict[int, Any] = field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "cache": {}}

    def rows(self, first: int, last: int) -> NDArray[np.int16]:
        """Samples `first` to `last` of a compressed file, of one record, (samples, columns)."""
        signals = self._open()
        assert self.path is not None
        with refusing(self.path, "recordings"):
            if self.length is None:
                return np.asarray(signals[first:last])
            record, start = divmod(first, self.length)
            return np.asarray(signals[record, start : start + last - first])

    def mapped(self) -> NDArray[np.int16] | None:
        """All samples, (samples, columns), as a map of the file; None for compressed signals."""
        if self.array is not None:
            return self.array
        return None if self.offset is None else self._open()

    def _open(self) -> Any:
        assert self.path is not None
        # HDF5 handles do not survive a fork: each process opens its own.
        process = os.getpid()
        if process not in self.cache:
            self.cache.clear()
            if self.offset is not None:
                self.cache[process] = np.memmap(self.path, np.int16, "r", self.offset, self.shape)
            else:
                self.cache[process] = h5py.File(self.path)["signals"]
        return self.cache[process]


@dataclass(frozen=True)
class ECGRecords:
    """Recordings of one or several prepared files; made by `data.ecg.file.open_records`.

    All arrays have one row per recording. Lead columns of narrower files are filled up with -1.

    Attributes:
        record_id: text (records,), unique within a source.
        source: text (records,), the data set.
        patient_id: text (records,), empty where unknown.
        fold: int64 (records,), the official fold, -1 where there is none.
        fs: float64 (records,), Hz.
        length: int64 (records,), samples.
        lead_names: standard names of all leads that occur.
        lead_index: int64 (records, columns): number of the lead in `lead_names`, -1 = absent.
        gain: float64 (records, columns), integers per unit.
        baseline: float64 (records, columns), the integer that stands for 0.
        unit: text (records, columns), such as mV.
        labels: uint8 (records, classes), or None.
        label_names: of the classes.
        age: float32 (records,), years, NaN where unknown.
        sex: int64 (records,), 0 male, 1 female, -1 unknown.
        comments: text (records,), of the source's header.
        label_table: what the source says of its classes, by name; for PTB-XL `diagnostic`, `form`,
            `rhythm` (bool), `superclass`, `subclass` and `description`.
    """

    record_id: NDArray[np.str_]
    source: NDArray[np.str_]
    patient_id: NDArray[np.str_]
    fold: NDArray[np.int64]
    fs: NDArray[np.float64]
    length: NDArray[np.int64]
    lead_names: tuple[str, ...]
    lead_index: NDArray[np.int64]
    gain: NDArray[np.float64]
    baseline: NDArray[np.float64]
    unit: NDArray[np.str_]
    labels: NDArray[np.uint8] | None
    label_names: tuple[str, ...]
    age: NDArray[np.float32]
    sex: NDArray[np.int64]
    comments: NDArray[np.str_] = field(repr=False)
    label_table: dict[str, dict[str, Any]] = field(repr=False)
    # Where signals and annotations lie: number of the stretch, first sample; see `read`.
    stretches: tuple[Stretch, ...] = field(repr=False)
    stretch: NDArray[np.int64] = field(repr=False)
    start: NDArray[np.int64] = field(repr=False)
    ann_start: NDArray[np.int64] = field(repr=False)
    ann_length: NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.record_id)

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Duration of each recording."""
        return self.length / self.fs

    def select(self, rows: NDArray[Any] | Sequence[int]) -> ECGRecords:
        """The recordings with these numbers (or where a mask is True), in this order."""
        rows = np.asarray(rows)
        per_record = {
            name: getattr(self, name)[rows]
            for name in PER_RECORD
            if getattr(self, name) is not None
        }
        return replace(self, **per_record)

    def columns(self, leads: Sequence[str]) -> NDArray[np.int64]:
        """Where each lead lies in each recording.

        Args:
            leads: standard names.

        Returns:
            int64 (records, leads): the column of `read`, -1 where a recording lacks the lead.
        """
        found = np.full((len(self), len(leads)), -1, np.int64)
        for place, lead in enumerate(leads):
            numbers = [number for number, name in enumerate(self.lead_names) if name == lead]
            match = np.isin(self.lead_index, numbers)
            found[:, place] = np.where(match.any(1), match.argmax(1), -1)
        return found

    def read(
        self,
        rows: Sequence[int] | NDArray[np.int64],
        start: Sequence[int] | NDArray[np.int64] | int = 0,
        length: int | None = None,
    ) -> NDArray[np.int16]:
        """Crops of equal length, as integers.

        Args:
            rows: numbers of the recordings.
            start: first sample of each crop.
            length: samples; if not given, all of the recordings, which then must be of one length.

        Returns:
            int16 (rows, length, columns); `layout.INVALID` marks samples that are none.

        Raises:
            ValueError: a crop leaves its recording, or recordings of different lengths.
            IndexError: no such recording.
        """
        rows = np.asarray(rows, np.int64)
        starts = np.broadcast_to(np.asarray(start, np.int64), rows.shape)
        if length is None:
            lengths = np.unique(self.length[rows] - starts)
            if len(lengths) != 1:
                raise ValueError(
                    f"recordings of {lengths.min()} to {lengths.max()} samples cannot be read as "
                    f"one array; give a length, or read them one by one"
                )
            length = int(lengths[0])
        outside = (starts < 0) | (starts + length > self.length[rows])
        if outside.any():
            row = rows[outside][0]
            raise ValueError(
                f"record {self.record_id[row]} has {self.length[row]} samples; a crop of {length} "
                f"from {starts[outside][0]} leaves it"
            )
        return self.gather(rows, starts[:, None] + np.arange(length))

    def gather(self, rows: NDArray[np.int64], index: NDArray[np.int64]) -> NDArray[np.int16]:
        """Chosen samples of recordings, as integers: one gather per file, no loop over samples.

        Args:
            rows: numbers of the recordings.
            index: (rows, samples), numbers of samples inside of each recording.

        Returns:
            int16 (rows, samples, columns).
        """
        out = np.zeros((*index.shape, self.lead_index.shape[1]), np.int16)
        number = self.stretch[rows]
        for place in np.unique(number):
            mine = np.flatnonzero(number == place)
            piece = self.stretches[place]
            width = piece.shape[1]
            at = self.start[rows[mine]][:, None] + index[mine]
            mapped = piece.mapped()
            if mapped is not None and out.shape == (len(mine), *at.shape[1:], width):
                return mapped[at]  # all from one file
            if mapped is not None:
                out[mine, :, :width] = mapped[at]
                continue
            for row, samples in zip(mine, at, strict=True):
                low = int(samples.min())
                out[row, :, :width] = piece.rows(low, int(samples.max()) + 1)[samples - low]
        return out

    def record(self, row: int) -> NDArray[np.int16]:
        """A whole recording as integers, (samples, columns)."""
        return self.read([row], 0, int(self.length[row]))[0]

    def physical(self, row: int) -> NDArray[np.float64]:
        """A whole recording in its units, (samples, leads present); NaN where there is no sample.

        Equal to the physical signal of WFDB's own reader, bit for bit.
        """
        there = self.lead_index[row] >= 0
        integers = self.record(row)[:, there]
        values = (integers - self.baseline[row, there]) / self.gain[row, there]
        values[integers == INVALID] = np.nan
        return values

    def leads(self, row: int) -> tuple[str, ...]:
        """Names of a recording's leads in its own order."""
        return tuple(self.lead_names[lead] for lead in self.lead_index[row] if lead >= 0)

    def annotations(self, row: int) -> Annotations:
        """Beats and rhythm changes of a recording; empty where the source has none."""
        first, count = int(self.ann_start[row]), int(self.ann_length[row])
        if count == 0:
            empty = np.zeros(0, np.str_)
            return Annotations(np.zeros(0, np.int64), empty, empty)
        path = self.stretches[self.stretch[row]].path
        if path is None:
            raise ValueError("recordings in memory have no annotations")
        with open_container(path) as file:
            part = slice(first, first + count)
            return Annotations(
                file.part("ann_sample", part, "i"),
                file.texts("ann_symbol", rows=part),
                file.texts("ann_aux", rows=part),
            )


PER_RECORD = (
    "record_id",
    "source",
    "patient_id",
    "fold",
    "fs",
    "length",
    "lead_index",
    "gain",
    "baseline",
    "unit",
    "labels",
    "age",
    "sex",
    "comments",
    "stretch",
    "start",
    "ann_start",
    "ann_length",
)
