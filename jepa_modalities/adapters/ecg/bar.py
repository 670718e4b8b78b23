"""The bar for ECG: responses of random convolution kernels, without any gradient learning.

MiniRocket (Dempster, Schmidt & Webb 2021) and ROCKET (2020): kernels of length 9 at many dilations,
each on a few leads; what is kept of a response is how often it exceeds a level (PPV) and its
maximum. Three roles: the control to beat (`KernelBank.features`), a further input to the probe, and
a fixed target of masked prediction that cannot collapse (`LocalTargets`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from jepa_modalities.adapters.whitening import whitening
from jepa_modalities.core.precision import full_precision

TAPS = 9
# Response numbers held at a time: they stay in the cache on a CPU, in modest memory on a GPU.
CPU_BUDGET, GPU_BUDGET = 2**21, 2**27


def fixed_weights() -> Tensor:
    """MiniRocket's 84 kernels: weight 2 on three of nine taps and -1 on the rest, (84, 9)."""
    weight = torch.full((84, TAPS), -1.0)
    for row, taps in enumerate(itertools.combinations(range(TAPS), 3)):
        weight[row, list(taps)] = 2.0
    return weight


def default_dilations(samples: int, most: int = 32) -> tuple[int, ...]:
    """Powers of two whose kernel fits into the signal, at most `most`."""
    longest = max((samples - 1) // (TAPS - 1), 1)
    return tuple(2**power for power in range(most.bit_length()) if 2**power <= min(longest, most))


class KernelBank(nn.Module):
    """Random dilated kernels and the levels that their responses are compared with.

    Only buffers, which together say everything: a state dict makes the same bank again.

    Args:
        kernels: number of kernels.
        leads: of the signals.
        levels: compared levels per kernel.
        dilations: one per group of equally many kernels, or one per kernel.
    """

    weight: Tensor
    dilation: Tensor
    level: Tensor

    def __init__(self, kernels: int, leads: int, levels: int, dilations: Sequence[int]) -> None:
        super().__init__()
        repeated = np.array_split(np.arange(kernels), len(dilations))
        dilation = np.concatenate(
            [np.full(len(part), d) for part, d in zip(repeated, dilations, strict=True)]
        )
        self.register_buffer("weight", torch.zeros(kernels, leads, TAPS))
        self.register_buffer("dilation", torch.from_numpy(dilation).long())
        self.register_buffer("level", torch.zeros(kernels, levels))
        # (dilation, kernels), known without reading the device.
        self.groups = [(int(d), len(list(same))) for d, same in itertools.groupby(dilation)]

    def _load_from_state_dict(self, *args: Any, **more: Any) -> None:
        super()._load_from_state_dict(*args, **more)
        if not self.dilation.is_meta:
            same = itertools.groupby(self.dilation.tolist())
            self.groups = [(d, len(list(part))) for d, part in same]

    @property
    def num_kernels(self) -> int:
        """Kernels."""
        return len(self.weight)

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        signals: Tensor,
        num_kernels: int = 1008,
        levels: int = 1,
        dilations: Sequence[int] | None = None,
        kind: str = "minirocket",
        seed: int = 0,
    ) -> KernelBank:
        """Draw kernels, and levels as random quantiles of their responses to the signals.

        Args:
            signals: (records, leads, samples); 256 random ones set the levels.
            num_kernels: over all dilations; MiniRocket's 84 weights repeat with other leads.
            levels: per kernel, at quantiles that spread evenly over the kernel's levels.
            dilations: samples between the taps; powers of two up to 32 if not given.
            kind: "minirocket" (fixed weights) or "rocket" (normal weights, mean zero per lead).
            seed: of leads, weights and levels.

        Raises:
            ValueError: signals of another shape or an unknown kind.
        """
        check_signals(signals)
        if kind not in ("minirocket", "rocket"):
            raise ValueError(f"kind = {kind!r} is not known; choose 'minirocket' or 'rocket'")
        generator = Generator().manual_seed(seed)
        leads = signals.shape[1]
        chosen = dilations or default_dilations(signals.shape[2])
        bank = cls(num_kernels, leads, levels, chosen).to(signals.device)
        if kind == "minirocket":
            number = torch.cat(
                [torch.arange(n) % 84 for n in bank.dilation.unique(return_counts=True)[1].tolist()]
            )
            weight = fixed_weights()[number][:, None].expand(-1, leads, -1)
        else:
            weight = torch.randn(num_kernels, leads, TAPS, generator=generator)
            weight = weight - weight.mean(-1, keepdim=True)
        # The number of leads is log-uniform, as in both papers.
        top = torch.log2(torch.tensor(leads + 1.0))
        count = (2 ** (torch.rand(num_kernels, 1, generator=generator) * top)).long()
        rank = torch.rand(num_kernels, leads, generator=generator).argsort(1).argsort(1)
        bank.weight.copy_(weight * (rank < count.clamp(max=leads))[..., None])
        some = torch.randperm(len(signals), generator=generator)[:256].to(signals.device)
        bank._set_levels(signals[some], generator)
        return bank

    def _set_levels(self, signals: Tensor, generator: Generator) -> None:
        shape = self.level.shape
        offset = torch.rand(shape[0], 1, generator=generator)
        share = ((torch.arange(shape[1]) + offset) / shape[1]).to(signals.device)
        start = 0
        for part in self.responses(signals):
            rows = slice(start, start + part.shape[1])
            start = rows.stop
            flat = part.transpose(0, 1).flatten(1)
            flat = flat[:, :: max(flat.shape[1] // 20_000, 1)].sort(1).values
            at = (share[rows] * (flat.shape[1] - 1)).long()
            above = (at + 1).clamp(max=flat.shape[1] - 1)
            # Between two responses: rounding does not move any of them over the level.
            self.level[rows] = (flat.gather(1, at) + flat.gather(1, above)) / 2

    def responses(self, signals: Tensor) -> Iterator[Tensor]:
        """Responses at every sample, zero-padded ends, one dilation after the other.

        Args:
            signals: (batch, leads, samples), finite.

        Yields:
            (batch, kernels of this dilation, samples), kernels in the bank's order.
        """
        start = 0
        for dilation, count in self.groups:
            weight = self.weight[start : start + count]
            start += count
            yield F.conv1d(signals, weight, padding="same", dilation=dilation)

    @torch.no_grad()
    def features(self, signals: Tensor) -> Tensor:
        """PPV at every level, then the maximum of every kernel.

        Args:
            signals: (records, leads, samples), finite.

        Returns:
            (records, kernels * levels + kernels), float32.
        """
        check_signals(signals, self.weight.shape[1])
        return torch.cat([self._features(part) for part in self._chunks(signals)])

    def _features(self, signals: Tensor) -> Tensor:
        shares, tops, start = [], [], 0
        for part in self.responses(signals):
            level = self.level[start : start + part.shape[1]]
            start += part.shape[1]
            tops.append(part.amax(2))
            above = [(part > one[:, None]).float().mean(2) for one in level.T]
            shares.append(torch.stack(above, 2).flatten(1))
        return torch.cat([*shares, *tops], dim=1)

    @torch.no_grad()
    def local(self, signals: Tensor, patch: int, responses: bool = False) -> Tensor:
        """PPV inside each token: the local features that masked prediction predicts.

        Args:
            signals: (records, leads, samples), finite; samples divisible by `patch`.
            patch: samples per token.
            responses: also the mean response inside each token.

        Returns:
            (records, tokens, kernels * levels [+ kernels]), float32.

        Raises:
            ValueError: the patch does not divide the signal.
        """
        check_signals(signals, self.weight.shape[1])
        if signals.shape[2] % patch:
            raise ValueError(
                f"signals of {signals.shape[2]} samples cannot be cut into tokens of {patch}"
            )
        return torch.cat([self._local(part, patch, responses) for part in self._chunks(signals)])

    def _local(self, signals: Tensor, patch: int, responses: bool) -> Tensor:
        shares, means, start = [], [], 0
        for part in self.responses(signals):
            level = self.level[start : start + part.shape[1]]
            start += part.shape[1]
            cut = part.unflatten(2, (-1, patch))  # (batch, kernels, tokens, patch)
            above = [(cut > one[:, None, None]).float().mean(3) for one in level.T]
            shares.append(torch.stack(above, 2).flatten(1, 2))
            if responses:
                means.append(cut.mean(3))
        return torch.cat([*shares, *means], dim=1).transpose(1, 2)

    def _chunks(self, signals: Tensor) -> Iterator[Tensor]:
        budget = GPU_BUDGET if signals.is_cuda else CPU_BUDGET
        most = max(count for _, count in self.groups)
        return iter(signals.split(max(1, budget // (most * signals.shape[2]))))


class LocalTargets(nn.Module):
    """Fixed targets: local PPV of random kernels per token, PCA-whitened to a few dimensions.

    Args:
        bank: of kernels.
        patch: samples per token.
        dim: whitened dimensions.
        responses: add the mean response of each kernel to the PPV.
    """

    mean: Tensor
    projection: Tensor
    explained: Tensor

    def __init__(self, bank: KernelBank, patch: int, dim: int, responses: bool = False) -> None:
        super().__init__()
        self.bank, self.patch, self.responses = bank, patch, responses
        width = bank.level.numel() + responses * bank.num_kernels
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("projection", torch.zeros(width, dim))
        self.register_buffer("explained", torch.zeros(()))

    @property
    def dim(self) -> int:
        """Whitened dimensions."""
        return self.projection.shape[1]

    @classmethod
    @torch.no_grad()
    def fit(
        cls, bank: KernelBank, signals: Tensor, patch: int, dim: int = 64, responses: bool = False
    ) -> LocalTargets:
        """Fit the whitening on all tokens of the signals (a thousand records are enough).

        Args:
            bank: of kernels, with its levels.
            signals: (records, leads, samples), finite.
            patch: samples per token.
            dim: principal dimensions; the share of variance they hold is `explained`.
            responses: add the mean response of each kernel to the PPV.

        Raises:
            ValueError: more dimensions than features.
        """
        targets = cls(bank, patch, dim, responses).to(signals.device)
        rows = (bank.local(part, patch, responses).flatten(0, 1) for part in signals.split(64))
        mean, projection, explained = whitening(rows, len(targets.mean), dim, "local features")
        targets.mean.copy_(mean)
        targets.projection.copy_(projection)
        targets.explained.copy_(explained)
        return targets

    @torch.no_grad()
    def forward(self, signals: Tensor) -> Tensor:
        """(batch, leads, samples) -> (batch, tokens, dim), unit variance per dimension."""
        with full_precision(signals.device.type):
            local = self.bank.local(signals.float(), self.patch, self.responses)
            return (local - self.mean) @ self.projection


def check_signals(signals: Tensor, leads: int | None = None) -> None:
    """Raise ValueError unless `signals` is (records, leads, samples) with so many leads."""
    if signals.ndim != 3 or (leads is not None and signals.shape[1] != leads):
        wanted = "leads" if leads is None else leads
        raise ValueError(
            f"signals have shape {tuple(signals.shape)}; expected (records, {wanted}, samples)"
        )
