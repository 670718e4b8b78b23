"""The few containers that travel between the pieces: raw batch, tokens, latents."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """One modality's sample as a set of raw tokens, not yet embedded.

    Attributes:
        values: raw token features, float, (batch, tokens, features).
        positions: coordinates on the sample's grid, float, (tokens, axes); the same for the batch.
        valid: False where a token is padding, bool, (batch, tokens); None when all are real.
    """

    values: Tensor
    positions: Tensor
    valid: Tensor | None = None

    def __len__(self) -> int:
        return self.values.shape[0]


@dataclass(frozen=True)
class Latents:
    """What an encoder returns.

    Attributes:
        tokens: (batch, groups, keep, dim) under masks, else (batch, tokens, dim).
        positions: coordinates of ALL tokens of the sample, (tokens, axes), for the predictor.
        prefix: register or class tokens, (batch, [groups,] prefix, dim), or None.
        blocks: outputs of every block (before the last norm), each shaped like `tokens`, or None.
        hidden: activations inside every block's MLP, tokens as in `tokens`, as wide as its hidden
            layer, or None.
    """

    tokens: Tensor
    positions: Tensor
    prefix: Tensor | None = None
    blocks: list[Tensor] | None = None
    hidden: list[Tensor] | None = None


@dataclass(frozen=True)
class Batch:
    """One optimiser step's samples of this process, on the device.

    Attributes:
        context: tokens from which the context encoder sees its part.
        target: tokens from which the target is made (most methods: the same sample).
        views: tokens of further views of each sample, for two-view terms.
        keep: token numbers that the student sees of each view, long, (views, batch, keep), or None.
        raw: the preprocessed sample that fixed targets look at, (batch, ...), or None.
        condition: actions or times for a conditioned predictor.
        labels: never used for training; carried for probes.
        ids: row numbers of the samples in the data, long, (batch,).
    """

    context: Tokens
    target: Tokens
    views: tuple[Tokens, ...] = ()
    keep: Tensor | None = None
    raw: Tensor | None = None
    condition: Tensor | None = None
    labels: Tensor | None = None
    ids: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        return Batch(**{f.name: move(getattr(self, f.name), device) for f in fields(self)})


def move(item: Any, device: torch.device | str) -> Any:
    """Move tensors, tuples and this module's containers to `device`; leave the rest alone."""
    if isinstance(item, Tensor):
        return item.to(device, non_blocking=True)
    if isinstance(item, tuple):
        return tuple(move(part, device) for part in item)
    if isinstance(item, Tokens):
        return Tokens(*(move(getattr(item, f.name), device) for f in fields(item)))
    return item
