"""What a run's numbers say in plain words, and the table of several runs."""

from __future__ import annotations

from collections.abc import Mapping

from jepa_modalities.eval import score as scores
from jepa_modalities.eval.folder import Folder
from jepa_modalities.eval.page import paragraph, table, text
from jepa_modalities.eval.score import Column, Results, Score
from jepa_modalities.eval.table import EMPTY, SYMBOLS, column_head, figure, interval

_CONTROLS = {
    "untrained": "the untrained encoder",
    "raw": "the raw input",
    "bar": "the parameter-free bar",
}
_TILES = {
    "rankme": "RankMe",
    "effective_rank": "effective rank",
    "std": "feature std",
    "spread": "spread",
    "cosine": "mean cosine",
    "loss_over_target_variance": "loss / target variance",
}

_TONES = {"healthy": "calm", "narrow": "watch", "collapsed": "alarm"}  # first word of a verdict


def primary_pairs(results: Results) -> tuple[Column | None, dict[str, Score]]:
    """The encoder's paired differences under the leading probe: (column, control -> score).

    The leading probe is the one with the fewest labels where there is one (few labels are what
    pretraining is for), else "linear", else the first that was paired on the primary pooling.
    """
    found = [
        (control, column, score)
        for (arm, control, column), score in results.paired.items()
        if arm == "encoder" and not column.pooling and scores.is_control(control)
    ]
    columns = list(dict.fromkeys(column for _, column, _ in found))
    if not columns:
        return None, {}
    few = [column for _, _, column in scores.few_label_columns(results) if column in columns]
    linear = [column for column in columns if column.probe == "linear"]
    lead = [*few, *linear, *columns][0]
    pairs = {control: score for control, column, score in found if column == lead}
    return lead, {control: pairs[control] for control in scores.arm_order(pairs)}


def summary_lead(results: Results) -> str:
    """One sentence: does the encoder beat its controls?"""
    column, pairs = primary_pairs(results)
    if column is None:
        if not results.arms:
            return "This run has not been evaluated."
        return "No paired comparison: whether the encoder beats its controls is not known."
    said = {c: scores.outcome(score, column.metric) for c, score in pairs.items()}
    groups = {word: [c for c in said if said[c] == word] for word in SYMBOLS}
    probe = f"in the {scores.probe_name(column.probe)} probe"
    if len(groups["beats"]) == len(said):
        every = "its only paired control" if len(said) == 1 else f"all {len(said)} paired controls"
        names = f", {_list([_plain(control) for control in said])},"
        return f"The encoder beats {every}{names} {probe}{_reservation(results)}."
    verbs = {
        "beats": "beats",
        "tie": "ties with",
        "falls below": "falls below",
        "unknown": "has no interval against",
    }
    parts = [
        f"{verbs[word]} {_list([_plain(name) for name in names])}"
        for word, names in groups.items()
        if names
    ]
    said_all = _list(parts, last="but" if len(parts) == 2 else "and")
    return f"The encoder {said_all} {probe}{_reservation(results)}."


def _plain(arm: str) -> str:
    return _CONTROLS.get(arm, arm)


def _untested(results: Results) -> dict[str, Score]:
    """Controls with a score under the leading probe but without a paired difference."""
    column, pairs = primary_pairs(results)
    return {
        arm: score
        for (arm, other), score in results.arms.items()
        if other == column and scores.is_control(arm) and arm not in pairs
    }


def _reservation(results: Results) -> str:
    """What keeps the lead honest: an untested control with a better value."""
    column, _ = primary_pairs(results)
    own = results.arms.get(("encoder", column)) if column else None
    if column is None or own is None:
        return ""
    better = [
        arm
        for arm, score in _untested(results).items()
        if "encoder" not in scores.best({"encoder": own, arm: score}, column.metric)
    ]
    return f"; better in value, but not paired: {_list(better)}" if better else ""


def summary_text(results: Results) -> str:
    """A paragraph with the numbers behind the lead and the count over all comparisons."""
    column, pairs = primary_pairs(results)
    if column is None:
        if not results.arms:
            return "metrics.json holds no scores; run `jm evaluate` on this folder to add them."
        return (
            "The table shows each score beside its controls; without paired differences on the "
            "same samples, the gaps between them are not tested."
        )
    sentences = []
    own = results.arms.get(("encoder", column))
    if own is not None:
        value = _with_unit(own.value, column.metric)
        sentences.append(
            f"With the {scores.probe_name(column.probe)} probe the pretrained encoder reaches "
            f"{value} {column.metric.replace('_', ' ')}{_bounds(own, column.metric)}."
        )
    gaps = [_gap(control, score, column.metric) for control, score in pairs.items()]
    sentences.append(f"On the same samples it {_list(gaps, separator='; ')}.")
    rest = [
        f"{arm} ({_with_unit(s.value, column.metric)})" for arm, s in _untested(results).items()
    ]
    if rest:
        sentences.append(f"Without a paired test: {_list(rest)}.")
    sentences.append(_count(results))
    return " ".join(sentence for sentence in sentences if sentence)


def _gap(control: str, score: Score, metric: str) -> str:
    name = _plain(control)
    unit = " points" if scores.is_share(metric) else ""
    size = f"{scores.number(score.value, metric, True)}{unit}"
    said = scores.outcome(score, metric)
    if said == "unknown":
        return f"differs from {name} by {size}, without an interval"
    verb = {"beats": "beats", "tie": "ties with", "falls below": "falls below"}[said]
    return f"{verb} {name} ({size}{_bounds(score, metric, ', interval ', '', True)})"


