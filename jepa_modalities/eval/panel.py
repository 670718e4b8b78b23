"""Which curves of a run's log stand together in which panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jepa_modalities.eval.curve import Curve, finite, panel
from jepa_modalities.eval.folder import Folder

Log = Sequence[Mapping[str, object]]
MOST_FURTHER = 24  # a log with hundreds of extra keys must not make a page of hundreds of charts

# (title, keys, unit of the y axis, logarithmic when the range is wide)
_MAIN: tuple[tuple[str, tuple[str, ...], str, bool], ...] = (
    ("Loss", ("loss",), "loss", True),
    ("RankMe and effective rank", ("collapse/rankme", "collapse/effective_rank"), "rank", False),
    ("Feature std and spread", ("collapse/std", "collapse/spread"), "value", False),
    ("Cosine between samples", ("collapse/cosine",), "mean cosine", False),
    ("Loss over target variance", ("collapse/loss_over_target_variance",), "ratio", True),
)
_FURTHER: tuple[tuple[str, tuple[str, ...], str, bool], ...] = (
    ("Learning rate", ("lr",), "learning rate", False),
    ("Weight decay", ("weight_decay",), "weight decay", False),
    ("EMA momentum", ("momentum",), "momentum", False),
    ("Speed", ("samples_per_second",), "samples per second", False),
)


def keys_of(log: Log) -> list[str]:
    """All keys of a log in the order of their first appearance."""
    return list(dict.fromkeys(key for record in log for key in record))


def curves(log: Log, keys: Sequence[str]) -> list[Curve]:
    """One curve per key that has values; named without the key's group."""
    found = [Curve(_name(key), *finite(log, key)) for key in keys]
    return [curve for curve in found if curve.values]


def _name(key: str) -> str:
    name = key.split("/", 1)[-1].replace("_", " ")
    return {"rankme": "RankMe", "knn": "kNN"}.get(name, name)


def main_panels(log: Log) -> list[str]:
    """Loss, its terms, collapse metrics and the probe, as finished figures."""
    keys = keys_of(log)
    panels = [
        panel(title, curves(log, group), unit, f"main-{number}", scale)
        for number, (title, group, unit, scale) in enumerate(_MAIN)
    ]
    terms = [key for key in keys if key.startswith("term/")]
    if len(terms) > 1:  # a single term is the loss itself
        panels.insert(1, panel("Loss terms", curves(log, terms), "term", "terms", True))
    probes = [key for key in keys if key.startswith("probe/")]
    probe = panel("Probe during training", curves(log, probes), "score", "probe")
    panels.insert(1 + (len(terms) > 1), probe)
    return [figure for figure in panels if figure]


def further_panels(log: Log) -> list[str]:
    """Schedules, speed, and every numeric key that no other panel shows."""
    shown = {key for _, group, _, _ in (*_MAIN, *_FURTHER) for key in group} | {"step"}
    rest = [
        key
        for key in keys_of(log)
        if key not in shown and not key.startswith(("term/", "probe/")) and finite(log, key)[1]
    ]
    groups = [*_FURTHER, *((key, (key,), "value", False) for key in rest[:MOST_FURTHER])]
    panels = (
        panel(title, curves(log, group), unit, f"further-{number}", scale)
        for number, (title, group, unit, scale) in enumerate(groups)
    )
    return [figure for figure in panels if figure]


def compared_panels(runs: Mapping[str, Folder]) -> list[str]:
    """The main curves of several runs, one line per run."""
    probes = dict.fromkeys(
        key for folder in runs.values() for key in keys_of(folder.log) if key.startswith("probe/")
    )
    wanted = [(title, group[0], unit, scale) for title, group, unit, scale in _MAIN]
    wanted[1:1] = [(f"Probe: {_name(key)}", key, "score", False) for key in probes]
    panels = []
    for number, (title, key, unit, scale) in enumerate(wanted):
        lines = [Curve(name, *finite(folder.log, key)) for name, folder in runs.items()]
        title = "RankMe" if key == "collapse/rankme" else title
        panels.append(panel(title, lines, unit, f"compare-{number}", scale))
    return [figure for figure in panels if figure]
