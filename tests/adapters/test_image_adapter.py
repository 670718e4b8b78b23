"""The image adapter keeps the contract in every configuration that recipes use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jepa_modalities.adapters.base import build_masker
from jepa_modalities.adapters.image import source
from jepa_modalities.adapters.image.adapter import ImageAdapter
from jepa_modalities.adapters.image.config import AugmentConfig, ImageConfig, ImageData
from jepa_modalities.adapters.image.target import Table
from jepa_modalities.config import (
    EncoderConfig,
    EvaluateConfig,
    LossConfig,
    MaskConfig,
    PredictorConfig,
    RegulariserConfig,
    TargetConfig,
    TrainConfig,
)
from jepa_modalities.core.batch import Batch
from jepa_modalities.core.draw import Draw, Schedule
from jepa_modalities.core.masking import Masks
from jepa_modalities.data.image import ImageSet
from jepa_modalities.data.loader import decode_resized
from jepa_modalities.settings import changed
from jepa_modalities.testing import check_adapter

CPU = torch.device("cpu")
VIEWS = AugmentConfig(shift=0.1, rotate=10, colour=0.8, noise=0.05, border="zeros")
BASE = ImageConfig(
    data=ImageData(path="digits", size=(8, 8), channels=1, patch=2, limit=60),
    encoder=EncoderConfig(dim=16, depth=2, heads=2),
    predictor=PredictorConfig(width=16, depth=1),
    mask=MaskConfig(kind="random", keep=(0.4, 0.6)),
    train=TrainConfig(workers=0),
)
DICTIONARY = TargetConfig(kind="dictionary", dim=8, centroids=20, patches=(4,))
FLIP = AugmentConfig(flip=True)
CONFIGS: dict[str, ImageConfig] = {
    "ijepa": replace(
        BASE,
        mask=MaskConfig(kind="block", target_scale=(0.1, 0.2), min_keep=2),
        augment=AugmentConfig(crop=(0.5, 1.0), flip=True),
    ),
    "pad": replace(BASE, mask=MaskConfig(kind="block", min_keep=1, lengths="pad")),
    "cached": replace(BASE, target=DICTIONARY, augment=FLIP, loss=LossConfig("mse")),
    "uncached": replace(
        BASE, target=replace(DICTIONARY, patches=(3, 4)), augment=AugmentConfig(crop=(0.5, 1.0))
    ),
    "hog": replace(BASE, target=TargetConfig(kind="hog"), augment=FLIP),
    "pixels": replace(BASE, target=TargetConfig(kind="pixels", cache=False)),
    "handover": replace(
        BASE, target=replace(DICTIONARY, handover=(0.2, 0.6)), encoder=EncoderConfig(16, 2, 2)
    ),
    "two views": replace(
        BASE,
        mask=MaskConfig(kind="none"),
        encoder=EncoderConfig(16, 2, 2, stem="conv"),
        views=2,
        view_augment=VIEWS,
        view_keep=0.5,
        regulariser=RegulariserConfig("vicreg", "views", (8, 8), weight=1.0),
    ),
    "masked + two views": replace(
        BASE,
        target=TargetConfig(kind="hog"),
        augment=FLIP,
        views=2,
        view_augment=VIEWS,
        regulariser=RegulariserConfig("vicreg", "views", (8, 8), (1.0, 1.0, 0.2), weight=0.2),
    ),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 colour images of mixed sizes without labels."""
    top, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(24):
        height, width = rng.integers(18, 40, 2)
        pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((int(width), int(height))).save(top / f"{number:02d}.png")
    return top


def streamed(photos: Path, workers: int = 0) -> ImageConfig:
    return replace(
        CONFIGS["masked + two views"],
        data=ImageData(path=str(photos), size=(16, 16), patch=4),
        augment=AugmentConfig(crop=(0.4, 1.0), flip=True),
        view_augment=AugmentConfig(crop=(0.4, 1.0), flip=True, colour=0.8, grey=0.3),
        view_keep=0.5,
        train=TrainConfig(workers=workers),
        evaluate=EvaluateConfig(enabled=False),
    )


