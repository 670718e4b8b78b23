"""What a step on SAR chips computes, without any chip."""

from __future__ import annotations

import torch

from jepa_modalities.adapters.outline import Outline
from jepa_modalities.adapters.sar.config import SarConfig
from jepa_modalities.adapters.sar.fixed import blank_target
from jepa_modalities.adapters.sar.model import SarModality, geometry


def outline(config: SarConfig) -> Outline:
    """Networks and batch of a run on chips without padding."""
    shape = geometry(config)
    found = Outline(config, shape, lambda: SarModality.embedding(config), views=config.views)
    count = max(round(config.view_keep * shape.num_tokens), 1)
    found.keep = count if count < shape.num_tokens else None
    if config.mask.kind != "none" and config.target.kind != "ema":
        found.raw = (1, *config.data.size)
        with torch.device("meta"):
            function = blank_target(config)
            found.fixed = function, function(torch.empty(1, *found.raw)).shape[-1]
        found.notes.append("sums of the fixed target are no matrix products: not counted")
    return found
