"""Bars, raw columns and the evaluator of tables, against formulas and on a tiny table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rtdl_num_embeddings as rtdl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from jepa_modalities.adapters.base import build_jepa
from jepa_modalities.adapters.tabular.adapter import TabularAdapter
from jepa_modalities.adapters.tabular.bar import (
    choose,
    fit_nystroem,
    fit_trees,
    one_hot,
    piecewise_map,
    piecewise_maps,
    raw_map,
)
from jepa_modalities.adapters.tabular.bin import bin_edges, piecewise_linear
from jepa_modalities.adapters.tabular.config import TabularConfig
from jepa_modalities.adapters.tabular.picture import mask_map, plane, table_pictures
from jepa_modalities.adapters.tabular.preprocess import TableArrays
from jepa_modalities.config import EncoderConfig, EvaluateConfig, MaskConfig, PredictorConfig
from jepa_modalities.core.masking import Masks
from jepa_modalities.data.table import Table
from jepa_modalities.settings import changed
from jepa_modalities.train.engine import untrained

pd = pytest.importorskip("pandas")

NUMBERS = np.array([[0.0, 1.0], [2.0, np.nan], [4.0, 3.0]], np.float32)
ARRAYS = TableArrays(NUMBERS, np.array([[2], [0], [3]], np.int64))


def test_edges_are_quantiles() -> None:
    column = np.append(np.arange(101.0), np.nan)[:, None]
    found = bin_edges(column, 4)
    np.testing.assert_allclose(found[0], [0, 25, 50, 75, 100])
    values = np.random.default_rng(0).normal(size=(500, 3)).round(1)
    theirs = rtdl.compute_bins(torch.from_numpy(values), 16)
    for ours, other in zip(bin_edges(values, 16), theirs, strict=True):
        np.testing.assert_allclose(ours, other.numpy(), atol=1e-6)


@pytest.mark.parametrize("column", [[7.0] * 9, [np.nan] * 9, [1.0, np.nan]])
def test_edges_where_the_package_raises(column: list[float]) -> None:
    """Constant columns, only gaps, fewer rows than bins."""
    (edges,) = bin_edges(np.array(column)[:, None], 16)
    assert len(edges) == 2 and edges[0] < edges[1]


def test_piecewise_linear_by_hand() -> None:
    edges = [np.array([0.0, 1.0, 3.0])]
    column = np.array([[-1.0], [0.5], [2.0], [5.0], [np.nan]])
    found = piecewise_linear(column, edges)
    expected = [[-1.0, 0.0], [0.5, 0.0], [1.0, 0.5], [1.0, 2.0], [0.0, 0.0]]
    np.testing.assert_allclose(found, expected)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=5, max_size=40), st.integers(2, 8))
def test_piecewise_linear_keeps_the_number(column: list[float], bins: int) -> None:
    """The code's weighted sum is the number itself: nothing is lost."""
    values = np.array(column)[:, None]
    (edges,) = bin_edges(values, bins)
    code = piecewise_linear(values, [edges]).astype(np.float64)
    # Shares are float32: an error of 1e-6 of a bin's width.
    again = edges[0] + code @ np.diff(edges)
    np.testing.assert_allclose(again, values[:, 0], atol=1e-6 * (1 + np.ptp(values)))


