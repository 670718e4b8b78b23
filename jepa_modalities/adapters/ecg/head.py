"""Attentive probe and fine-tuning on crops of labelled recordings."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_modalities.adapters.ecg.config import ECGConfig
from jepa_modalities.adapters.ecg.model import in_samples
from jepa_modalities.adapters.ecg.part import Normalised, Parts, tokens_of
from jepa_modalities.adapters.ecg.tokenizer import ECGTokenizer
from jepa_modalities.core.batch import Tokens
from jepa_modalities.eval.macro_auc import resample_count as count_of
from jepa_modalities.eval.macro_auc import resamples
from jepa_modalities.eval.multilabel import intervals
from jepa_modalities.eval.multilabel_head import HeadRecipe, fit_head

if TYPE_CHECKING:
    from jepa_modalities.adapters.ecg.adapter import ECGAdapter


class RecordCrops:
    """Crops of the parts for the heads (see `eval.multilabel_head.Crops`).

    Args:
        parts: labelled recordings.
        tokenizer: cuts them.
        window: samples per crop.
        stride: samples between the crops of one recording.
    """

    def __init__(self, parts: Parts, tokenizer: ECGTokenizer, window: int, stride: int) -> None:
        self.parts, self.tokenizer = parts, tokenizer
        self.window_samples, self.stride = window, stride
        if parts.train.samples < window:
            raise ValueError(
                f"evaluate.window asks for {window} samples, recordings have {parts.train.samples}"
            )

    def random(self, rows: NDArray[np.int64], generator: torch.Generator) -> Tokens:
        """A random crop of each of these training records, within what is there of them."""
        values = self.parts.train[rows]
        there = self.parts.train.lengths[torch.from_numpy(rows)].clamp(max=values.shape[2])
        room = (there - self.window_samples + 1).clamp(min=1)
        share = torch.rand(len(rows), generator=generator)
        start = (share * room).long().minimum(room - 1)[:, None]
        index = start + torch.arange(self.window_samples)
        crop = values.gather(2, index[:, None].expand(-1, values.shape[1], -1))
        return self._tokens(crop)

    def window(self, part: str, number: int) -> Tokens:
        """Crop `number` of all records of a part."""
        low = number * self.stride
        values: Normalised = getattr(self.parts, part)
        return self._tokens(values[slice(0, len(values))][..., low : low + self.window_samples])

    def num_windows(self, part: str) -> int:
        """Crops per record: 7 for 10 s, 2.5 s windows and a stride of 1.25 s."""
        values: Normalised = getattr(self.parts, part)
        return (values.samples - self.window_samples) // self.stride + 1

    def _tokens(self, values: Tensor) -> Tokens:
        return tokens_of(self.tokenizer, values)


def head_recipe(kind: str, config: ECGConfig) -> HeadRecipe:
    """The paper's settings of a head (ECG-JEPA, downstream protocol) at the run's step count.

    Fine-tuning with `evaluate.finetune_pooling` starts from a probe instead, and learns more
    gently, from half of `evaluate.head_batch` at a time.
    """
    choice = config.evaluate
    common = HeadRecipe(
        steps=choice.head_steps,
        batch_size=choice.head_batch,
        single=choice.task == "single",
        check_every=max(choice.head_steps // 50, 10),
    )
    if kind == "attentive":
        return common
    tuned = replace(
        common,
        finetune=True,
        lr_end=1e-5,
        warmup=max(choice.head_steps // 50, 1),
        weight_decay=0.01,
        betas=(0.9, 0.99),
        dropout=0.05,
        mixup=choice.mixup,
    )
    if not choice.finetune_pooling:
        return tuned
    return replace(
        tuned,
        pooling=choice.finetune_pooling,
        lr=3e-4,
        layer_decay=0.75,
        batch_size=choice.head_batch // 2,
    )


def score_head(
    kind: str,
    adapter: ECGAdapter,
    encoders: dict[str, list[nn.Module]],
    parts: Parts,
    bar: list[NDArray[np.float64]],
) -> dict[str, float]:
    """Attentive probe or fine-tuning of the encoder beside the untrained one and the bar.

    Args:
        kind: "attentive" or "finetune".
        adapter: of the run.
        encoders: `encoder` and `untrained`; the first network of each is used.
        parts: labelled recordings.
        bar: scores of the bar's linear probe on the same test records.
    """
    config = adapter.config
    window = in_samples(config, "evaluate.window", config.evaluate.window)
    stride = in_samples(config, "evaluate.stride", config.evaluate.stride)
    crops = RecordCrops(parts, adapter.tokenizer, window, stride)
    recipe = head_recipe(kind, config)
    scored: dict[str, list[NDArray[np.float64]]] = {}
    metrics: dict[str, float] = {}
    for arm in ("encoder", "untrained"):
        model = encoders[arm][0]
        scores, chosen, _ = fit_head(
            model,
            crops,
            parts.labels("train"),
            parts.labels("valid"),
            recipe,
            config.encoder.heads,
            config.train.seed,
            next(model.parameters()).device,
        )
        scored[f"{arm}/{kind}"] = [scores]
        metrics |= {f"choice/{arm}_{kind}_{name}": value for name, value in chosen.items()}
    compared = {f"paired/encoder-untrained/{kind}": (f"encoder/{kind}", f"untrained/{kind}")}
    if bar:
        scored[f"bar/{kind}"] = bar  # the kernels have no weights to tune: their linear probe
        compared[f"paired/encoder-bar/{kind}"] = (f"encoder/{kind}", f"bar/{kind}")
    truth = parts.labels("test")
    weight = resamples(truth, count_of(truth), config.train.seed)
    return metrics | intervals(scored, truth, weight, compared)
