"""The report's tables: every score beside its controls, and the paired differences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from jepa_modalities.eval import score as scores
from jepa_modalities.eval.page import details, paragraph, table, text
from jepa_modalities.eval.score import Column, Results, Score

EMPTY = "<td>\N{EN DASH}</td>"
SYMBOLS = {"beats": "▲", "tie": "●", "falls below": "▼", "unknown": "○"}


def figure(score: Score, metric: str, signed: bool = False) -> str:
    """A value as an element that carries the exact number, `<data value="0.934">93.4</data>`."""
    shown = scores.number(score.value, metric, signed)
    return f"<data value='{score.value!r}'>{text(shown)}</data>"


def interval(score: Score, metric: str, signed: bool = False) -> str:
    """The bounds of a score as "low to high", or nothing when they are not known."""
    if score.low is None or score.high is None:
        return ""
    low, high = (
        f"<data value='{bound!r}'>{text(scores.number(bound, metric, signed))}</data>"
        for bound in (score.low, score.high)
    )
    return f"<small>{low} to {high}</small>"


def column_head(column: Column, unit: str = "") -> str:
    """The head cell of a column: probe in words, metric and unit below it."""
    unit = unit or (", %" if scores.is_share(column.metric) else "")
    key = column.probe + ("@" + column.pooling if column.pooling else "")
    metric = column.metric.replace("_", " ") + unit
    return (
        f"<th scope='col' title='{text(key + '/' + column.metric)}'>"
        f"{text(scores.probe_name(column.probe))}<small>{text(metric)}</small></th>"
    )


def arm_head(arm: str) -> str:
    """The head cell of a row: the arm, marked when it is a control."""
    tag = "<span class='tag'>control</span>" if scores.is_control(arm) else ""
    note = scores.describe(arm)
    return (
        f"<th scope='row'>{text(arm)}{tag}" + (f"<small>{text(note)}</small>" if note else "")
    ) + "</th>"


def score_table(results: Results, columns: Sequence[Column], label: str) -> str:
    """Arms as rows, columns as given; the best of each column in bold, the encoder highlighted."""
    arms = scores.arm_order(arm for arm, column in results.arms if column in set(columns))
    if not arms:
        return ""
    head = ["<th scope='col'>features</th>", *map(column_head, columns)]
    return table(head, _rows(results, arms, columns), label)


def _rows(results: Results, arms: Sequence[str], columns: Sequence[Column]) -> list[str]:
    best = {
        c: scores.best({a: results.arms[a, c] for a in arms if (a, c) in results.arms}, c.metric)
        for c in columns
    }
    rows: list[str] = []
    learned = True
    for arm in arms:
        cells = [_cell(results.arms.get((arm, c)), c.metric, arm in best[c]) for c in columns]
        kinds = ["encoder"] * (arm == "encoder")
        kinds += ["first"] * (learned and scores.is_control(arm) and bool(rows))
        learned = not scores.is_control(arm)
        mark = f" class='{' '.join(kinds)}'" if kinds else ""
        rows.append(f"<tr{mark}>{arm_head(arm)}{''.join(cells)}</tr>")
    return rows


def _cell(score: Score | None, metric: str, bold: bool) -> str:
    if score is None:
        return EMPTY
    value = figure(score, metric)
    seeds = "" if not score.seeds else f" title='{score.seeds:g} seeds'"
    return f"<td{seeds}>{f'<b>{value}</b>' if bold else value}{interval(score, metric)}</td>"


def pooling_table(results: Results) -> str:
    """The other poolings: a block of rows each, beside the untrained encoder under the same one."""
    hidden = set(scores.without_control(results))
    found = [c for c in dict.fromkeys(c for _, c in results.arms) if c.pooling and c not in hidden]
    measured = list(dict.fromkeys((c.probe, c.metric) for c in found))
    rows: list[str] = []
    order = list(dict.fromkeys(c.pooling for c in found))
    for pooling, group in groupby(sorted(found, key=lambda c: order.index(c.pooling)), pool_of):
        present = set(group)
        columns = [Column(probe, pooling, metric) for probe, metric in measured]
        arms = scores.arm_order(arm for arm, column in results.arms if column in present)
        rows.append(
            f"<tr class='group'><td>{text(pooling)}</td>" + "<td></td>" * len(columns) + "</tr>"
        )
        rows += _rows(results, arms, columns)
    head = ["<th scope='col'>pooling and features</th>"]
    head += [column_head(Column(probe, "", metric)) for probe, metric in measured]
    return details("Other poolings", table(head, rows, "Other poolings")) if rows else ""


def pool_of(column: Column) -> str:
    """The pooling of a column."""
    return column.pooling


def paired_table(results: Results, primary: bool = True) -> str:
    """Paired differences, arms minus controls, each with what it says in words."""
    chosen = {key: s for key, s in results.paired.items() if (not key[2].pooling) == primary}
    columns = list(dict.fromkeys(column for _, _, column in chosen))
    pairs = list(dict.fromkeys((arm, control) for arm, control, _ in chosen))
    order = scores.arm_order(name for pair in pairs for name in pair)
    rows = []
    for arm, control in sorted(pairs, key=lambda pair: [order.index(name) for name in pair]):
        cells = (difference_cell(chosen.get((arm, control, c)), c.metric) for c in columns)
        name = f"{text(arm)} \N{MINUS SIGN} {text(control)}"
        rows.append(f"<tr><th scope='row'>{name}</th>{''.join(cells)}</tr>")
    heads = (_difference_head(column) for column in columns)
    head = ["<th scope='col'>difference</th>", *heads]
    return table(head, rows, "Paired differences") if rows else ""


def _difference_head(column: Column) -> str:
    pooling = f" @ {column.pooling}" if column.pooling else ""
    unit = pooling + (", points" if scores.is_share(column.metric) else " ")
    return column_head(column, unit)


def difference_cell(score: Score | None, metric: str) -> str:
    """A paired difference with its interval and its outcome as symbol and word."""
    if score is None:
        return EMPTY
    said = scores.outcome(score, metric)
    word = "no interval" if said == "unknown" else said
    return (
        f"<td>{figure(score, metric, True)}{interval(score, metric, True)}"
        f"<small class='outcome {said.split()[0]}'>{SYMBOLS[said]} {word}</small></td>"
    )


def left_out(results: Results) -> str:
    """A note that names the results that stand alone and are therefore not shown."""
    names = [
        c.probe + ("@" + c.pooling if c.pooling else "") + "/" + c.metric
        for c in scores.without_control(results)
    ]
    if not names:
        return ""
    return paragraph(
        f"Not shown, because no control was measured beside it: {_join(names)}. "
        "Evaluate the untrained encoder and the raw input with the same probe to see it here.",
        "note warn",
    )


def _join(names: Iterable[str], most: int = 12) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def result_tables(results: Results) -> list[str]:
    """All tables of the result section, the main one first."""
    primary = scores.primary_columns(results)
    further = scores.further_columns(results)
    notes = (
        "Value, and its interval below it. Bold: best of the column. Controls get the same probe, "
        "labels and samples as the encoder."
    )
    return [
        score_table(results, primary, "Results with controls"),
        paragraph(notes, "note") if primary else "",
        left_out(results),
        details("Paired differences on the same samples", paired_table(results), opened=True),
        details("Further metrics", score_table(results, further, "Further metrics")),
        pooling_table(results),
        details("Paired differences under other poolings", paired_table(results, primary=False)),
    ]
