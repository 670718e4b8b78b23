"""Pictures of a SAR run: gradients, masks, predictions, confusion matrix, few-label curve."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from jepa_modalities.adapters.base import build_jepa, build_masker
from jepa_modalities.adapters.patch import unpatchify
from jepa_modalities.adapters.sar.target import RADII, GradientTarget, gradient_targets
from jepa_modalities.adapters.sar.tokenizer import centre
from jepa_modalities.core.draw import Draw, seeded
from jepa_modalities.core.jepa import JEPA
from jepa_modalities.core.masking import Masks
from jepa_modalities.eval.curve import canvas, house_style, series_colour
from jepa_modalities.eval.page import Picture, colour
from jepa_modalities.eval.sheet import WIDTH, sheet, show

if TYPE_CHECKING:
    from jepa_modalities.adapters.sar.adapter import SarAdapter

HEAT = "inferno"
ARMS = ("encoder", "encoder+bar", "untrained", "bar", "raw", "background")


def pictures(
    adapter: SarAdapter, encoders: Mapping[str, Sequence[nn.Module]]
) -> dict[str, Picture]:
    """All pictures that the run has material for."""
    size, images = adapter.config.data.size, _examples(adapter)
    radii = adapter.config.target.radii if adapter.config.mask.kind != "none" else RADII
    radii = tuple(r for r in radii if r < min(images.shape[-2:]))
    made = {"gradients": gradient_picture(images, radii, size)}
    masker = build_masker(adapter.config, adapter.geometry)
    if masker is not None:
        rows, columns = adapter.geometry.grid
        masks = masker(3, seeded(adapter.config.train.seed, 6, 0))
        chips = centre(images, size)[:3]
        made["masks"] = mask_picture(chips, masks, (rows, columns), adapter.config.data.patch)
        prediction = _prediction(adapter)
        if prediction is not None:
            made["prediction"] = prediction
    if adapter.confusion is not None:
        made["confusion"] = confusion_picture(adapter.confusion)
    if adapter.metrics:
        curve = few_label_picture(adapter.metrics)
        if curve is not None:
            made["few_labels"] = curve
    return made


def _examples(adapter: SarAdapter, count: int = 5) -> Tensor:
    """Chips on their canvas: one per class where there are labels, else random ones."""
    if not adapter.config.evaluate.enabled:
        return adapter.source.sample(count)
    train = adapter.source.labelled("train")
    order = train.labels.argsort(stable=True)
    first = torch.cat([torch.tensor([0]), train.labels[order].diff().nonzero().squeeze(1) + 1])
    return train.images[order[first[:count]]]


def displayed(images: Tensor) -> Tensor:
    """Amplitude as the eye likes it, (chips, height, width) in 0..1: square root, padding black.

    The brightest 0.2 % of each chip are white: a few scatterers outshine everything else.
    """
    x = images[:, 0].clamp_min(0).sqrt()
    top = x.flatten(1).quantile(0.998, dim=1).clamp_min(1e-6)
    return (x / top[:, None, None]).clamp(0, 1).cpu()


def gradient_picture(images: Tensor, radii: Sequence[int], size: tuple[int, int]) -> Picture:
    """Each chip and its ratio gradients, one colour scale for each radius.

    Args:
        images: amplitude, negative on padding, (chips, 1, height, width).
        radii: half sides of the windows, pixels.
        size: height and width of the middle that is shown.
    """
    real = images >= 0
    maps = centre(gradient_targets(images.clamp_min(0), radii, valid=real), size).cpu()
    chips = displayed(centre(images, size))
    figure, axes = sheet(len(images), ["chip", *(f"r = {radius}" for radius in radii)])
    for row, chip in enumerate(chips):
        show(axes[row][0], chip, cmap="gray", vmin=0, vmax=1)
        for column in range(len(radii)):
            top = float(maps[:, column].quantile(0.995))
            show(axes[row][column + 1], maps[row, column], cmap=HEAT, vmin=0, vmax=max(top, 1e-6))
    caption = (
        "Chips (square root of the amplitude) and the length of their ratio gradients. Small "
        "windows follow scatterers and speckle, large ones the outlines of target and shadow. Each "
        "radius has one colour scale for all chips."
    )
    return Picture("Ratio gradients", caption, figure)


def mask_picture(images: Tensor, masks: Masks, grid: tuple[int, int], patch: int) -> Picture:
    """What each context group sees of a chip: the rest of its window is hidden, all else dropped.

    Args:
        images: amplitude at the encoder's size, (chips, 1, height, width).
        masks: for at least as many chips.
        grid: tokens (rows, columns).
        patch: side of a token, pixels.
    """
    groups = masks.context.shape[1]
    headings = [f"group {n + 1}" for n in range(groups)] if groups > 1 else ["visible", "predicted"]
    figure, axes = sheet(len(images), ["chip", *headings])
    seen, hidden = token_maps(masks, grid)
    extent = (-0.5, images.shape[-1] - 0.5, images.shape[-2] - 0.5, -0.5)
    for row, chip in enumerate(displayed(images)):
        for spot in axes[row]:
            show(spot, chip, cmap="gray", vmin=0, vmax=1)
        for group in range(groups):
            spot = axes[row][group + 1]
            visible, predicted = seen[row, group], hidden[row, group]
            if groups == 1:
                show(spot, _veil(visible, torch.zeros_like(visible)), extent=extent)
                spot = axes[row][2]
            show(spot, _veil(visible, predicted), extent=extent)
            if masks.hidden is not None:
                _frame(spot, visible | predicted, patch)
    caption = "Clear: tokens that the encoder sees. Orange: tokens whose features are predicted"
    caption += (
        ", shown to the encoder as mask tokens. Grey: outside the window."
        if masks.hidden is not None
        else ". Hidden tokens never enter the network."
    )
    return Picture("Windows and masks" if groups > 1 else "Masks", caption, figure)


def _veil(seen: Tensor, predicted: Tensor) -> Tensor:
    """Clear over visible tokens, orange over predicted ones, grey elsewhere, (rows, columns, 4)."""
    veil = torch.zeros(*seen.shape, 4)
    veil[..., :3], veil[..., 3] = 0.45, 0.82
    veil[seen, 3] = 0.0
    veil[predicted] = torch.tensor([0.82, 0.29, 0.05, 0.55])
    return veil


def token_maps(masks: Masks, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Visible and predicted tokens of each group, bool, (chips, groups, rows, columns) each."""
    batch, groups = masks.context.shape[:2]
    shape = (batch, groups, grid[0] * grid[1])
    shown = torch.ones_like(masks.context) if masks.hidden is None else (~masks.hidden).long()
    seen = torch.zeros(shape, dtype=torch.long)
    seen.scatter_reduce_(2, masks.context.cpu(), shown.cpu(), "amax")
    hidden = torch.zeros(shape, dtype=torch.long)
    targets = (
        masks.targets if masks.targets.shape[1] == groups else masks.targets.flatten(1)[:, None]
    )
    hidden.scatter_(2, targets.cpu().expand(-1, groups, -1), 1)
    return seen.bool().unflatten(2, grid), hidden.bool().unflatten(2, grid)


