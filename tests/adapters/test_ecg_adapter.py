"""The ECG adapter: contract of every method, parts, crops, targets, mixtures, complaints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jepa_modalities.adapters.base import build_masker
from jepa_modalities.adapters.ecg.adapter import ECGAdapter
from jepa_modalities.adapters.ecg.augment import changed_leads, starts
from jepa_modalities.adapters.ecg.config import (
    ECGAugment,
    ECGConfig,
    ECGData,
    ECGEncoder,
    ECGPredictor,
)
from jepa_modalities.adapters.ecg.embedding import KernelStem
from jepa_modalities.adapters.ecg.preprocess import PreprocessConfig
from jepa_modalities.adapters.ecg.source import split_folds
from jepa_modalities.adapters.ecg.target import Table, sampled_crops
from jepa_modalities.adapters.ecg.task import PTBXL_TASKS, statements, task_labels
from jepa_modalities.config import RegulariserConfig
from jepa_modalities.core.batch import Batch
from jepa_modalities.core.draw import Draw, Schedule
from jepa_modalities.core.masking import Masks
from jepa_modalities.data.ecg.file import memory_records
from jepa_modalities.data.ecg.records import ECGRecords
from jepa_modalities.data.ecg.synthetic import synthetic_records
from jepa_modalities.settings import changed
from jepa_modalities.testing import check_adapter

CPU = torch.device("cpu")
LEADS = ("I", "II", "V1")
BASE = ECGConfig(
    data=ECGData(path="synthetic", crop=4.0, patch=0.2),
    preprocess=PreprocessConfig(leads=LEADS, fs=50.0),
    encoder=ECGEncoder(dim=16, depth=2, heads=2),
    predictor=ECGPredictor(width=16, depth=1),
)
BASE = changed(BASE, {"evaluate.task": "labels"})
KERNELS = {"target.kind": "kernels", "target.centroids": 24, "target.dim": 8}
CHANGES = ECGAugment(lead_dropout=0.8, dropped=0.5, scale=0.1, noise=0.05, shift=0.2)
VIEWS: dict[str, Any] = {
    "views": 2,
    "view_augment": CHANGES,
    "regulariser": RegulariserConfig("vicreg", "views", (8, 8), weight=1.0),
}
CONFIGS: dict[str, ECGConfig] = {
    "published": BASE,
    "no biases": changed(
        BASE,
        {
            "encoder.bias": False,
            "encoder.num_prefix": 1,
            "encoder.rescale_by": "depth",
            "predictor.sees_prefix": False,
            "target.layer_norm": False,
            "loss.prediction": "l1",
        },
    ),
    "centred, ring": changed(
        BASE, {"target.centre": True, "mask.ring": True, "mask.target_share": 0.6}
    ),
    "kernels": replace(
        changed(BASE, {**KERNELS, "mask.kind": "blocks", "mask.keep": (0.4, 0.4)}), augment=CHANGES
    ),
    "kernels per batch": changed(BASE, {**KERNELS, "target.cache": False}),
    "hand-over": changed(BASE, {**KERNELS, "target.handover": (0.2, 0.6)}),
    "samples": changed(BASE, {"target.kind": "samples"}),
    "multi-block": changed(BASE, {"mask.kind": "block", "mask.min_keep": 2}),
    "random": changed(BASE, {"mask.kind": "random", "mask.keep": (0.4, 0.6)}),
    "two views": replace(changed(BASE, {"mask.kind": "none", "encoder.stem": "conv"}), **VIEWS),
    "kernel stem": replace(
        changed(
            BASE,
            {
                "mask.kind": "none",
                "encoder.stem": "kernels",
                "encoder.stem_kernels": 40,
                "encoder.stem_dim": 8,
            },
        ),
        **VIEWS,
    ),
    "together": replace(changed(BASE, KERNELS), **VIEWS),
    "sigreg": changed(
        replace(BASE, **VIEWS),
        {
            "mask.kind": "none",
            "regulariser.kind": "sigreg",
            "regulariser.coefficients": (1.0, 0.1),
        },
    ),
    "tokens per lead": changed(BASE, {"data.tokens": "lead"}),
    "cross pattern": changed(
        BASE, {"data.tokens": "lead", "encoder.cross_pattern": True, "encoder.num_prefix": 1}
    ),
    "Kim": changed(
        BASE,
        {
            "data.tokens": "lead",
            "encoder.cross_pattern": True,
            "predictor.by_lead": True,
            "mask.kind": "blocks",
            "mask.keep": (0.3, 0.4),
            "mask.min_block": 0.2,
            "loss.prediction": "smooth_l1",
        },
    ),
    "dilated": changed(BASE, {"encoder.mixer": "dilated"}),
    "s4": changed(BASE, {"encoder.mixer": "s4"}),
    "read per batch": changed(BASE, {"data.resident": 0.0, "target.kind": "samples"}),
}


@pytest.fixture(scope="module")
def records() -> ECGRecords:
    return synthetic_records(30, 12, fs=100.0, seconds=6.0)


def feed(adapter: ECGAdapter, count: int = 3, size: int = 6) -> list[tuple[Batch, Masks | None]]:
    schedule = Schedule(len(adapter), size, 0)
    plan = [
        (schedule.rows(step), Draw.of_step(0, step, size, 0, size)) for step in range(1, count + 1)
    ]
    return list(adapter.feed(plan, build_masker(adapter.config, adapter.geometry), CPU))


@pytest.mark.parametrize("name", CONFIGS)
def test_contract(name: str, records: ECGRecords) -> None:
    check_adapter(ECGAdapter(CONFIGS[name], None, records))


def test_reading_ahead_changes_nothing(records: ECGRecords) -> None:
    config = changed(CONFIGS["samples"], {"target.cache": False})
    config = replace(config, **VIEWS, augment=CHANGES)
    streamed = changed(config, {"data.resident": 0.0})
    one, two = (feed(ECGAdapter(c, None, records), 6) for c in (config, streamed))
    for (batch, masks), (other, others) in zip(one, two, strict=True):
        assert masks is not None and others is not None
        assert torch.equal(masks.context, others.context)
        torch.testing.assert_close(batch.context.values, other.context.values)
        torch.testing.assert_close(batch.raw, other.raw)
        for view, twin in zip(batch.views, other.views, strict=True):
            torch.testing.assert_close(view.values, twin.values)
    assert not torch.equal(one[0][0].views[0].values, one[0][0].views[1].values)


def test_the_table_holds_what_the_function_makes(records: ECGRecords) -> None:
    """A crop at token 5 has the table's targets from row 5 of its record on."""
    adapter = ECGAdapter(CONFIGS["kernels"], None, records)
    (table, width) = adapter.target() or (None, 0)
    assert isinstance(table, Table) and width == 8 and adapter.caches
    direct = ECGAdapter(changed(CONFIGS["kernels"], {"target.cache": False}), None, records)
    function, _ = direct.target() or (None, 0)
    assert function is not None and direct.target() is direct.target()
    samples = adapter.source.length[0]
    whole = adapter.source.values()[: int(samples)].T[None]
    expected = function(whole)[0]
    found = table(torch.tensor([0, 5, 10]))
    for row, first in enumerate((0, 5, 10)):
        torch.testing.assert_close(found[row], expected[first : first + 20], atol=2e-2, rtol=2e-2)
    for batch, _ in feed(adapter):
        assert batch.raw is not None and batch.ids is not None
        assert (batch.raw // 30 == batch.ids).all()  # 6 s are 30 tokens of 0.2 s


def test_the_target_sees_the_clean_crop(records: ECGRecords) -> None:
    batch, _ = feed(ECGAdapter(CONFIGS["kernels"], None, records), 1)[0]
    assert not torch.equal(batch.context.values, batch.target.values)
    zero = (batch.context.values.unflatten(2, (3, 10)) == 0).all((1, 3))
    clean = (batch.target.values.unflatten(2, (3, 10)) == 0).all((1, 3))
    assert zero.any() and not clean.any() and not zero.all(1).any()


def test_kernels_are_kept_and_belong_to_their_settings(records: ECGRecords, tmp_path: Path) -> None:
    config = changed(CONFIGS["kernels"], {"target.cache": False})
    first = ECGAdapter(config, tmp_path, records).target()
    file = tmp_path / "target.safetensors"
    written = file.read_bytes()
    again = ECGAdapter(config, tmp_path, records).target()
    assert first is not None and again is not None and file.read_bytes() == written
    x = torch.randn(2, 3, 200)
    assert torch.equal(first[0](x), again[0](x))
    ECGAdapter(changed(config, {"target.centroids": 12}), tmp_path, records).target()
    assert file.read_bytes() != written


def test_parts_do_not_touch(records: ECGRecords) -> None:
    source = ECGAdapter(BASE, None, records).source
    parts = [set(part.tolist()) for part in vars(source.splits).values()]
    assert [len(part) for part in parts] == [30, 12, 12]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert set(source.rows.tolist()) == parts[0]
    # Constants are those of the training part alone.
    x = source.raw(source.splits.train).double()
    assert torch.allclose(source.preprocess.mean[0].double(), x.mean((0, 2)), atol=1e-4)
    assert torch.allclose(source.preprocess.std[0].double(), x.std((0, 2)), rtol=1e-3)


def test_folds_and_patients(records: ECGRecords) -> None:
    fold = np.array([1, 5, 8, 9, 10, -1] * 9)
    mixed = replace(records, fold=fold)
    parts = split_folds(mixed, 10, 9, 0.1)
    assert set(fold[parts.train]) == {1, 5, 8, -1}
    assert set(fold[parts.valid]) == {9} and set(fold[parts.test]) == {10}
    # For choices: everything from the lower of the two folds on stays out of training.
    parts = split_folds(mixed, 9, 8, 0.1)
    assert set(fold[parts.train]) == {1, 5, -1} and set(fold[parts.test]) == {9}
    blank = replace(
        records, fold=np.full(54, -1), patient_id=np.array([f"p{n // 3}" for n in range(54)])
    )
    parts = split_folds(blank, 10, 9, 0.2)
    owners = [set(blank.patient_id[part].tolist()) for part in vars(parts).values()]
    assert sum(map(len, owners)) == 18 and not owners[0] & (owners[1] | owners[2])
    again = split_folds(blank.select(np.arange(54)[::-1]), 10, 9, 0.2)
    assert set(blank.record_id[parts.test]) == set(blank.record_id[::-1][again.test])


def test_a_mixture_draws_by_weight() -> None:
    signals = np.random.default_rng(0).integers(-900, 900, (40, 300, 3)).astype(np.int16)
    many = memory_records(signals, 50.0, LEADS, 1000.0, fold=np.repeat([1, 9, 10], [32, 4, 4]))
    many = replace(many, source=np.array(["a"] * 28 + ["b"] * 12))
    config = changed(BASE, {"data.weights": (("a", 0.25), ("b", 0.75)), "evaluate.enabled": False})
    adapter = ECGAdapter(config, None, many)
    names = many.source[adapter.source.rows]
    drawn = np.concatenate([b.ids.numpy() for b, _ in feed(adapter, 40, 30) if b.ids is not None])
    share = np.mean(names[drawn] == "b")
    assert share == pytest.approx(0.75, abs=0.05)  # 1,200 draws, three standard errors are 0.038
    counts = np.bincount(drawn[names[drawn] == "b"], minlength=32)
    assert (counts[28:] > 150).all()
    with pytest.raises(ValueError, match=r"data\.weights: 'c' has weight 0\.5 and 0 training"):
        ECGAdapter(changed(config, {"data.weights": (("c", 0.5),)}), None, many)


def test_short_records_are_left_out_of_pretraining(records: ECGRecords) -> None:
    source = ECGAdapter(changed(BASE, {"data.crop": 6.0}), None, records).source
    assert source.dropped == 0
    shorter = replace(records, length=np.where(np.arange(54) < 10, 350, records.length))
    adapter = ECGAdapter(BASE, None, shorter)
    assert len(adapter) == 20 and adapter.source.dropped == 10
    with pytest.raises(ValueError, match=r"none of the 30 training records is data\.crop = 8\.0"):
        ECGAdapter(changed(BASE, {"data.crop": 8.0}), None, records)


def test_crops_begin_anywhere_and_stay_inside() -> None:
    draw = Draw.of_step(0, 1, 4000, 0, 4000)
    room = torch.full((4000,), 20)
    found = starts(draw, room)
    assert found.min() == 0 and found.max() == 20
    assert torch.bincount(found).float().std() < 3 * (4000 / 21) ** 0.5
    assert set(starts(draw, room, 8).tolist()) == {0, 8, 16}
    assert (starts(draw, torch.zeros(4000, dtype=torch.long)) == 0).all()


def test_changes_of_leads() -> None:
    x = torch.ones(500, 4, 50)
    draw = Draw.of_step(0, 1, 500, 0, 500)
    assert changed_leads(x, ECGAugment(), draw) is x
    dropped = changed_leads(x, ECGAugment(lead_dropout=0.6, dropped=0.5), draw)
    kept = dropped[:, :, 0]
    assert set(kept.unique().tolist()) == {0.0, 1.0} and (kept.sum(1) >= 1).all()
    # Where leads go: each stays with 1/2, and one at least: 1/2 + (1/2)^4 / 4 of the leads.
    stays = 0.4 + 0.6 * (0.5 + 0.5**4 / 4)
    assert float(kept.mean()) == pytest.approx(stays, abs=0.04)
    scaled = changed_leads(x, ECGAugment(scale=0.1), draw)
    assert float(scaled[:, :, 0].std()) == pytest.approx(0.1, rel=0.1)
    assert torch.equal(scaled[:, :, 0], scaled[:, :, 49])
    noisy = changed_leads(x, ECGAugment(noise=0.3), draw)
    assert float((noisy - x).std()) == pytest.approx(0.3, rel=0.05)
    shifted = changed_leads(x, ECGAugment(shift=0.5), draw) - x
    assert float(shifted.abs().max()) <= 0.5 and float(shifted.diff(dim=2).abs().max()) < 0.2


def test_tasks_of_ptbxl() -> None:
    """Classes of the six tasks (Strodthoff et al. 2021, table 1): 71, 44, 23, 5, 19, 12."""
    assert [len(statements(task)) for task in PTBXL_TASKS] == [71, 44, 23, 5, 19, 12, 5]
    with pytest.raises(ValueError, match="'age' is not known"):
        statements("age")


def test_labels_of_a_task(records: ECGRecords) -> None:
    names = ("NORM", "IMI", "LVH", "SR", "AFIB")
    labels = np.zeros((54, 5), np.uint8)
    labels[0, [0, 3]] = 1  # NORM and a rhythm
    labels[1, [1, 2]] = 1  # MI and HYP
    labels[2, 4] = 1  # a rhythm only
    some = replace(records, labels=labels, label_names=names)
    task = task_labels(some, "superdiagnostic")
    assert task is not None and task.classes == ("NORM", "MI", "STTC", "CD", "HYP")
    assert task.labels[:3].tolist() == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 1], [0] * 5]
    assert np.flatnonzero(task.rows).tolist() == [0, 1]
    single = task_labels(some, "single")
    assert single is not None and np.flatnonzero(single.rows).tolist() == [0]
    rhythm = task_labels(some, "rhythm")
    assert rhythm is not None and np.flatnonzero(rhythm.rows).tolist() == [0, 2]
    assert task_labels(some, "form") is None
    own = task_labels(records, "labels")
    assert own is not None and own.rows.all() and len(own.classes) == 6