def feed(adapter: ImageAdapter, steps: int = 3, size: int = 6) -> list[tuple[Batch, Masks | None]]:
    schedule = Schedule(len(adapter), size, 0)
    plan = [
        (schedule.rows(step), Draw.of_step(0, step, size, 0, size)) for step in range(1, steps + 1)
    ]
    return list(adapter.feed(plan, build_masker(adapter.config, adapter.geometry), CPU))


@pytest.mark.parametrize("name", CONFIGS)
def test_contract(name: str) -> None:
    check_adapter(ImageAdapter(CONFIGS[name]))


def test_contract_of_a_streamed_folder(photos: Path) -> None:
    adapter = ImageAdapter(streamed(photos))
    assert adapter.source.images is None and len(adapter) == 22
    check_adapter(adapter)


def test_workers_change_nothing(photos: Path) -> None:
    alone, helped = (feed(ImageAdapter(streamed(photos, workers))) for workers in (0, 2))
    for (batch, masks), (other, other_masks) in zip(alone, helped, strict=True):
        assert masks is not None and other_masks is not None
        assert torch.equal(masks.context, other_masks.context)
        assert torch.equal(batch.context.values, other.context.values)
        assert batch.raw is not None and torch.equal(batch.raw, other.raw)  # type: ignore[arg-type]
        for view, twin in zip(batch.views, other.views, strict=True):
            assert torch.equal(view.values, twin.values)
        assert torch.equal(batch.keep, other.keep)  # type: ignore[arg-type]
    assert not torch.equal(alone[0][0].context.values, alone[0][0].views[0].values)


