"""Fine-tuning of a small token encoder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jepa_modalities.core.batch import Tokens
from jepa_modalities.core.block import Style
from jepa_modalities.core.encoder import TokenEncoder
from jepa_modalities.core.positions import LearnedPosition, grid_positions
from jepa_modalities.eval.head.finetune import DEFAULT, finetune
from jepa_modalities.eval.head.metric import scores
from jepa_modalities.eval.head.task import Task


def tokenize(rows: Tensor) -> Tokens:
    """One token per column."""
    return Tokens(rows, grid_positions(rows.shape[1]))


@pytest.mark.parametrize("regression", [False, True])
def test_the_encoder_learns_on_in_a_copy(regression: bool) -> None:
    torch.manual_seed(0)
    encoder = TokenEncoder(nn.Linear(2, 8), LearnedPosition(3, 8), 8, 1, 2, Style(init="xavier"))
    before = {name: p.clone() for name, p in encoder.named_parameters()}
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (360, 3)).astype(np.float32)
    z = x[:, 0] * x[:, 1]
    y = z * 50 + 7 if regression else (z > 0).astype(int)
    packed = torch.from_numpy(np.stack([x, np.zeros_like(x)], axis=2))
    parts = [(x[n : n + 120], y[n : n + 120], packed[n : n + 120]) for n in (0, 120, 240)]
    task = Task(parts[0][0], parts[0][1], parts[1][0], parts[1][1], parts[2][0], regression)
    recipe = replace(DEFAULT, lr=2e-2, encoder_rate=1.0, batch_size=20, epochs=20, patience=20)
    rows = (parts[0][2], parts[1][2], parts[2][2])
    found = finetune(task, encoder, tokenize, rows, (0, 1), recipe)
    truth = parts[2][1]
    if regression:
        assert scores("rmse", found.test, truth).max() < 0.6 * truth.std()
    else:
        assert scores("accuracy", found.test, truth).min() > 0.8
    assert all(torch.equal(before[name], p) for name, p in encoder.named_parameters())
    # With a still encoder a linear head on random tokens does worse.
    frozen = finetune(task, encoder, tokenize, rows, (0,), replace(recipe, encoder_rate=0.0))
    assert np.mean(frozen.chosen["val_loss"]) > np.mean(found.chosen["val_loss"])
