"""Full fine-tuning of a table's encoder: all its tokens under a linear head."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from jepa_modalities.core.batch import Tokens
from jepa_modalities.core.draw import fixed_random
from jepa_modalities.eval.features import encode, pool
from jepa_modalities.eval.head.task import Predictions, Task
from jepa_modalities.eval.head.train import Recipe, Split, Stack, outcomes, train

# A smaller rate than for heads alone, and no dropout: the encoder starts from something.
DEFAULT = Recipe(lr=1e-3, epochs=30, patience=6, dropout=0.0)


class TunedEncoder(nn.Module):
    """A copy of an encoder, its pooled tokens, a norm over the batch, and a linear head.

    Args:
        encoder: `encoder(tokens, blocks=True) -> Latents`.
        tokenize: packed rows -> Tokens; nothing in it learns.
        pooling: as `eval.features.pool` takes it.
        example: a few packed rows, from which the width is known.
        outputs: classes, or 1.
        dropout: on the pooled features.
    """

    def __init__(
        self,
        encoder: nn.Module,
        tokenize: Callable[[Tensor], Tokens],
        pooling: str,
        example: Tensor,
        outputs: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(True)
        self._tokenize, self.pooling = [tokenize], pooling  # in a list: no part of this module
        with torch.no_grad():
            width = self._pooled(example).shape[1]
        # The features' scale is the encoder's choice; without learned scale, as linear heads have.
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(width, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def _pooled(self, rows: Tensor) -> Tensor:
        tokens = self._tokenize[0](rows)
        return pool(encode(self.encoder, tokens, (self.pooling,)), self.pooling)

    def forward(self, rows: Tensor) -> Tensor:
        """(rows, features, 2) -> (rows, outputs)."""
        out: Tensor = self.head(self.dropout(self.norm(self._pooled(rows))))
        return out


def finetune(
    task: Task,
    encoder: nn.Module,
    tokenize: Callable[[Tensor], Tokens],
    packed: tuple[Tensor, Tensor, Tensor],
    seeds: Sequence[int] = (0,),
    recipe: Recipe = DEFAULT,
    pooling: str = "all_tokens",
    device: torch.device | str = "cpu",
) -> Predictions:
    """Train copies of the whole encoder; the one given stays as it is.

    Args:
        task: for its labels; the features in it are not looked at.
        encoder: pretrained, or untrained for the control "from scratch".
        tokenize: packed rows -> Tokens.
        packed: training, validation and test rows, (rows, features, 2).
        seeds: of the order of the rows.
        recipe: settings; `encoder_rate` is the encoder's share of the learning rate.
        pooling: as `eval.features.pool` takes it.
        device: where to train.
    """
    start = time.perf_counter()
    place = torch.device(device)
    x, val, test = (part.to(place) for part in packed)
    y, val_y, mean, std = task.targets()
    split = Split(x, y.to(place), val, val_y.to(place), task.regression)
    outputs = 1 if task.regression else len(task.classes)
    with fixed_random(seeds[0] if seeds else 0, place):
        one = TunedEncoder(encoder.to(place), tokenize, pooling, x[:2], outputs, recipe.dropout)
        net = Stack([copy.deepcopy(one).to(place) for _ in seeds])
        chosen = train(net, split, recipe, seeds)
    found = [outcomes(net, part, len(seeds), task.regression, mean, std) for part in (val, test)]
    return Predictions(
        np.asarray(found[0]), np.asarray(found[1]), chosen, time.perf_counter() - start
    )
