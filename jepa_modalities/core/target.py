"""What is predicted: the teacher's latents, a fixed function of the input, or one, then both."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_modalities.core.batch import Batch
from jepa_modalities.core.encoder import TokenEncoder
from jepa_modalities.core.losses import Gather


class Target(Protocol):
    """(batch, teacher) -> features of every token, (batch, tokens, dim), detached.

    Attributes:
        dim: width of the features.
        channel_weight: weight of each channel in the prediction loss, (dim,), or None for equal.
    """

    @property
    def dim(self) -> int: ...

    @property
    def channel_weight(self) -> Tensor | None: ...

    def __call__(self, batch: Batch, teacher: TokenEncoder) -> Tensor: ...

    def schedule(self, progress: float) -> None:
        """Tell the share of training done, 0 to 1, before each step."""


class EmaTarget(nn.Module):
    """Latents of the EMA encoder on the WHOLE input, normalised (I-JEPA, section 3).

    Args:
        dim: width of the encoder.
        layer_norm: parameter-free layer norm over the features of each token.
        layers: mean of the outputs of the last so many blocks (data2vec, section 3.3); 1 = the
            final output.
        centre: subtract the mean latent of the batch at each position: what all samples share
            there is position, and need not be predicted.
        gather: concatenates over processes, so that the mean is the global batch's.
    """

    channel_weight = None

    def __init__(
        self,
        dim: int,
        layer_norm: bool = True,
        layers: int = 1,
        centre: bool = False,
        gather: Gather = lambda x: x,
    ) -> None:
        super().__init__()
        self.dim, self.layer_norm, self.layers = dim, layer_norm, layers
        self.centre, self.gather = centre, gather

    def forward(self, batch: Batch, teacher: TokenEncoder) -> Tensor:
        latents = teacher(batch.target, blocks=self.layers > 1)
        x = latents.tokens
        if latents.blocks is not None:
            last = [F.layer_norm(block, (self.dim,)) for block in latents.blocks[-self.layers :]]
            x = torch.stack(last).mean(0)
        if self.layer_norm:
            x = F.layer_norm(x, (self.dim,))
        if self.centre:
            x = x - self.gather(x.mean(0, keepdim=True)).mean(0)
        return x

    def schedule(self, progress: float) -> None:
        """Nothing changes over training."""


class FixedTarget(nn.Module):
    """A function of the input that never learns, so it cannot collapse.

    Args:
        function: `batch.raw` -> (batch, tokens, dim).
        dim: width of the function's features.
    """

    channel_weight = None

    def __init__(self, function: nn.Module, dim: int) -> None:
        super().__init__()
        self.function, self.dim = function.requires_grad_(False), dim

    def forward(self, batch: Batch, teacher: TokenEncoder) -> Tensor:
        features: Tensor = self.function(batch.raw)
        return features

    def schedule(self, progress: float) -> None:
        """Nothing changes over training."""


class HandOver(nn.Module):
    """First a fixed target, later EMA latents too: both are channels of one prediction.

    The loss weight of the latents' channels rises linearly from 0 to 1 between `start` and `end` of
    training while that of the fixed channels falls from 1 to `rest`. Before `start` the teacher is
    not run.

    Args:
        fixed: the target to begin with.
        latent: the target to end with.
        start: share of training after which the latents enter.
        end: share of training at which the hand-over is complete.
        rest: weight that the fixed target keeps.

    Raises:
        ValueError: `start` and `end` are not ascending shares.
    """

    channel_weight: Tensor

    def __init__(
        self, fixed: Target, latent: Target, start: float, end: float, rest: float = 0.3
    ) -> None:
        super().__init__()
        if not 0 <= start <= end <= 1:
            raise ValueError(f"target.handover = {(start, end)}: give two ascending shares in 0..1")
        self.fixed, self.latent = fixed, latent
        self.start, self.end, self.rest = start, end, rest
        self.dim = fixed.dim + latent.dim
        self.share = 0.0
        self.register_buffer("channel_weight", torch.empty(self.dim), persistent=False)
        self._set(0.0)

    def schedule(self, progress: float) -> None:
        """Set the weights for this share of training."""
        span = max(self.end - self.start, 1e-9)
        share = min(max((progress - self.start) / span, 0.0), 1.0)
        if progress >= self.end:  # also at the first step, for both from the start
            share = 1.0
        if share != self.share:
            self._set(share)

    def _set(self, share: float) -> None:
        self.share = share
        # A mean over all channels then equals  w_fixed * mean(fixed) + w_latent * mean(latent).
        fixed = (1 - share * (1 - self.rest)) * self.dim / self.fixed.dim
        self.channel_weight[: self.fixed.dim] = fixed
        self.channel_weight[self.fixed.dim :] = share * self.dim / self.latent.dim

    def forward(self, batch: Batch, teacher: TokenEncoder) -> Tensor:
        first = self.fixed(batch, teacher)
        if self.share == 0:
            second = first.new_zeros(*first.shape[:-1], self.latent.dim)
        else:
            second = self.latent(batch, teacher)
        return torch.cat([first, second.to(first.dtype)], dim=-1)
