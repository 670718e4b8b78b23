"""Image evaluation: every arm on identical labels, probes and poolings; pictures for the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_modalities.adapters.image.augment import apply_warp, colour, draw_warp
from jepa_modalities.adapters.image.bar import PatchDictionary
from jepa_modalities.adapters.image.config import AugmentConfig
from jepa_modalities.core.draw import Draw, seeded
from jepa_modalities.eval.arms import Arm, concatenate, score_arms
from jepa_modalities.eval.features import FeatureCache, extract, fingerprint
from jepa_modalities.eval.fewshot import k_shot
from jepa_modalities.eval.probes import Fit, svm_probe

if TYPE_CHECKING:
    from jepa_modalities.adapters.image.adapter import ImageAdapter
    from jepa_modalities.eval.report import Picture

Array = NDArray[Any]


def labelled(adapter: ImageAdapter) -> tuple[Tensor, Array, Tensor, Array]:
    """All labelled training images and the test images: (images, labels) twice.

    Raises:
        ValueError: labels or test images are missing.
    """
    source = adapter.source
    train, test = source.everything, source.test
    if train.labels is None or test.labels is None:
        raise ValueError(
            f"{adapter.config.data.path}: probes need labels (class folders or a label array); "
            f"set evaluate.enabled to False to pretrain only"
        )
    rows = torch.cat([source.train_rows, source.held_rows])
    everything = torch.arange(len(test))
    return (
        source.pixels(train, rows),
        train.labels[rows].numpy(),
        source.pixels(test, everything),
        test.labels.numpy(),
    )


def dictionary(adapter: ImageAdapter) -> PatchDictionary:
    """The control's dictionary: one patch size, fitted on the pretraining images."""
    config = adapter.config
    patch = min(6, max(3, min(config.data.size) // 2))
    sample = adapter.source.sample(20_000, config.train.seed)
    return PatchDictionary.fit(sample, config.target.centroids, patch, seed=config.train.seed)


def chunked(images: Tensor, function: Any, size: int = 256) -> Array:
    """`function` over chunks, as one float32 array."""
    with torch.inference_mode():
        return np.concatenate([function(part).float().numpy() for part in images.split(size)])


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
    cache = FeatureCache(run / "features")
    arms: list[Arm] = []
    for name, models in encoders.items():
        parts = []
        for split, images in (("train", train), ("test", test)):
            seeds = []
            for number, model in enumerate(models):
                mark = fingerprint(model, images, str(adapter.tokenizer.state_dict()))

                def compute(
                    missing: Sequence[str], model: nn.Module = model, images: Tensor = images
                ) -> dict[str, Array]:
                    place = adapter.tokenizer.mean.device
                    return extract(
                        model, lambda raw: adapter.tokenizer(raw.to(place)), images, missing
                    )

                arm = f"{name}{number}" if len(models) > 1 else name
                seeds.append(cache.features(arm, split, choice.poolings, mark, compute))
            parts.append(seeds)
        arms.append(Arm(name, parts[0], parts[1]))
    patches = dictionary(adapter)
    bar = Arm("bar", {"": chunked(train, patches.features)}, {"": chunked(test, patches.features)})
    flat = [{"": x.flatten(1).float().numpy() / 255} for x in (train, test)]
    encoder = next(arm for arm in arms if arm.name == "encoder")
    best = {choice.pooling, *(p for p in choice.poolings if p.startswith("all_"))}
    joined = concatenate(narrowed(encoder, best), bar)
    arms += [Arm("raw", flat[0], flat[1]), bar, joined]
    scores = score_arms(
        arms,
        train_y,
        test_y,
        probes=choice.probes,
        primary=choice.pooling,
        shots=choice.shots,
        draws=choice.draws,
    )
    metrics = dict(scores.metrics)
    for shots in choice.shots:
        metrics |= augmented_svm(adapter, train, train_y, test, test_y, shots, scores.correct)
    metrics["data/train_labels"] = float(len(train_y))
    metrics["data/test_samples"] = float(len(test_y))
    return metrics


def narrowed(arm: Arm, poolings: set[str]) -> Arm:
    """The same arm with some of its poolings."""

    def keep(part: Any) -> Any:
        return [{n: v for n, v in seed.items() if n in poolings} for seed in part]

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
