"""Attentive probe and fine-tuning on random crops, with the logits of several crops averaged."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_modalities.core.batch import Latents, Tokens, move
from jepa_modalities.core.draw import fixed_random
from jepa_modalities.core.schedules import warmup_cosine
from jepa_modalities.eval.features import encode, pool
from jepa_modalities.eval.finetune import layer_groups, mix
from jepa_modalities.eval.macro_auc import macro_auc
from jepa_modalities.eval.multilabel import LinearMultilabel, fit_multilabel

Array = NDArray[np.float64]


class Crops(Protocol):
    """Crops of the records of three parts: `train`, `valid` and `test`."""

    def random(self, rows: NDArray[np.int64], generator: torch.Generator) -> Tokens:
        """A random crop of each of these training records."""

    def window(self, part: str, number: int) -> Tokens:
        """Crop `number` of all records of a part."""

    def num_windows(self, part: str) -> int:
        """Crops per record of a part."""


@dataclass(frozen=True)
class HeadRecipe:
    """How a head is trained (defaults: the attentive "linear" protocol of ECG-JEPA, in few steps).

    Attributes:
        finetune: train the whole encoder, else only the head on frozen tokens.
        steps: optimiser steps.
        batch_size: records per step.
        lr: peak learning rate.
        lr_end: last learning rate; equal to `lr` for a constant one.
        warmup: steps with rising learning rate.
        weight_decay: on matrices.
        betas: of AdamW.
        clip: largest norm of the gradient; None for none.
        dropout: of the pooled feature.
        layer_decay: fine-tuning: factor on the learning rate per layer towards the input.
        mixup: both parameters of the Beta distribution; 0 = off.
        check_every: steps between looks at the records for choices; the best look is kept.
        single: exactly one label per record: softmax instead of a sigmoid per label.
        pooling: fine-tuning: starts from the logistic regression on this pooling of the untouched
            encoder (LP-FT, Kumar et al. 2022), see `eval.features.POOLINGS`; empty: from a random
            layer on the register token, or on mean and maximum of the tokens without a register.
    """

    finetune: bool = False
    steps: int = 5000
    batch_size: int = 128
    lr: float = 1e-3
    lr_end: float = 1e-3
    warmup: int = 0
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = 1.0
    dropout: float = 0.0
    layer_decay: float = 1.0
    mixup: float = 0.0
    check_every: int = 100
    single: bool = False
    pooling: str = ""


class AttentivePool(nn.Module):
    """One learned query attends to register and patch tokens (ECG-JEPA's "linear" head).

    q = W_q query, keys and values by one layer, the encoder's head count; no norm, MLP, residual or
    bias.

    Args:
        dim: width of the tokens.
        heads: attention heads, a divisor of dim.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.empty(1, 1, dim).normal_(std=0.02))
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """(batch, tokens, dim) -> (batch, dim)."""
        q, k, v = self.split(x)
        mask = None if valid is None else valid[:, None, None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return out.transpose(1, 2).flatten(1)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, keys and values, (batch, heads, 1 or tokens, head width)."""
        q = self.q(self.query).expand(len(x), -1, -1)
        parts = (q, *self.kv(x).chunk(2, -1))
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        return q, k, v

    def attention(self, x: Tensor) -> Tensor:
        """Weights of the tokens, (batch, heads, tokens)."""
        q, k, _ = self.split(x)
        return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)[:, :, 0]


class HeadModel(nn.Module):
    """Encoder, pooling and linear layer.

    Args:
        encoder: `encoder(tokens) -> Latents`, `dim` wide.
        classes: number of labels.
        recipe: frozen encoder with attentive pooling, or all weights.
        heads: attention heads of the pooling.
        probe: what the linear layer starts from, on `recipe.pooling`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        classes: int,
        recipe: HeadRecipe,
        heads: int,
        probe: LinearMultilabel | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.frozen = encoder, not recipe.finetune
        self.pooling = recipe.pooling
        dim = int(encoder.dim)  # type: ignore[arg-type]
        self.pool = AttentivePool(dim, heads) if self.frozen else None
        register = getattr(encoder, "prefix", None) is not None
        width = dim if self.frozen or register else 2 * dim
        self.dropout = nn.Dropout(recipe.dropout)
        self.head = nn.Linear(width if probe is None else probe.mean.shape[1], classes)
        nn.init.zeros_(self.head.bias)
        nn.init.normal_(self.head.weight, std=0.02)
        self.register_buffer("mean", torch.zeros(1) if probe is None else probe.mean)
        self.register_buffer("std", torch.ones(1) if probe is None else probe.std)
        if probe is not None:
            with torch.no_grad():
                self.head.weight.copy_(probe.weight)
                self.head.bias.copy_(probe.bias)

    def forward(self, tokens: Tokens) -> Tensor:
        """(batch, classes)."""
        return self.head(self.dropout(self.features(tokens)))  # type: ignore[no-any-return]

    def features(self, tokens: Tokens) -> Tensor:
        """What the linear layer sees, (batch, width)."""
        if self.pooling:
            return (pooled(self.encoder, tokens, self.pooling) - self.mean) / self.std
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            latents: Latents = self.encoder(tokens)
        if self.pool is not None:
            x, valid = latents.tokens, tokens.valid
            if latents.prefix is not None:
                x = torch.cat([latents.prefix, x], 1)
                extra = latents.prefix.shape[1]
                valid = None if valid is None else F.pad(valid, (extra, 0), value=True)
            return self.pool(x, valid)  # type: ignore[no-any-return]
        if latents.prefix is not None:
            return latents.prefix[:, 0]
        parts = pool(latents, "mean_std_max", tokens.valid).chunk(3, -1)
        return torch.cat([parts[0], parts[2]], -1)


def pooled(encoder: nn.Module, tokens: Tokens, pooling: str) -> Tensor:
    """One vector per crop, (batch, width)."""
    return pool(encode(encoder, tokens, (pooling,)), pooling, tokens.valid)


def fit_head(
    encoder: nn.Module,
    crops: Crops,
    train_y: NDArray[Any],
    valid_y: NDArray[Any],
    recipe: HeadRecipe,
    heads: int = 4,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[Array, dict[str, float], nn.Module]:
    """Train a head, or head and encoder; the state with the best macro AUC for choices is scored.

    Args:
        encoder: stays as it is.
        crops: of the records.
        train_y: 0 or 1, (rows, classes).
        valid_y: of the records for choices.
        recipe: settings.
        heads: attention heads of the pooling.
        seed: of the start, the order of the rows and the crops.
        device: where to train.

    Returns:
        Scores of the test records, (rows, classes), averaged over their crops; the chosen step and
        its macro AUC; the model.

    Raises:
        FloatingPointError: the loss is not finite at a look.
    """
    place = torch.device(device)
    with fixed_random(seed, place):
        twin = copy.deepcopy(encoder).to(place).requires_grad_(recipe.finetune)
        probe = None
        if recipe.pooling:
            of = functools.partial(pooled, twin.eval(), pooling=recipe.pooling)
            x, v = (over_crops(of, crops, part, place).float() for part in ("train", "valid"))
            probe = fit_multilabel(x, train_y, v, valid_y)
        model = HeadModel(twin, train_y.shape[1], recipe, heads, probe).to(place)
        optimiser = torch.optim.AdamW(_groups(model, recipe), lr=recipe.lr, betas=recipe.betas)
        generator, order = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
        target = torch.from_numpy(np.asarray(train_y)).float()
        best, found, kept = -1.0, {}, None
        rows = _rows(len(train_y), recipe.batch_size, order)
        loss = torch.zeros(())
        for step in range(1 if probe is None else 0, recipe.steps + 1):
            if step > 0:
                part = next(rows)
                tokens, label = move(crops.random(part, generator), place), target[part].to(place)
                if recipe.mixup:
                    share = float(order.beta(recipe.mixup, recipe.mixup))
                    tokens, label = mix(tokens, label, share)
                loss = _step(model, optimiser, tokens, label, recipe, step)
            if step % recipe.check_every == 0 or step == recipe.steps:
                if not bool(torch.isfinite(loss)):
                    raise FloatingPointError(
                        f"training of the head diverged by step {step}; lower its lr = {recipe.lr}"
                    )
                reached = macro_auc(valid_y, predict(model, crops, "valid", recipe.single))
                if reached > best:
                    best, found = reached, {"step": float(step), "valid": reached}
                    kept = {k: v.clone() for k, v in model.state_dict().items()}
        assert kept is not None
        model.load_state_dict(kept)
    return predict(model, crops, "test", recipe.single), found, model


def _groups(model: HeadModel, recipe: HeadRecipe) -> list[dict[str, Any]]:
    parts = [module for module in (model.pool, model.head) if module is not None]
    head = [p for module in parts for p in module.parameters()]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in head if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in head if p.ndim == 1], "weight_decay": 0.0},
    ]
    if recipe.finetune:
        groups += layer_groups(model.encoder, recipe.weight_decay, recipe.layer_decay)
    return [{"lr_scale": 1.0, **group} for group in groups if group["params"]]


