"""The packed predictor: one sequence per sample, blocks apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jepa_modalities.core.batch import Latents
from jepa_modalities.core.block import Style
from jepa_modalities.core.masking import BlockMasker, Masks
from jepa_modalities.core.positions import grid_positions
from jepa_modalities.core.predictor import Predictor

GRID, DIM, WIDTH, OUT = (5, 6), 12, 16, 7


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def predictor(packed: bool, depth: int, norm: str = "pre") -> Predictor:
    torch.manual_seed(0)
    style = Style(init="xavier", norm=norm)
    return Predictor(DIM, WIDTH, depth, 2, OUT, style, packed=packed)


def masks_of(seed: int = 0) -> Masks:
    generator = seeded(seed)
    context = torch.rand(3, 1, 30, generator=generator).argsort(-1)[..., :8]
    return Masks(context, torch.rand(3, 4, 30, generator=generator).argsort(-1)[..., :5])


def latents(masks: Masks, num_prefix: int = 0) -> Latents:
    drawn = torch.randn(*masks.context.shape, DIM, generator=seeded(5))
    prefix = torch.randn(len(drawn), 1, num_prefix, DIM, generator=seeded(6))
    return Latents(drawn, grid_positions(*GRID), prefix if num_prefix else None)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("num_prefix", [0, 2])
def test_with_one_block_it_is_the_papers(num_prefix: int, norm: str) -> None:
    # In the first block every token still is what it was put in as, so who else it has seen
    # makes no difference to the mask tokens.
    masks = masks_of()
    given = latents(masks, num_prefix)
    papers, packed = predictor(False, 1, norm), predictor(True, 1, norm)
    torch.testing.assert_close(packed(given, masks), papers(given, masks), rtol=1e-4, atol=1e-5)


def test_padding_with_one_block_is_the_papers() -> None:
    masks = BlockMasker(GRID, num_targets=3, lengths="pad")(6, seeded(3))
    assert masks.context_valid is not None and not masks.context_valid.all()
    given = latents(masks, num_prefix=1)
    expected = predictor(False, 1)(given, masks)
    torch.testing.assert_close(predictor(True, 1)(given, masks), expected, rtol=1e-4, atol=1e-5)


def test_deeper_the_context_does_not_see_what_is_asked() -> None:
    """By hand: the context goes through the blocks alone, mask tokens read it layer by layer."""
    masks, model = masks_of(), predictor(True, 3)
    given = latents(masks, num_prefix=1)
    found, table = model(given, masks), model.position(given.positions)
    assert not torch.allclose(found, predictor(False, 3)(given, masks), atol=1e-4)

    def layer(block: torch.nn.Module, context: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        alone = block(context[None])[0]
        together = block(torch.cat([context, query])[None])[0, len(context) :]
        return alone, together

    for row in range(3):
        for number in range(4):
            seen = model.embed(given.tokens[row, 0]) + table[masks.context[row, 0]]
            assert given.prefix is not None and model.mask_token is not None
            context = torch.cat([model.embed(given.prefix[row, 0]), seen])
            query = model.mask_token[0] + table[masks.targets[row, number]]
            for block in model.blocks:
                context, query = layer(block, context, query)
            expected = model.head(model.norm(query))
            torch.testing.assert_close(found[row, number], expected, rtol=1e-4, atol=1e-5)


def test_a_block_does_not_depend_on_the_targets_of_others() -> None:
    model, masks = predictor(True, 2), masks_of()
    given, others = latents(masks), masks_of(seed=7).targets.clone()
    others[:, 1] = masks.targets[:, 1]
    before, after = model(given, masks), model(given, Masks(masks.context, others))
    torch.testing.assert_close(before[:, 1], after[:, 1])
    assert not torch.allclose(before[:, 0], after[:, 0])


def test_what_does_not_go_together() -> None:
    with pytest.raises(ValueError, match="relative positions"):
        Predictor(DIM, WIDTH, 1, 2, OUT, Style(relative_axes=2), packed=True)
    with pytest.raises(ValueError, match="hidden positions"):
        Predictor(DIM, WIDTH, 1, 2, OUT, shows_hidden=True, packed=True)
    masks = masks_of()
    grouped = Masks(masks.context.expand(-1, 4, -1), masks.targets)
    with pytest.raises(ValueError, match="one context for all blocks, found 4"):
        predictor(True, 1)(latents(grouped), grouped)
