"""PCA whitening of many rows: what makes a bank of features a target of unit variance."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def whitening(
    parts: Iterable[Tensor], width: int, dim: int, what: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Fit `(x - mean) @ projection`: the leading principal components, each of variance 1.

    Args:
        parts: the rows in pieces, (rows, width) each, at least one; products are added in float64.
        width: of the rows.
        dim: components to keep.
        what: name of the rows' features, for the message.

    Returns:
        Mean (width,), projection (width, dim) with the largest component first, and the share of
        variance that the components hold (scalar), all float64.

    Raises:
        ValueError: more components than features.
    """
    if dim > width:
        raise ValueError(
            f"target.dim = {dim} is more than the {width} {what}; lower target.dim or raise "
            f"target.centroids"
        )
    count, total, product = 0, torch.zeros(()), torch.zeros(())
    for x in parts:
        total = total.to(x.device) + x.sum(0, dtype=torch.float64)
        product = product.to(x.device) + (x.T @ x).double()
        count += len(x)
    mean = total / count
    values, vectors = torch.linalg.eigh(product / count - mean[:, None] * mean)
    kept = values[-dim:].clamp_min(values[-1] * 1e-9)
    projection = (vectors[:, -dim:] * kept.rsqrt()).flip(1)
    return mean, projection, values[-dim:].sum() / values.clamp_min(0).sum()
