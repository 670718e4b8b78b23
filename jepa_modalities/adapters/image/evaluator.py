"""Image evaluation: every arm on identical labels, probes and poolings; pictures for the report."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_modalities.adapters.image.augment import apply_warp, colour, draw_warp
from jepa_modalities.adapters.image.bar import PatchDictionary, default_patch
from jepa_modalities.adapters.image.config import AugmentConfig
from jepa_modalities.adapters.image.model import resized
from jepa_modalities.adapters.image.target import fit_dictionaries
from jepa_modalities.core.batch import Tokens
from jepa_modalities.core.draw import Draw, seeded
from jepa_modalities.data.image import ImageSet
from jepa_modalities.eval.arms import PROBES, Arm, concatenate, score_arms
from jepa_modalities.eval.deep import score_deep, score_fractions
from jepa_modalities.eval.features import POOLINGS, FeatureCache, extract, fingerprint
from jepa_modalities.eval.fewshot import k_shot
from jepa_modalities.eval.probes import Fit, svm_probe

if TYPE_CHECKING:
    from jepa_modalities.adapters.image.adapter import ImageAdapter
    from jepa_modalities.eval.report import Picture

Array = NDArray[Any]
# Longest side, pixels, at which the controls see larger images.
BAR_SIDE, RAW_SIDE = 64, 48


def check(adapter: ImageAdapter) -> None:
    """Complain before training about an evaluation that could not be done after it.

    Raises:
        ValueError: unknown poolings or probes, no untrained control, missing labels or test images.
    """
    choice = adapter.config.evaluate
    for name, given, known in (
        ("poolings", choice.poolings, POOLINGS),
        ("probes", choice.probes, tuple(PROBES)),
        ("pooling", (choice.pooling,), choice.poolings),
    ):
        if unknown := [item for item in given if item not in known]:
            raise ValueError(f"evaluate.{name}: {unknown[0]!r} is not one of {', '.join(known)}")
    if choice.untrained < 1:
        raise ValueError("evaluate.untrained = 0: no result without this control; give at least 1")
    source = adapter.source
    _labels(adapter, source.everything, source.test)
    if choice.shots and source.everything.labels is not None:
        rows = torch.cat([source.train_rows, source.held_rows])
        fewest = int(source.everything.labels[rows].unique(return_counts=True)[1].min())
        if max(choice.shots) > fewest:
            raise ValueError(
                f"evaluate.shots = {choice.shots}: the rarest class has {fewest} images"
            )


def _labels(adapter: ImageAdapter, train: ImageSet, test: ImageSet) -> tuple[Tensor, Tensor]:
    if train.labels is None or test.labels is None:
        raise ValueError(
            f"{adapter.config.data.path}: probes need labels (class folders or a label array); "
            f"set evaluate.enabled to False to pretrain only"
        )
    return train.labels, test.labels


def labelled(adapter: ImageAdapter) -> tuple[Tensor, Array, Tensor, Array]:
    """All labelled training images and the test images: (images, labels) twice.

    Raises:
        ValueError: labels or test images are missing.
    """
    source = adapter.source
    train, test = source.everything, source.test
    train_y, test_y = _labels(adapter, train, test)
    rows = torch.cat([source.train_rows, source.held_rows])
    everything = torch.arange(len(test))
    return (
        source.pixels(train, rows),
        train_y[rows].numpy(),
        source.pixels(test, everything),
        test_y.numpy(),
    )


def dictionary(adapter: ImageAdapter) -> PatchDictionary:
    """The control's dictionary: one patch size, fitted on the pretraining images."""
    config = adapter.config
    if config.target.kind == "dictionary" and max(config.data.size) <= BAR_SIDE:
        # Fitted for the target already, on the same sample: the run folder holds it.
        for known in fit_dictionaries(config, adapter.source, adapter.folder).dictionaries:
            assert isinstance(known, PatchDictionary)
            if known.patch == default_patch(*config.data.size):
                return known
    sample = reduced(adapter.source.sample(20_000, config.train.seed), BAR_SIDE)
    return PatchDictionary.fit(sample, config.target.centroids, seed=config.train.seed)


