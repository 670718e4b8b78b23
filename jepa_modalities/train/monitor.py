"""Collapse monitor and online probe on a fixed subset, a few times per run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_modalities.core.batch import Tokens
from jepa_modalities.core.collapse import statistics, target_variance, verdict
from jepa_modalities.core.jepa import JEPAOutput
from jepa_modalities.eval.features import pool


class Diverged(RuntimeError):
    """Finite gradients have led to weights that make no finite features."""


@torch.no_grad()
def pooled_features(encoder: nn.Module, tokens: Tokens, chunk: int = 256) -> Tensor:
    """Mean-pooled latents, (samples, dim), fp32."""
    parts = []
    for start in range(0, len(tokens), chunk):
        rows = slice(start, start + chunk)
        valid = None if tokens.valid is None else tokens.valid[rows]
        latents = encoder(Tokens(tokens.values[rows], tokens.positions, valid))
        parts.append(pool(latents, "mean", valid).float())
    return torch.cat(parts)


def knn_accuracy(features: Tensor, labels: Tensor, k: int = 20, temperature: float = 0.1) -> Tensor:
    """Leave-one-out accuracy of cosine k nearest neighbours, weights exp(similarity / T)."""
    unit = F.normalize(features - features.mean(0), dim=1)
    similarity = (unit @ unit.T).fill_diagonal_(-2.0)
    top, index = similarity.topk(min(k, len(unit) - 1), dim=1)
    labels = labels.to(features.device).long()
    votes = features.new_zeros(len(unit), int(labels.max()) + 1)
    votes.scatter_add_(1, labels[index], (top / temperature).exp())
    return (votes.argmax(1) == labels).float().mean()


@dataclass
class Monitor:
    """Watches the teacher's features of a fixed subset.

    Attributes:
        tokens: of the subset.
        labels: for the online probe; None leaves it out.
        start: statistics of the untrained encoder, filled at step 0 and kept over a resume.
        best: best probe accuracy so far.
    """

    tokens: Tokens
    labels: Tensor | None
    start: dict[str, float] = field(default_factory=dict)
    best: float = -1.0

    def look(self, encoder: nn.Module, output: JEPAOutput | None) -> dict[str, Any]:
        """Statistics, verdict and probe as log entries.

        Args:
            encoder: the teacher.
            output: of the last step, for the target's variance.

        Returns:
            `collapse/<name>` floats, `probe/knn` if there are labels, `verdict` and `state`.

        Raises:
            Diverged: the features are not finite.
        """
        encoder.eval()
        features = pooled_features(encoder, self.tokens)
        encoder.train()
        if not bool(features.isfinite().all()):
            raise Diverged(
                "the encoder's features are not finite any more: training has diverged; start "
                "again with a lower train.lr or with train.clip"
            )
        names = statistics(features)
        values = dict(zip(names, torch.stack(list(names.values())).tolist(), strict=True))
        if not self.start:
            self.start = values
        state, sentence = verdict(values, self.start)
        if output is not None and output.target is not None:
            total, between = target_variance(output.target)
            loss = output.terms["prediction"]
            values["loss_over_target_variance"] = float(loss / total.clamp_min(1e-12))
            values["target_between_samples"] = float(between)
            if values["target_between_samples"] < 0.02 and state == "healthy":
                sentence += "; but the targets hardly differ between samples: the loss says nothing"
        record: dict[str, Any] = {f"collapse/{name}": value for name, value in values.items()}
        if self.labels is not None:
            record["probe/knn"] = float(knn_accuracy(features, self.labels))
        return {**record, "verdict": sentence, "state": state}

    def improved(self, record: dict[str, Any]) -> bool:
        """Whether the probe of this record is the best so far; remembers it."""
        score = record.get("probe/knn", -1.0)
        better = score > self.best
        self.best = max(self.best, score)
        return better

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"start": self.start, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a former run's numbers."""
        self.start, self.best = dict(state["start"]), float(state["best"])
