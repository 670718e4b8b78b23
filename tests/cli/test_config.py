"""Flags over a recipe: what was given counts."""

from __future__ import annotations

import pytest

from jepa_modalities.cli.config import merge
from jepa_modalities.config import RunConfig, TrainConfig
from jepa_modalities.settings import changed

LONG = RunConfig(train=TrainConfig(steps=1000))


@pytest.mark.parametrize(
    ("flags", "steps", "epochs"),
    [
        ([], 1000, 100),
        (["--train.epochs", "5"], None, 5),
        (["--train.epochs=5"], None, 5),
        (["--train.steps", "7"], 7, 100),
        (["--train.epochs", "5", "--train.steps", "7"], 7, 5),
        (["--train.steps", "None", "--train.epochs", "5"], None, 5),
    ],
)
def test_epochs_count_where_the_recipe_gave_steps(
    flags: list[str], steps: int | None, epochs: float
) -> None:
    train = merge(LONG, flags, "jm").train
    assert (train.steps, train.epochs) == (steps, epochs)
    values = " ".join(flags).replace("=", " ").split()
    settings = {
        name[2:]: None if value == "None" else int(value)
        for name, value in zip(values[::2], values[1::2], strict=True)
    }
    assert changed(LONG, settings).train == train  # the same rule in Python
