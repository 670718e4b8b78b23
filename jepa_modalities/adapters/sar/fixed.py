"""The other fixed targets of SAR chips: pixels, smoothed pixels, HOG; and the choice among all."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_modalities.adapters.patch import patchify
from jepa_modalities.adapters.sar.bar import blur, hog_cells
from jepa_modalities.adapters.sar.config import SarConfig
from jepa_modalities.adapters.sar.source import SarSource
from jepa_modalities.adapters.sar.target import GradientTarget, Window
from jepa_modalities.adapters.sar.tokenizer import centre, transformed

SMOOTHING = 1.5  # pixels: what the HOG of speckled chips needs


class PixelTarget(nn.Module):
    """Pixels of each token, normalised per token (MAE, section 4).

    Args:
        patch: side of a token, pixels.
        transform: of the amplitude, see `SarTokenizer`.
        sigma: smooth the amplitude first, pixels; 0 = not (the "low-pass" target where not 0).
    """

    def __init__(self, patch: int, transform: str, sigma: float = 0.0) -> None:
        super().__init__()
        self.patch, self.transform, self.sigma = patch, transform, sigma

    def forward(self, images: Tensor) -> Tensor:
        """Amplitude (batch, 1, height, width) -> (batch, tokens, patch^2)."""
        real = images >= 0
        x = images.clamp_min(0)
        if self.sigma:
            x = blur(x, self.sigma)
        x = patchify(transformed(x, real, self.transform), self.patch)
        variance, mean = torch.var_mean(x, dim=-1, keepdim=True)
        return (x - mean) * (variance + 1e-6).rsqrt()  # floor as published


class HogTarget(nn.Module):
    """Gradient orientations of the smoothed chip, 2 x 2 cells per token (MaskFeat, section 3).

    Args:
        patch: side of a token, pixels, even.
    """

    def __init__(self, patch: int) -> None:
        super().__init__()
        if patch % 2:
            raise ValueError(f"target.kind = 'hog' needs an even data.patch; found {patch}")
        self.patch = patch

    def forward(self, images: Tensor) -> Tensor:
        """Amplitude (batch, 1, height, width) -> (batch, tokens, 36)."""
        cells = hog_cells(blur(images.clamp_min(0), SMOOTHING), self.patch // 2)
        return F.normalize(patchify(cells, 2), dim=-1, eps=1e-6)


def blank_target(config: SarConfig, padded: bool = False) -> nn.Module:
    """The function that `target.kind` names; scales of gradients are not fitted yet.

    Args:
        config: of the run.
        padded: whether chips may have padding (negative pixels).

    Raises:
        ValueError: unknown kind, or radii that the chips are too small for.
    """
    choice, data = config.target, config.data
    kind = choice.kind.removesuffix("+ema")
    if kind in ("gradient", "gradient_gaussian"):
        if max(choice.radii) >= min(data.size):
            raise ValueError(
                f"target.radii = {choice.radii} with chips of data.size = {data.size} pixels: the "
                f"border is reflected by the largest radius, which must be smaller than the chip"
            )
        window: Window = "gaussian" if kind == "gradient_gaussian" else "areal"
        return GradientTarget(
            data.patch, choice.radii, choice.eps, window, choice.shared_centre, padded
        )
    if kind in ("pixels", "lowpass"):
        sigma = SMOOTHING if kind == "lowpass" else 0.0
        return PixelTarget(data.patch, data.transform, sigma)
    if kind == "hog":
        return HogTarget(data.patch)
    raise ValueError(
        f"target.kind = {choice.kind!r} is not known for SAR; choose 'gradient', "
        f"'gradient_gaussian', 'ema', 'gradient+ema', 'pixels', 'lowpass' or 'hog'"
    )


def fixed_target(config: SarConfig, source: SarSource) -> tuple[nn.Module, int]:
    """The function that `target.kind` names, fitted, and its width.

    Raises:
        ValueError: unknown kind, or radii that the chips are too small for.
    """
    function, size = blank_target(config, source.padded), config.data.size
    if isinstance(function, GradientTarget) and config.target.normalise == "scale":
        function.fit(centre(source.sample(500), size))
    example = function(centre(source.sample(2), size))
    return function, example.shape[-1]
