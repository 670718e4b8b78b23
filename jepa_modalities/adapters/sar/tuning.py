"""Fine-tuning on few labelled chips, from pretrained and from untrained weights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from jepa_modalities.adapters.sar.augment import change, cut, draw_move, moves_only
from jepa_modalities.adapters.sar.config import SarAugmentConfig
from jepa_modalities.adapters.sar.source import Labelled
from jepa_modalities.core.batch import Tokens
from jepa_modalities.core.draw import Draw
from jepa_modalities.eval.fewshot import class_draws
from jepa_modalities.eval.finetune import Recipe, finetune
from jepa_modalities.eval.probes import Fit
from jepa_modalities.eval.statistics import t_interval

if TYPE_CHECKING:
    from jepa_modalities.adapters.sar.adapter import SarAdapter

# SAR-JEPA's fine-tuning (its evaluation code): 40 epochs, batch 50, AdamW 1e-3, decay 5e-4.
FINETUNE = Recipe(
    epochs=40,
    batch_size=50,
    lr=1e-3,
    weight_decay=5e-4,
    layer_decay=1.0,
    warmup=0.05,
    label_smoothing=0.0,
)
# From the frozen probe on (LP-FT). Of three pairs of rate and layer decay on jittered validation,
# two draws: 3e-4 and .75 .939, 3e-4 and 1 .936, 1e-3 and .75 .934; the frozen probe .936.
PROBE_FINETUNE = replace(
    FINETUNE, epochs=20, lr=3e-4, layer_decay=0.75, label_smoothing=0.1, head="ridge"
)


def finetuned(
    adapter: SarAdapter, encoders: dict[str, list[nn.Module]], train: Labelled, test: Labelled
) -> dict[str, float]:
    """All weights trained on few labels, from the pretrained and from untrained weights."""
    choice = adapter.config.evaluate
    truth = test.labels.numpy()
    metrics: dict[str, float] = {}
    for name in ("encoder", "untrained"):
        fits = fine_tune(adapter, encoders[name][0], train, test)
        mean, low, high = t_interval([float((fit.predictions == truth).mean()) for fit in fits])
        key = f"{name}/finetune_{choice.finetune_shots}shot/accuracy"
        metrics |= {key: mean, f"{key}_low": low, f"{key}_high": high}
    return metrics


def fine_tune(adapter: SarAdapter, model: nn.Module, train: Labelled, test: Labelled) -> list[Fit]:
    """A tuned copy of `model` for each draw of labels, scored on all test chips."""
    config, choice = adapter.config, adapter.config.evaluate
    augment = config.view_augment if config.views else config.augment
    recipe = FINETUNE
    if choice.finetune_head == "probe":
        recipe = replace(PROBE_FINETUNE, pooling=choice.pooling)
    labels = train.labels.numpy()

    def tokenize(raw: Tensor) -> Tokens:
        tokens: Tokens = adapter.tokenizer(raw.to(adapter.tokenizer.device))
        return tokens

    fits = []
    for number, rows in enumerate(
        class_draws(labels, choice.finetune_shots, choice.finetune_draws)
    ):
        fits.append(
            finetune(
                model,
                tokenize,
                train.images[torch.from_numpy(rows)],
                labels[rows],
                test.images,
                recipe,
                partial(augmented, adapter, augment),
                seed=number,
                device=adapter.tokenizer.device,
            )
        )
    return fits


def augmented(
    adapter: SarAdapter, augment: SarAugmentConfig, raw: Tensor, generator: torch.Generator
) -> Tensor:
    """Shifted and mirrored chips for fine-tuning, with the margin around them."""
    data = adapter.config.data
    size = (data.size[0] + 2 * data.margin, data.size[1] + 2 * data.margin)
    draw = Draw(len(raw), 0, len(raw), generator)
    spare = torch.tensor([raw.shape[-2] - size[0], raw.shape[-1] - size[1]])
    room = torch.stack([torch.zeros_like(spare), spare], -1).expand(len(raw), -1, -1)
    images = raw if moves_only(augment) else change(raw, augment, draw)
    return cut(images, draw_move(augment, room, draw), size)
