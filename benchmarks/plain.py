"""The plain formulation of a training step, part by part: what `step.py` holds ours against.

The same networks, weights and batch, and the same loss, written the way published code is.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Collection, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Generator, Tensor

from jepa_modalities.core import block
from jepa_modalities.core.masking import Masks

# What can be plain; all of it together is the plain formulation.
PARTS = {
    "masks": "drawn in a Python loop over samples",
    "embed": "all tokens embedded, then gathered",
    "attention": "its matrix laid out",
    "tail": "the predictor's last block computed for context tokens too",
    "optimiser": "AdamW, clipping and EMA parameter by parameter; the host reads the loss",
}


def plain_attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Attention whose matrix is laid out."""
    logits = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if bias is not None:
        logits = logits.masked_fill(~bias, -math.inf) if bias.dtype == torch.bool else logits + bias
    return logits.softmax(-1) @ v


def plain_block(self: Any, x: Tensor, bias: Any = None, tail: Any = None, **more: Any) -> Tensor:
    """Every token goes through the whole block."""
    out: Tensor = _block(self, x, bias, None, **more)
    return out


_block = block.Block.forward


@contextlib.contextmanager
def plain(parts: Collection[str]) -> Iterator[None]:
    """The networks with these parts in the plain formulation, while this lasts."""
    with contextlib.ExitStack() as stack:
        if "attention" in parts:
            stack.enter_context(mock.patch.object(block, "attend", plain_attend))
        if "tail" in parts:
            stack.enter_context(mock.patch.object(block.Block, "forward", plain_block))
        yield


class LoopedMasker:
    """As many permutations per sample as its masks have parts, drawn in a Python loop.

    Args:
        like: the vectorised masker's masks; those of the step before give the shapes.
    """

    def __init__(self, like: RecordedMasker) -> None:
        self.like = like

    def __call__(self, batch_size: int, generator: Generator, valid: Tensor | None = None) -> Masks:
        """Masks of the shapes last seen; not contiguous, which costs the network the same."""
        last, tokens = self.like.last, self.like.tokens
        seen, (blocks, count) = last.context.shape[1:], last.targets.shape[1:]
        contexts, targets = [], []
        for _ in range(batch_size):
            contexts.append(
                torch.stack(
                    [torch.randperm(tokens, generator=generator)[: seen[1]] for _ in range(seen[0])]
                )
            )
            targets.append(
                torch.stack(
                    [torch.randperm(tokens, generator=generator)[:count] for _ in range(blocks)]
                )
            )
        made = copy.copy(last)
        for name, parts in (("context", contexts), ("targets", targets)):
            object.__setattr__(made, name, torch.stack(parts))
        return made


class RecordedMasker:
    """The vectorised masker; remembers its last masks.

    Args:
        masker: draws them.
        tokens: of a sample.
    """

    def __init__(self, masker: Any, tokens: int) -> None:
        self.masker, self.tokens = masker, tokens
        self.last: Masks = masker(2, Generator().manual_seed(0))

    def __call__(self, batch_size: int, generator: Generator, valid: Tensor | None = None) -> Masks:
        """Its masks."""
        more = {} if valid is None else {"valid": valid}
        self.last = self.masker(batch_size, generator, **more)
        return self.last