WIDE_WINDOW = {"evaluate.finetune": True, "evaluate.window": 20.0, "evaluate.stride": 1.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": 3}, "views = 3"),
        ({"encoder.stem": "conv"}, r"encoder\.stem = 'conv'.*'linear'"),
        ({"encoder.stem": "kernels"}, r"encoder\.stem = 'kernels'.*'linear'"),
        ({"data.patch": 0.3}, r"data\.crop = 4\.0 s cannot be cut.*data\.patch = 0\.3"),
        ({"data.path": ""}, r"data\.path is not given"),
        ({"data.limit": 0}, r"data\.limit = 0"),
        ({"data.test_fold": 9}, r"data\.test_fold and data\.valid_fold are both 9"),
        ({"data.test_fold": 4}, r"no records are left for"),
        ({"mask.keep": (0.9, 0.99)}, r"mask\.keep = \(0\.9, 0\.99\)"),
        ({"mask.min_block": 9.0}, r"mask\.min_block makes 45 tokens of 20"),
        ({"evaluate.pooling": "max"}, r"evaluate\.pooling: 'max'"),
        ({"evaluate.probes": ("svm",)}, r"evaluate\.probes: 'svm'.*linear, knn"),
        ({"evaluate.untrained": 0}, r"evaluate\.untrained = 0"),
        ({"evaluate.task": "superdiagnostic"}, r"labels of the task 'superdiagnostic'"),
        ({"evaluate.counts": (99,)}, r"evaluate\.counts = \(99,\): there are 30"),
        ({"evaluate.counts": (1,)}, r"evaluate\.counts = 1; give at least 2"),
        ({"evaluate.head_steps": 0}, r"evaluate\.head_steps = 0; give at least 1"),
        ({"evaluate.mixup": -1.0}, r"evaluate\.mixup = -1\.0; give at least 0"),
        ({"evaluate.kernels": 0}, r"evaluate\.kernels = 0"),
        ({"evaluate.finetune_pooling": "max"}, r"evaluate\.finetune_pooling: 'max'"),
        (WIDE_WINDOW, r"window = 20\.0 s; recordings are"),
        ({"evaluate.rhythm": "nowhere.h5"}, r"no file nowhere\.h5"),
        ({"evaluate.attentive": True, "evaluate.window": 0.3}, r"evaluate\.window = 0\.3 s"),
    ],
)
def test_complaints_come_before_training(
    settings: dict[str, Any], message: str, records: ECGRecords
) -> None:
    given = None if settings.get("data.path") == "" else records
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ECGAdapter(changed(BASE, settings), None, given)


