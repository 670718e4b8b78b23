"""Image recipes. Each function returns a complete configuration; its docstring says what it gives.

`python recipes/image.py NAME [flags]` is the same as `jm pretrain NAME [flags]`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from jepa_modalities.adapters.image.config import AugmentConfig, ImageConfig, ImageData
from jepa_modalities.config import (
    EncoderConfig,
    EvaluateConfig,
    LossConfig,
    MaskConfig,
    PredictorConfig,
    RegulariserConfig,
    TargetConfig,
    TrainConfig,
    encoder_size,
    predictor_size,
)
from jepa_modalities.core.registry import recipes


def data_root() -> Path:
    """Folder of the data sets: $JEPA_DATA, or ../shared/data beside a clone."""
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    return Path(os.environ.get("JEPA_DATA", beside))


def _cifar10(whole: bool) -> ImageData:
    parts = "ab" if whole else "a"
    folder = data_root() / "images"
    train = ",".join(str(folder / f"cifar10_train_{part}.h5") for part in parts)
    test = ",".join(str(folder / f"cifar10_test_{part}.h5") for part in parts)
    return ImageData(path=train, test_path=test, size=(32, 32), patch=4)


_DIGIT_VIEWS = AugmentConfig(
    rotate=15, shift=0.125, zoom=0.15, shear=0.15, noise=0.1, border="zeros"
)


@recipes.register("image_digits")
def image_digits() -> ImageConfig:
    """scikit-learn's 8 x 8 digits, two-view VICReg; about a minute on 2 cores."""
    return ImageConfig(
        data=ImageData(path="digits", size=(8, 8), channels=1, patch=2),
        encoder=EncoderConfig(dim=64, depth=3, heads=4, stem="conv"),
        mask=MaskConfig(kind="none"),
        views=2,
        view_augment=_DIGIT_VIEWS,
        regulariser=RegulariserConfig(
            kind="vicreg",
            source="views",
            widths=(128, 128),
            coefficients=(1.0, 1.0, 0.2),
            weight=1.0,
        ),
        train=TrainConfig(
            steps=1200,
            batch_size=64,
            lr=3e-3,
            lr_start=1e-4,
            warmup_steps=30,
            weight_decay=(0.02, 0.02),
            ema=(0.99, 0.999),
            clip=3.0,
        ),
        evaluate=EvaluateConfig(
            pooling="tokens",
            poolings=("tokens", "mean", "mean_std_max", "all_mean"),
            shots=(10,),
        ),
    )


def _cpu(**changes: object) -> ImageConfig:
    """The small CIFAR-10 model of the CPU recipes: width 128, depth 4, patch 4."""
    base = ImageConfig(
        data=_cifar10(whole=False),
        encoder=EncoderConfig(dim=128, depth=4, heads=4),
        predictor=PredictorConfig(width=64, depth=2, heads=4),
        train=TrainConfig(
            steps=6000,
            batch_size=64,
            lr=3e-3,
            lr_start=1e-4,
            warmup_steps=30,
            weight_decay=(0.02, 0.02),
            ema=(0.99, 0.999),
            clip=3.0,
        ),
        evaluate=EvaluateConfig(
            pooling="all_mean_std_max",
            poolings=("all_mean_std_max", "mean", "mean_std_max", "all_quadrants"),
        ),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


_CROP = AugmentConfig(crop=(0.3, 1.0))
_VIEWS = AugmentConfig(crop=(0.3, 1.0), flip=True, colour=0.8, grey=0.2)
_VIEW_VICREG = RegulariserConfig(
    kind="vicreg", source="views", widths=(256, 256), coefficients=(1.0, 1.0, 0.2), weight=1.0
)


@recipes.register("image_ijepa_cifar10_tiny_cpu")
def image_ijepa_cifar10_tiny_cpu() -> ImageConfig:
    """I-JEPA (2301.08243) on CIFAR-10 20k/5k: EMA latents, multi-block masks."""
    return _cpu(augment=_CROP)


@recipes.register("image_cjepa_cifar10_tiny_cpu")
def image_cjepa_cifar10_tiny_cpu() -> ImageConfig:
    """C-JEPA (2410.19560) on CIFAR-10 20k/5k: I-JEPA + 0.001 VICReg over the predicted blocks."""
    return _cpu(augment=_CROP, regulariser=RegulariserConfig(kind="vicreg"))


@recipes.register("image_dictionary_cifar10_tiny_cpu")
def image_dictionary_cifar10_tiny_cpu() -> ImageConfig:
    """Masked prediction of a fixed patch dictionary on CIFAR-10 20k/5k."""
    return _cpu(
        augment=AugmentConfig(flip=True),
        mask=MaskConfig(kind="random", keep=(0.4, 0.4)),
        target=TargetConfig(kind="dictionary"),
        loss=LossConfig(prediction="mse"),
    )


@recipes.register("image_vicreg_cifar10_tiny_cpu")
def image_vicreg_cifar10_tiny_cpu() -> ImageConfig:
    """Two-view VICReg (2105.04906) on CIFAR-10 20k/5k: no masked prediction."""
    return _cpu(
        encoder=EncoderConfig(dim=128, depth=4, heads=4, stem="conv"),
        mask=MaskConfig(kind="none"),
        views=2,
        view_augment=_VIEWS,
        view_keep=0.5,
        regulariser=_VIEW_VICREG,
    )


@recipes.register("image_jepa_vicreg_cifar10_tiny_cpu")
def image_jepa_vicreg_cifar10_tiny_cpu() -> ImageConfig:
    """Masked prediction of a fixed patch dictionary + two-view VICReg on CIFAR-10 20k/5k."""
    return _cpu(
        augment=AugmentConfig(flip=True),
        mask=MaskConfig(kind="random", keep=(0.4, 0.4)),
        target=TargetConfig(kind="dictionary"),
        loss=LossConfig(prediction="mse"),
        views=2,
        view_augment=_VIEWS,
        view_keep=0.5,
        regulariser=replace(_VIEW_VICREG, weight=0.2),
    )


if __name__ == "__main__":
    from jepa_modalities.cli.main import main

    main(["pretrain", *__import__("sys").argv[1:]])
