"""Prediction lead by lead: the common predictor on each lead's tokens, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from jepa_modalities.adapters.base import build_predictor
from jepa_modalities.adapters.ecg.config import ECGConfig, ECGData, ECGEncoder, ECGPredictor
from jepa_modalities.adapters.ecg.model import ECGModality
from jepa_modalities.adapters.ecg.predictor import LeadPredictor
from jepa_modalities.adapters.ecg.preprocess import PreprocessConfig
from jepa_modalities.core.batch import Latents
from jepa_modalities.core.masking import Masks
from jepa_modalities.core.positions import grid_positions
from jepa_modalities.core.predictor import Predictor
from jepa_modalities.settings import changed

LEADS, TIME, DIM = 3, 20, 16
CONFIG = ECGConfig(
    data=ECGData(crop=2.0, patch=0.1, tokens="lead"),
    preprocess=PreprocessConfig(leads=("I", "II", "V1"), fs=50.0),
    encoder=ECGEncoder(dim=DIM, depth=1, heads=2, cross_pattern=True),
    predictor=ECGPredictor(width=8, depth=2, heads=2, by_lead=True),
)


def made(config: ECGConfig) -> Any:
    torch.manual_seed(0)
    return build_predictor(config, ECGModality.geometry(config), DIM).eval()


def given(num_prefix: int) -> tuple[Latents, Masks]:
    masker = ECGModality.masker(CONFIG, ECGModality.geometry(CONFIG))
    assert masker is not None
    generator = torch.Generator().manual_seed(1)
    masks = masker(2, generator)
    tokens = torch.randn(*masks.context.shape, DIM, generator=generator)
    prefix = torch.randn(2, 1, num_prefix, DIM, generator=generator) if num_prefix else None
    return Latents(tokens, grid_positions(LEADS, TIME), prefix), masks


def test_leads_are_not_packed() -> None:
    with pytest.raises(ValueError, match="by_lead"):
        made(changed(CONFIG, {"predictor.packed": True}))


@pytest.mark.parametrize("num_prefix", [0, 1])
def test_each_lead_is_predicted_from_its_own_visible_times(num_prefix: int) -> None:
    latents, masks = given(num_prefix)
    apart, together = made(CONFIG), made(changed(CONFIG, {"predictor.by_lead": False}))
    assert type(apart) is LeadPredictor and type(together) is Predictor
    found = apart(latents, masks)
    assert found.shape == (*masks.targets.shape, DIM)
    for lead in range(LEADS):
        seen, asked = masks.context[0, 0] // TIME == lead, masks.targets[0, 0] // TIME == lead
        assert seen.any() and asked.any()
        part = Masks(masks.context[:, :, seen], masks.targets[:, :, asked])
        expected = together(replace(latents, tokens=latents.tokens[:, :, seen]), part)
        torch.testing.assert_close(found[:, :, asked], expected)
    assert not torch.allclose(found, together(latents, masks))


def test_other_leads_do_not_matter() -> None:
    latents, masks = given(0)
    model = made(CONFIG)
    found = model(latents, masks)
    tokens = latents.tokens.clone()
    tokens[:, :, masks.context[0, 0] // TIME != 1] += 1.0
    asked = masks.targets[0, 0] // TIME == 1
    again = model(replace(latents, tokens=tokens), masks)
    assert torch.equal(again[:, :, asked], found[:, :, asked])
    assert not torch.equal(again, found)


@pytest.mark.parametrize("settings", [{"data.tokens": "joint"}, {"mask.kind": "random"}])
def test_complaints(settings: dict[str, Any]) -> None:
    config = changed(CONFIG, {"encoder.cross_pattern": False, **settings})
    with pytest.raises(ValueError, match=r"predictor\.by_lead needs data\.tokens = 'lead'"):
        made(config)
