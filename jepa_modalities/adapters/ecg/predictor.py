"""Prediction lead by lead, for tokens that belong to a lead each (ECG-JEPA of Kim 2024)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from jepa_modalities.core.batch import Latents
from jepa_modalities.core.masking import Masks
from jepa_modalities.core.predictor import Predictor


class LeadPredictor(Predictor):
    """`Predictor` that sees one lead at a time (ECG-JEPA of Kim 2024, arXiv 2410.08559).

    A lead's hidden times are predicted from the latents of its own visible times: what other leads
    know must have come through the encoder. All leads share the weights; positions stay those of
    lead and time, so the predictor knows which lead it fills. Register tokens, if it sees them, are
    shown to every lead.

    Args:
        leads: of the tokens, which the masks hold lead by lead, equally many each.
        *sizes, **options: of `Predictor`.
    """

    def __init__(self, *sizes: Any, leads: int, **options: Any) -> None:
        super().__init__(*sizes, **options)
        if self.packed:
            raise ValueError("predictor.packed does not go with predictor.by_lead; leave it False")
        self.leads = leads

    def forward(self, latents: Latents, masks: Masks, condition: Tensor | None = None) -> Tensor:
        """See `Predictor.forward`; one context group and one target block, (batch, 1, ...)."""

        def by_lead(x: Tensor) -> Tensor:
            return x.squeeze(1).unflatten(1, (self.leads, -1))

        prefix = latents.prefix
        if prefix is not None:
            prefix = prefix.expand(-1, self.leads, -1, -1)
        split = replace(latents, tokens=by_lead(latents.tokens), prefix=prefix)
        # Each lead is a context group with a target block of its own.
        apart = replace(masks, context=by_lead(masks.context), targets=by_lead(masks.targets))
        predicted = super().forward(split, apart, condition)
        return predicted.flatten(1, 2).unsqueeze(1)
