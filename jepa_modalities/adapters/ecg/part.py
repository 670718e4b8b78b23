"""Labelled recordings of the three parts, and how they become tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_modalities.adapters.ecg.preprocess import Signals
from jepa_modalities.adapters.ecg.source import ECGSource, Rows
from jepa_modalities.adapters.ecg.task import Task
from jepa_modalities.adapters.ecg.tokenizer import ECGTokenizer
from jepa_modalities.core.batch import Tokens

Array = NDArray[Any]


@dataclass
class Normalised:
    """Recordings of one part, normalised, NaN where there is nothing; sliceable as `extract` wants.

    Attributes:
        source: of the recordings.
        rows: their numbers in the file.
        samples: of each, at the encoder's rate.
    """

    source: ECGSource
    rows: Rows
    samples: int
    kept: Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Tensor:
        """(records, leads, samples), float32."""
        size = len(self) * len(self.source.config.preprocess.leads) * self.samples * 4
        if self.kept is None and size < self.source.config.data.resident * 2**30:
            self.kept = self._read(self.rows)
        return self._read(self.rows[index]) if self.kept is None else self.kept[index]

    @property
    def lengths(self) -> Tensor:
        """Samples that each recording has."""
        return torch.from_numpy(self.source.samples[self.rows])

    def _read(self, rows: Rows) -> Tensor:
        raw = self.source.raw(rows, self.samples)
        group = self.source.group[torch.from_numpy(rows)]
        signals = self.source.preprocess.cpu()(raw, group)
        return signals.values.masked_fill(raw.isnan(), torch.nan)


@dataclass(frozen=True)
class Parts:
    """Labelled recordings of the three parts, of one common length."""

    task: Task
    train: Normalised
    valid: Normalised
    test: Normalised

    @classmethod
    def of(cls, source: ECGSource, task: Task) -> Parts:
        """Those that take part in the task."""
        rows = [part[task.rows[part]] for part in vars(source.splits).values()]
        for name, part in zip(("training", "choices", "scores"), rows, strict=True):
            if not len(part):
                raise ValueError(
                    f"no records with labels of task {task.name!r} for {name}: change "
                    f"data.valid_fold, data.test_fold, data.holdout or evaluate.task, or set "
                    f"evaluate.enabled to False"
                )
        # Windows and pooled features need one length; recordings are compared on what all have,
        # but never on less than one crop.
        shortest = int(min(source.samples[part].min() for part in rows))
        samples = max(shortest, source.crop)
        return cls(task, *(Normalised(source, part, samples) for part in rows))

    def labels(self, name: str) -> Array:
        """(records, classes) of a part."""
        part: Normalised = getattr(self, name)
        return self.task.labels[part.rows]


def signals_of(values: Tensor) -> Signals:
    """Normalised recordings with NaN -> `Signals`."""
    missing = values.isnan()
    return Signals(values.masked_fill(missing, 0), ~missing.all(2), ~missing.all(1))


def tokens_of(tokenizer: ECGTokenizer, values: Tensor) -> Tokens:
    """Tokens of normalised recordings with NaN, on the tokenizer's device."""
    return tokenizer.of_signals(signals_of(values.to(tokenizer.preprocess.mean.device)))
