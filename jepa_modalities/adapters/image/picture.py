"""Pictures of an image run: masks, PCA of patch features, attention, nearest neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from torch import Tensor

from jepa_modalities.core.batch import Tokens
from jepa_modalities.core.encoder import TokenEncoder
from jepa_modalities.core.masking import Masks
from jepa_modalities.eval.curve import house_style, series_colour
from jepa_modalities.eval.page import Picture, colour
from jepa_modalities.eval.sheet import sheet as _sheet
from jepa_modalities.eval.sheet import show as _show

MOST_PIXELS = 160  # larger images are shrunk before they go into the page
HEAT = "inferno"


def image_pictures(
    images: Tensor,
    tokens: Tokens,
    grid: tuple[int, int],
    encoders: Mapping[str, TokenEncoder],
    masks: Masks | None = None,
    labels: Sequence[object] | None = None,
    num_shown: int = 5,
) -> dict[str, Picture]:
    """All pictures of an image run, each encoder beside the others.

    Args:
        images: uint8, (samples, channels, height, width), channels 1 or 3; all of them are the
            gallery in which neighbours are searched, the first `num_shown` are drawn.
        tokens: the raw tokens of the same images, (samples, tokens, features).
        grid: patch rows and columns; tokens lie in raster order.
        encoders: by column heading, such as {"encoder": ..., "untrained": ...}.
        masks: sample masks for at least `num_shown` images, or None.
        labels: one per image, shown with the neighbours.
        num_shown: images per picture.

    Returns:
        Pictures by name, ready for `write_report`.
    """
    check_images(images)
    shown = min(num_shown, len(images))
    first = Tokens(tokens.values[:shown], tokens.positions)
    features: dict[str, Tensor] = {}
    maps: dict[str, Tensor] = {}
    for name, encoder in encoders.items():
        training = encoder.training
        encoder.eval()
        with torch.no_grad():
            features[name] = encoder(tokens).tokens.float()
            maps[name] = encoder.attention_map(first).float()
        encoder.train(training)
    patches = {name: value[:shown] for name, value in features.items()}
    pooled = {name: value.mean(dim=1) for name, value in features.items()}
    pictures = {
        "pca": pca_picture(images[:shown], patches, grid),
        "attention": attention_picture(images[:shown], maps, grid),
    }
    if len(images) > 1:
        pictures["neighbours"] = neighbour_picture(images, pooled, range(shown), labels)
    if masks is not None:
        pictures = {"masks": mask_picture(images[:shown], masks, grid)} | pictures
    return pictures


def check_images(images: Tensor) -> None:
    """Refuse what is not a uint8 batch of grey or RGB images.

    Raises:
        ValueError: another dtype or shape.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images: found {images.dtype} of shape {tuple(images.shape)}, expected uint8 of "
            f"(samples, 1 or 3, height, width); undo the normalisation and convert first"
        )


def mask_picture(images: Tensor, masks: Masks, grid: tuple[int, int]) -> Picture:
    """Input, visible context, and target blocks in colours (as I-JEPA shows them).

    Args:
        images: uint8, (samples, channels, height, width).
        masks: masks whose first rows belong to the images; context group 0 is drawn.
        grid: patch rows and columns; tokens lie in raster order.
    """
    check_images(images)
    shown, visible = _displayed(images), context_map(masks, grid)
    painted = target_colours(masks, grid)
    figure, axes = _sheet(len(images), ["input", "context", "targets"])
    for row, image in enumerate(shown):
        for spot in axes[row]:
            _show(spot, image)
        hidden = torch.cat([torch.full((*grid, 3), 0.56), (~visible[row])[..., None].float()], -1)
        extent = (-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5)
        _show(axes[row][1], hidden, extent=extent)
        _show(axes[row][2], painted[row], extent=extent)
    caption = (
        "The encoder sees only the context patches; from them the predictor predicts the features "
        "of the coloured target blocks."
    )
    return Picture("Masks", caption, figure)


def context_map(masks: Masks, grid: tuple[int, int], group: int = 0) -> Tensor:
    """Which patches of each sample the encoder sees, bool, (batch, rows, columns)."""
    index = masks.context[:, group]
    seen = torch.ones_like(index, dtype=torch.bool)
    if masks.hidden is not None:
        seen &= ~masks.hidden[:, group]
    if masks.context_valid is not None:
        seen &= masks.context_valid[:, group]
    visible = torch.zeros(len(index), grid[0] * grid[1], dtype=torch.long, device=index.device)
    # Padding repeats a visible token, so the larger of the two entries counts.
    return visible.scatter_reduce(1, index, seen.long(), "amax").bool().view(-1, *grid).cpu()


