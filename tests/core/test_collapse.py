"""Collapse statistics by formula, and the verdict on features of known health."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from jepa_modalities.core.collapse import (
    effective_rank,
    rankme,
    statistics,
    target_variance,
    verdict,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_spectrum(values: list[float], samples: int = 40, dim: int = 12) -> Tensor:
    """Centred features with the given singular values."""
    left = normal(samples, len(values))
    left = torch.linalg.qr(left - left.mean(0)).Q
    right = torch.linalg.qr(normal(dim, len(values), seed=1)).Q
    return left @ torch.diag(torch.tensor(values)) @ right.T


def exp_entropy(weights: list[float]) -> float:
    total = sum(weights)
    return math.exp(-sum(w / total * math.log(w / total) for w in weights))


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_ranks_of_features_with_equal_directions(rank: int) -> None:
    features = with_spectrum([2.0] * rank)
    assert float(rankme(features)) == pytest.approx(rank, rel=1e-3)
    assert float(effective_rank(features)) == pytest.approx(rank, rel=1e-3)


def test_ranks_by_formula() -> None:
    spectrum = [5.0, 3.0, 1.0, 0.5]
    features = with_spectrum(spectrum)
    assert float(rankme(features)) == pytest.approx(exp_entropy(spectrum), rel=1e-3)
    squares = [value**2 for value in spectrum]
    assert float(effective_rank(features)) == pytest.approx(exp_entropy(squares), rel=1e-3)
    # The scale does not matter; a common shift matters to RankMe only.
    assert float(rankme(1000 * features)) == pytest.approx(exp_entropy(spectrum), rel=1e-3)
    moved = features + 50.0
    assert float(effective_rank(moved)) == pytest.approx(exp_entropy(squares), rel=1e-2)
    assert float(rankme(moved)) < 2


def test_statistics_by_loops() -> None:
    features = normal(9, 4) * torch.tensor([1.0, 2.0, 0.5, 0.1]) + 0.7
    found = statistics(features)
    cosines = [
        float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
        for a, b in itertools.permutations(features, 2)
    ]
    assert float(found["cosine"]) == pytest.approx(sum(cosines) / len(cosines), rel=1e-4)
    columns = features.T.tolist()
    means = [sum(column) / 9 for column in columns]
    squares = [sum((v - m) ** 2 for v in c) for c, m in zip(columns, means, strict=True)]
    assert float(found["std"]) == pytest.approx(sum(math.sqrt(s / 8) for s in squares) / 4)
    total = sum(v * v for column in columns for v in column)
    assert float(found["spread"]) == pytest.approx(math.sqrt(sum(squares) / total), rel=1e-5)
    assert float(found["rankme"]) == pytest.approx(float(rankme(features)))
    assert float(found["effective_rank"]) == pytest.approx(float(effective_rank(features)))


def test_statistics_carry_no_gradient_and_accept_bf16() -> None:
    features = normal(6, 4).requires_grad_()
    assert not any(value.requires_grad for value in statistics(features).values())
    assert all(v.dtype == torch.float32 for v in statistics(features.bfloat16()).values())


def test_target_variance_by_loops() -> None:
    target = normal(5, 2, 3, 4) + 2 * normal(5, 1, 1, 4, seed=1)
    total, share = target_variance(target)
    expected, between = 0.0, 0.0
    for channel in range(4):
        values = target[..., channel].flatten().tolist()
        mean = sum(values) / 30
        expected += sum((v - mean) ** 2 for v in values) / 29 / 4
        means = [sum(target[b, ..., channel].flatten().tolist()) / 6 for b in range(5)]
        centre = sum(means) / 5
        between += sum((m - centre) ** 2 for m in means) / 4 / 4
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert float(share) == pytest.approx(between / expected, rel=1e-5)
    same = target[:1].expand(5, -1, -1, -1)
    assert float(target_variance(same)[1]) == pytest.approx(0.0, abs=1e-6)
    assert float(target_variance(torch.ones(5, 2, 3, 4))[0]) == 0.0


def floats(features: Tensor) -> dict[str, float]:
    return {name: float(value) for name, value in statistics(features).items()}


def test_verdicts() -> None:
    start = floats(normal(200, 32))
    cases = {
        "healthy": normal(200, 32, seed=1),
        "narrow": normal(200, 3, seed=1) @ normal(3, 32, seed=2),
        "collapsed": 1.0 + 1e-5 * normal(200, 32, seed=1),
    }
    for expected, features in cases.items():
        state, sentence = verdict(floats(features), start)
        assert state == expected
        assert sentence.startswith(f"{expected}: ")
        assert f"RankMe {floats(features)['rankme']:.1f}" in sentence


def test_one_direction_is_a_collapse_and_a_small_scale_is_not() -> None:
    start = floats(normal(200, 32))
    line = normal(200, 1, seed=1) @ normal(1, 32, seed=2)
    assert verdict(floats(line), start)[0] == "collapsed"
    assert verdict(floats(1e-3 * normal(200, 32, seed=1)), start)[0] == "healthy"
    assert verdict(floats(torch.zeros(20, 32)), start)[0] == "collapsed"
