"""One transformer block with timm's key names, so that weights load both ways."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_modalities.core.positions import num_buckets


@dataclass(frozen=True)
class Style:
    """How blocks are built and started; the encoder and the predictor of a method share it.

    Attributes:
        mlp_ratio: hidden width of the MLPs over the width.
        norm: "pre" (ViT: a norm in front of each branch) or "post" (Vaswani et al. 2017: a norm of
            each sum).
        activation: "gelu" or "relu".
        bias: biases in linear layers and norms.
        init: "normal", "xavier" or "uniform", see `initialise`.
        rescale: smaller start of the residual branches, see `initialise`.
        rescale_by: "layer" or "depth", see `initialise`.
        relative_axes: every block learns relative positions on a grid of so many axes; 0 for none.

    Raises:
        ValueError: an unknown name.
    """

    mlp_ratio: float = 4.0
    norm: str = "pre"
    activation: str = "gelu"
    bias: bool = True
    init: str = "normal"
    rescale: bool = True
    rescale_by: str = "layer"
    relative_axes: int = 0

    def __post_init__(self) -> None:
        known = {
            "norm": ("pre", "post"),
            "activation": tuple(ACTIVATIONS),
            "init": ("normal", "xavier", "uniform"),
            "rescale_by": ("layer", "depth"),
        }
        for name, choices in known.items():
            if (value := getattr(self, name)) not in choices:
                listed = " or ".join(map(repr, choices))
                raise ValueError(f"encoder.{name} = {value!r} is not known; choose {listed}")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}
STYLE = Style()  # I-JEPA's


# Tokens up to which plain products are faster on a CPU (`benchmarks/attention.py`).
SHORT = 16


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Attention, (batch, heads, tokens, head_dim) each: fused, or products where that is faster.

    On the CPU always in fp32: the fused kernel is up to five times slower in bf16 there
    (`benchmarks/README.md`).
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    if bias is not None and bias.dtype != torch.bool:
        bias = bias.float()
    short = k.shape[2] <= SHORT and bias is None
    with torch.autocast("cpu", enabled=False):
        x = (q.float(), k.float(), v.float())
        out = products(*x) if short else F.scaled_dot_product_attention(*x, attn_mask=bias)
    return out.to(q.dtype)


def products(q: Tensor, k: Tensor, v: Tensor, bias: None = None) -> Tensor:
    """The same with its matrix laid out, (batch, heads, tokens, tokens)."""
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1) @ v


class Attention(nn.Module):
    """Multi-head self-attention through the fused kernel; the map itself only on demand.

    Args:
        dim: width, divisible by `heads`.
        heads: number of heads.
        buckets: learn a vector per bucket of relative positions, shared by the heads, whose product
            with the query is added to the logits (iRPE, "contextual on keys", Wu et al. 2021); 0 =
            none.
    """

    def __init__(self, dim: int, heads: int, buckets: int = 0) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads = {heads} must divide the width {dim}")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative = nn.Parameter(torch.zeros(buckets, dim // heads)) if buckets else None

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return q, k, v

    def _relative_bias(
        self, q: Tensor, bias: Tensor | None, bucket: Tensor | None
    ) -> Tensor | None:
        """`bias` with the relative part added, (batch, heads, queries, keys).

        Raises:
            ValueError: a table without buckets to look up.
        """
        if self.relative is None:
            return bias
        if bucket is None:
            raise ValueError("these blocks know relative positions only: give them `bucket`")
        # The product with all vectors first, then a look-up: nothing of (queries, keys, dim).
        score = q @ self.relative.to(q.dtype).T  # (batch, heads, queries, buckets)
        pairs = bucket[:, None, -q.shape[2] :].expand(*score.shape[:2], -1, -1)
        relative = score.gather(-1, pairs)
        if bias is None:
            return relative
        if bias.dtype == torch.bool:
            return relative.masked_fill(~bias, -math.inf)
        return relative + bias

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None = None,
        tail: int | None = None,
        bucket: Tensor | None = None,
    ) -> Tensor:
        """(batch, tokens, dim) -> (batch, tokens, dim).

        Args:
            x: normed tokens.
            bias: added to the attention logits, broadcastable to (batch, heads, tokens, tokens), or
                a bool mask of the same shape (True = may be attended).
            tail: return the outputs of the last so many tokens only, (batch, tail, dim).
            bucket: of each pair of tokens, long, (batch or 1, tokens, tokens); for a table of
                relative positions.
        """
        q, k, v = self._split(x) if tail is None else self._split_tail(x, tail)
        out = attend(q, k, v, self._relative_bias(q, bias, bucket))
        return self.proj(out.transpose(1, 2).flatten(2))

    def _split_tail(self, x: Tensor, tail: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the last `tail` tokens, keys and values of all."""
        dim = x.shape[-1]
        weight, bias = self.qkv.weight, self.qkv.bias
        first, rest = (None, None) if bias is None else (bias[:dim], bias[dim:])
        q = F.linear(x[:, -tail:], weight[:dim], first)
        both = F.linear(x, weight[dim:], rest).unflatten(2, (2, self.heads, -1))
        k, v = both.permute(2, 0, 3, 1, 4)
        return q.unflatten(2, (self.heads, -1)).transpose(1, 2), k, v

    def attention_map(
        self, x: Tensor, allowed: Tensor | None = None, bucket: Tensor | None = None
    ) -> Tensor:
        """Softmax attention, (batch, heads, tokens, tokens); for pictures only.

        Args:
            x: normed tokens.
            allowed: True = may be attended, broadcastable to the map; None for all.
            bucket: see `forward`.
        """
        q, k, _ = self._split(x)
        logits = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        relative = self._relative_bias(q, None, bucket)
        if relative is not None:
            logits = logits + relative
        if allowed is not None:
            logits = logits.masked_fill(~allowed, -math.inf)
        return logits.softmax(dim=-1)