def test_labels_that_decide_nothing_are_told_before_training(records: ECGRecords) -> None:
    assert records.labels is not None
    for fold, what in ((9, "choices"), (10, "scores")):
        labels = records.labels.copy()
        labels[records.fold == fold] = np.arange(6) == 0
        with pytest.raises(ValueError, match=f"none of the 6 classes.*for {what}"):
            ECGAdapter(BASE, None, replace(records, labels=labels))


def test_without_evaluation_no_part_is_needed_for_scores(records: ECGRecords) -> None:
    other = replace(records, fold=np.where(records.fold >= 9, 1, records.fold))
    with pytest.raises(ValueError, match=r"no records are left for.*evaluate\.enabled False"):
        ECGAdapter(BASE, None, other)
    adapter = ECGAdapter(changed(BASE, {"evaluate.enabled": False}), None, other)
    assert len(adapter) == len(records)


def test_another_data_set_is_scored_with_the_encoders_constants(records: ECGRecords) -> None:
    louder = replace(records, gain=records.gain / 3)
    first, other = ECGAdapter(BASE, None, records), ECGAdapter(BASE, None, louder)
    wanted = first.tokenizer.preprocess.std
    assert not torch.allclose(other.tokenizer.preprocess.std, wanted)
    other.adopt(first.tokenizer, torch.nn.Identity(), first.config)
    assert other.source.preprocess.std is wanted
    raw = other.source.raw(np.array([0]))
    assert torch.allclose(
        other.tokenizer(raw).values,
        first.tokenizer(first.source.raw(np.array([0])) * 3).values,
        atol=1e-4,
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target.kind": "edges"}, r"target\.kind = 'edges'.*'ema', 'kernels'"),
        ({"target.kind": "kernels", "data.tokens": "lead"}, r"needs data\.tokens = 'joint'"),
    ],
)
def test_unknown_targets(settings: dict[str, Any], message: str, records: ECGRecords) -> None:
    with pytest.raises(ValueError, match=message):
        ECGAdapter(changed(BASE, settings), None, records).target()


def test_a_stem_of_kernels_is_fitted_once_and_travels(records: ECGRecords, tmp_path: Path) -> None:
    config = CONFIGS["kernel stem"]
    adapter = ECGAdapter(config, tmp_path, records)
    one, two = adapter.embedding(), adapter.embedding()
    assert isinstance(one, KernelStem) and isinstance(two, KernelStem)
    assert one.local is not two.local and bool(one.local.bank.weight.abs().sum() > 0)
    again = ECGAdapter(config, tmp_path, records).embedding()
    assert isinstance(again, KernelStem)
    signals = sampled_crops(adapter.source, 1000, config.train.seed)
    torch.testing.assert_close(two.local(signals), again.local(signals))
    # Whitened: unit variance over the training crops.
    assert float(one.local(signals).std(dim=(0, 1)).mean()) == pytest.approx(1, abs=0.05)
    assert not [name for name, _ in one.named_parameters() if name.startswith("local")]
    assert (tmp_path / "stem.safetensors").is_file()
