"""Tiny encoders whose every weight is random, so that a forgotten one shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from jepa_modalities.adapters.base import build_encoder
from jepa_modalities.adapters.image.config import ImageConfig, ImageData
from jepa_modalities.config import EncoderConfig
from jepa_modalities.core.registry import modalities
from jepa_modalities.export.encoder import PretrainedEncoder


def make_encoder(seed: int = 0, **encoder: Any) -> PretrainedEncoder:
    sizes = {"dim": 24, "depth": 2, "heads": 2, "mlp_ratio": 2.0, **encoder}
    data = ImageData(path="/home/someone/secret/pets.h5", size=(12, 16), patch=4, channels=3)
    config = ImageConfig(recipe="image_tiny", data=data, encoder=EncoderConfig(**sizes))
    modality = modalities["image"]
    made = build_encoder(config, modality.geometry(config), modality.embedding(config))
    tokenizer = modality.tokenizer(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
        tokenizer.mean.copy_(torch.tensor([0.4, 0.5, 0.6]))
        tokenizer.std.copy_(torch.tensor([0.2, 0.25, 0.3]))
    return PretrainedEncoder(config, tokenizer, made).eval()


@pytest.fixture
def encoder() -> Callable[..., PretrainedEncoder]:
    return make_encoder


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (3, 3, 12, 16), generator=generator, dtype=torch.uint8)
