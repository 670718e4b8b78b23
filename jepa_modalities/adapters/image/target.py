"""Fixed image targets: patch dictionary, HOG, pixels; computed per batch or looked up."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from jepa_modalities.adapters.image.bar import PatchDictionary, TokenTargets
from jepa_modalities.adapters.image.config import ImageConfig
from jepa_modalities.adapters.image.hog import hog_tokens, pixels_tokens
from jepa_modalities.adapters.image.source import ImageSource
from jepa_modalities.adapters.stamped import read_stamped, write_stamped


class HogTarget(nn.Module):
    """Histograms of oriented gradients per token (MaskFeat, section 3)."""

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, images: Tensor) -> Tensor:
        """0..255 images -> (batch, tokens, dim)."""
        return hog_tokens(images, self.grid)


class PixelTarget(nn.Module):
    """Pixels of each patch, normalised per patch (MAE, section 4)."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, images: Tensor) -> Tensor:
        """0..255 images -> (batch, tokens, dim)."""
        return pixels_tokens(images, self.patch)


class Table(nn.Module):
    """Targets computed once: row 2 i of image i, row 2 i + 1 of its mirror image.

    Args:
        values: (2 * images, tokens, dim), half precision.
    """

    values: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values, persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Row numbers (batch,) -> (batch, tokens, dim)."""
        return self.values[rows].float()


def fit_dictionaries(config: ImageConfig, source: ImageSource, folder: Path | None) -> TokenTargets:
    """The dictionaries and their whitening, from the run folder if they were fitted before."""
    choice, data = config.target, config.data
    rows, columns = data.size[0] // data.patch, data.size[1] // data.patch
    path = None if folder is None else folder / "target.safetensors"
    settings = json.dumps([asdict(choice), asdict(data), config.train.seed])
    if (state := read_stamped(path, settings)) is not None:
        return TokenTargets.from_state(state, (rows, columns))
    images = source.sample(20_000, config.train.seed)
    dictionaries = [
        PatchDictionary.fit(images, choice.centroids, patch, config.train.seed)
        for patch in choice.patches
    ]
    targets = TokenTargets.fit(dictionaries, images[:4_000], (rows, columns), choice.dim)
    write_stamped(path, targets.state_dict(), settings)
    return targets


def blank_target(config: ImageConfig) -> nn.Module:
    """The function that `target.kind` names; a dictionary is not fitted yet.

    Raises:
        ValueError: unknown kind.
    """
    choice, data = config.target, config.data
    grid = (data.size[0] // data.patch, data.size[1] // data.patch)
    if choice.kind == "dictionary":
        dictionaries = [
            PatchDictionary(choice.centroids, patch, data.channels) for patch in choice.patches
        ]
        return TokenTargets(dictionaries, grid, choice.dim)
    if choice.kind == "hog":
        return HogTarget(grid)
    if choice.kind == "pixels":
        return PixelTarget(data.patch)
    raise ValueError(
        f"target.kind = {choice.kind!r} is not known for images; choose 'ema', 'dictionary', "
        f"'hog' or 'pixels'"
    )


def fixed_target(
    config: ImageConfig, source: ImageSource, cache: bool, folder: Path | None
) -> tuple[nn.Module, int]:
    """The function that `target.kind` names, and its width.

    Raises:
        ValueError: unknown kind, or a table of images that are not in memory.
    """
    function: nn.Module
    if config.target.kind == "dictionary":
        function = fit_dictionaries(config, source, folder)
    else:
        function = blank_target(config)
    if cache and source.images is not None:
        images = source.images
        chunks = [
            function(torch.stack([part, part.flip(-1)], 1).flatten(0, 1).float()).half()
            for part in images.split(256)
        ]
        values = torch.cat(chunks)
        return Table(values), values.shape[-1]
    example = function(source.sample(2, 0).float())
    return function, example.shape[-1]
