"""Multi-label probes: areas by pairs, missing classes, draws of labels, paired intervals."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from jepa_modalities.eval.arms import Arm
from jepa_modalities.eval.macro_auc import aucs, macro_auc, resampled_macro, resamples
from jepa_modalities.eval.multilabel import (
    fit_multilabel,
    knn_multilabel,
    label_draws,
    linear_multilabel,
    score_multilabel,
)


def made(rows: int = 240, width: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features, and three labels that a linear function of them almost decides."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, width)).astype(np.float32)
    weight = np.random.default_rng(9).normal(size=(width, 3))
    y = (x @ weight + 2 * generator.normal(size=(rows, 3)) > 1.5).astype(np.uint8)
    return x, y


def pairs_area(y: np.ndarray, s: np.ndarray) -> float:
    """Share of (positive, negative) pairs in the right order, ties count half."""
    wins = [float(p > n) + 0.5 * float(p == n) for p in s[y == 1] for n in s[y == 0]]
    return float(np.mean(wins))


def test_areas_with_ties() -> None:
    _, y = made(60)
    s = np.random.default_rng(1).integers(0, 5, (60, 3)).astype(float)
    expected = [pairs_area(y[:, c], s[:, c]) for c in range(3)]
    assert aucs(y, s) == pytest.approx(expected)
    assert aucs(y, s) == pytest.approx([roc_auc_score(y[:, c], s[:, c]) for c in range(3)])
    assert macro_auc(y, s) == pytest.approx(np.mean(expected))


def test_missing_classes_do_not_count() -> None:
    _, y = made(60)
    y[:, 1], s = 0, np.random.default_rng(1).normal(size=(60, 3))
    found = aucs(y, s)
    assert np.isnan(found[1]) and not np.isnan(found[[0, 2]]).any()
    assert macro_auc(y, s) == pytest.approx((found[0] + found[2]) / 2)
    with pytest.raises(ValueError, match="none of the 3 classes"):
        macro_auc(np.zeros((5, 3)), np.zeros((5, 3)))


def test_resamples_hold_every_class() -> None:
    y = np.zeros((40, 3), np.uint8)
    y[:2, 0], y[5:25, 1] = 1, 1  # the third is constant and does not count
    counts = resamples(y, 300, seed=4)
    assert counts.shape == (300, 40) and (counts.sum(1) == 40).all()
    for column in range(2):
        positives = counts @ y[:, column]
        assert positives.min() >= 1 and positives.max() < 40
    assert np.array_equal(counts, resamples(y, 300, seed=4))
    s = np.random.default_rng(0).normal(size=(40, 3))
    found = resampled_macro(y, s, counts[:5])
    for row, value in zip(counts[:5], found, strict=True):
        index = np.repeat(np.arange(40), row.astype(int))
        one = [roc_auc_score(y[index, c], s[index, c]) for c in range(2)]
        assert value == pytest.approx(np.mean(one))


def test_classes_that_hardly_any_resample_keeps() -> None:
    """Of 60 classes with one record each; what a draw lacks is left out, for all arms alike."""
    truth = np.eye(61, 60)
    counts = resamples(truth, 20)
    assert counts.shape == (20, 61) and ((counts @ truth) == 0).any(1).all()
    scores = np.random.default_rng(0).normal(size=truth.shape)
    found = resampled_macro(truth, scores, counts)
    index = np.repeat(np.arange(61), counts[0].astype(int))
    kept = [c for c in range(60) if c in index]
    assert found[0] == pytest.approx(
        np.mean([roc_auc_score(truth[index, c], scores[index, c]) for c in kept])
    )
    assert np.allclose(resampled_macro(truth, truth, counts), 1)


def test_broken_scores_and_features_are_told() -> None:
    x, y = made(30)
    scores = np.zeros(y.shape)
    scores[4, 1] = np.nan
    with pytest.raises(ValueError, match="scores of 1 of 30 rows are NaN"):
        macro_auc(y, scores)
    x[3, 0] = np.nan
    with pytest.raises(ValueError, match="train_x: the features of 1 of 20 rows are not finite"):
        fit_multilabel(x[:20], y[:20])
    with pytest.raises(ValueError, match=r"valid_x has shape \(10, .*valid_y \(9, 3\)"):
        fit_multilabel(x[10:20], y[10:20], x[20:], y[21:])


def test_labels_without_a_choice() -> None:
    """No class has both: a model that says nothing."""
    x, y = made(20)
    model = fit_multilabel(x, np.ones_like(y), x, y)
    assert (model.scores(x) == 0).all() and (model.weight == 0).all()


def test_linear_probe_is_one_logistic_regression_per_label() -> None:
    x, y = made()
    (found,), chosen = linear_multilabel(x[:160], y[:160], [x[160:]], y[160:], grid=(0.05,))
    assert chosen == 0.05
    mean, std = x[:160].mean(0), x[:160].std(0)
    for column in range(3):
        model = LogisticRegression(C=0.05, tol=1e-8, max_iter=1000)
        model.fit((x[:160] - mean) / std, y[:160, column])
        expected = model.decision_function((x[160:] - mean) / std)
        assert found[:, column] == pytest.approx(expected, abs=5e-3)


def test_c_is_the_best_on_the_rows_for_choices() -> None:
    x, y = made()
    grid = (1e-4, 1e-2, 1.0)
    reached = {
        c: macro_auc(y[160:], linear_multilabel(x[:160], y[:160], [x[160:]], y[160:], (c,))[0][0])
        for c in grid
    }
    chosen = linear_multilabel(x[:160], y[:160], [x[160:]], y[160:], grid)[1]
    assert reached[chosen] == pytest.approx(max(reached.values()), abs=2e-3)


def test_wide_features_and_a_class_without_positives() -> None:
    """More columns than rows, C by cross-validation, a constant class gets score 0."""
    x, y = made(50, 12)
    wide = np.concatenate([x, np.random.default_rng(3).normal(size=(50, 80))], 1)
    y[:, 2] = 0
    (found,), _ = linear_multilabel(wide[:40], y[:40], [wide[40:]])
    assert (found[:, 2] == 0).all() and found[:, :2].std() > 0


def test_knn_by_a_loop() -> None:
    x, y = made(40)
    found = knn_multilabel(x[:30], y[:30], x[30:], neighbours=4, temperature=0.2)
    z = (x - x[:30].mean(0)) / x[:30].std(0)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    for row in range(10):
        similarity = z[:30] @ z[30 + row]
        near = np.argsort(-similarity)[:4]
        weight = np.exp(similarity[near] / 0.2)
        expected = (weight[:, None] * y[near]).sum(0) / weight.sum()
        assert found[row] == pytest.approx(expected, abs=1e-4)


def test_draws_of_few_labels() -> None:
    _, y = made(200)
    y[:, 2] = 0
    y[[3, 7, 90], 2] = 1
    rows = label_draws(y, 24, 5, seed=1)
    assert rows.shape == (5, 24)
    for draw in rows:
        assert len(set(draw.tolist())) == 24
        assert (y[draw].sum(0) >= 2).all()  # at least 24 / (4 x 3) of each class
    assert len({tuple(sorted(draw)) for draw in rows}) == 5
    assert np.array_equal(rows, label_draws(y, 24, 5, seed=1))
    with pytest.raises(ValueError, match="201 labelled records were asked for, there are 200"):
        label_draws(y, 201, 1)


def test_scores_and_differences() -> None:
    x, y = made(300)
    noise = np.random.default_rng(5).normal(size=x.shape).astype(np.float32)
    valid = np.arange(150) < 60

    def arm(name: str, *features: np.ndarray) -> Arm:
        parts = [{"mean": f[:150]} for f in features], [{"mean": f[150:]} for f in features]
        return Arm(name, *parts)

    raw = Arm("raw", {"": noise[:150]}, {"": noise[150:]})
    arms = [arm("encoder", x), arm("untrained", x + 3 * noise, x + 4 * noise), raw]
    metrics, scored = score_multilabel(arms, y[:150], y[150:], valid, counts=(30,), draws=3)
    truth = y[150:][~valid]
    expected = macro_auc(truth, scored["encoder/linear"][0])
    assert metrics["encoder/linear/macro_auc"] == pytest.approx(expected)
    two = [macro_auc(truth, s) for s in scored["untrained/knn"]]
    assert metrics["untrained/knn/macro_auc"] == pytest.approx(np.mean(two))
    assert metrics["untrained/knn/macro_auc_seeds"] == 2
    key = "paired/encoder-untrained/linear/macro_auc"
    gap = metrics["encoder/linear/macro_auc"] - metrics["untrained/linear/macro_auc"]
    assert metrics[key] == pytest.approx(gap)
    counts = resamples(truth)
    mine = resampled_macro(truth, scored["encoder/linear"][0], counts)
    theirs = np.mean([resampled_macro(truth, s, counts) for s in scored["untrained/linear"]], 0)
    low, high = np.quantile(mine - theirs, [0.025, 0.975])
    assert (metrics[f"{key}_low"], metrics[f"{key}_high"]) == pytest.approx((low, high))
    assert metrics["encoder/linear_30labels/macro_auc"] > metrics["raw/linear_30labels/macro_auc"]
    assert "paired/encoder-untrained/linear_30labels/macro_auc_low" in metrics


def test_no_result_without_controls() -> None:
    x, y = made(60)
    only = [Arm("encoder", {"mean": x[:30]}, {"mean": x[30:]})]
    with pytest.raises(ValueError, match=r"'encoder' comes without its controls \['raw', 'untr"):
        score_multilabel(only, y[:30], y[30:], np.arange(30) < 10)
    with pytest.raises(ValueError, match=r"probes \['svm'\] are not known"):
        score_multilabel(only, y[:30], y[30:], np.arange(30) < 10, ("svm",))
