"""`report.html`: one self-contained page from a run folder, and one that compares several."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from jepa_modalities.eval import score as scores
from jepa_modalities.eval.curve import Dot, dot_plot, svg
from jepa_modalities.eval.folder import Folder, read
from jepa_modalities.eval.page import (
    Picture,
    details,
    document,
    paragraph,
    png,
    save,
    section,
    text,
)
from jepa_modalities.eval.panel import compared_panels, further_panels, main_panels
from jepa_modalities.eval.summary import (
    compared_table,
    comparison_note,
    summary_lead,
    summary_text,
    verdict_block,
)
from jepa_modalities.eval.table import result_tables

__all__ = ["Picture", "compare_reports", "write_report"]

# The same arm looks the same in every chart; controls are hollow.
_LOOKS: dict[str, tuple[str, str, bool]] = {
    "encoder": ("series-1", "o", True),
    "student": ("series-7", "D", True),
    "untrained": ("series-6", "o", False),
    "raw": ("series-5", "s", False),
    "bar": ("series-2", "^", False),
    "nystroem": ("series-3", "v", False),
    "trees": ("series-4", "P", False),
}
_ENV = ("date", "device", "commit")


def write_report(run: Path, pictures: Mapping[str, Picture] = {}) -> Path:
    """Write `report.html` into a run folder; parts that the folder lacks are left out.

    Args:
        run: folder with any of config.json, env.json, log.jsonl, metrics.json.
        pictures: by name, in the order of the page.

    Returns:
        The path of the page: no request, no script, pictures inside.

    Raises:
        FileNotFoundError: `run` is not a folder.
        ValueError: a picture is neither a figure nor a PNG.
    """
    folder = read(run)
    title = f"{folder.recipe}: pretraining report"
    page = document(
        title,
        _header(folder),
        section(
            "Summary",
            paragraph(summary_lead(folder.results), "lead"),
            paragraph(summary_text(folder.results)),
            verdict_block(folder),
        ),
        section("Results beside their controls", *result_tables(folder.results)),
        section("With few labels", _few_labels(folder)),
        section("Training", _panels(main_panels(folder.log)), _further(folder)),
        section("Pictures", _gallery(pictures)),
        section("How this run was made", *_provenance(folder)),
        _footer(folder),
    )
    return save(page, folder.path / "report.html")


def compare_reports(runs: Sequence[Path], out: Path) -> Path:
    """Write one page for several runs: a table of their primary results, and overlaid curves.

    Args:
        runs: run folders, in the order of the rows.
        out: the HTML file to write.

    Returns:
        The path of the page.

    Raises:
        ValueError: no run was given.
        FileNotFoundError: a run, or the folder of `out`, is not there.
    """
    if not runs:
        raise ValueError("runs: found none, expected at least one run folder; name it after report")
    out = Path(out)
    if not out.resolve().parent.is_dir():
        raise FileNotFoundError(f"{out}: its folder does not exist; create it or write elsewhere")
    folders = [read(run) for run in runs]
    names = _short_names([folder.path for folder in folders])
    named = dict(zip(names, folders, strict=True))
    title = f"Comparison of {len(folders)} run{'s' * (len(folders) > 1)}"
    notes = [f"{name}: {note}" for name, folder in named.items() for note in folder.notes]
    return save(
        document(
            title,
            f"<header><h1>{text(title)}</h1></header>",
            section(
                "Primary results", compared_table(named), paragraph(comparison_note(named), "note")
            ),
            section("Training", _panels(compared_panels(named))),
            section("Notes", *(paragraph(note, "note") for note in notes)),
        ),
        out,
    )


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Folder names, with as many parents as it takes to tell them apart."""
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{path.name} ({number})" for number, path in enumerate(paths, start=1)]


def _header(folder: Folder) -> str:
    chips = [(key, folder.config.get(key)) for key in ("modality",)]
    if folder.log:
        chips.append(("steps", f"{folder.log[-1]['step']:,}"))
    speed = folder.results.other.get("speed/samples_per_second")
    chips.append(("samples per second", f"{speed:,.0f}" if speed else None))
    chips += [(key, folder.env.get(key)) for key in _ENV]
    items = "".join(
        f"<li>{text(key)} <b>{text(value)}</b></li>" for key, value in chips if value is not None
    )
    return (
        f"<header><h1>{text(folder.recipe)}</h1>\n<ul class='chips'>{items}</ul>\n"
        + "".join(paragraph(note, "note warn") for note in folder.notes)
        + "</header>"
    )


