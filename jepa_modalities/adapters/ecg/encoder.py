"""Encoders of ECG tokens: transformer with windows and cross-pattern attention, convolution, S4."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_modalities.core.batch import Latents, Tokens
from jepa_modalities.core.block import Mlp, Style, initialise
from jepa_modalities.core.encoder import TokenEncoder
from jepa_modalities.core.masking import Masks, gather


class ECGTransformer(TokenEncoder):
    """`TokenEncoder` that reads longer recordings window by window, perhaps with cross patterns.

    Args:
        window: tokens along time that training showed; longer recordings are encoded in windows of
            this length and joined, so that positions stay those of training.
        channels: tokens per time: 1, or the number of leads.
        cross_pattern: attention only between tokens of the same lead or the same time, and
            positions added again before every block (ECG-JEPA of Kim 2024, cross-pattern
            attention).
        **options: of `TokenEncoder`.
    """

    def __init__(
        self, window: int, channels: int = 1, cross_pattern: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        self.window, self.channels, self.cross_pattern = window, channels, cross_pattern

    def forward(
        self,
        tokens: Tokens,
        masks: Masks | None = None,
        keep: Tensor | None = None,
        blocks: bool = False,
        hidden: bool = False,
    ) -> Latents:
        """See `TokenEncoder.forward`."""
        whole = masks is None and keep is None
        if whole and tokens.values.shape[1] > self.window * self.channels:
            return windowed(self, tokens, self.window, self.channels, blocks, hidden)
        if not self.cross_pattern:
            return super().forward(tokens, masks, keep, blocks, hidden)
        return self._cross(tokens, masks, keep, blocks, hidden)

    def _cross(
        self, tokens: Tokens, masks: Masks | None, keep: Tensor | None, blocks: bool, hidden: bool
    ) -> Latents:
        batch, count = tokens.values.shape[:2]
        if masks is not None:
            index = masks.context
        elif keep is not None:
            index = keep[:, None]
        else:
            every = torch.arange(count, device=tokens.values.device)
            index = every.expand(batch, 1, -1)
        x = self.embed(gather(tokens.values, index)).flatten(0, 1)
        place = self.position(tokens.positions)[index].flatten(0, 1)
        where = tokens.positions[index].flatten(0, 1)  # (sequences, tokens, 2) of lead and time
        allowed = (where[:, :, None] == where[:, None]).any(-1)
        if tokens.valid is not None:
            real = gather(tokens.valid, index).flatten(0, 1)
            itself = torch.eye(index.shape[-1], dtype=torch.bool, device=x.device)
            allowed = allowed & real[:, None] | itself  # a row without keys would be NaN
        num_prefix = 0 if self.prefix is None else self.prefix.shape[1]
        if self.prefix is not None:
            x = torch.cat([self.prefix.expand(len(x), -1, -1), x], dim=1)
            place = F.pad(place, (0, 0, num_prefix, 0))
            allowed = F.pad(allowed, (num_prefix, 0, num_prefix, 0), value=True)
        outputs: list[Tensor] = []
        inside: list[Tensor] = []
        for block in self.blocks:
            x = block(x + place, allowed[:, None], inside=inside)
            outputs.append(x[:, num_prefix:])
        inside = [part[:, num_prefix:] for part in inside]
        x = self.norm(x)
        prefix = x[:, :num_prefix] if num_prefix else None
        x = x[:, num_prefix:]
        if masks is not None:
            groups = index.shape[1]
            for parts in (outputs, inside):
                parts[:] = [part.unflatten(0, (-1, groups)) for part in parts]
            x = x.unflatten(0, (-1, groups))
            prefix = None if prefix is None else prefix.unflatten(0, (-1, groups))
        layers = (outputs if blocks else None, inside if hidden else None)
        return Latents(x, tokens.positions, prefix, *layers)


def windowed(
    encoder: nn.Module,
    tokens: Tokens,
    window: int,
    channels: int,
    blocks: bool = False,
    hidden: bool = False,
) -> Latents:
    """Encode a long recording in windows of equal length and join the latents.

    The last window ends with the recording; of what it shares with the one before, the latter's
    latents count.

    Args:
        encoder: of at most `window` tokens along time.
        tokens: (batch, channels * time, features), time fastest, time > window.
        window: tokens along time.
        channels: tokens per time.
        blocks: also the outputs of every block.
        hidden: also the activations inside every block's MLP.
    """
    batch, count = tokens.values.shape[:2]
    time = count // channels
    starts = [*range(0, time - window, window), time - window]
    place = torch.arange(count, device=tokens.values.device).view(channels, time)
    index = torch.stack([place[:, s : s + window].flatten() for s in starts])
    values = tokens.values[:, index].flatten(0, 1)
    valid = None
    if tokens.valid is not None:
        valid = tokens.valid[:, index].flatten(0, 1)
        # Windows of nothing but padding: attention needs a key, and nobody reads the result.
        valid = valid | ~valid.any(1, keepdim=True)
    inner = Tokens(values, tokens.positions[index[0]], valid)
    latents = encoder(inner, blocks=blocks, hidden=hidden)
    fresh = [0, *(s + window - after for s, after in pairwise(starts))]

    def joined(x: Tensor) -> Tensor:
        parts = x.unflatten(0, (batch, -1)).unflatten(2, (channels, window))
        kept = [parts[:, number, :, begin:] for number, begin in enumerate(fresh)]
        return torch.cat(kept, dim=2).flatten(1, 2)

    prefix = latents.prefix
    if prefix is not None:
        prefix = prefix.unflatten(0, (batch, -1)).mean(1)
    layers = (latents.blocks, latents.hidden)
    outputs, inside = (None if found is None else [joined(x) for x in found] for found in layers)
    return Latents(joined(latents.tokens), tokens.positions, prefix, outputs, inside)


class MultiScaleConv(nn.Module):
    """Depthwise convolutions, each part of the channels at its own dilation, then a mixing layer.

    Args:
        dim: width, divisible by the number of dilations.
        kernel: taps, odd.
        dilations: one per equal part of the channels.
    """

    def __init__(self, dim: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        if dim % len(dilations) or kernel % 2 == 0:
            raise ValueError(
                f"encoder.dim = {dim} must be divisible by the {len(dilations)} dilations, and "
                f"encoder.kernel = {kernel} be odd"
            )
        part = dim // len(dilations)
        self.scales = nn.ModuleList(
            nn.Conv1d(part, part, kernel, padding="same", dilation=d, groups=part)
            for d in dilations
        )
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, dim) -> the same."""
        parts = x.transpose(1, 2).chunk(len(self.scales), 1)
        mixed = [scale(part) for scale, part in zip(self.scales, parts, strict=True)]
        return self.proj(F.gelu(torch.cat(mixed, 1).transpose(1, 2)))


