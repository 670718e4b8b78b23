"""The choices of a run as frozen dataclasses: what recipes return and what the flags change.

A leaf: standard library only. Modalities extend `RunConfig` with their own data section.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class EncoderConfig:
    """The context encoder (a ViT on tokens)."""

    dim: int = 192
    """width"""
    depth: int = 12
    """number of blocks"""
    heads: int = 3
    """attention heads"""
    mlp_ratio: float = 4.0
    """hidden width of the MLPs over dim"""
    stem: Literal["linear", "conv"] = "linear"
    """embedding: linear per token, or an overlapping convolution (two-view training only)"""
    position: Literal["sincos", "learned", "relative"] = "sincos"
    """position code: added to the tokens, or relative buckets in every block"""
    position_scale: float = 1.0
    """factor on the sin-cos code, or on the start of the learned one (standard deviation 0.02)"""
    num_prefix: int = 0
    """learned register tokens outside every mask"""
    init: Literal["normal", "xavier", "uniform"] = "xavier"
    """start of the linear layers; the papers use normal (std 0.02)"""
    rescale: bool = True
    """smaller start of deeper residual branches"""
    norm: Literal["pre", "post"] = "pre"
    """layer norm in front of each branch, or of each sum; of the predictor too"""
    activation: Literal["gelu", "relu"] = "gelu"
    """between the layers of the MLPs; of the predictor too"""
    rescale_by: Literal["layer", "depth"] = "layer"
    """rescale: by the branch's own layer (I-JEPA), or by the depth for all alike (ECG-JEPA)"""
    bias: bool = True
    """biases in linear layers and norms; the ECG-JEPA paper has none"""


@dataclass(frozen=True)
class PredictorConfig:
    """The predictor (a narrow ViT)."""

    width: int = 384
    """width"""
    depth: int = 6
    """number of blocks"""
    heads: int | None = None
    """attention heads; the encoder's number if not given"""
    mlp_ratio: float = 4.0
    """hidden width of the MLPs over width"""
    position: Literal["sincos", "learned"] = "sincos"
    """position code of context and targets"""
    position_scale: float = 1.0
    """factor on the start of the learned code (standard deviation 0.02)"""
    sees_prefix: bool = True
    """the encoder's register tokens are part of the context"""
    packed: bool = False
    """all target blocks of a sample behind one context, in one sequence: faster, not the papers'"""


@dataclass(frozen=True)
class MaskConfig:
    """Which tokens are hidden."""

    kind: Literal["none", "random", "block", "feature"] = "block"
    """none = no masked prediction; feature: of a table's columns"""
    keep: tuple[float, float] = (0.4, 0.6)
    """random: share of visible tokens, low and high"""
    num_targets: int = 4
    """block, feature: targets per sample"""
    target_scale: tuple[float, float] = (0.15, 0.2)
    """block, feature: share of the grid per target"""
    target_aspect: tuple[float, float] = (0.75, 1.5)
    """block: height over width of a target"""
    context_scale: tuple[float, float] = (0.85, 1.0)
    """block, feature: share of the grid of the context"""
    min_keep: int = 4
    """block: least number of context tokens"""
    lengths: Literal["trim", "pad"] = "trim"
    """block: drop a random subset to equal lengths, or pad"""
    reference: bool = False
    """block: the published sampler with its defects"""


@dataclass(frozen=True)
class TargetConfig:
    """What is predicted."""

    kind: str = "ema"
    """ema, or a fixed target of the modality (images: pixels, hog, dictionary)"""
    layer_norm: bool = True
    """ema: parameter-free layer norm of the latents"""
    layers: int = 1
    """ema: mean over the last so many blocks"""
    centre: bool = False
    """ema: subtract the batch's mean latent at each position, so that position is no answer"""
    dim: int = 64
    """dictionary: whitened dimensions"""
    centroids: int = 400
    """dictionary: size, per patch size"""
    patches: tuple[int, ...] = (6,)
    """dictionary: patch sizes in pixels"""
    cache: bool = True
    """compute a fixed target once per image and flip, when no crop changes the image"""
    handover: tuple[float, float] | None = None
    """shares of training between which EMA latents take over from the fixed target"""
    rest: float = 0.3
    """weight that the fixed target keeps after the hand-over"""


@dataclass(frozen=True)
class LossConfig:
    """The prediction term."""

    prediction: Literal["smooth_l1", "l1", "mse", "cosine"] = "smooth_l1"
    """error of the prediction"""
    weight: float = 1.0
    """weight of the prediction term; 0 = no target, only what the modality adds"""
    visible: float = 0.0
    """weight of telling the target at the visible tokens too, each from its own latent: content
    where changes hide a part of every token, such as leads; 0 = off"""


