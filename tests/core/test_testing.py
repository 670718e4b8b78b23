"""`check_adapter` passes a sound adapter and names what is wrong with broken ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jepa_modalities.adapters.base import Geometry, Plan
from jepa_modalities.config import (
    EncoderConfig,
    MaskConfig,
    PredictorConfig,
    RegulariserConfig,
    RunConfig,
    TargetConfig,
)
from jepa_modalities.core.batch import Batch, Tokens
from jepa_modalities.core.draw import Draw
from jepa_modalities.core.masking import Masker, Masks
from jepa_modalities.core.positions import grid_positions
from jepa_modalities.testing import check_adapter, tiny_batch

LENGTH, PATCH = 48, 4

CONFIG = RunConfig(
    modality="sequence",
    encoder=EncoderConfig(dim=16, depth=2, heads=2),
    predictor=PredictorConfig(width=8, depth=1),
    mask=MaskConfig(kind="random"),
)
VIEWS = replace(
    CONFIG,
    mask=MaskConfig(kind="none"),
    regulariser=RegulariserConfig("vicreg", "views", (12, 12), weight=1.0),
)


class Cut(nn.Module):
    """Sequences (batch, length), standardised and cut into tokens."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self._positions = grid_positions(LENGTH // PATCH)

    def forward(self, raw: Tensor) -> Tokens:
        values = (raw - self.mean) / self.std
        return Tokens(values.unflatten(1, (-1, PATCH)), self._positions)


class Edges(nn.Module):
    """A fixed target: first and last value of each token."""

    def forward(self, raw: Tensor) -> Tensor:
        return raw.unflatten(1, (-1, PATCH))[..., [0, -1]]