def _count(results: Results) -> str:
    """Every comparison of the encoder with a control, so that no probe can be picked by hand."""
    said = [
        scores.outcome(score, column.metric)
        for (arm, control, column), score in results.paired.items()
        if arm == "encoder" and scores.is_control(control)
    ]
    if len(said) < 2:
        return ""
    words = {
        "beats": "beats its control in",
        "tie": "ties in",
        "falls below": "falls below in",
        "unknown": "has no interval in",
    }
    parts = [f"{words[word]} {said.count(word)}" for word in words if word in said]
    return f"Over all {len(said)} comparisons on this page, it {_list(parts)}."


def _with_unit(value: float, metric: str) -> str:
    return scores.number(value, metric) + (" %" if scores.is_share(metric) else "")


def _bounds(
    score: Score, metric: str, start: str = " (interval ", end: str = ")", signed: bool = False
) -> str:
    if score.low is None or score.high is None:
        return ""
    low, high = (scores.number(bound, metric, signed) for bound in (score.low, score.high))
    return f"{start}{low} to {high}{end}"


def _list(parts: list[str], separator: str = ", ", last: str = "and") -> str:
    if len(parts) < 2:
        return "".join(parts)
    mark = separator if separator == "; " else " "
    return f"{separator.join(parts[:-1])}{mark}{last} {parts[-1]}"


def verdict_block(folder: Folder) -> str:
    """The last collapse verdict of the log and the collapse metrics as tiles."""
    verdicts = [record for record in folder.log if isinstance(record.get("verdict"), str)]
    line = ""
    if verdicts:
        step, said = verdicts[-1]["step"], str(verdicts[-1]["verdict"])
        line = (
            f"<p class='verdict {_TONES.get(said.split(':')[0], '')}'>Collapse check at step "
            f"{text(step)}: <b>{text(said)}</b></p>"
        )
    values = {
        key.removeprefix("collapse/"): value
        for key, value in folder.results.other.items()
        if key.startswith("collapse/")
    }
    for record in folder.log:  # the last probe step, where metrics.json has no final value
        for name in _TILES:
            value = record.get(f"collapse/{name}")
            if isinstance(value, (int, float)) and f"collapse/{name}" not in folder.results.other:
                values[name] = float(value)
    tiles = "".join(
        f"<div class='tile'><span>{text(label)}</span><b>{values[name]:.4g}</b></div>"
        for name, label in _TILES.items()
        if name in values
    )
    if not line and not tiles:
        return paragraph("No collapse check was logged for this run.", "note")
    return line + (f"<div class='tiles'>{tiles}</div>" if tiles else "")


def compared_table(runs: Mapping[str, Folder]) -> str:
    """Runs as rows, primary metrics as columns: the encoder, its best control, what pairs say."""
    columns = list(
        dict.fromkeys(
            column
            for folder in runs.values()
            for column in scores.primary_columns(folder.results)
            if ("encoder", column) in folder.results.arms
        )
    )
    if not columns:
        return ""
    tops = {
        column: scores.best(
            {
                name: folder.results.arms["encoder", column]
                for name, folder in runs.items()
                if column in scores.primary_columns(folder.results)
                and ("encoder", column) in folder.results.arms
            },
            column.metric,
        )
        for column in columns
    }
    rows = []
    for name, folder in runs.items():
        cells = "".join(_compared(folder.results, c, name in tops[c]) for c in columns)
        recipe = f"<small>{text(folder.recipe)}</small>" if folder.recipe != name else ""
        rows.append(f"<tr><th scope='row'>{text(name)}{recipe}</th>{cells}</tr>")
    head = ["<th scope='col'>run</th>", *map(column_head, columns)]
    return table(head, rows, "Primary results of all runs")


def _compared(results: Results, column: Column, bold: bool) -> str:
    own = results.arms.get(("encoder", column))
    controls = {
        arm: s for (arm, c), s in results.arms.items() if c == column and scores.is_control(arm)
    }
    if own is None or not controls:
        return EMPTY
    value = figure(own, column.metric)
    arm = scores.arm_order(scores.best(controls, column.metric))[0]
    lines = f"<small>best control: {text(arm)} {figure(controls[arm], column.metric)}</small>"
    pair = results.paired.get(("encoder", arm, column))
    said = "unknown" if pair is None else scores.outcome(pair, column.metric)
    word = {"beats": "beats it", "tie": "tie", "falls below": "falls below it"}
    lines += (
        f"<small class='outcome {said.split()[0]}'>{SYMBOLS[said]} "
        f"{word.get(said, 'no paired test')}</small>"
    )
    return f"<td>{f'<b>{value}</b>' if bold else value}{interval(own, column.metric)}{lines}</td>"


def comparison_note(runs: Mapping[str, Folder]) -> str:
    """How to read the comparison, or what is missing for one."""
    if not any(scores.primary_columns(folder.results) for folder in runs.values()):
        return "None of these runs holds a score with a control; evaluate them first."
    return (
        "The encoder's value, its interval, and the strongest control of the same run. Bold: best "
        "of the column. Runs on different data or labels are not comparable by these numbers."
    )
