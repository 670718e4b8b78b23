"""The orchestrator: every arm under the same probes, labels and draws, beside its controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jepa_modalities.eval.fewshot import Probe, k_shot
from jepa_modalities.eval.probes import (
    Fit,
    floats,
    knn_probe,
    linear_probe,
    ridge_probe,
    standardise,
    svm_probe,
)
from jepa_modalities.eval.ridge import loo_ridge_probe
from jepa_modalities.eval.statistics import Interval, bootstrap_intervals, t_interval

Features = Mapping[str, NDArray[Any]]
Vector = NDArray[np.float64]

PROBES: dict[str, Callable[..., Fit]] = {
    "linear": linear_probe,
    "ridge": ridge_probe,
    "knn": knn_probe,
    "svm": svm_probe,
}
# With few labels; None is `k_shot`'s own logistic regression.
FEW_PROBES: dict[str, Probe | None] = {"linear": None, "ridge": loo_ridge_probe}
# Arms that carry learning, and what each of them is compared with.
LEARNED: tuple[str, ...] = ("encoder", "student", "encoder+bar", "student+bar")
CONTROLS: tuple[str, ...] = ("raw", "untrained", "bar", "nystroem", "trees", "untrained+bar")
REQUIRED: tuple[str, ...] = ("raw", "untrained")


@dataclass(frozen=True)
class Arm:
    """One set of features of the training and the test rows.

    Attributes:
        name: `encoder`, `student`, `untrained`, `raw`, `bar`, `encoder+bar` or your own control.
        train: pooling -> (rows, width); or a list of such, one per encoder seed. An arm without
            tokens (`raw`, `bar`) has the single pooling "".
        test: the same for the test rows, as many seeds.
    """

    name: str
    train: Features | Sequence[Features]
    test: Features | Sequence[Features]

    def seeds(self) -> list[tuple[Features, Features]]:
        """(train, test) of every seed.

        Raises:
            ValueError: train and test differ in the number of seeds or in their poolings.
        """
        train, test = _listed(self.train), _listed(self.test)
        names = [sorted(part) for part in (*train, *test)]
        if not names or len(train) != len(test) or any(n != names[0] or not n for n in names):
            raise ValueError(
                f"arm {self.name!r} has {len(train)} seeds for train and {len(test)} for test, "
                f"with poolings {names}; give the same seeds and the same poolings to both"
            )
        return list(zip(train, test, strict=True))

    @property
    def poolings(self) -> list[str]:
        """Names of the poolings, in the order given."""
        return list(_listed(self.train)[0])


@dataclass(frozen=True)
class Scores:
    """What `score_arms` found.

    Attributes:
        metrics: flat, `<arm>/<probe>[@<pooling>]/accuracy` with `_low`, `_high` and `_seeds`,
            `<arm>/width[@<pooling>]`, `paired/<arm>-<control>/<probe>[@<pooling>]/accuracy` with
            `_low` and `_high`. Accuracies are shares in 0..1.
        correct: `<arm>/<probe>[@<pooling>]` -> averaged over seeds, correctness of each test row
            (test rows,), or for `*shot` probes the accuracy of each draw (draws,).
    """

    metrics: dict[str, float]
    correct: dict[str, Vector]


def concatenate(first: Arm, second: Arm, name: str | None = None) -> Arm:
    """The arm that sees both: each block standardised by its training rows, then side by side.

    Args:
        first: gives the poolings, such as `encoder`.
        second: with the single pooling "", such as `bar`, or with the same poolings; with one seed,
            which joins every seed of the first, or with as many.
        name: None for "<first>+<second>".

    Raises:
        ValueError: poolings or seeds that do not fit together.
    """
    ours, theirs = first.seeds(), second.seeds()
    if len(theirs) == 1:
        theirs = theirs * len(ours)
    if len(ours) != len(theirs):
        raise ValueError(
            f"arms {first.name!r} and {second.name!r} have {len(ours)} and {len(theirs)} seeds; "
            f"the second needs one, or as many as the first"
        )
    if missing := [p for p in first.poolings if not {p, ""} & set(second.poolings)]:
        raise ValueError(
            f"arm {second.name!r} has no pooling {missing[0]!r} to join {first.name!r}; it has "
            f"{second.poolings}"
        )
    train: list[Features] = []
    test: list[Features] = []
    for (our_train, our_test), (their_train, their_test) in zip(ours, theirs, strict=True):
        train.append({})
        test.append({})
        for pooling in first.poolings:
            other = pooling if pooling in their_train else ""
            blocks = (
                _standardised(our_train[pooling], our_test[pooling]),
                _standardised(their_train[other], their_test[other]),
            )
            train[-1] = {**train[-1], pooling: np.concatenate([b[0] for b in blocks], axis=1)}
            test[-1] = {**test[-1], pooling: np.concatenate([b[1] for b in blocks], axis=1)}
    return Arm(name or f"{first.name}+{second.name}", train, test)


def score_arms(
    arms: Sequence[Arm],
    train_y: ArrayLike,
    test_y: ArrayLike,
    probes: Sequence[str] = ("linear", "ridge", "knn"),
    primary: str = "mean",
    shots: Sequence[int] = (10,),
    draws: int = 20,
    seed: int = 0,
    auc: bool = False,
    few: Sequence[str] = ("linear",),
) -> Scores:
    """Score every arm, pooling and probe, and every learned arm against its controls.

    Intervals are 95 %: bootstrap over test rows, or Student's t over label draws for few-shot
    probes (other labels, the same test rows); both on scores averaged over encoder seeds. Paired
    differences use the same resamples and draws, and the same pooling where the control has it.

    Args:
        arms: with `raw` and `untrained` wherever a learned arm (`LEARNED`) is among them.
        train_y: (rows,).
        test_y: (test rows,), used for the scores only.
        probes: names from `PROBES`.
        primary: the pooling whose keys carry no `@`.
        shots: labels per class of the few-shot probes `<few>_<k>shot`; () for none.
        draws: label draws, the same for every arm.
        seed: of held-out parts, draws and resamples.
        auc: with two classes, also the area under the ROC curve of probes that give scores.
        few: probes with few labels, from `FEW_PROBES`.

    Raises:
        ValueError: a learned arm without its controls, unknown probes, names given twice, or
            features that do not fit the labels.
    """
    y, truth = np.asarray(train_y), np.asarray(test_y)
    check_arms(arms, y, truth, probes, primary)
    if unknown := [name for name in few if name not in FEW_PROBES]:
        raise ValueError(f"few = {unknown} are not known; choose from {', '.join(FEW_PROBES)}")
    small = {f"{name}_{count}shot": (name, count) for name in few for count in shots}
    kinds = [*probes, *small]
    metrics: dict[str, float] = {}
    correct: dict[str, Vector] = {}
    areas: dict[str, float] = {}
    for arm in arms:
        for pooling in arm.poolings:
            at = suffix(pooling, primary)
            pairs = [(train[pooling], test[pooling]) for train, test in arm.seeds()]
            metrics[f"{arm.name}/width{at}"] = float(pairs[0][0].shape[1])
            for kind in probes:
                fits = [_fit(kind, x, y, t, seed) for x, t in pairs]
                rows = [(fit.predictions == truth).astype(np.float64) for fit in fits]
                correct[f"{arm.name}/{kind}{at}"] = np.mean(rows, axis=0)
                if auc:
                    areas |= _auc(f"{arm.name}/{kind}{at}", fits, truth)
            for kind, (name, count) in small.items():
                found = [
                    k_shot(x, y, t, truth, count, draws, seed, FEW_PROBES[name]).accuracies
                    for x, t in pairs
                ]
                correct[f"{arm.name}/{kind}{at}"] = np.mean(found, axis=0)
    for key, interval in _intervals(correct, seed).items():
        _enter(metrics, key, interval)
        name = key.split("/")[0]
        count = next(len(arm.seeds()) for arm in arms if arm.name == name)
        metrics[f"{key}/accuracy_seeds"] = float(count)
    for key, interval in _intervals(_differences(arms, kinds, primary, correct), seed).items():
        _enter(metrics, key, interval)
    return Scores(metrics | areas, correct)


def suffix(pooling: str, primary: str) -> str:
    """`@<pooling>` as in the metric keys; empty for the primary pooling and for arms without."""
    return "" if pooling in ("", primary) else f"@{pooling}"


def _fit(kind: str, x: NDArray[Any], y: NDArray[Any], t: NDArray[Any], seed: int) -> Fit:
    return PROBES[kind](x, y, t) if kind == "knn" else PROBES[kind](x, y, t, seed=seed)


def _auc(key: str, fits: Sequence[Fit], truth: NDArray[Any]) -> dict[str, float]:
    """`<key>/auc`, averaged over seeds; nothing without scores of two classes, both in `truth`."""
    from sklearn.metrics import roc_auc_score

    areas = []
    for fit in fits:
        if fit.scores is None or fit.classes is None or len(fit.classes) != 2:
            return {}
        positive = truth == fit.classes[1]
        if positive.all() or not positive.any():
            return {}
        areas.append(float(roc_auc_score(positive, fit.scores[:, 1] - fit.scores[:, 0])))
    return {f"{key}/auc": float(np.mean(areas)), f"{key}/auc_seeds": float(len(areas))}


def _differences(
    arms: Sequence[Arm], kinds: Sequence[str], primary: str, correct: Mapping[str, Vector]
) -> dict[str, Vector]:
    """Learned arm minus control, per test row or draw."""
    named = {arm.name: arm for arm in arms}
    found = {}
    for name in (n for n in LEARNED if n in named):
        for control in (c for c in CONTROLS if c in named):
            for pooling in named[name].poolings:
                same = pooling if pooling in named[control].poolings else ""
                if same not in named[control].poolings:
                    continue
                ours, theirs = suffix(pooling, primary), suffix(same, primary)
                for kind in kinds:
                    key = f"paired/{name}-{control}/{kind}{ours}"
                    found[key] = (
                        correct[f"{name}/{kind}{ours}"] - correct[f"{control}/{kind}{theirs}"]
                    )
    return found


def _intervals(scores: Mapping[str, Vector], seed: int) -> dict[str, Interval]:
    """t over draws for few-shot keys; for the others one set of bootstrap resamples serves all."""
    few = {
        key: t_interval(values) for key, values in scores.items() if "shot" in key.split("/")[-1]
    }
    full = [key for key in scores if key not in few]
    if not full:
        return few
    found = bootstrap_intervals(np.stack([scores[key] for key in full]), seed=seed)
    return {**dict(zip(full, found, strict=True)), **few}


def _enter(metrics: dict[str, float], key: str, interval: Interval) -> None:
    for ending, value in zip(("", "_low", "_high"), interval, strict=True):
        metrics[f"{key}/accuracy{ending}"] = value


def _listed(part: Features | Sequence[Features]) -> list[Features]:
    return [part] if isinstance(part, Mapping) else list(part)


def _standardised(train: NDArray[Any], test: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    x, t = floats(train), floats(test)
    mean, std = standardise(x)
    x, t = (part.sub_(mean).div_(std).float() for part in (x, t))
    return x.numpy(), t.numpy()


def check_arms(
    arms: Sequence[Arm],
    y: NDArray[Any],
    truth: NDArray[Any],
    probes: Sequence[str],
    primary: str,
) -> None:
    """Everything that can be wrong, before the first probe runs.

    Raises:
        ValueError: see `score_arms`.
    """
    if unknown := [name for name in probes if name not in PROBES]:
        raise ValueError(f"probes {unknown} are not known; choose from {', '.join(PROBES)}")
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names) or any("/" in name or "@" in name for name in names):
        raise ValueError(f"arm names {names} must differ and hold neither '/' nor '@'")
    for arm in arms:
        for train, test in arm.seeds():
            for pooling in arm.poolings:
                found = (len(train[pooling]), len(test[pooling]))
                if found != (len(y), len(truth)):
                    raise ValueError(
                        f"arm {arm.name!r}, pooling {pooling!r}: {found[0]} training and "
                        f"{found[1]} test rows, but {len(y)} and {len(truth)} labels"
                    )
    learned = [arm for arm in arms if arm.name in LEARNED]
    if learned and (missing := [name for name in REQUIRED if name not in names]):
        raise ValueError(
            f"arm {learned[0].name!r} comes without its controls {missing}: every result stands "
            f"beside the same probe on raw input and on the untrained encoder; add these arms"
        )
    for arm in learned:
        if primary not in arm.poolings:
            raise ValueError(
                f"primary pooling {primary!r} is not one of arm {arm.name!r}'s {arm.poolings}"
            )
        control = next(a for a in arms if a.name == "untrained")
        if lacking := set(arm.poolings) - set(control.poolings):
            raise ValueError(
                f"arm 'untrained' lacks the poolings {sorted(lacking)} of arm {arm.name!r}; pool "
                f"both alike"
            )
