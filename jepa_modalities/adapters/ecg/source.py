"""The recordings of a run: pretraining part, part for choices, part for scores."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_modalities.adapters.ecg.config import ECGConfig
from jepa_modalities.adapters.ecg.model import in_samples
from jepa_modalities.adapters.ecg.preprocess import (
    ECGPreprocess,
    crops,
    group_of,
    num_samples,
)
from jepa_modalities.core.draw import Draw, seeded
from jepa_modalities.data.ecg.file import open_records
from jepa_modalities.data.ecg.records import ECGRecords

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Splits:
    """Row numbers of the three parts; no record is in two of them."""

    train: Rows
    valid: Rows
    test: Rows


class _Mixture(NamedTuple):
    """Sources that are drawn by weight: ends of their shares, records of each, all records."""

    ends: Tensor
    counts: Tensor
    members: Tensor


def split_folds(
    records: ECGRecords, test_fold: int, valid_fold: int, holdout: float, scored: bool = True
) -> Splits:
    """Parts by the official folds, or by a hash of the patient where there are none.

    Without folds, a holdout of 0 makes all records training records: nothing can be scored then.

    Training rows are those of the folds below both; rows of sources without folds join them only
    where other rows have folds.

    Args:
        records: of the run.
        test_fold: official fold for scores.
        valid_fold: official fold for choices.
        holdout: share of the patients for each of the two where there are no folds.
        scored: whether there will be scores; otherwise only training records are needed.

    Raises:
        ValueError: a part that is needed would be empty, or the two folds are the same.
    """
    fold = records.fold
    if (fold > 0).any():
        if test_fold == valid_fold:
            raise ValueError(
                f"data.test_fold and data.valid_fold are both {test_fold}: choices would be made "
                f"on the records that are scored"
            )
        train = (fold < min(test_fold, valid_fold)) | (fold <= 0)
        parts = [train, fold == valid_fold, fold == test_fold]
    else:
        if not 0 <= holdout < 0.5:
            raise ValueError(f"data.holdout = {holdout}: give a share from 0 to below 0.5")
        if holdout == 0:
            none = np.zeros(0, np.int64)
            return Splits(np.arange(len(records)), none, none)
        place = np.array([_place(*who) for who in _owners(records)])
        parts = [place >= 2 * holdout, place < holdout, (place >= holdout) & (place < 2 * holdout)]
    rows = [np.flatnonzero(part) for part in parts]
    for name, part in zip(("training", "choices", "scores"), rows, strict=True):
        if not len(part) and (scored or name == "training"):
            raise ValueError(
                f"no records are left for {name}: folds {sorted(set(fold.tolist()))} with "
                f"data.valid_fold = {valid_fold} and data.test_fold = {test_fold}; change them, or "
                f"data.holdout where the file has no folds, or pretrain only: "
                f"evaluate.enabled False"
            )
    return Splits(*rows)


def _owners(records: ECGRecords) -> list[tuple[str, str]]:
    """(source, patient or record) of each recording: what must not be torn apart."""
    known = records.patient_id != ""
    owner = np.where(known, records.patient_id, records.record_id)
    return list(zip(records.source.tolist(), owner.tolist(), strict=True))


def _place(source: str, owner: str) -> float:
    """A number in 0..1 that depends on the owner alone."""
    digest = hashlib.blake2b(f"{source}/{owner}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") / 2**32


def open_source(config: ECGConfig) -> ECGRecords:
    """The recordings that `data.path` names.

    Raises:
        ValueError: no path given.
    """
    path = config.data.path
    if not path:
        raise ValueError(
            "data.path is not given: name a file that `jm prepare` made from recordings, or "
            "'synthetic'"
        )
    if path == "synthetic":
        from jepa_modalities.data.ecg.synthetic import synthetic_records

        return synthetic_records(config.data.records, max(config.data.records // 3, 2))
    return open_records([part.strip() for part in path.split(",")])


class ECGSource:
    """Opens the recordings, splits them, and serves crops.

    Args:
        config: of the run.
        records: recordings instead of those that `data.path` names.

    Raises:
        ValueError: no usable recordings.
    """

    def __init__(self, config: ECGConfig, records: ECGRecords | None = None) -> None:
        self.config = config
        self.records = open_source(config) if records is None else records
        data = config.data
        scored = config.evaluate.enabled
        self.splits = split_folds(
            self.records, data.test_fold, data.valid_fold, data.holdout, scored
        )
        self.crop = in_samples(config, "data.crop", data.crop)
        self.samples = num_samples(self.records, config.preprocess)
        # Shorter records cannot fill a crop: left out of pretraining, as published.
        rows = self.splits.train[self.samples[self.splits.train] >= self.crop]
        self.dropped = len(self.splits.train) - len(rows)
        if data.limit is not None:
            if data.limit < 1:
                raise ValueError(f"data.limit = {data.limit}: give at least 1")
            order = torch.randperm(len(rows), generator=seeded(0, 3, 0)).numpy()
            rows = np.sort(rows[order[: data.limit]])
        if not len(rows):
            raise ValueError(
                f"none of the {len(self.splits.train)} training records is data.crop = "
                f"{data.crop} s long; lower data.crop"
            )
        self.rows = rows
        self.preprocess = self._constants()
        self.group = torch.from_numpy(group_of(self.records, config.preprocess))
        self.length = torch.from_numpy(self.samples[rows])
        self.ends = self.length.cumsum(0)
        self._mixture = self._weights()
        self._values: Tensor | None = None

    def _constants(self) -> ECGPreprocess:
        choice = self.config.preprocess
        if choice.normalise != "constants":
            return ECGPreprocess(choice)
        if self.config.data.constants == "published":
            return ECGPreprocess.published(choice)
        return ECGPreprocess.fitted(choice, self.records, self.splits.train)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def resident(self) -> bool:
        """Whether the training signals are kept in memory."""
        size = int(self.length.sum()) * len(self.config.preprocess.leads) * 4
        return size <= self.config.data.resident * 2**30

    def values(self) -> Tensor:
        """All training signals, normalised, one after the other: (samples of all, leads)."""
        if self._values is None:
            leads = len(self.config.preprocess.leads)
            self._values = torch.empty(int(self.length.sum()), leads)
            end = self.ends.tolist()
            for number, row in enumerate(self.rows.tolist()):
                low = end[number - 1] if number else 0
                raw = self.raw(np.array([row]), int(self.length[number]))
                signals = self.preprocess.cpu()(raw, self.group[[row]])
                self._values[low : end[number]] = signals.values[0].T
        return self._values

    def raw(self, rows: Rows, samples: int | None = None, start: int = 0) -> Tensor:
        """Recordings in physical units at the encoder's rate, NaN where there is nothing.

        Args:
            rows: row numbers in the file.
            samples: per recording; the longest one's if not given.
            start: first sample.

        Returns:
            (rows, leads, samples), float32.
        """
        if samples is None:
            samples = int(self.samples[rows].max())
        return torch.from_numpy(crops(self.records, rows, start, samples, self.config.preprocess))

    def cropped(self, ids: Tensor, start: Tensor) -> Tensor:
        """Normalised crops of training records, (batch, leads, samples).

        Args:
            ids: numbers among the training records.
            start: first sample of each, at the encoder's rate.
        """
        if self.resident:
            first = self.ends[ids] - self.length[ids] + start
            return self.values()[first[:, None] + torch.arange(self.crop)].transpose(1, 2)
        rows = self.rows[ids.numpy()]
        raw = crops(self.records, rows, start.numpy(), self.crop, self.config.preprocess)
        group = self.group[torch.from_numpy(rows)]
        return self.preprocess.cpu()(torch.from_numpy(raw), group).values

    def _weights(self) -> _Mixture | None:
        """Weight of each named source and the numbers of its training records."""
        if not self.config.data.weights:
            return None
        names = self.records.source[self.rows]
        members = []
        for name, weight in self.config.data.weights:
            members.append(torch.from_numpy(np.flatnonzero(names == name)))
            if weight <= 0 or not len(members[-1]):
                raise ValueError(
                    f"data.weights: {name!r} has weight {weight} and {len(members[-1])} training "
                    f"records; there are {sorted(set(names.tolist()))}, and weights lie above 0"
                )
        shares = torch.tensor([w for _, w in self.config.data.weights])
        counts = torch.tensor([len(part) for part in members])
        return _Mixture((shares / shares.sum()).cumsum(0), counts, torch.cat(members))

    def drawn(self, ids: Tensor, draw: Draw) -> Tensor:
        """The records of a batch: the plan's, or by the weights of their sources.

        As published: a source by its weight, then one of its records, with replacement.
        """
        if self._mixture is None:
            return ids
        ends, counts, members = self._mixture
        source = torch.searchsorted(ends, draw.uniform()).clamp(max=len(ends) - 1)
        share = draw.uniform()
        number = (share * counts[source]).long().minimum(counts[source] - 1)
        return members[(counts.cumsum(0) - counts)[source] + number]

    def labels(self, rows: Rows) -> NDArray[np.uint8] | None:
        """The file's own label columns of these rows."""
        return None if self.records.labels is None else self.records.labels[rows]
