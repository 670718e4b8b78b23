"""Layer-wise groups, exact; fine-tuning leaves the given encoder alone."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from jepa_modalities.core.batch import Tokens
from jepa_modalities.core.block import Style
from jepa_modalities.core.encoder import TokenEncoder
from jepa_modalities.core.positions import LearnedPosition, SinCosPosition, grid_positions
from jepa_modalities.eval.features import extract
from jepa_modalities.eval.finetune import SHARPNESS, Recipe, finetune, layer_groups, mix
from jepa_modalities.eval.ridge import loo_ridge_probe

POSITIONS = grid_positions(4)
QUICK = Recipe(epochs=10, batch_size=16, lr=5e-3, label_smoothing=0.0)


def tokenize(raw: torch.Tensor) -> Tokens:
    return Tokens(torch.as_tensor(raw).float().view(-1, 4, 3), POSITIONS)


def small_encoder(learned: bool = False, num_prefix: int = 0) -> TokenEncoder:
    torch.manual_seed(0)
    position = LearnedPosition(4, 16) if learned else SinCosPosition(16)
    embed = nn.Linear(3, 16)
    return TokenEncoder(embed, position, 16, 3, 2, Style(init="xavier"), num_prefix)


def task(rows: int, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """The class is the sign of the first token's first channel; the rest is noise."""
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, 12))).float()
    y = np.where((x[:, 0] > 0).numpy(), "left", "right")
    return x, y


def test_every_parameter_is_in_one_group_with_its_layers_scale() -> None:
    encoder = small_encoder(learned=True, num_prefix=2)
    found = {}
    for group in layer_groups(encoder, weight_decay=0.3, layer_decay=0.5):
        for parameter in group["params"]:
            assert id(parameter) not in found
            found[id(parameter)] = (group["lr_scale"], group["weight_decay"])
    # Three blocks: layers 0 (input), 1, 2, 3 (blocks), 4 (norm).
    for name, parameter in encoder.named_parameters():
        if name.startswith("blocks."):
            scale = {"0": 0.125, "1": 0.25, "2": 0.5}[name.split(".")[1]]
        else:
            scale = 1.0 if name.startswith("norm.") else 0.0625
        tables = {"prefix", "mask_token", "position.table"}
        decay = 0.0 if name.endswith("bias") or "norm" in name or name in tables else 0.3
        assert found.pop(id(parameter)) == (scale, decay), name
    assert not found


def test_an_encoder_without_blocks_needs_no_layer_decay() -> None:
    stem = nn.Sequential(nn.Linear(2, 3))
    with pytest.raises(ValueError, match="Sequential; set layer_decay = 1"):
        layer_groups(stem)
    assert {group["lr_scale"] for group in layer_groups(stem, layer_decay=1)} == {1.0}


def test_timm_models_bring_their_own_groups() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=2, num_heads=2, num_classes=7
    )
    groups = layer_groups(model, weight_decay=0.1, layer_decay=0.5)
    scale = {id(p): g["lr_scale"] for g in groups for p in g["params"]}
    assert len(scale) == len(list(model.parameters()))
    first, second = (scale[id(block.mlp.fc1.weight)] for block in model.blocks)
    assert first == second / 2 and scale[id(model.patch_embed.proj.weight)] == first / 2
    raw, y = torch.randn(24, 3, 32, 32), np.arange(24) % 2
    raw += torch.from_numpy(y)[:, None, None, None] * 2.0
    fit = finetune(model, lambda part: part, raw, y, raw, replace(QUICK, batch_size=8))
    assert (fit.predictions == y).mean() > 0.9 and fit.scores.shape == (24, 2)
    assert model.head.out_features == 7  # the given model keeps its classifier


def test_the_encoder_given_is_not_touched_even_if_frozen() -> None:
    encoder = small_encoder().requires_grad_(False).train()
    before, (x, y) = copy.deepcopy(encoder.state_dict()), task(160)
    fit = finetune(encoder, tokenize, x, y, x, QUICK)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert encoder.training and not any(p.requires_grad for p in encoder.parameters())
    assert all(p.grad is None for p in encoder.parameters())
    assert (fit.predictions == y).mean() > 0.9


