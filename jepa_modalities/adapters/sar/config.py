"""The choices that only SAR chips have."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jepa_modalities.config import EvaluateConfig, MaskConfig, RunConfig, TargetConfig


@dataclass(frozen=True)
class SarData:
    """Where the chips come from and what the encoder sees of them."""

    path: str = ""
    """chips for pretraining: folders, .zip, .h5, .npy, MSTAR files, joined by commas; each may end
    in selectors such as '?fit=resize'; 'synthetic' for simulated ones"""
    train_path: str = ""
    """labelled training chips for the probes; empty: path"""
    test_path: str = ""
    """labelled test chips; empty: the split 'test' of train_path"""
    size: tuple[int, int] = (64, 64)
    """height and width that the encoder sees, the middle of a chip, pixels"""
    margin: int = 8
    """pixels around it that are kept: room for shifts, and neighbours for the gradient maps"""
    patch: int = 8
    """side of a patch, pixels"""
    fit: Literal["pad", "crop", "resize"] = "pad"
    """smaller chips: centred on padding, refused, or enlarged (their size may tell the class)"""
    scaling: Literal["amplitude", "linear", "db"] = "amplitude"
    """fixed map of magnitudes: as stored, times gain and clipped, or decibels"""
    gain: float = 1.0
    """linear and db: factor on magnitudes (MSTAR raw files: 1.98)"""
    low: float = -50.0
    """db: becomes 0, dB"""
    high: float = 0.0
    """db: becomes 1, dB"""
    transform: Literal["linear", "sqrt", "log"] = "log"
    """what the encoder sees of the amplitude; log is centred per chip, so brightness is no cue"""
    image: bool = True
    """the encoder sees the transformed amplitude"""
    maps: tuple[int, ...] = (2, 4, 6, 8)
    """radii of ratio-gradient maps that the encoder sees beside it, pixels; empty for none"""
    on_error: Literal["raise", "skip"] = "raise"
    """unreadable chips: stop before training, or leave them out and count them"""
    holdout: float = 0.2
    """share of the labelled training chips for monitor and validation; pretraining sees them
    without labels where path names them"""
    limit: int | None = None
    """use only so many chips of each set"""


@dataclass(frozen=True)
class SarAugmentConfig:
    """Random changes of a chip; each is off at its neutral value.

    No vertical flip and no free rotation: the shadow points away from the radar.
    """

    shift: int = 0
    """largest shift, pixels; chips without room for it stay centred"""
    flip: bool = False
    """mirror half of the chips, left to right"""
    crop: tuple[float, float] = (1.0, 1.0)
    """share of the area of a random resized crop"""
    ratio: tuple[float, float] = (0.75, 4 / 3)
    """width over height of the crop"""
    contrast: float = 0.0
    """largest relative change of contrast around the chip's mean"""
    gain: float = 0.0
    """largest change of the amplitude, natural logarithm"""
    looks: float | None = None
    """multiply by white speckle of so many looks"""


@dataclass(frozen=True)
class SarMaskConfig(MaskConfig):
    """Which tokens are hidden."""

    # Wider than the base's set, and frozen: nothing can be put in that the base would misread.
    kind: Literal["none", "random", "block", "window"] = "window"  # type: ignore[assignment]
    """window: local windows whose hidden tokens are shown as mask tokens (SAR-JEPA)"""
    window: tuple[int, int] | None = None
    """window: rows and columns, tokens; half of the grid if not given"""
    num_windows: int = 4
    """window: per chip"""
    ratio: float = 0.8
    """window: hidden share of its tokens"""
    shared: bool = True
    """window: the same windows for all chips of a step"""


@dataclass(frozen=True)
class SarTargetConfig(TargetConfig):
    """What is predicted."""

    kind: Literal[
        "gradient", "gradient_gaussian", "ema", "gradient+ema", "pixels", "hog", "lowpass"
    ] = "gradient"
    """ratio gradients (areal or Gaussian windows), EMA latents, both, or another fixed target"""
    radii: tuple[int, ...] = (5, 9, 13, 17)
    """gradient: half sides of the windows, pixels"""
    eps: float = 0.01
    """gradient: added to the amplitude; bends the invariance on dark clutter"""
    shared_centre: bool = True
    """gradient: the centre row and column belong to both halves"""
    normalise: Literal["none", "scale"] = "none"
    """gradient: divide each scale by its standard deviation over the chips"""


@dataclass(frozen=True)
class SarEvaluateConfig(EvaluateConfig):
    """The probes after pretraining."""

    pooling: str = "all_mean_std_max+grid4"
    poolings: tuple[str, ...] = ("all_mean_std_max+grid4", "grid4", "all_mean_std_max", "mean")
    probes: tuple[str, ...] = ("ridge",)
    shots: tuple[int, ...] = (10, 20, 40)
    draws: int = 5
    few: tuple[str, ...] = ("ridge",)
    """probes with few labels: ridge, linear"""
    on: Literal["test", "validation"] = "test"
    """validation scores the held-out training chips under random gain: choose there"""
    jitter: float = 0.35
    """validation: largest gain, natural logarithm"""
    looks: tuple[int, ...] = ()
    """test chips under so many looks of added speckle, beside the clean ones"""
    svm: bool = True
    """also the field's features with a linear support vector machine"""
    finetune_shots: int = 40
    """finetune: labels per class"""
    finetune_head: Literal["probe", "mean"] = "probe"
    """finetune: from the frozen ridge probe on `pooling` (LP-FT), or as published: mean token, head
    from zero, 40 epochs"""
    finetune_draws: int = 2
    """finetune: label draws"""


@dataclass(frozen=True)
class SarConfig(RunConfig):
    """A run on SAR chips."""

    modality: str = "sar"
    data: SarData = field(default_factory=SarData)
    mask: SarMaskConfig = field(default_factory=SarMaskConfig)
    target: SarTargetConfig = field(default_factory=SarTargetConfig)
    evaluate: SarEvaluateConfig = field(default_factory=SarEvaluateConfig)
    augment: SarAugmentConfig = field(default_factory=SarAugmentConfig)
    """of the sample that is masked and predicted"""
    views: int = 0
    """views per chip for two-view terms"""
    view_augment: SarAugmentConfig = field(default_factory=SarAugmentConfig)
    """of the views"""
    view_keep: float = 1.0
    """share of each view's tokens that the student sees"""
