"""Position codes against their formula."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch

from jepa_modalities.core.positions import (
    LearnedPosition,
    RelativePosition,
    SinCosPosition,
    grid_positions,
    num_buckets,
    relative_buckets,
    relative_index,
    sincos,
)


@pytest.mark.parametrize(("grid", "dim"), [((5,), 6), ((3, 4), 16), ((7, 2), 8), ((2, 3, 2), 12)])
def test_sincos_by_loops(grid: tuple[int, ...], dim: int) -> None:
    code = sincos(grid_positions(*grid), dim)
    width = dim // len(grid)
    for token, place in enumerate(itertools.product(*map(range, grid))):
        expected: list[float] = []
        for coordinate in reversed(place):  # the last axis, x, comes first
            omega = [10000 ** (-i / (width / 2)) for i in range(width // 2)]
            expected += [math.sin(coordinate * w) for w in omega]
            expected += [math.cos(coordinate * w) for w in omega]
        assert code[token].tolist() == pytest.approx(expected, abs=1e-6)


def test_x_comes_first() -> None:
    code = sincos(grid_positions(3, 4), 8).view(3, 4, 2, 4)
    assert torch.equal(code[0, :, 0], code[2, :, 0])  # first half: the same in every row
    assert not torch.equal(code[:, 0, 0], code[:, 3, 0])
    assert torch.equal(code[:, 0, 1], code[:, 3, 1])  # second half: the same in every column
    assert not torch.equal(code[0, :, 1], code[2, :, 1])


def test_grid_is_in_raster_order() -> None:
    expected = [[float(r), float(c)] for r in range(3) for c in range(2)]
    assert grid_positions(3, 2).tolist() == expected
    assert grid_positions(3).tolist() == [[0.0], [1.0], [2.0]]


@pytest.mark.parametrize(("axes", "dim"), [(1, 7), (2, 10), (3, 16)])
def test_indivisible_width_is_refused(axes: int, dim: int) -> None:
    with pytest.raises(ValueError, match=rf"dim = {dim} must be divisible by {2 * axes}"):
        sincos(torch.zeros(4, axes), dim)


def test_module_scales_and_keeps_up_with_the_grid() -> None:
    module, small, large = SinCosPosition(8, 0.5), grid_positions(2, 2), grid_positions(3, 5)
    assert torch.equal(module(small), 0.5 * sincos(small, 8))
    assert torch.equal(module(large), 0.5 * sincos(large, 8))
    assert module(large) is module(large)  # one table as long as the coordinates stay the same
    assert torch.equal(copy.deepcopy(module)(small), module(small))
    assert not module.state_dict()


def test_learned_table() -> None:
    torch.manual_seed(0)
    module = LearnedPosition(50, 40)
    assert module(grid_positions(5, 10)) is module.table
    assert float(module.table.detach().std()) == pytest.approx(0.02, rel=0.1)
    with pytest.raises(ValueError, match="50 positions but the input has 12"):
        module(grid_positions(3, 4))


def test_relative_index_is_iRPE() -> None:
    """Offsets up to 1.9 count as they are, larger ones on a logarithm, all cut at 3."""
    assert [relative_index(n) for n in range(8)] == [0, 1, 2, 2, 3, 3, 3, 3]
    for offset in range(1, 40):
        assert relative_index(-offset) == -relative_index(offset)
        if offset >= 2:
            far = 1.9 + math.log(offset / 1.9) / math.log(15.2 / 1.9) * 1.9
            assert relative_index(offset) == min(round(far), 3)


def test_fifty_buckets_by_loops() -> None:
    rows, columns = 5, 20
    table = relative_buckets(grid_positions(rows, columns), num_prefix=1)
    assert num_buckets(2) == 50 and num_buckets(1) == 8
    assert table.shape == (101, 101) and len(table.unique()) == 50
    for i, (y, x) in enumerate(itertools.product(range(rows), range(columns))):
        for j, (v, u) in enumerate(itertools.product(range(rows), range(columns))):
            expected = (relative_index(y - v) + 3) * 7 + relative_index(x - u) + 3
            assert int(table[i + 1, j + 1]) == expected
    assert (table[0] == 49).all() and (table[:, 0] == 49).all()


def test_buckets_of_a_part_are_those_of_its_places() -> None:
    position = RelativePosition(num_prefix=2)
    grid = grid_positions(4, 6)
    index = torch.tensor([[3, 17, 8], [0, 23, 11]])
    part, whole = position(grid, index), position(grid)
    assert part.shape == (2, 5, 5) and whole.shape == (1, 26, 26)
    assert (part[:, :2] == 49).all() and (part[:, :, :2] == 49).all()
    for row in (0, 1):
        for i, j in itertools.product(range(3), repeat=2):
            place = whole[0, 2 + index[row, i], 2 + index[row, j]]
            assert part[row, 2 + i, 2 + j] == place
    assert torch.equal(copy.deepcopy(position)(grid, index), part)