def target_colours(masks: Masks, grid: tuple[int, int]) -> Tensor:
    """A veil with the target blocks in colours, RGBA in 0..1, (batch, rows, columns, 4).

    Where blocks overlap, their colours are averaged; what is no target is veiled in grey.
    """
    batch, blocks, _ = masks.targets.shape
    inside = torch.zeros(batch, blocks, grid[0] * grid[1])
    inside.scatter_(2, masks.targets.cpu(), 1.0)
    paints = torch.tensor([to_rgb(colour(series_colour(block))) for block in range(blocks)])
    count = inside.sum(dim=1)[..., None]
    mixed = torch.einsum("bkt,kc->btc", inside, paints) / count.clamp_min(1)
    target = count > 0
    veil = torch.where(target, mixed, torch.full_like(mixed, 0.56))
    alpha = torch.where(target, 0.6, 0.5)
    return torch.cat([veil, alpha], dim=-1).view(batch, *grid, 4)


def pca_colours(features: Tensor) -> Tensor:
    """The three strongest principal components of all patches as RGB (as DINOv2 shows them).

    Args:
        features: (samples, tokens, dim).

    Returns:
        (samples, tokens, 3) in 0..1: each component from its 1st to its 99th percentile; 0.5 where
        there is no variance.
    """
    flat = features.flatten(0, 1).double()
    flat = flat - flat.mean(dim=0)
    axes = torch.linalg.svd(flat, full_matrices=False)[2][:3]
    # A component's sign is arbitrary: fix it, so that the same features give the same colours.
    peak = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    values = F.pad(flat @ (axes * peak.sign()).T, (0, 3 - len(axes)))
    bounds = torch.quantile(values, torch.tensor([0.01, 0.99], dtype=values.dtype), dim=0)
    span = bounds[1] - bounds[0]
    flatness = 1e-9 * (1 + features.abs().max().double())
    scaled = ((values - bounds[0]) / span.clamp_min(flatness)).clamp(0, 1)
    colours = torch.where(span > flatness, scaled, torch.full_like(scaled, 0.5))
    return colours.float().view(*features.shape[:2], 3)


def pca_picture(images: Tensor, features: Mapping[str, Tensor], grid: tuple[int, int]) -> Picture:
    """Patch features as colours, one column per encoder.

    Args:
        images: uint8, (samples, channels, height, width).
        features: heading -> (samples, tokens, dim).
        grid: patch rows and columns.
    """
    check_images(images)
    shown = _displayed(images)
    figure, axes = _sheet(len(images), ["input", *features])
    for row, image in enumerate(shown):
        _show(axes[row][0], image)
    for column, values in enumerate(features.values(), start=1):
        colours = pca_colours(values.cpu()).view(-1, *grid, 3)
        for row in range(len(images)):
            _show(axes[row][column], colours[row])
    caption = (
        "The three strongest principal components of the patch features as red, green and blue, "
        "fitted over these images for each encoder alone. Like colours mean like features; colours "
        "do not carry over between columns. The same pattern in every row shows position, not "
        "content."
    )
    return Picture("Patch features as colours", caption, figure)