def _rows(count: int, size: int, order: np.random.Generator) -> Any:
    """Row numbers of every step, for ever; epochs follow each other without a gap."""
    waiting = np.zeros(0, np.int64)
    while True:
        while len(waiting) < size:
            waiting = np.r_[waiting, order.permutation(count)]
        part, waiting = waiting[:size], waiting[size:]
        yield part


def _step(
    model: HeadModel,
    optimiser: torch.optim.Optimizer,
    tokens: Tokens,
    label: Tensor,
    recipe: HeadRecipe,
    step: int,
) -> Tensor:
    model.train(recipe.finetune)
    lr = warmup_cosine(step, recipe.steps, recipe.warmup, recipe.lr / 100, recipe.lr, recipe.lr_end)
    for group in optimiser.param_groups:
        group["lr"] = lr * group["lr_scale"]
    out = model(tokens)
    if recipe.single:
        loss = F.cross_entropy(out, label)
    else:
        loss = F.binary_cross_entropy_with_logits(out, label)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if recipe.clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    optimiser.step()
    return loss.detach()


def predict(model: nn.Module, crops: Crops, part: str, single: bool) -> Array:
    """Logits averaged over each record's crops, then softmax for single labels; (rows, classes)."""
    mean = over_crops(model.eval(), crops, part, next(model.parameters()).device)
    return (mean.softmax(1) if single else mean).double().numpy()


@torch.no_grad()
def over_crops(
    function: Callable[[Tokens], Tensor],
    crops: Crops,
    part: str,
    device: torch.device,
    size: int = 256,
) -> Tensor:
    """What a function makes of each crop, (rows, width), averaged over the crops of a record.

    Crops of nothing but padding do not count; a record without any other gets zeros.
    """
    total, count = torch.zeros(1, 1), torch.zeros(1, 1)
    for number in range(crops.num_windows(part)):
        tokens = crops.window(part, number)
        pieces = []
        for low in range(0, len(tokens), size):
            rows = slice(low, low + size)
            valid = None if tokens.valid is None else tokens.valid[rows]
            piece = Tokens(tokens.values[rows], tokens.positions, valid)
            pieces.append(function(move(piece, device)).double().cpu())
        found = torch.cat(pieces)
        shown = torch.ones(len(found), 1, dtype=torch.bool)
        if tokens.valid is not None:
            shown = tokens.valid.any(1, keepdim=True).cpu()
        total = total + found.masked_fill(~shown, 0)
        count = count + shown
    return total / count.clamp(min=1)
