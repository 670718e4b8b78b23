"""The tabular ResNet of Gorishniy et al. (2021), from `rtdl_revisiting_models`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import nn

from jepa_modalities.eval.head.task import Predictions, Task
from jepa_modalities.eval.head.train import Recipe, Stack, best_of


def models() -> Any:
    """The authors' package.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return import_module("rtdl_revisiting_models")
    except ImportError as error:
        raise ImportError(
            "the heads resnet and ft_transformer need rtdl_revisiting_models: pip install "
            "rtdl_revisiting_models (extra `tabular`)"
        ) from error


def resnet(
    task: Task,
    seeds: Sequence[int] = (0,),
    recipes: Sequence[Recipe] = (Recipe(),),
    blocks: int = 2,
    width: int = 192,
    device: torch.device | str = "cpu",
) -> Predictions:
    """A ResNet head (the paper's default shape: 2 blocks of 192, hidden layers twice as wide)."""
    library = models()

    def build(inputs: int, outputs: int, seeds: Sequence[int], recipe: Recipe) -> nn.Module:
        nets = []
        for seed in seeds:
            torch.manual_seed(seed)
            nets.append(
                library.ResNet(
                    d_in=inputs,
                    d_out=outputs,
                    n_blocks=blocks,
                    d_block=width,
                    d_hidden_multiplier=2.0,
                    dropout1=recipe.dropout,
                    dropout2=0.0,
                )
            )
        return Stack(nets)

    return best_of(task, build, recipes, seeds, device)
