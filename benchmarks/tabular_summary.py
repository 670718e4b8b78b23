"""The cells of `tabular_suite.py` as tables: JSON for machines, Markdown for people."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from evidence import about
from tabular_arm import SEEN, TABLES, Array, Data

from jepa_modalities.eval.head.metric import Metric, average_ranks, outcome, paired, scores
from jepa_modalities.eval.statistics import t_interval

if TYPE_CHECKING:
    from tabular_suite import Suite

BARS = ("ple", "nystroem", "trees")
WITH_AUC = ("adult", "bank", "credit_default")
# Tuned networks on the canonical splits, 15 seeds (Gorishniy et al. 2021, their per-seed files).
TUNED = {
    "adult": {"MLP": 0.8522, "DCN V2": 0.8529, "ResNet": 0.8544, "FT-Transformer": 0.8574},
    "california": {"MLP": 0.4985, "DCN V2": 0.4837, "ResNet": 0.4856, "FT-Transformer": 0.4688},
}


def metric_of(data: Data) -> Metric:
    """The first metric of a table."""
    return "rmse" if data.regression else "accuracy"


def score_cell(data: Data, predictions: Array, val: bool = False, metric: str = "") -> Array:
    """One score per seed."""
    truth = data.val_y if val else data.truth
    if not data.regression:
        truth = np.searchsorted(np.unique(data.y), truth)
    return scores(metric or metric_of(data), predictions, truth)  # type: ignore[arg-type]


def difference(data: Data, first: Array, second: Array, metric: Metric) -> dict[str, Any]:
    """The paired difference of two arms, positive = the first is better."""
    truth = data.truth if data.regression else np.searchsorted(np.unique(data.y), data.truth)
    found = paired(metric, first, second, truth)
    return {**found._asdict(), "outcome": outcome(found)}


def summarise(suite: Suite) -> dict[str, Any]:
    """All scores of a table that have been computed, and the first learned arm's comparisons."""
    data, found = suite.data, dict[str, Any]()
    learned = suite.variants[0].name
    metrics: list[Metric] = [metric_of(data)]
    if data.name in WITH_AUC:
        metrics.append("auc")
    for head in suite.own.heads:
        cells = {
            path.name.split("--")[0]: dict(np.load(path))
            for path in sorted(suite.home.glob(f"cells/*--{head}--{data.score}.npz"))
        }
        whole = {*BARS, "raw_standard", "raw_quantile"} <= cells.keys()
        if not {"untrained", learned} <= cells.keys() or not (whole or head == "finetune"):
            continue
        raw, bar = "", ""  # fine-tuning has neither: its control is the untrained encoder
        if whole:
            raw = suite.best_on_val(("raw_standard", "raw_quantile"), head)
            bar = suite.best_on_val(BARS, head)
            cells["raw"] = cells[raw]
        for name in ("untrained", *(v.name for v in suite.variants)):
            if f"{name}+{bar}" in cells:
                cells[f"{name}+bar"] = cells[f"{name}+{bar}"]
        others = [v.name for v in suite.variants[1:] if not v.steps]
        peers = [name for name in cells if name.startswith("peer_")]
        against = ["raw", "untrained", *others, *BARS, *peers]
        pairs = [(learned, control) for control in against] + [(f"{learned}+bar", bar)]
        found[head] = {
            "raw": raw,
            "bar": bar,
            "arms": {
                name: {
                    "width": int(cell["width"]),
                    **{m: score_cell(data, cell["test"], metric=m).tolist() for m in metrics},
                }
                for name, cell in cells.items()
            },
            "paired": {
                f"{a}-{b}": {
                    m: difference(data, cells[a]["test"], cells[b]["test"], m) for m in metrics
                }
                for a, b in pairs
                if a in cells and b in cells
            },
        }
    few = {
        path.name.split("--")[0]: json.loads(path.read_text())
        for path in sorted(suite.home.glob(f"few/*--{data.score}.json"))
    }
    verdict = {
        path.stem: json.loads(path.read_text())["verdict"]
        for path in sorted(suite.home.glob("*.json"))
        if not path.stem.startswith("untrained")
    }
    return {
        "metric": metric_of(data),
        "rows": len(data.truth),
        "heads": found,
        "few": few,
        "collapse": verdict,
    }


