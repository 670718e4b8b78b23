"""The SAR adapter keeps the contract, and lets neither padding nor hidden pixels in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa_modalities.adapters.base import build_jepa, build_masker
from jepa_modalities.adapters.sar import source
from jepa_modalities.adapters.sar.adapter import SarAdapter
from jepa_modalities.adapters.sar.augment import Move, cut, tokens_inside
from jepa_modalities.adapters.sar.config import (
    SarAugmentConfig,
    SarConfig,
    SarData,
    SarEvaluateConfig,
    SarMaskConfig,
    SarTargetConfig,
)
from jepa_modalities.adapters.sar.model import SarModality
from jepa_modalities.adapters.sar.source import crop_room, real_box
from jepa_modalities.adapters.sar.tokenizer import PADDING, SarTokenizer, centre
from jepa_modalities.config import EncoderConfig, PredictorConfig, RegulariserConfig
from jepa_modalities.core.batch import Batch
from jepa_modalities.core.draw import Draw, Schedule
from jepa_modalities.core.masking import Masks
from jepa_modalities.settings import changed
from jepa_modalities.testing import check_adapter

CPU = torch.device("cpu")
VICREG = RegulariserConfig("vicreg", "views", (8, 8), weight=1.0)
SHIFT = SarAugmentConfig(shift=8, flip=True)
CHANGE = SarAugmentConfig(shift=8, flip=True, gain=0.2, looks=4.0, contrast=0.3)
BASE = SarConfig(
    data=SarData(
        path="synthetic", size=(32, 32), margin=8, patch=8, maps=(1, 2), scaling="linear", limit=24
    ),
    encoder=EncoderConfig(dim=16, depth=2, heads=2),
    predictor=PredictorConfig(width=16, depth=1),
    mask=SarMaskConfig(kind="random"),
    target=SarTargetConfig(radii=(2, 3)),
    evaluate=SarEvaluateConfig(enabled=False),
)
PLAIN = replace(BASE, data=replace(BASE.data, maps=()))
WINDOW = SarMaskConfig(kind="window", num_windows=2)
RELATIVE = EncoderConfig(16, 2, 2, position="relative", num_prefix=1)
CONFIGS: dict[str, SarConfig] = {
    "random": BASE,
    "window": replace(PLAIN, mask=WINDOW),
    "sar-jepa": replace(PLAIN, mask=WINDOW, encoder=RELATIVE),
    "relative, mask tokens in the predictor": replace(BASE, encoder=RELATIVE),
    "block": replace(BASE, mask=SarMaskConfig(kind="block", min_keep=1)),
    "ema": replace(BASE, target=SarTargetConfig(kind="ema")),
    "both": replace(BASE, target=SarTargetConfig(kind="gradient+ema", radii=(2,))),
    "hand-over": replace(BASE, target=SarTargetConfig(radii=(2,), handover=(0.2, 0.6))),
    "gaussian": replace(
        BASE, target=SarTargetConfig(kind="gradient_gaussian", radii=(2, 3), normalise="scale")
    ),
    "pixels": replace(BASE, target=SarTargetConfig(kind="pixels")),
    "lowpass": replace(BASE, target=SarTargetConfig(kind="lowpass")),
    "hog": replace(BASE, target=SarTargetConfig(kind="hog")),
    "two views": replace(
        BASE,
        mask=SarMaskConfig(kind="none"),
        views=2,
        view_augment=SHIFT,
        view_keep=0.5,
        regulariser=VICREG,
    ),
    "masked + two views": replace(
        BASE,
        augment=SarAugmentConfig(crop=(0.3, 1.0), flip=True),
        views=2,
        view_augment=CHANGE,
        view_keep=0.5,
        regulariser=VICREG,
    ),
}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulating chips takes longer than all the rest."""
    monkeypatch.setattr(source, "SYNTHETIC_CHIPS", {"train": 36, "test": 24})


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 chips of mixed sizes in two class folders, some smaller than what the encoder sees."""
    from PIL import Image

    top, rng = tmp_path_factory.mktemp("chips"), np.random.default_rng(0)
    for number in range(24):
        folder = top / ("ship", "truck")[number % 2]
        folder.mkdir(exist_ok=True)
        height, width = rng.integers(16, 60, 2)
        pixels = rng.integers(1, 256, (height, width), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return top


def padded(mixed: Path, config: SarConfig) -> SarConfig:
    return replace(config, data=replace(config.data, path=str(mixed), limit=None))


def feed(adapter: SarAdapter, steps: int = 3, size: int = 6) -> list[tuple[Batch, Masks | None]]:
    schedule = Schedule(len(adapter), size, 0)
    plan = [
        (schedule.rows(step), Draw.of_step(0, step, size, 0, size)) for step in range(1, steps + 1)
    ]
    return list(adapter.feed(plan, build_masker(adapter.config, adapter.geometry), CPU))


@pytest.mark.parametrize("name", CONFIGS)
def test_contract(name: str) -> None:
    check_adapter(SarAdapter(CONFIGS[name]))  # type: ignore[arg-type]


def fine(config: SarConfig) -> SarConfig:
    """With tokens of 4 pixels, of which small chips have enough in every window."""
    return replace(config, data=replace(config.data, patch=4))


@pytest.mark.parametrize("name", ["random", "window", "sar-jepa", "two views", "both"])
def test_contract_with_padded_chips(mixed: Path, name: str) -> None:
    adapter = SarAdapter(padded(mixed, fine(CONFIGS[name])))
    assert adapter.source.padded
    check_adapter(adapter)  # type: ignore[arg-type]


def test_padding_is_neither_shown_nor_predicted(mixed: Path) -> None:
    """Every target's pixels are the chip's, and so are those of every token that a view keeps."""
    adapter = SarAdapter(padded(mixed, fine(replace(CONFIGS["window"], augment=SHIFT))))
    small = 0
    for batch, masks in feed(adapter, 6):
        assert masks is not None and batch.raw is not None
        real = batch.raw.unfold(2, 4, 4).unfold(3, 4, 4).flatten(1, 3).flatten(2) >= 0
        whole = real.all(-1)
        small += int((~whole).any(1).sum())
        assert whole[torch.arange(6)[:, None, None], masks.targets].all()
        assert masks.context_valid is not None
        assert whole[torch.arange(6)[:, None, None], masks.context].all()
    assert small  # some chips are padded
    views = SarAdapter(padded(mixed, replace(CONFIGS["two views"], view_keep=1.0)))
    for batch, _ in feed(views, 6):
        assert batch.keep is not None
        for view, keep in zip(batch.views, batch.keep, strict=True):
            assert view.valid is not None and view.valid.gather(1, keep).all()


def test_the_loss_does_not_look_at_padding(mixed: Path) -> None:
    adapter = SarAdapter(padded(mixed, fine(CONFIGS["window"])))
    jepa = build_jepa(adapter.config, adapter).eval()  # type: ignore[arg-type]
    for batch, masks in feed(adapter, 3):
        assert batch.raw is not None and masks is not None
        loss = jepa(batch, masks).loss
        raw = torch.where(batch.raw < 0, -7.0, batch.raw)  # other marks of the same padding
        assert torch.equal(jepa(replace(batch, raw=raw), masks).loss, loss)


@pytest.mark.parametrize("maps", [(), (1, 3)])
def test_hidden_pixels_do_not_reach_the_context(maps: tuple[int, ...]) -> None:
    """Neither through the maps' windows nor through the mean of the logarithm."""
    config = replace(BASE, data=replace(BASE.data, maps=maps))
    adapter = SarAdapter(config)
    (batch, masks), *_ = feed(adapter, 1)
    assert masks is not None and batch.raw is not None
    shown = torch.zeros(6, 16, dtype=torch.bool).scatter_(1, masks.context[:, 0], True)
    pixels = shown.view(6, 1, 4, 1, 4, 1).expand(6, 1, 4, 8, 4, 8).reshape(6, 1, 32, 32)
    noise = torch.rand(batch.raw.shape, generator=torch.Generator().manual_seed(0))
    other = torch.where(pixels, batch.raw, noise)
    assert not torch.equal(other, batch.raw)
    whole = adapter.tokenizer.tokens(
        other, adapter.tokenizer.gradients(other, False) if maps else None, False
    )
    again = adapter._blanked(other, masks, whole)
    assert torch.equal(again.values[shown], batch.context.values[shown])
    assert not torch.equal(whole.values[shown], batch.target.values[shown])  # unblanked it leaks