def _frame(axes: Any, inside: Tensor, patch: int) -> None:
    """Outline of a window."""
    rows, columns = (inside.any(axis).nonzero().squeeze(1) for axis in (1, 0))
    corner = (int(columns[0]) * patch - 0.5, int(rows[0]) * patch - 0.5)
    width, height = (int(n[-1] - n[0] + 1) * patch for n in (columns, rows))
    axes.add_patch(
        Rectangle(corner, width, height, fill=False, edgecolor=colour("series-1"), linewidth=1.6)
    )


def _trained(adapter: SarAdapter) -> JEPA | None:
    """The whole method from the run's last checkpoint, for its predictor; None without one."""
    from safetensors.torch import load_file

    folder = Path(adapter.folder) / "checkpoint" if adapter.folder is not None else None
    files = [] if folder is None else list(folder.glob("*/model.safetensors"))
    if not files:
        return None
    last = max(files, key=lambda path: int(re.sub(r"\D", "", path.parent.name) or 0))
    jepa = build_jepa(adapter.config, cast(Any, adapter))
    jepa.load_state_dict(load_file(last))
    return jepa.eval()


@torch.no_grad()
def _prediction(adapter: SarAdapter, count: int = 4) -> Picture | None:
    """Predicted beside true gradients of chips that are masked as in training."""
    fixed = adapter.target()
    if fixed is None or not isinstance(fixed[0], GradientTarget):
        return None
    jepa = _trained(adapter)
    if jepa is None:
        return None
    device = adapter.tokenizer.device
    draw = Draw(count, 0, count, seeded(adapter.config.train.seed, 9, 0))
    plan = [(torch.arange(count) * (len(adapter) // count), draw)]
    masker = build_masker(adapter.config, adapter.geometry)
    batch, masks = next(iter(adapter.feed(plan, masker, device)))
    assert masks is not None and batch.raw is not None
    jepa = jepa.to(device)
    latents = jepa.encoder(batch.context, masks)
    assert jepa.predictor is not None
    width = fixed[1]
    predicted = jepa.predictor(latents, masks)[..., :width].float()
    truth = fixed[0](batch.raw)
    rows, columns = adapter.geometry.grid
    guess = torch.zeros_like(truth)
    known = torch.zeros(truth.shape[:2], dtype=torch.bool, device=device)
    chip = torch.arange(count, device=device)[:, None]
    for block in range(masks.targets.shape[1]):
        guess[chip, masks.targets[:, block]] = predicted[:, block]
        known[chip, masks.targets[:, block]] = True
    patch = adapter.config.data.patch
    maps = [unpatchify(values, patch, (rows, columns)).cpu() for values in (guess, truth)]
    hidden = unpatchify(known[..., None].float().expand(-1, -1, patch**2), patch, (rows, columns))
    return prediction_picture(
        batch.raw.cpu(), maps[0], maps[1], hidden[:, 0].bool().cpu(), fixed[0].radii
    )


def prediction_picture(
    images: Tensor, predicted: Tensor, truth: Tensor, hidden: Tensor, radii: Sequence[int]
) -> Picture:
    """True and predicted gradients at the smallest and the largest radius, where they were hidden.

    Args:
        images: amplitude, (chips, 1, height, width).
        predicted: (chips, scales, height, width).
        truth: the same.
        hidden: pixels that were predicted, bool, (chips, height, width).
        radii: of the scales.
    """
    scales = sorted({0, len(radii) - 1})
    headings = ["chip"]
    for scale in scales:
        headings += [f"true, r {radii[scale]}", "predicted"]
    figure, axes = sheet(len(images), headings)
    for row, chip in enumerate(displayed(images)):
        show(axes[row][0], chip, cmap="gray", vmin=0, vmax=1)
        for place, scale in enumerate(scales):
            top = max(float(truth[:, scale].quantile(0.995)), 1e-6)
            for offset, maps in ((1, truth), (2, predicted)):
                shown = np.ma.masked_where(~hidden[row].numpy(), maps[row, scale].numpy())
                spot = axes[row][2 * place + offset]
                spot.set_facecolor(colour("line"))
                spot.imshow(shown, cmap=HEAT, vmin=0, vmax=top, interpolation="none")
    caption = (
        "Ratio gradients at hidden tokens, as they are and as the predictor gives them from what "
        "is visible, on the same colour scale. Grey: not predicted in this draw."
    )
    return Picture("Predicted and true targets", caption, figure)


def confusion_picture(content: Mapping[str, Any]) -> Picture:
    """Counts of true (rows) and predicted (columns) classes.

    Args:
        content: `classes` and `counts`, as in `confusion.json`.
    """
    classes, counts = content["classes"], np.array(content["counts"])
    share = counts / counts.sum(1, keepdims=True).clip(1)
    height = 90 + 30 * len(classes)
    with house_style():
        figure = canvas(WIDTH, height)
        axes = figure.add_axes((0.2, 86 / height, 0.78, 1 - 90 / height))
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for row, line in enumerate(counts):
            for column, count in enumerate(line):
                if count:
                    paint = "white" if share[row, column] > 0.55 else colour("ink")
                    axes.text(
                        column, row, str(count), ha="center", va="center", color=paint, size=10
                    )
        ticks = range(len(classes))
        axes.set_xticks(ticks, classes, rotation=60, ha="right", fontsize=10.5)
        axes.set_yticks(ticks, classes, fontsize=10.5)
        axes.set_xlabel("predicted")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    right = counts.trace() / max(counts.sum(), 1)
    caption = (
        f"Ridge probe with all labels on the pretrained encoder: {100 * right:.1f} % of "
        f"{counts.sum():,} chips right. Rows: true class; the shade is the share of the row."
    )
    return Picture("Confusion matrix", caption, figure)


def few_label_picture(metrics: Mapping[str, float], probe: str = "ridge") -> Picture | None:
    """Accuracy over labels per class for the arms, with intervals over label draws.

    Args:
        metrics: flat metrics of the evaluation.
        probe: whose few-label scores are drawn.
    """
    pattern = re.compile(rf"^([^/]+)/{probe}_(\d+)shot/accuracy$")
    lines: dict[str, list[tuple[int, float, float, float]]] = {}
    for key, value in metrics.items():
        if (match := pattern.match(key)) and match[1] in ARMS:
            low, high = (metrics.get(f"{key}_{end}", value) for end in ("low", "high"))
            lines.setdefault(match[1], []).append((int(match[2]), value, low, high))
    if not lines:
        return None
    with house_style():
        figure = canvas(WIDTH, 300)
        axes = figure.add_axes((0.13, 0.15, 0.58, 0.8))
        ends = []
        for number, arm in enumerate(arm for arm in ARMS if arm in lines):
            shots, value, low, high = np.array(sorted(lines[arm])).T
            paint = colour(series_colour(number))
            axes.errorbar(
                shots,
                100 * value,
                100 * np.maximum([value - low, high - value], 0),
                color=paint,
                marker="o",
                markersize=4,
                linewidth=1.6,
                capsize=2,
            )
            ends.append((100 * value[-1], arm, paint, shots[-1]))
        axes.set_xscale("log")
        ticks = sorted({shot for line in lines.values() for shot, *_ in line})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("labels per class")
        axes.set_ylabel("accuracy, %")
        _name_ends(axes, ends)
    caption = (
        "Accuracy with few labels, mean over label draws with 95 % intervals; every arm gets the "
        "same labels and the same probe. 'background' sees the outer ring of the chip only."
    )
    return Picture("Few labels", caption, figure)


def _name_ends(axes: Any, ends: list[tuple[float, str, str, float]]) -> None:
    """Names beside the lines' ends, moved apart where they would touch."""
    low, high = axes.get_ylim()
    gap, last = 0.06 * (high - low), -np.inf
    for value, arm, paint, shot in sorted(ends):
        last = max(value, last + gap)
        axes.annotate(
            arm,
            (shot, last),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=paint,
            fontsize=10.5,
            annotation_clip=False,
        )
