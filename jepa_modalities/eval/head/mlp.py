"""A multi-layer perceptron with one set of weights per seed in every matrix."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_modalities.core.draw import seeded
from jepa_modalities.eval.head.task import Predictions, Task
from jepa_modalities.eval.head.train import Recipe, best_of


class SeededLinear(nn.Module):
    """Linear layers of several seeds as one batched product; start as `nn.Linear`'s.

    Args:
        inputs: width.
        outputs: width.
        seeds: one set of weights each.
        layer: number of the layer, so that layers differ.
    """

    def __init__(self, inputs: int, outputs: int, seeds: Sequence[int], layer: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        drawn = []
        for seed in seeds:
            generator = seeded(seed, 3, layer)
            drawn.append(torch.rand(inputs + 1, outputs, generator=generator) * 2 * bound - bound)
        both = torch.stack(drawn)
        self.weight, self.bias = (
            nn.Parameter(both[:, :-1].clone()),
            nn.Parameter(both[:, -1].clone()),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(seeds, rows, inputs) -> (seeds, rows, outputs)."""
        return torch.baddbmm(self.bias[:, None], x, self.weight)


class Mlp(nn.Module):
    """Linear, ReLU, dropout, as often as `depth` says, and a linear output.

    Args:
        width: of the input.
        outputs: classes, or 1.
        seeds: one network each.
        hidden: width of the hidden layers.
        depth: number of hidden layers.
        dropout: after each of them.
    """

    def __init__(
        self,
        width: int,
        outputs: int,
        seeds: Sequence[int],
        hidden: int = 128,
        depth: int = 2,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        sizes = [width, *[hidden] * depth]
        self.layers = nn.ModuleList(
            SeededLinear(a, b, seeds, n) for n, (a, b) in enumerate(itertools.pairwise(sizes))
        )
        self.head, self.dropout = SeededLinear(sizes[-1], outputs, seeds, depth), dropout

    def forward(self, x: Tensor) -> Tensor:
        """(seeds, rows, width) -> (seeds, rows, outputs)."""
        for layer in self.layers:
            x = F.dropout(layer(x).relu(), self.dropout, self.training)
        out: Tensor = self.head(x)
        return out


def mlp(
    task: Task,
    seeds: Sequence[int] = (0,),
    recipes: Sequence[Recipe] = (Recipe(),),
    hidden: int = 128,
    depth: int = 2,
    device: torch.device | str = "cpu",
) -> Predictions:
    """An MLP head of 2 x 128 (the experiments' head with a longer schedule)."""

    def build(width: int, outputs: int, seeds: Sequence[int], recipe: Recipe) -> nn.Module:
        return Mlp(width, outputs, seeds, hidden, depth, recipe.dropout)

    return best_of(task, build, recipes, seeds, device)