def test_maps_of_the_stored_canvas_are_those_of_the_cut() -> None:
    adapter = SarAdapter(replace(CONFIGS["two views"], view_augment=SHIFT))
    (batch, _), *_ = feed(adapter, 1)
    images = adapter.source.images
    draw, ids = Draw.of_step(0, 1, 6, 0, 6), Schedule(len(adapter), 6, 0).rows(1)
    from jepa_modalities.adapters.sar.augment import draw_move

    move = draw_move(SHIFT, adapter.source.room[ids], draw)
    for row in range(6):
        top, left = move.offset[row].tolist()
        maps = adapter.tokenizer.gradients(images[ids[row]][None], False)
        both = torch.cat([images[ids[row]][None], maps], 1)[..., top : top + 32, left : left + 32]
        both = both.flip(-1) if move.flip[row] else both
        tokens = adapter.tokenizer.tokens(both[:, :1], both[:, 1:], False)
        torch.testing.assert_close(
            tokens.values[0], batch.views[0].values[row], atol=5e-3, rtol=5e-3
        )
    assert len(move.offset.unique(dim=0)) > 1 and 0 < int(move.flip.sum()) < 6


def rectangles(sizes: list[tuple[int, int]], canvas: int) -> Tensor:
    """Chips of these sizes in the middle of a canvas: their validity."""
    valid = torch.zeros(len(sizes), canvas, canvas, dtype=torch.bool)
    for row, (height, width) in enumerate(sizes):
        top, left = (max(canvas - native, 0) // 2 for native in (height, width))
        valid[row, top : top + height, left : left + width] = True
    return valid


def test_crops_do_not_leave_chips_that_are_large_enough() -> None:
    sizes = [(80, 80), (70, 64), (40, 33), (20, 80), (63, 65)]
    box = real_box(rectangles(sizes, 80), 5, (80, 80))
    room = crop_room(box, (80, 80), (64, 64))
    for native, edges, axes in zip(sizes, box.tolist(), room.tolist(), strict=True):
        for length, (begin, end), (low, high) in zip(native, edges, axes, strict=True):
            assert (begin, end) == ((80 - length) // 2, (80 - length) // 2 + length)
            if length >= 64:
                assert (low, high) == (begin, end - 64)
            else:
                assert low == high == 8  # small chips stay in the middle
    whole = real_box(None, 3, (80, 72))
    assert whole.tolist() == [[[0, 80], [0, 72]]] * 3


def test_enlarged_chips_are_shifted_like_all_others(mixed: Path) -> None:
    """Their native size is small, but they cover the canvas."""
    config = padded(mixed, replace(CONFIGS["two views"], view_augment=SHIFT))
    adapter = SarAdapter(replace(config, data=replace(config.data, fit="resize")))
    assert not adapter.source.padded and adapter.source.dropped == 0
    assert adapter.source.room.tolist() == [[[0, 16], [0, 16]]] * 24


@pytest.mark.parametrize("flip", [False, True])
def test_which_tokens_show_the_chip(flip: bool) -> None:
    sizes = [(20, 48), (31, 9), (48, 48), (33, 26)]
    box = real_box(rectangles(sizes, 48), 4, (48, 48))
    canvas = torch.full((4, 1, 48, 48), PADDING)
    for row, ((top, bottom), (left, right)) in enumerate(box.tolist()):
        canvas[row, :, top:bottom, left:right] = 1.0
    offset = torch.tensor([[8, 3], [8, 8], [0, 16], [5, 11]])
    move = Move(offset, torch.full((4,), flip))
    real = cut(canvas, move, (32, 32)).unfold(2, 8, 8).unfold(3, 8, 8).flatten(1, 3).flatten(2) > 0
    assert torch.equal(tokens_inside(box, move, (32, 32), 8, True), real.all(-1))
    assert torch.equal(tokens_inside(box, move, (32, 32), 8, False), real.any(-1))


def test_small_chips_leave_the_pool_and_are_counted(mixed: Path) -> None:
    adapter = SarAdapter(padded(mixed, replace(BASE, data=replace(BASE.data, size=(64, 64)))))
    everything = SarAdapter(padded(mixed, BASE))
    assert everything.source.dropped == 0 and len(everything) == 24
    assert adapter.source.dropped > 0 and adapter.source.dropped + len(adapter) == 24


def test_gain_of_a_chip_hardly_changes_its_tokens() -> None:
    chips = torch.rand(4, 1, 48, 48, generator=torch.Generator().manual_seed(1)) + 0.3
    tokenizer = SarTokenizer((32, 32), 8, maps=(2, 4))
    change = (tokenizer(chips).values - tokenizer(1.4 * chips).values).abs().max()
    assert float(change) < 0.05
    linear = SarTokenizer((32, 32), 8, transform="linear", maps=())
    assert float((linear(chips).values - linear(1.4 * chips).values).abs().max()) > 0.1


def test_map_statistics_leave_unit_scale() -> None:
    chips = torch.rand(30, 1, 48, 48, generator=torch.Generator().manual_seed(2))
    chips[:5, :, :12] = PADDING
    tokenizer = SarTokenizer((32, 32), 8, image=False, maps=(1, 3)).fit(chips)
    values = tokenizer(chips).values.unflatten(2, (2, 64))
    real = (centre(chips, (32, 32)) >= 0).unfold(2, 8, 8).unfold(3, 8, 8).flatten(1, 3).flatten(2)
    for scale in (0, 1):
        inside = values[:, :, scale][real]
        assert float(inside.mean()) == pytest.approx(0.0, abs=1e-3)
        assert float(inside.std()) == pytest.approx(1.0, abs=1e-3)
        assert not values[:, :, scale][~real].any()


def test_a_larger_canvas_changes_no_token() -> None:
    large = torch.rand(2, 1, 70, 66, generator=torch.Generator().manual_seed(3))
    tokenizer = SarTokenizer((32, 32), 8, maps=(2,), margin=8)
    assert torch.equal(tokenizer(large).values, tokenizer(centre(large, (48, 48))).values)


@pytest.mark.parametrize("kind", ["uint8", "complex", "tensor"])
def test_users_chips_are_read(kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 70), dtype=np.uint8)
    expected = torch.from_numpy(pixels).float() / 255
    raw: Any = pixels
    if kind == "complex":
        raw = (expected * torch.exp(1j * expected)).numpy()
    elif kind == "tensor":
        raw = expected[:, None]
    read = SarModality.read(BASE, raw)
    assert read.shape == (3, 1, 48, 48)
    torch.testing.assert_close(read[:, 0, 14:34], expected[:, :, 11:59], atol=1e-6, rtol=1e-5)
    assert (read[:, :, :14] == PADDING).all() and (read[:, :, 34:] == PADDING).all()


def test_users_chips_that_are_enlarged_have_no_padding() -> None:
    config = replace(BASE, data=replace(BASE.data, fit="resize"))
    read = SarModality.read(config, np.full((2, 20, 24), 0.5, np.float32))
    assert read.shape == (2, 1, 48, 48)
    torch.testing.assert_close(read, torch.full_like(read, 0.5))


@pytest.mark.parametrize(
    "bad", [np.zeros((3, 8)), -np.ones((1, 40, 40)), np.full((1, 40, 40), np.nan)]
)
def test_users_chips_that_cannot_be_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"found chips of shape|magnitudes"):
        SarModality.read(BASE, bad)


