"""JEPA: predict the target's features at hidden positions from what is visible."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from jepa_modalities.core.batch import Batch, Latents, Tokens
from jepa_modalities.core.losses import Gather, regression
from jepa_modalities.core.masking import Masks, gather


@dataclass
class JEPAOutput:
    """Everything one forward pass made.

    Attributes:
        loss: weighted sum of the terms, scalar.
        terms: each term's value before its weight, detached; never moved to the host here.
        latents: of the context.
        masks: of this step, or None without masked prediction.
        context_valid: False where the context is padding, (batch, groups, keep), or None.
        predicted: (batch, blocks, targets, target_dim), or None without masked prediction.
        target: the same shape, detached.
        features: the target's features of every token, (batch, tokens, target_dim), detached.
        views: latents of the views, (views, batch, tokens, dim), or None.
        channel_weight: weights of the target's channels, (target_dim,), or None.
    """

    loss: Tensor | None = None
    terms: dict[str, Tensor] = field(default_factory=dict)
    latents: Latents | None = None
    masks: Masks | None = None
    context_valid: Tensor | None = None
    predicted: Tensor | None = None
    target: Tensor | None = None
    features: Tensor | None = None
    views: Tensor | None = None
    channel_weight: Tensor | None = None

    def sample_loss(self, kind: str) -> Tensor:
        """Prediction error of each sample, (batch,)."""
        assert self.predicted is not None and self.target is not None
        return regression(self.predicted, self.target, kind, self.channel_weight)


class JEPA(nn.Module):
    """Encoder, its EMA copy (the teacher), predictor, target and the list of terms.

    A method is a choice of these pieces: I-JEPA has a predictor, an `EmaTarget` and the term
    `Prediction`; C-JEPA adds a `Regulariser` on the predicted blocks; two-view VICReg has only a
    `Regulariser` on the views. The teacher exists in every method: it is what is evaluated.

    Args:
        encoder: the context encoder (the student).
        predictor: None without masked prediction.
        target: what is predicted; None without masked prediction, or where only further terms look
            at what the predictor makes.
        terms: modules `(output, batch, gather) -> scalar` with `name` and `weight`.
        gather: concatenates over processes with gradient; the identity on one process.
    """

    def __init__(
        self,
        encoder: nn.Module,
        predictor: nn.Module | None,
        target: Any,
        terms: Iterable[nn.Module],
        gather: Gather = lambda x: x,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.teacher = copy.deepcopy(encoder).requires_grad_(False)
        self.predictor = predictor
        self.target = target
        self.terms = nn.ModuleList(terms)
        self.gather = gather

    def forward(self, batch: Batch, masks: Masks | None = None) -> JEPAOutput:
        """One step's loss.

        Args:
            batch: tokens of (batch, tokens, features), with views for two-view terms.
            masks: for masked prediction, else None.

        Returns:
            JEPAOutput with the loss and all that led to it.
        """
        output = JEPAOutput()
        if self.predictor is not None and masks is not None:
            if self.target is not None:
                with torch.no_grad():
                    output.features = self.target(batch, self.teacher)
                    output.target = gather(output.features, masks.targets)
                output.channel_weight = self.target.channel_weight
            output.latents = self.encoder(batch.context, masks)
            output.masks = masks
            output.context_valid = masks.context_valid
            output.predicted = self.predictor(output.latents, masks, batch.condition)
        if batch.views:
            output.views = self.encode_views(batch)

        loss = torch.zeros((), device=batch.context.values.device)
        for number, term in enumerate(self.terms, start=1):
            value = term(output, batch, self.gather)
            loss = loss + term.weight * value
            name = str(term.name)
            output.terms[f"{name}_{number}" if name in output.terms else name] = value.detach()
        output.loss = loss
        return output

    def encode_views(self, batch: Batch) -> Tensor:
        """Latents of all views in one pass, (views, batch, tokens or keep, dim)."""
        first = batch.views[0]
        together = Tokens(torch.cat([view.values for view in batch.views]), first.positions)
        keep = None if batch.keep is None else batch.keep.flatten(0, 1)
        tokens: Tensor = self.encoder(together, keep=keep).tokens
        return tokens.unflatten(0, (len(batch.views), -1))

    def schedule(self, step: int, total: int) -> None:
        """Tell the target and the terms which optimiser step of how many is next, from 1."""
        if self.target is not None:
            self.target.schedule((step - 1) / total)
        for term in self.terms:
            if hasattr(term, "step"):
                cast(Any, term).step = step

    @torch.no_grad()
    def update_teacher(self, rate: float | Tensor) -> None:
        """Move the teacher towards the student: theta_t += rate * (theta - theta_t).

        Args:
            rate: 1 - momentum; 0 changes nothing, buffers included. A tensor (for a step that may
                be void on the device) is never read here.
        """
        teacher: list[Tensor] = list(self.teacher.parameters())
        student = [p.detach() for p in self.encoder.parameters()]
        if isinstance(rate, Tensor):
            change = torch._foreach_sub(student, teacher)
            torch._foreach_mul_(change, rate)
            torch._foreach_add_(teacher, change)
        else:
            torch._foreach_lerp_(teacher, student, rate)
        for mine, other in zip(self.teacher.buffers(), self.encoder.buffers(), strict=True):
            if isinstance(rate, Tensor):
                mine.copy_(torch.where(rate > 0, other, mine))
            elif rate > 0:
                mine.copy_(other)