class StateSpace(nn.Module):
    """Bidirectional diagonal state spaces as one long convolution (S4D-Lin, Gu et al. 2022).

    Per channel and direction the kernel K_l = 2 Re sum_n C_n exp(dt A_n l) (exp(dt A_n) - 1) / A_n
    with A_n = -1/2 + i pi n at the start; convolved through the FFT.

    Args:
        dim: width.
        states: complex states per channel and direction.
    """

    def __init__(self, dim: int, states: int = 16) -> None:
        super().__init__()
        # Time steps cover 1 to 100 tokens: log-uniform, as in the paper.
        self.log_step = nn.Parameter(torch.empty(2, dim).uniform_(math.log(0.01), math.log(1.0)))
        self.log_decay = nn.Parameter(torch.full((2, dim, states), math.log(0.5)))
        turn = math.pi * torch.arange(states, dtype=torch.float32)
        self.frequency = nn.Parameter(turn.expand(2, dim, -1).clone())
        self.output = nn.Parameter(torch.randn(2, dim, states, 2) * 0.5**0.5)
        self.skip = nn.Parameter(torch.ones(dim))
        self.proj = nn.Linear(dim, dim)

    def kernels(self, time: int) -> Tensor:
        """Forward and backward kernels, (2, dim, time), float32."""
        rate = torch.complex(-self.log_decay.exp(), self.frequency)
        step = self.log_step.exp()[..., None] * rate
        weight = torch.view_as_complex(self.output.contiguous()) * (step.exp() - 1) / rate
        lag = torch.arange(time, device=step.device)
        return 2 * torch.einsum("dcn,dcnl->dcl", weight, (step[..., None] * lag).exp()).real

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, dim) -> the same."""
        time = x.shape[1]
        with torch.autocast(x.device.type, enabled=False):  # no FFT in half precision
            ahead, back = self.kernels(time).unbind(0)
            # One circular kernel of twice the length holds both directions.
            both = F.pad(ahead, (0, time)) + F.pad(back, (0, time)).flip(-1)
            signal = x.float().transpose(1, 2)
            spectrum = torch.fft.rfft(signal, n=2 * time) * torch.fft.rfft(both, n=2 * time)
            mixed = torch.fft.irfft(spectrum, n=2 * time)[..., :time] + signal * self.skip[:, None]
        return self.proj(F.gelu(mixed.transpose(1, 2)))


class MixerBlock(nn.Module):
    """Pre-norm residual block: mixing over time, then an MLP."""

    def __init__(self, dim: int, mlp_ratio: float, mixer: nn.Module) -> None:
        super().__init__()
        self.norm1, self.mixer = nn.LayerNorm(dim, eps=1e-6), mixer
        self.norm2, self.mlp = nn.LayerNorm(dim, eps=1e-6), Mlp(dim, round(dim * mlp_ratio))

    def forward(
        self, x: Tensor, real: Tensor | None = None, inside: list[Tensor] | None = None
    ) -> Tensor:
        """(batch, time, dim); `real` (batch, time, 1) is 0 at padding, which is mixed as zero."""
        y = self.norm1(x)
        x = x + self.mixer(y if real is None else y * real)
        return x + self.mlp(self.norm2(x), inside)


class SequenceEncoder(nn.Module):
    """A convolutional or state-space encoder of tokens in time, with the encoder's interface.

    Under masks the whole time axis is kept, hidden tokens are a learned mask token: hidden input
    never enters. Cost grows with the length, not with its square, so short tokens are affordable.

    Args:
        embed: the first learned layer, token by token.
        position: coordinates (tokens, 1) -> (tokens, dim).
        dim: width.
        mixers: one per block, (batch, time, dim) -> the same.
        style: width of the MLPs, biases and start.
    """

    prefix = None

    def __init__(
        self,
        embed: nn.Module,
        position: nn.Module,
        dim: int,
        mixers: list[nn.Module],
        style: Style,
    ) -> None:
        super().__init__()
        self.dim, self.embed, self.position = dim, embed, position
        self.blocks = nn.ModuleList(MixerBlock(dim, style.mlp_ratio, mixer) for mixer in mixers)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim).normal_(std=0.02))
        initialise(self, style)

    def forward(
        self,
        tokens: Tokens,
        masks: Masks | None = None,
        keep: Tensor | None = None,
        blocks: bool = False,
        hidden: bool = False,
    ) -> Latents:
        """See `TokenEncoder.forward`; windows are not needed."""
        if masks is not None and getattr(self.embed, "mixes_tokens", False):
            raise ValueError(
                "this embedding mixes neighbouring tokens, so hidden input would leak into the "
                "context; set encoder.stem = 'linear' for masked prediction"
            )
        index = masks.context if masks is not None else None if keep is None else keep[:, None]
        x = self.embed(tokens.values)
        groups = 1 if index is None else index.shape[1]
        if index is not None:
            shown = torch.zeros(*index.shape[:2], x.shape[1], dtype=torch.bool, device=x.device)
            real = torch.ones_like(index, dtype=torch.bool)
            if masks is not None and masks.context_valid is not None:
                real = masks.context_valid
            # Padding repeats a visible token, so True entries are written last by the maximum.
            shown = shown.byte().scatter_reduce(2, index, real.byte(), "amax").bool()
            x = torch.where(shown[..., None], x[:, None], self.mask_token).flatten(0, 1)
        x = x + self.position(tokens.positions)
        valid = None
        if tokens.valid is not None:
            valid = tokens.valid.repeat_interleave(groups, 0)[..., None].to(x.dtype)
        outputs: list[Tensor] = []
        inside: list[Tensor] = []
        for block in self.blocks:
            x = block(x, valid, inside)
            outputs.append(x)
        x, depth = self.norm(x), len(outputs)
        if index is not None:
            x, *rest = (self._picked(part, index) for part in (x, *outputs, *inside))
            if masks is None:
                x, *rest = (part.flatten(0, 1) for part in (x, *rest))
            outputs, inside = rest[:depth], rest[depth:]
        layers = (outputs if blocks else None, inside if hidden else None)
        return Latents(x, tokens.positions, None, *layers)

    @staticmethod
    def _picked(x: Tensor, index: Tensor) -> Tensor:
        return gather(x, index.flatten(0, 1)[:, None]).squeeze(1).unflatten(0, index.shape[:2])
