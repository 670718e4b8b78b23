"""The first learned layer: each feature has weights of its own."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import Any

import rtdl_num_embeddings as rtdl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_modalities.adapters.tabular.bin import REACH
from jepa_modalities.adapters.tabular.config import TokenConfig


class FeatureEmbedding(nn.Module):
    """Numbers and category codes -> one vector per feature (FT-Transformer; T-JEPA, section 3).

    A number x becomes what its embedding makes of it (x w, or c(x) W with its piecewise-linear or
    periodic code c), a missing one gets m on top, with w, W and m of its feature; a category
    becomes a row of its table, of which "unknown" starts at 0, the mean of what the others start
    with. The feature's own offset, its index embedding, is the encoder's learned position.

    Args:
        numeric: number of numeric features, which come first.
        cardinalities: codes of each categorical feature.
        dim: width.
        choice: kind of numeric embedding.
        edges: of piecewise-linear bins, per numeric feature; only their number matters where
            weights are loaded.
    """

    own_weights = True  # of every feature: see `core.encoder.TokenEncoder`
    binned = False

    def __init__(
        self,
        numeric: int,
        cardinalities: Sequence[int],
        dim: int,
        choice: TokenConfig | None = None,
        edges: Sequence[Tensor] | None = None,
    ) -> None:
        super().__init__()
        choice = choice or TokenConfig()
        self.numeric = numeric
        self.number: nn.Module | None = None
        if numeric:
            self.number = _number(choice, numeric, dim, edges)
            self.binned = choice.numeric == "ple"
            self.missing = nn.Parameter(torch.zeros(numeric, dim))
        if cardinalities:
            table = torch.empty(sum(cardinalities), dim).uniform_(-1, 1)
            offset = torch.tensor([0, *itertools.accumulate(cardinalities)])
            table[offset[:-1]] = 0.0
            self.level = nn.Parameter(table)
            self.register_buffer("offset", offset[:-1], persistent=False)
            self.register_buffer("last", torch.tensor(cardinalities) - 1, persistent=False)
        both = bool(numeric and cardinalities and choice.kind)
        self.kind = nn.Parameter(torch.zeros(2, dim)) if both else None

    offset: Tensor
    last: Tensor

    def forward(self, values: Tensor) -> Tensor:
        """(batch, features, 2) -> (batch, features, dim)."""
        parts = []
        if self.number is not None:
            x, gap = values[:, : self.numeric].unbind(2)
            if self.binned:
                x = within_reach(x, self.number.impl)
            parts.append(torch.addcmul(self.number(x), gap[..., None], self.missing))
        if values.shape[1] > self.numeric:
            code = values[:, self.numeric :, 0].long()
            code = torch.minimum(code.clamp_min(0), self.last) + self.offset
            parts.append(F.embedding(code, self.level))
        if self.kind is not None:
            parts = [part + kind for part, kind in zip(parts, self.kind, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat([p.to(parts[0].dtype) for p in parts], 1)

    @property
    def edges(self) -> list[Tensor]:
        """Of the bins of each numeric feature, ascending; none without piecewise-linear codes."""
        if not self.binned:
            return []
        impl: Any = self.number.impl  # type: ignore[union-attr]
        found = []
        for weight, bias in zip(impl.weight.double(), impl.bias.double(), strict=True):
            used = weight > 0
            left, width = -bias[used] / weight[used], 1 / weight[used]
            found.append(torch.cat([left, left[-1:] + width[-1:]]).float())
        return found


def within_reach(x: Tensor, codes: Any) -> Tensor:
    """Numbers that pass the first or the last bin by at most `REACH` of its widths.

    Codes go on without end there, and the first bin may be very narrow.

    Args:
        x: (batch, features).
        codes: rtdl's piecewise-linear encoding, whose share of bin k is weight x + bias; a feature
            with one bin has it in the last column, and zeros before it.
    """
    weight, bias = codes.weight, codes.bias
    one = weight[:, 0] <= 0
    first, start = (torch.where(one, part[:, -1], part[:, 0]) for part in (weight, bias))
    low = (-REACH - start) / first
    high = (1 + REACH - bias[:, -1]) / weight[:, -1]
    return torch.minimum(torch.maximum(x, low), high)


class LinearNumber(nn.Module):
    """x -> x w_j of feature j, uniform +-1 at the start: each is a layer with one input.

    Smaller weights make the untrained encoder nearly linear: +-1 / sqrt(dim) costs .03 RMSE on
    California housing.
    """

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, dim).uniform_(-1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, features) -> (batch, features, dim)."""
        return x[..., None] * self.weight


def _number(
    choice: TokenConfig, numeric: int, dim: int, edges: Sequence[Tensor] | None
) -> nn.Module:
    """The numeric embedding that `tokens.numeric` names.

    Raises:
        ValueError: unknown kind.
    """
    if choice.numeric == "linear":
        return LinearNumber(numeric, dim)
    module: Any
    if choice.numeric == "ple":
        if edges is None:
            edges = [torch.linspace(-1, 1, choice.bins + 1, device="cpu")] * numeric
        place = torch.get_default_device()  # "meta" where only shapes are asked for
        with warnings.catch_warnings(), torch.device("cpu"):  # it looks at the edges
            warnings.filterwarnings("ignore", message=".* has just two bin edges")  # two values
            module = rtdl.PiecewiseLinearEmbeddings(
                [edge.float() for edge in edges], dim, activation=False, version="A"
            )
        module = module.to(place)
    elif choice.numeric == "periodic":
        module = rtdl.PeriodicEmbeddings(
            numeric,
            dim,
            n_frequencies=choice.frequencies,
            frequency_init_scale=choice.frequency_scale,
            activation=True,
            lite=False,
        )
    else:
        raise ValueError(
            f"tokens.numeric = {choice.numeric!r} is not known; choose 'linear', 'ple' or "
            f"'periodic'"
        )
    return module
