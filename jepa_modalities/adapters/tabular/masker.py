"""Which columns of a row are seen and which are predicted."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from jepa_modalities.core.masking import Masks

Shares = tuple[float, float]


class FeatureMasker:
    """Random subsets of an unordered set of features (T-JEPA, section 3).

    Per batch one context size and one target size; per row its own permutation; several targets are
    drawn from the row's complement, each by itself, so they differ and may overlap each other.
    Register tokens have no number here: they can be neither hidden nor predicted.

    Args:
        num_features: tokens per row.
        context: share of the features that is seen, low and high; uniform between.
        target: share of the features in each target, low and high, cut to what the context leaves.
        num_targets: targets per row.

    Raises:
        ValueError: fewer than two features, shares that are not ascending in 0..1, or no target.
    """

    def __init__(
        self,
        num_features: int,
        context: Shares = (0.2, 0.9),
        target: Shares = (0.2, 0.5),
        num_targets: int = 1,
    ) -> None:
        if num_features < 2:
            raise ValueError(
                f"the table has {num_features} feature(s) that vary; masked prediction needs at "
                f"least 2: one to see and one to predict"
            )
        for name, (low, high) in (("context_scale", context), ("target_scale", target)):
            if not 0 <= low <= high <= 1:
                raise ValueError(f"mask.{name} = {(low, high)}: give two ascending shares in 0..1")
        if num_targets < 1:
            raise ValueError(f"mask.num_targets = {num_targets}: give at least 1")
        self.num_features, self.num_targets = num_features, num_targets
        self.context = _counts(context, num_features, num_features - 1)
        self.target = _counts(target, num_features, num_features - 1)

    def __call__(self, batch_size: int, generator: Generator, valid: Tensor | None = None) -> Masks:
        """Masks: context (batch, 1, n_c) and targets (batch, num_targets, n_t)."""
        draw = torch.rand(2, generator=generator).tolist()
        seen = _between(self.context, draw[0])
        rest = self.num_features - seen
        count = min(_between(self.target, draw[1]), rest)
        order = torch.rand(batch_size, self.num_features, generator=generator).argsort(dim=1)
        context, left = order[:, :seen], order[:, seen:]
        # The tail of a random order is a random subset of the complement: the first target.
        targets = left[:, None, :count]
        if self.num_targets > 1:
            shape = (batch_size, (self.num_targets - 1) * rest)
            score = torch.rand(shape, generator=generator).view(batch_size, -1, rest)
            place = score.argsort(dim=2)[..., :count]
            more = left.gather(1, place.flatten(1)).view(place.shape)
            targets = torch.cat([targets, more], dim=1)
        return Masks(context[:, None], targets)


def _counts(shares: Shares, total: int, most: int) -> tuple[int, int]:
    """Shares as numbers of features, at least 1 and at most `most`."""
    low, high = (min(max(round(share * total), 1), most) for share in shares)
    return low, high


def _between(bounds: tuple[int, int], draw: float) -> int:
    """A whole number from low to high, each equally likely."""
    low, high = bounds
    return low + min(int((high - low + 1) * draw), high - low)
