"""What a step on ECGs computes, without any recording."""

from __future__ import annotations

from jepa_modalities.adapters.ecg.config import ECGConfig
from jepa_modalities.adapters.ecg.model import ECGModality, geometry, in_samples
from jepa_modalities.adapters.outline import LookedUp, Outline


def outline(config: ECGConfig) -> Outline:
    """Networks and batch of a run on ECGs.

    Raises:
        ValueError: unknown kind of target.
    """
    shape, choice = geometry(config), config.target
    found = Outline(config, shape, lambda: ECGModality.embedding(config), views=config.views)
    if config.mask.kind == "none" or choice.kind == "ema":
        return found
    patch = in_samples(config, "data.patch", config.data.patch)
    widths = {"kernels": choice.dim, "samples": len(config.preprocess.leads) * patch}
    if choice.kind not in widths:
        raise ValueError(
            f"target.kind = {choice.kind!r} is not known for ECG; choose 'ema', "
            + " or ".join(map(repr, widths))
        )
    width = widths[choice.kind]
    found.fixed = LookedUp(shape.num_tokens, width), width
    found.notes.append("the fixed target is taken to be looked up: recordings in memory")
    return found
