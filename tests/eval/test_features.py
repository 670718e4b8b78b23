"""Poolings against plain loops; extraction; the cache's fingerprint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from jepa_modalities.core.batch import Latents, Tokens
from jepa_modalities.core.encoder import TokenEncoder
from jepa_modalities.core.positions import SinCosPosition, grid_positions
from jepa_modalities.eval.features import (
    HIDDEN,
    POOLINGS,
    FeatureCache,
    cells,
    encode,
    extract,
    fingerprint,
    pool,
    unknown_poolings,
)

ROWS, GRID, DIM, DEPTH = 5, (3, 4), 16, 5
POSITIONS = grid_positions(*GRID)


def small_encoder(seed: int = 0, heads: int = 2, **settings: int) -> TokenEncoder:
    torch.manual_seed(seed)
    return TokenEncoder(nn.Linear(2, DIM), SinCosPosition(DIM), DIM, DEPTH, heads, **settings)


def tokenize(raw: torch.Tensor) -> Tokens:
    return Tokens(raw.float().view(-1, 12, 2), POSITIONS)


def random_latents(seed: int = 0) -> Latents:
    torch.manual_seed(seed)
    blocks = [3 * torch.randn(ROWS, 12, DIM) + 1 for _ in range(DEPTH)]
    hidden = [torch.randn(ROWS, 12, 4 * DIM) for _ in range(DEPTH)]
    return Latents(torch.randn(ROWS, 12, DIM), POSITIONS, blocks=blocks, hidden=hidden)


def loop_pool(x: list[np.ndarray], kind: str) -> np.ndarray:
    """Pooling of ONE sample's token list by plain loops."""
    if kind == "tokens":
        return np.concatenate(x)
    mean = sum(x) / len(x)
    if kind == "mean":
        return mean
    if kind == "mean_std_max":
        std = np.sqrt(sum((token - mean) ** 2 for token in x) / len(x))
        biggest = np.array([max(token[c] for token in x) for c in range(len(x[0]))])
        return np.concatenate([mean, std, biggest])
    parts = []
    for bottom in (False, True):
        for right in (False, True):
            # rows 0, 1 | 2 and columns 0, 1 | 2, 3 of the 3 x 4 grid
            own = [x[r * 4 + c] for r in range(3) for c in range(4)
                   if (r > 1) == bottom and (c > 1) == right]  # fmt: skip
            parts.append(sum(own) / len(own))
    return np.concatenate(parts)


def loop_norm(token: np.ndarray) -> np.ndarray:
    mean = token.sum() / DIM
    return (token - mean) / np.sqrt(((token - mean) ** 2).sum() / DIM + 1e-5)


@pytest.mark.parametrize("pooling", [p for p in POOLINGS if p not in ("tokens", "grid4")])
def test_poolings_equal_plain_loops(pooling: str) -> None:
    latents = random_latents()
    assert latents.blocks is not None
    found = pool(latents, pooling).numpy()
    for row in range(ROWS):
        if pooling.startswith(HIDDEN):
            assert latents.hidden is not None
            expected = np.concatenate(
                [
                    loop_pool([t.numpy() for t in part[row]], pooling.removeprefix(HIDDEN))
                    for part in latents.hidden
                ]
            )
        elif pooling.startswith(("all_", "last4_")):
            blocks = latents.blocks if pooling.startswith("all_") else latents.blocks[-4:]
            expected = np.concatenate([
                loop_pool([loop_norm(t.numpy()) for t in block[row]], pooling.split("_", 1)[1])
                for block in blocks
            ])  # fmt: skip
        else:
            expected = loop_pool([t.numpy() for t in latents.tokens[row]], pooling)
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-5)


def test_tokens_are_flattened_token_by_token() -> None:
    latents = random_latents()
    found = pool(latents, "tokens")
    assert found.shape == (ROWS, 12 * DIM)
    assert torch.equal(found[2, 7 * DIM : 8 * DIM], latents.tokens[2, 7])