@pytest.mark.parametrize("kind", ["dictionary", "hog", "pixels"])
def test_the_table_holds_what_the_function_makes(kind: str) -> None:
    target = replace(DICTIONARY, kind=kind)
    cached, direct = (
        ImageAdapter(replace(BASE, target=replace(target, cache=cache), augment=FLIP))
        for cache in (True, False)
    )
    (table, width), (function, other) = cached.target() or (None, 0), direct.target() or (None, 1)
    assert isinstance(table, Table) and function is not None and width == other
    flipped = 0
    for (one, _), (two, _) in zip(feed(cached), feed(direct), strict=True):
        assert torch.equal(one.context.values, two.context.values)
        expected = function(two.raw)
        torch.testing.assert_close(table(one.raw), expected, atol=5e-3, rtol=5e-3)  # half precision
        assert one.raw is not None and one.ids is not None
        flipped += int((one.raw % 2).sum())
        assert torch.equal(one.raw // 2, one.ids)
    assert 0 < flipped < 18


def test_a_crop_or_a_stream_needs_no_table(photos: Path) -> None:
    assert ImageAdapter(CONFIGS["cached"]).caches
    assert not ImageAdapter(CONFIGS["uncached"]).caches
    assert not ImageAdapter(streamed(photos)).caches


def test_the_dictionary_is_kept_and_belongs_to_its_settings(tmp_path: Path) -> None:
    config = replace(CONFIGS["cached"], target=replace(DICTIONARY, cache=False))
    first = ImageAdapter(config, tmp_path).target()
    file = tmp_path / "target.safetensors"
    written = file.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    again = ImageAdapter(config, tmp_path).target()
    assert file.read_bytes() == written and first is not None and again is not None
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 255
    assert torch.equal(first[0](images), again[0](images))
    other = ImageAdapter(changed(config, {"target.centroids": 10}), tmp_path).target()
    assert other is not None and not torch.equal(first[0](images), other[0](images))


def test_mean_and_std_of_streamed_images_are_kept_and_belong_to_their_data(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []

    def counted(images: ImageSet, rows: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        decoded.append(len(rows))
        return decode_resized(images, rows, size)

    monkeypatch.setattr(source, "decode_resized", counted)
    config = streamed(photos)
    first = ImageAdapter(config, tmp_path)
    assert sum(decoded) == len(first)
    again = ImageAdapter(config, tmp_path)
    assert sum(decoded) == len(first), "a resumed run decodes them again"
    for name in ("mean", "std"):
        assert torch.equal(getattr(first.tokenizer, name), getattr(again.tokenizer, name))
    assert [path.name for path in tmp_path.iterdir()] == ["statistics.safetensors"]
    other = ImageAdapter(changed(config, {"data.limit": 10}), tmp_path)
    assert sum(decoded) == len(first) + len(other)
    assert not torch.equal(first.tokenizer.mean, other.tokenizer.mean)


def test_statistics_of_images_in_memory_leave_no_file(tmp_path: Path) -> None:
    ImageAdapter(BASE, tmp_path)
    assert not list(tmp_path.iterdir())


def test_held_out_images_are_never_trained_on() -> None:
    adapter = ImageAdapter(changed(BASE, {"data.limit": 600}))
    source = adapter.source
    assert len(adapter) == 540 and len(source.held_rows) == 60
    assert not set(source.train_rows.tolist()) & set(source.held_rows.tolist())
    tokens, labels = adapter.monitor()
    images = source.everything.images
    assert images is not None and labels is not None and source.everything.labels is not None
    assert torch.equal(tokens.values, adapter.tokenizer(images[source.held_rows]).values)
    assert torch.equal(labels, source.everything.labels[source.held_rows])
    other = ImageAdapter(changed(BASE, {"data.limit": 600, "train.seed": 9}))
    assert torch.equal(other.source.held_rows, source.held_rows)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": 3}, "views = 3"),
        ({"view_keep": 0.0}, r"view_keep = 0\.0"),
        ({"encoder.stem": "conv"}, r"encoder\.stem = 'conv'.*'linear'"),
        ({"data.patch": 3}, r"\(8, 8\).*data\.patch = 3"),
        ({"data.patch": 0}, r"data\.patch = 0"),
        ({"data.channels": 3}, r"'digits' is grey.*data\.channels to 1"),
        ({"data.path": ""}, r"data\.path is not given"),
        ({"data.holdout": 1.0}, r"data\.holdout = 1\.0"),
        ({"data.limit": 0}, r"data\.limit = 0"),
        ({"mask.kind": "block", "mask.min_keep": 99}, r"mask\.min_keep = 99"),
        ({"evaluate.pooling": "max"}, r"evaluate\.pooling: 'max'.*mean_std_max"),
        ({"evaluate.poolings": ("mean", "max")}, r"evaluate\.poolings: 'max'"),
        ({"evaluate.probes": ("linaer",)}, r"evaluate\.probes: 'linaer'.*linear"),
        ({"evaluate.untrained": 0}, r"evaluate\.untrained = 0"),
        ({"evaluate.shots": (500,)}, r"evaluate\.shots = \(500,\): the rarest class has \d+"),
    ],
)
def test_complaints_come_before_training(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageAdapter(changed(BASE, settings))


def test_probes_without_labels_are_refused_before_training(photos: Path) -> None:
    config = changed(streamed(photos), {"evaluate.enabled": True, "data.test_path": str(photos)})
    with pytest.raises(ValueError, match=r"probes need labels.*evaluate\.enabled"):
        ImageAdapter(config)


def test_unknown_fixed_target() -> None:
    config = changed(BASE, {"target.kind": "edges"})
    with pytest.raises(ValueError, match=r"target\.kind = 'edges'.*'dictionary', 'hog'"):
        ImageAdapter(config).target()


@pytest.mark.parametrize("name", ["rotate", "shift", "zoom", "shear"])
def test_streamed_images_are_warped_too(photos: Path, name: str) -> None:
    still = replace(streamed(photos), augment=AugmentConfig(), views=0)
    still = replace(still, regulariser=RegulariserConfig())
    amount = 40.0 if name == "rotate" else 0.4
    moved = replace(still, augment=replace(still.augment, **{name: amount}))
    (calm, _), *_ = feed(ImageAdapter(still))
    (warped, _), *_ = feed(ImageAdapter(moved))
    assert not torch.allclose(calm.context.values, warped.context.values, atol=0.1)
