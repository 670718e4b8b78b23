"""What a step on images computes, without any image."""

from __future__ import annotations

import torch
from torch import nn

from jepa_modalities.adapters.image.augment import moves
from jepa_modalities.adapters.image.config import ImageConfig
from jepa_modalities.adapters.image.model import embedding, geometry
from jepa_modalities.adapters.image.target import blank_target
from jepa_modalities.adapters.outline import LookedUp, Outline

ARRAYS = (".h5", ".npy", ".npz")  # such files are taken to fit in memory


def outline(config: ImageConfig) -> Outline:
    """Networks and batch of a run on images."""
    shape, choice = geometry(config), config.target
    found = Outline(config, shape, lambda: embedding(config), views=config.views)
    count = max(round(config.view_keep * shape.num_tokens), 1)
    found.keep = count if count < shape.num_tokens else None
    if config.mask.kind == "none" or choice.kind == "ema":
        return found
    size = (config.data.channels, *config.data.size)
    with torch.device("meta"):
        function: nn.Module = blank_target(config)
        width = function(torch.empty(1, *size)).shape[-1]
    resident = config.data.path == "digits" or config.data.path.endswith(ARRAYS)
    if resident and choice.cache and not moves(config.augment):
        found.fixed = LookedUp(shape.num_tokens, width), width
        found.notes.append("the fixed target is taken to be looked up: images in memory")
    else:
        found.fixed, found.raw = (function, width), size
        found.notes.append("the fixed target is computed at every step")
    return found
