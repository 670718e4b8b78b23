"""Full fine-tuning of a copy of an encoder, with layer-wise learning rates."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from jepa_modalities.core.batch import Tokens, move
from jepa_modalities.core.draw import fixed_random
from jepa_modalities.core.schedules import warmup_cosine
from jepa_modalities.eval.features import encode, pool
from jepa_modalities.eval.probes import Fit
from jepa_modalities.eval.ridge import LinearModel, loo_ridge

SHARPNESS = 10.0  # logits per unit of a ridge probe's score

Group = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """How to fine-tune (defaults: MAE's and I-JEPA's recipes, at the scale of small data).

    Attributes:
        epochs: passes over the training rows.
        batch_size: rows per step.
        lr: peak learning rate of the head and the last layer.
        weight_decay: on matrices; biases, norms and position tables have none.
        layer_decay: factor on the learning rate per layer towards the input; 1 = none.
        warmup: share of the steps with rising learning rate.
        label_smoothing: probability given to all classes alike.
        mixup: both parameters of the Beta distribution of the mixing share; 0 = off.
        clip: largest norm of the gradient.
        pooling: of the tokens in front of the head, see `eval.features.POOLINGS`.
        head: "zero", or "ridge": start from the frozen probe on standardised features, so that the
            first step already knows what the probe knows (LP-FT, Kumar et al. 2022).
    """

    epochs: int = 20
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    layer_decay: float = 0.75
    warmup: float = 0.1
    label_smoothing: float = 0.1
    mixup: float = 0.0
    clip: float = 3.0
    pooling: str = "mean"
    head: Literal["zero", "ridge"] = "zero"


class Classifier(nn.Module):
    """An encoder, its pooled tokens, fixed standardisation, and a linear head that starts at zero.

    Args:
        encoder: `encoder(tokens) -> Latents`, or a timm model on images.
        width: of the pooled feature.
        classes: number of classes.
        pooling: of the tokens.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: nn.Module, width: int, classes: int, pooling: str = "mean") -> None:
        super().__init__()
        self.encoder, self.head, self.pooling = encoder, nn.Linear(width, classes), pooling
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: Tokens | Tensor) -> Tensor:
        """Tokens, or images for a timm model -> logits (batch, classes)."""
        features = represent(self.encoder, inputs, self.pooling)
        return self.head((features - self.mean) / self.std)  # type: ignore[no-any-return]

    @torch.no_grad()
    def start_from(self, probe: LinearModel) -> None:
        """Take over a ridge probe; its scores lie between 0 and 1, so they are stretched."""
        self.mean.copy_(probe.mean[0])
        self.std.copy_(probe.std[0])
        self.head.weight.copy_(probe.weight.T * SHARPNESS)
        self.head.bias.copy_(probe.level * SHARPNESS)


def represent(encoder: nn.Module, inputs: Tokens | Tensor, pooling: str = "mean") -> Tensor:
    """The pooled feature, (batch, width): tokens of our encoders, timm's own pooling."""
    if isinstance(inputs, Tokens):
        return pool(encode(encoder, inputs, (pooling,)), pooling, inputs.valid)
    out = encoder(inputs)
    return out if isinstance(out, Tensor) else pool(out, pooling)


def is_timm(encoder: nn.Module) -> bool:
    """Whether `encoder` is a timm model: these describe their own layers."""
    return hasattr(encoder, "group_matcher") and hasattr(encoder, "reset_classifier")


