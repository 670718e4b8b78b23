"""Every recipe is complete: it builds, survives JSON, and says what it is."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import jepa_modalities as jm
from jepa_modalities import api
from jepa_modalities.adapters.base import build_encoder, build_masker
from jepa_modalities.config import RunConfig
from jepa_modalities.core.registry import modalities
from jepa_modalities.settings import changed, differences, from_dict
from jepa_modalities.train.optim import rates
from jepa_modalities.train.plan import num_steps

NAMES = sorted(jm.recipes())
DATA = Path(os.environ.get("JEPA_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.mark.parametrize("name", NAMES)
def test_recipe_is_complete(name: str) -> None:
    config = api.recipe(name)
    modality = modalities[config.modality]
    assert config.recipe == name
    assert len(jm.recipes()[name]) > 20
    again = from_dict(modality.Config, json.loads(json.dumps(dataclasses.asdict(config))))
    assert again == config
    geometry = modality.geometry(config)
    masker = build_masker(config, geometry)
    if masker is not None:
        masks = masker(4, torch.Generator().manual_seed(0))
        assert masks.context.max() < geometry.num_tokens
    with torch.device("meta"):
        encoder = build_encoder(config, geometry, modality.embedding(config))
    assert len(encoder.blocks) == config.encoder.depth


@pytest.mark.parametrize(
    ("name", "millions"), [("b16", 85.6), ("l16", 303.1), ("h14", 630.6)], ids=str
)
def test_published_sizes(name: str, millions: float) -> None:
    """Parameters of ViT-B/16, L/16 and H/14 without class token, head and learned positions."""
    config = api.recipe(f"image_ijepa_imagenet_{name}")
    modality = modalities["image"]
    with torch.device("meta"):
        encoder = build_encoder(config, modality.geometry(config), modality.embedding(config))
    dim, depth = config.encoder.dim, config.encoder.depth
    patch = 3 * config.data.patch**2
    expected = patch * dim + dim + depth * (12 * dim**2 + 13 * dim) + 2 * dim
    count = sum(p.numel() for p in encoder.parameters())
    assert count == expected
    assert expected / 1e6 == pytest.approx(millions, abs=0.3)


def test_published_schedule() -> None:
    """I-JEPA's configuration: batch 2048, warm-up of 40 epochs from 2e-4, decay 0.04 to 0.4."""
    train = api.recipe("image_ijepa_imagenet_h14").train
    assert (train.batch_size, train.epochs) == (2048, 300)
    images = 1_281_167
    epoch = images / 2048
    assert num_steps(train, images) == (math.ceil(300 * epoch), round(40 * epoch))
    assert (train.lr_start, train.lr, train.lr_end) == (2e-4, 1e-3, 1e-6)
    assert (train.weight_decay, train.ema) == ((0.04, 0.4), (0.996, 1.0))
    cjepa = api.recipe("image_cjepa_imagenet_b16")
    assert (cjepa.regulariser.weight, cjepa.regulariser.coefficients) == (0.001, (25, 25, 1))
    assert num_steps(cjepa.train, images)[1] == round(15 * epoch)
    assert cjepa.train.lr_start == 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_a_shorter_run_has_a_shorter_warm_up(name: str) -> None:
    """The highest rate comes early, however short the run."""
    config = api.recipe(name)
    for shorter in ({"train.steps": 50}, {"train.epochs": 4}):
        train = changed(config, shorter).train
        total, warmup = num_steps(train, 12 * train.batch_size)
        assert total in (48, 50) and warmup < total / 4
        peak = max(range(1, total + 1), key=lambda step: rates(train, step, total, warmup).lr)
        assert peak == warmup + 1


def test_cjepa_differs_from_ijepa_by_its_term_only() -> None:
    ours = api.recipe("image_ijepa_cifar10_tiny_cpu")
    theirs = api.recipe("image_cjepa_cifar10_tiny_cpu")
    assert [d.split(":")[0] for d in differences(ours, theirs)] == ["recipe", "regulariser.kind"]