@dataclass(frozen=True)
class RegulariserConfig:
    """VICReg or SIGReg beside (or instead of) the prediction."""

    kind: Literal["none", "vicreg", "sigreg"] = "none"
    """which one"""
    source: Literal["predicted", "context", "predicted_target", "views"] = "predicted"
    """what is compared"""
    widths: tuple[int, ...] = (512, 512, 512)
    """layers of the projector; empty for none"""
    coefficients: tuple[float, ...] = (25.0, 25.0, 1.0)
    """invariance, variance, covariance (VICReg); invariance, SIGReg (SIGReg)"""
    weight: float = 0.001
    """weight of the whole term (C-JEPA: 0.001)"""


@dataclass(frozen=True)
class TrainConfig:
    """The loop."""

    epochs: float = 100
    """passes over the data; ignored when steps is given"""
    steps: int | None = None
    """optimiser steps"""
    batch_size: int = 2048
    """samples per optimiser step over all processes"""
    accumulate: int = 1
    """micro-batches per step"""
    lr: float = 1e-3
    """highest learning rate"""
    lr_start: float = 2e-4
    """learning rate at the first step"""
    lr_end: float = 1e-6
    """learning rate at the last step"""
    warmup_epochs: float = 40
    """linear warm-up; ignored when warmup or warmup_steps is given"""
    warmup: float | None = None
    """linear warm-up as a share of the run; ignored when warmup_steps is given"""
    warmup_steps: int | None = None
    """linear warm-up"""
    weight_decay: tuple[float, float] = (0.04, 0.4)
    """first and last; cosine between"""
    ema: tuple[float, float] = (0.996, 1.0)
    """momentum of the teacher, first and last; linear between"""
    clip: float | None = None
    """largest gradient norm"""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates"""
    eps: float = 1e-8
    """AdamW's floor of the denominator"""
    precision: Literal["auto", "fast", "fp32", "bf16"] = "auto"
    """auto: bf16 on GPU, fp32 on CPU; fast: bf16 also on CPUs with bf16 instructions"""
    seed: int = 0
    """fixes everything"""
    device: str = "auto"
    """auto, cpu, cuda"""
    threads: int | None = None
    """CPU threads of PyTorch"""
    workers: int = 4
    """processes that decode images which are not kept in memory"""
    log_every: int = 20
    """steps between log records (the only synchronisation)"""
    checkpoint_every: int | None = None
    """steps between checkpoints; a tenth of the run if not given"""
    monitor_every: int | None = None
    """steps between collapse monitor and online probe; a twentieth of the run if not given"""
    stop_on_collapse: bool = False
    """end the run when the monitor says collapsed"""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """how several processes share the work"""
    compile: bool = False
    """compile the blocks"""
    tensorboard: bool = False
    """also write TensorBoard files (extra `track`)"""


@dataclass(frozen=True)
class EvaluateConfig:
    """The probes after pretraining."""

    enabled: bool = True
    """probe at the end"""
    pooling: str = "mean"
    """primary pooling: its numbers carry no suffix"""
    poolings: tuple[str, ...] = ("mean", "mean_std_max", "all_quadrants", "all_mean_std_max")
    """all poolings that are scored"""
    probes: tuple[str, ...] = ("linear", "ridge", "knn")
    """full-label probes"""
    shots: tuple[int, ...] = ()
    """labels per class of the few-label probes"""
    draws: int = 20
    """draws of the few labels"""
    fractions: tuple[float, ...] = ()
    """shares of the labels for a label-efficiency curve"""
    untrained: int = 3
    """untrained encoders (seeds) that stand beside the trained one"""
    attentive: bool = False
    """also an attentive probe"""
    finetune: bool = False
    """also full fine-tuning"""


@dataclass(frozen=True)
class RunConfig:
    """Everything that makes a run. Modalities add `data` and `augment`."""

    recipe: str = ""
    modality: str = ""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    regulariser: RegulariserConfig = field(default_factory=RegulariserConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)


# width, depth, heads, MLP ratio; predictor depth (I-JEPA model file; predictor width is 384)
SIZES: dict[str, tuple[int, int, int, float, int]] = {
    "tiny": (192, 12, 3, 4.0, 6),
    "small": (384, 12, 6, 4.0, 6),
    "base": (768, 12, 12, 4.0, 6),
    "large": (1024, 24, 16, 4.0, 12),
    "huge": (1280, 32, 16, 4.0, 12),
    "giant": (1408, 40, 16, 48 / 11, 16),
}


def encoder_size(name: str, **changes: object) -> EncoderConfig:
    """EncoderConfig of a named ViT size.

    Raises:
        KeyError: unknown name.
    """
    dim, depth, heads, ratio, _ = SIZES[name]
    sizes = {"dim": dim, "depth": depth, "heads": heads, "mlp_ratio": ratio}
    return EncoderConfig(**{**sizes, **changes})  # type: ignore[arg-type]


def predictor_size(name: str) -> PredictorConfig:
    """PredictorConfig that the papers pair with a named ViT size."""
    return PredictorConfig(depth=SIZES[name][4])
