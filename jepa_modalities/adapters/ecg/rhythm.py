"""Atrial fibrillation in windows of annotated records, beside the timing of the beats."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from jepa_modalities.adapters.ecg.bar import KernelBank
from jepa_modalities.adapters.ecg.beat import BAR_KERNELS, aami
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
from jepa_modalities.data.ecg.records import Annotations

if TYPE_CHECKING:
    from jepa_modalities.adapters.ecg.adapter import ECGAdapter

FIBRILLATION = ("(AFIB", "(AFL")


def fibrillating(notes: Annotations, samples: int) -> NDArray[np.bool_]:
    """True at the samples of atrial fibrillation or flutter, (samples,).

    A rhythm lasts from its mark to the next one; before the first mark it is not fibrillation.

    Args:
        notes: with rhythm names such as (AFIB in `aux`.
        samples: of the recording.
    """
    marks = np.array([str(aux).startswith("(") for aux in notes.aux], bool)
    sample, aux = notes.sample[marks], notes.aux[marks]
    inside = np.zeros(samples, bool)
    for start, end, name in zip(sample, [*sample, samples][1:], aux, strict=True):
        inside[start:end] = str(name).startswith(FIBRILLATION)
    return inside


def timing_features(beat: NDArray[np.int64], fs: float) -> Array:
    """Rate and irregularity of the beats in a window, (4,); zeros for fewer than 4 beats.

    Mean interval in s, its coefficient of variation, root mean square of successive differences
    over the mean, and the share of successive differences above 50 ms.
    """
    gap = np.diff(beat) / fs
    if len(gap) < 3:
        return np.zeros(4)
    change = np.diff(gap)
    mean = gap.mean()
    rough = np.sqrt((change**2).mean()) / mean
    return np.array([mean, gap.std() / mean, rough, (np.abs(change) > 0.05).mean()])


def score_rhythm(
    adapter: ECGAdapter, encoders: dict[str, list[nn.Module]], path: str
) -> dict[str, float]:
    """Fibrillation in windows of one crop, every recording scored by a model of the others.

    Args:
        adapter: of the run.
        encoders: arms of the features.
        path: file of `jm prepare` with beats and rhythm annotations.

    Returns:
        `<arm>/rhythm/auroc` and others for the encoders, `raw`, `bar` and `rr`; counts.

    Raises:
        ValueError: fewer than two recordings with either rhythm.
    """
    records = open_records(path)
    config, tokenizer = adapter.config, adapter.tokenizer
    choice = holter_preprocess(config)
    patch = tokenizer.patch
    crop = adapter.source.crop // patch * patch
    features: dict[str, list[list[Array]]] = {
        name: [[] for _ in models] for name, models in encoders.items()
    }
    waves: list[torch.Tensor] = []
    timing: list[Array] = []
    labels: list[NDArray[np.int64]] = []
    groups: list[NDArray[np.int64]] = []
    for row in np.flatnonzero(records.ann_length > 0).tolist():
        record = normalised_record(records, row, choice, tokenizer.preprocess)
        first = np.arange(0, record.shape[1] - crop + 1, crop)
        if not len(first):
            continue
        notes = records.annotations(row)
        own = float(records.fs[row])
        ill = fibrillating(notes, int(records.length[row]))
        beat = notes.sample[aami(notes.symbol.tolist()) != ""]
        edges = np.stack([first, first + crop], 1) * own / choice.fs
        for name, models in encoders.items():
            for number, model in enumerate(models):
                x = encoded(model, tokenizer, record, first, crop, slice(None))
                features[name][number].append(x)
        waves += list(crops_at(first_lead(record)[None], first, crop))
        timing.append(
            np.stack(
                [timing_features(beat[(beat >= low) & (beat < high)], own) for low, high in edges]
            )
        )
        share = [ill[int(low) : int(high)].mean() for low, high in edges]
        labels.append((np.array(share) >= 0.5).astype(np.int64))
        groups.append(np.full(len(first), row))
    label = np.concatenate(labels) if labels else np.zeros(0, np.int64)
    group = np.concatenate(groups) if groups else label
    kinds = [len(np.unique(group[label == value])) for value in (0, 1)]
    if min(kinds) < 2:
        raise ValueError(
            f"{path} holds fibrillation in {kinds[1]} records and other rhythms in {kinds[0]}; "
            f"scoring each record by the others needs 2 of either"
        )
    wave = torch.cat(waves)
    bank = KernelBank.fit(wave, BAR_KERNELS, kind="rocket", seed=config.train.seed)
    arms = {name: [np.concatenate(seed) for seed in seeds] for name, seeds in features.items()}
    arms |= {
        "raw": [wave.flatten(1).double().numpy()],
        "bar": [bank.features(wave).double().numpy()],
        "rr": [np.concatenate(timing)],
    }
    metrics = summary(grouped_scores(arms, label, group), label, "rhythm")
    metrics["data/rhythm_windows"] = float(len(label))
    metrics["data/rhythm_fibrillation"] = float(label.sum())
    metrics["data/rhythm_records"] = float(len(np.unique(group)))
    return metrics
