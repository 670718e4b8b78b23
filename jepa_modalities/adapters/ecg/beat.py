"""Beats of MIT-BIH between patients: ventricular or not, beside waveform, kernels and timing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from jepa_modalities.adapters.ecg.bar import KernelBank
from jepa_modalities.adapters.ecg.holter import (
    Array,
    crops_at,
    encoded,
    first_lead,
    grouped_scores,
    holter_preprocess,
    normalised_record,
    summary,
)
from jepa_modalities.data.ecg.file import open_records

if TYPE_CHECKING:
    from jepa_modalities.adapters.ecg.adapter import ECGAdapter

# AAMI EC57: symbols of each class; all others are no beats.
AAMI = {"N": "NLRej", "S": "AaJS", "V": "VE", "F": "F", "Q": "/fQ"}
AROUND = 0.35  # seconds before and after the R wave that belong to a beat
LOCAL = 10  # beats whose mean interval is the local rhythm
BAR_KERNELS = 504


def aami(symbols: Sequence[str]) -> NDArray[np.str_]:
    """AAMI class of each annotation symbol, empty where it is no beat."""
    table = {symbol: name for name, group in AAMI.items() for symbol in group}
    return np.array([table.get(str(symbol), "") for symbol in symbols])


def rr_features(sample: NDArray[np.int64], local: int = LOCAL) -> Array:
    """Interval before and after each beat over the mean of the intervals round it, (beats, 2).

    Args:
        sample: of the R waves, ascending, at least 3.
        local: beats of the local mean.
    """
    gap = np.diff(sample).astype(np.float64)
    before, after = np.r_[gap[0], gap], np.r_[gap, gap[-1]]
    kernel = np.ones(min(local, len(gap)))
    mean = np.convolve(gap, kernel, "same") / np.convolve(np.ones_like(gap), kernel, "same")
    level = np.r_[mean[0], mean]
    return np.stack([before / level, after / level], axis=1)


def score_beats(
    adapter: ECGAdapter, encoders: dict[str, list[nn.Module]], path: str
) -> dict[str, float]:
    """Ventricular against all other beats, trained on DS1, scored on DS2 (folds 1 and 2).

    Args:
        adapter: of the run.
        encoders: arms of the features.
        path: file of `jm prepare mitdb`.

    Returns:
        `<arm>/beats/auroc` and others for the encoders, `raw` (waveform), `bar` (kernels), `rr`
        (timing alone) and their joins with `rr`; counts of the beats.

    Raises:
        ValueError: no annotated beats of both folds.
    """
    records = open_records(path)
    rows = np.flatnonzero(np.isin(records.fold, (1, 2)) & (records.ann_length > 0))
    if set(records.fold[rows].tolist()) != {1, 2}:
        raise ValueError(
            f"{path} holds no annotated records of both DS1 and DS2 (folds 1 and 2): the beat task "
            f"is between patients; make the file with `jm prepare mitdb`"
        )
    config, tokenizer = adapter.config, adapter.tokenizer
    choice = holter_preprocess(config)
    fs, patch = choice.fs, tokenizer.patch
    crop = adapter.source.crop // patch * patch
    middle, reach = crop // patch // 2, max(round(AROUND * fs / patch), 1)
    wide = 2 * round(AROUND * fs)
    features: dict[str, list[list[Array]]] = {
        name: [[] for _ in models] for name, models in encoders.items()
    }
    waves: list[torch.Tensor] = []
    timing: list[Array] = []
    labels: list[NDArray[np.str_]] = []
    groups: list[NDArray[np.int64]] = []
    for row in rows.tolist():
        notes = records.annotations(row)
        kind = aami(notes.symbol.tolist())
        beat = notes.sample[kind != ""]
        if len(beat) < 3:
            continue
        record = normalised_record(records, row, choice, tokenizer.preprocess)
        at = np.rint(beat * fs / records.fs[row]).astype(np.int64)
        # The beat lies in the middle of the crop's middle token.
        first = at - middle * patch - patch // 2
        inside = slice(middle - reach, middle + reach + 1)
        for name, models in encoders.items():
            for number, model in enumerate(models):
                x = encoded(model, tokenizer, record, first, crop, inside)
                features[name][number].append(x)
        one = first_lead(record)[None]
        waves += list(crops_at(one, at - wide // 2, wide))
        timing.append(rr_features(beat))
        labels.append(kind[kind != ""])
        groups.append(np.full(len(beat), row))
    label, group = np.concatenate(labels), np.concatenate(groups)
    wave = torch.cat(waves)
    train = records.fold[group] == 1
    bank = KernelBank.fit(
        wave[torch.from_numpy(train)], BAR_KERNELS, kind="rocket", seed=config.train.seed
    )
    arms = {name: [np.concatenate(seed) for seed in seeds] for name, seeds in features.items()}
    arms |= {
        "raw": [wave.flatten(1).double().numpy()],
        "bar": [bank.features(wave).double().numpy()],
        "rr": [np.concatenate(timing)],
    }
    for name in (*encoders, "bar"):
        arms[f"{name}+rr"] = [np.concatenate([x, arms["rr"][0]], 1) for x in arms[name]]
    target = (label == "V").astype(np.int64)
    metrics = summary(grouped_scores(arms, target, group, train), target[~train], "beats")
    for name, part in (("train", train), ("test", ~train)):
        metrics[f"data/beats_{name}"] = float(part.sum())
        metrics[f"data/beats_{name}_ventricular"] = float(target[part].sum())
    return metrics
