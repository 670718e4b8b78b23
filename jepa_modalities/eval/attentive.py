"""Attentive probe: one learned query looks at the frozen tokens, a linear head reads the answer."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from jepa_modalities.core.draw import fixed_random
from jepa_modalities.core.schedules import warmup_cosine
from jepa_modalities.eval.probes import Fit, holdout

# Token numbers held as float32 at a time when statistics are taken and predictions made.
CHUNK = 20_000_000


class AttentiveHead(nn.Module):
    """Cross-attention of one learned query over tokens, then norm and linear head.

    The query is kept already multiplied by the key projection, one vector per attention head: the
    same function as query and key apart, without projecting every token.

    Args:
        dim: width of the tokens, divisible by `heads`.
        classes: number of classes.
        heads: attention heads.
    """

    def __init__(self, dim: int, classes: int, heads: int = 4) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads = {heads} must divide the token width {dim}")
        self.query = nn.Parameter(torch.empty(heads, dim).normal_(std=0.02))
        self.value = nn.Parameter(torch.empty(heads, dim, dim // heads).normal_(std=dim**-0.5))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def attention(self, x: Tensor) -> Tensor:
        """Weights of the tokens, (batch, heads, tokens), summing to 1."""
        return (self.query @ x.mT / math.sqrt(x.shape[-1])).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, dim) -> logits (batch, classes)."""
        looked = self.attention(x) @ x  # (batch, heads, dim)
        read = torch.einsum("bhd,hde->bhe", looked, self.value).flatten(1)
        return self.head(self.norm(read))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Reader:
    """Batches of frozen tokens, standardised per channel by training statistics.

    Attributes:
        mean: (dim,).
        std: (dim,).
        device: where the batches go.
    """

    mean: Tensor
    std: Tensor
    device: torch.device

    def __call__(self, tokens: NDArray[Any], rows: NDArray[np.int64]) -> Tensor:
        """Rows of (rows, tokens, dim) as float32 on the device."""
        part = torch.from_numpy(np.asarray(tokens[rows], dtype=np.float32))
        return part.sub_(self.mean).div_(self.std).to(self.device)


def attentive_probe(
    train_tokens: NDArray[Any],
    train_y: ArrayLike,
    test_tokens: NDArray[Any],
    heads: int = 4,
    epochs: int = 30,
    batch_size: int = 128,
    lrs: Sequence[float] = (1e-3, 3e-3, 1e-2),
    weight_decays: Sequence[float] = (1e-3, 1e-1),
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Fit:
    """Train an `AttentiveHead` on frozen tokens (V-JEPA, Bardes et al. 2024: attentive probing).

    Every pair of learning rate and weight decay is tried on nine tenths of the training rows; the
    best on the held-out tenth is trained again on all. Only a batch of tokens is on the device.

    Args:
        train_tokens: (rows, tokens, dim), float16 or float32, also a memory map.
        train_y: labels of any dtype, (rows,).
        test_tokens: (test rows, tokens, dim).
        heads: attention heads, a divisor of dim.
        epochs: passes over the training rows.
        batch_size: rows per step.
        lrs: learning rates to choose from.
        weight_decays: weight decays to choose from.
        seed: of the start, the order of the rows and the held-out part.
        device: where to train.

    Raises:
        ValueError: shapes that do not fit, tokens that are not finite, fewer than two classes.
    """
    start = time.perf_counter()
    y = np.asarray(train_y)
    _check(train_tokens, y, test_tokens)
    classes, code = np.unique(y, return_inverse=True)
    label = torch.from_numpy(code)
    mean, std = _channel_statistics("train_tokens", train_tokens)
    _channel_statistics("test_tokens", test_tokens)  # only to refuse NaN before the training
    read = Reader(mean, std, torch.device(device))
    blank = partial(AttentiveHead, train_tokens.shape[2], len(classes), heads)

    def train(rows: NDArray[np.int64], lr: float, decay: float) -> AttentiveHead:
        with fixed_random(seed):
            head = blank().to(read.device)
        optimiser = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=decay)
        batches = _batches(rows, epochs, batch_size, seed)
        for step, part in enumerate(batches, start=1):
            for group in optimiser.param_groups:
                group["lr"] = warmup_cosine(
                    step, len(batches), len(batches) // 10, lr / 10, lr, 0.0
                )
            out = head(read(train_tokens, part))
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(out, label[part].to(out.device)).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        return head

    pairs, chosen = list(product(lrs, weight_decays)), {}
    if len(pairs) > 1:
        held = holdout(y, seed=seed)
        inside, outside = np.flatnonzero(~held), np.flatnonzero(held)
        guesses = [_predict(train(inside, *pair), read, train_tokens, outside) for pair in pairs]
        accuracies = [float((guess.argmax(-1).numpy() == code[held]).mean()) for guess in guesses]
        best = int(np.argmax(accuracies))
        pairs, chosen = [pairs[best]], {"held_out": accuracies[best]}
    head = train(np.arange(len(y)), *pairs[0])
    scores = _predict(head, read, test_tokens, np.arange(len(test_tokens)))
    chosen = {"lr": pairs[0][0], "weight_decay": pairs[0][1], "epochs": epochs, **chosen}
    seconds = time.perf_counter() - start
    return Fit(classes[scores.argmax(-1).numpy()], chosen, seconds, scores.numpy(), classes)


