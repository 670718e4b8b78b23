"""Charts as inline SVG in one shared style: curves over steps and a dot plot with intervals."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from jepa_modalities.eval.page import THEME, colour, legend, text

MOST_POINTS = 300  # more than a panel has pixels to show
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: selectable, and in the page's own font
    "text.parse_math": False,  # a name with dollar signs is a name, not a formula
    "font.size": 11.0,
    "axes.edgecolor": colour("line"),
    "axes.labelcolor": colour("muted"),
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": colour("ink"),
    "xtick.color": colour("muted"),
    "ytick.color": colour("muted"),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": colour("line"),
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class Curve:
    """One line of a panel: values over optimiser steps, same length, ascending steps."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class Dot:
    """One value of the dot plot with its interval (None where not known)."""

    row: str
    name: str
    value: float
    low: float | None = None
    high: float | None = None


@contextmanager
def house_style() -> Iterator[None]:
    """Draw in the report's style: theme colours, no top and right spine, transparent ground."""
    with matplotlib.rc_context(_STYLE):
        yield


def canvas(width: float, height: float) -> Figure:
    """An empty figure of so many CSS pixels, without pyplot and its global state."""
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    FigureCanvasAgg(figure)
    return figure


def svg(figure: Figure, name: str, description: str) -> str:
    """A figure as inline SVG that follows the page's theme.

    Args:
        figure: the figure; theme colours (`page.colour`) become CSS variables.
        name: makes the ids of this SVG unique on the page.
        description: text for readers who do not see the picture.
    """
    sink = StringIO()
    with house_style():
        blank = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(sink, format="svg", metadata=blank)
    code = sink.getvalue()
    code = code[code.index("<svg") :]
    code = re.sub(r"<metadata>.*?</metadata>", "", code, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', code)
    head = f"<svg role='img' aria-label='{text(description)}' {box[0] if box else ''}>"
    code = head + code[code.index(">") + 1 :]
    prefix = re.sub(r"\W", "-", name)
    code = re.sub(r'\bid="', f'id="{prefix}-', code)
    code = re.sub(r'xlink:href="#', f'href="#{prefix}-', code)
    code = code.replace('xlink:href="', 'href="').replace("url(#", f"url(#{prefix}-")
    for variable, (light, _) in THEME.items():
        code = re.sub(f"{light}(?![0-9a-f])", f"var(--{variable})", code)
    code = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", code)
    return code.strip()


def series_colour(index: int) -> str:
    """Theme name of the colour of series number `index`, starting at 0."""
    return f"series-{index % 8 + 1}"


def thin(
    steps: np.ndarray, values: np.ndarray, most: int = MOST_POINTS
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Shorten a curve to at most `most` points: (steps, mean, lowest, highest) of equal runs."""
    if len(values) <= most:
        return steps, values, values, values
    starts = np.linspace(0, len(values), most, endpoint=False).astype(int)
    counts = np.diff([*starts, len(values)])
    last = starts + counts - 1
    return (
        steps[last],
        np.add.reduceat(values, starts) / counts,
        np.minimum.reduceat(values, starts),
        np.maximum.reduceat(values, starts),
    )


def panel(title: str, curves: Sequence[Curve], unit: str, name: str, log: bool = False) -> str:
    """A figure element with one small chart; nothing when no curve has a point.

    Args:
        title: heading above the chart.
        curves: the lines; drawn in the series colours, in this order.
        unit: what the y axis shows.
        name: unique on the page.
        log: use a logarithmic y axis where all values are positive.
    """
    curves = [curve for curve in curves if len(curve.values)]
    if not curves:
        return ""
    with house_style():
        figure = canvas(340, 214)
        axes = figure.add_axes((0.178, 0.195, 0.795, 0.765))
        for index, curve in enumerate(curves):
            _draw(axes, curve, colour(series_colour(index)))
        _scale(axes, curves, unit, log)
        code = svg(figure, name, f"{title}: {unit} over optimiser steps")
    keys = legend((c.name, series_colour(i)) for i, c in enumerate(curves))
    keys = keys if len(curves) > 1 else ""
    return f"<figure><figcaption>{text(title)}{keys}</figcaption>\n{code}\n</figure>"


def _draw(axes: Axes, curve: Curve, paint: str) -> None:
    steps, values = np.asarray(curve.steps, float), np.asarray(curve.values, float)
    at, mean, low, high = thin(steps, values)
    if len(at) < len(steps):
        axes.fill_between(at, low, high, color=paint, alpha=0.16, linewidth=0)
    marker = "o" if len(at) <= 24 else None
    axes.plot(at, mean, color=paint, linewidth=1.7, marker=marker, markersize=3.6, clip_on=False)


def _scale(axes: Axes, curves: Sequence[Curve], unit: str, log: bool) -> None:
    values = np.concatenate([np.asarray(curve.values, float) for curve in curves])
    low, high = float(values.min()), float(values.max())
    if log and low > 0 and high / low > 30:
        axes.set_yscale("log")
        wide = high / low > 1000
        axes.yaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5), numticks=6))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        # A flat curve must look flat: the range never shrinks below a sliver of the value.
        room = max(0.06 * (high - low), 1e-3 * abs(high), 1e-12)
        axes.set_ylim(low - room, high + room)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    axes.grid(axis="y", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(labelsize=11, pad=3)
    axes.set_xlabel("optimiser step", fontsize=11, labelpad=1)
    axes.set_ylabel(unit, fontsize=11)
    axes.yaxis.set_label_coords(-0.168, 0.5)


def _plain(value: float, _: int = 0) -> str:
    """A tick label of at most about six characters: 0.25, 2.5e-4, 24k."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= max(size, 1e4):
            return _minus(f"{value / size:.4g}{letter}")
    plain = f"{value:.5g}"
    if len(plain) > 6 and abs(value) < 0.01:
        digits, power = f"{value:.1e}".split("e")
        plain = f"{digits.removesuffix('.0')}e{int(power)}"
    return _minus(plain)


def _minus(number: str) -> str:
    return number.replace("-", "\N{MINUS SIGN}")


def _thousands(value: float, _: int = 0) -> str:
    return f"{value / 1e3:g}k" if 1e3 <= abs(value) < 1e4 else _plain(value)


def dot_plot(
    dots: Sequence[Dot],
    looks: Mapping[str, tuple[str, str, bool]],
    unit: str,
    name: str,
    description: str,
) -> str:
    """Values with intervals: a heading per row, below it a labelled line per name.

    Args:
        dots: the values; rows keep the order of their first appearance, from the top.
        looks: name -> (theme colour, matplotlib marker, filled); also the order within a row.
            Every name of `dots` needs one.
        unit: what the x axis shows.
        name: unique on the page.
        description: text for readers who do not see the chart.
    """
    rows = list(dict.fromkeys(dot.row for dot in dots))
    order = list(looks)
    if not rows:
        return ""
    line, heading, height = 18.0, 25.0, 4.0
    ticks, titles, marks = [], [], []
    for row in rows:
        titles.append((height + 0.62 * heading, row))
        height += heading
        for dot in sorted((d for d in dots if d.row == row), key=lambda d: order.index(d.name)):
            ticks.append((height + line / 2, dot.name))
            marks.append((height + line / 2, dot))
            height += line
        height += 4
    full = height + 40
    with house_style():
        figure = canvas(440, full)
        axes = figure.add_axes((0.27, 38 / full, 0.695, height / full))
        for at, dot in marks:
            _mark(axes, dot, at, looks[dot.name])
        for at, row in titles:
            axes.text(
                -0.375, at, row, transform=axes.get_yaxis_transform(), va="center", weight="bold"
            )
        axes.set_ylim(height, 0)
        axes.set_yticks([at for at, _ in ticks], [arm for _, arm in ticks])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(_plain))
        axes.grid(axis="x", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.tick_params(labelsize=11)
        axes.tick_params(axis="y", labelcolor=colour("ink"))
        axes.set_xlabel(unit, fontsize=11)
        return svg(figure, name, description)


def _mark(axes: Axes, dot: Dot, height: float, look: tuple[str, str, bool]) -> None:
    paint, marker, filled = colour(look[0]), look[1], look[2]
    if dot.low is not None and dot.high is not None:
        axes.plot([dot.low, dot.high], [height, height], color=paint, linewidth=1.6)
    face = paint if filled else colour("paper")
    axes.plot(
        [dot.value], [height], marker, color=paint, markerfacecolor=face, markeredgewidth=1.5,
        markersize=7,
    )  # fmt: skip


def finite(records: Sequence[Mapping[str, object]], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of one key where it holds a finite number."""
    points = [
        (float(step), float(value))
        for record in records
        if isinstance(step := record.get("step"), (int, float))
        and isinstance(value := record.get(key), (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
    ]
    return [step for step, _ in points], [value for _, value in points]
