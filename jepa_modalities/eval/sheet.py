"""A sheet of picture tiles in the report's style, for every modality that shows images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from jepa_modalities.eval.curve import canvas, house_style
from jepa_modalities.eval.page import colour

WIDTH = 420  # CSS pixels: text stays readable when a phone shows the figure at 350


def sheet(
    num_rows: int,
    headings: Sequence[str],
    left: float = 4,
    gap: float = 6,
    foot: float = 4,
    group: int = 1,
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of square tiles, headings above the columns; lengths in CSS pixels."""
    columns, head = len(headings), 24.0
    side = (WIDTH - left - 4 - 6 * (columns - 1)) / columns
    apart = 10.0 if group > 1 else 0.0  # rows of one group stand together
    tops = [head + row * (side + gap) + row // group * apart for row in range(num_rows)]
    height = tops[-1] + side + gap + foot
    with house_style():
        figure = canvas(WIDTH, height)
        axes = [
            [
                figure.add_axes(
                    (
                        (left + column * (side + 6)) / WIDTH,
                        1 - (top + side) / height,
                        side / WIDTH,
                        side / height,
                    )
                )
                for column in range(columns)
            ]
            for top in tops
        ]
        for spot in (spot for line in axes for spot in line):
            spot.set(xticks=[], yticks=[])
            spot.spines[:].set_visible(False)
        for column, heading in enumerate(headings):
            if axes and heading:
                axes[0][column].set_title(heading, fontsize=13, pad=5, color=colour("ink"))
    return figure, axes


def show(axes: Axes, image: Tensor, **options: Any) -> None:
    """One tile: (height, width) or (height, width, colours), pixel for pixel."""
    axes.imshow(image.numpy(), interpolation="none", **options)
