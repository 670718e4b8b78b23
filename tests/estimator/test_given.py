"""What a caller gives to the estimators of tables: checked, and meant as it is said."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

import jepa_modalities as jm
from jepa_modalities.estimator.transformer import TabularJEPA

SMALL: dict[str, Any] = {"steps": 2, "dim": 8, "heads": 1, "depth": 1, "batch_size": 16}
FRAME = pd.DataFrame({"a": np.arange(40.0), "b": np.arange(40.0) % 7, "k": ["x", "y"] * 20})
Y = np.arange(40) % 2


def small(**more: Any) -> TabularJEPA:
    return TabularJEPA(**{**SMALL, "random_state": 0, **more})


def test_threads_do_not_disturb_each_other() -> None:
    wanted = small(steps=0).fit_transform(FRAME)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: small(steps=0).fit_transform(FRAME), range(12)))
    assert all(np.array_equal(wanted, one) for one in found)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dim": -8}, "dim = -8"),
        ({"learning_rate": -1.0}, "learning_rate = -1"),
        ({"time_limit": "5"}, "time_limit = '5'"),
        ({"time_limit": float("inf")}, "time_limit = inf"),
        ({"device": "gpu"}, "device = 'gpu'"),
        ({"settings": 5}, "settings = 5"),
        ({"settings": {"data.drop": ("a",)}}, "settings names 'data.drop'"),
        ({"settings": {"train.epochs": 2.0}}, "pretrained for `steps`"),
        ({"settings": {"objective.detection": -1.0}}, "objective.detection = -1"),
        ({"settings": {"data.max_levels": 0}}, "data.max_levels = 0"),
        ({"settings": {"tokens.bins": 0}}, "tokens.bins = 0"),
        ({"categorical": [0]}, r"names \['0'\]"),
    ],
)
def test_settings_that_cannot_be(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        small(**given).fit(FRAME)


def test_categorical_numbers_count_the_columns_of_arrays_only() -> None:
    array = FRAME[["a", "b"]].to_numpy()
    by_number = small(categorical=[np.int64(1)]).fit(array)
    assert by_number.encoder_.tokenizer.preprocess.category_names == ("x1",)
    with pytest.raises(ValueError, match="the array has 2 columns"):
        small(categorical=[5]).fit(array)
    swapped = pd.DataFrame(array, columns=[1, 0])
    named = small(categorical=pd.Index([0])).fit(swapped)
    assert named.encoder_.tokenizer.preprocess.category_names == ("0",)


def test_pooling_may_change_after_fit() -> None:
    model = small().fit(FRAME)
    for pooling in ("mean", "mean_std_max", "last_block", "all_blocks_hidden", "all_blocks"):
        for inputs in (False, True):
            model.set_params(pooling=pooling, include_inputs=inputs)
            width = model.transform(FRAME).shape[1]
            assert width == len(model.get_feature_names_out()) == len({*model._names()})


def test_saving_says_that_inputs_stay_behind(tmp_path: Path) -> None:
    model = small(include_inputs=True, pooling="mean").fit(FRAME)
    with pytest.warns(UserWarning, match="8 columns wide"):
        model.save(tmp_path / "e.safetensors")
    assert jm.load(tmp_path / "e.safetensors").embed(FRAME).shape == (40, 8)


def test_a_level_may_be_called_missing() -> None:
    frame = FRAME.assign(k=["<missing>", "y"] * 20)
    names = small(include_inputs=True).fit(frame).get_feature_names_out()
    assert len(set(names)) == len(names)


def test_rows_of_a_chunk_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small().fit(FRAME)
    monkeypatch.setattr(TabularJEPA, "_rows_at_once", lambda self: 16)
    bad = FRAME.astype({"a": object})
    bad.loc[35, "a"] = "text"
    with pytest.raises(ValueError, match="rows 32 to 39 of 40: column 'a'"):
        model.transform(bad)


@pytest.mark.parametrize("head", [5, Ridge, Ridge(), "forest"])
def test_heads_are_checked_before_the_pretraining(head: Any) -> None:
    model = jm.TabularJEPAClassifier(**{**SMALL, "steps": 10**9}, head=head)
    with pytest.raises(ValueError, match="give a scikit-learn classifier"):
        model.fit(FRAME, Y)
    regressor = jm.TabularJEPARegressor(**SMALL, head=LogisticRegression())
    with pytest.raises(ValueError, match="give a scikit-learn regressor"):
        regressor.fit(FRAME, Y)


@pytest.mark.parametrize(
    "y",
    [
        pd.Series(pd.date_range("2020-01-01", periods=40)).where(Y > 0),
        pd.Series(["a", None] * 20, dtype=object),
        pd.Series(pd.to_timedelta(np.arange(40), unit="h")).where(Y > 0),
    ],
)
def test_missing_targets_are_refused(y: Any) -> None:
    for model in (jm.TabularJEPAClassifier(**SMALL), jm.TabularJEPARegressor(**SMALL)):
        with pytest.raises(ValueError, match="y has 20 missing values"):
            model.fit(FRAME, y)


def test_targets_of_two_kinds_or_of_times_are_refused() -> None:
    with pytest.raises(ValueError, match="y mixes int, str"):
        jm.TabularJEPAClassifier(**SMALL).fit(FRAME, np.array([1, "a"] * 20, dtype=object))
    with pytest.raises(ValueError, match="expected numbers"):
        jm.TabularJEPARegressor(**SMALL).fit(FRAME, pd.date_range("2020-01-01", periods=40))


def test_unlabelled_rows_hold_the_same_kinds() -> None:
    model = jm.TabularJEPAClassifier(**SMALL)
    with pytest.raises(ValueError, match=r"column 'a' holds float64 \(numeric\) in X and"):
        model.fit(FRAME, Y, unlabeled=FRAME.assign(a=FRAME["a"].astype(str)))
    model.fit(FRAME, Y, unlabeled=FRAME.assign(a=np.nan))
