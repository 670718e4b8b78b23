"""Fixed targets of tables: piecewise-linear codes of each feature, kernel features of the row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_modalities.adapters.tabular.config import TabularConfig


class BinTarget(nn.Module):
    """Piecewise-linear code of each number, one-hot or fixed random code of each category.

    Args:
        edges: of the bins of each numeric feature.
        cardinalities: codes of each categorical feature.
        dim: width; the largest number of bins at least.
        seed: of the random codes, for categories with more levels than `dim`.
    """

    low: Tensor
    width: Tensor
    code: Tensor
    offset: Tensor

    def __init__(
        self, edges: Sequence[Tensor], cardinalities: Sequence[int], dim: int, seed: int = 0
    ) -> None:
        super().__init__()
        self.numeric, self.dim = len(edges), dim
        low, width = torch.full((len(edges), dim), torch.inf), torch.ones(len(edges), dim)
        for number, edge in enumerate(edges):
            low[number, : len(edge) - 1] = edge[:-1]
            width[number, : len(edge) - 1] = edge.diff()
        generator = torch.Generator().manual_seed(seed)
        tables = [
            torch.eye(count, dim) if count <= dim else _random(count, dim, generator)
            for count in cardinalities
        ]
        offset = torch.tensor([0, *cardinalities]).cumsum(0)[:-1]
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("width", width, persistent=False)
        self.register_buffer("code", torch.cat([torch.empty(0, dim), *tables]), persistent=False)
        self.register_buffer("offset", offset, persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """(batch, features, 2) -> (batch, features, dim)."""
        x, gap = values[:, : self.numeric].unbind(2)
        share = ((x[..., None] - self.low) / self.width).clamp(0, 1) * (1 - gap[..., None])
        level = values[:, self.numeric :, 0].long() + self.offset
        return torch.cat([share, F.embedding(level, self.code)], dim=1)


def _random(count: int, dim: int, generator: torch.Generator) -> Tensor:
    return F.normalize(torch.randn(count, dim, generator=generator), dim=1)


class KernelTarget(nn.Module):
    """Nystroem features of the whole row's piecewise-linear code, the same at every position.

    The context must tell where among the landmark rows the whole row lies.

    Args:
        codes: of rows.
        rows: training rows to fit on, (rows, features, 2).
        dim: landmarks, and width.
        seed: of the landmarks.
    """

    landmarks: Tensor
    mixing: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, codes: BinTarget, rows: Tensor, dim: int, seed: int = 0) -> None:
        super().__init__()
        from sklearn.kernel_approximation import Nystroem

        flat = codes(rows).flatten(1).numpy()
        dim = min(dim, len(flat))
        # The bandwidth of unit kernel at the mean distance: codes are neither scaled nor sparse.
        self.gamma = float(1 / max(2 * flat.var(axis=0).sum(), 1e-6))
        map_ = Nystroem(gamma=self.gamma, n_components=dim, random_state=seed)
        features = torch.from_numpy(map_.fit_transform(flat)).float()
        self.codes = codes
        self.register_buffer("landmarks", torch.from_numpy(map_.components_).float())
        self.register_buffer("mixing", torch.from_numpy(map_.normalization_).float())
        self.register_buffer("mean", features.mean(0))
        self.register_buffer("std", features.std(0).clamp_min(1e-6))

    def forward(self, values: Tensor) -> Tensor:
        """(batch, features, 2) -> (batch, features, dim)."""
        distance = torch.cdist(self.codes(values).flatten(1), self.landmarks)
        features = torch.exp(-self.gamma * distance.square()) @ self.mixing.T
        features = (features - self.mean) / self.std
        return features[:, None].expand(-1, values.shape[1], -1)


def fixed_target(
    config: TabularConfig, edges: Sequence[Tensor], rows: Tensor
) -> tuple[nn.Module, int]:
    """The function that `target.kind` names, and its width.

    Args:
        config: with `shape` filled.
        edges: of the bins of each numeric feature.
        rows: training rows, (rows, features, 2).

    Raises:
        ValueError: unknown kind.
    """
    bins = max([config.objective.bins, *(len(edge) - 1 for edge in edges)])
    codes = BinTarget(edges, config.shape.cardinalities, bins, config.train.seed)
    if config.target.kind == "ple":
        return codes, bins
    if config.target.kind == "nystroem":
        sample = rows[torch.linspace(0, len(rows) - 1, min(len(rows), 5000)).long()]
        function = KernelTarget(codes, sample, config.target.dim, config.train.seed)
        return function, len(function.mean)
    raise ValueError(
        f"target.kind = {config.target.kind!r} is not known for tables; choose 'ema', 'ple' or "
        f"'nystroem'"
    )
