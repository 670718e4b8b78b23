"""Pictures of a table run: masks, rows in the plane, which columns look at which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_modalities.adapters.base import build_masker
from jepa_modalities.core.draw import seeded
from jepa_modalities.core.masking import Masks
from jepa_modalities.eval.curve import canvas, house_style, series_colour
from jepa_modalities.eval.features import pool
from jepa_modalities.eval.page import Picture, colour

if TYPE_CHECKING:
    from jepa_modalities.adapters.tabular.adapter import TabularAdapter

WIDTH = 420  # CSS pixels: text stays readable when a phone shows the figure at 350
MOST_NAMES = 30  # more column names cannot be read
MOST_CLASSES = 6  # more colours cannot be told apart


def table_pictures(
    adapter: TabularAdapter, encoders: Mapping[str, list[nn.Module]]
) -> dict[str, Picture]:
    """All pictures of a table run, on held-out rows; the encoder beside the untrained one.

    Args:
        adapter: with its data open.
        encoders: `encoder` and `untrained`; the first network of each is shown.
    """
    tokens, _ = adapter.monitor()
    rows = adapter.table.rows("val" if len(adapter.table.rows("val")) >= 50 else "train")
    target = None
    if adapter.table.target is not None and not adapter.table.missing[rows].any():
        target = adapter.table.target[rows][: len(tokens)]
    flat: dict[str, Tensor] = {}
    maps: dict[str, Tensor] = {}
    for name in ("encoder", "untrained"):
        model: Any = encoders[name][0]
        training = model.training
        model.eval()
        with torch.no_grad():
            flat[name] = pool(model(tokens, blocks=True), "all_tokens").float().cpu()
            maps[name] = model.attention_map(tokens).float().mean((0, 1)).cpu()
        model.train(training)
    names = adapter.preprocess.feature_names
    pictures = {
        "rows": rows_picture(flat, target, adapter.table.task == "regression"),
        "attention": attention_picture(maps, names),
    }
    masker = build_masker(adapter.config, adapter.geometry)
    if masker is not None:
        masks = masker(10, seeded(adapter.config.train.seed, 6, 0))
        pictures = {"masks": mask_picture(masks, names)} | pictures
    return pictures


def mask_map(masks: Masks, features: int) -> NDArray[np.int64]:
    """0 neither, 1 seen, 2 + number of targets that hold a feature, (rows, features)."""
    out = torch.zeros(len(masks.context), features, dtype=torch.long)
    out.scatter_(1, masks.context.flatten(1).cpu(), 1)
    hit = torch.zeros_like(out)
    targets = masks.targets.flatten(1).cpu()
    hit.scatter_add_(1, targets, torch.ones_like(targets))
    return torch.where(hit > 0, hit + 1, out).numpy()


def mask_picture(masks: Masks, names: Sequence[str]) -> Picture:
    """Seen and predicted features of a few rows.

    Args:
        masks: of a batch.
        names: of the features.
    """
    shown = np.minimum(mask_map(masks, len(names)), 2)
    height = 90 + 16 * len(shown)
    with house_style():
        figure = canvas(WIDTH, height + _foot(names))
        axis = figure.add_axes(_box(figure, 30, 34, _foot(names)))
        paints = ListedColormap([colour("line"), colour("series-1"), colour("series-2")])
        axis.pcolormesh(shown, cmap=paints, vmin=-0.5, vmax=2.5, edgecolors=colour("paper"), lw=1)
        axis.invert_yaxis()
        axis.set_yticks([])
        axis.set_ylabel("rows")
        _name(axis, names)
        for place, (label, paint) in enumerate(
            (("seen", "series-1"), ("predicted", "series-2"), ("neither", "line"))
        ):
            at = 0.08 + 0.3 * place
            figure.text(
                at, 1 - 20 / (height + _foot(names)), "\N{BLACK SQUARE}", color=colour(paint)
            )
            figure.text(at + 0.04, 1 - 20 / (height + _foot(names)), label, color=colour("ink"))
    caption = (
        "Which columns of a row the encoder sees and which it predicts: another draw for every row."
    )
    return Picture("Masks", caption, figure)


def plane(features: Tensor) -> NDArray[np.float64]:
    """The two strongest principal components, each with standard deviation 1, (rows, 2)."""
    x = features.double()
    x = (x - x.mean(0)) / x.std(0).clamp_min(1e-9)
    left = torch.linalg.svd(x, full_matrices=False)[0][:, :2]
    # A component's sign is arbitrary: fix it.
    peak = left.gather(0, left.abs().argmax(0, keepdim=True))
    return (left * peak.sign() * len(x) ** 0.5).numpy()


def rows_picture(
    features: Mapping[str, Tensor], target: NDArray[Any] | None, regression: bool
) -> Picture:
    """Rows as points, one panel per encoder, coloured by the target that neither has seen.

    Args:
        features: heading -> (rows, width).
        target: (rows,), or None.
        regression: numbers instead of classes.
    """
    with house_style():
        figure = canvas(WIDTH, 270)
        for number, (name, values) in enumerate(features.items()):
            axis = figure.add_axes((0.03 + 0.49 * number, 0.14, 0.46, 0.74))
            points = plane(values)
            paint, labels = _paint(target, regression, len(points))
            axis.scatter(points[:, 0], points[:, 1], s=7, c=paint, alpha=0.7, linewidths=0)
            axis.set_title(name, fontsize=12, loc="left")
            axis.set_xticks([])
            axis.set_yticks([])
        at = 0.04
        for label, shade in labels:
            figure.text(at, 0.04, "\N{BLACK CIRCLE}", color=shade)
            figure.text(at + 0.035, 0.04, label, color=colour("ink"))
            at += 0.07 + 0.021 * len(label)
    caption = (
        "Held-out rows along the two strongest principal components of their features. Colour is "
        "the target, which no encoder has seen in training; where like colours lie together, few "
        "labels go a long way."
    )
    return Picture("Rows in the plane", caption, figure)


def _paint(
    target: NDArray[Any] | None, regression: bool, count: int
) -> tuple[Any, list[tuple[str, str]]]:
    """A colour per point, and the legend."""
    if target is None:
        return [colour("series-1")] * count, []
    if regression:
        ramp = LinearSegmentedColormap.from_list("", [colour("series-1"), colour("series-2")])
        rank = target.argsort().argsort() / max(count - 1, 1)
        ends = ((f"lowest, {target.min():.4g}", 0.0), (f"highest, {target.max():.4g}", 1.0))
        return ramp(rank), [(name, _hex(ramp(at))) for name, at in ends]
    classes, counts = np.unique(target, return_counts=True)
    kept = list(classes[np.argsort(-counts)][: MOST_CLASSES - 1])
    shades = {name: colour(series_colour(n)) for n, name in enumerate(kept)}
    other = [("other", colour("line"))] if len(classes) > len(kept) else []
    legend = [(str(name)[:14], shade) for name, shade in shades.items()]
    return [shades.get(name, colour("line")) for name in target], legend + other


def _hex(rgba: Any) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgba[:3])


def attention_picture(maps: Mapping[str, Tensor], names: Sequence[str]) -> Picture:
    """Last-block attention between features, averaged over rows and heads.

    Args:
        maps: heading -> (features, features), queries before keys.
        names: of the features.
    """
    foot = _foot(names)
    high = 210.0
    with house_style():
        figure = canvas(WIDTH, high + foot)
        # One scale for all panels, in multiples of uniform attention.
        shares = {name: (part * part.shape[1]).numpy() for name, part in maps.items()}
        top = max(2.0, *(float(np.quantile(part, 0.99)) for part in shares.values()))
        ramp = LinearSegmentedColormap.from_list("", [colour("paper"), colour("series-1")])
        for number, (name, part) in enumerate(shares.items()):
            box = (0.07 + 0.49 * number, foot / (high + foot), 0.42, (high - 30) / (high + foot))
            axis = figure.add_axes(box)
            axis.pcolormesh(part, cmap=ramp, vmin=0, vmax=top, rasterized=True)
            axis.invert_yaxis()
            axis.set_title(name, fontsize=12, loc="left")
            axis.set_yticks([])
            _name(axis, names)
            if number == 0:
                axis.set_ylabel("feature that looks")
    caption = (
        f"How much each column (across) is looked at by each column (down), averaged over held-out "
        f"rows and heads of the last block: white is none, full colour {top:.1f} times uniform. A "
        f"full column says that this feature informs all others."
    )
    return Picture("Which columns look at which", caption, figure)


def _foot(names: Sequence[str]) -> float:
    """CSS pixels below an axis with these names."""
    if len(names) > MOST_NAMES:
        return 28.0
    return 14.0 + 6.2 * max(min(len(name), 18) for name in names)


def _name(axis: Any, names: Sequence[str]) -> None:
    if len(names) > MOST_NAMES:
        axis.set_xticks([])
        axis.set_xlabel(f"{len(names)} features")
        return
    short = [name if len(name) <= 18 else name[:17] + "\N{HORIZONTAL ELLIPSIS}" for name in names]
    axis.set_xticks(np.arange(len(names)) + 0.5, short, rotation=90, fontsize=9)


Box = tuple[float, float, float, float]


def _box(figure: Figure, left: float, top: float, bottom: float) -> Box:
    """Axis box from margins in CSS pixels."""
    width, height = (72 * size for size in figure.get_size_inches())
    return (left / width, bottom / height, 1 - (left + 8) / width, 1 - (top + bottom) / height)
