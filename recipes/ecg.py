"""ECG recipes. Each function returns a complete configuration; its docstring says what it gives.

`python recipes/ecg.py NAME [flags]` is the same as `jm pretrain NAME [flags]`. Files are made by
`jm prepare ptbxl SOURCE ptbxl.h5` and the like; name them with --data.path.
"""

from __future__ import annotations

from dataclasses import replace

from jepa_modalities.adapters.ecg.config import (
    ECGAugment,
    ECGConfig,
    ECGData,
    ECGEncoder,
    ECGEvaluate,
    ECGMask,
    ECGPredictor,
)
from jepa_modalities.adapters.ecg.preprocess import PreprocessConfig
from jepa_modalities.config import (
    LossConfig,
    RegulariserConfig,
    TargetConfig,
    TrainConfig,
)
from jepa_modalities.core.registry import recipes

# The student's crops only; the target sees the clean ones.
_CHANGES = ECGAugment(lead_dropout=0.8, dropped=0.5, scale=0.1, noise=0.05)

# Fixed targets for small data: which local kernel responses lie behind what is hidden?
_KERNELS = TargetConfig(kind="kernels", centroids=512, dim=64)
# What the MLPs compute inside, over time: as PPV and maximum of the bar's kernels.
_WIDE = "all_hidden_mean_std_max"


