"""Records with several labels at once: probes, and paired intervals of their macro AUC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from jepa_modalities.eval.arms import CONTROLS, LEARNED, REQUIRED, Arm, suffix
from jepa_modalities.eval.macro_auc import (
    Array,
    macro_auc,
    resample_count,
    resampled_macro,
    resamples,
)
from jepa_modalities.eval.probes import floats, rotate, solve_logistic, standardise
from jepa_modalities.eval.statistics import Interval, t_interval

# scikit-learn's C of each label's own logistic regression.
C_GRID = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
CHUNK = 100_000_000  # feature numbers that are repeated over labels at a time
PROBES = ("linear", "knn")


class LinearMultilabel(NamedTuple):
    """A fitted logistic regression per label.

    Attributes:
        mean: of the training features, (1, width).
        std: their spread, (1, width).
        weight: on standardised features, (classes, width).
        bias: (classes,).
        c: the chosen C.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor
    c: float

    def scores(self, x: ArrayLike) -> Array:
        """Log-odds of features (rows, width), (rows, classes)."""
        return self._scores(self.standardised(x))

    def standardised(self, x: ArrayLike) -> Tensor:
        """Features (rows, width) on the scale of the weights."""
        return ((floats(np.asarray(x)) - self.mean) / self.std).float()

    def _scores(self, x: Tensor) -> Array:
        return (x @ self.weight.T + self.bias).double().numpy()


def fit_multilabel(
    train_x: ArrayLike,
    train_y: ArrayLike,
    valid_x: ArrayLike | None = None,
    valid_y: ArrayLike | None = None,
    grid: Sequence[float] = C_GRID,
    folds: int = 5,
    seed: int = 0,
) -> LinearMultilabel:
    """A logistic regression per label on standardised features, one C for all labels.

    Args:
        train_x: (rows, width).
        train_y: 0 or 1, (rows, classes); a class without both gets score 0.
        valid_x: records that C is chosen on, (rows, width).
        valid_y: their labels; None chooses C by cross-validation in the training rows instead.
        grid: values of C.
        folds: of the cross-validation.
        seed: of the folds.

    Raises:
        ValueError: labels that do not fit the features, or features that are not finite.
    """
    y = np.asarray(train_y)
    for name, part, labels in (("train", train_x, y), ("valid", valid_x, valid_y)):
        values, told = np.asarray(part), np.asarray(labels)
        if name == "valid" and valid_y is None:
            continue
        if values.ndim != 2 or told.ndim != 2 or len(values) != len(told):
            raise ValueError(
                f"{name}_x has shape {values.shape} and {name}_y {told.shape}; expected (rows, "
                f"width) and (rows, classes)"
            )
        if bad := int((~np.isfinite(values)).any(1).sum()):
            raise ValueError(
                f"{name}_x: the features of {bad} of {len(values)} rows are not finite"
            )
    both = np.flatnonzero((y.sum(0) > 0) & (y.sum(0) < len(y)))
    x = floats(np.asarray(train_x))
    mean, std = standardise(x)
    z, back = rotate(x.sub_(mean).div_(std).float()[None])
    model = LinearMultilabel(
        mean, std, torch.zeros(y.shape[1], x.shape[1]), torch.zeros(y.shape[1]), 0.0
    )
    if not len(both):
        return model
    held = None if valid_y is None else model.standardised(np.asarray(valid_x))
    every = torch.ones(1, len(y))
    inside = every
    if held is None:
        fold = np.random.default_rng(seed).permutation(len(y)) % folds
        inside = torch.from_numpy(fold != np.arange(folds)[:, None]).float()
    best, answer = -1.0, model
    weight: Tensor | None = None
    full: Tensor | None = None
    for c in sorted(grid):
        weight = _solved(z, y[:, both], inside, c, weight)
        if held is None:
            out = torch.einsum("kpw,nw->pnk", weight, F.pad(z[0], (0, 1), value=1.0))
            # Every row is scored by the model that has not seen it.
            guess = (out * (1 - inside)[..., None]).sum(0).double().numpy()
            reached = macro_auc(y[:, both], guess)
            full = _solved(z, y[:, both], every, c, full)
            found = _placed(model, full[:, 0], back, both, c)
        else:
            found = _placed(model, weight[:, 0], back, both, c)
            reached = macro_auc(np.asarray(valid_y)[:, both], found._scores(held)[:, both])
        if reached > best:  # among equals the most regularised
            best, answer = reached, found
    return answer