def test_maps_by_hand() -> None:
    np.testing.assert_array_equal(one_hot(ARRAYS, (4,)), [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    raw = raw_map(ARRAYS, (4,))(ARRAYS)
    # Two numbers, the gaps of the second column, four codes.
    np.testing.assert_array_equal(raw[1], [2, 0, 1, 1, 0, 0, 0])
    codes = piecewise_map(ARRAYS, (4,), bins=2)(ARRAYS)
    # Edges 0, 2, 4 and 1, 2, 3.
    np.testing.assert_array_equal(codes[1], [1, 0, 0, 0, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(codes[2], [1, 1, 1, 1, 0, 0, 0, 0, 1])


def test_nystroem_approximates_its_kernel() -> None:
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    map_ = fit_nystroem(x, 60, gamma=1.0)(x)
    scale = 1 / (2 * x.var(axis=0).sum())
    distance = ((x[:, None] - x[None]) ** 2).sum(-1)
    np.testing.assert_allclose(map_ @ map_.T, np.exp(-scale * distance), atol=2e-3)
    assert fit_nystroem(x, 16, 1.0)(x).shape == (60, 16)


def test_finer_bins_while_they_are_no_wider_than_asked() -> None:
    numbers = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    arrays = TableArrays(numbers, np.zeros((300, 1), np.int64))
    assert list(piecewise_maps(arrays, (3,), 2 * 64 + 3)) == [16, 32, 64]
    found = piecewise_maps(arrays, (3,), 2 * 64 + 2)
    assert list(found) == [16, 32]
    np.testing.assert_array_equal(found[32](arrays), piecewise_map(arrays, (3,), 32)(arrays))
    assert list(piecewise_maps(arrays, (3,), 1)) == [16]  # always
    few = TableArrays(numbers[:20], np.zeros((20, 1), np.int64))
    widths = [apply(few).shape[1] for apply in piecewise_maps(few, (3,), 1000).values()]
    assert widths == [35, 41]  # no more bins than rows allow


def test_tree_leaves_are_indicators() -> None:
    x = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    leaves = fit_trees(x, 128)(x)
    assert leaves.shape == (400, 128)  # 16 trees of 8 leaves
    np.testing.assert_array_equal(leaves.sum(axis=1), 16)
    assert fit_trees(x, 128, leaves=32)(x).sum() == 400 * 4


def test_the_better_candidate_is_chosen() -> None:
    source = np.random.default_rng(0)
    good, bad = source.normal(size=(80, 2)), source.normal(size=(80, 2))
    y = good[:, :1] * 3 + 0.1 * source.normal(size=(80, 1))
    parts = {name: (x[:60], x[60:]) for name, x in (("bad", bad), ("good", good))}
    name, errors = choose(parts, y[:60], y[60:])
    assert name == "good" and errors["good"] < 0.1 < errors["bad"]
    classes = np.eye(2)[(y[:, 0] > 0).astype(int)]
    assert choose(parts, classes[:60], classes[60:])[0] == "good"


def opened(task: str, **changes: object) -> TabularAdapter:
    source = np.random.default_rng(1)
    number = source.normal(size=(150, 3))
    frame = pd.DataFrame(number, columns=["a", "b", "c"]).assign(
        d=np.where(number[:, 0] > 0, "x", "y")
    )
    target: np.ndarray = number[:, 0] * 2 + number[:, 1]
    if task == "classification":
        target = np.where(target > 0, "up", "down")
    split = np.array(["train", "train", "train", "val", "test"])[np.arange(150) % 5]
    table = Table(frame, target, np.arange(150) % 11 == 0, split, task, ())
    config = TabularConfig(
        encoder=EncoderConfig(dim=8, depth=2, heads=2, position="learned"),
        predictor=PredictorConfig(width=8, depth=1),
        mask=MaskConfig("feature", context_scale=(0.2, 0.9), target_scale=(0.2, 0.5)),
        evaluate=EvaluateConfig(
            pooling="all_tokens", poolings=("all_tokens", "mean"), probes=("linear",), untrained=2
        ),
    )
    return TabularAdapter(changed(config, changes), table=table)


def networks(adapter: TabularAdapter) -> dict[str, list[nn.Module]]:
    jepa = build_jepa(adapter.config, adapter)
    others = [untrained(adapter.config, adapter, seed) for seed in range(2)]
    return {"encoder": [jepa.teacher], "student": [jepa.encoder], "untrained": others}


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_every_result_stands_beside_its_controls(task: str, tmp_path: Path) -> None:
    adapter = opened(task, **{"evaluate.fractions": (0.5,), "evaluate.draws": 2})
    found = adapter.evaluate(networks(adapter), tmp_path)
    probe, metric = ("linear", "accuracy") if task == "classification" else ("ridge", "rmse")
    arms = ["encoder", "student", "untrained", "raw", "bar", "nystroem", "trees"]
    for arm in [*arms, "encoder+bar", "untrained+bar"]:
        assert np.isfinite(found[f"{arm}/{probe}/{metric}"]), arm
        assert f"{arm}/{probe}_50pct/{metric}" in found
    for control in ("raw", "untrained", "bar", "nystroem", "trees"):
        assert f"paired/encoder-{control}/{probe}/{metric}_low" in found
    assert found["encoder/width"] == 2 * 4 * 8 and found["nystroem/width"] == 64
    assert found[f"untrained/{probe}/{metric}_seeds"] == 2
    second = "auc" if task == "classification" else "r2"
    assert found[f"encoder/{probe}/{second}"] <= 1
    # The target is a sum of two columns: raw columns must tell it.
    if task == "regression":
        assert found["raw/ridge/r2"] > 0.95
    else:
        assert found["raw/linear/auc"] > 0.9
    # Rows without a target are in no probe.
    missing = np.arange(150) % 11 == 0
    assert found["data/train_labels"] == (~missing & (np.arange(150) % 5 < 3)).sum()
    assert found["data/scored_rows"] == (~missing & (np.arange(150) % 5 == 4)).sum()


def test_validation_rows_are_scored_on_demand(tmp_path: Path) -> None:
    adapter = opened("regression", **{"data.score": "val", "evaluate.poolings": ("all_tokens",)})
    found = adapter.evaluate(networks(adapter), tmp_path)
    rows = np.arange(150)
    assert found["data/scored_rows"] == ((rows % 5 == 3) & (rows % 11 != 0)).sum()


def test_impossible_evaluations_are_told_before_training() -> None:
    with pytest.raises(ValueError, match=r"evaluate.untrained = 0"):
        opened("regression", **{"evaluate.untrained": 0})
    with pytest.raises(ValueError, match=r"evaluate.poolings: 'median'"):
        opened("regression", **{"evaluate.poolings": ("median",)})
    adapter = opened("classification")
    few = replace(adapter.table, missing=np.arange(150) != 3)
    with pytest.raises(ValueError, match="rows of the split 'train' have a target"):
        TabularAdapter(adapter.config, table=few)


def test_no_target_no_probe(tmp_path: Path) -> None:
    adapter = opened("regression")
    blind = replace(adapter.table, target=None, task="")
    again = TabularAdapter(adapter.config, table=blind)
    assert again.evaluate(networks(again), tmp_path) == {}
    assert again.monitor()[1] is None


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_pictures_are_drawn(task: str) -> None:
    adapter = opened(task)
    pictures = table_pictures(adapter, networks(adapter))
    assert list(pictures) == ["masks", "rows", "attention"]
    for picture in pictures.values():
        picture.image.canvas.draw()


def test_mask_map_by_hand() -> None:
    masks = Masks(torch.tensor([[[0, 3]]]), torch.tensor([[[1, 2], [2, 4]]]))
    # Seen 1, in one target 2, in both 3, neither 0.
    assert mask_map(masks, 6).tolist() == [[1, 2, 3, 1, 2, 0]]


def test_plane_is_the_principal_plane() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(50, 2)
    found = plane(torch.cat([hidden @ torch.randn(2, 6), torch.ones(50, 1)], 1))
    np.testing.assert_allclose(found.std(axis=0), 1, rtol=1e-6)
    assert abs(np.corrcoef(found.T)[0, 1]) < 1e-6
