"""Counted work against formulas, kept activations against autograd, hours and memory by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from jepa_modalities import api
from jepa_modalities.adapters.base import build_jepa
from jepa_modalities.adapters.image.config import ImageConfig, ImageData
from jepa_modalities.config import (
    EncoderConfig,
    MaskConfig,
    PredictorConfig,
    RegulariserConfig,
    TargetConfig,
    TrainConfig,
)
from jepa_modalities.core.registry import adapters
from jepa_modalities.settings import changed
from jepa_modalities.train.estimate import (
    count,
    estimate,
    expected_masks,
    memory,
    outline_of,
    seconds,
    steps_of,
)
from jepa_modalities.train.hardware import GPUS, Hardware, hardware

# 16 tokens of 48 numbers: 8 visible, 8 predicted.
TINY = ImageConfig(
    data=ImageData(size=(16, 16), patch=4),
    encoder=EncoderConfig(dim=32, depth=2, heads=2),
    predictor=PredictorConfig(width=16, depth=2, heads=2),
    mask=MaskConfig(kind="random", keep=(0.5, 0.5)),
    train=TrainConfig(batch_size=4, steps=10),
)


def linear(tokens: int, inputs: int, outputs: int) -> int:
    return 2 * tokens * inputs * outputs


def block(tokens: int, width: int, queries: int | None = None) -> int:
    """A ViT block of mlp_ratio 4, of which only the last `queries` outputs are wanted."""
    wanted = tokens if queries is None else queries
    mlp = linear(wanted, width, 4 * width) + linear(wanted, 4 * width, width)
    attention = 2 * 2 * wanted * tokens * width  # all heads: logits, and their product with values
    project = linear(wanted, width, width) + linear(tokens, width, 2 * width)
    return project + attention + linear(wanted, width, width) + mlp


def test_flops_of_a_tiny_vit() -> None:
    work = count(outline_of(TINY))
    embed = linear(8, 48, 32)
    target = linear(16, 48, 32) + 2 * block(16, 32)
    encoder = embed + 2 * block(8, 32)
    predictor = linear(8, 32, 16) + block(16, 16) + block(16, 16, queries=8) + linear(8, 16, 32)
    # Two products for each one forward; the first layer's input needs no gradient.
    backward = 2 * (encoder + predictor) - embed
    assert (work.context, work.targets) == (8, 8)
    assert work.target == 4 * target
    assert work.encoder == 4 * encoder
    assert work.predictor == 4 * predictor
    assert work.backward == 4 * backward
    assert work.terms == 0
    assert work.flops == 4 * (target + encoder + predictor + backward)


def test_work_is_that_of_the_real_networks() -> None:
    """The CPU's count equals ours, or (versions that know no CPU attention) lacks just that."""
    from torch.utils.flop_counter import FlopCounterMode

    outline = outline_of(TINY)
    jepa, masks = build_jepa(TINY, outline), expected_masks(outline)
    batch = outline.batch(4, "cpu")
    with FlopCounterMode(display=False) as counter:
        jepa(batch, masks).loss.backward()
    maps = 2 * 16 * 16 * 32 + 3 * (2 * 8 * 8 * 32 + 16 * 16 * 16 + 8 * 16 * 16)
    assert count(outline).flops - counter.get_total_flops() in (0, 4 * 4 * maps)


def test_parameters_and_memory() -> None:
    work = count(outline_of(TINY))
    jepa = build_jepa(TINY, outline_of(TINY))
    trained = sum(p.numel() for p in jepa.parameters() if p.requires_grad)
    assert work.trained == trained
    assert work.teacher == sum(p.numel() for p in jepa.encoder.parameters())
    found = memory(work, TINY, 2, half=False)
    for name, numbers in (("weights", 1), ("gradients", 1), ("optimiser", 2)):
        assert found[name] == numbers * 4 * trained / 2**30
    assert found["teacher"] == 4 * work.teacher / 2**30
    assert found["activations"] == 2 * work.activations[0] / 2**30
    sharded = memory(work, changed(TINY, {"train.strategy": "fsdp"}), 2, half=False)
    assert sharded["optimiser"] == found["optimiser"] / 2
    assert sharded["activations"] == found["activations"]
    halves = memory(work, changed(TINY, {"train.accumulate": 2}), 1, half=False)
    assert halves["activations"] == found["activations"]


