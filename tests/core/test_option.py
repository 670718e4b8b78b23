"""Options that the ECG-JEPA paper needs: no biases, one start for all depths, centred targets."""

from __future__ import annotations

import math

import torch
from torch import nn

from jepa_modalities.core.batch import Batch, Tokens
from jepa_modalities.core.block import Attention, Style, initialise
from jepa_modalities.core.encoder import TokenEncoder
from jepa_modalities.core.masking import Masks
from jepa_modalities.core.positions import SinCosPosition, grid_positions
from jepa_modalities.core.predictor import Predictor
from jepa_modalities.core.target import EmaTarget
from jepa_modalities.train.optim import optimiser


def encoder(num_prefix: int = 0, **style: object) -> TokenEncoder:
    torch.manual_seed(0)
    choice = Style(**style)  # type: ignore[arg-type]
    return TokenEncoder(nn.Linear(6, 32), SinCosPosition(32), 32, 3, 2, choice, num_prefix)


def tokens() -> Tokens:
    values = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(1))
    return Tokens(values, grid_positions(5))


def test_no_bias_is_a_bias_of_zero() -> None:
    with_bias = encoder(num_prefix=1)
    without = encoder(num_prefix=1, bias=False)
    assert not any(name.endswith("bias") for name, _ in without.named_parameters())
    count = sum(p.numel() for p in without.parameters())
    assert count == 6 * 32 + 32 + 3 * (12 * 32**2 + 2 * 32) + 32
    # Fresh biases are zero, so both are the same function.
    state = {k: v for k, v in with_bias.state_dict().items() if not k.endswith("bias")}
    without.load_state_dict(state)
    nn.init.zeros_(with_bias.embed.bias)  # type: ignore[arg-type]
    torch.testing.assert_close(without(tokens()).tokens, with_bias(tokens()).tokens)


def test_tail_without_bias() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2)
    initialise(attention, Style(bias=False))
    x = torch.randn(2, 7, 8)
    torch.testing.assert_close(attention(x, tail=3), attention(x)[:, -3:])


def test_rescale_by_depth() -> None:
    plain, scaled = encoder(rescale=False), encoder(rescale_by="depth")
    for one, other in zip(plain.blocks, scaled.blocks, strict=True):
        for name in ("attn.proj.weight", "mlp.fc2.weight"):
            first, second = one.get_parameter(name), other.get_parameter(name)
            torch.testing.assert_close(second, first / math.sqrt(2 * 3))
        torch.testing.assert_close(one.attn.qkv.weight, other.attn.qkv.weight)


def test_predictor_may_not_see_the_registers() -> None:
    latents = encoder(num_prefix=1)(
        tokens(),
        masks := Masks(
            torch.tensor([[[0, 1]]]).expand(4, -1, -1),
            torch.tensor([[[2, 3, 4]]]).expand(4, -1, -1),
        ),
    )
    assert latents.prefix is not None
    torch.manual_seed(0)
    blind = Predictor(32, 16, 2, 2, 8, sees_prefix=False)
    torch.manual_seed(0)
    seeing = Predictor(32, 16, 2, 2, 8)
    alone = type(latents)(latents.tokens, latents.positions, None)
    torch.testing.assert_close(blind(latents, masks), seeing(alone, masks))
    assert not torch.allclose(blind(latents, masks), seeing(latents, masks))


def test_centred_targets_by_a_loop() -> None:
    teacher = encoder().eval()
    data = tokens()
    found = EmaTarget(32, layer_norm=False, centre=True)(Batch(data, data), teacher)
    whole = teacher(data).tokens
    for row in range(4):
        for token in (1, 4):
            mean = sum(whole[other, token] for other in range(4)) / 4
            torch.testing.assert_close(found[row, token], whole[row, token] - mean)
    # Two processes with half of the rows each: the mean over both is asked for.
    halves = [whole[:2].mean(0, keepdim=True), whole[2:].mean(0, keepdim=True)]
    both = EmaTarget(32, layer_norm=False, centre=True, gather=lambda x: torch.cat(halves))
    half = Batch(*(Tokens(data.values[:2], data.positions),) * 2)
    part = both(half, teacher)
    torch.testing.assert_close(part, found[:2])


def test_settings_of_adamw() -> None:
    made = optimiser(encoder(), (0.9, 0.99), 1e-6)
    assert made.defaults["betas"] == (0.9, 0.99) and made.defaults["eps"] == 1e-6
