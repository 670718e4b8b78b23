"""Random numbers and data order as functions of (seed, step), whatever the split."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_modalities.core.draw import BlockOrder, Blocks, Draw, Schedule, order, seeded
from jepa_modalities.core.masking import BlockMasker, Masks, RandomMasker


def numbers(seed: int, stream: int, number: int) -> list[float]:
    return torch.rand(4, generator=seeded(seed, stream, number)).tolist()


def test_seed_stream_and_number_all_count() -> None:
    # torch's CPU generator reads the low 32 bits of a seed only: packing fields above them is void.
    drawn = [
        tuple(numbers(seed, stream, number))
        for seed in range(5)
        for stream in range(5)
        for number in range(20)
    ]
    assert len(set(drawn)) == len(drawn)
    assert numbers(1, 2, 3) == numbers(1, 2, 3)


@pytest.mark.parametrize("seed", [-1, 20_240_101, 2**63, 2**70])
def test_any_integer_is_a_seed(seed: int) -> None:
    assert numbers(seed, 1, 1) != numbers(seed + 1, 1, 1)


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n), min_size=0, max_size=3))
    ),
    st.integers(1, 1000),
)
@settings(deadline=None, max_examples=40)
def test_any_split_draws_the_same_rows(split: tuple[int, list[int]], step: int) -> None:
    size, cuts = split
    edges = [0, *sorted(cuts), size]

    def draw(start: int, stop: int) -> tuple[torch.Tensor, ...]:
        part = Draw.of_step(7, step, size, start, stop)
        masks = part.masks(RandomMasker(9))
        shown = torch.cat([masks.context, masks.targets], dim=-1)
        return part.uniform(3, low=-1.0, high=2.0), part.normal(2, 2), part.uniform(), shown

    whole = draw(0, size)
    parts = [draw(a, b) for a, b in itertools.pairwise(edges)]
    for number, expected in enumerate(whole):
        assert torch.equal(torch.cat([part[number] for part in parts]), expected)


def test_trimmed_lengths_are_global() -> None:
    masker = BlockMasker((8, 8))
    whole = Draw.of_step(0, 3, 16, 0, 16).masks(masker)
    halves = [Draw.of_step(0, 3, 16, a, a + 8).masks(masker) for a in (0, 8)]
    assert torch.equal(torch.cat([half.context for half in halves]), whole.context)
    assert torch.equal(torch.cat([half.targets for half in halves]), whole.targets)


def test_parts_of_a_step_share_their_masks_and_nothing_else_changes() -> None:
    masker, calls = RandomMasker(9), []

    def counted(*args: Any) -> Masks:
        calls.append(args)
        return masker(*args)

    rows = [(0, 3), (3, 4), (4, 8)]
    found = []
    for draw in Draw.parts(5, 2, 8, rows):
        # A second draw of masks starts from another state: it must not get the first one's.
        found.append((draw.uniform(), draw.masks(counted), draw.masks(counted), draw.normal(2)))
    assert len(calls) == 2
    for (start, stop), part in zip(rows, found, strict=True):
        alone = Draw.of_step(5, 2, 8, start, stop)
        expected = (alone.uniform(), alone.masks(masker), alone.masks(masker), alone.normal(2))
        for mine, theirs in zip(part, expected, strict=True):
            if isinstance(mine, Masks):
                mine, theirs = mine.context, theirs.context
            assert torch.equal(mine, theirs)
    (other,) = Draw.parts(5, 2, 8, [(0, 8)])
    first, second = other.masks(counted), other.masks(masker)
    assert len(calls) == 3 and first.context.shape[0] == second.context.shape[0] == 8


def test_draws_have_their_range_and_differ_between_steps() -> None:
    drawn = Draw.of_step(0, 1, 1000, 0, 1000).uniform(5, low=2.0, high=4.0)
    assert drawn.shape == (1000, 5)
    assert 2.0 <= float(drawn.min()) < 2.01
    assert 3.99 < float(drawn.max()) <= 4.0
    normal = Draw.of_step(0, 1, 1000, 0, 1000).normal(5)
    assert float(normal.mean()) == pytest.approx(0, abs=0.05)
    assert float(normal.std()) == pytest.approx(1, abs=0.05)
    first, second = (Draw.of_step(0, step, 4, 0, 4).uniform() for step in (1, 2))
    assert not torch.equal(first, second)
    other = Draw.of_step(1, 1, 4, 0, 4).uniform()
    assert not torch.equal(first, other)
    assert Draw.of_step(0, 1, 10, 3, 7).rows == 4


@given(st.integers(1, 40), st.integers(1, 25), st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_schedule_covers_every_row_once_per_epoch(count: int, batch_size: int, seed: int) -> None:
    schedule = Schedule(count, batch_size, seed)
    steps = 3 * count // batch_size + 2
    stream = torch.cat([schedule.rows(step) for step in range(1, steps + 1)]).tolist()
    assert len(stream) == steps * batch_size
    for epoch in range(len(stream) // count):
        part = stream[epoch * count : (epoch + 1) * count]
        assert part == order(seed, epoch, count).tolist()
        assert sorted(part) == list(range(count))


def test_schedule_is_a_function_of_the_step() -> None:
    ahead = Schedule(10, 4, 0)
    rows = {step: ahead.rows(step).tolist() for step in range(1, 30)}
    for step in (29, 3, 17, 1, 28):  # any order, a fresh object as after resuming
        assert Schedule(10, 4, 0).rows(step).tolist() == rows[step]
    back = Schedule(10, 4, 0)
    assert [back.rows(step).tolist() for step in (25, 2, 9)] == [rows[25], rows[2], rows[9]]
    assert rows[3] == order(0, 0, 10)[8:].tolist() + order(0, 1, 10)[:2].tolist()  # over the border


def test_epochs_and_seeds_have_their_own_order() -> None:
    orders = [order(seed, epoch, 20).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(o) for o in orders}) == 4


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=30),
    st.integers(1, 60),
    st.integers(1, 25),
    st.integers(0, 3),
)
@settings(deadline=None, max_examples=60)
def test_blocks_cover_every_row_once_per_epoch(
    sizes: list[int], window: int, batch_size: int, seed: int
) -> None:
    count, blocks = sum(sizes), Blocks(torch.tensor(sizes), window)
    schedule = Schedule(count, batch_size, seed, blocks)
    steps = 3 * count // batch_size + 2
    stream = torch.cat([schedule.rows(step) for step in range(1, steps + 1)]).tolist()
    for epoch in range(len(stream) // count):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))
    for step in (steps, 1, 2):  # any order, a fresh object as after resuming
        again = Schedule(count, batch_size, seed, blocks).rows(step).tolist()
        assert again == stream[(step - 1) * batch_size : step * batch_size]


def test_blocks_are_read_a_window_at_a_time_and_mixed_inside() -> None:
    sizes = torch.full((200,), 50)
    found = BlockOrder(Blocks(sizes, 1_000), 0)
    first = found.window(0, 0)
    assert (first.first, first.last) == (0, 1_000)
    blocks = first.rows // 50
    assert len(blocks.unique()) == 20  # twenty whole blocks
    assert blocks.unique().diff().max() > 1  # from all over the data
    assert len(blocks[:100].unique()) > 15  # mixed
    second, later = found.window(0, 1_000), found.window(1, 0)
    assert not set(first.rows.tolist()) & set(second.rows.tolist())
    assert set(first.rows.tolist()) != set(later.rows.tolist())
    # Large blocks: at least four are mixed, whatever the window.
    wide = BlockOrder(Blocks(torch.full((40,), 500), 10), 0).window(0, 0)
    assert len((wide.rows // 500).unique()) == 4


def test_blocks_that_do_not_make_up_the_data_are_refused() -> None:
    with pytest.raises(ValueError, match="blocks hold 7 rows, the data 8"):
        Schedule(8, 2, 0, Blocks(torch.tensor([3, 4]), 1))
    with pytest.raises(ValueError, match="each of at least one row"):
        Schedule(3, 2, 0, Blocks(torch.tensor([3, 0]), 1))
