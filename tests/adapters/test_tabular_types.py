"""A column means the same in every file, block and row that it comes in."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jepa_modalities import api
from jepa_modalities.adapters.tabular.preprocess import TablePreprocess
from jepa_modalities.adapters.tabular.remarks import columns_in_words
from jepa_modalities.cli import main as command
from jepa_modalities.data.table import open_table
from jepa_modalities.train.checkpoint import CheckpointError

TINY = {
    "train.steps": 2,
    "train.batch_size": 16,
    "encoder.dim": 8,
    "encoder.heads": 1,
    "encoder.depth": 1,
    "predictor.width": 8,
    "predictor.heads": 1,
    "target.layers": 1,
    "evaluate.untrained": 1,
}


def pretrained(path: Path, out: Path, **more: Any) -> api.Run:
    return api.pretrain("tabular", out, settings={**TINY, "data.path": str(path), **more})


def test_text_that_looks_like_numbers_is_one_category_in_any_part_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pd.DataFrame({"zip": ["01067", "02000"] * 15 + ["A-10"] * 10, "x": np.arange(40.0) % 7})
    path = tmp_path / "t.csv"
    frame.to_csv(path, index=False)
    run = pretrained(path, tmp_path / "run")
    monkeypatch.setattr("jepa_modalities.cli.main.PART", 20)
    out = [tmp_path / "f.parquet", tmp_path / "f.npy"]
    for place in out:
        assert command.main(["embed", str(run.path), str(path), "--out", str(place)]) == 0
    whole = np.load(out[1])
    assert len(np.unique(whole[[0, 14]].round(6), axis=0)) == 1  # both 01067 and 0.0
    assert len(np.unique(whole[[0, 7]].round(6), axis=0)) == 2
    np.testing.assert_allclose(pd.read_parquet(out[0]).to_numpy(), whole, atol=1e-6)
    frame[:5].to_csv(path, index=False)  # nothing but numbers
    np.testing.assert_allclose(run.encoder.embed(path), whole[:5], atol=1e-6)
    pd.concat([frame.assign(y=frame["zip"])[:30]] * 2).to_csv(path, index=False)
    found = api.evaluate(run.path, {"data.path": str(path), "data.target": "y"})
    assert found["encoder/linear/accuracy"] == 1.0  # the two levels are told apart


def test_long_numbers_named_as_categories_keep_their_digits(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    names = ["123456789012345678", "123456789012345679", ""]
    pd.DataFrame({"id": names * 10, "x": range(30)}).to_csv(path, index=False)
    table = open_table(str(path), categorical=["id"])
    process = TablePreprocess.fit(table.frame, categorical=["id"])
    assert process.columns[0].levels == tuple(names[:2])
    numbers = pd.DataFrame({"id": [int(names[1])], "x": [0]})
    assert process.transform(numbers).category[0, 0] == 3


def test_equal_values_of_other_types_are_other_categories_in_any_order() -> None:
    frame = pd.DataFrame({"k": pd.Series([1, "x", True] * 8, dtype=object), "x": range(24)})
    process = TablePreprocess.fit(frame)
    codes = process.transform(frame).category[:, 0]
    assert len(set(codes[:3])) == 3
    backwards = process.transform(frame.iloc[::-1]).category[::-1, 0]
    assert backwards.tolist() == codes.tolist()
    assert process.transform(frame.iloc[[2]]).category[0, 0] == codes[2]


def test_booleans_may_come_as_numbers() -> None:
    frame = pd.DataFrame({"b": [True, False, True] * 3, "x": range(9)})
    process = TablePreprocess.fit(frame)
    codes = process.transform(frame).category
    for kind in (int, float):
        given = process.transform(frame.assign(b=frame["b"].astype(kind))).category
        assert given.tolist() == codes.tolist()


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([[1], [2]] * 5),
        pd.Series([{"a": 1}, {"b": 2}] * 5),
        pd.Series([np.zeros(2), np.ones(2)] * 5),
    ],
)
def test_columns_of_lists_are_refused_by_name(column: Any) -> None:
    with pytest.raises(ValueError, match="column 'k' holds lists or the like"):
        TablePreprocess.fit(pd.DataFrame({"k": column, "x": range(10)}))


def test_arrow_lists_are_refused_by_name() -> None:
    arrow = pytest.importorskip("pyarrow")
    kind = pd.ArrowDtype(arrow.list_(arrow.int64()))
    column = pd.Series([[1], [2]] * 5, dtype=kind)
    with pytest.raises(ValueError, match="column 'k' holds lists or the like"):
        TablePreprocess.fit(pd.DataFrame({"k": column, "x": range(10)}))


def test_durations_of_any_library_are_numbers() -> None:
    arrow = pytest.importorskip("pyarrow")
    plain = pd.Series(pd.to_timedelta(range(10), unit="h"))
    process = TablePreprocess.fit(pd.DataFrame({"d": plain}))
    wanted = process.transform(pd.DataFrame({"d": plain})).numeric
    for other in (plain.astype(object), plain.astype(pd.ArrowDtype(arrow.duration("s")))):
        assert TablePreprocess.fit(pd.DataFrame({"d": other})).numeric_names == ("d",)
        np.testing.assert_array_equal(process.transform(pd.DataFrame({"d": other})).numeric, wanted)


def test_dates_are_iso_or_refused(tmp_path: Path) -> None:
    days = pd.date_range("2020-01-01", periods=40)
    path = tmp_path / "t.csv"
    pd.DataFrame({"d": days.strftime("%d/%m/%Y"), "x": range(40)}).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"'d' holds no dates: .*2024-01-31"):
        open_table(str(path), dates=["d"])
    process = TablePreprocess.fit(pd.DataFrame({"d": days}))
    wanted = process.transform(pd.DataFrame({"d": days})).numeric
    spelled = pd.DataFrame({"d": days.strftime("%Y-%m-%d")})
    np.testing.assert_array_equal(process.transform(spelled).numeric, wanted)
    for wrong in (days.strftime("%d/%m/%Y"), range(40)):
        with pytest.raises(ValueError, match="'d' held dates when fitted"):
            process.transform(pd.DataFrame({"d": wrong}))
    with pytest.raises(ValueError, match=r"data\.dates: column 'x' holds no dates: it holds num"):
        open_table(str(path), dates=["x"])


def test_complex_columns_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="Complex data not supported: column 'c'"):
        TablePreprocess.fit(pd.DataFrame({"c": [1j, 2j], "x": [1, 2]}))


def test_columns_named_like_parts_of_dates_are_refused() -> None:
    days = pd.date_range("2020-01-01", periods=9)
    with pytest.raises(ValueError, match="d:elapsed"):
        TablePreprocess.fit(pd.DataFrame({"d": days, "d:elapsed": range(9)}))


@pytest.mark.parametrize("scale", ["standard", "robust", "quantile"])
def test_far_values_stay_finite(scale: str) -> None:
    process = TablePreprocess.fit(pd.DataFrame({"x": np.arange(99.0)}), scale)
    far = process.transform(pd.DataFrame({"x": [1e40, -1e300]})).numeric[:, 0]
    assert np.isfinite(far).all() and np.isfinite(far**2).all() and far[0] > far[1]


def test_what_columns_are_taken_for_is_said() -> None:
    frame = pd.DataFrame(
        {
            "x": range(20),
            "same": 1,
            "number": ["0,5", "1,5", "?", "2,5", "3,5"] * 4,
            "day": ["2024-01-01", "2024-01-02"] * 10,
            "town": ["Ulm", "Bonn"] * 10,
        }
    )
    lines = columns_in_words(TablePreprocess.fit(frame), frame)
    assert lines[:3] == [
        "1 numbers: x",
        "3 categories: number (5), day (2), town (2)",
        "1 left out, all values equal: same",
    ]
    assert "80% of its values look like numbers" in lines[3] and "'number'" in lines[3]
    assert "'day'" in lines[4] and "data.dates" in lines[4] and len(lines) == 5
    assert len(columns_in_words(TablePreprocess.fit(frame), frame, ["number", "day"])) == 3


def test_names_and_splits_that_were_read_by_mistake_are_said() -> None:
    frame = pd.DataFrame({"Unnamed: 0": range(20), "part": ["train", "test"] * 10})
    lines = columns_in_words(TablePreprocess.fit(frame), frame)
    assert "'Unnamed: 0' has no name" in lines[2] and "data.drop" in lines[2]
    assert "'part' holds test, train" in lines[3] and "data.split" in lines[3] and len(lines) == 4
    headless = pd.DataFrame(np.arange(40.0).reshape(20, 2), columns=["-1.25", "3e-2"])
    lines = columns_in_words(TablePreprocess.fit(headless), headless)
    assert lines[1:] == [
        "note: the columns are named -1.25, 3e-2: if the file has no header, write one"
    ]
    counted = headless.set_axis(["0", "1"], axis=1)
    assert len(columns_in_words(TablePreprocess.fit(counted), counted)) == 1


def test_numbers_of_two_types_are_numbers() -> None:
    frame = pd.DataFrame({"x": [Decimal("0.5"), 1.5, np.int64(2), None] * 5}, dtype=object)
    process = TablePreprocess.fit(frame)
    assert process.numeric_names == ("x",)
    same = TablePreprocess.fit(pd.DataFrame({"x": [0.5, 1.5, 2.0, None] * 5}))
    np.testing.assert_array_equal(
        process.transform(frame).numeric, same.transform(frame.astype(float)).numeric
    )
    for other in (True, "2"):
        assert TablePreprocess.fit(pd.DataFrame({"x": [0.5, other] * 5})).category_names == ("x",)


def test_a_run_does_not_go_on_over_other_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    frame = pd.DataFrame({"a": np.arange(60.0), "b": np.arange(60.0) % 7})
    frame.to_csv(path, index=False)
    pretrained(path, tmp_path / "run")
    api.pretrain("tabular", tmp_path / "run", resume=True)
    for other in (frame[:50], frame.assign(b=frame["b"].mul(2).where(frame["b"] > 2))):
        other.to_csv(path, index=False)
        with pytest.raises(CheckpointError, match="was begun on other training data"):
            api.pretrain("tabular", tmp_path / "run", resume=True)
