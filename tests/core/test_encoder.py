"""The encoder: shapes, sizes, key padding, mask tokens, and that nothing hidden leaks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from jepa_modalities.config import SIZES
from jepa_modalities.core.batch import Latents, Tokens
from jepa_modalities.core.block import Style
from jepa_modalities.core.encoder import TokenEncoder, key_padding
from jepa_modalities.core.masking import BlockMasker, Masks, RandomMasker, gather
from jepa_modalities.core.positions import NoPosition, SinCosPosition, grid_positions

GRID, FEATURES, DIM = (4, 6), 5, 16


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def encoder(embed: nn.Module | None = None, **changes: int) -> TokenEncoder:
    torch.manual_seed(0)
    settings = {"dim": DIM, "depth": 2, "heads": 2, **changes}
    embed = embed or nn.Linear(FEATURES, DIM)
    return TokenEncoder(embed, SinCosPosition(DIM), style=Style(init="xavier"), **settings)  # type: ignore[arg-type]


def tokens(batch: int = 3, grid: tuple[int, int] = GRID, seed: int = 0) -> Tokens:
    values = torch.randn(batch, grid[0] * grid[1], FEATURES, generator=seeded(seed))
    return Tokens(values, grid_positions(*grid))


def hidden_changed(sample: Tokens, masks: Masks, seed: int = 9) -> Tokens:
    """The same tokens where the context sees them, other numbers everywhere else."""
    seen = torch.zeros(sample.values.shape[:2], dtype=torch.bool)
    shown = masks.context if masks.hidden is None else masks.context.masked_fill(masks.hidden, -1)
    for row, index in enumerate(shown.flatten(1)):
        seen[row, index[index >= 0]] = True
    noise = torch.randn(sample.values.shape, generator=seeded(seed)) * 10
    return Tokens(torch.where(seen[..., None], sample.values, noise), sample.positions)


class Mixing(nn.Module):
    """A stand-in for a convolutional stem."""

    mixes_tokens = True

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(FEATURES, DIM)

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = self.linear(values + values.roll(1, dims=1))
        return out


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("num_prefix", [0, 2])
def test_shapes(groups: int, num_prefix: int) -> None:
    model = encoder(num_prefix=num_prefix)
    index = torch.stack([torch.randperm(24, generator=seeded(i))[:7] for i in range(3 * groups)])
    masks = Masks(index.view(3, groups, 7), torch.zeros(3, groups, 2, dtype=torch.long))
    under = model(tokens(), masks, blocks=True)
    assert under.tokens.shape == (3, groups, 7, DIM)
    assert under.positions.shape == (24, 2)
    assert [block.shape for block in under.blocks or []] == [(3, groups, 7, DIM)] * 2
    whole = model(tokens(), blocks=True)
    assert whole.tokens.shape == (3, 24, DIM)
    assert [block.shape for block in whole.blocks or []] == [(3, 24, DIM)] * 2
    kept = model(tokens(), keep=index.view(3, groups, 7)[:, 0])
    assert kept.tokens.shape == (3, 7, DIM)
    assert kept.blocks is None
    if num_prefix:
        assert under.prefix is not None
        assert whole.prefix is not None
        assert under.prefix.shape == (3, groups, 2, DIM)
        assert whole.prefix.shape == (3, 2, DIM)
    else:
        assert under.prefix is None and whole.prefix is None


def test_the_last_block_under_the_norm_is_the_output() -> None:
    model = encoder(num_prefix=1)
    latents = model(tokens(), blocks=True)
    assert latents.blocks is not None
    torch.testing.assert_close(model.norm(latents.blocks[-1]), latents.tokens)


def test_masks_of_everything_equal_no_masks() -> None:
    model, sample = encoder(num_prefix=1), tokens()
    everything = Masks(torch.arange(24).expand(3, 1, 24), torch.zeros(3, 1, 1, dtype=torch.long))
    torch.testing.assert_close(model(sample, everything).tokens[:, 0], model(sample).tokens)


def test_order_of_the_context_does_not_matter() -> None:
    model, sample = encoder(), tokens()
    index = torch.arange(3, 12).expand(3, 1, 9)
    targets = torch.zeros(3, 1, 1, dtype=torch.long)
    shuffle = torch.randperm(9, generator=seeded())
    straight = model(sample, Masks(index, targets)).tokens
    mixed = model(sample, Masks(index[..., shuffle], targets)).tokens
    torch.testing.assert_close(mixed, straight[:, :, shuffle], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_prefix", [0, 2])
@pytest.mark.parametrize("lengths", ["trim", "pad"])
def test_hidden_input_does_not_leak(num_prefix: int, lengths: str) -> None:
    model, sample = encoder(num_prefix=num_prefix), tokens(6)
    masks = BlockMasker(GRID, num_targets=2, lengths=lengths)(6, seeded(1))
    changed = hidden_changed(sample, masks)
    assert not torch.equal(changed.values, sample.values)
    before, after = model(sample, masks, blocks=True), model(changed, masks, blocks=True)
    assert torch.equal(before.tokens, after.tokens)
    assert all(torch.equal(a, b) for a, b in zip(before.blocks, after.blocks, strict=True))
    if num_prefix:
        assert torch.equal(before.prefix, after.prefix)
    # The same change is seen by the teacher, who looks at everything.
    assert not torch.equal(model(sample).tokens, model(changed).tokens)


def test_mixing_stem_is_refused_under_masks_only() -> None:
    model, sample = encoder(Mixing()), tokens()
    masks = RandomMasker(24)(3, seeded())
    with pytest.raises(ValueError, match=r"leak.*encoder\.stem = 'linear'"):
        model(sample, masks)
    keep = masks.context[:, 0]
    assert model(sample).tokens.shape == (3, 24, DIM)
    # With `keep` the stem runs on the whole sample and the blocks on the kept tokens.
    x = gather(model.embed(sample.values) + model.position(sample.positions), keep[:, None])[:, 0]
    for block in model.blocks:
        x = block(x)
    torch.testing.assert_close(model(sample, keep=keep).tokens, model.norm(x))


def test_keep_equals_a_single_group() -> None:
    model, sample = encoder(num_prefix=1), tokens()
    masks = RandomMasker(24)(3, seeded())
    under, kept = model(sample, masks), model(sample, keep=masks.context[:, 0])
    assert torch.equal(under.tokens[:, 0], kept.tokens)


def test_hidden_shows_mask_tokens() -> None:
    model, sample = encoder(shows_hidden=True), tokens()
    context = torch.arange(24).expand(3, 1, 24)
    hidden = torch.zeros(3, 1, 24, dtype=torch.bool)
    hidden[0, 0, :5], hidden[1, 0, 7], hidden[2, 0, 20:] = True, True, True
    masks = Masks(context, torch.zeros(3, 1, 1, dtype=torch.long), hidden)
    found = model(sample, masks).tokens
    assert found.shape == (3, 1, 24, DIM)
    assert torch.equal(found, model(hidden_changed(sample, masks), masks).tokens)
    x = model.embed(sample.values)
    for row in range(3):
        for token in range(24):
            if hidden[row, 0, token]:
                x[row, token] = model.mask_token[0, 0]
    x = x + model.position(sample.positions)
    for block in model.blocks:
        x = block(x)
    torch.testing.assert_close(found[:, 0], model.norm(x))
    found.sum().backward()
    assert model.mask_token.grad is not None
    with pytest.raises(ValueError, match="shows_hidden=True"):
        encoder()(sample, masks)


def test_prefix_is_visible_in_every_group() -> None:
    model, sample = encoder(num_prefix=1), tokens(2)
    masks = Masks(torch.tensor([[[0, 1], [8, 9]]] * 2), torch.zeros(2, 2, 1, dtype=torch.long))
    before = model(sample, masks).tokens
    with torch.no_grad():
        model.prefix.copy_(torch.randn(1, 1, DIM, generator=seeded()))  # type: ignore[union-attr]
    moved = (model(sample, masks).tokens - before).abs().amax(-1)
    assert (moved > 1e-6).all()  # every token of every group attends to it


@pytest.mark.parametrize("num_prefix", [0, 2])
def test_key_padding_equals_unpadded_samples(num_prefix: int) -> None:
    model, sample = encoder(num_prefix=num_prefix), tokens(5)
    masks = BlockMasker(GRID, num_targets=2, lengths="pad")(5, seeded(3))
    assert masks.context_valid is not None
    assert not masks.context_valid.all()
    together = model(sample, masks)
    for row in range(5):
        valid = masks.context_valid[row, 0]
        alone = Tokens(sample.values[row : row + 1], sample.positions)
        single = Masks(masks.context[row : row + 1][..., valid], masks.targets[row : row + 1])
        expected = model(alone, single)
        torch.testing.assert_close(
            together.tokens[row, 0, valid], expected.tokens[0, 0], rtol=1e-4, atol=1e-5
        )
        if num_prefix:
            torch.testing.assert_close(
                together.prefix[row], expected.prefix[0], rtol=1e-4, atol=1e-5
            )


def test_padded_tokens_are_never_attended() -> None:
    model, sample = encoder(num_prefix=1), tokens(2)
    valid = torch.ones(2, 24, dtype=torch.bool)
    valid[0, 18:] = False
    padded = Tokens(sample.values, sample.positions, valid)
    found = model(padded).tokens
    alone = Tokens(sample.values[:1, :18], sample.positions[:18])
    torch.testing.assert_close(found[0, :18], model(alone).tokens[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], model(sample).tokens[1], rtol=1e-4, atol=1e-5)
    keep = torch.arange(12, 24).expand(2, 12)
    kept = model(padded, keep=keep).tokens
    alone = Tokens(sample.values[:1], sample.positions)
    torch.testing.assert_close(
        kept[0, :6], model(alone, keep=keep[:1, :6]).tokens[0], rtol=1e-4, atol=1e-5
    )


def test_key_padding_mask() -> None:
    assert key_padding(None, 3) is None
    valid = torch.tensor([[True, False], [True, True]])
    mask = key_padding(valid, 1)
    assert mask is not None
    assert mask.tolist() == [[[[True, True, False]]], [[[True, True, True]]]]


@pytest.mark.parametrize("grid", [(2, 9), (5, 3), (1, 7)])
def test_any_rectangle_fits_the_same_weights(grid: tuple[int, int]) -> None:
    model = encoder()
    first, other = model(tokens(2, GRID)).tokens, model(tokens(2, grid)).tokens
    assert first.shape == (2, 24, DIM)
    assert other.shape == (2, grid[0] * grid[1], DIM)


@pytest.mark.parametrize("num_prefix", [0, 2])
def test_attention_map_of_the_last_block(num_prefix: int) -> None:
    model, sample = encoder(num_prefix=num_prefix), tokens()
    weights = model.attention_map(sample)
    assert weights.shape == (3, 2, 24, 24)
    x = model(sample, blocks=True)
    if num_prefix:
        assert (weights.sum(-1) < 1).all()  # the rest goes to the register tokens
        return
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 24))
    assert x.blocks is not None
    before, last = x.blocks[0], model.blocks[1]
    q, k, _ = last.attn.qkv(last.norm1(before)).chunk(3, dim=-1)
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        logits = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(8)
        torch.testing.assert_close(weights[:, head], logits.softmax(-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["tiny", "small", "base", "large", "huge"])
def test_sizes_have_the_published_parameters(name: str) -> None:
    dim, depth, heads, ratio, _ = SIZES[name]
    features = 14 * 14 * 3 if name == "huge" else 16 * 16 * 3
    with torch.device("meta"):
        embed = nn.Linear(features, dim)
        model = TokenEncoder(embed, SinCosPosition(dim), dim, depth, heads, Style(ratio))
    hidden = int(dim * ratio)
    block = 2 * 2 * dim  # two norms
    block += dim * 3 * dim + 3 * dim + dim * dim + dim  # attention
    block += dim * hidden + hidden + hidden * dim + dim  # MLP
    expected = features * dim + dim + depth * block + 2 * dim  # embed, norm
    assert sum(p.numel() for p in model.parameters()) == expected
    # The families' usual names: 5.5, 21.6, 86, 303 and 631 million.
    millions = {"tiny": 5.5, "small": 21.6, "base": 85.6, "large": 303, "huge": 631}[name]
    assert expected / 1e6 == pytest.approx(millions, rel=0.02)
    table = {
        "tiny": (192, 12, 3, 4, 6),
        "small": (384, 12, 6, 4, 6),
        "base": (768, 12, 12, 4, 6),
        "large": (1024, 24, 16, 4, 12),
        "huge": (1280, 32, 16, 4, 12),
    }
    assert SIZES[name] == table[name]


def test_attention_map_leaves_padding_out() -> None:
    model, sample = encoder(), tokens(2)
    valid = torch.ones(2, 24, dtype=torch.bool)
    valid[0, 18:] = False
    weights = model.attention_map(Tokens(sample.values, sample.positions, valid))
    assert (weights[0, :, :, 18:] == 0).all()
    alone = Tokens(sample.values[:1, :18], sample.positions[:18])
    torch.testing.assert_close(
        weights[0, :, :18, :18], model.attention_map(alone)[0], rtol=1e-4, atol=1e-6
    )


def test_latents_carry_all_positions() -> None:
    sample = tokens()
    latents: Latents = encoder()(sample, RandomMasker(24)(3, seeded()))
    assert latents.positions is sample.positions


def relative_encoder(num_prefix: int = 1) -> TokenEncoder:
    torch.manual_seed(0)
    model = TokenEncoder(
        nn.Linear(FEATURES, DIM),
        NoPosition(),
        DIM,
        2,
        2,
        num_prefix=num_prefix,
        style=Style(init="xavier", relative_axes=2),
    )
    for block in model.blocks:
        nn.init.normal_(block.attn.relative)  # type: ignore[arg-type, union-attr]
    return model


def test_relative_positions_know_offsets_only() -> None:
    model, sample = relative_encoder(), tokens()
    first, second = (
        torch.tensor([0, 1, 8]),
        torch.tensor([9, 10, 17]),
    )  # one row and three columns on
    same = sample.values.clone()
    same[:, second] = sample.values[:, first]
    moved = Tokens(same, sample.positions)
    found = model(sample, keep=first.expand(3, -1)).tokens
    torch.testing.assert_close(model(moved, keep=second.expand(3, -1)).tokens, found)
    other = torch.tensor([9, 11, 17])
    same[:, other] = sample.values[:, first]
    assert not torch.allclose(model(moved, keep=other.expand(3, -1)).tokens, found)


@pytest.mark.parametrize("num_prefix", [0, 1])
def test_relative_positions_of_a_part_and_of_the_whole_agree(num_prefix: int) -> None:
    model, sample = relative_encoder(num_prefix), tokens()
    whole = model(sample)
    order = torch.randperm(24, generator=seeded(2))
    shuffled = model(sample, keep=order.expand(3, -1)).tokens
    torch.testing.assert_close(shuffled, whole.tokens[:, order], rtol=1e-4, atol=1e-5)
    masks = Masks(order[None, None].expand(3, 1, -1), torch.zeros(3, 1, 1, dtype=torch.long))
    torch.testing.assert_close(model(sample, masks).tokens[:, 0], shuffled)
    rows = model.attention_map(sample).sum(-1)
    assert (rows <= 1 + 1e-5).all() and (num_prefix or torch.allclose(rows, torch.ones(())))


class OwnWeights(nn.Module):
    """A vector of weights per token, as for columns of a table."""

    own_weights = True

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(GRID[0] * GRID[1], DIM, generator=seeded(5)))

    def forward(self, values: Tensor) -> Tensor:
        return values.sum(-1, keepdim=True) * self.weight


def test_weights_of_each_token_go_with_it() -> None:
    model, sample = encoder(OwnWeights()), tokens()
    masks = RandomMasker(GRID[0] * GRID[1])(3, seeded())
    found = model(sample, masks).tokens
    embedded = model.embed(sample.values) + model.position(sample.positions)
    for row in range(3):
        x = embedded[row, masks.context[row, 0]][None]
        for block in model.blocks:
            x = block(x)
        torch.testing.assert_close(found[row, 0], model.norm(x)[0], rtol=1e-4, atol=1e-5)
    assert torch.equal(found, model(hidden_changed(sample, masks), masks).tokens)


def test_post_norm_attention_map_is_that_of_the_block() -> None:
    torch.manual_seed(0)
    model = TokenEncoder(
        nn.Linear(FEATURES, DIM), SinCosPosition(DIM), DIM, 1, 2, Style(init="xavier", norm="post")
    )
    sample = tokens()
    x = model.embed(sample.values) + model.position(sample.positions)
    torch.testing.assert_close(model.attention_map(sample), model.blocks[0].attn.attention_map(x))
