"""The model card: what an encoder is, how it is loaded, and its results beside their controls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jepa_modalities.eval import score as scores
from jepa_modalities.eval.score import Column, Results, Score, parse
from jepa_modalities.eval.summary import summary_lead, summary_text

# Stands in the card until a folder is pushed; `push` puts the real name there.
REPO = "OWNER/NAME"


def model_card(
    config: Any,
    metrics: Mapping[str, object],
    environment: Mapping[str, object],
    parameters: int,
    license: str | None = None,
    datasets: Sequence[str] = (),
) -> str:
    """README.md with the hub's YAML header.

    Args:
        config: of the run, without local folders.
        metrics: content of metrics.json; empty where nothing was evaluated.
        environment: content of env.json; empty where unknown.
        parameters: number of the encoder's weights.
        license: identifier such as "apache-2.0"; left for the author to fill in if not given.
        datasets: hub names of the data sets that the encoder was trained on.
    """
    results = parse(metrics)
    parts = [
        _header(config, license, datasets),
        _introduction(config, parameters),
        _usage(config),
        _results(results, config),
        _origin(config, metrics, environment),
        _limits(config),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _header(config: Any, license: str | None, datasets: Sequence[str]) -> str:
    tags = ["self-supervised-learning", "jepa", "feature-extraction", config.modality]
    lines = ["---", "library_name: jepa_modalities"]
    if config.modality == "image":
        lines.append("pipeline_tag: image-feature-extraction")
    lines += ["tags:", *(f"- {json.dumps(tag)}" for tag in tags)]
    if datasets:
        lines += ["datasets:", *(f"- {json.dumps(name)}" for name in datasets)]
    if license is None:
        lines.append("# license: choose one; it depends on the training data, too")
    else:
        lines.append(f"license: {json.dumps(license)}")
    return "\n".join([*lines, "---"])


def _introduction(config: Any, parameters: int) -> str:
    encoder, name = config.encoder, config.recipe or config.modality
    article = "An" if config.modality[:1] in "aeiou" else "A"
    what = (
        f"{article} {config.modality} encoder, pretrained without labels by {_method(config)} "
        f"(recipe `{name}` of jepa_modalities): a transformer of width {encoder.dim} with "
        f"{encoder.depth} blocks and {encoder.heads} heads, {parameters / 1e6:.2f} million weights."
    )
    if config.modality == "image":
        height, width = config.data.size
        colour = "RGB" if config.data.channels == 3 else "grey"
        what += f" It takes {colour} images of {height} x {width} pixels in patches of "
        what += f"{config.data.patch} pixels; resizing and normalisation are inside."
    return f"# {name}\n\n{what}"


def _method(config: Any) -> str:
    """The method in words, from the settings."""
    parts = []
    if config.mask.kind != "none":
        what = "latents of a moving-average teacher" if config.target.kind == "ema" else "targets"
        fixed = "" if config.target.kind == "ema" else f" of kind `{config.target.kind}`"
        parts.append(f"masked prediction of {what}{fixed}")
    if config.regulariser.kind != "none":
        parts.append({"vicreg": "VICReg", "sigreg": "SIGReg"}[config.regulariser.kind])
    return " with ".join(parts) or "self-supervision"


def _usage(config: Any) -> str:
    given = "folder_of_images" if config.modality == "image" else "your_data"
    return (
        "## Use\n\n```python\nfrom jepa_modalities.export.hub import from_pretrained\n"
        f'encoder = from_pretrained("{REPO}")\n'
        f'features = encoder.embed("{given}")  # (samples, width), float32\n```\n\n'
        "Install with `pip install jepa_modalities`. Nothing in the files is executed: weights and "
        "settings are in safetensors and JSON."
    )


def _results(results: Results, config: Any) -> str:
    columns = scores.primary_columns(results)
    if not columns:
        return "## Results\n\nNo probe results with controls were recorded for this encoder."
    arms = scores.arm_order(arm for arm, column in results.arms if column in set(columns))
    head = [f"{scores.probe_name(c.probe)}: {_metric(c)}" for c in columns]
    rows = [_row(["features", *head]), _row(["---"] * (len(columns) + 1))]
    rows += [_row([_arm(arm), *(_cell(results, arm, c) for c in columns)]) for arm in arms]
    note = (
        f"Frozen features with pooling `{config.evaluate.pooling}`; the same probe and labels in "
        "every row: an encoder is worth what it adds to the controls. In brackets: the interval"
    )
    seeds = sorted({s.seeds for (_, c), s in results.arms.items() if c in set(columns) and s.seeds})
    if seeds:
        counts = " or ".join(f"{count:g}" for count in seeds)
        note += f"; mean over {counts} seeds or draws where `_seeds` in metrics.json says so"
    lines = [summary_lead(results), summary_text(results)] if results.paired else []
    return "\n\n".join(["## Results beside their controls", *lines, "\n".join(rows), note + "."])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _metric(column: Column) -> str:
    unit = " (%)" if scores.is_share(column.metric) else ""
    return column.metric.replace("_", " ") + unit


def _arm(arm: str) -> str:
    note = scores.describe(arm)
    name = f"**{arm}**" if arm == "encoder" else arm
    return name + (f" ({note})" if note else "") + (", control" * scores.is_control(arm))


def _cell(results: Results, arm: str, column: Column) -> str:
    score: Score | None = results.arms.get((arm, column))
    if score is None:
        return "n/a"
    value = scores.number(score.value, column.metric)
    if score.low is None or score.high is None:
        return value
    low, high = (scores.number(bound, column.metric) for bound in (score.low, score.high))
    return f"{value} ({low} to {high})"


def _origin(config: Any, metrics: Mapping[str, object], environment: Mapping[str, object]) -> str:
    train = config.train
    length = f"{train.epochs:g} epochs" if train.steps is None else f"{train.steps} steps"
    facts = [
        f"- data: {config.data.path or 'not recorded'}",
        f"- training: {length}, batch size {train.batch_size}, seed {train.seed} (one run; other "
        "seeds give other encoders)",
    ]
    seen = metrics.get("train/samples_seen")
    if isinstance(seen, int | float):
        facts.append(f"- samples seen: {seen:,.0f}")
    rank = metrics.get("collapse/rankme")
    if isinstance(rank, int | float):
        facts.append(
            f"- effective rank of the features (RankMe): {rank:.1f} of {config.encoder.dim}"
        )
    made = [
        f"{key} {environment[key]}" for key in ("jepa_modalities", "torch") if key in environment
    ]
    if made:
        facts.append(f"- made with: {', '.join(made)}")
    return (
        "## Where it comes from\n\n"
        + "\n".join(facts)
        + "\n\nEvery setting is in `config.json`, every number in `metrics.json` (if there is one)."
    )


def _limits(config: Any) -> str:
    limits = [
        "The results hold for the data named above; on other data, measure again beside controls.",
        "Features carry the biases of the training data. No check for fairness or safety was made.",
    ]
    if config.modality == "image":
        limits.append(
            "Other image sizes are resized to the one above; details much finer than a patch "
            "may be lost."
        )
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)