def attention_weights(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Attention that each patch receives, over its uniform share (image spec: no class token).

    Args:
        maps: (samples, heads, tokens, tokens), queries before keys.
        grid: patch rows and columns.

    Returns:
        (samples, rows, columns): averaged over heads and queries, 1.0 where attention is uniform.
    """
    received = maps.float().mean(dim=(1, 2))
    share = received / received.sum(dim=-1, keepdim=True)
    return (share * share.shape[-1]).view(-1, *grid).cpu()


def attention_picture(images: Tensor, maps: Mapping[str, Tensor], grid: tuple[int, int]) -> Picture:
    """Last-block attention over the image, one column per encoder, one colour scale for all.

    Args:
        images: uint8, (samples, channels, height, width).
        maps: heading -> attention of (samples, heads, tokens, tokens).
        grid: patch rows and columns.
    """
    check_images(images)
    shown = _displayed(images)
    weights = {name: attention_weights(value, grid) for name, value in maps.items()}
    # One scale for all columns: scaled alone, a uniform map would look like structure.
    top = max(2.0, *(float(value.quantile(0.995)) for value in weights.values()))
    figure, axes = _sheet(len(images), ["input", *weights], foot=52)
    drawn: Any = None
    for row, image in enumerate(shown):
        _show(axes[row][0], image)
    for column, value in enumerate(weights.values(), start=1):
        large = F.interpolate(value[:, None], shown.shape[1:3], mode="bilinear")[:, 0]
        for row, image in enumerate(shown):
            _show(axes[row][column], image.mean(dim=-1), cmap="gray", vmin=0, vmax=1)
            drawn = axes[row][column].imshow(
                large[row].numpy(), cmap=HEAT, vmin=0, vmax=top, alpha=0.72, interpolation="none"
            )
    height = figure.get_figheight() * 72
    with house_style():
        bar = figure.colorbar(
            drawn,
            cax=figure.add_axes((0.36, 24 / height, 0.6, 8 / height)),
            orientation="horizontal",
        )
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=11, colors=colour("muted"), length=2, pad=2)
        bar.ax.set_title("attention, 1 = uniform", fontsize=11.5, color=colour("muted"), pad=3)
        bar.solids.set_alpha(1)  # type: ignore[union-attr]
    caption = (
        "Attention that each patch receives in the last block, averaged over queries and heads. "
        "All maps share one scale."
    )
    return Picture("Attention of the last block", caption, figure)


def nearest(features: Tensor, queries: Sequence[int], k: int) -> Tensor:
    """The `k` samples of highest cosine with each query, never itself; long, (queries, k)."""
    unit = F.normalize(features.float(), dim=-1)
    index = torch.as_tensor(list(queries), device=features.device)
    similarity = unit[index] @ unit.T
    similarity[torch.arange(len(index)), index] = -torch.inf
    return similarity.topk(min(k, len(features) - 1), dim=-1).indices.cpu()


def neighbour_picture(
    images: Tensor,
    features: Mapping[str, Tensor],
    queries: Sequence[int],
    labels: Sequence[object] | None = None,
    k: int = 5,
) -> Picture:
    """Each query and its nearest neighbours by cosine, one row per encoder.

    Args:
        images: uint8, (samples, channels, height, width).
        features: heading -> pooled features, (samples, dim).
        queries: numbers of the query images.
        labels: one per image; a neighbour with the query's label is framed solid, another dashed.
        k: neighbours per query.
    """
    check_images(images)
    queries = list(queries)
    found = {name: nearest(value, queries, k) for name, value in features.items()}
    used = sorted({*queries, *(int(i) for value in found.values() for i in value.flatten())})
    shown = dict(zip(used, _displayed(images[used]), strict=True))
    num_columns = 1 + max(value.shape[1] for value in found.values())
    headings = ["query", *([""] * (num_columns - 1))]
    figure, axes = _sheet(
        len(queries) * len(found), headings, left=70, gap=18 if labels else 4, group=len(found)
    )
    for number, query in enumerate(queries):
        for offset, (name, value) in enumerate(found.items()):
            line = axes[number * len(found) + offset]
            line[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=5, fontsize=12)
            _show(line[0], shown[query])
            if labels is not None:
                line[0].set_xlabel(str(labels[query]), fontsize=11.5, labelpad=1)
            for spot, other in zip(line[1:], value[number].tolist(), strict=False):
                _show(spot, shown[other])
                if labels is not None:
                    _name_label(spot, labels[other], labels[other] == labels[query])
    caption = "Each query and its nearest images by cosine of the pooled features."
    if labels is not None:
        caption += " Solid frame: same label as the query; dashed: another label."
    return Picture("Nearest neighbours", caption, figure)


def _name_label(axes: Axes, label: object, same: bool) -> None:
    paint = colour("good" if same else "bad")
    axes.set_xlabel(str(label), fontsize=11.5, color=paint, labelpad=1)
    for spine in axes.spines.values():
        spine.set(
            visible=True, color=paint, linewidth=1.6, linestyle="-" if same else (0, (2, 1.5))
        )


def _displayed(images: Tensor) -> Tensor:
    """(samples, height, width, 3) in 0..1, shrunk to at most `MOST_PIXELS` a side."""
    values = images.cpu().float() / 255
    longest = max(values.shape[-2:])
    if longest > MOST_PIXELS:
        height, width = (max(1, round(n * MOST_PIXELS / longest)) for n in values.shape[-2:])
        values = F.interpolate(values, (height, width), mode="area")
    return values.expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
