"""Arms, controls and leaks of the SAR evaluation on a few simulated chips."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from jepa_modalities.adapters.base import build_encoder
from jepa_modalities.adapters.sar import evaluator, source, tuning
from jepa_modalities.adapters.sar.adapter import SarAdapter
from jepa_modalities.adapters.sar.config import (
    SarAugmentConfig,
    SarConfig,
    SarData,
    SarEvaluateConfig,
    SarMaskConfig,
)
from jepa_modalities.adapters.sar.tokenizer import PADDING
from jepa_modalities.config import EncoderConfig, RegulariserConfig
from jepa_modalities.eval.finetune import Recipe
from jepa_modalities.settings import changed

CONFIG = SarConfig(
    data=SarData(path="synthetic", size=(48, 48), margin=4, patch=8, scaling="linear"),
    encoder=EncoderConfig(dim=16, depth=2, heads=2),
    mask=SarMaskConfig(kind="none"),
    views=2,
    view_augment=SarAugmentConfig(shift=4, flip=True),
    regulariser=RegulariserConfig("vicreg", "views", (8, 8), weight=1.0),
    evaluate=SarEvaluateConfig(
        shots=(3, 5),
        draws=3,
        untrained=2,
        looks=(4, 1),
        poolings=("all_mean_std_max+grid4", "mean"),
    ),
)


@pytest.fixture(scope="module")
def adapter() -> SarAdapter:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "SYNTHETIC_CHIPS", {"train": 60, "test": 48})
        return SarAdapter(CONFIG)


def encoders(adapter: SarAdapter) -> dict[str, list[torch.nn.Module]]:
    def one(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        return build_encoder(adapter.config, adapter.geometry, adapter.embedding())

    return {"encoder": [one(0)], "student": [one(0)], "untrained": [one(1), one(2)]}


@pytest.fixture(scope="module")
def metrics(adapter: SarAdapter, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "SVM_GRID", (1e-3, 1e-2))
        found = adapter.evaluate(encoders(adapter), folder)
    stored = json.loads((folder / "confusion.json").read_text())
    assert stored == adapter.confusion and np.sum(stored["counts"]) == 48
    return found


def test_every_result_stands_beside_its_controls(metrics: dict[str, float]) -> None:
    for arm in ("encoder", "untrained", "raw", "bar", "encoder+bar", "background"):
        for probe in ("ridge", "ridge_3shot", "ridge_5shot"):
            low, value, high = (
                metrics[f"{arm}/{probe}/accuracy{e}"] for e in ("_low", "", "_high")
            )
            assert low <= value <= high and 0 <= value <= 1
    assert metrics["untrained/ridge/accuracy_seeds"] == 2
    assert "background_untrained/ridge_3shot/accuracy" in metrics
    for arm in ("hog", "gradient"):
        assert {f"{arm}/svm/accuracy", f"{arm}/svm_5shot/accuracy"} <= set(metrics)
    for arm in ("encoder", "untrained", "bar", "raw"):
        assert {f"{arm}/ridge_looks4/accuracy", f"{arm}/ridge_looks1/accuracy"} <= set(metrics)
    assert "paired/encoder-bar/ridge_3shot/accuracy" in metrics
    assert "encoder/ridge@mean/accuracy" in metrics
    assert "size/ridge/accuracy" not in metrics  # all chips have one size
    assert metrics["student/ridge/accuracy"] == metrics["encoder/ridge/accuracy"]
    assert metrics["raw/ridge/accuracy"] > 0.3 and metrics["bar/ridge/accuracy"] > 0.4


def test_classes_add_up_to_the_whole(adapter: SarAdapter, metrics: dict[str, float]) -> None:
    test = adapter.source.labelled("test")
    count = test.labels.bincount().double()
    each = [metrics[f"encoder/ridge/class_{name}_accuracy"] for name in test.classes]
    total = float((count * torch.tensor(each).double()).sum() / count.sum())
    assert total == pytest.approx(metrics["encoder/ridge/accuracy"])
    assert np.mean(each) == pytest.approx(metrics["encoder/ridge/mean_class_accuracy"])
    table = np.array(adapter.confusion["counts"])
    assert (table.sum(1) == count.numpy()).all()
    assert table.trace() / table.sum() == pytest.approx(metrics["encoder/ridge/accuracy"])


def test_background_knows_the_outer_ring_only(adapter: SarAdapter) -> None:
    images = adapter.source.labelled("test").images[:4]
    model = encoders(adapter)["encoder"][0]
    found = evaluator.background_features(adapter, model, images)
    inside, outside = images.clone(), images.clone()
    middle = (images.shape[-1] - 48) // 2
    inside[..., middle + 8 : middle + 40, middle + 8 : middle + 40] = 0.5
    outside[..., middle : middle + 8, middle : middle + 8] *= 0.1
    assert (evaluator.background_features(adapter, model, inside) == found).all()
    changed_too = evaluator.background_features(adapter, model, outside)
    assert (np.abs(changed_too - found).max(1) > 0.01).all()
    ring = evaluator.ring((4, 5)).tolist()
    assert ring == [0, 1, 2, 3, 4, 5, 9, 10, 14, 15, 16, 17, 18, 19]


def test_validation_is_held_out_and_jittered(adapter: SarAdapter) -> None:
    held = SarAdapter.__new__(SarAdapter)  # the same open data under another choice
    held.__dict__ = {**adapter.__dict__}
    held.config = changed(CONFIG, {"evaluate.on": "validation"})
    train, scored = evaluator.parts(held)
    kept, rows = adapter.source.held_out()
    everything = adapter.source.labelled("train")
    assert torch.equal(train.images, everything.images[kept])
    gain = scored.images / everything.images[rows].clamp_min(1e-9)
    flat = gain.flatten(1)[:, 100]
    assert float(flat.min()) > np.exp(-0.36) and float(flat.max()) < np.exp(0.36)
    assert len(flat.unique()) == len(rows)
    again = evaluator.parts(held)[1]
    assert torch.equal(again.images, scored.images)


def test_speckle_is_seeded_clipped_and_keeps_padding() -> None:
    images = torch.full((2, 1, 64, 64), 0.4)
    images[..., :8] = PADDING
    noisy = evaluator.speckled(images, 4)
    assert torch.equal(noisy, evaluator.speckled(images, 4))
    assert not torch.equal(noisy, evaluator.speckled(images, 8))
    assert (noisy[..., :8] == PADDING).all() and float(noisy.max()) <= 1
    inside = (noisy[..., 8:] / 0.4).square()
    assert float(inside.mean()) == pytest.approx(1.0, abs=0.03)
    assert float(inside.var()) == pytest.approx(0.25, rel=0.15)


def test_size_is_scored_where_it_varies(adapter: SarAdapter) -> None:
    train, test = adapter.source.labelled("train"), adapter.source.labelled("test")
    sizes = [torch.stack([20 + 5 * part.labels, 30 - part.labels], 1) for part in (train, test)]
    told = [
        evaluator.Labelled(part.images, part.labels, size, part.classes)
        for part, size in zip((train, test), sizes, strict=True)
    ]
    arms = evaluator._leaks(adapter, encoders(adapter), told[0], told[1])
    size = next(arm for arm in arms if arm.name == "size")
    assert (size.seeds()[0][0][""] == sizes[0].numpy()).all()


@pytest.mark.parametrize("head", ["probe", "mean"])
def test_fine_tuning_beside_random_weights(
    adapter: SarAdapter, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    monkeypatch.setattr(tuning, "FINETUNE", Recipe(epochs=1, batch_size=6))
    monkeypatch.setattr(tuning, "PROBE_FINETUNE", Recipe(epochs=1, batch_size=6, head="ridge"))
    tuned = SarAdapter.__new__(SarAdapter)
    tuned.__dict__ = {**adapter.__dict__}
    choice = changed(
        CONFIG.evaluate, {"finetune_shots": 2, "finetune_draws": 2, "finetune_head": head}
    )
    tuned.config = replace(CONFIG, evaluate=choice)
    train, test = (adapter.source.labelled(name) for name in ("train", "test"))
    found = tuning.finetuned(tuned, encoders(adapter), train, test)
    assert {f"{arm}/finetune_2shot/accuracy" for arm in ("encoder", "untrained")} <= set(found)
    small = tuning.augmented(tuned, CONFIG.view_augment, train.images[:5], torch.Generator())
    assert small.shape == (5, 1, 56, 56)


def test_evaluation_leaves_no_half_written_file(adapter: SarAdapter, tmp_path: Path) -> None:
    evaluator._write(tmp_path / "deep" / "confusion.json", {"classes": [], "counts": []})
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["confusion.json"]
