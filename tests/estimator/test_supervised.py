"""Classifier and regressor: scikit-learn's contract, heads, unlabelled rows."""

from __future__ import annotations

import pickle
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from jepa_modalities.estimator.head import Labels
from jepa_modalities.estimator.supervised import TabularJEPAClassifier, TabularJEPARegressor

SMALL: dict[str, Any] = {"steps": 3, "dim": 8, "heads": 1, "depth": 1, "batch_size": 16}
CHECKED = {"steps": 2, "dim": 8, "heads": 1, "depth": 1, "batch_size": 16}


def houses(rows: int = 120, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """A price that depends on all columns."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "size": rng.uniform(20, 200, rows),
            "age": rng.uniform(0, 90, rows),
            "town": rng.choice(["Ulm", "Bonn", "Kiel"], rows),
        }
    )
    price = 3 * frame["size"] - frame["age"] + 200 * (frame["town"] == "Bonn")
    frame.loc[:5, "age"] = np.nan
    return frame, price.to_numpy()


@parametrize_with_checks([TabularJEPAClassifier(**CHECKED), TabularJEPARegressor(**CHECKED)])
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)


HEADS = ("linear", "mlp", "finetune", "boosting")


@pytest.mark.parametrize("head", [*HEADS, KNeighborsClassifier(5)], ids=str)
def test_classes_are_learned(head: Any) -> None:
    frame, price = houses()
    y = np.array(["cheap", "fair", "dear"])[np.digitize(price, np.quantile(price, [0.4, 0.7]))]
    model = TabularJEPAClassifier(head=head, random_state=0, **SMALL).fit(frame, y)
    assert model.classes_.tolist() == ["cheap", "dear", "fair"]
    share = model.predict_proba(frame)
    assert share.shape == (120, 3) and share.sum(1) == pytest.approx(1)
    assert (model.classes_[share.argmax(1)] == model.predict(frame)).all()
    assert model.score(frame, y) > (0.6 if head == "finetune" else 0.75)
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict_proba(frame), share)


@pytest.mark.parametrize("head", [*HEADS, DecisionTreeRegressor(random_state=0)], ids=str)
def test_numbers_are_learned(head: Any) -> None:
    frame, price = houses()
    model = TabularJEPARegressor(head=head, random_state=0, **SMALL).fit(frame, price)
    assert model.predict(frame).shape == (120,)
    assert model.score(frame, price) > (0.3 if head == "finetune" else 0.8)
    one = TabularJEPARegressor(head=head, random_state=0, **SMALL).fit(frame, price)
    assert np.array_equal(one.predict(frame), model.predict(frame))


def test_fine_tuning_moves_a_copy_of_the_encoder() -> None:
    frame, price = houses()
    frozen = TabularJEPARegressor(random_state=0, **SMALL).fit(frame, price)
    tuned = TabularJEPARegressor(head="finetune", random_state=0, **SMALL).fit(frame, price)
    before = dict(frozen.transformer_.encoder_.encoder.named_parameters())
    after = dict(tuned.transformer_.encoder_.encoder.named_parameters())
    assert all(np.array_equal(before[n].numpy(), after[n].numpy()) for n in before)
    learned = dict(tuned.head_.net.nets[0].encoder.named_parameters())
    assert any(not np.array_equal(before[n].numpy(), learned[n].numpy()) for n in before)


def test_unlabelled_rows_take_part_in_pretraining_only() -> None:
    frame, price = houses(240)
    labelled, rest = frame.iloc[:60], frame.iloc[60:]
    wanted = {**SMALL, "random_state": 0}
    few = TabularJEPARegressor(**wanted).fit(labelled, price[:60])
    more = TabularJEPARegressor(**wanted).fit(labelled, price[:60], unlabeled=rest)
    assert not np.array_equal(few.predict(rest), more.predict(rest))
    # The same as pretraining on all rows by hand.
    alone = more.transformer_.__class__(**more.transformer_.get_params())
    own = {k: v for k, v in more.get_params().items() if k != "head"}
    random = np.random.RandomState(0)
    alone.set_params(**{**own, "random_state": random}).fit(frame)
    assert np.array_equal(alone.transform(rest), more.transformer_.transform(rest))
    arrays = TabularJEPARegressor(**wanted).fit(
        labelled[["size", "age"]].to_numpy(),
        price[:60],
        unlabeled=rest[["size", "age"]].to_numpy(),
    )
    assert np.isfinite(arrays.predict(rest[["size", "age"]].to_numpy())).all()
    with pytest.raises(ValueError, match=r"\['town'\] are missing"):
        TabularJEPARegressor(**wanted).fit(labelled, price[:60], unlabeled=rest[["size", "age"]])


def test_unlabelled_rows_of_another_type() -> None:
    frame, price = houses()
    exact = frame.assign(size=[Decimal(repr(value)) for value in frame["size"]])
    wanted = {**SMALL, "random_state": 0}
    model = TabularJEPARegressor(**wanted).fit(exact[:60], price[:60], unlabeled=frame[60:])
    same = TabularJEPARegressor(**wanted).fit(frame[:60], price[:60], unlabeled=frame[60:])
    assert np.array_equal(model.predict(frame), same.predict(frame))
    lasting = frame.assign(age=pd.to_timedelta(frame["age"], "D"))
    with pytest.raises(ValueError, match=r"'age' holds .*\(duration\) in X and .* \(numeric\)"):
        TabularJEPARegressor(**wanted).fit(lasting[:60], price[:60], unlabeled=frame[60:])


@pytest.mark.parametrize("head", ["linear", "finetune"])
def test_one_label_is_too_few(head: str) -> None:
    frame, price = houses()
    with pytest.raises(ValueError, match=r"1 labelled sample\(s\).* at least 2"):
        TabularJEPARegressor(head=head, **SMALL).fit(frame[:1], price[:1], unlabeled=frame)


def test_cross_validation() -> None:
    frame, price = houses()
    scores = cross_val_score(TabularJEPARegressor(random_state=0, **SMALL), frame, price, cv=2)
    assert scores.min() > 0.5


def test_held_out_rows() -> None:
    labels = Labels(np.array([0] * 90 + [1] * 10), 2)
    held = labels.held(0)
    assert held.sum() == 10 and held[90:].sum() == 1
    assert Labels(np.arange(50.0), 0).held(0).sum() == 5
    assert not Labels(np.arange(10.0), 0).held(0).any()


def test_complaints() -> None:
    frame, price = houses()
    with pytest.raises(ValueError, match="choose from linear, mlp, finetune, boosting"):
        TabularJEPARegressor(head="forest", **SMALL).fit(frame, price)
    with pytest.raises(ValueError, match="Unknown label type"):
        TabularJEPAClassifier(**SMALL).fit(frame, price)
    with pytest.raises(ValueError, match="one class"):
        TabularJEPAClassifier(**SMALL).fit(frame, np.zeros(120, dtype=int))
    with pytest.raises(ValueError, match="NaN"):
        TabularJEPARegressor(**SMALL).fit(frame, np.r_[np.nan, price[1:]])