class Mlp(nn.Module):
    """Linear, GELU or ReLU, Linear."""

    def __init__(self, dim: int, hidden: int, activation: str = "gelu") -> None:
        super().__init__()
        self.activation = activation
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, inside: list[Tensor] | None = None) -> Tensor:
        """(batch, tokens, dim); what lies between the layers is appended to `inside`."""
        active = ACTIVATIONS[self.activation](self.fc1(x))
        if inside is not None:
            inside.append(active)
        return self.fc2(active)


class Block(nn.Module):
    """Transformer block, keys as timm's `Block`.

    Args:
        dim: width.
        heads: attention heads.
        style: of the block; its biases and start values are set by `initialise`.
    """

    def __init__(self, dim: int, heads: int, style: Style = STYLE) -> None:
        super().__init__()
        self.post = style.norm == "post"
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        buckets = num_buckets(style.relative_axes) if style.relative_axes else 0
        self.attn = Attention(dim, heads, buckets)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, round(dim * style.mlp_ratio), style.activation)

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None = None,
        tail: int | None = None,
        inside: list[Tensor] | None = None,
        bucket: Tensor | None = None,
    ) -> Tensor:
        """(batch, tokens or tail, dim); `inside`: see `Mlp`, the others: see `Attention`."""
        if self.post:
            out = self.attn(x, bias, tail, bucket)
            x = self.norm1((x if tail is None else x[:, -tail:]) + out)
            return self.norm2(x + self.mlp(x, inside))
        out = self.attn(self.norm1(x), bias, tail, bucket)
        x = (x if tail is None else x[:, -tail:]) + out
        return x + self.mlp(self.norm2(x), inside)


def initialise(module: nn.Module, style: Style = STYLE) -> None:
    """Set the start values of every Linear and LayerNorm below `module`, in place.

    `style.init` is "normal" (std 0.02, the reference; its truncation at +-2 is 100 sigma), "xavier"
    (uniform, better in short runs of small models) or "uniform" (+-1 / sqrt(inputs), the library's
    own; best for small encoders of tables). `style.rescale` divides the last weight of each
    residual branch by sqrt(2 * layer), layer from 1; by "depth" all alike by sqrt(2 * number of
    blocks) (ECG-JEPA). The published I-JEPA code does the former and then erases it by a second
    initialisation (spec 1.2): without is what the published runs did. Without `style.bias` every
    bias is taken away.

    Args:
        module: an encoder or predictor.
        style: of its blocks.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            if style.init == "uniform":
                layer.reset_parameters()
                continue
            if style.init == "normal":
                nn.init.normal_(layer.weight, std=0.02)
            else:
                nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LayerNorm) and layer.elementwise_affine:
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
    if style.rescale:
        blocks = [layer for layer in module.modules() if isinstance(layer, Block)]
        with torch.no_grad():
            for depth, block in enumerate(blocks, start=1):
                count = len(blocks) if style.rescale_by == "depth" else depth
                block.attn.proj.weight /= math.sqrt(2 * count)
                block.mlp.fc2.weight /= math.sqrt(2 * count)
    if not style.bias:
        for layer in module.modules():
            if isinstance(layer, (nn.Linear, nn.LayerNorm)):
                layer.register_parameter("bias", None)
