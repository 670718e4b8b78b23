"""Traces on millimetre paper: what the ECG pictures are drawn with."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from jepa_modalities.eval.curve import canvas, house_style

WIDTH = 420.0  # CSS pixels: text stays readable when a phone shows the figure at 350
LEFT = 34.0  # room for lead names
SPEED = 25.0  # paper: mm per second
MOST_POINTS = 700  # of a line: more than the picture has pixels
PAPER = ("#f6d5d2", "#e8aaa5")  # lines of 1 and 5 mm


def thinned(time: NDArray[Any], values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """At most about `MOST_POINTS` points that keep every peak: lowest and highest of equal runs."""
    step = -(-2 * len(values) // MOST_POINTS)
    if step < 3:
        return time, values
    whole = len(values) // step * step
    parts = np.nan_to_num(values[:whole]).reshape(-1, step)
    ends = np.sort(np.stack([parts.argmin(1), parts.argmax(1)], 1), 1)
    index = (ends + np.arange(len(parts))[:, None] * step).ravel()
    return time[index], values[index]


def paper(axes: Axes, seconds: float, low: float, high: float) -> None:
    """Millimetre paper behind a trace whose y axis is in mm: lines of 1 mm and of 5 mm."""
    for step, width, paint in ((1, 0.35, PAPER[0]), (5, 0.7, PAPER[1])):
        across = np.arange(0, seconds * SPEED + 1e-6, step) / SPEED
        up = np.arange(np.ceil(low / step) * step, high + 1e-6, step)
        lines = [[(x, low), (x, high)] for x in across] + [[(0, y), (seconds, y)] for y in up]
        axes.add_collection(LineCollection(lines, colors=paint, linewidths=width, zorder=0))
    axes.set(xlim=(0, seconds), ylim=(low, high))


def spans(hidden: Tensor) -> list[tuple[int, int]]:
    """Runs of True as (first, end)."""
    edge = np.flatnonzero(np.diff(np.r_[0, hidden.numpy().astype(int), 0]))
    return list(zip(edge[::2].tolist(), edge[1::2].tolist(), strict=True))


def strips(
    count: int, height: float, foot: float = 30, head: float = 22
) -> tuple[Figure, list[Axes]]:
    """A column of wide axes; heights in CSS pixels."""
    whole = head + count * height + foot
    with house_style():
        figure = canvas(WIDTH, whole)
        cells = [
            figure.add_axes(
                (
                    LEFT / WIDTH,
                    (whole - head - (number + 1) * height + 8) / whole,
                    1 - (LEFT + 8) / WIDTH,
                    (height - 8) / whole,
                )
            )
            for number in range(count)
        ]
    return figure, cells
