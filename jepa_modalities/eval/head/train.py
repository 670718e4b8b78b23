"""Train a torch head: several seeds side by side, each stopped by its own validation loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_modalities.core.draw import fixed_random, seeded
from jepa_modalities.core.schedules import warmup_cosine
from jepa_modalities.eval.head.task import Predictions, Task


@dataclass(frozen=True)
class Recipe:
    """How a head learns.

    Attributes:
        lr: peak learning rate of AdamW, falling to 0 by a cosine.
        weight_decay: on matrices.
        batch_size: rows per step.
        epochs: most passes over the training rows.
        patience: passes without a better validation loss after which a seed stops.
        dropout: in the hidden layers.
        encoder_rate: factor on the learning rate of an encoder that is fine-tuned.
    """

    lr: float = 1e-3
    weight_decay: float = 1e-4
    batch_size: int = 256
    epochs: int = 60
    patience: int = 10
    dropout: float = 0.2
    encoder_rate: float = 0.3


class Stack(nn.Module):
    """Separate networks, one per seed, with the signature of a batched one.

    Args:
        nets: (rows, width) -> (rows, outputs) each.
    """

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        """(seeds, rows, width) -> (seeds, rows, outputs)."""
        return torch.stack([net(part) for net, part in zip(self.nets, x, strict=True)])


def parts(net: nn.Module, seed: int) -> list[Tensor]:
    """All tensors of one seed, as views: rows of batched weights, or those of its own network."""
    if isinstance(net, Stack):
        return list(net.nets[seed].state_dict(keep_vars=False).values())
    return [tensor.detach()[seed] for tensor in net.state_dict(keep_vars=True).values()]


Build = Callable[[int, int, Sequence[int], Recipe], nn.Module]


@dataclass(frozen=True)
class Split:
    """Training and validation rows as tensors on one device.

    Attributes:
        x: (rows, ...).
        y: class numbers or standardised numbers, (rows,).
        val_x: (validation rows, ...).
        val_y: (validation rows,).
        regression: numbers instead of classes.
    """

    x: Tensor
    y: Tensor
    val_x: Tensor
    val_y: Tensor
    regression: bool


def fit_head(
    task: Task,
    build: Build,
    recipe: Recipe,
    seeds: Sequence[int] = (0,),
    device: torch.device | str = "cpu",
) -> Predictions:
    """Train one network per seed on standardised features, predict with each seed's best weights.

    Args:
        task: features and labels.
        build: (width, outputs, seeds, recipe) -> network (seeds, rows, width) -> (seeds, rows,
            outputs).
        recipe: settings.
        seeds: of weights, order and dropout.
        device: where to train.

    Raises:
        FloatingPointError: no epoch of a seed had a finite validation loss.
        ValueError: settings out of range.
    """
    start = time.perf_counter()
    place = torch.device(device)
    x, val, test = (part.to(place) for part in task.tensors())
    y, val_y, mean, std = task.targets()
    split = Split(x, y.to(place), val, val_y.to(place), task.regression)
    outputs = 1 if task.regression else len(task.classes)
    with fixed_random(seeds[0] if seeds else 0, place):
        net = build(x.shape[1], outputs, seeds, recipe).to(place)
        chosen = train(net, split, recipe, seeds)
    found = [outcomes(net, part, len(seeds), task.regression, mean, std) for part in (val, test)]
    return Predictions(found[0], found[1], chosen, time.perf_counter() - start)


def outcomes(
    net: nn.Module, x: Tensor, seeds: int, regression: bool, mean: float, std: float
) -> NDArray[np.float64]:
    """Probabilities (seeds, rows, classes), or numbers (seeds, rows) in the target's unit."""
    out = forward(net.eval(), x, seeds).double().cpu()
    found: NDArray[np.float64] = (
        out[..., 0] * std + mean if regression else out.softmax(-1)
    ).numpy()
    return found


def loss_of(out: Tensor, y: Tensor, regression: bool) -> Tensor:
    """Mean squared error or cross-entropy of every seed, (seeds,).

    Args:
        out: (seeds, rows, outputs).
        y: (seeds, rows).
        regression: which one.
    """
    if regression:
        return (out[..., 0] - y).square().mean(1)
    return F.cross_entropy(out.transpose(1, 2), y, reduction="none").mean(1)


