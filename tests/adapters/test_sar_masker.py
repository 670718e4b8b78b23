"""Local windows: sizes, four different windows for every image, padding never seen or predicted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from jepa_modalities.adapters.sar.masker import LocalWindowMasker, RealTokenMasker
from jepa_modalities.core.masking import Masks


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def windows(masks: Masks, columns: int) -> Tensor:
    """Top row and left column of each window, (batch, groups, 2)."""
    return torch.stack(
        [(masks.context // columns).amin(-1), (masks.context % columns).amin(-1)], dim=-1
    )


def test_published_sizes() -> None:
    masks = LocalWindowMasker((14, 14))(8, seeded())
    assert masks.context.shape == (8, 4, 49) and masks.targets.shape == (8, 4, 39)
    assert masks.hidden is not None and masks.hidden.sum(-1).unique().tolist() == [39]
    assert masks.context_valid is None
    small = LocalWindowMasker((8, 8))(2, seeded())
    assert small.context.shape == (2, 4, 16) and small.targets.shape == (2, 4, 12)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("batch", [4, 8, 75])
def test_every_image_gets_four_distinct_windows(batch: int, shared: bool) -> None:
    """The published code gives one window four times where the batch is a multiple of four."""
    corner = windows(LocalWindowMasker((14, 14), shared=shared)(batch, seeded(1)), 14)
    for image in range(batch):
        assert len({tuple(place) for place in corner[image].tolist()}) == 4
        for axis in (0, 1):  # rows and columns are drawn without replacement
            assert len(set(corner[image, :, axis].tolist())) == 4
    assert (len(corner.unique(dim=0)) == 1) is shared


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(4, 16),
    columns=st.integers(4, 16),
    batch=st.integers(1, 6),
    ratio=st.floats(0.3, 0.9),
    shared=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_windows_are_windows(
    rows: int, columns: int, batch: int, ratio: float, shared: bool, seed: int
) -> None:
    count = min(4, min(rows - rows // 2, columns - columns // 2) + 1)
    masker = LocalWindowMasker((rows, columns), None, count, ratio, shared)
    height, width = rows // 2, columns // 2
    masks = masker(batch, seeded(seed))
    assert masks.hidden is not None
    num_hidden = int(height * width * ratio)
    for image in range(batch):
        for group in range(count):
            tokens = masks.context[image, group].tolist()
            top, left = min(t // columns for t in tokens), min(t % columns for t in tokens)
            inside = {(top + y) * columns + left + x for y in range(height) for x in range(width)}
            assert set(tokens) == inside and len(tokens) == len(inside)
            hidden = masks.hidden[image, group]
            assert hidden.tolist() == [False] * (len(tokens) - num_hidden) + [True] * num_hidden
            assert masks.targets[image, group].tolist() == tokens[len(tokens) - num_hidden :]
    again = masker(batch, seeded(seed))
    assert torch.equal(masks.context, again.context)


def test_every_token_is_predicted_about_equally_often_inside_a_window() -> None:
    masks = LocalWindowMasker((4, 4), (4, 4), 1, 0.5)(4000, seeded(2))
    share = torch.bincount(masks.targets.flatten(), minlength=16) / 4000
    assert float((share - 0.5).abs().max()) < 0.04


def boxes(batch: int, rows: int, columns: int, seed: int, least: int) -> Tensor:
    """Rectangles of real tokens around the middle, bool, (batch, tokens)."""
    generator = seeded(seed)
    valid = torch.zeros(batch, rows, columns, dtype=torch.bool)
    for image in range(batch):
        up, left = (
            int(torch.randint(0, n // 2 - least + 1, (), generator=generator))
            for n in (rows, columns)
        )
        valid[image, up : rows - up, left : columns - left] = True
    return valid.flatten(1)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), ratio=st.floats(0.3, 0.9), batch=st.integers(1, 6))
def test_padding_is_neither_seen_nor_predicted(seed: int, ratio: float, batch: int) -> None:
    valid = boxes(batch, 8, 8, seed, 2)
    for masker in (LocalWindowMasker((8, 8), ratio=ratio), RealTokenMasker(64, (1 - ratio,) * 2)):
        masks = masker(batch, seeded(seed), valid)
        plain = masker(batch, seeded(seed))
        assert masks.context.shape == plain.context.shape
        assert masks.targets.shape == plain.targets.shape
        assert masks.context_valid is not None
        for image in range(batch):
            for group in range(masks.context.shape[1]):
                context, targets = masks.context[image, group], masks.targets[image, group]
                fresh = masks.context_valid[image, group]
                shown = fresh if masks.hidden is None else fresh & ~masks.hidden[image, group]
                assert valid[image, context].all() and valid[image, targets].all()
                assert shown.any()
                assert not set(context[shown].tolist()) & set(targets.tolist())
                assert len(set(context[fresh].tolist())) == int(fresh.sum())
                if masks.hidden is not None:
                    assert torch.equal(context[masks.hidden[image, group]], targets)


def test_whole_chips_beside_padded_ones_lose_nothing() -> None:
    valid = torch.ones(2, 64, dtype=torch.bool)
    valid[1, :16] = False
    masker = LocalWindowMasker((8, 8))
    masks = masker(2, seeded(3), valid)
    assert masks.context_valid is not None and masks.context_valid[0].all()
    assert all(len(set(group.tolist())) == 12 for group in masks.targets[0])


def test_a_chip_without_two_real_tokens_in_a_window_is_told() -> None:
    valid = torch.zeros(1, 64, dtype=torch.bool)
    valid[0, 0] = True
    with pytest.raises(ValueError, match="whole tokens in a masked region"):
        LocalWindowMasker((8, 8))(1, seeded(), valid)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": (15, 7)}, r"mask\.window = \(15, 7\)"),
        ({"window": (0, 7)}, r"mask\.window = \(0, 7\)"),
        ({"window": (12, 12)}, r"num_windows = 4.*1 to 3"),
        ({"num_windows": 0}, r"num_windows = 0"),
        ({"ratio": 0.0}, r"mask\.ratio = 0\.0 hides 0"),
        ({"ratio": 1.0}, r"mask\.ratio = 1\.0 hides 49"),
    ],
)
def test_complaints(options: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=message):
        LocalWindowMasker((14, 14), **options)
