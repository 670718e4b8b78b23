"""The transformer block: timm's keys and outputs, the attention map, the start values."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import nn

from jepa_modalities.core import block as block_module
from jepa_modalities.core.block import Attention, Block, Style, initialise


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_weights_and_outputs_agree_with_timm_both_ways() -> None:
    transformer = pytest.importorskip("timm.models.vision_transformer", reason="timm is missing")
    norm = functools.partial(nn.LayerNorm, eps=1e-6)
    theirs = transformer.Block(24, 3, mlp_ratio=4.0, qkv_bias=True, norm_layer=norm).eval()
    x = torch.randn(2, 7, 24, generator=seeded())

    mine = Block(24, 3)
    mine.load_state_dict(theirs.state_dict(), strict=True)
    torch.testing.assert_close(mine(x), theirs(x), rtol=1e-5, atol=1e-6)

    mine = Block(24, 3)
    theirs.load_state_dict(mine.state_dict(), strict=True)
    torch.testing.assert_close(mine(x), theirs(x), rtol=1e-5, atol=1e-6)


def test_block_by_plain_loops() -> None:
    torch.manual_seed(0)
    block, x = Block(8, 2, Style(2.0)), torch.randn(1, 3, 8)

    def layer_norm(row: torch.Tensor) -> torch.Tensor:
        centred = row - row.mean()
        return centred / (centred.square().mean() + 1e-6).sqrt()

    h = torch.stack([layer_norm(row) for row in x[0]])
    q, k, v = (h @ block.attn.qkv.weight.T + block.attn.qkv.bias).split(8, dim=1)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        rows = []
        for i in range(3):
            logits = torch.stack([(q[i, part] * k[j, part]).sum() / math.sqrt(4) for j in range(3)])
            weights = logits.exp() / logits.exp().sum()
            rows.append(sum(weights[j] * v[j, part] for j in range(3)))
        heads.append(torch.stack(rows))  # type: ignore[arg-type]
    x1 = x[0] + block.attn.proj(torch.cat(heads, dim=1))
    hidden = block.mlp.fc1(torch.stack([layer_norm(row) for row in x1]))
    gelu = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    torch.testing.assert_close(block(x)[0], x1 + block.mlp.fc2(gelu), rtol=1e-5, atol=1e-6)


def test_attention_map_is_the_explicit_softmax() -> None:
    torch.manual_seed(0)
    attention, x = Attention(12, 3), torch.randn(2, 5, 12)
    weights = attention.attention_map(x)
    assert weights.shape == (2, 3, 5, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 5))
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        logits = torch.einsum("bid,bjd->bij", q[..., part], k[..., part]) / 2.0
        torch.testing.assert_close(weights[:, head], logits.exp() / logits.exp().sum(-1, True))
    values = v.view(2, 5, 3, 4).transpose(1, 2)
    mixed = (weights @ values).transpose(1, 2).reshape(2, 5, 12)
    torch.testing.assert_close(attention(x), attention.proj(mixed), rtol=1e-5, atol=1e-6)


def test_bias_is_added_to_the_logits() -> None:
    torch.manual_seed(0)
    attention, x = Attention(8, 2), torch.randn(1, 4, 8)
    allowed = torch.tensor([True, True, True, False])[None, None, None]
    added = torch.zeros(1, 1, 1, 4).masked_fill(~allowed, -math.inf)
    torch.testing.assert_close(attention(x, allowed), attention(x, added))
    torch.testing.assert_close(attention(x, allowed)[:, :3], attention(x[:, :3]))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="heads = 3 must divide the width 16"):
        Attention(16, 3)


@pytest.mark.parametrize("how", ["normal", "xavier"])
def test_initialise(how: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Block(64, 2), Block(64, 2), nn.LayerNorm(64), nn.Linear(64, 5))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 7.0)
    initialise(model, Style(init=how))
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
        elif isinstance(module, nn.Linear):
            assert (module.bias == 0).all()
    for depth, block in enumerate(model[:2], start=1):
        for linear, factor in (
            (block.attn.qkv, 1.0),
            (block.mlp.fc1, 1.0),
            (block.attn.proj, 1 / math.sqrt(2 * depth)),
            (block.mlp.fc2, 1 / math.sqrt(2 * depth)),
        ):
            out, inside = linear.weight.shape
            # A uniform number on [-a, a] has the standard deviation a / sqrt(3).
            std = 0.02 if how == "normal" else math.sqrt(6 / (out + inside)) / math.sqrt(3)
            assert float(linear.weight.detach().std()) == pytest.approx(std * factor, rel=0.05)


def test_rescale_is_a_choice_and_names_are_checked() -> None:
    torch.manual_seed(0)
    block = Block(64, 2)
    initialise(block, Style(rescale=False))
    assert float(block.mlp.fc2.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    with pytest.raises(ValueError, match=r"encoder\.init = 'kaiming'"):
        Style(init="kaiming")


def test_mlp_ratio_need_not_be_an_integer() -> None:
    block = Block(1408 // 16, 2, Style(48 / 11))  # giant: 1408 * 48 / 11 = 6144
    assert block.mlp.fc1.out_features == 6144 // 16


def test_tail_equals_the_last_rows_of_the_whole_block() -> None:
    torch.manual_seed(0)
    block, x = Block(16, 4), torch.randn(3, 9, 16)
    allowed = torch.rand(3, 1, 1, 9) > 0.3
    allowed[..., 0] = True
    for bias in (None, allowed):
        whole = block(x, bias)
        # Attention is fp32 on the CPU: other shapes are summed in another order on some processors.
        torch.testing.assert_close(block(x, bias, tail=4), whole[:, -4:], rtol=1e-5, atol=1e-6)


def test_relative_positions_by_plain_loops() -> None:
    """Each query meets the vector of its bucket, shared by the heads, unscaled (iRPE)."""
    torch.manual_seed(0)
    attention, x = Attention(8, 2, buckets=5), torch.randn(1, 4, 8)
    assert attention.relative is not None and not attention.relative.any()  # starts at zero
    with torch.no_grad():
        attention.relative.normal_()
    bucket = torch.randint(0, 5, (1, 4, 4))
    q, k, v = attention.qkv(x)[0].split(8, dim=1)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        logits = torch.zeros(4, 4)
        for i in range(4):
            for j in range(4):
                vector = attention.relative[bucket[0, i, j]]
                logits[i, j] = (q[i, part] @ k[j, part]) / math.sqrt(4) + q[i, part] @ vector
        heads.append(logits.softmax(-1) @ v[:, part])
    expected = attention.proj(torch.cat(heads, dim=1))
    torch.testing.assert_close(attention(x, bucket=bucket)[0], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        attention(x, tail=2, bucket=bucket)[0], expected[2:], rtol=1e-5, atol=1e-6
    )
    rows = attention.attention_map(x, bucket=bucket).sum(-1)
    torch.testing.assert_close(rows, torch.ones_like(rows))
    with pytest.raises(ValueError, match="bucket"):
        attention(x)


def test_relative_positions_and_padding() -> None:
    torch.manual_seed(1)
    attention, x = Attention(8, 2, buckets=5), torch.randn(2, 4, 8)
    with torch.no_grad():
        attention.relative.normal_()  # type: ignore[union-attr]
    bucket = torch.randint(0, 5, (1, 4, 4))
    allowed = torch.tensor([True, True, True, False]).expand(2, 1, 1, 4)
    short = attention(x[:, :3], bucket=bucket[:, :3, :3])
    padded = attention(x, allowed, bucket=bucket)[:, :3]
    torch.testing.assert_close(padded, short, rtol=1e-5, atol=1e-6)
    zero = torch.zeros(2, 1, 4, 4).masked_fill(~allowed, -math.inf)  # the same as an added bias
    torch.testing.assert_close(attention(x, zero, bucket=bucket)[:, :3], padded)
    with torch.autocast("cpu", torch.bfloat16):
        assert attention(x, allowed, bucket=bucket).isfinite().all()


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_equals_the_library_layer(norm: str, activation: str) -> None:
    torch.manual_seed(0)
    block = Block(16, 4, Style(2.0, norm, activation))
    layer = nn.TransformerEncoderLayer(
        16, 4, 32, 0.0, activation, 1e-6, batch_first=True, norm_first=norm == "pre"
    )
    names = {
        "self_attn.in_proj_weight": block.attn.qkv.weight,
        "self_attn.in_proj_bias": block.attn.qkv.bias,
        "self_attn.out_proj.weight": block.attn.proj.weight,
        "self_attn.out_proj.bias": block.attn.proj.bias,
        **{f"linear{n}.{p}": getattr(getattr(block.mlp, f"fc{n}"), p)
           for n in (1, 2) for p in ("weight", "bias")},
        **{f"norm{n}.{p}": torch.nn.init.normal_(getattr(getattr(block, f"norm{n}"), p))
           for n in (1, 2) for p in ("weight", "bias")},
    }  # fmt: skip
    layer.load_state_dict(names)
    x = torch.randn(3, 7, 16)
    torch.testing.assert_close(block(x), layer(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(block(x, tail=2), layer(x)[:, -2:], rtol=1e-5, atol=1e-5)


def test_library_start_and_unknown_names() -> None:
    torch.manual_seed(0)
    block = Block(64, 2)
    initialise(block, Style(init="uniform", rescale=False))
    for linear in (block.attn.qkv, block.mlp.fc2):
        bound = linear.in_features**-0.5
        assert float(linear.weight.detach().abs().max()) == pytest.approx(bound, rel=0.02)
        assert linear.bias.detach().abs().max() > 0
    with pytest.raises(ValueError, match=r"encoder\.norm = 'both'"):
        Style(norm="both")
    with pytest.raises(ValueError, match=r"encoder\.activation = 'tanh'"):
        Style(activation="tanh")


@pytest.mark.parametrize("tokens", [1, 7, block_module.SHORT, block_module.SHORT + 1])
def test_products_equal_the_fused_kernel(tokens: int) -> None:
    torch.manual_seed(0)
    layer = Attention(24, 3)
    x = torch.randn(4, tokens, 24, requires_grad=True)
    found = []
    for short in (0, 100):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(block_module, "SHORT", short)
            out = layer(x)
            gradient = torch.autograd.grad(out.square().sum(), [x, *layer.parameters()])
            found.append([out, *gradient])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
