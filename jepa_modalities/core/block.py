"""One transformer block with timm's key names, so that weights load both ways."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Fused attention, (batch, heads, tokens, head_dim) each.

    On the CPU always in fp32: the fused kernel is up to five times slower in bf16 there
    (`benchmarks/README.md`).
    """
    if q.device.type != "cpu" or q.dtype == torch.float32:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    with torch.autocast("cpu", enabled=False):
        out = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=bias)
    return out.to(q.dtype)


class Attention(nn.Module):
    """Multi-head self-attention through the fused kernel; the map itself only on demand.

    Args:
        dim: width, divisible by `heads`.
        heads: number of heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads = {heads} must divide the width {dim}")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return q, k, v

    def forward(self, x: Tensor, bias: Tensor | None = None, tail: int | None = None) -> Tensor:
        """(batch, tokens, dim) -> (batch, tokens, dim).

        Args:
            x: normed tokens.
            bias: added to the attention logits, broadcastable to (batch, heads, tokens, tokens), or
                a bool mask of the same shape (True = may be attended).
            tail: return the outputs of the last so many tokens only, (batch, tail, dim).
        """
        q, k, v = self._split(x) if tail is None else self._split_tail(x, tail)
        out = attend(q, k, v, bias)
        return self.proj(out.transpose(1, 2).flatten(2))

    def _split_tail(self, x: Tensor, tail: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the last `tail` tokens, keys and values of all."""
        dim = x.shape[-1]
        weight, bias = self.qkv.weight, self.qkv.bias
        q = F.linear(x[:, -tail:], weight[:dim], bias[:dim])
        both = F.linear(x, weight[dim:], bias[dim:]).unflatten(2, (2, self.heads, -1))
        k, v = both.permute(2, 0, 3, 1, 4)
        return q.unflatten(2, (self.heads, -1)).transpose(1, 2), k, v

    def attention_map(self, x: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Softmax attention, (batch, heads, tokens, tokens); for pictures only.

        Args:
            x: normed tokens.
            allowed: True = may be attended, broadcastable to the map; None for all.
        """
        q, k, _ = self._split(x)
        logits = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        if allowed is not None:
            logits = logits.masked_fill(~allowed, -math.inf)
        return logits.softmax(dim=-1)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}


class Mlp(nn.Module):
    """Linear, GELU or ReLU, Linear."""

    def __init__(self, dim: int, hidden: int, activation: str = "gelu") -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"encoder.activation = {activation!r} is not known; choose 'gelu' or 'relu'"
            )
        self.activation = activation
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


class Block(nn.Module):
    """Transformer block, keys as timm's `Block`.

    Args:
        dim: width.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP over `dim`.
        norm: "pre" (ViT: a norm in front of each branch) or "post" (Vaswani et al. 2017: a norm of
            each sum).
        activation: "gelu" or "relu".

    Raises:
        ValueError: unknown `norm` or `activation`.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float = 4.0,
        norm: str = "pre",
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        if norm not in ("pre", "post"):
            raise ValueError(f"encoder.norm = {norm!r} is not known; choose 'pre' or 'post'")
        self.post = norm == "post"
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, round(dim * mlp_ratio), activation)

    def forward(self, x: Tensor, bias: Tensor | None = None, tail: int | None = None) -> Tensor:
        """(batch, tokens or tail, dim); `bias` and `tail` as in `Attention.forward`."""
        if self.post:
            out = self.attn(x, bias, tail)
            x = self.norm1((x if tail is None else x[:, -tail:]) + out)
            return self.norm2(x + self.mlp(x))
        out = self.attn(self.norm1(x), bias, tail)
        x = (x if tail is None else x[:, -tail:]) + out
        return x + self.mlp(self.norm2(x))


def initialise(module: nn.Module, how: str = "normal", rescale: bool = True) -> None:
    """Set the start values of every Linear and LayerNorm below `module`, in place.

    Args:
        module: an encoder or predictor.
        how: "normal" (std 0.02, the reference; its truncation at +-2 is 100 sigma) or "xavier"
            (uniform, better in short runs of small models) or "uniform" (+-1 / sqrt(inputs), the
            library's own; best for small encoders of tables).
        rescale: divide the last weight of each residual branch by sqrt(2 * layer), layer from 1.
            The published I-JEPA code does so and then erases it by a second initialisation (spec
            1.2): False is what the published runs did.

    Raises:
        ValueError: unknown `how`.
    """
    if how not in ("normal", "xavier", "uniform"):
        raise ValueError(
            f"encoder.init = {how!r} is not known; choose 'normal', 'xavier' or 'uniform'"
        )
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            if how == "uniform":
                layer.reset_parameters()
                continue
            if how == "normal":
                nn.init.normal_(layer.weight, std=0.02)
            else:
                nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LayerNorm) and layer.elementwise_affine:
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
    if rescale:
        blocks = [layer for layer in module.modules() if isinstance(layer, Block)]
        with torch.no_grad():
            for depth, block in enumerate(blocks, start=1):
                block.attn.proj.weight /= math.sqrt(2 * depth)
                block.mlp.fc2.weight /= math.sqrt(2 * depth)
