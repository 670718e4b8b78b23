"""Pictures of an ECG run: masked spans on millimetre paper, attention, neighbours, ROC curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_modalities.adapters.base import build_masker
from jepa_modalities.adapters.ecg.trace import LEFT, SPEED, WIDTH, paper, spans, strips, thinned
from jepa_modalities.core.batch import Tokens
from jepa_modalities.core.draw import seeded
from jepa_modalities.core.masking import Masks
from jepa_modalities.eval.curve import canvas, house_style, series_colour
from jepa_modalities.eval.features import pool
from jepa_modalities.eval.page import Picture, colour

if TYPE_CHECKING:
    from jepa_modalities.adapters.ecg.adapter import ECGAdapter

GAINS = {"mV": 10.0}  # mm per unit; signals without a unit are drawn at 1.5 mm per deviation
ROW = 11.0  # mm between leads


def pictures(adapter: ECGAdapter, encoders: dict[str, list[nn.Module]]) -> dict[str, Picture]:
    """All pictures of a run, on records that were kept for choices.

    Args:
        adapter: with its data open.
        encoders: `encoder` and `untrained` are shown.
    """
    source, config = adapter.source, adapter.config
    rows = source.splits.valid[source.samples[source.splits.valid] >= source.crop][:300]
    if len(rows) < 2:
        return {}
    raw = source.raw(rows, source.crop)
    tokens = adapter.tokenizer(raw.to(adapter.tokenizer.preprocess.mean.device))
    names = shown_labels(adapter, rows)
    wanted: tuple[str, ...] = ("encoder", "untrained")
    shown = {name: encoders[name][0] for name in wanted if name in encoders}
    found: dict[str, Picture] = {}
    masker = build_masker(config, adapter.geometry)
    fs, unit, leads = config.preprocess.fs, config.preprocess.unit, config.preprocess.leads
    if masker is not None:
        masks = masker(1, seeded(config.train.seed, 6, 0))
        hidden = hidden_time(masks, adapter.geometry.grid[-1])[0]
        found["masks"] = mask_picture(raw[0].numpy(), fs, leads, hidden, config.data.patch, unit)
    maps = attention_maps(shown, Tokens(tokens.values[:3], tokens.positions))
    lead = leads.index("II") if "II" in leads else 0
    traces = raw[:, lead].nan_to_num().numpy()
    if maps:
        time = adapter.geometry.grid[-1]
        weights = {name: received(value, time) for name, value in maps.items()}
        found["attention"] = attention_picture(traces[:3], fs, weights, leads[lead])
    pooled = {name: pooled_features(model, tokens) for name, model in shown.items()}
    found["neighbours"] = neighbour_picture(traces, fs, pooled, names, leads[lead])
    if adapter.scored is not None:
        found["roc"] = roc_picture(*adapter.scored)
    return found


def shown_labels(adapter: ECGAdapter, rows: NDArray[np.int64]) -> list[str] | None:
    """Class names of each record, joined, or None without labels."""
    from jepa_modalities.adapters.ecg.task import task_labels

    task = task_labels(adapter.source.records, adapter.config.evaluate.task)
    if task is None:
        return None
    return [
        "+".join(name for name, has in zip(task.classes, line, strict=True) if has) or "none"
        for line in task.labels[rows]
    ]


def hidden_time(masks: Masks, time: int) -> Tensor:
    """Which times the context encoder does not see in any lead, bool, (batch, time)."""
    visible = torch.zeros(len(masks.context), time, dtype=torch.bool)
    return ~visible.scatter(1, masks.context[:, 0] % time, True)


@torch.no_grad()
def pooled_features(encoder: nn.Module, tokens: Tokens, size: int = 128) -> Tensor:
    """Mean, spread and maximum of the tokens, (records, width)."""
    encoder.eval()
    parts = []
    for low in range(0, len(tokens), size):
        rows = slice(low, low + size)
        valid = None if tokens.valid is None else tokens.valid[rows]
        latents = encoder(Tokens(tokens.values[rows], tokens.positions, valid))
        parts.append(pool(latents, "mean_std_max", valid).float().cpu())
    return torch.cat(parts)


def attention_maps(encoders: Mapping[str, nn.Module], tokens: Tokens) -> dict[str, Tensor]:
    """Last-block attention of encoders that have any, (records, heads, tokens, tokens)."""
    found = {}
    for name, encoder in encoders.items():
        make = getattr(encoder, "attention_map", None)
        if make is not None and not getattr(encoder, "cross_pattern", False):
            found[name] = make(tokens).float().cpu()
    return found


def received(maps: Tensor, time: int) -> NDArray[np.float64]:
    """Attention that each time receives over its uniform share, (records, time); 1 = uniform."""
    share = maps.mean((1, 2)).unflatten(1, (-1, time)).sum(1)
    share = share / share.sum(1, keepdim=True)
    return (share * time).double().numpy()


def mask_picture(
    signal: NDArray[Any],
    fs: float,
    leads: Sequence[str],
    hidden: Tensor,
    patch: float,
    unit: str = "mV",
) -> Picture:
    """One record on millimetre paper, the times that the encoder does not see shaded.

    Args:
        signal: (leads, samples) in `unit`; NaN where a lead is absent.
        fs: Hz.
        leads: names.
        hidden: bool, (tokens along time,).
        patch: seconds per token.
        unit: of the signal; mV is drawn at 10 mm per mV.
    """
    seconds = signal.shape[1] / fs
    gain = GAINS.get(unit, 1.5)
    top, bottom = ROW, -ROW * len(leads)
    scale = (WIDTH - LEFT - 8) / (seconds * SPEED)  # pixels per mm, the same on both axes
    height = (top - bottom) * max(scale, 2.4) + 42
    with house_style():
        figure = canvas(WIDTH, height)
        axes = figure.add_axes((LEFT / WIDTH, 38 / height, 1 - (LEFT + 8) / WIDTH, 1 - 42 / height))
        paper(axes, seconds, bottom, top)
        for start, end in spans(hidden):
            axes.axvspan(
                start * patch, end * patch, color=colour("series-1"), alpha=0.22, lw=0, zorder=1
            )
        time = np.arange(signal.shape[1]) / fs
        for number, name in enumerate(leads):
            level = -ROW * number
            line = signal[number]
            absent = bool(np.isnan(line).all())
            if not absent:
                at, drawn = thinned(time, line - np.nanmedian(line))
                axes.plot(at, level + gain * drawn, color=colour("ink"), lw=0.75, zorder=2)
            axes.text(
                -0.012 * seconds,
                level,
                name + (" (absent)" if absent else ""),
                fontsize=11,
                ha="right",
                va="center",
                color=colour("muted"),
            )
        axes.set(yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_xlabel("seconds", fontsize=11, labelpad=1)
        axes.tick_params(labelsize=11)
    size = "10 mm per mV" if unit in GAINS else "1.5 mm per standard deviation"
    caption = (
        f"Millimetre paper: 25 mm per second, {size}. Shaded times are hidden in all leads; from "
        f"the rest the predictor predicts what lies there."
    )
    return Picture("Masked spans", caption, figure)


def attention_picture(
    traces: NDArray[Any], fs: float, weights: Mapping[str, NDArray[Any]], lead: str
) -> Picture:
    """What the last block attends to over time, under one lead of a few records.

    Args:
        traces: (records, samples).
        fs: Hz.
        weights: heading -> (records, time), 1 = uniform.
        lead: name of the lead drawn.
    """
    seconds = traces.shape[1] / fs
    top = max(2.0, *(float(np.quantile(value, 0.995)) for value in weights.values()))
    figure, cells = strips(len(traces), 92, foot=36)
    with house_style():
        for number, axes in enumerate(cells):
            at, drawn = thinned(np.arange(traces.shape[1]) / fs, traces[number])
            span = float(np.ptp(drawn)) or 1.0
            axes.plot(at, 0.55 + 0.42 * (drawn - drawn.min()) / span, color=colour("ink"), lw=0.75)
            for index, (name, value) in enumerate(weights.items()):
                step = seconds / value.shape[1]
                x = np.arange(value.shape[1] + 1) * step
                axes.stairs(
                    0.48 * value[number].clip(0, top) / top,
                    x,
                    color=colour(series_colour(index)),
                    lw=1.3,
                    label=name,
                    ls="-" if index == 0 else (0, (3, 1.5)),
                )
            axes.axhline(0.48 / top, color=colour("line"), lw=0.7, zorder=0)
            axes.set(xlim=(0, seconds), ylim=(0, 1), yticks=[0.0, 0.48 / top])
            axes.set_yticklabels(["0", "1"], fontsize=11)
            axes.tick_params(labelsize=11)
            if number < len(cells) - 1:
                axes.set_xticklabels([])
        cells[-1].set_xlabel("seconds", fontsize=11, labelpad=1)
        cells[0].legend(
            loc="lower right", bbox_to_anchor=(1, 0.99), ncols=3, frameon=False, fontsize=11
        )
    caption = (
        f"Lead {lead} of three records, and below it the attention that each time receives in the "
        f"last block, averaged over queries and heads; 1 is uniform."
    )
    return Picture("Attention over time", caption, figure)


def nearest(features: Tensor, query: int, k: int) -> list[int]:
    """The `k` records of highest cosine with the query after centring, never itself."""
    unit = nn.functional.normalize(features - features.mean(0), dim=1)
    similarity = unit @ unit[query]
    similarity[query] = -torch.inf
    found: list[int] = similarity.topk(min(k, len(unit) - 1)).indices.tolist()
    return found


def neighbour_picture(
    traces: NDArray[Any],
    fs: float,
    features: Mapping[str, Tensor],
    labels: Sequence[str] | None,
    lead: str,
    queries: Sequence[int] = (0, 1),
    k: int = 3,
) -> Picture:
    """A record and its nearest ones among the records for choices, for each encoder.

    Args:
        traces: one lead of all records, (records, samples).
        fs: Hz.
        features: heading -> (records, width).
        labels: one text per record, or None.
        lead: name of the lead drawn.
        queries: records asked for.
        k: neighbours.
    """
    lines: list[tuple[str, int, int]] = []
    for query in queries:
        lines.append(("query", query, query))
        for name, values in features.items():
            lines += [(name, query, other) for other in nearest(values, query, k)]
    figure, cells = strips(len(lines), 50, foot=34, head=6)
    paints = {name: colour(series_colour(n)) for n, name in enumerate(features)}
    with house_style():
        for axes, (kind, query, record) in zip(cells, lines, strict=True):
            at, drawn = thinned(np.arange(traces.shape[1]) / fs, traces[record])
            paint = colour("ink") if kind == "query" else paints[kind]
            axes.plot(at, drawn, color=paint, lw=1.1 if kind == "query" else 0.75)
            axes.set(yticks=[], xlim=(0, traces.shape[1] / fs))
            axes.spines[["left"]].set_visible(False)
            low, high = float(drawn.min()), float(drawn.max())
            axes.set_ylim(low, high + 0.55 * max(high - low, 1e-6))  # room for the text
            text = kind
            if labels is not None:
                same = labels[record] == labels[query]
                text += f": {labels[record]}" + ("" if kind == "query" or same else " (other)")
            axes.text(
                0.004,
                0.99,
                text,
                transform=axes.transAxes,
                fontsize=11,
                va="top",
                color=paint,
                fontweight="bold" if kind == "query" else "normal",
                bbox={"facecolor": colour("paper"), "edgecolor": "none", "alpha": 0.75, "pad": 0.6},
            )
            axes.tick_params(labelsize=11)
            if axes is not cells[-1]:
                axes.set(xticks=[])
                axes.spines[["bottom"]].set_visible(False)
        cells[-1].set_xlabel("seconds", fontsize=11, labelpad=1)
    caption = (
        f"Lead {lead} of a record and of its {k} nearest by cosine of the centred, pooled features "
        f"of all leads. (other): another set of labels than the query's."
    )
    return Picture("Nearest recordings", caption, figure)


def roc_picture(
    truth: NDArray[Any], classes: Sequence[str], scores: Mapping[str, NDArray[Any]], most: int = 6
) -> Picture:
    """ROC curves of the most frequent classes, encoder and controls in one panel per class.

    Args:
        truth: 0 or 1, (records, classes).
        classes: names.
        scores: heading -> (records, classes).
        most: classes shown.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    count = truth.sum(0)
    order = [c for c in np.argsort(-count, kind="stable") if 0 < count[c] < len(truth)][:most]
    columns = min(2, max(len(order), 1))
    rows = -(-len(order) // columns)
    side = 158.0
    whole = 26 + rows * (side + 50)
    with house_style():
        figure = canvas(WIDTH, whole)
        for number, c in enumerate(order):
            row, column = divmod(number, columns)
            left = LEFT + column * (side + 44)
            axes = figure.add_axes(
                (
                    left / WIDTH,
                    1 - (26 + row * (side + 50) + 16 + side) / whole,
                    side / WIDTH,
                    side / whole,
                )
            )
            axes.plot([0, 1], [0, 1], color=colour("line"), lw=0.8)
            for index, (name, values) in enumerate(scores.items()):
                x, y, _ = roc_curve(truth[:, c], values[:, c])
                area = roc_auc_score(truth[:, c], values[:, c])
                axes.plot(
                    x,
                    y,
                    color=colour(series_colour(index)),
                    lw=1.4,
                    label=name,
                    ls=("-", (0, (4, 1.5)), (0, (1, 1.2)))[index % 3],
                )
                axes.text(
                    0.98,
                    0.04 + 0.105 * (len(scores) - 1 - index),
                    f"{area:.3f}",
                    ha="right",
                    fontsize=11,
                    color=colour(series_colour(index)),
                    transform=axes.transAxes,
                )
            axes.set(xlim=(0, 1), ylim=(0, 1.01), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
            axes.tick_params(labelsize=11)
            axes.set_title(f"{classes[c]}, {int(count[c])} of {len(truth)}", fontsize=11.5, pad=3)
            if number == 0:
                handles = axes.get_legend_handles_labels()
                figure.legend(
                    *handles,
                    loc="upper left",
                    ncols=3,
                    frameon=False,
                    fontsize=11,
                    bbox_to_anchor=(LEFT / WIDTH - 0.03, 1.0),
                    borderaxespad=0.2,
                )
    caption = (
        "True positive over false positive rate of the linear probe on the records for scores, "
        "with the area under each curve; the most frequent classes."
    )
    return Picture("ROC curves", caption, figure)
