"""A complete small modality, waves: one-dimensional signals of four shapes.

CONTRIBUTING.md explains this file part by part; the tests train it, probe it and check it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jepa_modalities.adapters.base import Geometry, Plan
from jepa_modalities.config import (
    EncoderConfig,
    EvaluateConfig,
    MaskConfig,
    PredictorConfig,
    RunConfig,
    TrainConfig,
)
from jepa_modalities.core.batch import Batch, Tokens
from jepa_modalities.core.draw import seeded
from jepa_modalities.core.masking import Masker, Masks
from jepa_modalities.core.positions import grid_positions
from jepa_modalities.core.registry import adapters, modalities, recipes
from jepa_modalities.eval.arms import Arm, score_arms
from jepa_modalities.eval.features import extract


# part: choices
@dataclass(frozen=True)
class WaveData:
    """Where the waves come from and how they are cut into tokens."""

    samples: int = 1024
    """waves for training"""
    length: int = 128
    """numbers per wave"""
    patch: int = 8
    """numbers per token"""
    noise: float = 0.3
    """standard deviation of the added noise"""


@dataclass(frozen=True)
class WaveConfig(RunConfig):
    """A run on waves."""

    modality: str = "wave"
    data: WaveData = field(default_factory=WaveData)


# part: tokenizer
class WaveTokenizer(nn.Module):
    """Standardise and cut; saved inside the encoder file, so its numbers are buffers."""

    mean: Tensor
    std: Tensor

    def __init__(self, patch: int, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        self.patch = patch
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, waves: Tensor) -> Tokens:
        """(batch, length) -> values (batch, length / patch, patch) and their positions."""
        values = ((waves.float() - self.mean) / self.std).unflatten(1, (-1, self.patch))
        return Tokens(values, grid_positions(values.shape[1]).to(values.device))


# part: modality
@modalities.register("wave")
class WaveModality:
    """Waves without data: what loading and embedding need (see `adapters.base.Modality`)."""

    Config = WaveConfig

    @staticmethod
    def geometry(config: WaveConfig) -> Geometry:
        """Token width and number of tokens."""
        return Geometry(config.data.patch, (config.data.length // config.data.patch,))

    @staticmethod
    def embedding(config: WaveConfig) -> nn.Module:
        """The first learned layer."""
        return nn.Linear(config.data.patch, config.encoder.dim)

    @staticmethod
    def tokenizer(config: WaveConfig) -> nn.Module:
        """A tokenizer whose numbers are filled from the encoder file."""
        return WaveTokenizer(config.data.patch)

    @staticmethod
    def read(config: WaveConfig, raw: Any) -> Tensor:
        """A user's waves, (samples, length)."""
        waves = torch.as_tensor(raw)
        if waves.ndim != 2 or waves.shape[1] != config.data.length:
            raise ValueError(
                f"found {tuple(waves.shape)}, expected (samples, {config.data.length})"
            )
        return waves


# part: data
def draw_waves(count: int, data: WaveData, number: int) -> tuple[Tensor, Tensor]:
    """Noisy sines, squares, triangles and sawteeth: (count, length) and labels (count,)."""
    generator = seeded(0, 9, number)
    label = torch.arange(count) % 4
    turns, start = (torch.rand(count, 1, generator=generator) for _ in range(2))
    phase = (start + (2 + 4 * turns) * torch.linspace(0, 1, data.length)) % 1
    sine = (2 * torch.pi * phase).sin()
    shapes = torch.stack([sine, sine.sign(), sine.asin() * 2 / torch.pi, 2 * phase - 1])
    noise = torch.randn(count, data.length, generator=generator)
    return shapes[label, torch.arange(count)] + data.noise * noise, label


# part: evaluator
def evaluate(adapter: WaveAdapter, encoders: dict[str, list[nn.Module]]) -> dict[str, float]:
    """The encoders beside raw numbers and the power spectrum, the parameter-free bar."""
    choice = adapter.config.evaluate
    train, (test, truth) = adapter.waves, draw_waves(512, adapter.config.data, 2)

    def arm(name: str, *features: Any) -> Arm:
        return Arm(name, [f(train) for f in features], [f(test) for f in features])

    def encoded(model: nn.Module) -> Any:
        return lambda waves: extract(model, adapter.tokenizer, waves, choice.poolings)

    arms = [arm(name, *map(encoded, models)) for name, models in encoders.items()]
    arms.append(arm("raw", lambda waves: {"": waves.numpy()}))
    arms.append(arm("bar", lambda waves: {"": torch.fft.rfft(waves).abs().numpy()}))
    labels, probes = adapter.labels.numpy(), choice.probes
    return score_arms(arms, labels, truth.numpy(), probes, choice.pooling, choice.shots).metrics


# part: adapter
@adapters.register("wave")
class WaveAdapter:
    """Waves for JEPA (see `adapters.base.Adapter`)."""

    def __init__(self, config: WaveConfig, folder: Path | None = None) -> None:
        data = config.data
        if data.length % data.patch:
            raise ValueError(f"data.patch = {data.patch} does not divide data.length")
        self.config, self.geometry = config, WaveModality.geometry(config)
        self.waves, self.labels = draw_waves(data.samples, data, 0)
        mean, std = float(self.waves.mean()), float(self.waves.std())
        self.tokenizer = WaveTokenizer(data.patch, mean, std)

    def __len__(self) -> int:
        return len(self.waves)

    def embedding(self) -> nn.Module:
        """The first learned layer."""
        return WaveModality.embedding(self.config)

    def target(self) -> tuple[nn.Module, int] | None:
        """No fixed target: the latents of the EMA encoder are predicted."""
        return None

    def feed(
        self, plan: Plan, masker: Masker | None, device: torch.device
    ) -> Iterator[tuple[Batch, Masks | None]]:
        """Batches and masks; whatever is random comes from `draw`."""
        for ids, draw in plan:
            masks = None if masker is None else draw.masks(masker).to(device)
            tokens = self.tokenizer.to(device)(self.waves[ids].to(device))
            yield Batch(tokens, tokens, ids=ids), masks

    def monitor(self) -> tuple[Tokens, Tensor | None]:
        """Held-out waves for the collapse monitor and the online probe."""
        waves, labels = draw_waves(256, self.config.data, 1)
        return self.tokenizer(waves.to(self.tokenizer.mean.device)), labels

    def evaluate(self, encoders: dict[str, list[nn.Module]], run: Path) -> dict[str, float]:
        """The encoders beside their controls."""
        return evaluate(self, encoders)

    def pictures(self, encoders: dict[str, list[nn.Module]]) -> dict[str, Any]:
        """None; the report shows its curves and tables without them."""
        return {}


# part: recipe
@recipes.register("wave_tiny")
def wave_tiny() -> WaveConfig:
    """Masked prediction of EMA latents on drawn waves; half a minute on 2 cores."""
    return WaveConfig(
        encoder=EncoderConfig(dim=64, depth=3, heads=4),
        predictor=PredictorConfig(width=32, depth=2),
        mask=MaskConfig(kind="random", keep=(0.4, 0.6)),
        train=TrainConfig(steps=600, batch_size=64, warmup=0.05, ema=(0.99, 0.999), clip=3.0),
        evaluate=EvaluateConfig(poolings=("mean", "mean_std_max"), shots=(10,)),
    )
