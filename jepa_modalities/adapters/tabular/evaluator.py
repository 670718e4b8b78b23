"""Table evaluation: encoders beside raw columns, the untrained encoder and the bars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_modalities.adapters.tabular.bar import (
    BINS,
    choose,
    fit_nystroem,
    fit_trees,
    piecewise_maps,
    raw_map,
)
from jepa_modalities.adapters.tabular.preprocess import TableArrays, TablePreprocess
from jepa_modalities.adapters.tabular.tokenizer import pack
from jepa_modalities.eval.arms import PROBES, Arm, concatenate, score_arms
from jepa_modalities.eval.features import POOLINGS, FeatureCache, extract, fingerprint
from jepa_modalities.eval.head.fraction import label_curve
from jepa_modalities.eval.probes import holdout
from jepa_modalities.eval.regression import score_regression, value_holdout

if TYPE_CHECKING:
    from jepa_modalities.adapters.tabular.adapter import TabularAdapter

Array = NDArray[Any]
GAMMAS = (0.3, 1.0, 3.0)
LEAVES = (4, 8, 16, 32)
CHOICE_ROWS = 5000  # bandwidth and leaves are chosen on so many training rows


@dataclass(frozen=True)
class Rows:
    """Labelled rows of the splits that an evaluation uses.

    Attributes:
        train: row numbers that probes are fitted on.
        val: row numbers that controls are chosen on.
        kept: training rows that controls are fitted on for that choice, (training rows,).
        score: row numbers that are scored.
        target: of all rows: numbers, or class names.
    """

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    kept: NDArray[np.bool_]
    score: NDArray[np.int64]
    target: Array

    def outputs(self, rows: NDArray[np.int64], regression: bool) -> Array:
        """Targets of rows as ridge outputs, (rows, 1) or one-hot (rows, classes)."""
        y = self.target[rows]
        if regression:
            return y[:, None].astype(np.float64)
        return (y[:, None] == np.unique(self.target[self.train])).astype(np.float64)


def labelled(adapter: TabularAdapter) -> Rows:
    """The labelled rows; a tenth of the training rows stands in where nothing is validation.

    Controls are then chosen among those fitted on the other nine tenths, and fitted again on all.

    Raises:
        ValueError: no labelled row to train on or to score.
    """
    table, score = adapter.table, adapter.config.data.score
    assert table.target is not None
    train, val, scored = (table.rows(split, True) for split in ("train", "val", score))
    for name, rows, least in (("train", train, 20), (score, scored, 2)):
        if len(rows) < least:
            raise ValueError(
                f"{len(rows)} rows of the split {name!r} have a target; probes need at least "
                f"{least}. Set evaluate.enabled to False to pretrain only"
            )
    kept = np.ones(len(train), dtype=bool)
    if len(val) < 10:
        kept = ~value_holdout(np.unique(table.target[train], return_inverse=True)[1])
        val = train[~kept]
    return Rows(train, val, kept, scored, table.target)


def check(adapter: TabularAdapter) -> None:
    """Complain before training about an evaluation that could not be done after it.

    Raises:
        ValueError: unknown poolings or probes, no untrained control, too few labels or one class.
    """
    choice = adapter.config.evaluate
    for name, given, known in (
        ("poolings", choice.poolings, POOLINGS),
        ("probes", choice.probes, tuple(PROBES)),
        ("pooling", (choice.pooling,), choice.poolings),
    ):
        if unknown := [item for item in given if item not in known]:
            raise ValueError(f"evaluate.{name}: {unknown[0]!r} is not one of {', '.join(known)}")
    if choice.untrained < 1:
        raise ValueError("evaluate.untrained = 0: no result without this control; give at least 1")
    rows = labelled(adapter)
    y = rows.target[rows.train]
    if len(np.unique(y)) < 2:
        raise ValueError("the target has one value in the training rows; nothing can be probed")
    for name in ("attentive", "finetune"):
        if getattr(choice, name):
            raise ValueError(
                f"evaluate.{name} is not for tables; TabularJEPAClassifier and its sibling "
                f"fine-tune (head='finetune')"
            )
    if bad := [share for share in choice.fractions if not 0 < share <= 1]:
        raise ValueError(f"evaluate.fractions = {choice.fractions}: {bad[0]} is not in (0, 1]")
    if choice.draws < 2 and (choice.fractions or choice.shots):
        raise ValueError(f"evaluate.draws = {choice.draws}: an interval needs at least 2")
    if adapter.table.task != "classification":
        return
    try:
        holdout(y)
    except ValueError as error:
        raise ValueError(
            f"data.target = {adapter.config.data.target!r} cannot be probed as classes: {error}. "
            f"Set data.task to regression, name another column, or set evaluate.enabled to False"
        ) from None
    fewest = int(np.unique(y, return_counts=True)[1].min())
    if choice.shots and not 1 <= min(choice.shots) <= max(choice.shots) <= fewest:
        raise ValueError(
            f"evaluate.shots = {choice.shots}: give labels per class from 1 to {fewest}, the rows "
            f"of the rarest class"
        )


def evaluate(
    adapter: TabularAdapter, encoders: dict[str, list[nn.Module]], run: Path
) -> dict[str, float]:
    """Score every arm on the rows of `data.score`, probes fitted on training rows.

    Args:
        adapter: with its data open.
        encoders: `encoder` (teacher), `student`, `untrained` (several seeds).
        run: run folder; features are kept in `run/features`.

    Returns:
        Flat metrics, see `eval.arms.score_arms` and `eval.regression.score_regression`; the bars
        are `bar` (piecewise-linear inputs), `nystroem` and `trees`.
    """
    choice, rows = adapter.config.evaluate, labelled(adapter)
    regression = adapter.table.task == "regression"
    arms = encoder_arms(adapter, encoders, rows, run)
    width = next(iter(arms[0].seeds()))[0][choice.pooling].shape[1]
    controls, facts = control_arms(adapter, rows, width)
    arms += controls
    bar = next(arm for arm in arms if arm.name == "bar")
    for name in ("encoder", "untrained"):
        first = next(arm for arm in arms if arm.name == name)
        arms.append(concatenate(narrowed(first, choice.pooling), bar))
    y, truth = rows.target[rows.train], rows.target[rows.score]
    if regression:
        metrics = score_regression(arms, y, truth, choice.pooling).metrics
    else:
        metrics = score_arms(
            arms, y, truth, choice.probes, choice.pooling, choice.shots, choice.draws, auc=True
        ).metrics
    if choice.fractions:
        metrics |= fraction_metrics(arms, y, truth, regression, adapter.config)
    metrics |= facts
    metrics["data/train_labels"] = float(len(rows.train))
    metrics["data/scored_rows"] = float(len(rows.score))
    return metrics


def encoder_arms(
    adapter: TabularAdapter, encoders: Mapping[str, list[nn.Module]], rows: Rows, run: Path
) -> list[Arm]:
    """Features of every encoder and seed under every pooling, each computed once and kept."""
    cache = FeatureCache(run / "features")
    poolings = adapter.config.evaluate.poolings
    frame, tokenizer = adapter.table.frame, adapter.tokenizer
    packed = {
        "train": pack(adapter.preprocess.transform(frame.iloc[rows.train])),
        adapter.config.data.score: pack(adapter.preprocess.transform(frame.iloc[rows.score])),
    }

    def tokenize(values: Tensor) -> Any:
        return tokenizer(values.to(tokenizer.about.device))

    def features(arm: str, model: nn.Module, split: str) -> dict[str, Array]:
        values = packed[split]
        mark = fingerprint(model, values)
        return cache.features(
            arm, split, poolings, mark, lambda names: extract(model, tokenize, values, names, 2048)
        )

    return [
        Arm(
            name,
            *(
                [features(f"{name}{n}", model, split) for n, model in enumerate(models)]
                for split in packed
            ),
        )
        for name, models in encoders.items()
    ]


def control_arms(
    adapter: TabularAdapter, rows: Rows, width: int
) -> tuple[list[Arm], dict[str, float]]:
    """Raw columns and the three bars; scale, bins, bandwidth and leaves are chosen on validation
    rows.

    Args:
        adapter: with its data open.
        rows: labelled rows.
        width: of the encoder's features, which the bars get too.

    Returns:
        The arms, and `chosen/...`: which scale, bins, bandwidth and leaves were taken.
    """
    regression = adapter.table.task == "regression"
    kept = rows.kept
    y, val_y = (rows.outputs(part, regression) for part in (rows.train[kept], rows.val))
    frame, data = adapter.table.frame, adapter.config.data
    seed = adapter.config.train.seed

    def arrays(process: TablePreprocess, part: NDArray[np.int64]) -> TableArrays:
        return process.transform(frame.iloc[part])

    every = frame.iloc[adapter.table.rows("train")]
    raws: dict[str, list[Array]] = {}
    for method in dict.fromkeys(("standard", "quantile", data.numeric)):
        process = TablePreprocess.fit(every, method, adapter.table.categorical, data.max_levels)
        map_ = raw_map(arrays(process, rows.train), process.cardinalities)
        raws[method] = [map_(arrays(process, part)) for part in (rows.train, rows.val, rows.score)]
    scale, _ = choose({name: (r[0][kept], r[1]) for name, r in raws.items()}, y, val_y)
    found = [arm("raw", raws[scale][0], raws[scale][2])]

    process = adapter.preprocess
    parts = [arrays(process, part) for part in (rows.train, rows.val, rows.score)]
    codes = {
        str(bins): [apply(part) for part in parts]
        for bins, apply in piecewise_maps(parts[0], process.cardinalities, width).items()
    }
    bins, _ = choose({name: (c[0][kept], c[1]) for name, c in codes.items()}, y, val_y)
    found.append(arm("bar", codes[bins][0], codes[bins][2]))
    x, v, t = codes[str(BINS[0])]  # finer ones gave Nystroem nothing on electricity
    sample = np.random.default_rng(seed).permutation(len(y))[:CHOICE_ROWS]
    some, some_y = x[kept][sample], y[sample]
    tried = {}
    for gamma in GAMMAS:
        small = fit_nystroem(some, min(width, 512), gamma, seed)
        tried[str(gamma)] = (small(some), small(v))
    gamma = float(choose(tried, some_y, val_y)[0])
    tried = {}
    for leaves in LEAVES:
        small = fit_trees(some, min(width, 512), seed, leaves)
        tried[str(leaves)] = (small(some), small(v))
    leaves = int(choose(tried, some_y, val_y)[0])
    for name, kernel in (
        ("nystroem", fit_nystroem(x, width, gamma, seed)),
        ("trees", fit_trees(x, width, seed, leaves)),
    ):
        found.append(arm(name, kernel(x), kernel(t)))
    return found, {
        f"chosen/raw_{scale}": 1.0,
        "chosen/piecewise_bins": float(bins),
        "chosen/nystroem_gamma": gamma,
        "chosen/tree_leaves": float(leaves),
    }


def arm(name: str, train: Array, score: Array) -> Arm:
    """An arm without tokens: a single pooling."""
    return Arm(name, {"": train}, {"": score})


def narrowed(arm: Arm, pooling: str) -> Arm:
    """The same arm with its primary pooling only."""
    seeds = arm.seeds()
    return Arm(
        arm.name,
        [{pooling: train[pooling]} for train, _ in seeds],
        [{pooling: test[pooling]} for _, test in seeds],
    )


def fraction_metrics(
    arms: list[Arm], y: Array, truth: Array, regression: bool, config: Any
) -> dict[str, float]:
    """A linear head with a part of the labels, the same part for every arm: its metric keys."""
    choice = config.evaluate
    probe, metric = ("ridge", "rmse") if regression else ("linear", "accuracy")
    found: dict[str, float] = {}
    for one in arms:
        pooling = choice.pooling if choice.pooling in one.poolings else ""
        train, test = one.seeds()[0]
        curve = label_curve(
            train[pooling], y, test[pooling], truth, regression, choice.fractions, choice.draws
        )
        for share, part in curve.items():
            key = f"{one.name}/{probe}_{100 * share:g}pct/{metric}"
            low, high = part.interval.low, part.interval.high
            found |= {key: part.interval.mean, f"{key}_low": low, f"{key}_high": high}
    return {key: value for key, value in found.items() if np.isfinite(value)}
