"""ECG evaluation end to end on synthetic records; crops, heads, beats, rhythm, pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from jepa_modalities.adapters.ecg import beat, holter, picture, rhythm, trace
from jepa_modalities.adapters.ecg.adapter import ECGAdapter
from jepa_modalities.adapters.ecg.config import ECGConfig, ECGData, ECGEncoder, ECGPredictor
from jepa_modalities.adapters.ecg.head import RecordCrops
from jepa_modalities.adapters.ecg.part import Parts, tokens_of
from jepa_modalities.adapters.ecg.preprocess import PreprocessConfig
from jepa_modalities.adapters.ecg.task import task_labels
from jepa_modalities.core.masking import Masks
from jepa_modalities.data.ecg.file import memory_records
from jepa_modalities.data.ecg.records import Annotations, ECGRecords
from jepa_modalities.data.ecg.synthetic import RHYTHMS, synthetic_ecg, synthetic_records
from jepa_modalities.eval.features import encode, pool
from jepa_modalities.eval.macro_auc import macro_auc
from jepa_modalities.eval.multilabel import linear_multilabel
from jepa_modalities.eval.multilabel_head import (
    AttentivePool,
    HeadRecipe,
    fit_head,
    over_crops,
    predict,
)
from jepa_modalities.settings import changed
from jepa_modalities.train.engine import untrained

BASE = changed(
    ECGConfig(
        data=ECGData(path="synthetic", crop=4.0, patch=0.2),
        preprocess=PreprocessConfig(leads=("I", "II", "V1"), fs=50.0),
        encoder=ECGEncoder(dim=16, depth=2, heads=2),
        predictor=ECGPredictor(width=16, depth=1),
    ),
    {
        "evaluate.task": "labels",
        "evaluate.kernels": 24,
        "evaluate.untrained": 2,
        "evaluate.counts": (12,),
        "evaluate.draws": 2,
        "evaluate.attentive": True,
        "evaluate.finetune": True,
        "evaluate.window": 2.0,
        "evaluate.stride": 1.0,
        "evaluate.head_steps": 6,
        "evaluate.head_batch": 8,
        "evaluate.mixup": 0.2,
    },
)


@pytest.fixture(scope="module")
def records() -> ECGRecords:
    return synthetic_records(48, 24, fs=100.0, seconds=6.0)


@pytest.fixture(scope="module")
def adapter(records: ECGRecords) -> ECGAdapter:
    return ECGAdapter(BASE, None, records)


@pytest.fixture(scope="module")
def encoders(adapter: ECGAdapter) -> dict[str, list[torch.nn.Module]]:
    made = [untrained(BASE, adapter, seed) for seed in range(4)]
    return {"encoder": made[:1], "student": made[1:2], "untrained": made[2:]}


@pytest.fixture(scope="module")
def metrics(
    adapter: ECGAdapter,
    encoders: dict[str, list[torch.nn.Module]],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, float]:
    return adapter.evaluate(encoders, tmp_path_factory.mktemp("run"))


def test_every_result_stands_beside_its_controls(metrics: dict[str, float]) -> None:
    for arm in ("encoder", "student", "untrained", "raw", "bar", "encoder+bar", "untrained+bar"):
        assert 0 <= metrics[f"{arm}/linear/macro_auc"] <= 1
        low, high = (metrics[f"{arm}/linear/macro_auc_{end}"] for end in ("low", "high"))
        assert low <= high
    for pooling in ("@mean_std_max", "@all_mean_std_max", ""):
        for control in ("untrained", "raw", "bar"):
            assert f"paired/encoder-{control}/linear{pooling}/macro_auc_low" in metrics
    for kind in ("attentive", "finetune"):
        for arm in ("encoder", "untrained", "bar"):
            assert f"{arm}/{kind}/macro_auc" in metrics
        assert f"paired/encoder-untrained/{kind}/macro_auc_high" in metrics
        assert f"paired/encoder-bar/{kind}/macro_auc_high" in metrics
    assert metrics["bar/finetune/macro_auc"] == metrics["bar/linear/macro_auc"]
    assert "bar/linear_12labels/macro_auc_low" in metrics
    assert metrics["untrained/linear/macro_auc_seeds"] == 2
    sizes = [metrics[f"data/{name}_records"] for name in ("train", "valid", "test")]
    assert sizes == [48, 24, 24] and metrics["data/classes_scored"] == len(RHYTHMS)


def test_the_test_part_decides_nothing(
    records: ECGRecords, encoders: dict[str, list[torch.nn.Module]], tmp_path: Path
) -> None:
    """Other test labels, same scores of the probes: only their comparison with the truth moves."""
    plain = {"evaluate.attentive": False, "evaluate.finetune": False, "evaluate.counts": ()}
    config = changed(BASE, plain)
    labels = records.labels
    assert labels is not None
    other = labels.copy()
    test = records.fold == 10
    other[test] = np.roll(labels[test], 1, axis=0)
    found = []
    for number, given in enumerate((labels, other)):
        adapter = ECGAdapter(config, None, replace(records, labels=given))
        adapter.evaluate(encoders, tmp_path / str(number))
        assert adapter.scored is not None
        found.append(adapter.scored)
    for name in ("encoder", "untrained", "bar"):
        assert np.array_equal(found[0][2][name], found[1][2][name])
    assert not np.array_equal(found[0][0], found[1][0])


def test_scores_are_of_the_test_part(adapter: ECGAdapter, metrics: dict[str, float]) -> None:
    assert adapter.scored is not None
    truth, classes, curves = adapter.scored
    assert classes == RHYTHMS and len(truth) == 24
    assert metrics["bar/linear/macro_auc"] == pytest.approx(macro_auc(truth, curves["bar"]))


def cropped(adapter: ECGAdapter) -> tuple[Parts, RecordCrops]:
    """The labelled parts, in crops of 2 s every second."""
    task = task_labels(adapter.source.records, "labels")
    assert task is not None
    parts = Parts.of(adapter.source, task)
    return parts, RecordCrops(parts, adapter.tokenizer, 100, 50)


def test_seven_crops_of_ten_seconds() -> None:
    """2.5 s every 1.25 s (ECG-JEPA, downstream protocol)."""
    ten = synthetic_records(12, 6, fs=100.0, seconds=10.0)
    adapter = ECGAdapter(changed(BASE, {"evaluate.counts": ()}), None, ten)
    task = task_labels(ten, "labels")
    assert task is not None
    parts = Parts.of(adapter.source, task)
    crops = RecordCrops(parts, adapter.tokenizer, 120, 60)
    assert crops.num_windows("test") == 7  # 2.4 s and 1.2 s at 50 Hz
    whole = adapter.tokenizer.tokens(parts.test[slice(0, 6)]).values
    for number in range(7):
        part = crops.window("test", number).values
        assert torch.equal(part, whole[:, 6 * number : 6 * number + 12])
    generator = torch.Generator().manual_seed(0)
    rows = np.array([3, 3, 0])
    tokens = crops.random(rows, generator)
    assert tokens.values.shape == (3, 12, 30)
    assert not torch.equal(tokens.values[0], tokens.values[1])
    inside = parts.train[slice(3, 4)][0, 0]
    piece = tokens.values[0, :, :10].flatten()
    starts = [s for s in range(381) if torch.equal(inside[s : s + 120], piece)]
    assert len(starts) == 1


def test_short_records_are_padded_to_a_crop(records: ECGRecords) -> None:
    shorter = replace(records, length=np.where(np.arange(96) == 90, 250, records.length))
    adapter = ECGAdapter(BASE, None, shorter)
    task = task_labels(shorter, "labels")
    assert task is not None
    parts = Parts.of(adapter.source, task)
    assert parts.test.samples == 200
    row = int(np.flatnonzero(parts.test.rows == 90)[0])
    tokens = tokens_of(adapter.tokenizer, parts.test[slice(0, 24)])
    assert tokens.valid is not None
    assert tokens.valid[row].tolist() == [True] * 13 + [False] * 7  # 2.5 s of 4 s


def test_attentive_pool_by_a_loop() -> None:
    torch.manual_seed(0)
    head = AttentivePool(8, 2)
    x = torch.randn(3, 5, 8)
    found = head(x)
    q = head.query[0, 0] @ head.q.weight.T
    for row in range(3):
        k, v = (x[row] @ part.T for part in head.kv.weight.chunk(2))
        parts = []
        for one in (slice(0, 4), slice(4, 8)):
            weight = (k[:, one] @ q[one] / 2.0).softmax(0)
            parts.append(weight @ v[:, one])
        torch.testing.assert_close(found[row], torch.cat(parts), atol=1e-5, rtol=1e-4)
    assert not any(name.endswith("bias") for name, _ in head.named_parameters())
    torch.testing.assert_close(head.attention(x).sum(-1), torch.ones(3, 2))


@pytest.mark.parametrize("finetune", [False, True])
def test_heads_learn_and_leave_the_encoder_alone(
    adapter: ECGAdapter, encoders: dict[str, list[torch.nn.Module]], finetune: bool
) -> None:
    parts, crops = cropped(adapter)
    model = encoders["encoder"][0]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    recipe = HeadRecipe(
        finetune=finetune, steps=60, batch_size=24, lr=1e-2, lr_end=1e-4, check_every=20
    )
    y, valid = parts.labels("train"), parts.labels("valid")
    scores, chosen, trained = fit_head(model, crops, y, valid, recipe, heads=2)
    again, _, _ = fit_head(model, crops, y, valid, recipe, heads=2)
    assert np.array_equal(scores, again) and scores.shape == (24, len(RHYTHMS))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    moved = any(
        not torch.equal(v, before[k])
        for k, v in trained.encoder.state_dict().items()  # type: ignore[union-attr, operator]
    )
    assert moved == finetune
    held = predict(trained, crops, "valid", single=False)
    assert chosen["step"] in (20, 40, 60)
    assert chosen["valid"] == pytest.approx(macro_auc(valid, held))
    assert not finetune or macro_auc(parts.labels("test"), scores) > 0.6


def test_fine_tuning_goes_on_from_the_probe(
    adapter: ECGAdapter, encoders: dict[str, list[torch.nn.Module]]
) -> None:
    """At step 0 the scores are those of logistic regression on features averaged over crops."""
    parts, crops = cropped(adapter)
    model = encoders["encoder"][0]
    y, valid, truth = map(parts.labels, ("train", "valid", "test"))
    start = HeadRecipe(finetune=True, steps=0, pooling="all_hidden_mean_std_max")
    scores, chosen, _ = fit_head(model, crops, y, valid, start, heads=2)

    def averaged(part: str) -> Any:
        windows = [crops.window(part, n) for n in range(crops.num_windows(part))]
        made = [encode(model.eval(), tokens, (start.pooling,)) for tokens in windows]
        return torch.stack([pool(one, start.pooling) for one in made]).mean(0).detach().numpy()

    x, v, t = map(averaged, ("train", "valid", "test"))
    (held, expected), _ = linear_multilabel(x, y, [v, t], valid)
    assert chosen == {"step": 0.0, "valid": pytest.approx(macro_auc(valid, held))}
    assert scores == pytest.approx(expected, abs=1e-3)

    learning = replace(start, steps=40, batch_size=24, lr=1e-3, check_every=40)
    _, found, trained = fit_head(model, crops, y, valid, learning, heads=2)
    assert found["valid"] >= chosen["valid"]
    assert macro_auc(truth, predict(trained, crops, "test", single=False)) > 0.6


def test_time_behind_the_end_of_a_record_counts_for_nothing(records: ECGRecords) -> None:
    """A record of 3 s among 6 s: its crops lie inside, its empty windows are not averaged."""
    short = replace(records, length=np.where(np.arange(96) % 3 == 0, 300, records.length))
    adapter = ECGAdapter(changed(BASE, {"data.crop": 6.0}), None, short)
    parts, crops = cropped(adapter)  # 2 s each, 5 windows
    assert parts.train.samples == 300 and crops.num_windows("valid") == 5
    rows = np.flatnonzero(parts.valid.rows % 3 == 0)
    ended = crops.window("valid", 4).valid
    assert ended is not None and not ended[rows].any()
    model = untrained(BASE, adapter, 0).eval()

    def pooled(tokens: Any) -> torch.Tensor:
        return pool(model(tokens), "mean_std_max", tokens.valid)

    found = over_crops(pooled, crops, "valid", torch.device("cpu"))
    assert found.isfinite().all()
    parts_of = torch.stack([pooled(crops.window("valid", n))[rows] for n in range(2)])
    last = crops.window("valid", 2)
    assert last.valid is not None and not last.valid[rows].all()  # 2 s to 4 s of 3 s
    third = pooled(last)[rows]
    expected = ((parts_of.sum(0) + third) / 3).double()
    torch.testing.assert_close(found[rows], expected.detach(), atol=1e-5, rtol=1e-4)
    drawn = crops.random(np.arange(len(parts.train)), torch.Generator().manual_seed(0))
    assert drawn.valid is None or drawn.valid.all()


def test_aami_classes() -> None:
    assert beat.aami(list("NLReAV/~+F")).tolist() == [*"NNNNSVQ", "", "", "F"]


def test_timing_of_beats() -> None:
    sample = np.array([0, 100, 200, 250, 400, 500])
    found = beat.rr_features(sample, local=100)
    gap = np.diff(sample)
    assert found[3] == pytest.approx([50 / gap.mean(), 150 / gap.mean()])
    four = rhythm.timing_features(np.array([0, 100, 200, 300, 500]), 100.0)
    assert four == pytest.approx([1.25, np.std([1, 1, 1, 2]) / 1.25, (1 / 3) ** 0.5 / 1.25, 1 / 3])
    assert (rhythm.timing_features(np.array([0, 100, 200]), 100.0) == 0).all()


def test_fibrillation_between_marks() -> None:
    notes = Annotations(
        np.array([5, 10, 12, 30, 40]),
        np.array(["N", "+", "N", "+", "+"]),
        np.array(["", "(AFIB", "", "(N", "(AFL"]),
    )
    found = rhythm.fibrillating(notes, 50)
    assert np.flatnonzero(found).tolist() == [*range(10, 30), *range(40, 50)]
    beats = Annotations(np.array([5, 12]), np.array(["N", "N"]), np.array(["", ""]))
    assert not rhythm.fibrillating(beats, 50).any()  # beats without a rhythm mark


def holter_records(folds: list[int]) -> ECGRecords:
    """Synthetic one-lead records of 20 s with bigeminy."""
    made = synthetic_ecg(24, fs=100.0, seconds=20.0, seed=1)
    rows = [4, 10, 16, 22][: len(folds)]
    one = memory_records(made.signals[rows][:, :, 1:2], 100.0, ("MLII",), 1000.0)
    return replace(one, fold=np.array(folds))


def annotated(monkeypatch: pytest.MonkeyPatch, one: ECGRecords) -> None:
    made = synthetic_ecg(24, fs=100.0, seconds=20.0, seed=1)

    def annotations(self: ECGRecords, row: int) -> Annotations:
        sample = np.flatnonzero(made.beat[[4, 10, 16, 22][row]])
        gap = np.diff(sample, prepend=0)
        symbol = np.where(gap < np.median(gap), "V", "N")  # the early beats of the bigeminy
        aux = np.full(len(sample), "", dtype="<U5")
        aux[[0, len(aux) // 2]] = ["(AFIB", "(N"]
        return Annotations(sample, symbol, aux)

    monkeypatch.setattr(ECGRecords, "annotations", annotations)
    for module in (beat, rhythm):
        monkeypatch.setattr(module, "open_records", lambda path: one)


def test_beats_and_rhythm(
    adapter: ECGAdapter,
    encoders: dict[str, list[torch.nn.Module]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(beat, "BAR_KERNELS", 12)
    monkeypatch.setattr(rhythm, "BAR_KERNELS", 12)
    one = replace(holter_records([1, 1, 2, 2]), ann_length=np.full(4, 9))
    annotated(monkeypatch, one)
    found = beat.score_beats(adapter, encoders, "holter.h5")
    for arm in ("encoder", "untrained", "raw", "bar", "rr", "encoder+rr", "bar+rr"):
        assert 0 <= found[f"{arm}/beats/auroc"] <= 1
        assert 0 <= found[f"{arm}/beats/macro_f1"] <= 1
    assert found["rr/beats/auroc"] > 0.9  # the labels were made from the timing
    assert found["data/beats_train"] > 20 and found["data/beats_test"] > 20
    also = rhythm.score_rhythm(adapter, encoders, "holter.h5")
    assert also["data/rhythm_windows"] == 20 and also["data/rhythm_records"] == 4
    assert {"encoder/rhythm/auroc", "rr/rhythm/auroc", "bar/rhythm/auroc"} <= set(also)
    alone = one.select([0, 1])
    monkeypatch.setattr(beat, "open_records", lambda path: alone)
    with pytest.raises(ValueError, match=r"both DS1 and DS2 \(folds 1 and 2\)"):
        beat.score_beats(adapter, encoders, "holter.h5")


def test_scored_recordings_are_never_learnt_from() -> None:
    """Labels that are a function of the recording cannot be learnt from other recordings."""
    generator = np.random.default_rng(0)
    group = np.repeat(np.arange(6), 30)
    label = generator.integers(0, 2, 180)
    x = generator.normal(size=(180, 6)) * 0.1 + 5 * np.eye(6)[group]
    scores = holter.grouped_scores({"x": [x]}, label, group)["x"][0]
    assert abs(roc_auc_score(label, scores) - 0.5) < 0.2
    train = group < 3
    good = np.c_[x, label + 0.1 * generator.normal(size=180)]
    held = holter.grouped_scores({"x": [good]}, label, group, train)["x"][0]
    assert len(held) == 90 and roc_auc_score(label[~train], held) > 0.95


def test_spans_and_hidden_times() -> None:
    hidden = torch.tensor([True, True, False, True, False, False, True])
    assert trace.spans(hidden) == [(0, 2), (3, 4), (6, 7)]
    context = torch.tensor([[[0, 2, 5, 7]]])  # two leads of 5 times: 0 and 2 are seen in both
    masks = Masks(context, torch.zeros(1, 1, 1, dtype=torch.long))
    assert picture.hidden_time(masks, 5)[0].tolist() == [False, True, False, True, True]


def test_thinned_lines_keep_their_peaks() -> None:
    values = np.zeros(5000)
    values[[17, 2501]] = [3.0, -4.0]
    time, drawn = trace.thinned(np.arange(5000.0), values)
    assert len(drawn) <= trace.MOST_POINTS and drawn.max() == 3.0 and drawn.min() == -4.0
    assert (np.diff(time) >= 0).all() and 17.0 in time


def test_pictures(
    adapter: ECGAdapter, encoders: dict[str, list[torch.nn.Module]], metrics: dict[str, float]
) -> None:
    found = adapter.pictures(encoders)
    assert list(found) == ["masks", "attention", "neighbours", "roc"]
    for one in found.values():
        assert one.title and len(one.caption) > 40 and not isinstance(one.image, bytes)
        one.image.canvas.draw()
    without: Any = ECGAdapter(changed(BASE, {"encoder.mixer": "s4"}), None, adapter.source.records)
    made = {name: [untrained(without.config, without, 0)] for name in ("encoder", "untrained")}
    assert list(without.pictures(made)) == ["masks", "neighbours"]
