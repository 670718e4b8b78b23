"""The choices that only ECG has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jepa_modalities.adapters.ecg.preprocess import PreprocessConfig
from jepa_modalities.config import (
    EncoderConfig,
    EvaluateConfig,
    MaskConfig,
    PredictorConfig,
    RunConfig,
)


@dataclass(frozen=True)
class ECGData:
    """Where the recordings come from and how they are cut into tokens."""

    path: str = ""
    """file of `jm prepare`, several joined by commas, or a pattern; 'synthetic' for made-up ECGs"""
    crop: float = 10.0
    """seconds that the encoder sees at a time in training"""
    patch: float = 0.05
    """seconds per token"""
    tokens: Literal["joint", "lead"] = "joint"
    """all leads in one token (Weimann & Conrad), or a token per lead and time (Kim)"""
    constants: Literal["fitted", "published"] = "fitted"
    """mean and std per lead: of the training records, or those of the ECG-JEPA paper"""
    test_fold: int = 10
    """fold of the scores"""
    valid_fold: int = 9
    """fold of all choices; pretraining and probes learn from the folds below both"""
    holdout: float = 0.1
    """where a file has no folds: share of the records for choices, and as much for the scores"""
    weights: tuple[tuple[str, float], ...] = ()
    """sampling weight per source; without, every record is as likely"""
    limit: int | None = None
    """use only so many training records"""
    resident: float = 2.0
    """keep signals in memory up to so many GiB, else read crops from the file"""
    records: int = 600
    """synthetic: records for training; a third as many for choices and for scores"""

    def __post_init__(self) -> None:
        # JSON knows lists only.
        object.__setattr__(self, "weights", tuple((str(n), float(w)) for n, w in self.weights))


@dataclass(frozen=True)
class ECGAugment:
    """Random changes of a crop; each is off at 0."""

    lead_dropout: float = 0.0
    """probability that leads of a crop are dropped (set to 0)"""
    dropped: float = 0.5
    """probability of each lead to go where leads are dropped; one always stays"""
    scale: float = 0.0
    """standard deviation of a factor per lead"""
    noise: float = 0.0
    """standard deviation of added noise, in normalised units"""
    shift: float = 0.0
    """largest shift of the baseline, in normalised units, as a slow sine"""


@dataclass(frozen=True)
class ECGMask(MaskConfig):
    """Which tokens are hidden, in time."""

    kind: Literal["none", "random", "block", "interval", "blocks"] = "interval"  # type: ignore[assignment]
    """interval: ECG-JEPA's; blocks: equal pieces of min_block; block: the multi-block masks"""
    keep: tuple[float, float] = (0.15, 0.25)
    """share of visible tokens, low and high"""
    min_block: float = 0.5
    """seconds: least length of a hidden block (interval), or of every piece (blocks)"""
    ring: bool = False
    """interval: turn each mask by a random time, so that both ends are hidden as often"""
    target_share: float = 1.0
    """share of the hidden tokens that are predicted"""


@dataclass(frozen=True)
class ECGEncoder(EncoderConfig):
    """The context encoder."""

    stem: Literal["linear", "conv", "kernels"] = "linear"  # type: ignore[assignment]
    """embedding: linear per token, overlapping convolutions, or the bar's fixed random kernels
    beside the samples (the last two for two-view training only)"""
    stem_kernels: int = 512
    """kernels: how many"""
    stem_dim: int = 128
    """kernels: principal dimensions of their local responses"""
    mixer: Literal["attention", "dilated", "s4"] = "attention"
    """how time is mixed: attention, dilated convolutions, or diagonal state spaces"""
    cross_pattern: bool = False
    """lead tokens: attend only within a lead or a time, positions added before every block (Kim)"""
    kernel: int = 9
    """dilated: taps of the convolutions"""
    dilations: tuple[int, ...] = (1, 2, 4, 8)
    """dilated: one per group of channels"""


@dataclass(frozen=True)
class ECGPredictor(PredictorConfig):
    """The predictor."""

    by_lead: bool = False
    """lead tokens: each lead's hidden times from the latents of its own visible ones (Kim)"""


@dataclass(frozen=True)
class ECGEvaluate(EvaluateConfig):
    """The probes after pretraining."""

    task: Literal[
        "all",
        "diagnostic",
        "subdiagnostic",
        "superdiagnostic",
        "form",
        "rhythm",
        "single",
        "labels",
    ] = "superdiagnostic"
    """labels: PTB-XL's six, single = ST-MEM's one superclass, labels = the file's own columns"""
    poolings: tuple[str, ...] = ("mean", "mean_std_max", "all_mean_std_max")
    """all poolings that are scored"""
    probes: tuple[str, ...] = ("linear", "knn")
    """full-label probes: linear, knn"""
    counts: tuple[int, ...] = ()
    """label efficiency: training records with labels, e.g. 50 100 200 400"""
    draws: int = 8
    """stratified draws of the few labels"""
    kernels: int = 1008
    """random kernels of the bar"""
    window: float = 2.5
    """seconds of the crops of attentive probe and fine-tuning"""
    stride: float = 1.25
    """seconds between the crops whose logits are averaged"""
    head_steps: int = 400
    """steps of attentive probe and fine-tuning (paper: 5,000 and 10,000)"""
    head_batch: int = 128
    """records per step of attentive probe and fine-tuning"""
    finetune_pooling: str = ""
    """fine-tuning from the logistic probe on this pooling (LP-FT); empty: the paper's protocol"""
    mixup: float = 0.0
    """fine-tuning: both parameters of the Beta distribution; 0 = off"""
    beats: str = ""
    """file of annotated Holter records (MIT-BIH) for the beat task"""
    rhythm: str = ""
    """file of records with rhythm annotations for the AF task"""


@dataclass(frozen=True)
class ECGConfig(RunConfig):
    """A run on ECGs."""

    modality: str = "ecg"
    data: ECGData = field(default_factory=ECGData)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    encoder: ECGEncoder = field(default_factory=ECGEncoder)
    predictor: ECGPredictor = field(default_factory=ECGPredictor)
    mask: ECGMask = field(default_factory=ECGMask)
    evaluate: ECGEvaluate = field(default_factory=ECGEvaluate)
    augment: ECGAugment = field(default_factory=ECGAugment)
    """of what the student sees in masked prediction; the target sees the clean crop"""
    views: int = 0
    """crops per record for two-view terms"""
    view_augment: ECGAugment = field(default_factory=ECGAugment)
    """of the views"""
