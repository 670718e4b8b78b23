"""Which rows of a table controls are chosen on, and which are scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_modalities.adapters.tabular import evaluator
from jepa_modalities.adapters.tabular.adapter import TabularAdapter
from jepa_modalities.api import evaluate, pretrain, recipe
from jepa_modalities.settings import changed

pd = pytest.importorskip("pandas")

SMALL = {"encoder.dim": 8, "encoder.depth": 1, "encoder.heads": 1, "train.batch_size": 16}


def configured(file: Path, **told: Any) -> Any:
    """The recipe `tabular` on a file, small; a double underscore stands for the dot."""
    named = {name.replace("__", "."): value for name, value in told.items()}
    return changed(recipe("tabular"), {**SMALL, "data.path": str(file), **named})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """200 rows: two numbers, two labels that go with them, and a split without validation rows."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 200))
    names = np.where(np.arange(200) < 120, "train", "test")
    frame = pd.DataFrame({"a": a, "b": b, "sum": a + b, "sign": np.where(a > 0.5, "p", "m")})
    frame.assign(part=names).to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path / "rows.csv"


@pytest.mark.parametrize(("target", "other"), [("sum", "sign"), ("sign", "sum")])
def test_controls_are_chosen_on_rows_they_were_not_fitted_on(
    file: Path, monkeypatch: pytest.MonkeyPatch, target: str, other: str
) -> None:
    config = configured(file, data__target=target, data__split="part", data__drop=(other,))
    adapter = TabularAdapter(config)
    rows = evaluator.labelled(adapter)
    assert set(rows.val) < set(rows.train) and len(rows.val) == 12
    assert set(rows.train[rows.kept]) == set(rows.train) - set(rows.val)
    columns = adapter.preprocess.transform(adapter.table.frame).numeric

    def numbers(part: Any) -> set[Any]:
        return set(columns[part][:, 0].tolist())

    seen = []

    def choose(candidates: Any, train_y: Any, val_y: Any) -> Any:
        for x, v in candidates.values():
            assert len(x) == len(train_y) == rows.kept.sum() and len(v) == len(val_y) == 12
        seen.append(list(candidates))
        return seen[-1][0], {}

    fitted = []

    def fit_trees(x: Any, *more: Any) -> Any:
        fitted.append(len(x))
        return lambda part: part

    monkeypatch.setattr(evaluator, "choose", choose)
    monkeypatch.setattr(evaluator, "fit_trees", fit_trees)
    arms, _ = evaluator.control_arms(adapter, rows, 16)
    assert [len(names) for names in seen] == [2, 1, 3, 4]
    assert fitted == [108] * 4 + [120]  # chosen among on nine tenths, then all training rows
    for arm in arms:
        train, score = arm.seeds()[0]
        assert len(train[""]) == 120 and len(score[""]) == 80
    assert not numbers(rows.train[rows.kept]) & numbers(rows.val)


def test_validation_rows_stay_out_of_training_rows(file: Path) -> None:
    config = configured(file, data__target="sum", data__drop=("sign", "part"))
    rows = evaluator.labelled(TabularAdapter(config))
    assert rows.kept.all() and not set(rows.val) & set(rows.train)


def test_another_target_is_probed_on_rows_the_encoder_has_not_seen(
    file: Path, tmp_path: Path
) -> None:
    config = configured(
        file, train__steps=2, evaluate__enabled=False, data__drop=("sum", "sign", "part")
    )
    run = pretrain(config, tmp_path / "run", quiet=True)
    trained = TabularAdapter(config).table.rows("train")
    probe = {"data.target": "sign", "data.drop": ("sum", "part"), "evaluate.enabled": True}
    alone = TabularAdapter(changed(config, probe)).table.rows("test")
    assert set(alone) & set(trained)  # what a split drawn anew would score
    scored: list[Any] = []
    whole = evaluator.labelled

    def labelled(adapter: TabularAdapter) -> evaluator.Rows:
        scored.append(whole(adapter))
        return scored[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "labelled", labelled)
        evaluate(run.path, probe)
    assert not set(scored[-1].score) & set(trained)
    assert set(scored[-1].train) == set(trained)
