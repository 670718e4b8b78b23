"""Maskers: the published sampler's statistics, and the properties of the corrected ones."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from jepa_modalities.core.masking import (
    BlockMasker,
    Masks,
    RandomMasker,
    gather,
    pad,
    random_subset,
    trim,
)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def occupied(index: Tensor, num_tokens: int) -> Tensor:
    """How often each token of each sample is named, (batch, tokens)."""
    flat = index.flatten(1)
    return torch.zeros(len(flat), num_tokens).scatter_add_(1, flat, torch.ones(flat.shape))


def overlap(masks: Masks, num_tokens: int) -> Tensor:
    """Tokens that are context and target of the same sample, bool, (batch, tokens)."""
    return (occupied(masks.context, num_tokens) > 0) & (occupied(masks.targets, num_tokens) > 0)


# Spec of the image modality, table of section 1.3 and the cross-check below it: measured with an
# independent simulation over 40 batches. Grid, batch, min_keep; context, target, union, dead.
PUBLISHED = [
    ((14, 14), 128, 10, 51, 33, 87, 27),
    ((14, 14), 256, 10, 48, 33, 87, 27),
    ((14, 14), 1, 10, 82, 33, 87, 27),
    ((16, 16), 128, 10, 69, 44, 114, 31),
    ((16, 16), 256, 10, 63, 45, 117, 31),
    ((16, 16), 32, 10, 75.8, 44, 114.7, 31),
    ((12, 12), 128, 10, 35, 24, 63, 23),
    ((12, 12), 32, 10, 38.2, 24, 63.6, 23),
    ((28, 28), 16, 10, 276, 136, 356, 55),
    ((8, 8), 256, 4, 10, 11, 28, 15),
]


@pytest.mark.parametrize(
    ("grid", "batch", "min_keep", "context", "target", "union", "dead"),
    PUBLISHED,
    ids=lambda value: "x".join(map(str, value)) if isinstance(value, tuple) else str(value),
)
def test_reference_has_the_published_statistics(
    grid: tuple[int, int],
    batch: int,
    min_keep: int,
    context: float,
    target: float,
    union: float,
    dead: int,
) -> None:
    masker, generator = BlockMasker(grid, min_keep=min_keep, reference=True), seeded(1)
    num_tokens, num_batches = grid[0] * grid[1], 1000 if batch == 1 else 150
    seen = torch.zeros(num_tokens)
    lengths, sizes, unions = [], [], []
    for _ in range(num_batches):
        masks = masker(batch, generator)
        hit = occupied(masks.targets, num_tokens) > 0
        lengths.append(float(masks.context.shape[-1]))
        sizes.append(float(masks.targets.shape[-1]))
        unions.append(float(hit.sum(1).float().mean()))
        seen += hit.sum(0) + occupied(masks.context, num_tokens).sum(0)
    for expected, found in ((context, lengths), (target, sizes), (union, unions)):
        values = torch.tensor(found)
        # 3 %, the table's rounding, and twice the standard error of its own 40 batches.
        noise = 2 * float(values.std()) / math.sqrt(40)
        allowed = 0.03 * expected + (0.5 if expected == int(expected) else 0.05) + noise
        assert abs(float(values.mean()) - expected) < allowed
    assert int((seen == 0).sum()) == dead
    unused = torch.ones(grid, dtype=torch.bool)
    unused[:-1, :-1] = False
    assert torch.equal((seen == 0).view(grid), unused)  # the last row and the last column


def test_reference_cuts_the_bottom_rows_off() -> None:
    masker, rows = BlockMasker((14, 14), min_keep=10, reference=True), torch.zeros(14)
    for step in range(60):
        context = masker(128, seeded(step)).context
        rows += occupied(context, 196).view(128, 14, 14).sum((0, 2))
    share = rows / (60 * 128 * 13)  # 13 usable columns
    assert float(share[0]) == pytest.approx(0.75, abs=0.06)
    assert float(share[12]) == pytest.approx(0.02, abs=0.03)


def test_corrected_sampler_has_the_measured_statistics() -> None:
    # Section 1.3: inclusive offsets, blocks may span, random subset: 14x14, batch 128: 61 (raw 91).
    masker, generator = BlockMasker((14, 14), min_keep=10), seeded()
    trimmed = [float(masker(128, generator).context.shape[-1]) for _ in range(150)]
    raw = [float(masker(1, generator).context.shape[-1]) for _ in range(1000)]
    assert sum(trimmed) / len(trimmed) == pytest.approx(61, rel=0.06)
    assert sum(raw) / len(raw) == pytest.approx(91, rel=0.03)


def test_reference_gives_up_targets_one_by_one() -> None:
    # 25 targets cover the 8 x 8 grid: the published sampler then lets context and targets overlap.
    masks = BlockMasker((8, 8), 25, min_keep=4, reference=True)(16, seeded())
    assert masks.context.shape[-1] > 4
    assert overlap(masks, 64).any(1).all()


@pytest.mark.parametrize("grid", [(6, 24), (20, 5), (9, 9)])
def test_a_full_context_covers_any_grid(grid: tuple[int, int]) -> None:
    masker = BlockMasker(grid, 1, (0.1, 0.1), (1.0, 1.0), context_scale=(1.0, 1.0))
    masks = masker(4, seeded())
    shown = occupied(masks.context, grid[0] * grid[1]) + occupied(masks.targets, grid[0] * grid[1])
    assert (shown == 1).all()


GRIDS = [(14, 14), (8, 8), (6, 15), (20, 5)]


@pytest.mark.parametrize("grid", GRIDS)
def test_context_never_meets_a_target(grid: tuple[int, int]) -> None:
    masker, num_tokens = BlockMasker(grid), grid[0] * grid[1]
    for step in range(20):
        masks = masker(32, seeded(step))
        assert masks.context.shape[:2] == (32, 1)
        assert masks.targets.shape[:2] == (32, 4)
        assert masks.context.shape[-1] >= masker.min_keep
        assert not overlap(masks, num_tokens).any()
        assert occupied(masks.context, num_tokens).max() == 1  # no token twice
        assert (masks.context.diff(dim=-1) > 0).all()


@pytest.mark.parametrize("grid", GRIDS)
def test_targets_are_filled_rectangles(grid: tuple[int, int]) -> None:
    for step in range(5):
        for sample in BlockMasker(grid)(8, seeded(step)).targets.tolist():
            for block in sample:
                rows = sorted({token // grid[1] for token in block})
                columns = sorted({token % grid[1] for token in block})
                assert rows == list(range(rows[0], rows[-1] + 1))
                assert columns == list(range(columns[0], columns[-1] + 1))
                assert block == [r * grid[1] + c for r, c in itertools.product(rows, columns)]


@pytest.mark.parametrize("grid", GRIDS)
def test_every_patch_can_be_context_and_target(grid: tuple[int, int]) -> None:
    num_tokens = grid[0] * grid[1]
    context, target = torch.zeros(num_tokens), torch.zeros(num_tokens)
    masker = BlockMasker(grid)
    for step in range(30):
        masks = masker(64, seeded(step))
        context += occupied(masks.context, num_tokens).sum(0)
        target += occupied(masks.targets, num_tokens).sum(0)
    assert (context > 0).all()
    assert (target > 0).all()


@pytest.mark.parametrize("grid", [(14, 14), (8, 8)])
def test_profiles_are_symmetric(grid: tuple[int, int]) -> None:
    # The published sampler loses here by a factor of 30 between the first and the last rows.
    masker, num_batches = BlockMasker(grid), 80
    maps = {"context": torch.zeros(num_batches, *grid), "targets": torch.zeros(num_batches, *grid)}
    for step in range(num_batches):
        masks = masker(64, seeded(step))
        for name, counted in maps.items():
            hits = occupied(getattr(masks, name), grid[0] * grid[1])
            counted[step] = hits.view(-1, *grid).mean(0)
    for counted in maps.values():
        for axis in (1, 2):
            profile = counted.mean(axis)  # (batches, extent)
            skew = profile - profile.flip(1)
            error = (skew.std(0) / math.sqrt(num_batches)).clamp_min(1e-9)
            assert (skew.mean(0).abs() < 4 * error + 1e-6).all()


def test_scale_and_aspect_are_drawn_independently() -> None:
    grid, low, high = (64, 64), (0.1, 0.2), (0.5, 2.0)
    sizes: dict[bool, list[list[float]]] = {}
    for reference in (False, True):
        masker = BlockMasker(grid, target_scale=low, target_aspect=high, reference=reference)
        sizes[reference] = []
        for step in range(300):
            block = masker(1, seeded(step)).targets[0, 0]
            height, width = len(set((block // 64).tolist())), len(set((block % 64).tolist()))
            sizes[reference].append([height * width / 4096, height / width])
    independent = torch.corrcoef(torch.tensor(sizes[False]).T)[0, 1]
    tied = torch.corrcoef(torch.tensor(sizes[True]).T)[0, 1]
    assert abs(float(independent)) < 0.15
    assert float(tied) > 0.99
    area, aspect = torch.tensor(sizes[False]).T
    assert float(area.mean()) == pytest.approx(0.15, abs=0.004)
    assert float(aspect.mean()) == pytest.approx(1.25, abs=0.08)


def test_masks_are_a_function_of_the_generator() -> None:
    masker = BlockMasker((8, 8))
    first, again, other = masker(16, seeded(3)), masker(16, seeded(3)), masker(16, seeded(4))
    assert torch.equal(first.context, again.context)
    assert torch.equal(first.targets, again.targets)
    assert not (
        first.targets.shape == other.targets.shape and torch.equal(first.targets, other.targets)
    )


def test_rows_are_a_slice() -> None:
    for masker in (BlockMasker((8, 8), lengths="pad"), BlockMasker((8, 8)), RandomMasker(20)):
        whole = masker(10, seeded())
        part = whole.rows(3, 7)
        assert torch.equal(part.context, whole.context[3:7])
        assert torch.equal(part.targets, whole.targets[3:7])
        assert part.hidden is None
        if whole.context_valid is not None:
            assert part.context_valid is not None
            assert torch.equal(part.context_valid, whole.context_valid[3:7])
            assert torch.equal(whole.to("cpu").context_valid, whole.context_valid)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"target_scale": (0.5, 0.9), "target_aspect": (2.0, 3.0)}, "mask.target_scale"),
        ({"target_aspect": (8.0, 9.0)}, "mask.target_aspect"),
        ({"target_scale": (0.2, 0.1)}, "mask.target_scale"),
        ({"target_scale": (0.001, 0.002)}, "mask.target_scale"),
        ({"context_scale": (0.5, 1.5)}, "mask.context_scale"),
        ({"context_aspect": (0.0, 1.0)}, "mask.context_aspect"),
        ({"min_keep": 64}, "mask.min_keep"),
        ({"min_keep": 0}, "mask.min_keep"),
        ({"num_targets": 0}, "mask.num_targets"),
        ({"context_scale": (0.02, 0.03)}, "mask.min_keep"),
        ({"reference": True, "min_keep": 10}, "mask.min_keep"),  # loops for ever in the original
        ({"lengths": "cut"}, "mask.lengths"),
    ],
)
def test_impossible_settings_are_told_at_construction(
    changes: dict[str, object], field: str
) -> None:
    with pytest.raises(ValueError, match=field.replace(".", r"\.")):
        BlockMasker((8, 8), **changes)  # type: ignore[arg-type]


def test_aspects_between_the_ends_are_validated_too() -> None:
    # Targets of 6 x 16 and 16 x 6 leave a 10 x 10 context untouched; the 10 x 10 target between
    # these aspects covers 4 x 4 of it wherever it stands.
    with pytest.raises(ValueError, match=r"mask\.min_keep"):
        BlockMasker(
            (16, 16),
            target_scale=(0.4, 0.4),
            target_aspect=(0.4, 2.5),
            context_scale=(0.4, 0.4),
            min_keep=99,
        )


def test_block_masker_refuses_padding() -> None:
    with pytest.raises(ValueError, match="padding"):
        BlockMasker((8, 8))(2, seeded(), torch.ones(2, 64, dtype=torch.bool))


def test_last_resort_placement() -> None:
    # 40 random targets of 3 x 3 always cover more than 16 of 36 patches; only when all of them
    # lie in one corner are 27 patches left.
    masker = BlockMasker(
        (6, 6), 40, (0.25, 0.25), (1.0, 1.0), context_scale=(1.0, 1.0), min_keep=20
    )
    masks = masker(5, seeded())
    corner = [r * 6 + c for r in (3, 4, 5) for c in (3, 4, 5)]
    for context, targets in zip(masks.context.tolist(), masks.targets.tolist(), strict=True):
        assert all(block == corner for block in targets)
        assert context == [[token for token in range(36) if token not in corner]]


def test_retries_touch_only_the_samples_that_need_them() -> None:
    loose = BlockMasker((8, 8), min_keep=1)(64, seeded(5))
    short = BlockMasker((8, 8), min_keep=24, lengths="pad")
    masks = short(64, seeded(5))
    assert masks.context_valid is not None
    assert int(masks.context_valid.sum(-1).min()) >= 24
    same = (masks.targets == loose.targets).flatten(1).all(1)
    assert 0 < int(same.sum()) < 64
    # Few need the last resort, where all targets of a sample lie in one place.
    piled = (masks.targets == masks.targets[:, :1]).flatten(1).all(1)
    assert int(piled.sum()) < 0.2 * int((~same).sum())


def test_pad_keeps_every_visible_patch() -> None:
    trimmed = BlockMasker((8, 8))(32, seeded(2))
    masks = BlockMasker((8, 8), lengths="pad")(32, seeded(2))
    assert masks.context_valid is not None
    count = masks.context_valid.sum(-1)
    assert torch.equal(masks.targets, trimmed.targets)
    assert int(count.min()) == trimmed.context.shape[-1]
    assert int(count.max()) == masks.context.shape[-1] > int(count.min())
    for sample in range(32):
        kept = masks.context[sample, 0][masks.context_valid[sample, 0]].tolist()
        assert len(set(kept)) == len(kept)
        assert set(trimmed.context[sample, 0].tolist()) <= set(kept)
        assert not set(kept) & set(masks.targets[sample].flatten().tolist())


@given(st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=5))
@settings(deadline=None, max_examples=40)
def test_trim_and_pad_by_loops(rows: list[list[bool]]) -> None:
    assume(all(any(row) for row in rows))
    available = torch.tensor(rows)
    cut = trim(available, seeded()).tolist()
    index, valid = pad(available)
    lists = [[i for i, yes in enumerate(row) if yes] for row in rows]
    shortest, longest = min(map(len, lists)), max(map(len, lists))
    for row, (full, some) in enumerate(zip(lists, cut, strict=True)):
        assert len(some) == shortest
        assert some == sorted(set(some) & set(full))
        assert valid[row].tolist() == [i < len(full) for i in range(longest)]
        assert index[row].tolist() == full + [full[0]] * (longest - len(full))


def test_random_subset_is_uniform() -> None:
    available = torch.tensor([True, False, True, True, True]).expand(4000, 5)
    counts = torch.bincount(random_subset(available, 2, seeded()).flatten(), minlength=5)
    assert counts[1] == 0
    for token in (0, 2, 3, 4):
        assert float(counts[token]) / 4000 == pytest.approx(0.5, abs=0.04)


def test_random_masker_shares() -> None:
    masker, counts = RandomMasker(100, (0.4, 0.6)), []
    use = torch.zeros(100)
    for step in range(200):
        masks = masker(8, seeded(step))
        both = torch.cat([masks.context, masks.targets], dim=-1)[:, 0]
        assert torch.equal(both.sort(-1).values, torch.arange(100).expand(8, 100))
        counts.append(masks.context.shape[-1])
        use += occupied(masks.context, 100).sum(0)
    assert min(counts) in (40, 41, 42)
    assert max(counts) in (58, 59, 60)
    assert sum(counts) / len(counts) == pytest.approx(50, abs=1.5)
    assert float((use / 1600 - 0.5).abs().max()) < 0.06
    assert RandomMasker(10, (0.3, 0.3))(2, seeded()).context.shape == (2, 1, 3)


def test_random_masker_never_uses_padding() -> None:
    valid = torch.tensor([[True] * 6 + [False] * 4, [True, False] * 5, [True] * 10])
    masks = RandomMasker(10, (0.5, 0.5))(3, seeded(), valid)
    named = torch.cat([masks.context, masks.targets], dim=-1)
    assert named.shape == (3, 1, 5)  # the sample with fewest real tokens decides
    for sample in range(3):
        assert all(valid[sample, token] for token in named[sample, 0].tolist())
        assert len(set(named[sample, 0].tolist())) == 5


@pytest.mark.parametrize("keep", [(0.0, 0.5), (0.5, 1.0), (0.7, 0.3)])
def test_random_masker_refuses_empty_sides(keep: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"mask\.keep"):
        RandomMasker(20, keep)


@st.composite
def block_settings(draw: st.DrawFn) -> BlockMasker:
    """A BlockMasker whose settings the constructor accepts."""
    part, most, aspect = st.floats(0.03, 0.4), st.floats(0.4, 1.0), st.floats(0.4, 2.5)
    pairs = [sorted((draw(kind), draw(kind))) for kind in (part, aspect, most, aspect)]
    target_scale, target_aspect, context_scale, context_aspect = ((a, b) for a, b in pairs)
    grid = draw(st.tuples(st.integers(4, 14), st.integers(4, 14)))
    try:
        return BlockMasker(
            grid,
            draw(st.integers(1, 6)),
            target_scale,
            target_aspect,
            context_scale,
            context_aspect,
            min_keep=draw(st.integers(1, 8)),
            lengths=draw(st.sampled_from(["trim", "pad"])),
        )
    except ValueError as error:
        assert "mask." in str(error)
        assume(False)
        raise


@given(block_settings(), st.integers(0, 10**6))
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.filter_too_much])
def test_accepted_settings_always_work(masker: BlockMasker, seed: int) -> None:
    num_tokens = masker.grid[0] * masker.grid[1]
    masks = masker(6, seeded(seed))
    real = masks.context.numel() // 6 * torch.ones(6)
    if masks.context_valid is not None:
        real = masks.context_valid.sum((1, 2)).float()
    assert (real >= masker.min_keep).all()
    assert masks.targets.shape[:2] == (6, masker.num_targets)
    assert masks.targets.shape[-1] >= 1
    assert int(masks.context.min()) >= 0
    assert int(masks.targets.min()) >= 0
    assert max(int(masks.context.max()), int(masks.targets.max())) < num_tokens
    assert not overlap(masks, num_tokens).any()
    low, high = masker.target_scale
    assert masks.targets.shape[-1] <= num_tokens
    assert masks.targets.shape[-1] > 0.4 * (low * num_tokens - 1)
    assert masks.targets.shape[-1] < 2.0 * (high * num_tokens + 1)


@given(st.integers(1, 4), st.integers(1, 7), st.integers(1, 3), st.integers(1, 5), st.booleans())
@settings(deadline=None, max_examples=30)
def test_gather_by_loops(batch: int, tokens: int, groups: int, keep: int, wide: bool) -> None:
    values = torch.randn(batch, tokens, 3) if wide else torch.randn(batch, tokens)
    index = torch.randint(0, tokens, (batch, groups, keep))
    found = gather(values, index)
    assert found.shape == (batch, groups, keep, *values.shape[2:])
    for b, g, k in itertools.product(range(batch), range(groups), range(keep)):
        assert torch.equal(found[b, g, k], values[b, int(index[b, g, k])])
