"""From recordings of any rate and leads to what the encoder was trained on; travels with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_modalities.adapters.ecg.conform import PreprocessConfig, conform, missing_leads
from jepa_modalities.adapters.ecg.constant import CONSTANTS
from jepa_modalities.adapters.ecg.crop import crops, num_samples
from jepa_modalities.data.ecg.file import ECGRecords
from jepa_modalities.data.ecg.lead import STANDARD_LEADS

__all__ = [
    "ECGPreprocess",
    "PreprocessConfig",
    "Signals",
    "conform",
    "crops",
    "group_of",
    "missing_leads",
    "num_samples",
]

CHUNK = 256  # records that `fitted` holds at a time
FITTED = 5_000  # records that it measures at most


@dataclass(frozen=True)
class Signals:
    """Preprocessed signals.

    Attributes:
        values: float32 (batch, leads, samples), 0 where there is nothing.
        lead: bool (batch, leads), False for absent leads.
        time: bool (batch, samples), False behind the end of short recordings.
    """

    values: Tensor
    lead: Tensor
    time: Tensor


class ECGPreprocess(nn.Module):
    """Normalise conformed signals; its tensors and `config` as JSON are its whole state.

    `conform` and `crops` need only the configuration: they make (batch, leads, samples) at the
    encoder's rate, in physical units, with NaN for absent leads and behind the end. Calling the
    module turns these into `Signals`.

    Args:
        config: see `PreprocessConfig`.
        mean: (groups, leads), in `config.unit`; 0 if not given.
        std: (groups, leads); 1 if not given.

    Raises:
        ValueError: constants of another shape, or not above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, config: PreprocessConfig, mean: Any | None = None, std: Any | None = None
    ) -> None:
        super().__init__()
        self.config = config
        shape = (len(config.groups), len(config.leads))
        for name, given, blank in (("mean", mean, 0.0), ("std", std, 1.0)):
            value = torch.full(shape, blank) if given is None else torch.as_tensor(given)
            if value.shape != shape:
                raise ValueError(
                    f"{name} of shape {tuple(value.shape)}, expected (groups, leads) = {shape}"
                )
            self.register_buffer(name, value.to(torch.float32).clone())
        known = not self.std.is_meta  # else only shapes are asked for
        if known and not bool((self.std > 0).all() & self.mean.isfinite().all()):
            raise ValueError("std must be above 0 and mean finite for every lead")

    @classmethod
    def published(cls, config: PreprocessConfig) -> ECGPreprocess:
        """With the constants of ECG-JEPA for the sets that `config.groups` names.

        Raises:
            ValueError: a set or a lead without published constants, or a unit other than mV.
        """
        if config.unit != "mV":
            raise ValueError(
                f"the published constants are in mV, the signals in {config.unit}; use constants "
                f"of your own training data (`ECGPreprocess.fitted`)"
            )
        unknown = [name for name in config.groups if name not in CONSTANTS]
        strange = [lead for lead in config.leads if lead not in STANDARD_LEADS]
        if unknown or strange:
            raise ValueError(
                f"no published constants for {', '.join(unknown + strange)}; known sets are "
                f"{', '.join(CONSTANTS)}, known leads {', '.join(STANDARD_LEADS)}"
            )
        std = [[CONSTANTS[name][lead] for lead in config.leads] for name in config.groups]
        return cls(config, None, std)

    @classmethod
    def fitted(
        cls,
        config: PreprocessConfig,
        records: ECGRecords,
        rows: Sequence[int] | NDArray[np.int64] | None = None,
    ) -> ECGPreprocess:
        """With mean and std per group and lead of these recordings (give training rows only).

        Of more than 5,000 recordings, that many are measured, evenly from all over the rows.
        Leads that no recording has keep mean 0 and std 1.

        Raises:
            ValueError: a lead that never changes, or none that the recordings have.
        """
        rows = np.arange(len(records)) if rows is None else np.asarray(rows, np.int64)
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), FITTED)).round().astype(int)]
        shape = (len(config.groups), len(config.leads))
        total, square, count = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        group = group_of(records, config)
        lengths = num_samples(records, config)
        for low in range(0, len(rows), CHUNK):
            part = rows[low : low + CHUNK]
            x = crops(records, part, 0, int(lengths[part].max()), config).astype(np.float64)
            for number in np.unique(group[part]):
                mine = x[group[part] == number]
                total[number] += np.nansum(mine, (0, 2))
                square[number] += np.nansum(mine**2, (0, 2))
                count[number] += (~np.isnan(mine)).sum((0, 2))
        seen = count > 0
        if not seen.any():
            raise ValueError(
                f"the {len(rows):,} training records hold no valid sample of the leads "
                f"{', '.join(config.leads)}; they have {', '.join(records.lead_names)}: name some "
                f"of these in preprocess.leads"
            )
        mean = total / np.maximum(count, 1)
        std = np.sqrt(np.maximum(square / np.maximum(count, 1) - mean**2, 0))
        flat = seen & (std <= 1e-6 * (1 + np.abs(mean)))
        if flat.any():
            lead = config.leads[np.argwhere(flat)[0][1]]
            raise ValueError(
                f"lead {lead} never changes in the {len(rows):,} training records, so it cannot be "
                f"normalised; leave it out of the leads"
            )
        return cls(config, mean, np.where(seen, std, 1.0))

    def forward(self, raw: Tensor, group: Tensor | None = None) -> Signals:
        """Constants per lead and clip.

        Args:
            raw: (batch, leads, samples) from `conform` or `crops`; NaN where there is nothing.
            group: (batch,) from `group_of`; the first group if not given.

        Raises:
            ValueError: another number of axes or leads.
        """
        if raw.ndim != 3 or raw.shape[1] != len(self.config.leads):
            raise ValueError(
                f"found signals of shape {tuple(raw.shape)}, expected (batch, "
                f"{len(self.config.leads)} leads, samples); bring them into the encoder's leads "
                f"and rate with `conform`"
            )
        missing = raw.isnan()
        values = raw.float()
        if self.config.normalise == "constants":
            mean, std = (t[:1] if group is None else t[group] for t in (self.mean, self.std))
            values = (values - mean[..., None]) / std[..., None]
        if self.config.clip > 0:
            values = values.clamp(-self.config.clip, self.config.clip)
        return Signals(values.masked_fill(missing, 0), ~missing.all(2), ~missing.all(1))


def group_of(records: ECGRecords, config: PreprocessConfig) -> NDArray[np.int64]:
    """Number of each recording's constants in `config.groups`, (records,)."""
    number = {name: place for place, name in enumerate(config.groups)}
    return np.array([number.get(str(source), 0) for source in records.source], np.int64)
