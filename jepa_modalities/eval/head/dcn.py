"""DCN V2 (Wang et al. 2021): explicit feature crosses beside a deep network."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_modalities.eval.head.mlp import SeededLinear
from jepa_modalities.eval.head.task import Predictions, Task
from jepa_modalities.eval.head.train import Recipe, best_of

WIDEST = 256  # a cross layer has width^2 weights; wider input goes through a learned map first


class CrossNetwork(nn.Module):
    """x -> x0 * (W x + b) + x, `crosses` times, in parallel with an MLP (section 3, "parallel").

    Args:
        width: of the input.
        outputs: classes, or 1.
        seeds: one network each.
        crosses: number of cross layers.
        hidden: width of the deep part.
        depth: layers of the deep part.
        dropout: in the deep part.
    """

    def __init__(
        self,
        width: int,
        outputs: int,
        seeds: Sequence[int],
        crosses: int = 2,
        hidden: int = 256,
        depth: int = 2,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        narrow = min(width, WIDEST)
        self.adapter = SeededLinear(width, narrow, seeds, 0) if narrow < width else None
        self.crosses = nn.ModuleList(
            SeededLinear(narrow, narrow, seeds, 1 + n) for n in range(crosses)
        )
        sizes = [narrow, *[hidden] * depth]
        self.deep = nn.ModuleList(
            SeededLinear(a, b, seeds, 100 + n) for n, (a, b) in enumerate(itertools.pairwise(sizes))
        )
        self.head = SeededLinear(narrow + sizes[-1], outputs, seeds, 200)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """(seeds, rows, width) -> (seeds, rows, outputs)."""
        if self.adapter is not None:
            x = self.adapter(x)
        crossed, deep = x, x
        for layer in self.crosses:
            crossed = x * layer(crossed) + crossed
        for layer in self.deep:
            deep = F.dropout(layer(deep).relu(), self.dropout, self.training)
        out: Tensor = self.head(torch.cat([crossed, deep], dim=-1))
        return out


def dcn(
    task: Task,
    seeds: Sequence[int] = (0,),
    recipes: Sequence[Recipe] = (Recipe(),),
    crosses: int = 2,
    device: torch.device | str = "cpu",
) -> Predictions:
    """A DCN V2 head; own code, because no kept package holds it alone."""

    def build(width: int, outputs: int, seeds: Sequence[int], recipe: Recipe) -> nn.Module:
        return CrossNetwork(width, outputs, seeds, crosses, dropout=recipe.dropout)

    return best_of(task, build, recipes, seeds, device)