def layer_groups(
    encoder: nn.Module, weight_decay: float = 0.05, layer_decay: float = 0.75
) -> list[Group]:
    """Parameter groups with layer-wise learning rates (BEiT, Bao et al. 2021, appendix).

    Layer 0 is everything in front of the blocks, layer i + 1 is block i, the last is the norm; a
    layer's scale is layer_decay^(last - layer). Biases, other 1-D parameters, position tables,
    prefix and mask tokens have no weight decay.

    Args:
        encoder: has `embed`, `position`, `blocks` and `norm`, or is a timm model, whose groups timm
            makes itself.
        weight_decay: of the other parameters.
        layer_decay: factor per layer; 1 accepts any module.

    Returns:
        Groups with `params`, `weight_decay` and `lr_scale`; every parameter is in exactly one.

    Raises:
        ValueError: layer decay asked for an encoder without `blocks`.
    """
    if is_timm(encoder):
        optim = import_module("timm.optim")  # only where a timm model is used
        skip: set[str] = getattr(encoder, "no_weight_decay", set)()
        groups: list[Group] = optim.param_groups_layer_decay(
            encoder, weight_decay, no_weight_decay_list=skip, layer_decay=layer_decay
        )
        return [{key: g[key] for key in ("params", "weight_decay", "lr_scale")} for g in groups]
    blocks = getattr(encoder, "blocks", None)
    if blocks is None and layer_decay != 1:
        raise ValueError(
            f"layer_decay = {layer_decay} needs an encoder with .blocks, found "
            f"{type(encoder).__name__}; set layer_decay = 1"
        )
    last = 1 if blocks is None else len(blocks) + 1
    found: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in encoder.named_parameters():
        first = name.split(".")[0]
        flat = parameter.ndim < 2 or first in ("position", "prefix", "mask_token")
        found.setdefault((_layer(name, last), not flat), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decays else 0.0,
            "lr_scale": layer_decay ** (last - layer),
        }
        for (layer, decays), parameters in sorted(found.items(), key=lambda item: item[0])
    ]


def _layer(name: str, last: int) -> int:
    first, *rest = name.split(".")
    if first == "blocks":
        return int(rest[0]) + 1
    return 0 if first in ("embed", "position", "prefix", "mask_token") else last