def test_settings() -> None:
    config = RunConfig()
    assert changed(config, {"train.lr": 1.0}).train.lr == 1.0
    with pytest.raises(ValueError, match=r"no setting 'train.lrr'.*'lr'"):
        changed(config, {"train.lrr": 1.0})
    with pytest.raises(ValueError, match=r"train.batch_size = 'many', expected int"):
        changed(config, {"train.batch_size": "many"})
    with pytest.raises(ValueError, match=r"train = 3, expected TrainConfig"):
        changed(config, {"train": 3})
    assert type(changed(config, {"encoder.dim": np.int64(8)}).encoder.dim) is int
    assert changed(config, {"mask.context_scale": np.array([0.5, 1.0])}).mask.context_scale == (
        0.5,
        1.0,
    )
    assert changed(config, {"evaluate.poolings": ["mean"]}).evaluate.poolings == ("mean",)
    with pytest.raises(ValueError, match="unknown"):
        from_dict(RunConfig, {"nonsense": 1})
    assert differences(config, changed(config, {"train.lr": 0.5})) == ["train.lr: 0.001 -> 0.5"]


def test_unknown_recipe_lists_what_there_is() -> None:
    with pytest.raises(KeyError, match="image_digits"):
        api.recipe("image_digit")


def test_recipe_file_is_a_script() -> None:
    path = Path(__file__).parents[1] / "recipes" / "image.py"
    done = subprocess.run(
        [sys.executable, str(path), "image_digit"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "image_digits" in done.stderr


@pytest.mark.realdata
@pytest.mark.slow
def test_papers_settings_on_real_images(tmp_path: Path) -> None:
    """The papers' recipe on the stored Imagenette extract, cut down to a small network."""
    folder = DATA / "images" / "imagenette128"
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set JEPA_DATA")
    run = jm.pretrain(
        "image_cjepa_imagenet_b16",
        tmp_path / "run",
        settings={
            "data.path": str(folder),
            "data.limit": 40,
            "encoder.dim": 96,
            "encoder.depth": 1,
            "predictor.depth": 1,
            "predictor.width": 96,
            "regulariser.widths": (32, 32),
            "evaluate.enabled": False,
        },
        steps=2,
        batch_size=8,
        warmup_epochs=0,
        quiet=True,
    )
    assert (run.path / "report.html").exists()
    assert run.encoder.embed(str(folder / "val" / "n01440764")).shape == (60, 96)


@pytest.mark.parametrize("packed", [False, True])
def test_own_sar_chips_without_labels(tmp_path: Path, packed: bool) -> None:
    """`sar` on a flat folder, or an archive, of chips of mixed sizes; then features of them."""
    folder = tmp_path / "chips"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        pixels = rng.rayleigh(60, (70 + number, 50 + 4 * number)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    path = str(folder)
    if packed:
        path = shutil.make_archive(path, "zip", folder)
    run = jm.pretrain(
        "sar",
        tmp_path / "run",
        settings={
            "data.path": path,
            "evaluate.enabled": False,
            "encoder.dim": 16,
            "encoder.heads": 2,
            "encoder.depth": 1,
            "regulariser.widths": (8, 8),
        },
        steps=2,
        batch_size=16,
        warmup_steps=0,
        quiet=True,
    )
    assert run.metrics["train/steps"] == 2
    features = run.encoder.embed(path)
    assert len(features) == 12 and np.isfinite(features).all()


def test_epochs_count_where_the_recipe_gave_steps(tmp_path: Path) -> None:
    """`epochs=` replaces a recipe's steps: 1,080 digits, batch 540, two epochs = four steps."""
    run = jm.pretrain(
        "image_digits",
        tmp_path / "run",
        settings={"evaluate.enabled": False, "encoder.depth": 1},
        epochs=2,
        batch_size=540,
        quiet=True,
    )
    assert run.metrics["train/steps"] == 4
    assert run.config.train.steps is None