def verdicts(tables: dict[str, Any], learned: str) -> dict[str, Any]:
    """On how many tables the learned arm beats raw, every untrained AND every bar; with bar, the
    bar.

    By each table's first metric, and by AUC on those that have it.
    """
    counted: dict[str, Any] = {}
    for head in dict.fromkeys(head for table in tables.values() for head in table["heads"]):
        rows = {n: t["heads"][head]["paired"] for n, t in tables.items() if head in t["heads"]}
        pairs = dict.fromkeys(key for found in rows.values() for key in found)
        untrained = [key for key in pairs if key.startswith(f"{learned}-untrained")]
        controls = [f"{learned}-raw", *untrained, *(f"{learned}-{name}" for name in BARS)]
        metrics = {name: tables[name]["metric"] for name in rows}
        counted[head] = _beaten(rows, metrics, controls, learned)
        areas = {name: pairs for name, pairs in rows.items() if name in WITH_AUC}
        if areas:
            by = dict.fromkeys(areas, "auc")
            counted[f"{head}, AUC"] = _beaten(areas, by, controls, learned)
    return counted


def _beaten(
    rows: dict[str, Any], metrics: dict[str, str], controls: Sequence[str], learned: str
) -> dict[str, Any]:
    """Tables on which paired differences say "beats": of all controls, of the bar, of each.

    Controls that a head does not have (fine-tuning: all but untrained encoders) are left out, and
    then nothing is said of all of them.
    """
    known = {key for pairs in rows.values() for key in pairs}

    def where(*wanted: str) -> list[str]:
        return [
            name
            for name, pairs in rows.items()
            if all(k in pairs and pairs[k][metrics[name]]["outcome"] == "beats" for k in wanted)
        ]

    added = f"{learned}+bar-"
    found: dict[str, Any] = {"tables": list(rows)}
    if known.issuperset(controls):
        found["beats all controls"] = where(*controls)
        found[f"{learned}+bar beats bar"] = [
            name
            for name in rows
            for key in rows[name]
            if key.startswith(added) and name in where(key)
        ]
    return found | {key: where(key) for key in controls if key in known}


def ranks(tables: dict[str, Any], head: str) -> dict[str, float]:
    """Average rank of the arms that every table has under a head."""
    have = [t for t in tables.values() if head in t["heads"]]
    if not have:
        return {}
    # What stands for `raw` and `+bar` has its row there already.
    hidden = {"raw_standard", "raw_quantile", "columns"}
    arms = [
        name
        for name in have[0]["heads"][head]["arms"]
        if name not in hidden
        and not name.endswith(("+nystroem", "+trees"))
        and all(name in t["heads"][head]["arms"] for t in have)
    ]
    values = [[np.mean(t["heads"][head]["arms"][a][t["metric"]]) for a in arms] for t in have]
    found = average_ranks(values, [t["metric"] == "rmse" for t in have])
    return dict(sorted(zip(arms, found.tolist(), strict=True), key=lambda item: item[1]))


def markdown(tables: dict[str, Any], learned: str, score: str) -> str:
    """Tables for people: a cell is mean +- standard deviation over seeds."""
    lines = [f"# Tables, scored on {score} rows", ""]
    for head in dict.fromkeys(head for table in tables.values() for head in table["heads"]):
        have = {n: t for n, t in tables.items() if head in t["heads"]}
        order = ranks(tables, head)
        extra = {a for t in have.values() for a in t["heads"][head]["arms"]} - order.keys()
        arms = [*order, *sorted(a for a in extra if a == "columns")]
        lines += [f"## {head}", "", "| arm | " + " | ".join(have) + " | rank |"]
        lines.append("|---" * (len(have) + 2) + "|")
        for arm in arms:
            cells = [_cell(t["heads"][head]["arms"].get(arm), t["metric"]) for t in have.values()]
            rank = f"{order[arm]:.2f}" if arm in order else ""
            lines.append(f"| {arm} | " + " | ".join(cells) + f" | {rank} |")
        for key in dict.fromkeys(k for t in have.values() for k in t["heads"][head]["paired"]):
            cells = [_pair(t["heads"][head]["paired"].get(key), t["metric"]) for t in have.values()]
            lines.append(f"| {key} | " + " | ".join(cells) + " | |")
        lines.append("")
        for table in (name for name in have if name in WITH_AUC):
            lines += _auc(table, have[table]["heads"][head], order)
        lines.append("")
    lines += ["## Beats", ""]
    for head, counted in verdicts(tables, learned).items():
        total = len(counted.pop("tables"))
        for what, where in counted.items():
            lines.append(
                f"- {head}: {what}: {len(where)} of {total} ({', '.join(where) or 'none'})"
            )
    lines += ["", *_few(tables)]
    if known := [f"- {name}: {values}" for name, values in TUNED.items() if name in tables]:
        lines += ["Tuned networks of the literature, canonical splits:", "", *known, ""]
    if seen := [name for name in SEEN if name in tables]:
        lines.append(f"Test rows seen while the method was developed: {', '.join(seen)}.")
    return "\n".join(lines) + "\n"


