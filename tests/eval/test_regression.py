"""Ridge regression and its intervals: against closed forms and plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from jepa_modalities.eval.arms import Arm, score_arms
from jepa_modalities.eval.regression import (
    GRID,
    ridge_regression,
    rmse,
    score_regression,
    value_holdout,
)

SOURCE = np.random.default_rng(0)
X = SOURCE.normal(size=(200, 4)) * [1, 5, 0.1, 3] + 2
Y = X @ np.array([1.0, -0.3, 4.0, 0.0]) + 7 + 0.2 * SOURCE.normal(size=200)


def test_equals_the_normal_equations() -> None:
    fit = ridge_regression(X[:150], Y[:150], X[150:], grid=(0.01,))
    mean, std = X[:150].mean(0), X[:150].std(0)
    z, t = (X[:150] - mean) / std, (X[150:] - mean) / std
    level = Y[:150].mean()
    weight = np.linalg.solve(z.T @ z + 0.01 * 150 * np.eye(4), z.T @ (Y[:150] - level))
    np.testing.assert_allclose(fit.predictions, t @ weight + level, rtol=1e-4)


def test_penalty_is_chosen_on_held_out_rows() -> None:
    fit = ridge_regression(X, Y, X)
    held = value_holdout(Y)
    errors = {
        weight: rmse(ridge_regression(X[~held], Y[~held], X[held], (weight,)).predictions, Y[held])
        for weight in GRID
    }
    assert fit.chosen["held_out"] == pytest.approx(min(errors.values()), rel=1e-2)
    noise = SOURCE.normal(size=200)
    assert ridge_regression(X, noise, X).chosen["weight"] >= 1.0


def test_held_out_rows_follow_the_values() -> None:
    held = value_holdout(Y)
    assert held.sum() == 20
    ranks = np.sort(Y.argsort().argsort()[held])
    np.testing.assert_array_equal(np.diff(ranks), 10)
    with pytest.raises(ValueError, match="too few"):
        value_holdout(np.arange(1))


def arms() -> tuple[list[Arm], np.ndarray, np.ndarray]:
    good, weak = X, X[:, :2] + SOURCE.normal(size=(200, 2))
    made = [
        Arm("encoder", {"p": good[:120], "q": weak[:120]}, {"p": good[120:], "q": weak[120:]}),
        Arm(
            "untrained",
            [{"p": weak[:120], "q": weak[:120]}, {"p": good[:120, :2], "q": weak[:120]}],
            [{"p": weak[120:], "q": weak[120:]}, {"p": good[120:, :2], "q": weak[120:]}],
        ),
        Arm("raw", {"": weak[:120]}, {"": weak[120:]}),
    ]
    return made, Y[:120], Y[120:]


def test_test_rows_of_one_value_have_no_r2() -> None:
    made, y, truth = arms()
    found = score_regression(made, y, np.full_like(truth, 2.0), "p").metrics
    assert not [name for name in found if "r2" in name] and np.isfinite(list(found.values())).all()


def test_scores_by_hand() -> None:
    made, y, truth = arms()
    scores = score_regression(made, y, truth, "p")
    found = scores.metrics
    seeds = []
    for train, test in made[1].seeds():
        seeds.append(rmse(ridge_regression(train["p"], y, test["p"]).predictions, truth))
    assert found["untrained/ridge/rmse"] == pytest.approx(np.mean(seeds))
    assert found["untrained/ridge/rmse_seeds"] == 2
    own = rmse(ridge_regression(X[:120], y, X[120:]).predictions, truth)
    assert found["encoder/ridge/rmse"] == pytest.approx(own)
    assert found["encoder/ridge/r2"] == pytest.approx(1 - own**2 / truth.var())
    assert found["encoder/ridge/rmse_low"] < own < found["encoder/ridge/rmse_high"]
    gap = found["paired/encoder-untrained/ridge/rmse"]
    assert gap == pytest.approx(own - np.mean(seeds))
    assert found["paired/encoder-untrained/ridge/rmse_high"] < 0
    # Equal features: no difference, on any resample.
    for end in ("", "_low", "_high"):
        assert found[f"paired/encoder-raw/ridge@q/rmse{end}"] == 0
    assert found["encoder/width"] == 4 and found["raw/width"] == 2


def test_interval_covers_as_a_loop_does() -> None:
    made, y, truth = arms()
    found = score_regression(made, y, truth, "p").metrics
    errors = (ridge_regression(X[:120], y, X[120:]).predictions - truth) ** 2
    source = np.random.default_rng(5)
    loop = [np.sqrt(errors[source.integers(0, 80, 80)].mean()) for _ in range(4000)]
    low, high = np.percentile(loop, (2.5, 97.5))
    assert found["encoder/ridge/rmse_low"] == pytest.approx(low, rel=0.05)
    assert found["encoder/ridge/rmse_high"] == pytest.approx(high, rel=0.05)


def test_controls_are_required() -> None:
    made, y, truth = arms()
    with pytest.raises(ValueError, match=r"without its controls \['raw'\]"):
        score_regression(made[:2], y, truth, "p")


def test_auc_beside_accuracy() -> None:
    made, y, truth = arms()
    labels, real = np.where(y > 17, "up", "down"), np.where(truth > 17, "up", "down")
    plain = score_arms(made, labels, real, ("linear", "knn"), "p", ()).metrics
    found = score_arms(made, labels, real, ("linear", "knn"), "p", (), auc=True).metrics
    expected_keys = {
        f"{arm}/{probe}{at}/auc{end}"
        for arm, ats in (("encoder", ("", "@q")), ("untrained", ("", "@q")), ("raw", ("",)))
        for at in ats
        for probe in ("linear", "knn")
        for end in ("", "_seeds")
    }
    assert found.keys() - plain.keys() == expected_keys
    from sklearn.metrics import roc_auc_score

    from jepa_modalities.eval.probes import linear_probe

    fit = linear_probe(X[:120], labels, X[120:])
    expected = roc_auc_score(real == "up", fit.scores[:, 1] - fit.scores[:, 0])
    assert found["encoder/linear/auc"] == pytest.approx(expected)
