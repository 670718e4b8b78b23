"""Arms beside their controls: keys, pairing, seeds, the guard, and no leak from test labels."""

from __future__ import annotations

import numpy as np
import pytest

from jepa_modalities.eval.arms import Arm, concatenate, score_arms
from jepa_modalities.eval.fewshot import k_shot
from jepa_modalities.eval.probes import knn_probe, ridge_probe
from jepa_modalities.eval.statistics import bootstrap_interval, paired_bootstrap, t_interval

ROWS, TESTS = 90, 60
GENERATOR = np.random.default_rng(0)
Y = GENERATOR.permutation(np.arange(ROWS) % 3)
TRUTH = GENERATOR.permutation(np.arange(TESTS) % 3)


def block(signal: float, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    centre = signal * generator.normal(size=(3, width))
    x = centre[Y] + generator.normal(size=(ROWS, width))
    t = centre[TRUTH] + generator.normal(size=(TESTS, width))
    return x.astype(np.float32), t.astype(np.float32)


def make(name: str, signal: float, seed: int, poolings=("mean", "tokens")) -> Arm:
    blocks = {p: block(signal, 4 + 3 * i, seed + i) for i, p in enumerate(poolings)}
    return Arm(name, {p: b[0] for p, b in blocks.items()}, {p: b[1] for p, b in blocks.items()})


def several(name: str, arms: list[Arm]) -> Arm:
    return Arm(name, [arm.train for arm in arms], [arm.test for arm in arms])


ENCODER, RAW, BAR = make("encoder", 0.8, 10), make("raw", 0.4, 20, [""]), make("bar", 0.6, 30, [""])
UNTRAINED = several("untrained", [make("untrained", 0.3, seed) for seed in (40, 50, 60)])
ARMS = [ENCODER, RAW, UNTRAINED, BAR, concatenate(ENCODER, BAR)]


@pytest.fixture(scope="module")
def scores():
    return score_arms(ARMS, Y, TRUTH, ("ridge", "knn"), primary="mean", shots=(3,), draws=4)


def test_keys_are_complete_and_only_those(scores) -> None:
    expected = set()
    for arm, ats in {
        "encoder": ["", "@tokens"], "untrained": ["", "@tokens"], "encoder+bar": ["", "@tokens"],
        "raw": [""], "bar": [""],
    }.items():  # fmt: skip
        for at in ats:
            expected.add(f"{arm}/width{at}")
            for probe in ("ridge", "knn", "linear_3shot"):
                stem = f"{arm}/{probe}{at}/accuracy"
                expected |= {stem, f"{stem}_low", f"{stem}_high", f"{stem}_seeds"}
    for arm in ("encoder", "encoder+bar"):
        for control in ("raw", "untrained", "bar"):
            for probe in ("ridge", "knn", "linear_3shot"):
                for at in ("", "@tokens"):
                    stem = f"paired/{arm}-{control}/{probe}{at}/accuracy"
                    expected |= {stem, f"{stem}_low", f"{stem}_high"}
    assert set(scores.metrics) == expected
    assert all(type(value) is float for value in scores.metrics.values())


def test_values_are_those_of_the_probe_and_the_bootstrap(scores) -> None:
    x, t = ENCODER.train["tokens"], ENCODER.test["tokens"]
    right = np.array([float(p == q) for p, q in
                      zip(ridge_probe(x, Y, t).predictions, TRUTH, strict=True)])  # fmt: skip
    np.testing.assert_array_equal(scores.correct["encoder/ridge@tokens"], right)
    stem = "encoder/ridge@tokens/accuracy"
    found = tuple(scores.metrics[stem + end] for end in ("", "_low", "_high"))
    assert found == pytest.approx(bootstrap_interval(right))
    assert scores.metrics[stem + "_seeds"] == 1
    assert scores.metrics["encoder/width@tokens"] == 7 and scores.metrics["raw/width"] == 4


def test_seeds_are_averaged_and_pairs_share_pooling_and_resamples(scores) -> None:
    rows = [
        (knn_probe(x["tokens"], Y, t["tokens"]).predictions == TRUTH).astype(float)
        for x, t in UNTRAINED.seeds()
    ]
    untrained = (rows[0] + rows[1] + rows[2]) / 3
    np.testing.assert_allclose(scores.correct["untrained/knn@tokens"], untrained)
    assert scores.metrics["untrained/knn@tokens/accuracy_seeds"] == 3
    fit = knn_probe(ENCODER.train["tokens"], Y, ENCODER.test["tokens"])
    ours = (fit.predictions == TRUTH).astype(float)
    for control, other in (
        ("untrained", untrained),
        ("raw", (knn_probe(RAW.train[""], Y, RAW.test[""]).predictions == TRUTH).astype(float)),
    ):
        stem = f"paired/encoder-{control}/knn@tokens/accuracy"
        found = tuple(scores.metrics[stem + end] for end in ("", "_low", "_high"))
        assert found == pytest.approx(paired_bootstrap(ours, other))


def test_few_shot_pairs_over_equal_draws(scores) -> None:
    ours = k_shot(ENCODER.train["mean"], Y, ENCODER.test["mean"], TRUTH, 3, 4).accuracies
    theirs = k_shot(RAW.train[""], Y, RAW.test[""], TRUTH, 3, 4).accuracies
    np.testing.assert_allclose(scores.correct["encoder/linear_3shot"], ours)
    stem = "paired/encoder-raw/linear_3shot/accuracy"
    found = tuple(scores.metrics[stem + end] for end in ("", "_low", "_high"))
    assert found == pytest.approx(t_interval(ours - theirs))


def test_predictions_do_not_see_the_test_labels() -> None:
    # Only 0 and 1 exist as scores; a fixed prediction p gives [p == q], so the label that scores 1
    # under shifted truths must be the same prediction each time.
    arms = [make("encoder", 0.8, 10, ["mean"]), RAW, make("untrained", 0.3, 40, ["mean"])]
    probes = ("linear", "ridge", "knn", "svm")
    shifted = [score_arms(arms, Y, (TRUTH + s) % 3, probes, shots=()).correct for s in range(3)]
    for key in shifted[0]:
        np.testing.assert_array_equal(sum(one[key] for one in shifted), np.ones(TESTS))


def test_concatenation_standardises_each_block_by_its_training_rows() -> None:
    wide = Arm("bar", {"": 1000 + 50 * BAR.train[""]}, {"": 1000 + 50 * BAR.test[""]})
    joint = concatenate(UNTRAINED, wide)
    assert joint.name == "untrained+bar" and len(joint.seeds()) == 3
    for (train, test), (own, _) in zip(joint.seeds(), UNTRAINED.seeds(), strict=True):
        assert list(train) == ["mean", "tokens"]
        width = own["tokens"].shape[1]
        for column in range(4):
            values = wide.train[""][:, column].astype(np.float64)
            mean, std = values.mean(), values.std()
            np.testing.assert_allclose(
                train["tokens"][:, width + column], (values - mean) / std, atol=1e-4
            )
            np.testing.assert_allclose(
                test["tokens"][:, width + column],
                (wide.test[""][:, column] - mean) / std,
                atol=1e-4,
            )
        first = own["tokens"][:, 0].astype(np.float64)
        np.testing.assert_allclose(
            train["tokens"][:, 0], (first - first.mean()) / first.std(), atol=1e-4
        )


@pytest.mark.parametrize("absent", ["raw", "untrained"])
@pytest.mark.parametrize("name", ["encoder", "student", "encoder+bar"])
def test_no_result_without_its_controls(absent: str, name: str) -> None:
    learned = Arm(name, ENCODER.train, ENCODER.test)
    arms = [learned, *(arm for arm in (RAW, UNTRAINED, BAR) if arm.name != absent)]
    with pytest.raises(ValueError, match=rf"without its controls \['{absent}'\]"):
        score_arms(arms, Y, TRUTH)


def test_controls_alone_may_be_scored() -> None:
    found = score_arms([RAW, BAR], Y, TRUTH, ("knn",), shots=())
    assert not any(key.startswith("paired") for key in found.metrics)


def test_errors_come_before_the_probes() -> None:
    short = Arm("raw", {"": RAW.train[""][:-1]}, RAW.test)
    cases = [
        ([RAW, RAW], {}, "must differ"),
        ([RAW], {"probes": ("tree",)}, r"\['tree'\] are not known"),
        ([short], {}, "89 training and 60 test rows, but 90 and 60"),
        (
            [ENCODER, RAW, make("untrained", 0.3, 1, ["mean"])],
            {},
            r"lacks the poolings \['tokens'\]",
        ),
        ([ENCODER, RAW, UNTRAINED], {"primary": "quadrants"}, "'quadrants' is not one of"),
        ([Arm("raw", [RAW.train], [RAW.test, RAW.test])], {}, "1 seeds for train and 2"),
    ]
    for arms, settings, message in cases:
        with pytest.raises(ValueError, match=message):
            score_arms(arms, Y, TRUTH, **settings)
    with pytest.raises(ValueError, match="has no pooling 'mean'"):
        concatenate(ENCODER, make("bar", 0.5, 1, ["tokens"]))
    with pytest.raises(ValueError, match="have 1 and 3 seeds"):
        concatenate(ENCODER, UNTRAINED)
