"""Random changes of ECG crops, for a whole batch at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jepa_modalities.adapters.ecg.config import ECGAugment
from jepa_modalities.core.draw import Draw


def starts(draw: Draw, room: Tensor, step: int = 1) -> Tensor:
    """First sample of a random crop of each record.

    Args:
        draw: of the step.
        room: samples that the record is longer than the crop, long, (batch,).
        step: crops begin at multiples of so many samples.

    Returns:
        long, (batch,).
    """
    places = room // step + 1
    # float32 can round up to the bound itself.
    number = (draw.uniform().to(room.device) * places).long().minimum(places - 1)
    return number * step


def changed_leads(values: Tensor, augment: ECGAugment, draw: Draw) -> Tensor:
    """Scale, shift, noise and dropout of leads; each is off at 0.

    Args:
        values: normalised crops, (batch, leads, samples).
        augment: how much.
        draw: of the step.

    Returns:
        A new tensor of the same shape, or `values` itself where everything is off.
    """
    leads, samples = values.shape[1:]
    place = values.device
    if augment.scale:
        values = values * (1 + augment.scale * draw.normal(leads, 1)).to(place)
    if augment.shift:
        # A slow sine, half a turn to two turns per crop: what electrodes and breathing do.
        turns, phase = draw.uniform(leads, 1, low=0.5, high=2.0), draw.uniform(leads, 1)
        height = augment.shift * draw.uniform(leads, 1)
        time = torch.linspace(0, 1, samples, device=place)
        turns, phase, height = (part.to(place) for part in (turns, phase, height))
        values = values + height * (2 * math.pi * (turns * time + phase)).sin()
    if augment.noise:
        values = values + augment.noise * draw.normal(leads, samples).to(place)
    if augment.lead_dropout:
        values = values * kept_leads(augment, draw, leads)[..., None].to(place)
    return values


def kept_leads(augment: ECGAugment, draw: Draw, leads: int) -> Tensor:
    """1.0 for the leads that stay; at least one does. (batch, leads)."""
    touched = draw.uniform(1) < augment.lead_dropout
    score = draw.uniform(leads)
    stays = (score >= augment.dropped) | (score >= score.amax(1, keepdim=True))
    return (stays | ~touched).float()
