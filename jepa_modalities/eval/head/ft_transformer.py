"""FT-Transformer (Gorishniy et al. 2021) from `rtdl_revisiting_models`, as a head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from jepa_modalities.eval.head.resnet import models
from jepa_modalities.eval.head.task import Predictions, Task
from jepa_modalities.eval.head.train import Recipe, Stack, best_of

MOST_TOKENS = 64  # attention grows with the square of the columns


class Adapted(nn.Module):
    """A learned map to at most `MOST_TOKENS` columns in front of the transformer.

    T-JEPA's own protocol does so ("linear_flatten": the head sees a row again, not the latents).

    Args:
        width: of the features.
        outputs: classes, or 1.
        blocks: of the transformer; its other sizes are the library's defaults for that depth.
    """

    def __init__(self, width: int, outputs: int, blocks: int) -> None:
        super().__init__()
        library = models()
        columns = min(width, MOST_TOKENS)
        self.adapter = nn.Linear(width, columns) if columns < width else nn.Identity()
        kwargs: dict[str, Any] = library.FTTransformer.get_default_kwargs(blocks)
        self.transformer = library.FTTransformer(
            n_cont_features=columns, cat_cardinalities=[], d_out=outputs, **kwargs
        )

    def forward(self, x: Tensor) -> Tensor:
        """(rows, width) -> (rows, outputs)."""
        out: Tensor = self.transformer(self.adapter(x), None)
        return out


def ft_transformer(
    task: Task,
    seeds: Sequence[int] = (0,),
    recipes: Sequence[Recipe] = (Recipe(lr=3e-4),),
    blocks: int = 1,
    device: torch.device | str = "cpu",
) -> Predictions:
    """An FT-Transformer head."""

    def build(width: int, outputs: int, seeds: Sequence[int], recipe: Recipe) -> nn.Module:
        nets = []
        for seed in seeds:
            torch.manual_seed(seed)
            nets.append(Adapted(width, outputs, blocks))
        return Stack(nets)

    return best_of(task, build, recipes, seeds, device)
