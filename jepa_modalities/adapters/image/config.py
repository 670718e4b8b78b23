"""The choices that only images have."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jepa_modalities.config import RunConfig


@dataclass(frozen=True)
class ImageData:
    """Where the images come from and how they are cut into patches."""

    path: str = ""
    """folder, .h5, .npy or .npz; several .h5 joined by commas; 'digits' for the bundled scans"""
    test_path: str = ""
    """the same for the test images; empty: the split 'test' or 'val' of path"""
    size: tuple[int, int] = (224, 224)
    """height and width that the encoder sees, pixels"""
    channels: Literal[1, 3] = 3
    """grey or RGB"""
    patch: int = 16
    """side of a patch, pixels"""
    on_error: Literal["raise", "skip"] = "raise"
    """unreadable files: stop before training, or leave them out and count them"""
    holdout: float = 0.1
    """share of the training images kept out of pretraining, for choices; 0 = none"""
    limit: int | None = None
    """use only so many training images"""


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of an image; each is off at its neutral value."""

    crop: tuple[float, float] = (1.0, 1.0)
    """share of the area of a random resized crop"""
    ratio: tuple[float, float] = (0.75, 4 / 3)
    """width over height of the crop"""
    flip: bool = False
    """mirror half of the images"""
    rotate: float = 0.0
    """largest rotation, degrees"""
    shift: float = 0.0
    """largest shift, share of the side"""
    zoom: float = 0.0
    """largest relative change of scale"""
    shear: float = 0.0
    """largest shear"""
    colour: float = 0.0
    """probability of the colour changes below"""
    brightness: float = 0.4
    """largest relative change"""
    contrast: float = 0.4
    """largest relative change"""
    saturation: float = 0.3
    """largest relative change"""
    gain: float = 0.1
    """largest relative change of each channel"""
    grey: float = 0.0
    """probability of grey"""
    noise: float = 0.0
    """standard deviation of added noise, share of the range"""
    border: Literal["reflection", "zeros", "border"] = "reflection"
    """what lies outside the image"""


@dataclass(frozen=True)
class ImageConfig(RunConfig):
    """A run on images."""

    modality: str = "image"
    data: ImageData = field(default_factory=ImageData)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """of the sample that is masked and predicted"""
    views: int = 0
    """views per image for two-view terms"""
    view_augment: AugmentConfig = field(default_factory=AugmentConfig)
    """of the views"""
    view_keep: float = 1.0
    """share of each view's tokens that the student sees"""