def test_halves_in_one_dimension_and_a_flat_axis() -> None:
    assert cells(grid_positions(4)).tolist() == [
        [True, True, False, False],
        [False, False, True, True],
    ]
    flat = torch.tensor([[0.0, 5.0], [1.0, 5.0]])  # the second axis cannot be split
    assert cells(flat).tolist() == [[True, False], [False, True]]


def test_padding_does_not_count() -> None:
    latents = random_latents()
    assert latents.blocks is not None
    valid = torch.ones(ROWS, 12, dtype=torch.bool)
    valid[:, -2:] = False  # the last two tokens of the last row of the grid
    spoiled = Latents(
        torch.where(valid[..., None], latents.tokens, 1e3), POSITIONS, None,
        [torch.where(valid[..., None], block, 1e3) for block in latents.blocks],
        [torch.where(valid[..., None], part, 1e3) for part in latents.hidden or []],
    )  # fmt: skip
    for pooling in POOLINGS:
        first, second = pool(latents, pooling, valid), pool(spoiled, pooling, valid)
        torch.testing.assert_close(first, second)
    short = [t.numpy() for t in latents.tokens[1, :10]]
    found = pool(latents, "mean_std_max", valid)[1].numpy()
    np.testing.assert_allclose(found, loop_pool(short, "mean_std_max"), rtol=1e-4, atol=1e-5)


def test_extract_is_one_pass_and_does_not_depend_on_the_batch_size() -> None:
    encoder, raw, calls = small_encoder(), torch.randint(0, 255, (7, 24), dtype=torch.uint8), []

    def counted(part: torch.Tensor) -> Tokens:
        calls.append(len(part))
        return tokenize(part)

    found = extract(encoder, counted, raw, POOLINGS, batch_size=3)
    assert calls == [3, 3, 1]
    whole = encode(encoder, tokenize(raw), POOLINGS)
    for name in POOLINGS:
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(
            found[name], pool(whole, name).detach().numpy(), rtol=1e-3, atol=1e-4
        )


def test_hidden_activations_are_those_of_every_block_without_the_prefix() -> None:
    encoder = small_encoder(num_prefix=2)
    tokens = tokenize(torch.randint(0, 255, (3, 24)))
    latents = encode(encoder, tokens, [HIDDEN + "mean"])
    x = encoder.embed(tokens.values) + encoder.position(tokens.positions)
    x = torch.cat([encoder.prefix.expand(3, -1, -1), x], dim=1)
    assert latents.hidden is not None and len(latents.hidden) == DEPTH
    for block, found in zip(encoder.blocks, latents.hidden, strict=True):
        middle = x + block.attn(block.norm1(x))
        active = torch.nn.functional.gelu(block.mlp.fc1(block.norm2(middle)))
        torch.testing.assert_close(found, active[:, 2:])
        x = block(x)


def test_hidden_activations_that_are_not_there_are_asked_for() -> None:
    with pytest.raises(ValueError, match="hidden=True"):
        pool(Latents(torch.zeros(1, 12, DIM), POSITIONS), HIDDEN + "mean")


def test_extract_leaves_the_encoder_as_it_was_and_trainable() -> None:
    encoder = small_encoder().train()
    encoder.blocks[1].eval()
    raw = torch.randn(4, 24)
    extract(encoder, tokenize, raw, ["mean"])
    assert encoder.training and encoder.blocks[0].training and not encoder.blocks[1].training
    encoder(tokenize(raw)).tokens.sum().backward()
    assert encoder.embed.weight.grad is not None


