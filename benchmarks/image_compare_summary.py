"""Tables and a picture from the files that `image_compare.py` leaves.

    python benchmarks/image_compare_summary.py

Writes `image_compare.json` and `image_compare.md` into the results folder and prints the table.
Intervals: bootstrap over test images of the accuracy averaged over seeds (they speak of other
images; the seeds stand beside them). Differences are paired on the same images.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from evidence import RESULTS, Runs, collect, read_evidence
from numpy.typing import NDArray

from jepa_modalities.eval.statistics import bootstrap_interval, paired_bootstrap

Array = NDArray[np.float64]
COLUMNS = ("ridge@mean", "ridge@mean_std_max", "ridge@all_quadrants", "ridge@all_hidden_mean")
MAIN = "ridge@all_hidden_mean"


def interval(values: Array) -> dict[str, Any]:
    """Mean over seeds with its interval, and each seed."""
    mean, low, high = bootstrap_interval(values)
    return {"mean": mean, "low": low, "high": high, "seeds": values.mean(1).round(4).tolist()}


def against(values: Array, theirs: Array) -> dict[str, float]:
    """Paired difference."""
    return dict(zip(("mean", "low", "high"), paired_bootstrap(values, theirs), strict=True))


def control_of(arm: str) -> str:
    """The untrained encoder with the same stem."""
    return "untrained_conv" if arm == "vicreg" else "untrained_linear"


def summary(runs: Runs) -> dict[str, Any]:
    """Scores of every arm and budget, and paired differences to controls and to other arms."""
    table: dict[str, Any] = {}
    for (arm, budget), probes in sorted(runs.items(), key=lambda item: (item[0][1], item[0][0])):
        row: dict[str, Any] = {probe: interval(values) for probe, values in probes.items()}
        if budget:
            pairs: dict[str, Any] = {}
            for probe, values in probes.items():
                same = probe.removeprefix("bar+")
                for other in ("raw", "bar"):
                    name = same.split("@")[0] + "@"
                    pairs[f"{probe} - {other}"] = against(values, runs[other, 0.0][name])
                untrained = runs[control_of(arm), 0.0].get(probe)
                if untrained is not None:
                    pairs[f"{probe} - untrained"] = against(values, untrained)
                for (other, cost), theirs in runs.items():
                    if cost == budget and other != arm and probe in (MAIN, f"bar+{MAIN}"):
                        pairs[f"{probe} - {other}"] = against(values, theirs[probe])
            row["paired"] = pairs
        table[f"{arm} {budget:g}"] = row
    return table


def markdown(table: dict[str, Any]) -> str:
    """Accuracy in per cent, seeds averaged; differences of the widest pooling in brackets."""
    lines = [
        "| arm | TFLOP | seeds | mean | mean+std+max | quadrants, all blocks | hidden, all blocks "
        "| minus untrained | minus bar | bar + encoder | minus bar | minus bar + untrained | kNN |",
        "|" + "---|" * 13,
    ]

    def cell(entry: Any) -> str:
        return "" if entry is None else f"{100 * entry['mean']:.1f}"

    def pair(entry: Any) -> str:
        if entry is None:
            return ""
        return "{:+.1f} ({:+.1f} to {:+.1f})".format(
            *(100 * entry[k] for k in ("mean", "low", "high"))
        )

    for name, row in table.items():
        arm, budget = name.split()
        pairs = row.get("paired", {})
        alone = row.get("ridge@")
        cells = [cell(row.get(probe)) for probe in COLUMNS]
        if alone is not None:
            cells[0] = cell(alone)
        seeds = len((alone or row["ridge@mean"])["seeds"])
        lines.append(
            f"| {arm} | {budget if budget != '0' else ''} | {seeds} | {' | '.join(cells)} | "
            f"{pair(pairs.get(f'{MAIN} - untrained'))} | {pair(pairs.get(f'{MAIN} - bar'))} | "
            f"{cell(row.get(f'bar+{MAIN}'))} | {pair(pairs.get(f'bar+{MAIN} - bar'))} | "
            f"{pair(pairs.get(f'bar+{MAIN} - untrained'))} | "
            f"{cell(row.get('knn@mean') or row.get('knn@'))} |"
        )
    return "\n".join(lines) + "\n"


def rankme(folder: Path) -> str:
    """RankMe of the teacher on 1/8, 1/2 and all of each run, mean over seeds, and its extremes."""
    curves: dict[tuple[str, float], list[Any]] = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        arm, budget, _ = path.stem.rsplit("-", 2)
        if looks := read_evidence(path)[0].get("rankme"):
            curves[arm, float(budget)].append(
                [looks[round(s * (len(looks) - 1))][1] for s in (0, 3 / 7, 1)]
            )
    lines = [
        "| arm | TFLOP | RankMe after 1/8 | 1/2 | the end | end, lowest and highest seed |",
        "|---" * 6 + "|",
    ]
    for (arm, budget), values in sorted(curves.items(), key=lambda item: (item[0][1], item[0][0])):
        mean, end = np.mean(values, axis=0), [value[-1] for value in values]
        cells = " | ".join(f"{value:.1f}" for value in mean)
        lines.append(f"| {arm} | {budget:g} | {cells} | {min(end):.1f}, {max(end):.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS / "image_compare")
    parser.add_argument("--out", type=Path, default=RESULTS / "image_compare")
    own = parser.parse_args()
    runs = collect(own.results)
    table = summary(runs)
    own.out.with_suffix(".json").write_text(json.dumps(table, indent=1))
    text = f"{markdown(table)}\n{rankme(own.results)}"
    own.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