def reduced(images: Tensor, side: int) -> Tensor:
    """Images whose longer side is at most `side` pixels: controls of large images stay cheap."""
    longest = max(images.shape[-2:])
    if longest <= side:
        return images
    height, width = (max(round(n * side / longest), 1) for n in images.shape[-2:])
    return resized(images, (height, width))


def chunked(images: Tensor, function: Any, size: int = 256) -> Array:
    """`function` over chunks, as one float32 array."""
    with torch.inference_mode():
        return np.concatenate([function(part).float().numpy() for part in images.split(size)])


def encoder_arms(
    adapter: ImageAdapter,
    encoders: dict[str, list[nn.Module]],
    splits: dict[str, Tensor],
    tokenize: Callable[[Tensor], Tokens],
    run: Path,
) -> list[Arm]:
    """Features of every encoder and seed under every pooling, each computed once and kept."""
    cache = FeatureCache(run / "features")
    poolings = adapter.config.evaluate.poolings
    marks = str(adapter.tokenizer.state_dict())

    def features(arm: str, model: nn.Module, split: str) -> dict[str, Array]:
        images = splits[split]
        mark = fingerprint(model, images, marks)
        return cache.features(
            arm, split, poolings, mark, lambda names: extract(model, tokenize, images, names)
        )

    return [
        Arm(
            name,
            [features(f"{name}{n}", model, "train") for n, model in enumerate(models)],
            [features(f"{name}{n}", model, "test") for n, model in enumerate(models)],
        )
        for name, models in encoders.items()
    ]


def evaluate(
    adapter: ImageAdapter, encoders: dict[str, list[nn.Module]], run: Path
) -> dict[str, float]:
    """Score every arm (spec of the evaluators, section 4).

    Args:
        adapter: with its data open.
        encoders: `encoder` (teacher), `student`, `untrained` (several seeds).
        run: run folder; features are kept in `run/features`.

    Returns:
        Flat metrics, see `eval.arms.score_arms`.
    """
    config, choice = adapter.config, adapter.config.evaluate
    train, train_y, test, test_y = labelled(adapter)

    def tokenize(raw: Tensor) -> Tokens:
        tokens: Tokens = adapter.tokenizer(raw.to(adapter.tokenizer.mean.device))
        return tokens

    arms = encoder_arms(adapter, encoders, {"train": train, "test": test}, tokenize, run)
    patches = dictionary(adapter)
    small = [reduced(images, BAR_SIDE) for images in (train, test)]
    bar = Arm("bar", *({"": chunked(images, patches.features)} for images in small))
    flat = [
        {"": reduced(images, RAW_SIDE).flatten(1).float().numpy() / 255} for images in (train, test)
    ]
    best = {choice.pooling, *(p for p in choice.poolings if p.startswith("all_"))}
    encoder = next(arm for arm in arms if arm.name == "encoder")
    arms += [Arm("raw", flat[0], flat[1]), bar, concatenate(narrowed(encoder, best), bar)]
    scores = score_arms(
        arms, train_y, test_y, choice.probes, choice.pooling, choice.shots, choice.draws
    )
    metrics = dict(scores.metrics)
    for shots in choice.shots:
        metrics |= augmented_svm(adapter, train, train_y, test, test_y, shots, scores.correct)
    if choice.fractions:
        primary = [narrowed(arm, {choice.pooling, ""}).seeds()[0] for arm in arms]
        features = [tuple(next(iter(part.values())) for part in split) for split in primary]
        named = {arm.name: (x, t) for arm, (x, t) in zip(arms, features, strict=True)}
        metrics |= score_fractions(named, train_y, test_y, choice.fractions)
    change = config.view_augment if config.views else config.augment
    for kind, wanted in (("attentive", choice.attentive), ("finetune", choice.finetune)):
        if wanted:
            metrics |= score_deep(
                kind,
                encoders,
                tokenize,
                train,
                train_y,
                test,
                test_y,
                augment=partial(augmented, change),
            )
    metrics["data/train_labels"] = float(len(train_y))
    metrics["data/test_samples"] = float(len(test_y))
    return metrics