@dataclass
class SequenceAdapter:
    """The smallest adapter: random walks, a gain as augmentation."""

    config: Any = CONFIG
    samples: int = 10

    def __post_init__(self) -> None:
        steps = torch.randn(self.samples, LENGTH, generator=torch.Generator().manual_seed(0))
        self.data = steps.cumsum(1)
        self.geometry = Geometry(PATCH, (LENGTH // PATCH,))
        self.tokenizer: nn.Module = Cut(self.data.mean(), self.data.std())

    def __len__(self) -> int:
        return self.samples

    def embedding(self) -> nn.Module:
        return nn.Linear(PATCH, self.config.encoder.dim)

    def target(self) -> tuple[nn.Module, int] | None:
        return None if self.config.target.kind == "ema" else (Edges(), 2)

    def feed(
        self, plan: Plan, masker: Masker | None, device: torch.device
    ) -> Iterator[tuple[Batch, Masks | None]]:
        for ids, draw in plan:
            masks = None if masker is None else draw.masks(masker)
            yield self.batch(ids, draw), masks

    def batch(self, ids: Tensor, draw: Draw) -> Batch:
        count = 2 if self.config.mask.kind == "none" else 1
        views = [self.data[ids] * draw.uniform(1, low=0.8, high=1.2) for _ in range(count)]
        tokens = tuple(self.tokenizer(view) for view in views)
        return Batch(tokens[0], tokens[0], tokens if count == 2 else (), raw=views[0], ids=ids)

    def monitor(self) -> tuple[Tokens, Tensor | None]:
        return self.tokenizer(self.data), torch.arange(self.samples)

    def evaluate(self, encoders: dict[str, list[nn.Module]], run: Path) -> dict[str, float]:
        return {}

    def pictures(self, encoders: dict[str, list[nn.Module]]) -> dict[str, Any]:
        return {}


FIXED = replace(CONFIG, target=TargetConfig(kind="edges"))
SOUND = {
    "ema": CONFIG,
    "fixed": FIXED,
    "handover": replace(FIXED, target=TargetConfig(kind="edges", handover=(0.2, 0.8))),
    "c-jepa": replace(CONFIG, regulariser=RegulariserConfig("vicreg", "predicted_target", (8, 8))),
    "views": VIEWS,
    "sigreg": replace(
        VIEWS, regulariser=RegulariserConfig("sigreg", "views", (), (1.0, 1.0), weight=1.0)
    ),
    "prefix": replace(CONFIG, encoder=replace(CONFIG.encoder, num_prefix=2, position="learned")),
}


@pytest.mark.parametrize("name", list(SOUND))
def test_sound_adapters_pass(name: str) -> None:
    check_adapter(SequenceAdapter(SOUND[name]))


class Smear(nn.Module):
    """An embedding that mixes neighbours; `mixes_tokens` says so or keeps quiet."""

    def __init__(self, honest: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(PATCH, 16)
        self.mixes_tokens = honest

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = self.linear(values + values.roll(1, dims=-2))
        return out


class Leaking(SequenceAdapter):
    def embedding(self) -> nn.Module:
        return Smear(honest=False)


class HonestlyLeaking(SequenceAdapter):
    def embedding(self) -> nn.Module:
        return Smear(honest=True)


class Moody(SequenceAdapter):
    """Draws from the global generator instead of the plan's."""

    def batch(self, ids: Tensor, draw: Draw) -> Batch:
        made = super().batch(ids, draw)
        noisy = replace(made.context, values=made.context.values + torch.rand(len(ids), 1, 1))
        return replace(made, context=noisy)


class Changed(SequenceAdapter):
    """Base of adapters whose feed spoils the masks or the batch."""

    def spoil(self, batch: Batch, masks: Masks) -> tuple[Batch, Masks | None]:
        return batch, masks

    def feed(
        self, plan: Plan, masker: Masker | None, device: torch.device
    ) -> Iterator[tuple[Batch, Masks | None]]:
        for batch, masks in super().feed(plan, masker, device):
            assert masks is not None
            yield self.spoil(batch, masks)


class Overlapping(Changed):
    def spoil(self, batch: Batch, masks: Masks) -> tuple[Batch, Masks | None]:
        both = torch.cat([masks.context, masks.targets[..., :1]], dim=-1)
        return batch, replace(masks, context=both)


class OutOfRange(Changed):
    def spoil(self, batch: Batch, masks: Masks) -> tuple[Batch, Masks | None]:
        return batch, replace(masks, targets=masks.targets + 1)


class Maskless(Changed):
    def spoil(self, batch: Batch, masks: Masks) -> tuple[Batch, Masks | None]:
        return batch, None


class ByPosition(Changed):
    """Depends on the row's place in the part instead of the global batch."""

    def spoil(self, batch: Batch, masks: Masks) -> tuple[Batch, Masks | None]:
        gain = torch.arange(len(batch.context))[:, None, None] + 1.0
        values = batch.context.values * gain
        return replace(batch, context=replace(batch.context, values=values)), masks


class NotANumber(Changed):
    def spoil(self, batch: Batch, masks: Masks) -> tuple[Batch, Masks | None]:
        values = batch.context.values.clone()
        values[0, 0, 0] = torch.nan
        return replace(batch, context=replace(batch.context, values=values)), masks


class WrongGeometry(SequenceAdapter):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.geometry = Geometry(PATCH + 1, (LENGTH // PATCH,))


class Stubborn(SequenceAdapter):
    """Always masks the same tokens."""

    def feed(
        self, plan: Plan, masker: Masker | None, device: torch.device
    ) -> Iterator[tuple[Batch, Masks | None]]:
        for ids, draw in plan:
            assert masker is not None
            always = Draw.of_step(0, 1, draw.batch_size, draw.start, draw.stop)
            yield self.batch(ids, draw), always.masks(masker)


class Frozen(SequenceAdapter):
    """An embedding that cannot learn."""

    def embedding(self) -> nn.Module:
        return Silent(self.config.encoder.dim)


class Silent(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(PATCH, dim)

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = self.linear(values).detach()
        return out


class Forgetful(SequenceAdapter):
    """An embedding with a number that no state dict holds."""

    def embedding(self) -> nn.Module:
        torch.rand(())
        return Scaled(self.config.encoder.dim)


class Scaled(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(PATCH, dim)
        self.scale = float(torch.rand(())) + 0.5

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = self.linear(values) * self.scale
        return out


BROKEN: list[tuple[Callable[[], SequenceAdapter], str]] = [
    (Leaking, "the embedding leaks"),
    (HonestlyLeaking, "the embedding mixes tokens"),
    (Moody, r"not deterministic: batch\.context\.values differs"),
    (Overlapping, "context and targets overlap: 8 target tokens"),
    (OutOfRange, r"masks\.targets names tokens .* but a sample has tokens 0 to 11"),
    (Maskless, "feed gives no masks"),
    (ByPosition, r"batch\.context\.values changes when the batch is split"),
    (NotANumber, r"batch\.context\.values must be finite"),
    (WrongGeometry, r"batch\.context\.values is \(8, 12, 4\), geometry says \(8, 12, 5\)"),
    (Stubborn, "the same masks at every step"),
    (Frozen, "no gradient reaches the embedding"),
    (Forgetful, "something is not in it"),
    (lambda: SequenceAdapter(samples=3), "holds 3 training samples"),
]


@pytest.mark.parametrize(("adapter", "sentence"), BROKEN, ids=lambda p: getattr(p, "__name__", ""))
def test_broken_adapters_are_named(adapter: Callable[[], SequenceAdapter], sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_adapter(adapter())


def test_tiny_batch() -> None:
    batch = tiny_batch(Geometry(5, (3, 4)), 6, seed=1)
    assert batch.context.values.shape == (6, 12, 5)
    assert batch.context.positions.shape == (12, 2)
    assert batch.target is batch.context
    assert torch.equal(batch.context.values, tiny_batch(Geometry(5, (3, 4)), 6, 1).context.values)
    other = tiny_batch(Geometry(5, (3, 4)), 6, seed=2)
    assert not torch.equal(batch.context.values, other.context.values)
    assert float(batch.context.values.std()) == pytest.approx(1, abs=0.1)