def test_extract_names_broken_samples() -> None:
    raw = torch.zeros(4, 24)
    raw[2] = torch.nan
    with pytest.raises(ValueError, match=r"1 samples are NaN.*sample 2"):
        extract(small_encoder(), tokenize, raw, ["mean"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pool(random_latents(), "median"), "'median' is not known"),
        (lambda: pool(Latents(torch.zeros(1, 12, 4), POSITIONS), "all_mean"), "blocks=True"),
        (lambda: pool(Latents(torch.zeros(1, 1, 12, 4), POSITIONS), "mean"), "without masks"),
        (lambda: extract(small_encoder(), tokenize, torch.zeros(0, 24)), "no samples"),
        (lambda: extract(small_encoder(), tokenize, torch.zeros(1, 24), ["max"]), "'max'"),
    ],
)
def test_errors(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_fingerprint_sees_weights_buffers_settings_data_and_extra() -> None:
    raw = torch.randn(6, 24)
    base = fingerprint(small_encoder(), raw)
    assert fingerprint(small_encoder(), raw) == base
    changed = small_encoder()
    with torch.no_grad():
        changed.blocks[3].mlp.fc2.bias[0] += 1e-6
    other = raw.clone()
    other[5, 23] += 1e-6
    marks = [
        base,
        fingerprint(changed, raw),
        fingerprint(small_encoder(heads=4), raw),  # equal weights, other function
        fingerprint(small_encoder(), other),
        fingerprint(small_encoder(), raw.numpy().astype(np.float64)),
        fingerprint(small_encoder(), raw, extra="patch 4"),
        fingerprint(None, raw),
    ]
    assert len(set(marks)) == len(marks)


def test_cache_computes_only_what_is_missing_and_never_serves_stale(tmp_path: Path) -> None:
    encoder, raw, asked = small_encoder(), torch.randn(6, 24), []
    cache = FeatureCache(tmp_path / "features")

    def compute(missing):
        asked.append(list(missing))
        return extract(encoder, tokenize, raw, missing)

    mark = fingerprint(encoder, raw)
    first = cache.features("encoder+bar", "train", ["mean"], mark, compute)
    both = cache.features("encoder+bar", "train", ["tokens", "mean"], mark, compute)
    assert asked == [["mean"], ["tokens"]] and list(both) == ["tokens", "mean"]
    np.testing.assert_array_equal(first["mean"], both["mean"])
    with torch.no_grad():
        encoder.norm.bias += 1.0
    again = cache.features("encoder+bar", "train", ["mean"], fingerprint(encoder, raw), compute)
    assert asked[-1] == ["mean"] and len(asked) == 3
    np.testing.assert_allclose(again["mean"], first["mean"] + 1.0, atol=1e-5)
    assert cache.load("encoder", "train", "mean", mark) is None


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(tmp_path)

    def broken(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(np, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        cache.save("encoder", "train", "mean", "0" * 64, np.zeros((1, 2), np.float32))
    assert list(tmp_path.iterdir()) == []


def test_sixteen_cells_and_poolings_side_by_side() -> None:
    """Cells of an 8 x 4 grid are 2 x 1 tokens; joined poolings stand in the given order."""
    torch.manual_seed(3)
    positions = grid_positions(8, 4)
    blocks = [torch.randn(2, 32, DIM) for _ in range(2)]
    latents = Latents(torch.randn(2, 32, DIM), positions, blocks=blocks)
    found = pool(latents, "grid4").view(2, 16, DIM)
    tokens = latents.tokens.view(2, 8, 4, DIM)
    for row in range(4):
        for column in range(4):
            expected = tokens[:, 2 * row : 2 * row + 2, column].mean(1)
            torch.testing.assert_close(found[:, 4 * row + column], expected)
    both = pool(latents, "all_mean+grid4")
    assert torch.equal(both, torch.cat([pool(latents, "all_mean"), pool(latents, "grid4")], 1))
    assert cells(positions, 4).sum(0).unique().tolist() == [1]
    assert unknown_poolings(["mean+grid4", "mean+max", "quadrants"]) == ["mean+max"]


def test_extract_gives_joined_poolings() -> None:
    model, raw = small_encoder(), torch.randn(4, 24)
    found = extract(model, tokenize, raw, ["all_mean+grid4", "grid4"])
    assert found["all_mean+grid4"].shape == (4, DEPTH * DIM + 16 * DIM)
    assert (found["all_mean+grid4"][:, DEPTH * DIM :] == found["grid4"]).all()
