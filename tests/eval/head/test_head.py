"""Heads: what they learn, how they choose, and that seeds do not disturb each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from jepa_modalities.eval.head.boosting import boosting
from jepa_modalities.eval.head.dcn import dcn
from jepa_modalities.eval.head.fraction import fractions_of, label_curve
from jepa_modalities.eval.head.ft_transformer import ft_transformer
from jepa_modalities.eval.head.linear import (
    PENALTIES,
    fit_logistic,
    fit_ridge,
    folded_logistic,
    linear,
)
from jepa_modalities.eval.head.metric import scores
from jepa_modalities.eval.head.mlp import Mlp, mlp
from jepa_modalities.eval.head.resnet import resnet
from jepa_modalities.eval.head.task import Predictions, Task
from jepa_modalities.eval.head.train import Recipe, best_of, fit_head
from jepa_modalities.eval.probes import C_GRID

QUICK = Recipe(lr=5e-3, epochs=8, batch_size=32, dropout=0.1)


def problem(regression: bool, rows: int = 240, seed: int = 0) -> tuple[Task, np.ndarray]:
    """A product of two columns decides, so a linear head is not enough; and the test labels."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (3 * rows, 4)).astype(np.float32) * [1, 2, 1, 5] + [0, 1, 0, 0]
    z = x[:, 0] * (x[:, 1] - 1) + 0.3 * x[:, 2]
    y = 100 + 20 * z if regression else np.array(["no", "yes"])[(z > 0).astype(int)]
    parts = [(x[at : at + rows], y[at : at + rows]) for at in (0, rows, 2 * rows)]
    (a, b), (c, d), (e, f) = parts
    return Task(a, b, c, d, e, regression), f


def value(task: Task, found: Predictions, truth: np.ndarray) -> float:
    """Accuracy, or the explained share of the variance, mean over seeds."""
    if not task.regression:
        return float(scores("accuracy", found.test, task.codes(truth)).mean())
    return float(1 - (scores("rmse", found.test, truth) ** 2).mean() / truth.var())


NETS: dict[str, Callable[..., Predictions]] = {"mlp": mlp, "dcn": dcn}


@pytest.mark.parametrize("regression", [False, True])
@pytest.mark.parametrize("name", ["mlp", "dcn", "resnet", "ft_transformer", "boosting"])
def test_heads_learn_what_a_linear_one_cannot(name: str, regression: bool) -> None:
    if name in ("resnet", "ft_transformer"):
        pytest.importorskip("rtdl_revisiting_models")
    task, truth = problem(regression)
    heads = {**NETS, "resnet": resnet, "ft_transformer": ft_transformer}
    if name == "boosting":
        found = boosting(task, (0,))
    else:
        recipe = replace(QUICK, epochs=15 if name == "ft_transformer" else 20, lr=4e-3)
        found = heads[name](task, (0,), (recipe,))
    lowest = 0.55 if regression else 0.78
    assert value(task, found, truth) > lowest
    assert value(task, linear(task), truth) < lowest - 0.08
    shape = (1, len(truth)) if regression else (1, len(truth), 2)
    assert found.test.shape == shape and found.val.shape == shape
    if not regression:
        assert found.test.sum(-1) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["mlp", "dcn", "resnet"])
def test_seeds_trained_together_equal_seeds_trained_alone(name: str) -> None:
    if name == "resnet":
        pytest.importorskip("rtdl_revisiting_models")
    head = {**NETS, "resnet": resnet}[name]
    task, _ = problem(True, rows=64)
    recipe = (replace(QUICK, dropout=0.0, patience=2, epochs=6),)
    both = head(task, (3, 5), recipe)
    for place, seed in enumerate((3, 5)):
        alone = head(task, (seed,), recipe)
        assert alone.test[0] == pytest.approx(both.test[place], rel=2e-3)
        assert alone.chosen["best_epoch"][0] == both.chosen["best_epoch"][place]
    assert abs(both.test[0] - both.test[1]).max() > 0.01


def test_the_best_epoch_is_kept() -> None:
    # Random labels: the validation loss is best early, later epochs overfit.
    task, _ = problem(False, rows=48)
    rng = np.random.default_rng(0)
    y = rng.permutation(task.train_y)
    noisy = replace(task, train_y=y)
    long = mlp(noisy, (0,), (replace(QUICK, lr=2e-2, epochs=30, patience=30, dropout=0.0),))
    code = task.codes(task.val_y)
    loss = -np.log(long.val[0][np.arange(len(code)), code]).mean()
    assert loss == pytest.approx(long.chosen["val_loss"][0], rel=1e-4)
    assert long.chosen["best_epoch"][0] < 30


def test_the_recipe_is_chosen_on_validation_rows() -> None:
    task, _ = problem(True, rows=64)
    lazy, able = replace(QUICK, lr=1e-7), QUICK

    def build(width: int, outputs: int, seeds: object, recipe: Recipe) -> torch.nn.Module:
        return Mlp(width, outputs, seeds, 16, 1, recipe.dropout)  # type: ignore[arg-type]

    assert best_of(task, build, (lazy, able)).chosen["lr"] == able.lr
    assert fit_head(task, build, lazy).chosen["lr"] == lazy.lr