def _small(steps: int, **changes: object) -> ECGConfig:
    """The small model of the CPU recipes: width 128, depth 4, tokens of 100 ms, crops of 5 s."""
    base = ECGConfig(
        data=ECGData(crop=5.0, patch=0.1),
        preprocess=PreprocessConfig(fs=100.0),
        augment=_CHANGES,
        encoder=ECGEncoder(dim=128, depth=4, heads=4, position_scale=0.15),
        predictor=ECGPredictor(width=64, depth=2, heads=4),
        mask=ECGMask(kind="blocks", keep=(0.4, 0.4), min_block=0.5),
        target=_KERNELS,
        # Visible tokens are told too: leads are hidden inside them.
        loss=LossConfig(prediction="mse", visible=1.0),
        train=TrainConfig(
            steps=steps,
            batch_size=32,
            lr=3e-3,
            lr_start=1e-5,
            warmup=0.05,
            weight_decay=(0.02, 0.02),
            ema=(0.99, 0.999),
            clip=3.0,
        ),
        evaluate=ECGEvaluate(
            pooling=_WIDE, poolings=("mean", "mean_std_max", _WIDE), finetune_pooling=_WIDE
        ),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


@recipes.register("ecg_synthetic")
def ecg_synthetic() -> ECGConfig:
    """SYNTHETIC ECGs of a few rhythms, fixed kernel target; under two minutes on 2 cores."""
    config = _small(
        600,
        data=ECGData(path="synthetic", crop=5.0, patch=0.1),
        encoder=ECGEncoder(dim=64, depth=3, heads=4, position_scale=0.15),
        target=replace(_KERNELS, centroids=256, dim=32),
    )
    return replace(
        config, evaluate=replace(config.evaluate, task="labels", kernels=504, untrained=2)
    )


@recipes.register("ecg_ptbxl_sub100_tiny")
def ecg_ptbxl_sub100_tiny() -> ECGConfig:
    """1,819 PTB-XL records at 100 Hz: random-kernel responses of hidden times and leads, CPU.

    Make the file with `jm prepare ptbxl FOLDER ptbxl_sub100.h5`. At most 30 minutes on 2 cores.
    Measured (3 seeds, fold 10): frozen .908, fine-tuned .910; untrained .887, random kernels .903.
    """
    config = _small(
        6000,
        data=ECGData(path="ptbxl_sub100.h5", crop=5.0, patch=0.1),
        # The stored records are z-scored per lead already.
        preprocess=PreprocessConfig(fs=100.0, unit="NU", normalise="none"),
    )
    choice = replace(
        config.evaluate,
        attentive=True,
        finetune=True,
        window=5.0,
        stride=2.5,
        head_steps=300,
        counts=(50, 100, 200, 400),
    )
    return replace(config, evaluate=choice)


def _vicreg(config: ECGConfig, masked: bool) -> ECGConfig:
    """Two crops of a record, lead dropout; VICReg on the mean of their tokens."""
    choice = RegulariserConfig(
        kind="vicreg",
        source="views",
        widths=(128, 128),
        coefficients=(1.0, 1.0, 0.2),
        weight=1.0,
    )
    train = replace(config.train, batch_size=64, lr=1.5e-3)  # statistics need a larger batch
    config = replace(config, views=2, view_augment=_CHANGES, regulariser=choice, train=train)
    return config if masked else replace(config, mask=ECGMask(kind="none"))


@recipes.register("ecg_ptbxl_sub100_vicreg_tiny")
def ecg_ptbxl_sub100_vicreg_tiny() -> ECGConfig:
    """Two-view VICReg alone on the 1,819 records: no masked prediction."""
    return _vicreg(ecg_ptbxl_sub100_tiny(), masked=False)


@recipes.register("ecg_ptbxl_sub100_stem_tiny")
def ecg_ptbxl_sub100_stem_tiny() -> ECGConfig:
    """Two-view VICReg whose first layer also sees responses of fixed random kernels, as the bar."""
    config = ecg_ptbxl_sub100_vicreg_tiny()
    return replace(config, encoder=replace(config.encoder, stem="kernels"))


@recipes.register("ecg_ptbxl_sub100_both_tiny")
def ecg_ptbxl_sub100_both_tiny() -> ECGConfig:
    """Masked prediction of kernel responses and two-view VICReg together on the 1,819 records."""
    return _vicreg(ecg_ptbxl_sub100_tiny(), masked=True)


@recipes.register("ecg_ptbxl_sub100_ema_tiny")
def ecg_ptbxl_sub100_ema_tiny() -> ECGConfig:
    """Masked prediction of EMA latents on the 1,819 records: L1, position-centred targets."""
    config = ecg_ptbxl_sub100_tiny()
    target = TargetConfig(kind="ema", layer_norm=False, centre=True)
    return replace(config, target=target, loss=LossConfig(prediction="l1"))


# --- the paper's setting: Weimann & Conrad, ECG-JEPA ---------------------------------------------

# width, depth, heads; predictor width
_SIZES = {"xs": (192, 8, 4, 96), "s": (384, 8, 6, 192), "b": (768, 12, 12, 384)}


def _paper(size: str) -> ECGConfig:
    """ECG-JEPA as released: 500 Hz, 10 s, 200 tokens of 50 ms, L1 on EMA latents, no biases."""
    dim, depth, heads, narrow = _SIZES[size]
    return ECGConfig(
        data=ECGData(constants="published"),
        preprocess=PreprocessConfig(groups=("ptbxl",)),
        encoder=ECGEncoder(
            dim=dim,
            depth=depth,
            heads=heads,
            num_prefix=1,
            init="normal",
            rescale_by="depth",
            bias=False,
        ),
        predictor=ECGPredictor(width=narrow, depth=depth, heads=heads, sees_prefix=False),
        mask=ECGMask(kind="interval", keep=(0.15, 0.25), min_block=0.5),
        target=TargetConfig(kind="ema", layer_norm=False),
        loss=LossConfig(prediction="l1"),
        train=TrainConfig(
            steps=100_000,
            # B: 512 samples x 2 micro-batches.
            batch_size=1024 if size == "b" else 2048,
            accumulate=2 if size == "b" else 1,
            lr=1e-3,
            lr_start=1e-6,
            lr_end=1e-6,
            warmup=0.1,
            weight_decay=(0.01, 0.1),
            ema=(0.998, 0.9995),
            betas=(0.9, 0.99),
            eps=1e-6,
            checkpoint_every=10_000,
            log_every=100,
        ),
        evaluate=ECGEvaluate(
            task="all",
            untrained=1,
            attentive=True,
            finetune=True,
            window=2.5,
            stride=1.25,
            head_steps=5_000,
        ),
    )


@recipes.register("ecg_ptbxl_xs")
def ecg_ptbxl_xs() -> ECGConfig:
    """ECG-JEPA XS on PTB-XL folds 1-8 (--data.path); published, all 71: .931 linear, .940 tuned."""
    return _paper("xs")


@recipes.register("ecg_ptbxl_s")
def ecg_ptbxl_s() -> ECGConfig:
    """ECG-JEPA S on PTB-XL folds 1-8 (--data.path); published, all 71: .926 linear, .930 tuned."""
    return _paper("s")


@recipes.register("ecg_ptbxl_b")
def ecg_ptbxl_b() -> ECGConfig:
    """ECG-JEPA B on PTB-XL folds 1-8 (--data.path): the paper's setting of that size."""
    return _paper("b")


# Sampling weights of the paper's ten sets, by the source names that `jm prepare` writes.
_MIXTURE = (
    ("mimic_iv_ecg", 0.70),
    ("code15", 0.10),
    ("ptbxl", 0.05),
    ("georgia", 0.0375),
    ("ningbo", 0.028125),
    ("cpsc_2018", 0.025),
    ("ptb", 0.01875),
    ("st_petersburg_incart", 0.01875),
    ("cpsc_2018_extra", 0.0125),
    ("chapman_shaoxing", 0.009375),
)


@recipes.register("ecg_all_s")
def ecg_all_s() -> ECGConfig:
    """ECG-JEPA S on the weighted ten sets (--data.path A.h5,B.h5,...); published .938 and .945."""
    config = _paper("s")
    return replace(
        config,
        data=replace(config.data, weights=_MIXTURE),
        preprocess=PreprocessConfig(groups=tuple(name for name, _ in _MIXTURE)),
    )


@recipes.register("ecg")
def ecg() -> ECGConfig:
    """Your own recordings (--data.path FILE.h5): fixed kernel target at 250 Hz, width 192."""
    config = _small(10_000)
    return replace(
        config,
        preprocess=PreprocessConfig(fs=250.0, highpass=0.5),
        train=replace(config.train, lr=1.5e-3),
        encoder=replace(config.encoder, dim=192, depth=6),
        data=ECGData(crop=5.0, patch=0.1),
        evaluate=replace(config.evaluate, task="labels"),
    )


if __name__ == "__main__":
    import sys

    from jepa_modalities.cli.main import main

    sys.exit(main(["pretrain", *sys.argv[1:]]))