def finetune(
    encoder: nn.Module,
    tokenize: Callable[[Any], Tokens | Tensor],
    train_raw: Tensor | NDArray[Any],
    train_y: ArrayLike,
    test_raw: Tensor | NDArray[Any],
    recipe: Recipe | None = None,
    augment: Callable[[Any, torch.Generator], Any] | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Fit:
    """Train a copy of the whole encoder with a linear head; the encoder given stays as it is.

    Args:
        encoder: `encoder(tokens) -> Latents`, or a timm model; the copy's weights all learn.
        tokenize: raw batch -> Tokens (images for a timm model), no learning inside.
        train_raw: (rows, ...).
        train_y: labels of any dtype, (rows,).
        test_raw: (test rows, ...).
        recipe: settings, None for the defaults; nothing is chosen on the test rows.
        augment: (raw batch, generator) -> raw batch, on training batches only.
        seed: of the head, the order of the rows, augmentation, mixup and dropout.
        device: where to train.

    Raises:
        ValueError: rows without labels, fewer than two classes, a batch size below 2.
        FloatingPointError: the loss is not finite at the end of an epoch.
    """
    start, recipe = time.perf_counter(), recipe or Recipe()
    y = np.asarray(train_y)
    classes, code = np.unique(y, return_inverse=True)
    if y.shape != (len(train_raw),) or len(classes) < 2:
        raise ValueError(
            f"train_y has shape {y.shape} and {len(classes)} classes; expected ({len(train_raw)},) "
            f"and at least 2"
        )
    if recipe.batch_size < 2 or recipe.epochs < 1:
        raise ValueError(
            f"batch_size = {recipe.batch_size}, epochs = {recipe.epochs}: give at least 2 and 1"
        )
    place = torch.device(device)
    with fixed_random(seed, place):
        model = _classifier(encoder, tokenize, train_raw, torch.from_numpy(code), recipe, place)
        onehot = F.one_hot(torch.from_numpy(code)).float()
        _train(model, tokenize, train_raw, onehot, recipe, augment, seed, place)
    scores = _predict(model, tokenize, test_raw, recipe.batch_size, place)
    chosen = {key: getattr(recipe, key) for key in ("epochs", "lr", "weight_decay", "layer_decay")}
    seconds = time.perf_counter() - start
    return Fit(classes[scores.argmax(-1).numpy()], chosen, seconds, scores.numpy(), classes)


def _classifier(
    encoder: nn.Module, tokenize: Any, raw: Any, label: Tensor, recipe: Recipe, device: torch.device
) -> Classifier:
    twin = copy.deepcopy(encoder).to(device).requires_grad_(True).eval()
    if is_timm(twin):
        twin.reset_classifier(0)  # type: ignore[operator]
    with torch.no_grad():
        rows, size = len(raw) if recipe.head == "ridge" else 2, recipe.batch_size
        parts = (raw[at : min(at + size, rows)] for at in range(0, rows, size))
        features = [represent(twin, move(tokenize(part), device), recipe.pooling) for part in parts]
    model = Classifier(twin, features[0].shape[-1], int(label.max()) + 1, recipe.pooling).to(device)
    if recipe.head == "ridge":
        model.start_from(loo_ridge(torch.cat(features).float().cpu().numpy(), label))
    return model


def _train(
    model: Classifier,
    tokenize: Callable[[Any], Tokens | Tensor],
    raw: Any,
    onehot: Tensor,
    recipe: Recipe,
    augment: Callable[[Any, torch.Generator], Any] | None,
    seed: int,
    device: torch.device,
) -> None:
    head: Group = {"params": list(model.head.parameters()), "weight_decay": 0.0, "lr_scale": 1.0}
    groups = layer_groups(model.encoder, recipe.weight_decay, recipe.layer_decay)
    optimiser = torch.optim.AdamW([*groups, head], lr=recipe.lr)
    generator, order = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    epochs = [_batches(len(raw), recipe.batch_size, order) for _ in range(recipe.epochs)]
    total, step = sum(map(len, epochs)), 0
    warmup = math.floor(recipe.warmup * total)
    model.train()
    for epoch, batches in enumerate(epochs, start=1):
        for rows in batches:
            step += 1
            lr = warmup_cosine(step, total, warmup, recipe.lr / (warmup + 1), recipe.lr, 0.0)
            for group in optimiser.param_groups:
                group["lr"] = lr * group["lr_scale"]
            part = raw[torch.from_numpy(rows)] if isinstance(raw, Tensor) else raw[rows]
            inputs = tokenize(part if augment is None else augment(part, generator))
            inputs, target = move(inputs, device), onehot[rows].to(device)
            if recipe.mixup:
                inputs, target = mix(inputs, target, float(order.beta(recipe.mixup, recipe.mixup)))
            loss = F.cross_entropy(model(inputs), target, label_smoothing=recipe.label_smoothing)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimiser.step()
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"fine-tuning diverged in epoch {epoch} (loss {loss.item()}); lower recipe.lr = "
                f"{recipe.lr} or check the input for NaN"
            )


def _batches(rows: int, size: int, order: np.random.Generator) -> Sequence[NDArray[np.int64]]:
    """One epoch's row numbers; an incomplete last batch is left out unless it is the only one."""
    shuffled = order.permutation(rows)
    return [shuffled[at : at + size] for at in range(0, max(rows - size, 0) + 1, size)]


def mix(inputs: Any, target: Tensor, share: float) -> tuple[Any, Tensor]:
    """Mixup (Zhang et al. 2018): every sample mixed with its mirror place in the batch.

    Args:
        inputs: Tokens or a tensor, (batch, ...); batches come shuffled, so the partner is random.
        target: class probabilities, (batch, classes).
        share: weight of the sample itself.
    """
    mixed = share * target + (1 - share) * target.flip(0)
    if isinstance(inputs, Tensor):
        return share * inputs + (1 - share) * inputs.flip(0), mixed
    values = share * inputs.values + (1 - share) * inputs.values.flip(0)
    valid = None if inputs.valid is None else inputs.valid | inputs.valid.flip(0)
    return Tokens(values, inputs.positions, valid), mixed


@torch.no_grad()
def _predict(
    model: Classifier, tokenize: Any, raw: Any, batch_size: int, device: torch.device
) -> Tensor:
    model.eval()
    parts = (raw[at : at + batch_size] for at in range(0, len(raw), batch_size))
    return torch.cat([model(move(tokenize(part), device)).float().cpu() for part in parts])
