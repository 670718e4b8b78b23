"""Tables from the files that `sar_compare.py` leaves.

    python benchmarks/sar_compare_summary.py --on validation

Writes `<on>.json` and `<on>.md` into the results folder and prints the tables. Accuracies are means
over seeds and, with few labels, over five draws, whose standard deviation stands behind +-.
Intervals in brackets: paired bootstrap over chips of the difference, in points; they speak of other
chips, not of other draws.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from evidence import RESULTS, Runs, collect
from numpy.typing import NDArray
from sar_compare import DRAWS, LOOKS, POOLINGS, SHOTS, WIDEST

from jepa_modalities.eval.statistics import bootstrap_interval, paired_bootstrap

Array = NDArray[np.float64]
LABELS = (*(str(n) for n in SHOTS), "all")


def correct(
    probes: dict[str, Array],
    labels: str,
    prefix: str = "",
    suffix: str = "",
    seeds: int | None = None,
) -> Any:
    """Correctness (draws, chips), averaged over (the first) seeds; None where not scored.

    An arm without tokens has no pooling, and stands beside all of them.
    """
    kinds = ["ridge"] if labels == "all" else [f"ridge_{labels}shot{n}" for n in range(DRAWS)]
    for end in (suffix, ""):
        keys = [f"{prefix}{kind}@{end}" for kind in kinds]
        if all(key in probes for key in keys):
            return np.stack([probes[key][:seeds].mean(0) for key in keys])
    return None


def control_of(arm: str) -> str:
    """The untrained encoder with the same input."""
    if arm == "vicreg_narrow":
        return "untrained_narrow"
    return "untrained_image" if arm.startswith(("target", "sar_jepa")) else "untrained"


def entry(values: Array | None) -> dict[str, float] | None:
    """Mean over draws with its bootstrap interval over chips, and the spread over draws."""
    if values is None:
        return None
    mean, low, high = bootstrap_interval(values)
    spread = float(values.mean(1).std(ddof=1)) if len(values) > 1 else 0.0
    return {"mean": mean, "low": low, "high": high, "draws_sd": spread}


def against(ours: Array | None, theirs: Array | None) -> dict[str, float] | None:
    """Paired difference."""
    if ours is None or theirs is None:
        return None
    return dict(zip(("mean", "low", "high"), paired_bootstrap(ours, theirs), strict=True))


def summary(runs: Runs, main: str) -> dict[str, Any]:
    """Every arm and budget under one pooling: scores by labels, and paired differences."""
    table: dict[str, Any] = {}

    def few(probes: dict[str, Array], labels: str, prefix: str = "", **more: Any) -> Any:
        return correct(probes, labels, prefix, **{"suffix": main} | more)

    bar, machine = (runs.get((name, 0.0), {}) for name in ("bar", "gradient_svm"))
    for (arm, budget), probes in sorted(runs.items(), key=lambda item: (item[0][1], item[0][0])):
        untrained = runs.get((control_of(arm), 0.0), {})
        same = runs.get(("vicreg", budget), {}) if arm != "vicreg" else {}
        row: dict[str, Any] = {"seeds": len(next(iter(probes.values())))}
        for labels in LABELS:
            ours = few(probes, labels)
            row[labels] = entry(ours)
            row[f"{labels} bar+"] = entry(few(probes, labels, "bar+"))
            row[f"{labels} background"] = entry(few(probes, labels, "background "))
            for pooling in POOLINGS[2:] if main == WIDEST else ():
                scored = f"ridge@{pooling}" in probes
                row[f"{labels} {pooling}"] = entry(
                    few(probes, labels, suffix=pooling) if scored else None
                )
            if budget:
                row[f"{labels} - untrained"] = against(ours, few(untrained, labels))
                row[f"{labels} - bar"] = against(ours, few(bar, labels))
                row[f"{labels} bar+ - bar"] = against(few(probes, labels, "bar+"), few(bar, labels))
                for prefix in ("", "bar+"):
                    row[f"{labels} {prefix} - svm"] = against(
                        few(probes, labels, prefix), few(machine, labels)
                    )
                row[f"{labels} - vicreg"] = against(ours, few(same, labels))
        drawn = [v for k, v in sorted(probes.items()) if k.startswith("finetune")]
        if drawn and main == WIDEST:
            tuned = np.stack([draw.mean(0) for draw in drawn])
            frozen = few(probes, "40", seeds=len(drawn[0]))[: len(drawn)]
            row["finetune"], row["finetune frozen"] = entry(tuned), entry(frozen)
            row["finetune - frozen"] = against(tuned, frozen)
        for looks in LOOKS:
            values = probes.get(f"looks{looks}@{main}", probes.get(f"looks{looks}@"))
            row[f"looks {looks}"] = None if values is None else entry(values.mean(0)[None])
        table[f"{arm} {budget:g}"] = row
    return table


def number(value: Any, spread: bool = False) -> str:
    """Per cent."""
    if value is None:
        return ""
    text = f"{100 * value['mean']:.1f}"
    return f"{text} +-{100 * value['draws_sd']:.1f}" if spread and value["draws_sd"] else text


def pair(value: Any) -> str:
    """A difference in points with its interval."""
    if value is None:
        return ""
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * value[k] for k in ("mean", "low", "high")))


def lines(title: str, heads: list[str], rows: list[list[str]]) -> str:
    """A table of the rows that hold anything; nothing where none does."""
    kept = [row for row in rows if any(row[3:])]
    if not kept:
        return ""
    body = [heads, ["---"] * len(heads), *kept]
    return f"{title}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in body) + "\n"


def markdown(table: dict[str, Any], main: str) -> str:
    """All tables of one pooling."""

    def rows(cells: Any) -> list[list[str]]:
        found = []
        for name, row in table.items():
            arm, budget = name.split()
            found.append([arm, budget if budget != "0" else "", str(row["seeds"]), *cells(row)])
        return found

    start = ["arm", "TFLOP", "seeds"]
    tables = [
        lines(
            f"Ridge, labels per class, pooling {main}",
            [*start, *LABELS, *(f"{n}, with the bar" for n in LABELS)],
            rows(
                lambda r: (
                    [number(r[n], True) for n in LABELS] + [number(r[f"{n} bar+"]) for n in LABELS]
                )
            ),
        )
    ]
    for title, key in (
        ("Minus the untrained encoder with the same input", "- untrained"),
        ("Minus the bar", "- bar"),
        ("Encoder with the bar, minus the bar", "bar+ - bar"),
        ("Minus ratio gradients with a support vector machine", " - svm"),
        ("Encoder with the bar, minus the same", "bar+ - svm"),
        ("Minus two-view VICReg at equal cost", "- vicreg"),
    ):
        cells = rows(lambda r, k=key: [pair(r.get(f"{n} {k}")) for n in LABELS])
        tables.append(lines(title, [*start, *LABELS], cells))
    for title, key in (
        ("Background alone: the outer ring of tokens", "background"),
        *((f"Pooling {pooling}", pooling) for pooling in POOLINGS[2:]),
    ):
        cells = rows(lambda r, k=key: [number(r.get(f"{n} {k}")) for n in LABELS])
        tables.append(lines(title, [*start, *LABELS], cells))
    keys = ("finetune", "finetune frozen")
    cells = rows(lambda r: [*(number(r.get(k)) for k in keys), pair(r.get("finetune - frozen"))])
    heads = [*start, "fine-tuned", "frozen probe, same draws", "difference"]
    tables.append(lines("Fine-tuning, 40 labels per class", heads, cells))
    looks = rows(lambda r: [number(r["all"]), *(number(r[f"looks {n}"]) for n in LOOKS)])
    looks = [row for row in looks if any(row[4:])] if main == WIDEST else []
    heads = [*start, "clean", *(f"{n} looks" for n in LOOKS)]
    tables.append(lines("Under added speckle (probe fitted on clean chips)", heads, looks))
    return "\n".join(table for table in tables if table)


def main() -> None:
    """Write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", choices=("validation", "test"), default="validation")
    parser.add_argument("--results", type=Path, default=RESULTS / "sar_compare")
    own = parser.parse_args()
    runs = collect(own.results / own.on)
    tables = {pooling: summary(runs, pooling) for pooling in POOLINGS[:2]}
    (own.results / f"{own.on}.json").write_text(json.dumps(tables, indent=1))
    text = "\n".join(markdown(table, pooling) for pooling, table in tables.items())
    (own.results / f"{own.on}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
