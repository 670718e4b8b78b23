"""Preprocessing of tables: any dtypes, gaps, unseen levels, other orders; tensors and JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from jepa_modalities.adapters.tabular.column import as_frame, dates, key, kind_of
from jepa_modalities.adapters.tabular.preprocess import MISSING, UNKNOWN, TablePreprocess
from jepa_modalities.adapters.tabular.scale import apply_scale, fit_scale

pd = pytest.importorskip("pandas")


def mixed(rows: int = 40) -> pd.DataFrame:
    number = np.arange(rows, dtype=float)
    return pd.DataFrame(
        {
            "float": number**1.5,
            "int": np.arange(rows)[::-1],
            "gaps": np.where(number % 5 == 0, np.nan, number),
            "nullable": pd.array([None if i % 7 == 0 else i for i in range(rows)], dtype="Int64"),
            "object": pd.Series([float(i) if i % 3 else None for i in range(rows)], dtype=object),
            "text": ["a", "b", "b", "c"] * (rows // 4),
            "bool": [True, False] * (rows // 2),
            "maybe": pd.Series([True, None] * (rows // 2), dtype=object),
            "levels": pd.Categorical([3, 1, 2, 1] * (rows // 4)),
            "day": pd.date_range("2024-01-01", periods=rows, freq="31h"),
            "span": pd.to_timedelta(np.arange(rows), unit="h"),
            "constant": 1.0,
            "empty": np.nan,
        }
    )


def test_every_dtype_has_its_kind() -> None:
    frame = mixed()
    kinds = {name: kind_of(frame[name]) for name in frame}
    numeric = {"float", "int", "gaps", "nullable", "object", "span", "constant", "empty"}
    assert {name for name, kind in kinds.items() if kind == "numeric"} == numeric
    assert {name for name, kind in kinds.items() if kind == "date"} == {"day"}


def test_features_are_numeric_first_and_vary() -> None:
    fitted = TablePreprocess.fit(mixed())
    # A date has seven parts; all of them vary here.
    parts = ("elapsed", "year_sin", "year_cos", "week_sin", "week_cos", "day_sin", "day_cos")
    numbers = ["float", "int", "gaps", "nullable", "object", *(f"day:{p}" for p in parts), "span"]
    assert fitted.numeric_names == tuple(numbers)
    assert fitted.category_names == ("text", "bool", "maybe", "levels")
    # Two reserved codes, then the levels; "maybe" has the one level True.
    assert fitted.cardinalities == (5, 4, 3, 5)


def test_codes_follow_frequency_and_reserve_two() -> None:
    fitted = TablePreprocess.fit(mixed())
    frame = mixed().assign(text="new")
    frame.loc[1, "text"] = None
    found = fitted.transform(frame).category[:, 0]
    assert found[0] == UNKNOWN and found[1] == MISSING
    # "b" is the most frequent, then "a" and "c" by name.
    column = fitted.transform(mixed()).category[:4, 0]
    assert column.tolist() == [3, 2, 2, 4]


def test_gaps_become_nan_and_only_there() -> None:
    frame = mixed()
    found = TablePreprocess.fit(frame).transform(frame).numeric
    assert np.array_equal(np.isnan(found[:, 2]), np.arange(40) % 5 == 0)
    assert np.array_equal(np.isnan(found[:, 3]), np.arange(40) % 7 == 0)
    assert np.array_equal(np.isnan(found[:, 4]), np.arange(40) % 3 == 0)
    assert not np.isnan(found[:, [0, 1, *range(5, found.shape[1])]]).any()


def test_columns_are_matched_by_name() -> None:
    frame = mixed()
    fitted = TablePreprocess.fit(frame)
    first, second = fitted.transform(frame), fitted.transform(frame[frame.columns[::-1]])
    np.testing.assert_array_equal(first.numeric, second.numeric)
    np.testing.assert_array_equal(first.category, second.category)
    # Columns that did not vary may be left out.
    third = fitted.transform(frame.drop(columns=["constant", "empty"]))
    np.testing.assert_array_equal(first.numeric, third.numeric)


def test_missing_and_extra_columns_are_named() -> None:
    fitted = TablePreprocess.fit(mixed())
    with pytest.raises(ValueError, match=r"\['int'\] are missing and columns \['new'\] are unexp"):
        fitted.transform(mixed().drop(columns=["int"]).assign(new=1))


def test_what_a_column_cannot_hold_is_named() -> None:
    fitted = TablePreprocess.fit(mixed())
    with pytest.raises(ValueError, match="column 'float' was numeric when fitted; now: 'text' in"):
        fitted.transform(mixed().assign(float="text"))
    late = mixed().assign(float=["1.5", None, 2.5] * 5 + ["oops"] * 25)
    with pytest.raises(ValueError, match="now: 'oops' in row 115"):
        fitted.transform(late.set_axis(range(100, 140)))
    with pytest.raises(ValueError, match="column 'day' held dates when fitted"):
        fitted.transform(mixed().assign(day="no date"))
    with pytest.raises(ValueError, match="column 'float' holds 1 infinite values"):
        fitted.transform(mixed().assign(float=[np.inf, *range(39)]))


@pytest.mark.parametrize("numeric", ["quantile", "standard", "robust"])
def test_state_survives_a_file_without_pickle(numeric: str) -> None:
    frame = mixed()
    fitted = TablePreprocess.fit(frame, numeric)
    tensors, about = fitted.state()
    again = TablePreprocess.from_state(load(save(tensors)), json.loads(json.dumps(about)))
    first, second = fitted.transform(frame), again.transform(frame)
    np.testing.assert_array_equal(first.numeric, second.numeric)
    np.testing.assert_array_equal(first.category, second.category)
    assert again.feature_names == fitted.feature_names
    assert again.cardinalities == fitted.cardinalities


def test_arrays_are_matched_by_position() -> None:
    array = np.random.default_rng(0).normal(size=(30, 3))
    fitted = TablePreprocess.fit(array)
    assert fitted.feature_names == ("x0", "x1", "x2")
    named = pd.DataFrame(array, columns=["a", "b", "c"])
    expected = fitted.transform(array).numeric
    np.testing.assert_array_equal(fitted.transform(named).numeric, expected)
    np.testing.assert_array_equal(fitted.transform(torch.from_numpy(array)).numeric, expected)
    with pytest.raises(ValueError, match="X has 2 features, but 3 features are expected"):
        fitted.transform(array[:, :2])


def test_numbers_named_as_categories() -> None:
    frame = pd.DataFrame({"a": [1, 2, 3, 1], "b": [0.5, 1.5, 2.5, 3.5]})
    fitted = TablePreprocess.fit(frame, categorical=["a"])
    assert fitted.category_names == ("a",)
    # Integers that became floats because of a gap are the same levels.
    later = pd.DataFrame({"a": [1.0, np.nan, 3.0], "b": [0.5, 0.5, 0.5]})
    assert fitted.transform(later).category[:, 0].tolist() == [2, MISSING, 4]
    with pytest.raises(ValueError, match=r"data.categorical names \['z'\]"):
        TablePreprocess.fit(frame, categorical=["z"])


def test_rare_levels_share_unknown() -> None:
    frame = pd.DataFrame({"a": ["x"] * 3 + ["y"] * 2 + ["z"], "b": range(6)})
    fitted = TablePreprocess.fit(frame, max_levels=2)
    assert fitted.transform(frame).category[:, 0].tolist() == [2, 2, 2, 3, 3, UNKNOWN]


def test_tables_that_teach_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="none of the 2 column"):
        TablePreprocess.fit(pd.DataFrame({"a": [1, 1], "b": ["x", "x"]}))
    with pytest.raises(ValueError, match="n_samples=1"):
        TablePreprocess.fit(pd.DataFrame({"a": [1]}))
    with pytest.raises(ValueError, match=r"columns \['a'\] occur more than once"):
        as_frame(pd.DataFrame([[1, 2]], columns=["a", "a"]))
    with pytest.raises(ValueError, match="expected 2-D"):
        as_frame(np.zeros(3))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, "3"), (3.0, "3"), ("3", "3"), (2.5, "2.5"), (True, "True"), (np.int64(4), "4")],
)
def test_one_spelling_for_equal_levels(value: object, expected: str) -> None:
    assert key(value) == expected


def test_date_parts() -> None:
    column = pd.Series(pd.to_datetime(["1970-01-08 06:00", None]), name="d")
    found = dates(column)
    # A week and a quarter of a day after the epoch: phase 0.25 / 7 of the week, 1/4 of the day.
    assert found[0, 0] == 7.25
    week = 2 * math.pi * 7.25 / 7
    np.testing.assert_allclose(found[0, 3:5], [math.sin(week), math.cos(week)], atol=1e-9)
    np.testing.assert_allclose(found[0, 5:], [1.0, 0.0], atol=1e-9)
    assert np.isnan(found[1]).all()


def test_standard_and_robust_by_hand() -> None:
    values = np.array([[1.0], [2.0], [3.0], [4.0], [np.nan]])
    found = apply_scale(fit_scale(values, "standard"), values)[:, 0]
    std = math.sqrt((1.5**2 + 0.5**2 + 0.5**2 + 1.5**2) / 4)
    np.testing.assert_allclose(found[:4], [-1.5 / std, -0.5 / std, 0.5 / std, 1.5 / std], rtol=1e-6)
    assert np.isnan(found[4])
    scaled = (100 - 2.5) / 1.5  # median 2.5, quartiles 1.75 and 3.25
    expected = scaled / math.sqrt(1 + (scaled / 3) ** 2)
    far = apply_scale(fit_scale(values, "robust"), np.array([[100.0]]))
    np.testing.assert_allclose(far, [[expected]], rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=60),
    st.floats(-1e9, 1e9),
)
def test_quantile_map_is_monotone_bounded_and_finite(column: list[float], other: float) -> None:
    values = np.array(column)[:, None]
    scale = fit_scale(values, "quantile")
    asked = np.sort(np.append(values[:, 0], other))[:, None]
    found = apply_scale(scale, asked)[:, 0]
    assert np.isfinite(found).all() and np.abs(found).max() < 5
    assert (np.diff(found) >= -1e-6).all()


def test_quantile_map_is_normal_on_training_rows() -> None:
    values = np.random.default_rng(0).exponential(size=(20_000, 1))
    found = apply_scale(fit_scale(values, "quantile"), values)[:, 0]
    assert abs(found.mean()) < 0.01 and abs(found.std() - 1) < 0.02
    # Half the rows share one value: it lies in the middle of its plateau, at the 25 % quantile.
    plateau = np.where(np.arange(20_000) % 2 == 0, 0.0, values[:, 0])[:, None]
    zero = apply_scale(fit_scale(plateau, "quantile"), np.zeros((1, 1)))[0, 0]
    assert zero == pytest.approx(-0.6745, abs=0.02)
