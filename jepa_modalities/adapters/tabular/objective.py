"""Loss terms of tables beside latent prediction: replaced values, and bins of hidden values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_modalities.core.batch import Batch
from jepa_modalities.core.draw import Draw
from jepa_modalities.core.jepa import JEPAOutput
from jepa_modalities.core.losses import Gather
from jepa_modalities.core.masking import gather as pick

MOST_CLASSES = 64  # rarer levels of a category share the last class


def replaced(values: Tensor, table: Tensor, draw: Draw, rate: float) -> Tensor:
    """Rows in which a share of the values comes from other rows of the same column.

    Args:
        values: of this batch, (batch, features, 2).
        table: all training rows, (rows, features, 2), on the same device.
        draw: of this step.
        rate: share of the values.
    """
    features = table.shape[1]
    number = draw.uniform(2, features)
    chosen = (number[:, 0] < rate).to(values.device)
    row = (number[:, 1] * len(table)).long().clamp_(max=len(table) - 1).to(values.device)
    place = row * features + torch.arange(features, device=values.device)
    others = table.flatten(0, 1).index_select(0, place.flatten()).view(values.shape)
    return torch.where(chosen[..., None], others, values)


class Detection(nn.Module):
    """Which values of a row were replaced (ELECTRA's objective on columns; binary cross-entropy).

    It looks at the first view. A value that was replaced by an equal one counts as not replaced.

    Args:
        dim: width of the encoder.
        features: tokens per row, each with its own threshold.
        weight: of this term in the sum.
    """

    name = "detection"

    def __init__(self, dim: int, features: int, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight
        self.head = nn.Linear(dim, 1, bias=False)
        self.threshold = nn.Parameter(torch.zeros(features))

    def forward(self, output: JEPAOutput, batch: Batch, gather: Gather) -> Tensor:
        if output.views is None:
            raise ValueError("objective.detection needs the changed rows as the batch's view")
        changed = (batch.views[0].values != batch.context.values).any(-1)
        logits = self.head(output.views[0]).squeeze(-1).float() + self.threshold
        return F.binary_cross_entropy_with_logits(logits, changed.float())


class Reconstruction(nn.Module):
    """Bin of hidden numbers, level of hidden categories: cross-entropy on what is predicted.

    Args:
        dim: width of the predictor's output.
        edges: of the bins of each numeric feature, ascending, outer ones included.
        cardinalities: codes of each categorical feature.
        weight: of this term in the sum.
    """

    name = "reconstruction"
    edges: Tensor
    last: Tensor

    def __init__(
        self,
        dim: int,
        edges: Sequence[Tensor],
        cardinalities: Sequence[int],
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight, self.numeric = weight, len(edges)
        bins = max([len(edge) - 1 for edge in edges], default=0)
        inner = torch.full((len(edges) + len(cardinalities), max(bins - 1, 1)), torch.inf)
        for row, edge in zip(inner, edges, strict=False):
            row[: len(edge) - 2] = edge[1:-1]
        levels = min(max(cardinalities, default=0), MOST_CLASSES + bool(edges))
        self.classes = max(levels, bins + 1)  # one more for a missing number
        self.bins = bins
        self.register_buffer("edges", inner, persistent=False)
        self.head = nn.Linear(dim, self.classes)

    def labels(self, values: Tensor, features: Tensor) -> Tensor:
        """Class of each value, long.

        Args:
            values: (..., 2) as `tokenizer.pack` makes them.
            features: number of the feature, (...).
        """
        x, gap = values.unbind(-1)
        number = (x[..., None] > self.edges[features]).sum(-1)
        number = torch.where(gap > 0, self.bins, number)
        level = x.long().clamp(0, self.classes - 1)
        return torch.where(features < self.numeric, number, level)

    def forward(self, output: JEPAOutput, batch: Batch, gather: Gather) -> Tensor:
        if output.predicted is None or output.masks is None:
            raise ValueError("objective.reconstruction needs masks: set mask.kind to 'feature'")
        targets = output.masks.targets
        labels = self.labels(pick(batch.target.values, targets), targets)
        logits = self.head(output.predicted).float()
        return F.cross_entropy(logits.flatten(0, 2), labels.flatten())
