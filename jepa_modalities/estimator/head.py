"""Heads that stay: fitted on a table's features, asked for new rows later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_modalities.core.draw import fixed_random
from jepa_modalities.eval.head.finetune import DEFAULT, TunedEncoder
from jepa_modalities.eval.head.linear import fit_logistic, fit_ridge
from jepa_modalities.eval.head.mlp import Mlp
from jepa_modalities.eval.head.train import Recipe, Split, Stack, forward, train
from jepa_modalities.eval.probes import floats, holdout, standardise

HEADS = ("linear", "mlp", "finetune", "boosting")
FEWEST = 20  # labelled rows below which nothing is held out


@dataclass(frozen=True)
class Labels:
    """Targets as heads take them.

    Attributes:
        values: class numbers, or numbers, (rows,).
        classes: number of classes; 0 for regression.
    """

    values: NDArray[Any]
    classes: int

    @property
    def outputs(self) -> int:
        """Outputs of a head."""
        return self.classes or 1

    def held(self, seed: int) -> NDArray[np.bool_]:
        """True for a tenth of the rows, stratified by class; none of very few."""
        none = np.zeros(len(self.values), dtype=bool)
        if len(self.values) < FEWEST:
            return none
        if self.classes:
            return holdout(self.values, seed=seed)
        none[np.random.default_rng(seed).permutation(len(none))[::10]] = True
        return none

    def scaled(self) -> tuple[Tensor, float, float]:
        """Class numbers (rows,) with 0 and 1, or standardised numbers with mean and spread."""
        if self.classes:
            return torch.from_numpy(self.values.astype(np.int64)), 0.0, 1.0
        y = self.values.astype(np.float64)
        mean, std = float(y.mean()), float(y.std()) or 1.0
        return torch.from_numpy((y - mean) / std).float(), mean, std


Head = Callable[[NDArray[Any]], NDArray[np.float64]]


class NetHead:
    """A trained network with its scaling: features (or packed rows) -> logits or numbers.

    Args:
        net: (1, rows, ...) -> (1, rows, outputs).
        shift: subtracted from the input, broadcastable, or None.
        scale: the input is divided by it.
        mean: of the numbers to predict.
        std: their spread; 1 for classes.
    """

    def __init__(
        self,
        net: nn.Module,
        shift: Tensor | None,
        scale: Tensor | None,
        mean: float,
        std: float,
    ) -> None:
        self.net, self.shift, self.scale, self.mean, self.std = net.eval(), shift, scale, mean, std

    def __call__(self, x: Any) -> NDArray[np.float64]:
        """Logits or numbers, (rows, outputs)."""
        rows = x if isinstance(x, Tensor) else torch.from_numpy(np.ascontiguousarray(x)).float()
        if self.shift is not None and self.scale is not None:
            rows = (rows - self.shift) / self.scale
        place = next(self.net.parameters()).device
        out = forward(self.net, rows.to(place), 1)[0].double().cpu().numpy()
        result: NDArray[np.float64] = out * self.std + self.mean
        return result


class ModelHead:
    """Somebody else's fitted estimator.

    Args:
        model: with `predict`, and `predict_proba` for classes.
        classes: number of classes; 0 for regression.
    """

    def __init__(self, model: Any, classes: int) -> None:
        self.model, self.classes = model, classes

    def __call__(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Logarithms of the probabilities, or numbers, (rows, outputs)."""
        if not self.classes:
            return np.asarray(self.model.predict(x), dtype=np.float64)[:, None]
        if not hasattr(self.model, "predict_proba"):
            chosen = np.eye(self.classes)[np.asarray(self.model.predict(x), dtype=int)]
            return np.log(np.maximum(chosen, 1e-12))
        known = np.full((len(x), self.classes), 1e-12)
        known[:, np.asarray(self.model.classes_, dtype=int)] = self.model.predict_proba(x)
        return np.log(np.maximum(known, 1e-12))


def fit_on_features(head: Any, x: NDArray[Any], y: Labels, seed: int, device: str) -> Head:
    """Fit a named head or an estimator on features.

    Args:
        head: "linear", "mlp", "boosting", or a scikit-learn estimator, which is cloned.
        x: (rows, width).
        y: targets.
        seed: of everything random.
        device: of the MLP.

    Raises:
        ValueError: an unknown head.
    """
    if head == "linear":
        return fit_logistic(x, y.values.astype(np.int64)) if y.classes else fit_ridge(x, y.values)
    if head == "mlp":
        train = floats(x)
        shift, scale = (part.float() for part in standardise(train))

        def build(seeds: Sequence[int]) -> nn.Module:
            return Mlp(x.shape[1], y.outputs, seeds)

        return _fitted(build, (train.float() - shift) / scale, y, Recipe(), seed, device)(
            shift, scale
        )
    if head == "boosting":
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        kind: Any = HistGradientBoostingClassifier if y.classes else HistGradientBoostingRegressor
        return ModelHead(kind(random_state=seed).fit(x, y.values), y.classes)
    if isinstance(head, str) or not hasattr(head, "fit"):
        raise ValueError(
            f"head = {head!r}: choose from {', '.join(HEADS)}, or give a scikit-learn estimator"
        )
    from sklearn.base import clone

    return ModelHead(clone(head).fit(x, y.values), y.classes)


def fine_tuned(
    encoder: nn.Module,
    tokenizer: nn.Module,
    packed: Tensor,
    pooling: str,
    y: Labels,
    seed: int,
    device: str,
) -> NetHead:
    """Train a copy of the whole encoder with a linear head.

    Args:
        encoder: pretrained; stays as it is.
        tokenizer: packed rows -> Tokens.
        packed: (rows, features, 2).
        pooling: a name from `eval.features.POOLINGS`.
        y: targets.
        seed: of everything random.
        device: where to train.
    """

    def build(seeds: Sequence[int]) -> nn.Module:
        place = next(encoder.parameters()).device
        rows = packed[:2].to(place)
        return Stack([TunedEncoder(encoder, tokenizer, pooling, rows, y.outputs) for _ in seeds])

    return _fitted(build, packed, y, DEFAULT, seed, device)(None, None)


def _fitted(
    build: Callable[[Sequence[int]], nn.Module],
    x: Tensor,
    y: Labels,
    recipe: Recipe,
    seed: int,
    device: str,
) -> Callable[[Tensor | None, Tensor | None], NetHead]:
    """Train a network, a tenth of the rows held out for early stopping."""
    place = torch.device(device)
    values, mean, std = y.scaled()
    held = torch.from_numpy(y.held(seed))
    inside, outside = (~held, held) if bool(held.any()) else (~held, ~held)
    rows = x.to(place)
    split = Split(
        rows[inside.to(place)],
        values[inside].to(place),
        rows[outside.to(place)],
        values[outside].to(place),
        not y.classes,
    )
    # Of few rows, small batches: an epoch has about 16 steps, or none would learn.
    size = int(np.clip(len(split.x) // 16, 16, recipe.batch_size))
    recipe = replace(recipe, batch_size=size)
    with fixed_random(seed, place):
        net = build((seed,)).to(place)
        train(net, split, recipe, (seed,))
    net.requires_grad_(False)
    return lambda shift, scale: NetHead(net, shift, scale, mean, std)