def narrowed(arm: Arm, poolings: set[str]) -> Arm:
    """The same arm with some of its poolings."""

    def keep(part: Any) -> Any:
        seeds = part if isinstance(part, list) else [part]
        return [{n: v for n, v in seed.items() if n in poolings} for seed in seeds]

    return Arm(arm.name, keep(arm.train), keep(arm.test))


def augmented_svm(
    adapter: ImageAdapter,
    train: Tensor,
    train_y: Array,
    test: Tensor,
    test_y: Array,
    shots: int,
    correct: dict[str, Array],
    copies: int = 15,
) -> dict[str, float]:
    """The honest classical bar: an RBF SVM on the labelled pixels and their augmented copies.

    The copies use the run's own view augmentation, so that a gain over this control is not the
    augmentation's alone.

    Returns:
        `raw_augmented/svm_<k>shot/accuracy` with its interval, and the encoder's paired difference.
    """
    from jepa_modalities.eval.statistics import t_interval

    config = adapter.config
    change = config.view_augment if config.views else config.augment
    shape = train.shape[1:]

    def probe(x: Array, y: Array, t: Array) -> Fit:
        images = torch.from_numpy(x).float().reshape(-1, *shape) * 255
        more = [images]
        for number in range(copies):
            draw = Draw(len(images), 0, len(images), seeded(0, 5, number))
            more.append(warped(images, change, draw))
        wide = torch.cat(more).flatten(1).numpy() / 255
        return svm_probe(wide, np.tile(y, copies + 1), t)

    few = k_shot(
        train.flatten(1).float().numpy() / 255,
        train_y,
        test.flatten(1).float().numpy() / 255,
        test_y,
        shots,
        adapter.config.evaluate.draws,
        0,
        probe,
    )
    key = f"raw_augmented/svm_{shots}shot/accuracy"
    metrics = {key: few.mean, f"{key}_low": few.low, f"{key}_high": few.high}
    for name, draws in correct.items():
        arm, _, rest = name.partition("/")
        if arm == "encoder" and rest.startswith(f"linear_{shots}shot"):
            pair = f"paired/encoder-raw_augmented/{rest}/accuracy"
            interval = t_interval(draws - few.accuracies)
            metrics |= {
                pair: interval[0],
                f"{pair}_low": interval[1],
                f"{pair}_high": interval[2],
            }
    return metrics


def warped(images: Tensor, change: AugmentConfig, draw: Draw) -> Tensor:
    """One random copy of each 0..255 float image."""
    size = (images.shape[-2], images.shape[-1])
    moved = apply_warp(images, draw_warp(change, draw), size, change.border)
    return colour(moved, change, draw)


def augmented(change: AugmentConfig, raw: Tensor, generator: torch.Generator) -> Tensor:
    """A randomly changed batch for fine-tuning, from its own generator."""
    return warped(raw.float(), change, Draw(len(raw), 0, len(raw), generator))


def pictures(adapter: ImageAdapter, encoders: dict[str, list[nn.Module]]) -> dict[str, Picture]:
    """Masks, PCA colours, attention and neighbours on held-out images."""
    from jepa_modalities.adapters.base import build_masker
    from jepa_modalities.adapters.image.picture import image_pictures

    images, labels = adapter.source.monitor(300)
    masker = build_masker(adapter.config, adapter.geometry)
    masks = None if masker is None else masker(8, seeded(adapter.config.train.seed, 6, 0))
    names = adapter.source.everything.classes
    shown: list[object] | None = None
    if labels is not None:
        shown = [names[n] if names else n for n in labels.tolist()]
    rows, columns = adapter.geometry.grid
    device = adapter.tokenizer.mean.device
    columns_shown = {name: encoders[name][0] for name in ("encoder", "untrained")}
    return image_pictures(
        images,
        adapter.tokenizer(images.to(device)),
        (rows, columns),
        columns_shown,  # type: ignore[arg-type]
        masks,
        shown,
    )