def test_training_reaches_new_rows_and_repeats_itself() -> None:
    (x, y), (t, truth) = task(160), task(80, seed=1)
    encoder = small_encoder()
    extract(encoder, tokenize, x, ["mean"])  # inference mode must leave nothing behind
    before = torch.random.get_rng_state()
    first = finetune(encoder, tokenize, x, y, t, QUICK, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(77)
    again = finetune(encoder, tokenize, x.numpy(), y, t[:11], QUICK, seed=5)
    np.testing.assert_allclose(first.scores[:11], again.scores, rtol=1e-4, atol=1e-5)
    assert (first.predictions == truth).mean() > 0.85
    other = finetune(encoder, tokenize, x, y, t, QUICK, seed=6)
    assert not np.allclose(first.scores, other.scores)


def test_augment_sees_training_batches_only() -> None:
    (x, y), seen = task(40), []

    def augment(part: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen.append(len(part))
        return part + 0.1 * torch.randn(part.shape, generator=generator)

    finetune(small_encoder(), tokenize, x, y, x[:7], replace(QUICK, epochs=2), augment)
    assert seen == [16, 16, 16, 16]  # 40 rows: two full batches per epoch


def test_mixup_is_the_convex_sum_with_the_mirrored_batch() -> None:
    values, target = torch.randn(3, 4, 2), torch.eye(3)
    valid = torch.tensor([[True] * 4, [True] * 3 + [False], [True] * 2 + [False] * 2])
    tokens, mixed = mix(Tokens(values, POSITIONS, valid), target, 0.3)
    for row, partner in ((0, 2), (1, 1), (2, 0)):
        torch.testing.assert_close(tokens.values[row], 0.3 * values[row] + 0.7 * values[partner])
        torch.testing.assert_close(mixed[row], 0.3 * target[row] + 0.7 * target[partner])
        assert tokens.valid[row].tolist() == (valid[row] | valid[partner]).tolist()
    (x, y) = task(160)
    fit = finetune(small_encoder(), tokenize, x, y, x, replace(QUICK, mixup=0.4))
    assert (fit.predictions == y).mean() > 0.8


def test_errors() -> None:
    x, y = task(20)
    with pytest.raises(ValueError, match=r"shape \(19,\)"):
        finetune(small_encoder(), tokenize, x, y[:-1], x)
    with pytest.raises(ValueError, match="1 classes"):
        finetune(small_encoder(), tokenize, x, ["a"] * 20, x)
    with pytest.raises(ValueError, match="batch_size = 1"):
        finetune(small_encoder(), tokenize, x, y, x, Recipe(batch_size=1))
    x[3] = torch.nan
    with pytest.raises(FloatingPointError, match="epoch 1"):
        finetune(small_encoder(), tokenize, x, y, x, QUICK)


def test_a_ridge_start_is_the_frozen_probe_before_the_first_step() -> None:
    encoder, (x, y), (t, truth) = small_encoder(), task(60), task(200, seed=1)
    pooling = "all_mean_std_max+tokens"
    still = replace(QUICK, epochs=1, lr=0.0, pooling=pooling, head="ridge")
    fit = finetune(encoder, tokenize, x, y, t, still)
    features = [extract(encoder, tokenize, part, (pooling,))[pooling] for part in (x, t)]
    frozen = loo_ridge_probe(features[0], y, features[1])
    assert fit.scores is not None and frozen.scores is not None
    np.testing.assert_allclose(fit.scores, frozen.scores * SHARPNESS, atol=2e-3)
    assert (fit.predictions == truth).mean() > 0.7
    moved = finetune(encoder, tokenize, x, y, t, replace(still, epochs=3, lr=1e-3))
    assert moved.scores is not None and not np.allclose(moved.scores, fit.scores, atol=1e-2)


def test_equal_tokens_have_finite_gradients() -> None:
    flat = torch.ones(8, 12)  # all tokens alike: their standard deviation is zero
    encoder = small_encoder()
    recipe = replace(QUICK, epochs=1, pooling="mean_std_max")
    with torch.no_grad():
        encoder.position = SinCosPosition(16, scale=0.0)
    fit = finetune(encoder, tokenize, flat, np.arange(8) % 2, flat, recipe)
    assert fit.scores is not None and np.isfinite(fit.scores).all()