@pytest.mark.parametrize("packed", [False, True])
def test_activations_are_what_autograd_keeps(packed: bool) -> None:
    config = replace(TINY, encoder=EncoderConfig(dim=64, depth=4, heads=4))
    config = changed(config, {"predictor.packed": packed})
    outline = outline_of(config)
    jepa, masks = build_jepa(config, outline), expected_masks(outline)
    own = {p.untyped_storage().data_ptr() for p in jepa.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = jepa(outline.batch(4, "cpu"), masks).loss
    assert loss is not None
    assert count(outline).activations[0] * 4 == pytest.approx(sum(kept.values()), rel=0.15)


def test_expected_masks_have_the_mean_lengths() -> None:
    config = changed(TINY, {"mask.keep": (0.2, 0.8), "train.batch_size": 2, "data.size": (32, 32)})
    outline = outline_of(config)
    masks = expected_masks(outline)
    assert masks is not None
    assert masks.context.shape[2] == pytest.approx(32, abs=4)  # half of 64 tokens


def test_terms_are_repeated_by_every_process() -> None:
    views = replace(
        TINY,
        mask=MaskConfig(kind="none"),
        views=2,
        regulariser=RegulariserConfig(kind="vicreg", source="views", widths=(64, 64)),
    )
    work = count(outline_of(views))
    projector = linear(8, 32, 64) + linear(8, 64, 64)
    covariance = 2 * linear(64, 4, 64)
    assert work.terms == projector + covariance
    assert work.shared(1) == work.flops
    assert work.shared(2) == pytest.approx((work.flops + 3 * work.terms) / 2)


def test_hand_over_runs_the_teacher_later() -> None:
    fixed = TargetConfig(kind="pixels", cache=False)
    late = count(outline_of(replace(TINY, target=replace(fixed, handover=(0.6, 0.8)))))
    plain, never = count(outline_of(TINY)), count(outline_of(replace(TINY, target=fixed)))
    assert never.target == 0
    assert late.target == pytest.approx(0.4 * plain.target)  # the last two of five stages


def test_time_and_cost_by_hand() -> None:
    place = Hardware("gpu", 100.0, 50.0, 1.0, 3.0, 0.5, "here", launch=0.0, devices=2)
    work = count(outline_of(TINY))
    found = estimate(work, TINY, 10, place)
    step = work.flops / 2 / (100 * 0.5)
    assert found.seconds == pytest.approx(step)
    assert found.hours == pytest.approx(10 * step / 3600)
    assert found.cost == pytest.approx(found.hours * 2 * 3)
    assert (found.precision, found.bound, found.fits) == ("bf16", "arithmetic", True)
    slow = estimate(work, TINY, 10, replace(place, launch=1e9))
    assert slow.bound == "launches" and slow.seconds == work.operations * 1e9
    whole = estimate(work, changed(TINY, {"train.precision": "fp32"}), 10, place)
    assert whole.precision == "fp32" and whole.seconds == pytest.approx(2 * step)
    assert not estimate(work, TINY, 10, replace(place, memory=1e-9)).fits
    heavy = seconds(work, TINY, replace(place, balance=7.0))[0]
    assert heavy == pytest.approx(step + 7 * 4 * work.activations[0] / 2 / 50)
    with pytest.raises(ValueError, match="batch_size = 4 cannot be split over 3 processes"):
        estimate(work, TINY, 10, replace(place, devices=3))


def test_steps_need_samples_where_epochs_count() -> None:
    assert steps_of(TINY, None) == 10
    epochs = changed(TINY, {"train.steps": None, "train.epochs": 3.0})
    assert steps_of(epochs, 40) == 30
    with pytest.raises(ValueError, match="--samples N"):
        steps_of(epochs, None)


def test_hardware_table() -> None:
    eight = hardware("h100x8")
    assert (eight.devices, eight.bf16) == (8, 989e12)
    assert hardware("a100").devices == 1
    for place in GPUS.values():
        assert 0 < place.mfu < 1 and place.source and place.price > 0 and place.fp32 < place.bf16
    for wrong in ("tpu", "h100x", "h100x0", "gpu 8"):
        with pytest.raises(ValueError, match=r"not known; there are cpu, .*h100x8"):
            hardware(wrong)
    cpu = hardware("cpu", 1)
    assert cpu.fp32 > 1e8 and cpu.memory > 0.1 and cpu.price == 0


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("image_digits", {"data.limit": 80}),
        ("tabular_breast_cancer", {"objective.detection": 0.0}),
        ("tabular_breast_cancer", {"objective.detection": 1.0, "objective.reconstruction": 1.0}),
        ("tabular_breast_cancer", {"target.kind": "ple"}),
        ("ecg_synthetic", {"data.records": 40}),
        (
            "ecg_ptbxl_sub100_stem_tiny",
            {"data.path": "synthetic", "data.records": 40, "preprocess.unit": "mV"},
        ),
        ("sar_synthetic", {"data.limit": 60}),
    ],
)
def test_outline_builds_the_adapters_networks(name: str, settings: dict[str, Any]) -> None:
    small = {"encoder.depth": 1, "evaluate.enabled": False}
    config = changed(api.recipe(name), {**settings, **small})
    adapter: Any = adapters[config.modality](config, None)
    outline = outline_of(config)
    real, blank = (build_jepa(config, part).state_dict() for part in (adapter, outline))
    shapes = {key: value.shape for key, value in real.items()}
    found = {key: value.shape for key, value in blank.items()}
    assert {k for k in shapes if not k.startswith("target.")}
    for shape in (shapes, found):  # a table of targets is the data's
        for key in [k for k in shape if k.startswith("target.")]:
            del shape[key]
    assert shapes == found