def _batches(
    rows: NDArray[np.int64], epochs: int, batch_size: int, seed: int
) -> list[NDArray[np.int64]]:
    """Row numbers of every step; sorted inside a batch, so that memory maps read ahead."""
    generator = np.random.default_rng(seed)
    return [
        np.sort(order[first : first + batch_size])
        for order in (generator.permutation(rows) for _ in range(epochs))
        for first in range(0, len(order), batch_size)
    ]


@torch.no_grad()
def _predict(
    head: AttentiveHead, read: Reader, tokens: NDArray[Any], rows: NDArray[np.int64]
) -> Tensor:
    size = _rows_at_a_time(tokens)
    parts = (rows[first : first + size] for first in range(0, len(rows), size))
    return torch.cat([head(read(tokens, part)).cpu() for part in parts])


def _rows_at_a_time(tokens: NDArray[Any]) -> int:
    return max(1, CHUNK // int(np.prod(tokens.shape[1:])))


def _channel_statistics(name: str, tokens: NDArray[Any]) -> tuple[Tensor, Tensor]:
    """Mean and spread of each channel over rows and tokens, (dim,), a chunk at a time."""
    dim, size = tokens.shape[2], _rows_at_a_time(tokens)
    total, square = np.zeros(dim), np.zeros(dim)
    for first in range(0, len(tokens), size):
        part = np.asarray(tokens[first : first + size], dtype=np.float64).reshape(-1, dim)
        total += part.sum(0)
        square += np.einsum("nd,nd->d", part, part)
    if not np.isfinite(square).all():
        raise ValueError(
            f"{name}: {int((~np.isfinite(square)).sum())} of {dim} channels hold NaN or infinite "
            f"values; the encoder's weights or the input are broken"
        )
    count = len(tokens) * tokens.shape[1]
    mean = total / count
    std = np.sqrt(np.maximum(square / count - mean**2, 0))
    std[std <= 1e-6 * np.abs(mean)] = 1
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()


def _check(train: NDArray[Any], y: NDArray[Any], test: NDArray[Any]) -> None:
    for name, tokens in (("train_tokens", train), ("test_tokens", test)):
        if tokens.ndim != 3 or not tokens.size:
            raise ValueError(
                f"{name} have shape {tokens.shape}; expected (rows, tokens, dim), not empty: "
                f"reshape the pooling 'tokens' to (rows, tokens, dim)"
            )
    if train.shape[1:] != test.shape[1:]:
        raise ValueError(f"train_tokens {train.shape[1:]} and test_tokens {test.shape[1:]} differ")
    if y.shape != (len(train),) or len(np.unique(y)) < 2:
        raise ValueError(
            f"train_y has shape {y.shape} and {len(np.unique(y))} classes; expected "
            f"({len(train)},) and at least 2"
        )
