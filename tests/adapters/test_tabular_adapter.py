"""The table adapter keeps the contract in every configuration; tokens and objectives by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jepa_modalities.adapters.base import build_jepa
from jepa_modalities.adapters.tabular.adapter import TabularAdapter
from jepa_modalities.adapters.tabular.bin import REACH
from jepa_modalities.adapters.tabular.config import TableData, TabularConfig, TokenConfig
from jepa_modalities.adapters.tabular.embedding import FeatureEmbedding, within_reach
from jepa_modalities.adapters.tabular.model import TabularModality
from jepa_modalities.adapters.tabular.objective import Detection, Reconstruction, replaced
from jepa_modalities.adapters.tabular.preprocess import TableArrays, TablePreprocess
from jepa_modalities.adapters.tabular.target import BinTarget, KernelTarget
from jepa_modalities.adapters.tabular.tokenizer import TableTokenizer, pack
from jepa_modalities.config import (
    EncoderConfig,
    EvaluateConfig,
    LossConfig,
    MaskConfig,
    PredictorConfig,
)
from jepa_modalities.core.batch import Batch, Tokens
from jepa_modalities.core.draw import Draw
from jepa_modalities.core.jepa import JEPAOutput
from jepa_modalities.core.masking import Masks
from jepa_modalities.core.positions import grid_positions
from jepa_modalities.data.table import Table
from jepa_modalities.export.encoder import load_encoder, save_encoder
from jepa_modalities.settings import changed
from jepa_modalities.testing import check_adapter

pd = pytest.importorskip("pandas")

BASE = TabularConfig(
    encoder=EncoderConfig(
        dim=16, depth=2, heads=2, position="learned", position_scale=50.0, init="uniform"
    ),
    predictor=PredictorConfig(width=16, depth=1, position="learned", sees_prefix=False),
    mask=MaskConfig("feature", num_targets=1, context_scale=(0.2, 0.9), target_scale=(0.2, 0.5)),
    loss=LossConfig(prediction="mse"),
    evaluate=EvaluateConfig(enabled=False),
)
CHANGES: dict[str, dict[str, object]] = {
    "base": {"target.layers": 2, "encoder.activation": "relu"},
    "paper": {
        "encoder.norm": "post",
        "encoder.num_prefix": 3,
        "mask.num_targets": 4,
        "target.layer_norm": False,
    },
    "register_seen": {"encoder.num_prefix": 1, "predictor.sees_prefix": True, "tokens.kind": True},
    "piecewise_tokens": {"tokens.numeric": "ple"},
    "periodic_tokens": {"tokens.numeric": "periodic"},
    "detection_alone": {"objective.detection": 1.0, "mask.kind": "none"},
    "reconstruction_alone": {"objective.reconstruction": 1.0, "loss.weight": 0.0},
    "bins": {"target.kind": "ple"},
    "all": {
        "target.kind": "nystroem",
        "target.dim": 8,
        "target.handover": (0.0, 0.5),
        "objective.detection": 0.5,
        "objective.reconstruction": 0.5,
        "regulariser.kind": "vicreg",
        "regulariser.source": "context",
        "regulariser.widths": (),
    },
    "sigreg": {
        "regulariser.kind": "sigreg",
        "regulariser.coefficients": (0.0, 1.0),
        "regulariser.widths": (),
    },
}


def frame(rows: int = 60) -> pd.DataFrame:
    source = np.random.default_rng(0)
    number = source.normal(size=(rows, 4))
    number[:, 1] += number[:, 0]
    number[source.random(rows) < 0.2, 2] = np.nan
    table = pd.DataFrame(number, columns=["a", "b", "c", "d"])
    table["letter"] = np.where(number[:, 0] > 0, "p", "q")
    table["level"] = source.integers(0, 5, rows).astype(str)
    return table


def table(features: pd.DataFrame, target: np.ndarray | None = None, task: str = "") -> Table:
    rows = len(features)
    split = np.where(np.arange(rows) % 5 == 0, "test", "train").astype("<U5")
    split[1::5] = "val"
    return Table(features, target, np.zeros(rows, dtype=bool), split, task, ())


def adapter(features: pd.DataFrame | None = None, **changes: object) -> TabularAdapter:
    config = changed(BASE, {name.replace("__", "."): value for name, value in changes.items()})
    return TabularAdapter(config, table=table(frame() if features is None else features))


@pytest.mark.parametrize("name", CHANGES)
def test_keeps_the_contract(name: str) -> None:
    check_adapter(TabularAdapter(changed(BASE, CHANGES[name]), table=table(frame())))


@pytest.mark.parametrize(
    "columns", [["a", "b"], ["letter", "level"], ["a", "letter"], ["c", "d", "constant"]], ids=str
)
def test_small_tables(columns: list[str]) -> None:
    """Two features, only numeric, only categorical, a constant column."""
    features = frame().assign(constant=1.0)[columns]
    opened = adapter(features, objective__detection=0.5, objective__reconstruction=0.5)
    assert opened.geometry.num_tokens == 2
    check_adapter(opened)


def test_one_feature_cannot_be_masked() -> None:
    with pytest.raises(ValueError, match=r"1 feature\(s\) that vary"):
        adapter(frame()[["a"]])


def test_only_training_rows_are_fitted_and_fed() -> None:
    features = frame()
    opened = adapter(features)
    train = np.flatnonzero(opened.table.split == "train")
    expected = TablePreprocess.fit(features.iloc[train])
    assert len(opened) == len(train) == 36
    assert torch.equal(opened.values, pack(expected.transform(features.iloc[train])))


def test_another_table_is_scored_with_the_encoders_scales_and_levels() -> None:
    features = frame()
    first = adapter(features)
    other = features.iloc[::-1].reset_index(drop=True)
    numbers = other.select_dtypes("number").columns
    other[numbers] = other[numbers] * 10 + 3
    opened = adapter(other)
    opened.adopt(first.tokenizer, build_jepa(first.config, first).encoder, first.config)
    train = other.iloc[np.flatnonzero(opened.table.split == "train")]
    assert torch.equal(opened.values, pack(first.preprocess.transform(train)))
    assert opened.config.shape == first.config.shape


def test_another_tables_controls_have_the_encoders_bins() -> None:
    few = frame(30)
    few["a"] = np.where(few["a"] > 0, 1.0, -1.0)
    changes: dict[str, object] = {"tokens__numeric": "ple", "tokens__bins": 128}
    first, opened = adapter(**changes), adapter(few, **changes)
    assert opened.config.shape.bins != first.config.shape.bins
    opened.adopt(first.tokenizer, build_jepa(first.config, first).encoder, first.config)
    assert opened.config.shape == first.config.shape
    for name, wanted in first.embedding().number.impl.named_buffers():
        found = opened.embedding().number.impl.get_buffer(name)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("edges", [[-1.0, -0.999, 0.0, 2.0], [-1.0, 2.0]])
def test_numbers_beyond_the_bins_stay_in_reach(edges: list[float]) -> None:
    bins = [torch.tensor(edges), torch.linspace(0, 1, 6)]
    layer = FeatureEmbedding(2, (), 8, TokenConfig("ple"), bins)
    for found, wanted in zip(layer.edges, bins, strict=True):
        torch.testing.assert_close(found, wanted)
    values = torch.zeros(5, 2, 2)
    values[:, 0, 0] = torch.tensor([edges[0], edges[-1], -50.0, 50.0, float("nan")])
    x = values[:4, :, 0]
    inside = within_reach(x, layer.number.impl)
    low = edges[0] - REACH * (edges[1] - edges[0])
    high = edges[-1] + REACH * (edges[-1] - edges[-2])
    expected = torch.tensor([edges[0], edges[-1], low, high])
    torch.testing.assert_close(inside[:, 0], expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(inside[:, 1], x[:, 1])
    assert torch.isnan(layer(values)[4, 0]).all()  # what is no number is not hidden


def test_shape_is_filled_from_the_data() -> None:
    opened = adapter(tokens__numeric="ple", tokens__bins=4)
    assert opened.config.shape.numeric == 4
    assert opened.config.shape.cardinalities == (4, 7)
    assert opened.config.shape.bins == (4, 4, 4, 4)


def test_tokens_and_targets_have_bins_of_their_own() -> None:
    changes: dict[str, object] = {"tokens__numeric": "ple", "target__kind": "ple"}
    opened = adapter(tokens__bins=4, objective__bins=8, objective__reconstruction=1.0, **changes)
    assert opened.config.shape.bins == (4, 4, 4, 4)
    assert opened.embedding().number.linear.weight.shape == (4, 4, opened.config.encoder.dim)
    found = opened.target()
    assert found is not None and found[1] == 8
    (term,) = opened.terms()
    assert term.bins == 8


def test_reconstruction_takes_as_many_bins_as_are_asked_for() -> None:
    opened = adapter(frame(400), objective__bins=100, objective__reconstruction=1.0)
    (term,) = opened.terms()
    every = opened.values
    features = torch.arange(every.shape[1]).expand(every.shape[:2])
    labels = term.labels(every, features)
    assert 64 < int(labels.max()) < term.head.out_features


def test_a_column_of_two_values_gets_one_bin_without_a_warning(
    recwarn: pytest.WarningsRecorder,
) -> None:
    frame = pd.DataFrame({"two": [0.0, 1.0] * 50, "many": np.arange(100.0)})
    opened = adapter(frame, tokens__numeric="ple", tokens__bins=128)
    assert opened.config.shape.bins[0] == 1 < opened.config.shape.bins[1] < 60  # training rows
    x = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[1e6, 0.0], [1e6, 0.0]]])
    assert torch.isfinite(opened.embedding()(x)).all()
    assert not [w for w in recwarn if "bin" in str(w.message)]


def test_pack_by_hand() -> None:
    arrays = TableArrays(
        np.array([[1.5, np.nan], [np.nan, -2.0]], np.float32), np.array([[3], [1]], np.int64)
    )
    assert pack(arrays).tolist() == [
        [[1.5, 0.0], [0.0, 1.0], [3.0, 0.0]],
        [[0.0, 1.0], [-2.0, 0.0], [1.0, 0.0]],
    ]


def test_embedding_by_hand() -> None:
    torch.manual_seed(0)
    layer = FeatureEmbedding(2, (4, 3), 5, TokenConfig(kind=True))
    torch.nn.init.normal_(layer.missing)
    torch.nn.init.normal_(layer.kind)
    values = torch.tensor([[[1.5, 0.0], [0.0, 1.0], [3.0, 0.0], [2.0, 0.0]]])
    found = layer(values)[0]
    torch.testing.assert_close(found[0], 1.5 * layer.number.weight[0] + layer.kind[0])
    torch.testing.assert_close(found[1], layer.missing[1] + layer.kind[0])
    torch.testing.assert_close(found[2], layer.level[3] + layer.kind[1])
    torch.testing.assert_close(found[3], layer.level[4 + 2] + layer.kind[1])
    # "Unknown" starts at zero; codes outside the table never leave their feature's rows.
    assert not layer.level[0].any() and not layer.level[4].any()
    wild = torch.tensor([[[0.0, 0.0], [0.0, 0.0], [99.0, 0.0], [-7.0, 0.0]]])
    torch.testing.assert_close(layer(wild)[0, 2], layer.level[3] + layer.kind[1])
    torch.testing.assert_close(layer(wild)[0, 3], layer.level[4] + layer.kind[1])


def test_permuting_columns_and_weights_together_changes_nothing() -> None:
    opened = adapter(frame()[["a", "b", "c", "d"]])
    encoder = build_jepa(opened.config, opened).encoder.eval()
    values, order = opened.values[:6], torch.tensor([2, 0, 3, 1])
    before = encoder(Tokens(values, grid_positions(4))).tokens
    with torch.no_grad():
        for parameter in (encoder.embed.number.weight, encoder.embed.missing):
            parameter.copy_(parameter[order])
        encoder.position.table.copy_(encoder.position.table[order])
    after = encoder(Tokens(values[:, order], grid_positions(4))).tokens
    torch.testing.assert_close(after, before[:, order])


def test_register_tokens_are_outside_the_masks_and_the_output() -> None:
    opened = adapter(encoder__num_prefix=2)
    jepa = build_jepa(opened.config, opened)
    tokens, _ = opened.monitor()
    latents = jepa.encoder(tokens)
    assert latents.tokens.shape[1] == opened.geometry.num_tokens == 6
    assert latents.prefix is not None and latents.prefix.shape[1] == 2
    # Always visible: they change what the other tokens become, in both encoders.
    for encoder in (jepa.encoder, jepa.teacher):
        before = encoder(tokens).tokens
        with torch.no_grad():
            encoder.prefix.add_(torch.randn_like(encoder.prefix))
        assert not torch.allclose(before, encoder(tokens).tokens)


def test_replaced_values_come_from_their_own_column() -> None:
    columns = torch.arange(12.0).view(3, 4, 1).expand(3, 4, 2)  # row r, column c: 4 r + c
    rows = columns[[0, 1, 2] * 200]
    draw = Draw.of_step(0, 1, len(rows), 0, len(rows))
    found = replaced(rows, columns, draw, 0.3)
    assert torch.equal(found % 4, rows % 4)  # the column stays
    share = (found != rows).any(-1).float().mean()
    # A third of the draws hits the row's own value: 0.3 * 2 / 3.
    assert float(share) == pytest.approx(0.2, abs=0.03)
    counts = torch.bincount((found[..., 0] // 4).flatten().long(), minlength=3)
    assert counts.float().std() / counts.float().mean() < 0.05


def test_detection_by_hand() -> None:
    torch.manual_seed(0)
    term = Detection(3, 2)
    torch.nn.init.normal_(term.threshold)
    latents = torch.randn(1, 4, 2, 3)
    first, second = torch.zeros(4, 2, 2), torch.zeros(4, 2, 2)
    second[0, 0, 0] = 1.0
    second[3, 1, 1] = 1.0  # a gap counts as another value
    place = grid_positions(2)
    batch = Batch(Tokens(first, place), Tokens(first, place), (Tokens(second, place),))
    found = term(JEPAOutput(views=latents), batch, lambda x: x)
    total = 0.0
    for row in range(4):
        for feature in range(2):
            weight, threshold = term.head.weight[0].detach(), term.threshold[feature].detach()
            logit = float(latents[0, row, feature] @ weight + threshold)
            chance = 1 / (1 + np.exp(-logit))
            changed_here = (row, feature) in ((0, 0), (3, 1))
            total -= np.log(chance if changed_here else 1 - chance)
    assert found.item() == pytest.approx(total / 8, rel=1e-5)


def test_reconstruction_labels_and_loss_by_hand() -> None:
    torch.manual_seed(0)
    edges = [torch.tensor([-1.0, 0.0, 2.0, 3.0]), torch.tensor([-0.5, 0.5])]
    term = Reconstruction(4, edges, (5,))
    features = torch.tensor([0, 0, 0, 0, 1, 2, 0])
    values = torch.tensor([[-9.0, 0], [0.5, 0], [2.5, 0], [9.0, 0], [3.0, 0], [4.0, 0], [0.0, 1]])
    # Bins 0..2 of feature 0, the only bin of feature 1, code 4, and the class of gaps after 3 bins.
    assert term.labels(values, features).tolist() == [0, 1, 2, 2, 0, 4, 3]
    assert term.classes == 5
    rows = torch.stack([values[[1, 4, 5]], values[[2, 4, 5]]])
    targets = torch.tensor([[[0, 2]], [[2, 1]]])
    predicted = torch.randn(2, 1, 2, 4)
    place = grid_positions(3)
    batch = Batch(Tokens(rows, place), Tokens(rows, place))
    output = JEPAOutput(predicted=predicted, masks=Masks(torch.tensor([[[1]], [[0]]]), targets))
    expected = []
    for row, labels in enumerate(([1, 4], [4, 0])):
        for at, label in enumerate(labels):
            logits = term.head(predicted[row, 0, at])
            expected.append(F.log_softmax(logits, 0)[label].item())
    found = term(output, batch, lambda x: x)
    assert found.item() == pytest.approx(-np.mean(expected), rel=1e-5)


def test_bin_target_by_hand() -> None:
    target = BinTarget([torch.tensor([0.0, 1.0, 3.0])], (3, 9), 4)
    values = torch.tensor(
        [[[2.0, 0.0], [2.0, 0.0], [8.0, 0.0]], [[0.0, 1.0], [0.0, 0.0], [1.0, 0]]]
    )
    found = target(values)
    assert found[0, 0].tolist() == [1.0, 0.5, 0.0, 0.0]
    assert found[0, 1].tolist() == [0.0, 0.0, 1.0, 0.0]
    assert found[1, 0].tolist() == [0.0, 0.0, 0.0, 0.0]  # a gap
    # Nine levels do not fit in four numbers: fixed unit vectors, all different.
    levels = torch.zeros(9, 3, 2)
    levels[:, 2, 0] = torch.arange(9.0)
    codes = target(levels)[:, 2]
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(9))
    assert torch.pdist(codes).min() > 1e-3


def test_kernel_target_equals_scikit_learn() -> None:
    from sklearn.kernel_approximation import Nystroem

    opened = adapter()
    codes = BinTarget(opened.edges, opened.config.shape.cardinalities, 16)
    target = KernelTarget(codes, opened.values, 10, seed=3)
    flat = codes(opened.values).flatten(1).numpy()
    expected = Nystroem(gamma=target.gamma, n_components=10, random_state=3).fit_transform(flat)
    expected = (expected - expected.mean(0)) / expected.std(0, ddof=1)
    found = target(opened.values)
    np.testing.assert_allclose(found[:, 0], expected, atol=2e-3)
    assert torch.equal(found[:, 0], found[:, -1])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss__weight": 0.0}, "nothing to learn from"),
        ({"mask__kind": "none"}, "nothing to learn from"),
        ({"objective__reconstruction": 1.0, "mask__kind": "none"}, "needs masks"),
        ({"objective__detection": 1.0, "objective__detection_rate": 0.0}, "detection_rate = 0.0"),
        ({"data__numeric": "sqrt"}, "data.numeric = 'sqrt'"),
        ({"encoder__stem": "conv"}, "encoder.stem"),
    ],
)
def test_impossible_choices_are_named(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        adapter(**changes)


@pytest.mark.parametrize("numeric", ["linear", "ple"])
def test_encoder_file_needs_no_data(numeric: str, tmp_path: Path) -> None:
    opened = adapter(tokens__numeric=numeric, tokens__bins=5)
    encoder = build_jepa(opened.config, opened).encoder
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, encoder.state_dict(), opened.tokenizer.state_dict(), opened.config)
    loaded = load_encoder(path)
    features = frame()
    expected = encoder.eval()(opened.tokenizer(features)).tokens.flatten(1).detach()
    shuffled = features[features.columns[::-1]].assign(level="never seen")
    np.testing.assert_allclose(loaded.embed(features, "tokens"), expected, atol=1e-5)
    assert np.isfinite(loaded.embed(shuffled, "all_tokens")).all()
    features.assign(target=1).to_csv(tmp_path / "rows.csv", index=False)
    loaded.config = replace(loaded.config, data=TableData(target="target"))
    found = loaded.embed(tmp_path / "rows.csv", "tokens")
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_file_that_claims_too_many_bins_is_refused(tmp_path: Path) -> None:
    opened = adapter(tokens__numeric="ple", tokens__bins=5)
    states = build_jepa(opened.config, opened).encoder.state_dict(), opened.tokenizer.state_dict()
    claim = replace(opened.config, shape=replace(opened.config.shape, bins=(10_000,) * 4))
    save_encoder(tmp_path / "encoder.safetensors", *states, claim)
    with pytest.raises(ValueError, match="first layer has more numbers by the settings"):
        load_encoder(tmp_path / "encoder.safetensors")


def test_blank_tokenizer_says_so() -> None:
    with pytest.raises(ValueError, match="holds no preprocessing"):
        TableTokenizer()(frame())


def test_read_leaves_out_what_is_no_feature() -> None:
    config = replace(BASE, data=TableData(target="y", split="part", drop=("id",)))
    found = TabularModality.read(config, frame().assign(y=1, part="train", id=0))
    assert list(found.columns) == list(frame().columns)