def test_linear_equals_scikit_learn_at_the_best_penalty() -> None:
    for regression in (True, False):
        task, _ = problem(regression, rows=120)
        x, val, test = (part.double().numpy() for part in task.tensors())
        found = linear(task, (0, 1))
        if regression:
            fits = [Ridge(alpha=p * len(x)).fit(x, task.train_y) for p in PENALTIES]
            errors = [float(((fit.predict(val) - task.val_y) ** 2).mean()) for fit in fits]
            best = fits[int(np.argmin(errors))]
            assert found.chosen["penalty"] == PENALTIES[int(np.argmin(errors))]
            assert found.test[1] == pytest.approx(best.predict(test), rel=1e-4)
        else:
            # With two classes scikit-learn has one vector of weights where softmax has two halves.
            fits = [
                LogisticRegression(C=2 * c, tol=1e-8, max_iter=999).fit(x, task.train_y)
                for c in C_GRID
            ]
            code = task.codes(task.val_y)
            losses = [-np.log(f.predict_proba(val)[np.arange(len(val)), code]).mean() for f in fits]
            best = int(np.argmin(losses))
            assert found.chosen["C"] == C_GRID[best]
            assert found.test[1] == pytest.approx(fits[best].predict_proba(test), abs=2e-3)


def test_wide_features_give_the_same_ridge() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 50)), rng.standard_normal(20)
    task = Task(x, y, x[:9], y[:9], x[:7], True)
    z = ((x - x.mean(0)) / x.std(0))[:7]
    best = Ridge(alpha=linear(task).chosen["penalty"] * 20).fit((x - x.mean(0)) / x.std(0), y)
    assert linear(task).test[0] == pytest.approx(best.predict(z), rel=1e-3, abs=1e-3)


def test_models_hold_the_scaling() -> None:
    task, _ = problem(True, rows=80)
    x = task.train_x * [1, 100, 1e-3, 1] + [0, 5, 9, 1e4]
    z = (x - x.mean(0)) / x.std(0)
    model = fit_ridge(x, task.train_y)
    expected = Ridge(alpha=model.chosen["penalty"] * 80).fit(z, task.train_y).predict(z)
    assert model(x)[:, 0] == pytest.approx(expected, rel=1e-4)
    task, _ = problem(False, rows=80)
    codes = task.codes(task.train_y)
    model = fit_logistic(x, codes)
    best = LogisticRegression(C=2 * model.chosen["C"], tol=1e-8).fit(z, codes)
    logits = model(x)
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert share == pytest.approx(best.predict_proba(z), abs=5e-3)


def test_folds_hold_out_every_row_once() -> None:
    task, truth = problem(False, rows=60)
    fit = folded_logistic(task.train_x, task.train_y, task.test_x)
    assert (fit.predictions == truth).mean() > 0.5
    # One row per class leaves nothing to hold out; the middle of the grid is taken.
    two = folded_logistic(task.train_x[:2], np.array(["a", "b"]), task.test_x)
    assert two.chosen == {"C": 1e-2} and set(two.predictions) <= {"a", "b"}


def test_label_curve() -> None:
    assert fractions_of(26048) == (0.01, 0.1, 1.0)
    assert fractions_of(1000) == (0.05, 0.1, 1.0)
    assert fractions_of(100) == (0.5, 1.0)
    assert fractions_of(20) == (1.0,)
    for regression in (False, True):
        task, truth = problem(regression, rows=200)
        curve = label_curve(
            task.train_x, task.train_y, task.test_x, truth, regression, (0.1, 1.0), draws=3
        )
        few, every = curve[0.1], curve[1.0]
        assert few.rows == pytest.approx(20, abs=1) and every.rows == 200
        assert few.values.shape == (3,) and every.values.shape == (1,)
        assert few.interval.low < few.interval.mean < few.interval.high
        better = every.values[0] < few.values.mean() if regression else every.values[0] > 0.5
        assert better
    again = label_curve(task.train_x, task.train_y, task.test_x, truth, True, (0.1,), draws=3)
    assert again[0.1].values.tolist() == few.values.tolist()


def test_test_rows_change_nothing_but_their_own_predictions() -> None:
    task, _ = problem(True, rows=64)
    other = replace(task, test_x=task.test_x[::-1].copy())
    for head in (linear, lambda t: mlp(t, (0,), (QUICK,))):
        assert head(task).test[0][::-1] == pytest.approx(head(other).test[0], rel=1e-4)


def test_complaints() -> None:
    task, _ = problem(False, rows=20)
    with pytest.raises(ValueError, match="one class"):
        replace(task, train_y=np.repeat("a", 20))
    with pytest.raises(ValueError, match=r"classes \['maybe'\]"):
        replace(task, val_y=np.repeat("maybe", 20))
    with pytest.raises(ValueError, match="val_x holds NaN"):
        replace(task, val_x=np.full_like(task.val_x, np.nan))
    with pytest.raises(ValueError, match=r"expected \(rows, 4\)"):
        replace(task, test_x=task.test_x[:, :3])
    with pytest.raises(FloatingPointError, match="lower lr"):
        mlp(
            replace(
                task, train_y=np.r_[1e30, np.ones(19)], val_y=np.ones(20) * -1e30, regression=True
            ),
            (0,),
            (replace(QUICK, lr=1e30),),
        )