def _cell(values: dict[str, Any] | None, metric: str) -> str:
    if values is None:
        return ""
    found = np.asarray(values[metric])
    digits = 1 if found.mean() > 10 else 4
    spread = f" ± {found.std(ddof=1):.{digits}f}" if len(found) > 1 else ""
    return f"{found.mean():.{digits}f}{spread}"


def _pair(entry: dict[str, Any] | None, metric: str) -> str:
    if entry is None:
        return ""
    found = entry[metric]
    digits = 1 if abs(found["mean"]) > 1 else 4
    ends = f"{found['low']:+.{digits}f}, {found['high']:+.{digits}f}"
    return f"{found['mean']:+.{digits}f} [{ends}] {found['outcome']}"


def _auc(table: str, content: dict[str, Any], arms: Collection[str]) -> list[str]:
    """Areas under the curve of a table's arms, and the paired differences in them."""
    values = {arm: cell["auc"] for arm, cell in content["arms"].items() if arm in arms}
    pairs = content["paired"]
    return [
        f"- {table} AUC: " + ", ".join(f"{arm} {np.mean(v):.4f}" for arm, v in values.items()),
        f"- {table} AUC, paired: "
        + "; ".join(f"{key} {_pair(pairs[key], 'auc')}" for key in pairs),
    ]


def _few(tables: dict[str, Any]) -> list[str]:
    """Few labels: mean over seeds and draws, with the t-interval over draws."""
    lines: list[str] = []
    for table, content in tables.items():
        few = content["few"]
        if not few:
            continue
        parts = list(next(iter(few.values())))
        heads = [f"{next(iter(few.values()))[p]['rows']} labels" for p in parts]
        lines += [f"### {table}, linear head ({content['metric']})", ""]
        lines += ["| arm | " + " | ".join(heads) + " |", "|---" * (len(parts) + 1) + "|"]
        for arm, curve in few.items():
            cells = []
            for part in parts:
                draws = np.asarray(curve[part]["values"]).mean(axis=0)
                text = f"{draws.mean():.4f}"
                if len(draws) > 1:
                    interval = t_interval(draws)
                    text += f" [{interval.low:.4f}, {interval.high:.4f}]"
                cells.append(text)
            lines.append(f"| {arm} | " + " | ".join(cells) + " |")
        lines.append("")
    return ["## Few labels", "", *lines] if lines else []


def joined(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """A table's summary with the heads, and the few labels, that only an earlier one has.

    Raises:
        SystemExit: the earlier one is of other seeds or steps.
    """
    if old is None:
        return new
    for name in ("seeds", "steps"):
        if old["made"][name] != new["made"][name]:
            raise SystemExit(
                f"--out holds a table of {old['made'][name]} {name}, this one has "
                f"{new['made'][name]}; give another --out"
            )
    heads = {**old["heads"], **new["heads"]}
    order = [head for head in ("linear", "mlp", "boosting") if head in heads]
    heads = {head: heads[head] for head in dict.fromkeys([*order, *heads])}
    return {**new, "heads": heads, "few": new["few"] or old["few"]}


def write_summary(suites: Sequence[Suite], own: argparse.Namespace) -> None:
    """Both files: tables and heads of this work folder, and those already in the same files."""
    out = own.out or Path(own.work) / f"summary_{own.score}"
    out.parent.mkdir(parents=True, exist_ok=True)
    place, tables = Path(f"{out}.json"), dict[str, Any]()
    if place.exists():
        earlier = json.loads(place.read_text())
        if earlier["score"] != own.score:
            raise SystemExit(f"{place} holds scores on {earlier['score']} rows; give another --out")
        tables = earlier["tables"]
    made = {**about(own.threads), "seeds": own.seeds, "steps": own.steps}
    for suite in suites:
        name = suite.data.name
        content = summarise(suite)
        for head in content["heads"].values():
            head["made"] = made
        tables[name] = joined(tables.get(name), {"made": made, **content})
    tables = {name: tables[name] for name in TABLES if name in tables}
    learned = suites[0].variants[0].name
    heads = dict.fromkeys(head for table in tables.values() for head in table["heads"])
    written = {
        "score": own.score,
        "beats": verdicts(tables, learned),
        "average_rank": {head: ranks(tables, head) for head in heads},
        "tables": tables,
    }
    place.write_text(json.dumps(written, indent=1) + "\n")
    Path(f"{out}.md").write_text(markdown(tables, learned, own.score))