@torch.no_grad()
def forward(net: nn.Module, x: Tensor, seeds: int, rows: int = 4096) -> Tensor:
    """Outputs of all seeds for the same rows, (seeds, rows, outputs)."""
    return torch.cat([net(part.expand(seeds, *part.shape)) for part in x.split(rows)], dim=1)


def train(net: nn.Module, split: Split, recipe: Recipe, seeds: Sequence[int]) -> dict[str, Any]:
    """Train in place and leave every seed's best weights.

    The seeds run through the rows in orders of their own; AdamW works number by number, so training
    them together gives what training one after the other gives, but for dropout.

    Returns:
        `best_epoch` and `val_loss`, one per seed, and the settings.

    Raises:
        FloatingPointError: no epoch of a seed had a finite validation loss.
        ValueError: settings out of range.
    """
    if min(recipe.batch_size, recipe.epochs, recipe.patience) < 1 or not seeds:
        raise ValueError(f"{recipe} with {len(seeds)} seeds: give at least 1 of each")
    count, size = len(seeds), min(recipe.batch_size, len(split.x))
    per_epoch = max(len(split.x) // size, 1)
    optimiser = _optimiser(net, recipe)
    orders = [seeded(seed, 2, 0) for seed in seeds]
    step, total = 0, recipe.epochs * per_epoch
    best, best_epoch = np.full(count, np.inf), np.zeros(count, dtype=int)
    kept: list[list[Tensor]] = [[] for _ in seeds]
    target = split.val_y.expand(count, -1)
    for epoch in range(1, recipe.epochs + 1):
        net.train()
        order = torch.stack([torch.randperm(len(split.x), generator=g) for g in orders])
        order = order.to(split.x.device)
        for at in range(0, per_epoch * size, size):
            rows = order[:, at : at + size]
            step += 1
            share = warmup_cosine(step, total, total // 50, 0.1, 1.0, 0.0)
            for group in optimiser.param_groups:
                group["lr"] = share * group["peak"]
            # The sum leaves every seed the gradient that it would have alone.
            loss = loss_of(net(split.x[rows]), split.y[rows], split.regression).sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        outputs = forward(net.eval(), split.val_x, count)
        losses = loss_of(outputs, target, split.regression).cpu().numpy()
        for number in range(count):
            waiting = epoch - best_epoch[number] <= recipe.patience
            if waiting and losses[number] < best[number]:
                best[number], best_epoch[number] = losses[number], epoch
                kept[number] = [tensor.clone() for tensor in parts(net, number)]
        if (epoch - best_epoch >= recipe.patience).all():
            break
    if not np.isfinite(best).all():
        raise FloatingPointError(
            f"a head diverged (best validation losses {best.tolist()}); lower lr = {recipe.lr}"
        )
    with torch.no_grad():
        for number in range(count):
            for tensor, value in zip(parts(net, number), kept[number], strict=True):
                tensor.copy_(value)
    return {"best_epoch": best_epoch.tolist(), "val_loss": best.tolist(), **asdict(recipe)}


def _optimiser(net: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; decay on matrices only, and a rate of its own for what is called `encoder`."""
    axes = 1 if isinstance(net, Stack) else 2  # of a vector; batched weights have one more
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        inner = "encoder" in name.split(".")
        groups.setdefault((parameter.ndim > axes, inner), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": recipe.weight_decay if matrix else 0.0,
                "peak": recipe.lr * (recipe.encoder_rate if inner else 1.0),
            }
            for (matrix, inner), parameters in groups.items()
        ],
        lr=recipe.lr,
        fused=True,
    )


def best_of(
    task: Task,
    build: Build,
    recipes: Sequence[Recipe],
    seeds: Sequence[int] = (0,),
    device: torch.device | str = "cpu",
) -> Predictions:
    """`fit_head` with the recipe of the lowest validation loss, averaged over seeds.

    The other recipes' test predictions are thrown away unseen.
    """
    tried: list[Predictions] = []
    for recipe in recipes:
        tried.append(fit_head(task, build, recipe, seeds, device))
    losses: list[Any] = [float(np.mean(item.chosen["val_loss"])) for item in tried]
    seconds = sum(item.seconds for item in tried)
    best = tried[int(np.argmin(losses))]
    return Predictions(best.val, best.test, {**best.chosen, "tried": len(tried)}, seconds)
