"""ECG evaluation: every arm on identical records, labels and poolings, by macro AUC."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_modalities.adapters.ecg.bar import KernelBank
from jepa_modalities.adapters.ecg.config import ECGConfig
from jepa_modalities.adapters.ecg.head import score_head
from jepa_modalities.adapters.ecg.model import in_samples, steps
from jepa_modalities.adapters.ecg.part import Normalised, Parts, tokens_of
from jepa_modalities.adapters.ecg.task import task_labels
from jepa_modalities.data.ecg.file import open_records
from jepa_modalities.eval.arms import Arm, concatenate
from jepa_modalities.eval.features import (
    POOLINGS,
    FeatureCache,
    extract,
    fingerprint,
    unknown_poolings,
)
from jepa_modalities.eval.multilabel import PROBES, score_multilabel

if TYPE_CHECKING:
    from jepa_modalities.adapters.ecg.adapter import ECGAdapter

Array = NDArray[Any]
# Rates at which the controls see recordings: faster ones gain them nothing and cost much.
BAR_RATE, RAW_RATE = 100.0, 25.0


def check(config: ECGConfig) -> None:
    """Complain before any data are read about an evaluation that could not be done.

    Raises:
        ValueError: unknown poolings or probes, no untrained control, numbers that make no sense, or
            windows that do not fit.
    """
    choice = config.evaluate
    for name, given, known in (
        ("poolings", choice.poolings, POOLINGS),
        ("probes", choice.probes, PROBES),
        ("pooling", (choice.pooling,), choice.poolings),
    ):
        if unknown := [item for item in given if item not in known]:
            raise ValueError(f"evaluate.{name}: {unknown[0]!r} is not one of {', '.join(known)}")
    tuned = choice.finetune_pooling
    if tuned and unknown_poolings([tuned]):
        raise ValueError(
            f"evaluate.finetune_pooling: {tuned!r} is not one of {', '.join(POOLINGS)}, nor "
            f"several of them joined by '+'"
        )
    for name, value, least in (
        ("head_steps", choice.head_steps, 1),
        ("head_batch", choice.head_batch, 2),
        ("kernels", choice.kernels, 1),
        ("mixup", choice.mixup, 0),
        ("counts", min(choice.counts, default=2), 2),
    ):
        if value < least:
            raise ValueError(f"evaluate.{name} = {value}; give at least {least}")
    if choice.untrained < 1:
        raise ValueError("evaluate.untrained = 0: no result without this control; give at least 1")
    if choice.attentive or choice.finetune:
        steps(config, choice.window, "evaluate.window")
        in_samples(config, "evaluate.stride", choice.stride)


def check_data(adapter: ECGAdapter) -> None:
    """Complain before training about labels that the evaluation would miss.

    Raises:
        ValueError: no labels of the task in a part, fewer records than label efficiency asks for,
            recordings shorter than the heads' windows.
        FileNotFoundError: no file of the beat or rhythm task.
    """
    choice, data = adapter.config.evaluate, adapter.config.data
    task = task_labels(adapter.source.records, choice.task)
    off = "set evaluate.enabled to False to pretrain only"
    if task is None:
        own = "" if choice.task == "labels" else "set evaluate.task to 'labels' for its own, or "
        raise ValueError(
            f"{data.path} holds no labels of the task {choice.task!r}, which the probes need; "
            f"{own}{off}"
        )
    parts = Parts.of(adapter.source, task)
    for name, what in (("train", "training"), ("valid", "choices"), ("test", "scores")):
        y = parts.labels(name)
        if not ((y.sum(0) > 0) & (y.sum(0) < len(y))).any():
            raise ValueError(
                f"{data.path}: none of the {y.shape[1]} classes of the task {choice.task!r} has "
                f"both a positive and a negative among the {len(y)} records for {what}; change "
                f"data.valid_fold, data.test_fold or evaluate.task, or {off}"
            )
    if choice.counts and max(choice.counts) > len(parts.train):
        raise ValueError(
            f"evaluate.counts = {choice.counts}: there are {len(parts.train)} training records"
        )
    if choice.attentive or choice.finetune:
        window = in_samples(adapter.config, "evaluate.window", choice.window)
        if window > parts.train.samples:
            raise ValueError(
                f"evaluate.window = {choice.window} s; recordings are compared on their first "
                f"{parts.train.samples / adapter.config.preprocess.fs:g} s, give at most that"
            )
    for path in filter(None, (choice.beats, choice.rhythm)):
        open_records(path)


def slower(values: Tensor, fs: float, rate: float) -> Tensor:
    """Signals averaged down to about `rate` Hz, zeros where there is nothing."""
    factor = max(round(fs / rate), 1)
    values = values.nan_to_num()
    return values if factor == 1 else F.avg_pool1d(values, factor)


def chunked(part: Normalised, function: Any, size: int = 256) -> Array:
    """`function` over slices, as one float32 array."""
    with torch.inference_mode():
        pieces = [
            function(part[low : low + size]).float().cpu().numpy()
            for low in range(0, len(part), size)
        ]
    return np.concatenate(pieces)


def control_arms(parts: Parts, config: ECGConfig) -> tuple[Arm, Arm]:
    """Raw samples and random kernels."""
    fs = config.preprocess.fs

    def bar_input(values: Tensor) -> Tensor:
        return slower(values, fs, BAR_RATE)

    sample = bar_input(parts.train[slice(0, 1000)])
    kernels = config.evaluate.kernels
    bank = KernelBank.fit(sample, kernels, kind="rocket", seed=config.train.seed)
    arms = []
    for name, function in (
        ("raw", lambda values: slower(values, fs, RAW_RATE).flatten(1)),
        ("bar", lambda values: bank.features(bar_input(values))),
    ):
        held = [chunked(part, function) for part in (parts.valid, parts.test)]
        train = {"": chunked(parts.train, function)}
        arms.append(Arm(name, train, {"": np.concatenate(held)}))
    return arms[0], arms[1]


def encoder_arms(
    adapter: ECGAdapter, encoders: dict[str, list[nn.Module]], parts: Parts, run: Path
) -> list[Arm]:
    """Features of every encoder and seed under every pooling, each computed once and kept."""
    cache = FeatureCache(run / "features")
    poolings = adapter.config.evaluate.poolings
    marks = str(adapter.tokenizer.state_dict())

    def features(arm: str, model: nn.Module, name: str) -> dict[str, Array]:
        part: Normalised = getattr(parts, name)
        mark = fingerprint(model, part, marks)
        return cache.features(
            arm,
            name,
            poolings,
            mark,
            lambda names: extract(
                model, lambda x: tokens_of(adapter.tokenizer, x), part, names, batch_size=128
            ),
        )

    arms = []
    for name, models in encoders.items():
        train, held = [], []
        for number, model in enumerate(models):
            train.append(features(f"{name}{number}", model, "train"))
            both = [features(f"{name}{number}", model, part) for part in ("valid", "test")]
            held.append({p: np.concatenate([part[p] for part in both]) for p in poolings})
        arms.append(Arm(name, train, held))
    return arms


def evaluate(
    adapter: ECGAdapter, encoders: dict[str, list[nn.Module]], run: Path
) -> dict[str, float]:
    """Score every arm (spec of ECG, section 1.6; controls beside every number).

    Args:
        adapter: with its data open.
        encoders: `encoder` (teacher), `student`, `untrained` (several seeds).
        run: run folder; features are kept in `run/features`.

    Returns:
        Flat metrics, see `eval.multilabel.score_multilabel`.
    """
    config, choice = adapter.config, adapter.config.evaluate
    task = task_labels(adapter.source.records, choice.task)
    assert task is not None  # checked at the start
    parts = Parts.of(adapter.source, task)
    arms = encoder_arms(adapter, encoders, parts, run)
    raw, bar = control_arms(parts, config)
    joined = [
        concatenate(narrowed(arm, choice.pooling), bar)
        for arm in arms
        if arm.name in ("encoder", "untrained")
    ]
    held_y = np.concatenate([parts.labels("valid"), parts.labels("test")])
    valid = np.arange(len(held_y)) < len(parts.valid)
    metrics, scored = score_multilabel(
        [*arms, raw, bar, *joined],
        parts.labels("train"),
        held_y,
        valid,
        choice.probes,
        choice.pooling,
        choice.counts,
        choice.draws,
        config.train.seed,
    )
    curves = {
        name: scored[f"{name}/linear"][0]
        for name in ("encoder", "untrained", "bar")
        if f"{name}/linear" in scored
    }
    adapter.scored = (parts.labels("test"), task.classes, curves)
    for kind, wanted in (("attentive", choice.attentive), ("finetune", choice.finetune)):
        if wanted:
            metrics |= score_head(kind, adapter, encoders, parts, scored.get("bar/linear", []))
    if choice.beats:
        from jepa_modalities.adapters.ecg.beat import score_beats

        metrics |= score_beats(adapter, encoders, choice.beats)
    if choice.rhythm:
        from jepa_modalities.adapters.ecg.rhythm import score_rhythm

        metrics |= score_rhythm(adapter, encoders, choice.rhythm)
    for name in ("train", "valid", "test"):
        metrics[f"data/{name}_records"] = float(len(getattr(parts, name)))
    truth = parts.labels("test")
    metrics["data/classes_scored"] = float(((truth.sum(0) > 0) & (truth.sum(0) < len(truth))).sum())
    metrics["data/pretraining_records"] = float(len(adapter))
    return metrics


def narrowed(arm: Arm, pooling: str) -> Arm:
    """The same arm with its primary pooling only."""
    train, test = zip(*arm.seeds(), strict=True)
    return Arm(arm.name, *([{pooling: s[pooling]} for s in part] for part in (train, test)))
