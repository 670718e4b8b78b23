"""Masks of table columns: disjoint, different per row and target, without bias."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_modalities.adapters.tabular.masker import FeatureMasker

shares = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda s: (min(s), max(s)))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 60), shares, shares, st.integers(1, 5), st.integers(0, 10_000))
def test_every_mask_keeps_the_rules(
    features: int, context: tuple[float, float], target: tuple[float, float], count: int, seed: int
) -> None:
    masks = FeatureMasker(features, context, target, count)(7, generator(seed))
    assert masks.context.shape[:2] == (7, 1) and masks.targets.shape[:2] == (7, count)
    assert masks.context.shape[2] >= 1 and masks.targets.shape[2] >= 1
    for row in range(7):
        seen = masks.context[row, 0].tolist()
        assert len(set(seen)) == len(seen)
        assert min(seen) >= 0 and max(seen) < features
        for block in masks.targets[row].tolist():
            assert len(set(block)) == len(block)
            assert min(block) >= 0 and max(block) < features
            assert not set(block) & set(seen)


def test_target_masks_of_a_row_differ() -> None:
    """The published code made all of them equal through one shared buffer."""
    masks = FeatureMasker(30, (0.2, 0.2), (0.3, 0.3), 4)(64, generator())
    drawn = masks.targets.sort(-1).values
    for row in drawn:
        assert len({tuple(block) for block in row.tolist()}) == 4
    assert len({tuple(row) for row in masks.context[:, 0].sort(-1).values.tolist()}) == 64


@pytest.mark.parametrize("targets", [1, 3])
def test_features_are_seen_and_predicted_equally_often(targets: int) -> None:
    features, batch, steps = 9, 200, 100
    masker = FeatureMasker(features, (0.2, 0.6), (0.2, 0.5), targets)
    source = generator(3)
    seen, hit = torch.zeros(features), torch.zeros(targets, features)
    expected_seen = expected_hit = 0
    for _ in range(steps):
        masks = masker(batch, source)
        seen += torch.bincount(masks.context.flatten(), minlength=features)
        for block in range(targets):
            hit[block] += torch.bincount(masks.targets[:, block].flatten(), minlength=features)
        expected_seen += batch * masks.context.shape[2] / features
        expected_hit += batch * masks.targets.shape[2] / features
    # Standard deviation of a count is below sqrt(rows / 4); 5 of them.
    slack = 5 * (batch * steps / 4) ** 0.5
    assert (seen - expected_seen).abs().max() < slack
    assert (hit - expected_hit).abs().max() < slack


def test_sizes_cover_their_range() -> None:
    masker, source = FeatureMasker(10, (0.2, 0.9), (0.2, 0.5)), generator()
    drawn = [masker(2, source) for _ in range(400)]
    sizes = [m.context.shape[2] for m in drawn]
    assert set(sizes) == set(range(2, 10))
    # 400 draws of 8 sizes: 50 each, standard deviation 6.6.
    assert max(abs(sizes.count(size) - 50) for size in range(2, 10)) < 33
    for m in drawn:
        assert m.targets.shape[2] <= 10 - m.context.shape[2]


def test_two_features() -> None:
    masks = FeatureMasker(2)(16, generator())
    assert masks.context.shape == masks.targets.shape == (16, 1, 1)
    assert torch.equal(masks.context + masks.targets, torch.ones(16, 1, 1, dtype=torch.long))


def test_same_generator_same_masks() -> None:
    masker = FeatureMasker(12, num_targets=2)
    first, second = masker(5, generator(7)), masker(5, generator(7))
    assert torch.equal(first.context, second.context)
    assert torch.equal(first.targets, second.targets)


def test_impossible_settings_are_named() -> None:
    with pytest.raises(ValueError, match="1 feature"):
        FeatureMasker(1)
    with pytest.raises(ValueError, match=r"mask.context_scale = \(0.9, 0.2\)"):
        FeatureMasker(8, (0.9, 0.2))
    with pytest.raises(ValueError, match=r"mask.target_scale = \(0.2, 1.5\)"):
        FeatureMasker(8, target=(0.2, 1.5))
    with pytest.raises(ValueError, match=r"mask.num_targets = 0"):
        FeatureMasker(8, num_targets=0)