def _few_labels(folder: Folder) -> str:
    results = folder.results
    found = [column for _, _, column in scores.few_label_columns(results)]
    if not found:
        return ""
    metric = found[0].metric
    scale = 100.0 if scores.is_share(metric) else 1.0
    arms = scores.arm_order(arm for arm, column in results.arms if column in found)
    looks = {arm: _LOOKS.get(arm, _look(arm, index)) for index, arm in enumerate(arms)}
    dots = []
    for column in found:
        for arm in arms:
            score = results.arms.get((arm, column))
            if score is not None and column.metric == metric:
                bounds = (None if b is None else scale * b for b in (score.low, score.high))
                dots.append(Dot(scores.probe_name(column.probe), arm, scale * score.value, *bounds))
    unit = metric.replace("_", " ") + (", %" if scale > 1 else "")
    about = "Scores with few labels, encoder and controls; the numbers are in the results table."
    chart = dot_plot(dots, looks, unit, "few", about)
    note = "Lines: the intervals of the results table. Hollow marks: controls."
    return f"<div class='dots'>{chart}</div>" + paragraph(note, "note")


def _look(arm: str, index: int) -> tuple[str, str, bool]:
    paint = ("series-4", "series-3", "series-8")[index % 3]
    return paint, "v" if scores.is_control(arm) else "D", not scores.is_control(arm)


def _panels(panels: Sequence[str]) -> str:
    return "<div class='grid'>\n" + "\n".join(panels) + "\n</div>" if panels else ""


def _further(folder: Folder) -> str:
    return details("Schedules, speed and further values", _panels(further_panels(folder.log)))


def _gallery(pictures: Mapping[str, Picture]) -> str:
    figures = []
    for name, picture in pictures.items():
        if isinstance(picture.image, bytes):
            image = png(picture.image, picture.title)
        else:
            image = svg(picture.image, f"picture-{name}", f"{picture.title}. {picture.caption}")
        figures.append(
            f"<figure><figcaption>{text(picture.title)}<small>{text(picture.caption)}</small>"
            f"</figcaption>\n{image}\n</figure>"
        )
    return "<div class='gallery'>\n" + "\n".join(figures) + "\n</div>" if figures else ""


def _provenance(folder: Folder) -> list[str]:
    command = folder.env.get("command")
    if isinstance(command, (list, tuple)):
        command = shlex.join(str(part) for part in command)
    replay = f"<h3>Replay</h3><pre>{text(command)}</pre>" if command else ""
    environment = {key: value for key, value in folder.env.items() if key != "command"}
    plain = {k: v for k, v in folder.config.items() if not isinstance(v, dict)}
    groups = {k: v for k, v in folder.config.items() if isinstance(v, dict)}
    blocks = [_settings(name, values) for name, values in ({"run": plain} | groups).items()]
    config = f"<div class='settings'>{''.join(blocks)}</div>" if any(blocks) else ""
    env = _settings("environment", environment)
    parts = [replay, config, f"<div class='settings'>{env}</div>" if env else ""]
    return [details("Command, configuration and environment", *parts)]


def _settings(title: str, values: Mapping[str, object]) -> str:
    flat = list(_flatten(values))
    rows = "".join(f"<dt>{text(key)}</dt><dd>{text(value)}</dd>" for key, value in flat)
    return f"<div><h3>{text(title)}</h3><dl>{rows}</dl></div>" if rows else ""


def _flatten(values: Mapping[str, object], before: str = "") -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            pairs += _flatten(value, f"{before}{key}.")
        else:
            if isinstance(value, (list, tuple)) and value:
                value = ", ".join(str(item) for item in value)
            pairs.append((f"{before}{key}", value))
    return pairs


def _footer(folder: Folder) -> str:
    return f"<footer>Made by jepa_modalities from the run folder {text(folder.path.name)}.</footer>"
