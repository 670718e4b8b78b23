"""Read a run's flat `metrics.json` back into scores: arm, probe, pooling, metric, interval."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

LEARNED = ("encoder", "student")
ARMS = {  # the arms that every report knows, in the order of their rows
    "encoder": "pretrained, target encoder",
    "student": "pretrained, context encoder",
    "untrained": "the same encoder, random weights",
    "raw": "raw input",
    "bar": "the field's features without gradient learning",
    "nystroem": "kernel features at the encoder's width, nothing learned",
    "trees": "leaves of random trees at the encoder's width, nothing learned",
}
SHARES = ("accuracy", "top1", "top5")  # shown in percent; differences in points
LOWER_IS_BETTER = ("error", "rmse", "mse", "mae", "nll", "loss", "brier")
_SIBLINGS = ("_low", "_high", "_seeds")


class Column(NamedTuple):
    """What was measured: a probe on a pooling ("" is the recipe's primary one) and its metric."""

    probe: str
    pooling: str
    metric: str


@dataclass(frozen=True)
class Score:
    """A value with its interval and the number of seeds; a part that is not known is None."""

    value: float
    low: float | None = None
    high: float | None = None
    seeds: float | None = None


@dataclass(frozen=True)
class Results:
    """All scores of one run.

    Attributes:
        arms: scores by (arm, column).
        paired: differences by (arm, control, column).
        other: what has neither form, such as `collapse/rankme` and `speed/samples_per_second`.
    """

    arms: dict[tuple[str, Column], Score] = field(default_factory=dict)
    paired: dict[tuple[str, str, Column], Score] = field(default_factory=dict)
    other: dict[str, float] = field(default_factory=dict)


def parse(metrics: Mapping[str, object]) -> Results:
    """Sort flat metrics into scores; entries that are not finite numbers count as missing."""
    numbers = {
        key: float(value)
        for key, value in metrics.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }
    results = Results()
    names = {key.split("/")[0] for key in numbers}
    for key, value in numbers.items():
        base = next((key.removesuffix(end) for end in _SIBLINGS if key.endswith(end)), key)
        if base != key and base in metrics:
            continue
        parts = key.split("/")
        if len(parts) < 3 or parts[0] in ("collapse", "speed"):
            results.other[key] = value
            continue
        score = Score(value, *(numbers.get(key + end) for end in _SIBLINGS))
        if parts[0] == "paired":
            if len(parts) == 4:
                results.paired[*_pair(parts[1], names), _column(parts[2], parts[3])] = score
        else:
            results.arms[parts[0], _column("/".join(parts[1:-1]), parts[-1])] = score
    return results


def _column(probe: str, metric: str) -> Column:
    name, _, pooling = probe.partition("@")
    return Column(name, pooling, metric)


def _pair(name: str, arms: Iterable[str]) -> tuple[str, str]:
    """Split "arm-control"; an arm's name may hold a hyphen itself."""
    known = set(arms)
    cuts = [(name[:at], name[at + 1 :]) for at, letter in enumerate(name) if letter == "-"]
    return next((cut for cut in cuts if known.issuperset(cut)), cuts[0] if cuts else (name, ""))


def is_control(arm: str) -> bool:
    """Whether an arm is there to be beaten: all but the learned encoders and what adds to them."""
    return arm.split("+")[0] not in LEARNED


def arm_order(arms: Iterable[str]) -> list[str]:
    """Learned encoders first, then the controls, known names before others."""
    known = list(ARMS)

    def rank(arm: str) -> tuple[bool, int, bool]:
        base = arm.split("+")[0]
        return is_control(arm), known.index(base) if base in known else len(known), arm != base

    return sorted(dict.fromkeys(arms), key=rank)


def describe(arm: str) -> str:
    """An arm in plain words; unknown arms describe themselves by their name."""
    base, *added = arm.split("+")
    if base in LEARNED and added:
        return f"{ARMS[base]}, with {' and '.join(added)} features beside it"
    return ARMS.get(arm, "")


def primary_columns(results: Results) -> list[Column]:
    """The first metric of every probe on the primary pooling, where a control stands beside it."""
    columns = {c.probe: c for c in reversed([c for _, c in results.arms]) if not c.pooling}
    controlled = {c for arm, c in results.arms if is_control(arm)}
    order = dict.fromkeys(c.probe for _, c in results.arms if not c.pooling)
    return [columns[probe] for probe in order if columns[probe] in controlled]


def further_columns(results: Results) -> list[Column]:
    """The other metrics of the primary pooling, where a control stands beside them."""
    shown = set(primary_columns(results))
    controlled = {c for arm, c in results.arms if is_control(arm)}
    rest = dict.fromkeys(c for _, c in results.arms if not c.pooling and c not in shown)
    return [column for column in rest if column in controlled]


def without_control(results: Results) -> list[Column]:
    """Columns that no control shares (under a pooling: the untrained encoder); not to be shown."""
    controlled = {
        c for arm, c in results.arms if (arm == "untrained" if c.pooling else is_control(arm))
    }
    return [c for c in dict.fromkeys(c for _, c in results.arms) if c not in controlled]


def few_label_columns(results: Results) -> list[tuple[str, float, Column]]:
    """(probe, amount, column) of probes named like `linear_10shot` or `linear_1pct`, ascending."""
    found = []
    for column in primary_columns(results):
        if match := re.fullmatch(r"(.+)_(\d+(?:\.\d+)?)(shot|pct|percent)", column.probe):
            found.append((match[1] + match[3], float(match[2]), column))
    return sorted(found, key=lambda item: item[:2])


def probe_name(probe: str) -> str:
    """A probe in plain words: `linear_10shot` -> "linear, 10 labels per class"."""
    if match := re.fullmatch(r"(.+)_(\d+(?:\.\d+)?)(shot|pct|percent)", probe):
        label = "label" if match[2] == "1" else "labels"
        unit = f"{match[2]} {label} per class" if match[3] == "shot" else f"{match[2]} % of labels"
        return f"{match[1].replace('_', ' ')}, {unit}"
    return "kNN" if probe == "knn" else probe.replace("_", " ")


def is_share(metric: str) -> bool:
    """Whether a metric is a fraction that reads best in percent."""
    return any(metric.endswith(name) for name in SHARES)


def is_lower_better(metric: str) -> bool:
    """Whether a smaller value of this metric is the better one."""
    return any(part in LOWER_IS_BETTER for part in metric.split("_"))


def number(value: float | None, metric: str, signed: bool = False) -> str:
    """A value as people read it: fractions in percent with one decimal, others in 4 digits."""
    if value is None:
        return "n/a"
    sign = "+" if signed else ""
    plain = f"{100 * value:{sign}.1f}" if is_share(metric) else f"{value:{sign}.4g}"
    return plain.replace("-", "\N{MINUS SIGN}") if "e-" not in plain else plain


def outcome(score: Score, metric: str) -> str:
    """What a paired difference says: "beats", "tie", "falls below", or "unknown" (no interval)."""
    if score.low is None or score.high is None:
        return "unknown"
    low, high = score.low, score.high
    if is_lower_better(metric):
        low, high = -high, -low
    return "beats" if low > 0 else "falls below" if high < 0 else "tie"


def best(scores: Mapping[str, Score], metric: str) -> set[str]:
    """The arms with the best value of one column; equal values share the place."""
    if not scores:
        return set()
    pick = min if is_lower_better(metric) else max
    top = pick(score.value for score in scores.values())
    return {arm for arm, score in scores.items() if score.value == top}
