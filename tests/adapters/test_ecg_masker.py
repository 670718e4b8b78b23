"""Masks in time: the published sampler's statistics, its ring variant, equal blocks."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_modalities.adapters.ecg.masker import BlockTimeMasker, IntervalMasker, intervals


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def runs(row: np.ndarray) -> tuple[list[int], list[int]]:
    """Lengths of the visible and of the hidden runs, by a plain loop."""
    found: tuple[list[int], list[int]] = ([], [])
    length = 1
    for before, now in pairwise(row):
        if before == now:
            length += 1
        else:
            found[int(before)].append(length)
            length = 1
    found[int(row[-1])].append(length)
    return found


def hidden_of(masker: IntervalMasker | BlockTimeMasker, seed: int, size: int = 8) -> np.ndarray:
    masks = masker(size, drawn(seed))
    hidden = np.ones((size, masker.steps), dtype=int)
    np.put_along_axis(hidden, masks.context[:, 0].numpy(), 0, axis=1)
    return hidden


def test_published_statistics() -> None:
    """4,000 masks of 200 tokens, keep 15 to 25 %, blocks of at least 10 (ECG spec, section 1.4)."""
    seen, hidden, counts = [], [], []
    visible = np.zeros(200)
    for seed in range(80):
        for row in hidden_of(IntervalMasker(200), seed, 50):
            one, other = runs(row)
            seen += one
            hidden += other
            counts.append((len(one), len(other)))
            visible += 1 - row
    mean = np.mean(counts, axis=0)
    assert mean[0] == pytest.approx(3.25, rel=0.03)
    assert mean[1] == pytest.approx(2.7, rel=0.03)
    assert np.mean(seen) == pytest.approx(12.5, rel=0.03)
    assert np.mean(hidden) == pytest.approx(59.4, rel=0.03)
    assert np.median([one for one, _ in counts]) == 3
    assert min(hidden) == 10
    share = visible / 4000
    for place, expected in ((0, 0.78), (199, 0.78), (5, 0.56), (50, 0.13), (100, 0.10)):
        assert share[place] == pytest.approx(expected, abs=0.03)


def test_ring_has_no_edges() -> None:
    visible = np.zeros(200)
    for seed in range(40):
        visible += (1 - hidden_of(IntervalMasker(200, ring=True), seed, 50)).sum(0)
    # 2,000 masks: three standard errors of a share of 0.2 are 0.027.
    assert visible / 2000 == pytest.approx(np.full(200, 0.2), abs=0.04)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.integers(6, 120),
    block=st.integers(1, 12),
    low=st.floats(0.05, 0.7),
    width=st.floats(0, 0.2),
    ring=st.booleans(),
    channels=st.integers(1, 3),
    share=st.floats(0.1, 1),
    seed=st.integers(0, 2**31),
)
def test_interval_masks_are_masks(
    steps: int,
    block: int,
    low: float,
    width: float,
    ring: bool,
    channels: int,
    share: float,
    seed: int,
) -> None:
    block = min(block, steps)
    bounds = (low, low + width)
    if math.ceil(bounds[1] * steps) >= steps:
        return
    masker = IntervalMasker(steps, block, bounds, ring, channels, share)
    masks, again = masker(5, drawn(seed)), masker(5, drawn(seed))
    assert torch.equal(masks.context, again.context) and torch.equal(masks.targets, again.targets)
    keep = masks.context.shape[2] // channels
    assert math.ceil(bounds[0] * steps) <= keep <= math.ceil(bounds[1] * steps)
    for context, targets in zip(masks.context[:, 0], masks.targets[:, 0], strict=True):
        seen, wanted = set(context.tolist()), set(targets.tolist())
        assert len(seen) == len(context) and len(wanted) == len(targets)
        assert not seen & wanted and max(seen | wanted) < channels * steps
        assert {c % steps for c in seen} == {c % steps for c in list(seen)[: len(seen)]}
        # All leads share the times.
        times = sorted(c % steps for c in seen if c < steps)
        for channel in range(channels):
            own = sorted(c - channel * steps for c in seen if c // steps == channel)
            assert own == times
    hidden = steps - keep
    expected = hidden if share == 1 else max(round(share * hidden), 1)
    assert masks.targets.shape[2] == channels * expected


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 200), st.integers(2, 10), st.integers(0, 2**31))
def test_no_lone_short_block(steps: int, block: int, seed: int) -> None:
    """Hidden runs shorter than a block arise at the ends of swallowed intervals only."""
    keep = max(steps // 5, 1)
    hidden = intervals(10, steps, keep, block, drawn(seed)).numpy().astype(int)
    assert (hidden.sum(1) == steps - keep).all()
    for row in hidden:
        assert min(runs(row)[1]) >= min(block, steps - keep)


@settings(max_examples=40, deadline=None)
@given(
    steps=st.integers(10, 100),
    block=st.integers(1, 5),
    keep=st.floats(0.1, 0.8),
    seed=st.integers(0, 2**31),
)
def test_blocks_are_whole(steps: int, block: int, keep: float, seed: int) -> None:
    count = math.ceil(keep * steps)
    if count >= steps:
        return
    hidden = hidden_of(BlockTimeMasker(steps, block, (keep, keep)), seed)
    assert (hidden.sum(1) == steps - count).all()
    for row in hidden:
        # Some turn of the ring shows whole blocks, but for one that was cut to fit the share.
        mixed = []
        for turn in range(steps):
            turned = np.roll(row, turn)
            pieces = [turned[at : at + block] for at in range(0, steps, block)]
            mixed.append(sum(len(set(piece.tolist())) > 1 for piece in pieces))
        assert min(mixed) <= 1


def test_blocks_cover_evenly() -> None:
    visible = np.zeros(50)
    for seed in range(50):
        visible += (1 - hidden_of(BlockTimeMasker(50, 5), seed, 40)).sum(0)
    assert visible / 2000 == pytest.approx(np.full(50, 0.4), abs=0.045)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IntervalMasker(20, 3, (0.0, 0.2)), r"mask\.keep = \(0\.0, 0\.2\).*leaves 0"),
        (lambda: IntervalMasker(20, 3, (0.5, 1.0)), r"mask\.keep = \(0\.5, 1\.0\)"),
        (lambda: IntervalMasker(20, 3, (0.5, 0.2)), r"mask\.keep"),
        (lambda: IntervalMasker(20, 21), r"mask\.min_block makes 21 tokens of 20"),
        (lambda: IntervalMasker(20, 3, target_share=0.0), r"mask\.target_share = 0\.0"),
        (lambda: BlockTimeMasker(20, 11), r"mask\.min_block makes 11 tokens of 20"),
    ],
)
def test_complaints(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="whole crops"):
        IntervalMasker(20, 3)(2, drawn(0), torch.ones(2, 20, dtype=torch.bool))
