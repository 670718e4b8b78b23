"""SCARF and VIME features for `tabular_suite.py --peers`: networks and VIME's loss from `ts3l`.

Its data sets corrupt one row at a time in Python; here the corruption is drawn for a whole batch,
from the columns' own values as both papers do. Its contrastive loss makes a tensor of (2 batch)^2 x
width; `contrast` has the same value by one matrix product. The loop is a plain one.
pip install ts3l (0.70)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tabular_arm import Data, Triple
from torch import Tensor, nn

from jepa_modalities.adapters.tabular.preprocess import TableArrays
from jepa_modalities.core.draw import seeded

WIDTH, LAYERS, BATCH, LR = 256, 4, 256, 1e-3
SCARF_RATE, VIME_RATE = 0.6, 0.3  # the papers' shares of corrupted columns


class Columns:
    """Rows as one number per column, and what networks see of them.

    Args:
        arrays: scaled numbers and codes.
        cardinalities: codes per categorical column.
    """

    def __init__(self, arrays: TableArrays, cardinalities: tuple[int, ...]) -> None:
        numbers = np.nan_to_num(arrays.numeric, nan=0.0)
        both = np.concatenate([numbers, arrays.category.astype(np.float32)], axis=1)
        self.values = torch.from_numpy(both.astype(np.float32))
        self.numeric, self.cardinalities = numbers.shape[1], cardinalities

    def encode(self, values: Tensor) -> Tensor:
        """Numbers beside one-hot categories, (rows, width)."""
        parts = [values[:, : self.numeric]]
        for at, count in enumerate(self.cardinalities):
            code = values[:, self.numeric + at].long()
            parts.append(nn.functional.one_hot(code, count).float())
        return torch.cat(parts, dim=1)

    def spread(self, columns: Tensor) -> Tensor:
        """A number per column as a number per encoded column, (rows, width)."""
        repeats = torch.tensor([1] * self.numeric + list(self.cardinalities))
        return columns.repeat_interleave(repeats, dim=1)


def corrupted(columns: Columns, rows: Tensor, rate: float, generator: Any) -> tuple[Tensor, Tensor]:
    """Rows with a share of their columns replaced by other rows' values, and where.

    Args:
        columns: of the training rows.
        rows: row numbers, (batch,).
        rate: share of the columns.
        generator: the only source of randomness.
    """
    values = columns.values[rows]
    where = torch.rand(values.shape, generator=generator) < rate
    other = torch.randint(0, len(columns.values), values.shape, generator=generator)
    drawn = columns.values.gather(0, other)
    return torch.where(where, drawn, values), where


def contrast(first: Tensor, second: Tensor, temperature: float = 1.0) -> Tensor:
    """NT-Xent of two views of every row, unit vectors (batch, width) each (SimCLR, equation 1)."""
    both = torch.cat([first, second])
    similarity = (both @ both.T / temperature).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(both)).roll(len(first))
    return nn.functional.cross_entropy(similarity, partner)


def peer_features(data: Data, name: str, steps: int, seed: int) -> Triple:
    """Frozen features of a pretrained peer.

    Args:
        data: the table.
        name: "scarf" or "vime".
        steps: optimiser steps, as many as the JEPA gets.
        seed: of weights, rows and corruption.

    Raises:
        SystemExit: ts3l is not installed.
    """
    try:
        from ts3l.functional.vime import first_phase_loss
        from ts3l.models.scarf.scarf import SCARF
        from ts3l.models.vime.vime import VIME
        from ts3l.utils.backbone_utils import MLPBackboneConfig
        from ts3l.utils.embedding_utils import IdentityEmbeddingConfig
    except ImportError as error:
        raise SystemExit(f"--peers needs ts3l: pip install ts3l ({error})") from None
    process = data.preprocess("quantile")
    parts = [Columns(part, tuple(process.cardinalities)) for part in data.arrays(process)]
    train = parts[0]
    width = train.encode(train.values[:1]).shape[1]
    embedding = IdentityEmbeddingConfig(input_dim=width)
    backbone = MLPBackboneConfig(
        input_dim=width, hidden_dims=WIDTH, output_dim=WIDTH, n_hiddens=LAYERS
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any
        if name == "scarf":
            model = SCARF(embedding, backbone, pretraining_head_dim=WIDTH, output_dim=1)
        else:
            model = VIME(
                embedding, backbone, train.numeric, list(train.cardinalities), WIDTH, output_dim=1
            )
        optimiser = torch.optim.AdamW(model.parameters(), lr=LR)
        generator = seeded(seed, 7, 0)
        model.train()
        for _ in range(steps):
            rows = torch.randint(0, len(train.values), (BATCH,), generator=generator)
            rate = SCARF_RATE if name == "scarf" else VIME_RATE
            other, where = corrupted(train, rows, rate, generator)
            if name == "scarf":
                loss = contrast(*model(train.encode(train.values[rows]), train.encode(other)))
            else:
                mask = train.spread((where & (other != train.values[rows])).float())
                told, categories, numbers = model(train.encode(other))
                clean = train.values[rows]
                terms = first_phase_loss(
                    clean[:, train.numeric :],
                    clean[:, : train.numeric],
                    mask,
                    categories,
                    numbers,
                    told,
                    nn.BCELoss(),
                    nn.CrossEntropyLoss(),
                    nn.MSELoss(),
                )
                loss = terms[0] + terms[1] + 2.0 * terms[2]  # alpha of the paper and of ts3l
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
    model.eval()
    found = []
    with torch.no_grad():
        for part in parts:
            chunks = part.values.split(4096)
            made = [model.encoder(model.embedding_module(part.encode(c))) for c in chunks]
            found.append(torch.cat(made).numpy())
    return found[0], found[1], found[2]
