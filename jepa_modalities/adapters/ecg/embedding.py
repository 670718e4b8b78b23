"""First layer and positions of ECG tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepa_modalities.adapters.ecg.bar import LocalTargets
from jepa_modalities.core.positions import SinCosPosition


class LeadPosition(nn.Module):
    """Fixed sin-cos code of time plus a learned vector per lead.

    Args:
        leads: of the encoder.
        dim: width.
        scale: factor on the sin-cos code.
    """

    def __init__(self, leads: int, dim: int, scale: float = 1.0) -> None:
        super().__init__()
        self.time = SinCosPosition(dim, scale)
        self.lead = nn.Parameter(torch.empty(leads, dim).normal_(std=0.02))
        self._last: tuple[Tensor, Tensor] | None = None

    def forward(self, positions: Tensor) -> Tensor:
        """(tokens, 2) of lead and time -> (tokens, dim)."""
        if self._last is None or self._last[0] is not positions:
            self._last = (positions, positions[:, 1:])
        return self.time(self._last[1]) + self.lead[positions[:, 0].long()]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_last": None}


class ConvStem(nn.Module):
    """Overlapping multi-scale convolutions over time instead of a linear layer per token.

    Kernels reach into neighbouring tokens, so hidden input would leak: for two-view training only
    (`mixes_tokens`).

    Args:
        leads: of the encoder.
        patch: samples per token, the stride.
        dim: width, divisible by 4.
        kernels: lengths in tokens, one per equal part of the channels.
    """

    mixes_tokens = True

    def __init__(
        self, leads: int, patch: int, dim: int, kernels: tuple[int, ...] = (1, 2, 4, 8)
    ) -> None:
        super().__init__()
        if dim % len(kernels):
            raise ValueError(f"encoder.dim = {dim} must be divisible by {len(kernels)} scales")
        self.leads, self.patch = leads, patch
        self.scales = nn.ModuleList(
            nn.Conv1d(leads, dim // len(kernels), k * patch, stride=patch) for k in kernels
        )
        self.mix = nn.Linear(dim, dim)

    def forward(self, values: Tensor) -> Tensor:
        """(batch, time, leads * patch) -> (batch, time, dim)."""
        x = values.unflatten(2, (self.leads, self.patch)).transpose(1, 2).flatten(2)
        parts = []
        for scale in self.scales:
            assert isinstance(scale, nn.Conv1d)
            extra = scale.kernel_size[0] - self.patch
            parts.append(scale(nn.functional.pad(x, (extra // 2, extra - extra // 2))))
        return self.mix(nn.functional.gelu(torch.cat(parts, 1).transpose(1, 2)))


class KernelStem(nn.Module):
    """The bar as front end: whitened local responses of fixed random kernels beside the samples.

    Only the linear layer learns; the kernels are buffers and lie in the encoder file. They reach
    into neighbouring tokens: for two-view training only (`mixes_tokens`).

    Args:
        leads: of the encoder.
        patch: samples per token.
        dim: width.
        local: kernels with their levels and whitening.
    """

    mixes_tokens = True

    def __init__(self, leads: int, patch: int, dim: int, local: LocalTargets) -> None:
        super().__init__()
        self.leads, self.patch, self.local = leads, patch, local
        self.mix = nn.Linear(local.dim + leads * patch, dim)

    def forward(self, values: Tensor) -> Tensor:
        """(batch, time, leads * patch) -> (batch, time, dim)."""
        signals = values.unflatten(2, (self.leads, self.patch)).transpose(1, 2).flatten(2)
        mixed: Tensor = self.mix(torch.cat([self.local(signals), values], dim=-1))
        return mixed
