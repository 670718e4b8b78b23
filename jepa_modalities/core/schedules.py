"""Schedules as plain functions of the optimiser step, which counts from 1."""

from __future__ import annotations

import math


def linear(step: int, total: int, start: float, end: float) -> float:
    """Straight line from `start` at step 1 to `end` at step `total`; constant afterwards."""
    share = min(max((step - 1) / max(total - 1, 1), 0.0), 1.0)
    return start + share * (end - start)


def cosine(step: int, total: int, start: float, end: float) -> float:
    """Half a cosine from `start` at step 1 to `end` at step `total`; constant afterwards."""
    share = min(max((step - 1) / max(total - 1, 1), 0.0), 1.0)
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def warmup_cosine(
    step: int, total: int, warmup: int, start: float, peak: float, end: float
) -> float:
    """Linear warm-up from `start` to `peak` over `warmup` steps, then a cosine down to `end`.

    As in I-JEPA (appendix A.1): set BEFORE the step it belongs to, so step 1 runs at `start`.
    """
    if step <= warmup:
        return start + (peak - start) * (step - 1) / warmup
    return cosine(step - warmup, total - warmup, peak, end)
