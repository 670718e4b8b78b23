"""The predictor: shapes, sizes, order, and which context a block is predicted from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from jepa_modalities.config import SIZES
from jepa_modalities.core.batch import Latents
from jepa_modalities.core.block import Style
from jepa_modalities.core.masking import BlockMasker, Masks, gather
from jepa_modalities.core.positions import LearnedPosition, grid_positions
from jepa_modalities.core.predictor import Predictor

GRID, DIM, WIDTH, OUT = (5, 6), 12, 16, 7


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def predictor(**changes: int) -> Predictor:
    torch.manual_seed(0)
    settings = {"dim": DIM, "width": WIDTH, "depth": 2, "heads": 2, "target_dim": OUT, **changes}
    settings.setdefault("style", Style(init="xavier"))
    return Predictor(**settings)  # type: ignore[arg-type]


def latents(masks: Masks, num_prefix: int = 0, seed: int = 0) -> Latents:
    drawn = torch.randn(*masks.context.shape, DIM, generator=seeded(seed))
    batch, groups = masks.context.shape[:2]
    prefix = torch.randn(batch, groups, num_prefix, DIM, generator=seeded(seed + 1))
    return Latents(drawn, grid_positions(*GRID), prefix if num_prefix else None)


def masks_of(batch: int = 3, groups: int = 1, blocks: int = 4, seed: int = 0) -> Masks:
    generator = seeded(seed)
    context = torch.rand(batch, groups, 30, generator=generator).argsort(-1)[..., :8]
    return Masks(context, torch.rand(batch, blocks, 30, generator=generator).argsort(-1)[..., :5])


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("num_prefix", [0, 2])
def test_shapes(groups: int, num_prefix: int) -> None:
    masks = masks_of(groups=groups)
    assert predictor()(latents(masks, num_prefix), masks).shape == (3, 4, 5, OUT)


def test_one_block_by_hand() -> None:
    model, masks = predictor(), masks_of()
    context = latents(masks, num_prefix=1)
    found, table = model(context, masks), model.position(context.positions)
    for row in range(3):
        for block in range(4):
            seen = model.embed(context.tokens[row, 0]) + table[masks.context[row, 0]]
            asked = model.mask_token[0] + table[masks.targets[row, block]]
            x = torch.cat([model.embed(context.prefix[row, 0]), seen, asked])[None]  # type: ignore[index]
            for layer in model.blocks:
                x = layer(x)
            expected = model.head(model.norm(x[0, -5:]))
            torch.testing.assert_close(found[row, block], expected, rtol=1e-4, atol=1e-5)


def test_one_group_equals_the_same_group_for_every_block() -> None:
    model, masks = predictor(), masks_of()
    context = latents(masks)
    repeated = Masks(masks.context.expand(-1, 4, -1), masks.targets)
    wide = Latents(context.tokens.expand(-1, 4, -1, -1), context.positions)
    torch.testing.assert_close(model(context, masks), model(wide, repeated))


def test_a_block_sees_its_own_group_only() -> None:
    model, masks = predictor(), masks_of(groups=4)
    context = latents(masks)
    changed = context.tokens.clone()
    changed[:, 2] += 1.0
    before = model(context, masks)
    after = model(Latents(changed, context.positions), masks)
    moved = (before - after).abs().amax((0, 2, 3))
    assert (moved[[0, 1, 3]] == 0).all()
    assert moved[2] > 1e-3


def test_a_block_does_not_depend_on_the_targets_of_others() -> None:
    model, masks = predictor(), masks_of()
    context = latents(masks)
    others = masks_of(seed=5).targets.clone()
    others[:, 1] = masks.targets[:, 1]
    before, after = model(context, masks), model(context, Masks(masks.context, others))
    assert torch.equal(before[:, 1], after[:, 1])
    assert not torch.allclose(before[:, 0], after[:, 0])


class Answer(nn.Module):
    """A block that hands its input on."""

    def forward(
        self, x: Tensor, bias: Tensor | None = None, tail: int | None = None, **_: object
    ) -> Tensor:
        return x if tail is None else x[:, -tail:]


@pytest.mark.parametrize("groups", [1, 4])
def test_order_of_predictions_is_the_order_of_targets(groups: int) -> None:
    # Without blocks, norm and head the prediction IS the position code of its target.
    model, masks = predictor(target_dim=WIDTH), masks_of(groups=groups)
    model.blocks = nn.ModuleList([Answer()])
    model.norm = nn.Identity()  # type: ignore[assignment]
    model.head = nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        model.mask_token.zero_()
    context = latents(masks)
    table = model.position(context.positions)
    expected = gather(table.expand(3, -1, -1), masks.targets)  # as the target is gathered
    assert torch.equal(model(context, masks), expected)


def test_padding_equals_unpadded_samples() -> None:
    model = predictor()
    masks = BlockMasker(GRID, num_targets=2, lengths="pad")(6, seeded(3))
    assert masks.context_valid is not None
    assert not masks.context_valid.all()
    context = latents(masks, num_prefix=1)
    together = model(context, masks)
    for row in range(6):
        valid = masks.context_valid[row, 0]
        single = Masks(masks.context[row : row + 1][..., valid], masks.targets[row : row + 1])
        own = Latents(
            context.tokens[row : row + 1, :, valid],
            context.positions,
            context.prefix[row : row + 1],  # type: ignore[index]
        )
        torch.testing.assert_close(together[row], model(own, single)[0], rtol=1e-4, atol=1e-5)


def test_condition_is_added_to_the_queries() -> None:
    model, masks = predictor(), masks_of()
    context = latents(masks)
    condition = torch.randn(3, WIDTH, generator=seeded(4))
    found = model(context, masks, condition)
    with torch.no_grad():
        model.mask_token += condition[1]
    torch.testing.assert_close(found[1], model(context, masks)[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["tiny", "small", "base", "large", "huge"])
def test_sizes_by_formula(name: str) -> None:
    dim, _, heads, _, depth = SIZES[name]
    with torch.device("meta"):
        model = Predictor(dim, 384, depth, heads, dim)
    block = 4 * 384 + (384 * 3 * 384 + 3 * 384) + (384 * 384 + 384)
    block += 384 * 1536 + 1536 + 1536 * 384 + 384
    expected = dim * 384 + 384 + depth * block + 2 * 384 + 384 * dim + dim + 384
    assert sum(p.numel() for p in model.parameters()) == expected


def shown_masks(groups: int = 3) -> Masks:
    """Windows of 8 places each, the last 5 of them mask tokens and targets."""
    context = torch.rand(2, groups, 30, generator=seeded(3)).argsort(-1)[..., :8]
    hidden = torch.zeros(2, groups, 8, dtype=torch.bool)
    hidden[..., 3:] = True
    return Masks(context, context[..., 3:], hidden)


@pytest.mark.parametrize("axes", [0, 2])
@pytest.mark.parametrize("num_prefix", [0, 1])
def test_shown_hidden_places_are_the_queries(axes: int, num_prefix: int) -> None:
    """The sequence is the window itself: blocks on all places, head on the last five."""
    masks = shown_masks()
    model = predictor(
        shows_hidden=True, style=Style(init="xavier", relative_axes=axes), num_prefix=num_prefix
    )
    assert model.mask_token is None
    if axes:
        for block in model.blocks:
            nn.init.normal_(block.attn.relative)  # type: ignore[arg-type, union-attr]
    given = latents(masks, num_prefix)
    found = model(given, masks)
    assert found.shape == (2, 3, 5, OUT)
    position = model.position(given.positions)
    for row in range(2):
        for group in range(3):
            index = masks.context[row, group]
            x = model.embed(given.tokens[row, group]) + position[index]
            if given.prefix is not None:
                x = torch.cat([model.embed(given.prefix[row, group]), x])
            bucket = (
                None if model.relative is None else model.relative(given.positions, index[None])
            )
            x = x[None]
            for block in model.blocks:
                x = block(x, bucket=bucket)
            expected = model.head(model.norm(x[0]))[-5:]
            torch.testing.assert_close(found[row, group], expected, rtol=1e-4, atol=1e-5)


def test_repeated_places_of_the_context_are_no_keys() -> None:
    masks = shown_masks()
    valid = torch.ones_like(masks.context, dtype=torch.bool)
    valid[:, :, 7] = False
    masks = Masks(masks.context, masks.targets, masks.hidden, valid)
    given, model = latents(masks), predictor(shows_hidden=True)
    other = given.tokens.clone()
    other[:, :, 7] = 5.0
    again = model(Latents(other, given.positions), masks)
    found = model(given, masks)
    assert torch.equal(again[:, :, :4], found[:, :, :4])
    assert not torch.equal(again[:, :, 4], found[:, :, 4])


def test_mask_tokens_and_shown_places_are_told_apart() -> None:
    with pytest.raises(ValueError, match="shows_hidden=False"):
        predictor(shows_hidden=True)(latents(masks_of()), masks_of())
    masks = shown_masks()
    with pytest.raises(ValueError, match="condition"):
        predictor(shows_hidden=True)(latents(masks), masks, torch.zeros(2, WIDTH))


def test_relative_positions_of_context_and_queries() -> None:
    """Without an absolute code, moving the whole sample on the grid changes nothing."""
    model = predictor(style=Style(init="xavier", relative_axes=2))
    for block in model.blocks:
        nn.init.normal_(block.attn.relative)  # type: ignore[arg-type, union-attr]
    context, targets = torch.tensor([[[0, 1, 7]]]), torch.tensor([[[6, 2]]])
    masks, moved = Masks(context, targets), Masks(context + 8, targets + 8)
    given = latents(masks)
    torch.testing.assert_close(model(given, masks), model(given, moved))
    apart = Masks(context, targets + 8)
    assert not torch.allclose(model(given, masks), model(given, apart))


def test_register_tokens_may_be_left_out() -> None:
    masks = masks_of()
    with_prefix, without = latents(masks, num_prefix=2), latents(masks)
    torch.manual_seed(0)
    model = Predictor(DIM, WIDTH, 2, 2, OUT, Style(init="xavier"), sees_prefix=False)
    assert torch.equal(model(with_prefix, masks), model(without, masks))
    assert not torch.allclose(predictor()(with_prefix, masks), predictor()(without, masks))


def test_learned_positions() -> None:
    torch.manual_seed(0)
    table = LearnedPosition(30, WIDTH, std=1.0)
    assert float(table.table.detach().std()) == pytest.approx(1.0, abs=0.1)
    model = Predictor(DIM, WIDTH, 2, 2, OUT, Style(init="xavier"), position=table)
    masks = masks_of()
    model(latents(masks), masks).sum().backward()
    used = torch.cat([masks.context.flatten(), masks.targets.flatten()]).unique()
    assert table.table.grad is not None
    assert set(table.table.grad.any(-1).nonzero().flatten().tolist()) == set(used.tolist())
