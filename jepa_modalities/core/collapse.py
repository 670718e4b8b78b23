"""Collapse monitor: cheap statistics of a feature matrix and a verdict in plain words."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def _exp_entropy(weights: Tensor) -> Tensor:
    share = weights / weights.sum().clamp_min(1e-12)
    return torch.exp(-(share * (share + 1e-12).log()).sum())


def rankme(features: Tensor) -> Tensor:
    """Exponential of the entropy of the normalised singular values (RankMe, Garrido et al. 2023).

    Args:
        features: (samples, dim), not centred.
    """
    return _exp_entropy(torch.linalg.svdvals(features.float()))


def effective_rank(features: Tensor) -> Tensor:
    """Exponential of the entropy of the covariance's normalised eigenvalues (Roy & Vetterli 2007).

    Args:
        features: (samples, dim); centred here.
    """
    return _exp_entropy(torch.linalg.svdvals((features - features.mean(0)).float()).square())


def statistics(features: Tensor) -> dict[str, Tensor]:
    """All statistics of pooled features as detached scalars.

    Args:
        features: one vector per sample, (samples, dim).

    Returns:
        `rankme`; `effective_rank`; `std`: mean over dimensions of the standard deviation over
        samples; `spread`: root mean square deviation from the mean vector over the root mean square
        of the features (0 = all samples equal); `cosine`: mean cosine between different samples.
    """
    x = features.detach().float()
    unit = F.normalize(x, dim=1)
    count = len(x)
    cosine = (unit.sum(0).square().sum() - count) / max(count * (count - 1), 1)
    deviation = (x - x.mean(0)).square().mean().sqrt()
    return {
        "rankme": rankme(x),
        "effective_rank": effective_rank(x),
        "std": x.std(0).mean(),
        "spread": deviation / x.square().mean().sqrt().clamp_min(1e-12),
        "cosine": cosine,
    }


def target_variance(target: Tensor) -> tuple[Tensor, Tensor]:
    """Total variance of the target features and the share of it that differs between samples.

    A falling prediction loss is no sign of learning when the targets become constants; this tells.

    Args:
        target: (batch, blocks, targets, dim).

    Returns:
        Mean over channels of the variance over everything; that variance after the mean of each
        sample is all that is left, divided by the first.
    """
    x = target.detach().float()
    total = x.flatten(0, 2).var(0).mean()
    between = x.mean((1, 2)).var(0).mean()
    return total, between / total.clamp_min(1e-12)


def verdict(now: Mapping[str, float], start: Mapping[str, float]) -> tuple[str, str]:
    """Judge the features against those of the untrained encoder (step 0).

    RankMe falls in good runs too (37 -> 24 in the small experiments; 53 -> 7 in a bad one), so only
    a very low value counts. A shrinking scale alone is harmless; a shrinking spread is not.

    Args:
        now: `statistics` as floats.
        start: the same at step 0.

    Returns:
        "healthy", "narrow" or "collapsed", and one sentence for people.
    """
    rank, first = now["rankme"], max(start["rankme"], 1e-12)
    figures = f"RankMe {rank:.1f}, at the start {first:.1f}; spread {now['spread']:.3f}"
    if now["spread"] < 0.02 * start["spread"] or now["spread"] < 1e-4:
        return "collapsed", f"collapsed: all samples get nearly the same features ({figures})"
    few = now["effective_rank"] < min(1.5, 0.75 * start["effective_rank"])
    if few or rank < min(2.0, 0.5 * first):
        return "collapsed", f"collapsed: the features use about one direction ({figures})"
    if rank < 0.2 * first or now["effective_rank"] < 0.1 * start["effective_rank"]:
        return "narrow", f"narrow: few directions carry the features ({figures})"
    return "healthy", f"healthy: the features use many directions ({figures})"