def _placed(
    model: LinearMultilabel, solved: Tensor, back: Tensor | None, both: NDArray[np.int64], c: float
) -> LinearMultilabel:
    """`model` with solved weights (labels, r + 1), turned back and at their labels' places."""
    weight, bias = torch.zeros_like(model.weight), torch.zeros_like(model.bias)
    weight[both] = solved[:, :-1] if back is None else solved[:, :-1] @ back[0].T
    bias[both] = solved[:, -1]
    return model._replace(weight=weight, bias=bias, c=c)


def linear_multilabel(
    train_x: ArrayLike,
    train_y: ArrayLike,
    others: Sequence[ArrayLike],
    valid_y: ArrayLike | None = None,
    grid: Sequence[float] = C_GRID,
    folds: int = 5,
    seed: int = 0,
) -> tuple[list[Array], float]:
    """Log-odds of each of `others`, (rows, classes), and the chosen C; see `fit_multilabel`.

    With `valid_y`, the labels of the first of `others`, C is chosen on these.
    """
    model = fit_multilabel(train_x, train_y, others[0], valid_y, grid, folds, seed)
    return [model.scores(part) for part in others], model.c


def _solved(z: Tensor, y: NDArray[Any], rows: Tensor, c: float, start: Tensor | None) -> Tensor:
    """Weights of the log-odds per label and problem, (classes, problems, width + 1).

    A softmax over {no, yes} whose two weight vectors are opposite: half the penalty of one
    vector's square, hence the factor 2.
    """
    label = torch.from_numpy(y).T.float()
    penalty = 2 / (c * float(rows.sum(1).mean()))
    step = max(1, CHUNK // z.numel())
    parts = []
    for low in range(0, len(label), step):
        part = label[low : low + step]
        onehot = torch.stack([1 - part, part], 1)
        before = None
        if start is not None:
            half = start[low : low + step] / 2
            before = torch.stack([-half, half], 2)
        shape = (len(part), -1, -1)
        pair = solve_logistic(z.expand(shape), onehot, rows.expand(shape), penalty, before)
        parts.append(pair[:, :, 1] - pair[:, :, 0])
    return torch.cat(parts)


def knn_multilabel(
    train_x: ArrayLike,
    train_y: ArrayLike,
    test_x: ArrayLike,
    neighbours: int = 20,
    temperature: float = 0.1,
) -> Array:
    """Share of each label among the nearest neighbours by cosine, weighted exp(similarity / T).

    Args:
        train_x: (rows, width); both are standardised by the training rows first.
        train_y: 0 or 1, (rows, classes).
        test_x: (test rows, width).
        neighbours: how many.
        temperature: T.
    """
    x, t = floats(np.asarray(train_x)), floats(np.asarray(test_x))
    mean, std = standardise(x)
    x, t = (F.normalize(((part - mean) / std).float()) for part in (x, t))
    near = (t @ x.T).topk(min(neighbours, len(x)))
    vote = (near.values / temperature).softmax(1)
    labels = torch.from_numpy(np.asarray(train_y)).float()[near.indices]
    return (vote[..., None] * labels).sum(1).double().numpy()


def label_draws(train_y: ArrayLike, count: int, draws: int, seed: int = 0) -> NDArray[np.int64]:
    """Rows of each draw of `count` labelled records, (draws, count), the same for every arm.

    Stratified: classes in turn, the rarest first, each takes a random record that has it and is not
    taken, so that even a small draw holds every class; what is left is drawn from all.

    Raises:
        ValueError: fewer records than asked for.
    """
    y = np.asarray(train_y).astype(bool)
    if count > len(y):
        raise ValueError(f"{count} labelled records were asked for, there are {len(y)}")
    generator = np.random.default_rng(seed)
    least = max(1, count // (4 * y.shape[1]))
    found = []
    for _ in range(draws):
        order = generator.permutation(len(y))
        taken: list[int] = []
        for column in np.argsort(y.sum(0)):
            have = int(y[taken, column].sum()) if taken else 0
            more = [row for row in order[y[order, column]] if row not in set(taken)]
            taken += more[: max(min(least - have, count - len(taken)), 0)]
        rest = order[~np.isin(order, taken)]
        found.append(np.r_[np.array(taken, np.int64), rest[: count - len(taken)]])
    return np.stack(found)


def score_multilabel(
    arms: Sequence[Arm],
    train_y: ArrayLike,
    held_y: ArrayLike,
    valid: NDArray[np.bool_],
    probes: Sequence[str] = ("linear", "knn"),
    primary: str = "mean",
    counts: Sequence[int] = (),
    draws: int = 8,
    seed: int = 0,
) -> tuple[dict[str, float], dict[str, list[Array]]]:
    """Every arm, pooling and probe by macro AUC, and every learned arm against its controls.

    Args:
        arms: `test` holds the rows for choices and those for scores together; with `raw` and
            `untrained` wherever a learned arm is among them.
        train_y: (rows, classes).
        held_y: (held rows, classes).
        valid: True for the held rows on which C is chosen; the others are scored, once.
        probes: names from `PROBES`.
        primary: the pooling whose keys carry no `@`.
        counts: numbers of labelled records for `linear_<n>labels`.
        draws: of the few labels.
        seed: of resamples and draws.

    Returns:
        Flat metrics `<arm>/<probe>[@<pooling>]/macro_auc` with `_low`, `_high`, `_seeds` and
        `paired/...`; and the scored rows' scores of every key, one array per seed.

    Raises:
        ValueError: a learned arm without its controls, or unknown probes.
    """
    check_arms(arms, probes)
    y, held = np.asarray(train_y), np.asarray(held_y)
    truth = held[~valid]
    weight = resamples(truth, resample_count(truth), seed)
    scored: dict[str, list[Array]] = {}
    few: dict[str, Array] = {}
    metrics: dict[str, float] = {}
    for arm in arms:
        for pooling in arm.poolings:
            at = suffix(pooling, primary)
            for train, test in arm.seeds():
                x, t = train[pooling], test[pooling]
                metrics[f"{arm.name}/width{at}"] = float(x.shape[1])
                for probe in probes:
                    scores = _probed(probe, x, y, t[valid], held[valid], t[~valid])
                    scored.setdefault(f"{arm.name}/{probe}{at}", []).append(scores)
            if pooling in ("", primary):
                for count in counts:
                    few[f"{arm.name}/linear_{count}labels"] = _few(
                        arm, pooling, y, held, valid, count, draws, seed
                    )
    metrics |= intervals(scored, truth, weight, pairs(arms, probes, primary))
    for key, values in few.items():
        metrics |= _entry(f"{key}/macro_auc", t_interval(values))
    for name, control, count in ((n, c, m) for n in LEARNED for c in CONTROLS for m in counts):
        mine, theirs = f"{name}/linear_{count}labels", f"{control}/linear_{count}labels"
        if mine in few and theirs in few:
            found = t_interval(few[mine] - few[theirs])
            metrics |= _entry(f"paired/{name}-{control}/linear_{count}labels/macro_auc", found)
    return metrics, scored


def check_arms(arms: Sequence[Arm], probes: Sequence[str]) -> None:
    """Raise ValueError for unknown probes, or a learned arm without raw input and untrained."""
    if unknown := [name for name in probes if name not in PROBES]:
        raise ValueError(f"probes {unknown} are not known; choose from {', '.join(PROBES)}")
    names = [arm.name for arm in arms]
    learned = [name for name in names if name in LEARNED]
    if learned and (missing := [name for name in REQUIRED if name not in names]):
        raise ValueError(
            f"arm {learned[0]!r} comes without its controls {missing}: every result stands beside "
            f"the same probe on raw input and on the untrained encoder; add these arms"
        )


def _probed(
    probe: str, x: Any, y: NDArray[Any], valid_x: Any, valid_y: NDArray[Any], test_x: Any
) -> Array:
    if probe == "knn":
        return knn_multilabel(x, y, test_x)
    return linear_multilabel(x, y, [valid_x, test_x], valid_y)[0][1]


def _few(
    arm: Arm,
    pooling: str,
    y: NDArray[Any],
    held: NDArray[Any],
    valid: NDArray[np.bool_],
    count: int,
    draws: int,
    seed: int,
) -> Array:
    """Macro AUC of every draw of so many labels, averaged over encoder seeds, (draws,)."""
    rows = label_draws(y, count, draws, seed)
    reached = [
        [
            macro_auc(
                held[~valid],
                linear_multilabel(train[pooling][r], y[r], [test[pooling][~valid]])[0][0],
            )
            for r in rows
        ]
        for train, test in arm.seeds()
    ]
    return np.mean(reached, axis=0)


def pairs(arms: Sequence[Arm], probes: Sequence[str], primary: str) -> dict[str, tuple[str, str]]:
    """Which keys of scores are compared: name of the difference -> (learned, control)."""
    named = {arm.name: arm for arm in arms}
    found = {}
    for name in (n for n in LEARNED if n in named):
        for control in (c for c in CONTROLS if c in named):
            for pooling in named[name].poolings:
                same = pooling if pooling in named[control].poolings else ""
                if same not in named[control].poolings:
                    continue
                ours, theirs = suffix(pooling, primary), suffix(same, primary)
                for probe in probes:
                    key = f"paired/{name}-{control}/{probe}{ours}"
                    found[key] = (f"{name}/{probe}{ours}", f"{control}/{probe}{theirs}")
    return found


def intervals(
    scored: Mapping[str, Sequence[Array]],
    truth: NDArray[Any],
    weight: Array,
    compared: Mapping[str, tuple[str, str]],
) -> dict[str, float]:
    """Macro AUC with 95 % bootstrap intervals over rows, and paired differences.

    Args:
        scored: key -> scores of the rows, one array per seed; AUCs are averaged over the seeds.
        truth: (rows, classes).
        weight: from `resamples`.
        compared: from `pairs`.
    """
    metrics: dict[str, float] = {}
    drawn, mean = {}, {}
    for key, seeds in scored.items():
        drawn[key] = np.mean([resampled_macro(truth, s, weight) for s in seeds], axis=0)
        mean[key] = float(np.mean([macro_auc(truth, s) for s in seeds]))
        metrics |= _entry(f"{key}/macro_auc", _interval(mean[key], drawn[key]))
        metrics[f"{key}/macro_auc_seeds"] = float(len(seeds))
    for key, (ours, theirs) in compared.items():
        if ours in drawn and theirs in drawn:
            found = _interval(mean[ours] - mean[theirs], drawn[ours] - drawn[theirs])
            metrics |= _entry(f"{key}/macro_auc", found)
    return metrics


def _interval(mean: float, drawn: Array) -> Interval:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(mean, float(low), float(high))


def _entry(key: str, interval: Interval) -> dict[str, float]:
    return dict(zip((key, f"{key}_low", f"{key}_high"), interval, strict=True))
