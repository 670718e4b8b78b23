"""ECGJEPA: unlabelled ECGs in, features out, in the manner of scikit-learn."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from jepa_modalities.adapters.ecg.adapter import ECGAdapter
from jepa_modalities.adapters.ecg.model import conformed
from jepa_modalities.api import recipe
from jepa_modalities.data.ecg.file import memory_records
from jepa_modalities.data.ecg.layout import INVALID
from jepa_modalities.data.ecg.lead import STANDARD_LEADS, UNITS, lead_name
from jepa_modalities.data.ecg.records import ECGRecords
from jepa_modalities.eval.features import POOLINGS, unknown_poolings
from jepa_modalities.export.encoder import PretrainedEncoder, save_encoder
from jepa_modalities.settings import changed
from jepa_modalities.train.distributed import Processes, pick_device
from jepa_modalities.train.engine import Trainer, untrained

LARGEST = 32_000  # the largest integer that a stored sample takes
OUTLIER = 50  # times the median over records and leads of the largest value


class ECGJEPA(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Features of ECGs, learned without labels by masked prediction.

    `fit` takes recordings of one rate and one set of leads; `transform` takes any rate and any
    leads, of which at least one must be known: absent leads are masked, and a warning names them.

    Args:
        fs: sampling rate of the recordings, Hz.
        leads: names in the order of the recordings' leads, any spelling.
        unit: of the recordings: mV, uV, V, or NU for normalised signals.
        rate: sampling rate of the encoder, Hz; recordings are resampled.
        steps: optimiser steps; 0 is the untrained control.
        pooling: of the tokens to one vector: "mean_std_max", "mean", "all_mean_std_max", ...
        target: "kernels" (responses of random kernels, best for few recordings) or "ema".
        crop: seconds that the encoder sees at a time.
        patch: seconds per token.
        dim: width.
        depth: blocks.
        heads: attention heads.
        batch_size: recordings per step.
        learning_rate: highest.
        settings: any setting of the recipe `ecg` by its dotted name; wins over the arguments above.
        random_state: fixes everything.
        device: "auto", "cpu" or "cuda".
        verbose: show progress.

    Attributes:
        encoder_: the pretrained encoder with its preprocessing.
        n_features_in_: leads of the recordings in `fit`.
        verdict_: what the collapse monitor said at the end.
    """

    def __init__(
        self,
        fs: float = 500.0,
        leads: Sequence[str] = STANDARD_LEADS,
        *,
        unit: str = "mV",
        rate: float = 100.0,
        steps: int = 3000,
        pooling: str = "mean_std_max",
        target: str = "kernels",
        crop: float = 5.0,
        patch: float = 0.1,
        dim: int = 128,
        depth: int = 4,
        heads: int = 4,
        batch_size: int = 32,
        learning_rate: float = 3e-3,
        settings: Mapping[str, Any] | None = None,
        random_state: Any = None,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.fs = fs
        self.leads = leads
        self.unit = unit
        self.rate = rate
        self.steps = steps
        self.pooling = pooling
        self.target = target
        self.crop = crop
        self.patch = patch
        self.dim = dim
        self.depth = depth
        self.heads = heads
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.settings = settings
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Self:
        """Pretrain on recordings.

        Args:
            X: (records, leads, samples) in `unit`; NaN where there is no sample.
            y: ignored.

        Raises:
            ValueError: another shape, or settings that cannot work, before anything is trained.
        """
        self._check()
        signals = self._checked(X, self.leads)
        config = self._configuration()
        records = in_memory(signals, self.fs, self.leads, self.unit)
        adapter: Any = ECGAdapter(config, None, records)
        peers = Processes(0, 1, pick_device(config.train.device))
        if self.steps == 0:
            encoder, self.verdict_ = untrained(config, adapter, config.train.seed), "untrained"
        else:
            console = Console() if self.verbose else None
            with tempfile.TemporaryDirectory(prefix="jepa_modalities-") as folder:
                trained = Trainer(adapter, config, Path(folder), peers, console).run(None)
            encoder, self.verdict_ = trained.jepa.teacher, trained.verdict
        self.encoder_ = PretrainedEncoder(config, adapter.tokenizer.cpu(), encoder.cpu()).eval()
        self.n_features_in_ = signals.shape[1]
        return self

    def _check(self) -> None:
        if not isinstance(self.steps, (int, np.integer)) or self.steps < 0:
            raise ValueError(f"steps = {self.steps!r}: give 0 (untrained) or more")
        if not isinstance(self.fs, (int, float, np.number)) or not 0 < self.fs < np.inf:
            raise ValueError(f"fs = {self.fs!r}: give the sampling rate in Hz")
        if self.unit not in UNITS:
            raise ValueError(f"unit = {self.unit!r}: choose from {', '.join(UNITS)}")
        if isinstance(self.leads, str) or not all(isinstance(n, str) and n for n in self.leads):
            raise ValueError(f"leads = {self.leads!r}: give a list of names")
        if unknown_poolings([self.pooling]):
            raise ValueError(f"pooling = {self.pooling!r}: choose from {', '.join(POOLINGS)}")

    def _configuration(self) -> Any:
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        fixed = self.target == "kernels"
        wanted = {
            "data.crop": self.crop,
            "data.patch": self.patch,
            "data.holdout": 0.0,
            "preprocess.fs": self.rate,
            "preprocess.unit": self.unit,
            "preprocess.highpass": 0.0,
            "preprocess.leads": tuple(lead_name(lead) for lead in self.leads),
            "encoder.dim": self.dim,
            "encoder.depth": self.depth,
            "encoder.heads": self.heads,
            "target.kind": self.target,
            "loss.prediction": "mse" if fixed else "l1",
            "train.steps": max(self.steps, 1),
            "train.batch_size": self.batch_size,
            "train.lr": self.learning_rate,
            "train.seed": seed,
            "train.device": self.device,
            "evaluate.enabled": False,
            "evaluate.pooling": self.pooling,
        }
        return changed(recipe("ecg"), {**wanted, **(self.settings or {})})

    def transform(
        self,
        X: Any,
        fs: float | None = None,
        leads: Sequence[str] | None = None,
        unit: str | None = None,
    ) -> NDArray[np.float32]:
        """Features, (records, width), float32.

        Args:
            X: (records, leads, samples), or a list of (leads, samples) of any lengths.
            fs: Hz; that of `fit` if not given.
            leads: names of the leads; those of `fit` if not given.
            unit: of the recordings; that of `fit` if not given.

        Raises:
            ValueError: another shape, or no lead that the encoder knows.
        """
        check_is_fitted(self)
        names = self.leads if leads is None else leads
        if isinstance(X, list):
            signals: Any = [self._checked(np.asarray(one)[None], names)[0] for one in X]
        else:
            signals = self._checked(X, names)
        config = self.encoder_.config
        rate = self.fs if fs is None else fs
        raw = conformed(config, signals, rate, names, self.unit if unit is None else unit)
        features, remarks = self.encoder_.embed_with_remarks(raw)
        for remark in remarks:
            warnings.warn(remark, stacklevel=2)
        return features

    def _checked(self, X: Any, leads: Sequence[str]) -> NDArray[np.float32]:
        signals = np.asarray(X, np.float32)
        if signals.ndim != 3 or signals.shape[1] != len(leads) or not signals.size:
            raise ValueError(
                f"found an array of shape {signals.shape}, expected (records, {len(leads)} leads, "
                f"samples); name the leads with leads=..."
            )
        if np.isinf(signals).any():
            raise ValueError("the recordings hold infinite values; mark missing samples with NaN")
        return signals

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names of the features: `ecgjepa<number>`."""
        check_is_fitted(self)
        blank = np.zeros((1, 1, round(self.crop * self.rate)), np.float32)
        config = self.encoder_.config
        raw = conformed(config, blank, self.rate, config.preprocess.leads[:1])
        width = self.encoder_.embed_with_remarks(raw)[0].shape[1]
        return np.array([f"ecgjepa{number}" for number in range(width)], dtype=object)

    def save(self, path: str | Path) -> None:
        """Write the encoder file that `jm embed` and `jepa_modalities.load` read; no pickle.

        Args:
            path: of a .safetensors file.
        """
        check_is_fitted(self)
        parts = (self.encoder_.encoder, self.encoder_.tokenizer)
        states = [part.state_dict() for part in parts]
        save_encoder(Path(path), states[0], states[1], self.encoder_.config, "ECGJEPA")


def in_memory(
    signals: NDArray[np.float32], fs: float, leads: Sequence[str], unit: str
) -> ECGRecords:
    """Arrays behind the interface of prepared files; step: 1/32,000 of a lead's largest value.

    Args:
        signals: (records, leads, samples), NaN where there is no sample.
        fs: Hz.
        leads: names.
        unit: of the signals.
    """
    known = np.nan_to_num(signals)
    highest = np.abs(known).max(2)  # of every record and lead
    usual = np.median(highest[highest > 0]) if (highest > 0).any() else 0
    if (odd := np.flatnonzero((highest > OUTLIER * usual).any(1))).size:
        warnings.warn(
            f"{len(odd)} recordings reach more than {OUTLIER} times the usual largest value "
            f"({usual:.3g} {unit}), such as number {odd[0]}: they distort the scale of their leads",
            stacklevel=3,
        )
    gain = LARGEST / np.maximum(highest, 1e-9)
    scaled = np.rint(known * gain[..., None])
    integers = np.where(np.isnan(signals), INVALID, scaled).astype(np.int16)
    names = [lead_name(lead) for lead in leads]
    return memory_records(integers.transpose(0, 2, 1), fs, names, gain, unit=unit)