def test_held_out_chips_are_stratified_and_fixed(mixed: Path) -> None:
    config = padded(mixed, replace(BASE, evaluate=SarEvaluateConfig(shots=(2,), on="validation")))
    adapter = SarAdapter(config)
    kept, held = adapter.source.held_out()
    labels = adapter.source.labelled("train").labels
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(24))
    assert labels[held].bincount().tolist() == [2, 2]
    other = SarAdapter(changed(config, {"train.seed": 5}))
    assert torch.equal(other.source.held_out()[1], held)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": 3}, "views = 3"),
        ({"view_keep": 0.0}, r"view_keep = 0\.0"),
        ({"encoder.stem": "conv"}, r"encoder\.stem"),
        ({"data.patch": 5}, r"\(32, 32\).*data\.patch = 5"),
        ({"data.margin": -1}, r"data\.margin = -1"),
        ({"data.image": False, "data.maps": ()}, r"data\.maps = \(\)"),
        ({"data.path": ""}, r"data\.path is not given"),
        ({"data.holdout": 1.0}, r"data\.holdout = 1\.0"),
        ({"data.limit": 0}, r"limit = 0"),
        ({"mask.kind": "window"}, r"data\.maps = \(1, 2\).*hidden pixels"),
        ({"augment.shift": 9}, r"augment\.shift = 9.*data\.margin = 8|0 to data\.margin"),
        ({"view_augment.shift": -1}, r"view_augment\.shift = -1"),
        (
            {"data.maps": (), "mask.kind": "window", "mask.num_windows": 2, "mask.ratio": 1.0},
            r"mask\.ratio",
        ),
        ({"evaluate.enabled": True, "evaluate.pooling": "max"}, r"evaluate\.pooling: 'max'"),
        ({"evaluate.enabled": True, "evaluate.poolings": ("max",)}, r"evaluate\.pool"),
        ({"evaluate.enabled": True, "evaluate.probes": ("rigde",)}, r"probes: 'rigde'.*ridge"),
        ({"evaluate.enabled": True, "evaluate.few": ("svm",)}, r"few: 'svm'"),
        ({"evaluate.enabled": True, "evaluate.untrained": 0}, r"untrained = 0"),
        ({"evaluate.enabled": True, "evaluate.shots": (99,)}, r"shots = \(99,\).*rarest class"),
    ],
)
def test_complaints_come_before_training(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SarAdapter(changed(BASE, settings))


def test_complaints_about_padding_labels_and_targets(mixed: Path) -> None:
    with pytest.raises(ValueError, match=r"of 24 chips are so small.*data\.patch"):
        SarAdapter(padded(mixed, CONFIGS["window"]))
    block = padded(mixed, CONFIGS["block"])
    with pytest.raises(ValueError, match=r"mask\.kind = 'block'.*padded"):
        SarAdapter(block)
    crop = padded(mixed, replace(BASE, augment=SarAugmentConfig(crop=(0.5, 1.0))))
    with pytest.raises(ValueError, match=r"augment\.crop resizes"):
        SarAdapter(crop)
    with pytest.raises(ValueError, match=r"no split 'test' or 'val'.*data\.test_path"):
        SarAdapter(changed(padded(mixed, BASE), {"evaluate.enabled": True, "evaluate.shots": (2,)}))
    with pytest.raises(ValueError, match=r"target\.radii = \(5, 40\)"):
        SarAdapter(changed(BASE, {"target.radii": (5, 40)})).target()
