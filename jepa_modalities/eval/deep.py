"""Probes that need the encoder itself and not pooled features: attentive and full fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_modalities.core.batch import Tokens
from jepa_modalities.eval.attentive import attentive_probe
from jepa_modalities.eval.features import extract
from jepa_modalities.eval.fewshot import label_fraction
from jepa_modalities.eval.finetune import Recipe, finetune
from jepa_modalities.eval.probes import linear_probe
from jepa_modalities.eval.statistics import bootstrap_interval, paired_bootstrap

Array = NDArray[Any]


def _entry(key: str, correct: Array) -> dict[str, float]:
    mean, low, high = bootstrap_interval(correct)
    return {key: mean, f"{key}_low": low, f"{key}_high": high, f"{key}_seeds": float(len(correct))}


def _paired(key: str, first: Array, second: Array) -> dict[str, float]:
    mean, low, high = paired_bootstrap(first, second)
    return {key: mean, f"{key}_low": low, f"{key}_high": high}


def score_deep(
    kind: str,
    encoders: Mapping[str, Sequence[nn.Module]],
    tokenize: Callable[[Any], Tokens],
    train: Tensor,
    train_y: Array,
    test: Tensor,
    test_y: Array,
    recipe: Recipe | None = None,
    augment: Callable[[Any, torch.Generator], Any] | None = None,
) -> dict[str, float]:
    """Attentive probe or fine-tuning of the encoder beside the untrained one ("from scratch").

    Args:
        kind: "attentive" or "finetune".
        encoders: `encoder` and `untrained`; the first network of each is used.
        tokenize: raw batch -> Tokens.
        train: raw training samples.
        train_y: their labels.
        test: raw test samples.
        test_y: their labels, for the score only.
        recipe: of the fine-tuning.
        augment: of the fine-tuning's training batches.

    Returns:
        `<arm>/<kind>/accuracy` with intervals, and the paired difference to `untrained`.
    """
    correct: dict[str, Array] = {}
    for arm in ("encoder", "untrained"):
        model = encoders[arm][0]
        place = next(model.parameters()).device
        if kind == "finetune":
            fit = finetune(model, tokenize, train, train_y, test, recipe, augment, device=place)
        else:
            frozen = []
            for raw in (train, test):
                flat = extract(model, tokenize, raw, ["tokens"])["tokens"]
                width = int(model.dim)  # type: ignore[arg-type]
                frozen.append(flat.reshape(len(flat), -1, width))
            fit = attentive_probe(frozen[0], train_y, frozen[1], device=place)
        correct[arm] = (fit.predictions == test_y).astype(np.float64)[None]
    metrics: dict[str, float] = {}
    for arm, right in correct.items():
        metrics |= _entry(f"{arm}/{kind}/accuracy", right)
    key = f"paired/encoder-untrained/{kind}/accuracy"
    return metrics | _paired(key, correct["encoder"], correct["untrained"])


def score_fractions(
    arms: Mapping[str, tuple[Array, Array]],
    train_y: Array,
    test_y: Array,
    fractions: Sequence[float],
    draws: int = 5,
) -> dict[str, float]:
    """Linear probe with a part of the labels, the same part for every arm.

    Args:
        arms: name -> (training features, test features).
        train_y: labels.
        test_y: labels, for the score only.
        fractions: in (0, 1].
        draws: subsets per fraction below 1.

    Returns:
        `<arm>/linear_<percent>pct/accuracy` with intervals.
    """
    metrics: dict[str, float] = {}
    for arm, (x, t) in arms.items():
        found = label_fraction(x, train_y, t, test_y, fractions, draws, probe=linear_probe)
        for part, few in found.items():
            key = f"{arm}/linear_{100 * part:g}pct/accuracy"
            metrics |= {key: few.mean, f"{key}_low": few.low, f"{key}_high": few.high}
    return metrics
