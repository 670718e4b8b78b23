"""Long annotated recordings: crops round beats or along time, and features of any encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_modalities.adapters.ecg.config import ECGConfig
from jepa_modalities.adapters.ecg.part import tokens_of
from jepa_modalities.adapters.ecg.preprocess import (
    ECGPreprocess,
    PreprocessConfig,
    conform,
    missing_leads,
)
from jepa_modalities.adapters.ecg.tokenizer import ECGTokenizer
from jepa_modalities.data.ecg.records import ECGRecords

Array = NDArray[np.float64]
HOLTER_ALIASES = (("MLII", "II"), ("ECG1", "II"), ("ECG2", "V1"))
BATCH = 256


def holter_preprocess(config: ECGConfig) -> PreprocessConfig:
    """How Holter leads come to the encoder: MLII as II; z-scored where its training data were."""
    choice = config.preprocess
    aliases = tuple({**dict(HOLTER_ALIASES), **dict(choice.aliases)}.items())
    if choice.unit == "mV":
        return replace(choice, aliases=aliases)
    # The encoder knows signals that were filtered and z-scored per record before they were stored.
    return replace(choice, unit="mV", normalise="record", highpass=0.5, aliases=aliases)


def normalised_record(
    records: ECGRecords, row: int, choice: PreprocessConfig, preprocess: ECGPreprocess
) -> Tensor:
    """A whole recording as the tokenizer takes it after normalisation, (leads, samples).

    Leads that it lacks are NaN.
    """
    leads = records.leads(row)
    unit = str(records.unit[row][records.lead_index[row] >= 0][0])
    raw = conform(records.physical(row), float(records.fs[row]), leads, choice, unit)
    raw_tensor = torch.from_numpy(raw)[None]
    if choice.normalise == "constants":
        signals = preprocess.cpu()(raw_tensor)
    else:
        signals = ECGPreprocess(choice)(raw_tensor)
    return signals.values.masked_fill(raw_tensor.isnan(), torch.nan)[0]


def absent(records: ECGRecords, row: int, choice: PreprocessConfig) -> tuple[str, ...]:
    """The encoder's leads that a recording lacks."""
    return missing_leads(records.leads(row), choice)


def crops_at(record: Tensor, first: NDArray[np.int64], samples: int) -> Iterator[Tensor]:
    """Crops of equal length, a batch at a time, (crops, leads, samples).

    What lies before the recording or behind it is filled with its first and last sample.
    """
    span = torch.arange(samples)
    for part in torch.from_numpy(first).split(BATCH):
        index = (part[:, None] + span).clamp(0, record.shape[1] - 1)
        yield record[:, index].transpose(0, 1)


@torch.no_grad()
def encoded(
    encoder: nn.Module,
    tokenizer: ECGTokenizer,
    record: Tensor,
    first: NDArray[np.int64],
    samples: int,
    inside: slice,
) -> Array:
    """Mean and maximum of the latents of some tokens along time, (crops, 2 dim).

    Args:
        encoder: in eval mode afterwards.
        tokenizer: of the run.
        record: (leads, samples), NaN where a lead is absent.
        first: first sample of each crop.
        samples: of each crop.
        inside: tokens along time that count.
    """
    encoder.eval()
    parts = []
    for crop in crops_at(record, first, samples):
        tokens = tokens_of(tokenizer, crop)
        latents = encoder(tokens).tokens
        channels = tokenizer.leads if tokenizer.by_lead else 1
        x = latents.unflatten(1, (channels, -1))[:, :, inside].flatten(1, 2)
        if tokens.valid is None:
            parts.append(torch.cat([x.mean(1), x.amax(1)], 1).cpu())
            continue
        real = tokens.valid.unflatten(1, (channels, -1))[:, :, inside].flatten(1, 2)[..., None]
        mean = (x * real).sum(1) / real.sum(1).clamp(min=1)
        parts.append(torch.cat([mean, x.masked_fill(~real, -torch.inf).amax(1)], 1).cpu())
    return torch.cat(parts).double().numpy()


def first_lead(record: Tensor) -> Tensor:
    """The first lead that a recording has, (samples,)."""
    there = (~record.isnan().all(1)).nonzero()[0, 0]
    return record[there]


def grouped_scores(
    features: Mapping[str, Sequence[Array]],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    train: NDArray[np.bool_] | None = None,
    grid: Sequence[float] = (1e-3, 1e-2, 1e-1, 1.0),
) -> dict[str, list[Array]]:
    """Log-odds of class 1 by balanced logistic regression that never sees the scored recording.

    Args:
        features: arm -> (rows, width), one array per seed.
        labels: 0 or 1, (rows,).
        groups: recording of each row.
        train: rows to learn from, C by leaving out one recording at a time; the others are scored.
            None scores every recording by a model of the others, at C = 0.01.
        grid: values of C.

    Returns:
        arm -> scores of the scored rows, one array per seed.
    """

    def fitted(x: Array, y: NDArray[np.int64], c: float) -> Callable[[Array], Array]:
        from sklearn.linear_model import LogisticRegression

        mean, std = x.mean(0), x.std(0) + 1e-9
        model = LogisticRegression(C=c, class_weight="balanced", max_iter=300)
        model.fit((x - mean) / std, y)
        return lambda t: np.asarray(model.decision_function((t - mean) / std))

    def left_out(x: Array, y: NDArray[np.int64], g: NDArray[np.int64], c: float) -> Array:
        scores = np.zeros(len(x))
        for one in np.unique(g):
            inside = g != one
            if len(np.unique(y[inside])) == 2:
                scores[~inside] = fitted(x[inside], y[inside], c)(x[~inside])
        return scores

    found: dict[str, list[Array]] = {}
    for arm, seeds in features.items():
        found[arm] = []
        for x in seeds:
            if train is None:
                found[arm].append(left_out(x, labels, groups, 0.01))
                continue
            inside = (x[train], labels[train], groups[train])
            reached = [ranked(labels[train], left_out(*inside, c)) for c in grid]
            best = grid[int(np.argmax(reached))]
            found[arm].append(fitted(x[train], labels[train], best)(x[~train]))
    return found


def ranked(labels: NDArray[np.int64], scores: Array) -> float:
    """Area under the ROC curve."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))


def summary(
    scores: Mapping[str, Sequence[Array]], labels: NDArray[np.int64], task: str
) -> dict[str, float]:
    """`<arm>/<task>/auroc`, `average_precision` and `macro_f1` at log-odds 0, mean over seeds.

    No intervals: rows of one recording are alike, and the recordings are few.
    """
    from sklearn.metrics import average_precision_score, f1_score

    metrics: dict[str, float] = {}
    measures: dict[str, Callable[[Any, Any], float]] = {
        "auroc": ranked,
        "average_precision": average_precision_score,
        "macro_f1": lambda y, s: f1_score(y, s > 0, average="macro"),
    }
    for arm, seeds in scores.items():
        for name, measure in measures.items():
            metrics[f"{arm}/{task}/{name}"] = float(np.mean([measure(labels, s) for s in seeds]))
    return metrics
