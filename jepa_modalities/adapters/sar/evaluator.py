"""SAR evaluation: few labels and all, beside raw pixels, untrained encoders, the bar and leaks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_modalities.adapters.sar.bar import (
    bar_features,
    gradient_features,
    hog_features,
    raw_features,
)
from jepa_modalities.adapters.sar.source import Labelled
from jepa_modalities.adapters.sar.tokenizer import PADDING, centre
from jepa_modalities.adapters.sar.tuning import finetuned
from jepa_modalities.core.batch import Latents, Tokens
from jepa_modalities.core.draw import seeded
from jepa_modalities.data.sar.speckle import add_speckle
from jepa_modalities.eval.arms import FEW_PROBES, PROBES, Arm, concatenate, score_arms
from jepa_modalities.eval.features import extract, pool, unknown_poolings
from jepa_modalities.eval.fewshot import k_shot
from jepa_modalities.eval.probes import Fit, ridge_probe
from jepa_modalities.eval.statistics import bootstrap_interval

if TYPE_CHECKING:
    from jepa_modalities.adapters.sar.adapter import SarAdapter

Array = NDArray[Any]
# LinearSVC's C, chosen by 3-fold cross-validation inside the labelled rows.
SVM_GRID = (1e-4, 1e-3, 1e-2)  # of standardised features
PLAIN_SVM_GRID = (1e-2, 1e-1, 1.0)


def check(adapter: SarAdapter) -> None:
    """Complain before training about an evaluation that could not be done after it.

    Raises:
        ValueError: unknown names, no untrained control, missing labels, test chips or room.
    """
    choice = adapter.config.evaluate
    for name, given, known in (
        ("probes", choice.probes, tuple(PROBES)),
        ("few", choice.few, tuple(FEW_PROBES)),
        ("pooling", (choice.pooling,), choice.poolings),
    ):
        if unknown := [item for item in given if item not in known]:
            raise ValueError(f"evaluate.{name}: {unknown[0]!r} is not one of {', '.join(known)}")
    if unknown := unknown_poolings(choice.poolings):
        raise ValueError(f"evaluate.poolings: {unknown[0]!r} is not known")
    if choice.untrained < 1:
        raise ValueError("evaluate.untrained = 0: no result without this control; give at least 1")
    train = adapter.source.labelled("train")
    kept, held = adapter.source.held_out()
    if choice.on == "validation" and not len(held):
        raise ValueError("evaluate.on = 'validation' needs data.holdout above 0")
    if choice.on == "test":
        adapter.source.labelled("test")
    rows = kept if choice.on == "validation" else torch.arange(len(train))
    fewest = int(train.labels[rows].bincount().min())
    if choice.shots and max(choice.shots) > fewest:
        raise ValueError(f"evaluate.shots = {choice.shots}: the rarest class has {fewest} chips")


def parts(adapter: SarAdapter) -> tuple[Labelled, Labelled]:
    """Chips to fit probes on and chips to score: training and test, or the validation split.

    Validation chips get a random gain each: they come from the same collection as the shots, so
    without it they would reward brightness, which other collections do not share.
    """
    choice, train = adapter.config.evaluate, adapter.source.labelled("train")
    if choice.on == "test":
        return train, adapter.source.labelled("test")
    kept, held = adapter.source.held_out()
    scored = train.subset(held)
    gain = torch.rand(len(scored), 1, 1, 1, generator=seeded(0, 7, 0)) * 2 - 1
    images = scored.images * (gain * choice.jitter).exp()
    images = torch.where(scored.images < 0, PADDING, images)
    return train.subset(kept), Labelled(images, scored.labels, scored.sizes, scored.classes)


def chunked(images: Tensor, function: Callable[[Tensor], Tensor], size: int = 256) -> Array:
    """`function` over chunks, as one float32 array."""
    with torch.inference_mode():
        return np.concatenate([function(part).float().numpy() for part in images.split(size)])


def evaluate(
    adapter: SarAdapter, encoders: dict[str, list[nn.Module]], run: Path
) -> dict[str, float]:
    """Score every arm under the same probes, labels and draws.

    Args:
        adapter: with its data open.
        encoders: `encoder` (teacher), `student`, `untrained` (several seeds).
        run: run folder; `confusion.json` goes there.

    Returns:
        Flat metrics, see `eval.arms.score_arms`; further arms `background` and
        `background_untrained` (outer ring of tokens), `size` (native size only), `gradient` and
        `hog` (with a linear support vector machine); `<arm>/ridge_looks<n>` under speckle.
    """
    choice, size = adapter.config.evaluate, adapter.config.data.size
    train, test = parts(adapter)
    y, truth = train.labels.numpy(), test.labels.numpy()
    arms = [_encoder_arm(adapter, name, models, train, test) for name, models in encoders.items()]
    bar = _plain_arm("bar", partial(bar_features, size=size), train, test)
    encoder = arms[0] if arms[0].name == "encoder" else next(a for a in arms if a.name == "encoder")
    arms += [
        _plain_arm("raw", partial(raw_features, size=size), train, test),
        bar,
        concatenate(_narrowed(encoder, choice.pooling), bar),
        *_leaks(adapter, encoders, train, test),
    ]
    scores = score_arms(
        arms,
        y,
        truth,
        choice.probes,
        choice.pooling,
        choice.shots,
        choice.draws,
        few=choice.few,
    )
    metrics = dict(scores.metrics)
    for name, right in scores.correct.items():
        if "shot" not in name and "@" not in name:
            metrics |= _per_class(name, right, truth, train.classes)
    metrics |= _looks(adapter, encoders, train, test, run)
    if choice.svm:
        for name, function in (("gradient", gradient_features), ("hog", hog_features)):
            x, t = (chunked(p.images, partial(function, size=size)) for p in (train, test))
            metrics |= _svm_scores(name, x, y, t, truth, choice.shots, choice.draws)
    if choice.finetune:
        metrics |= finetuned(adapter, encoders, train, test)
    metrics["data/train_labels"] = float(len(y))
    metrics["data/test_samples"] = float(len(truth))
    metrics["data/pretraining_samples"] = float(len(adapter.source))
    metrics["data/too_small"] = float(adapter.source.dropped)
    return metrics


def encoder_features(adapter: SarAdapter, model: nn.Module, images: Tensor) -> dict[str, Array]:
    """Features of the middle of each chip, by pooling, (chips, width)."""

    def tokenize(raw: Tensor) -> Tokens:
        tokens: Tokens = adapter.tokenizer(raw.to(adapter.tokenizer.device))
        return tokens

    return extract(model, tokenize, images, adapter.config.evaluate.poolings)


def _encoder_arm(
    adapter: SarAdapter, name: str, models: list[nn.Module], train: Labelled, test: Labelled
) -> Arm:
    return Arm(
        name,
        [encoder_features(adapter, model, train.images) for model in models],
        [encoder_features(adapter, model, test.images) for model in models],
    )


def _plain_arm(
    name: str, function: Callable[[Tensor], Tensor], train: Labelled, test: Labelled
) -> Arm:
    return Arm(name, *({"": chunked(part.images, function)} for part in (train, test)))


def _narrowed(arm: Arm, pooling: str) -> Arm:
    """The same arm with one pooling."""
    seeds = arm.seeds()
    return Arm(arm.name, *([{pooling: s[side][pooling]} for s in seeds] for side in (0, 1)))


def ring(grid: tuple[int, ...]) -> Tensor:
    """Numbers of the outermost tokens, long, (tokens,): background, mostly."""
    rows, columns = grid
    inner = torch.zeros(rows, columns, dtype=torch.bool)
    inner[1:-1, 1:-1] = True
    return (~inner).flatten().nonzero().squeeze(1)


def background_features(adapter: SarAdapter, model: nn.Module, images: Tensor) -> Array:
    """Features when only the outer ring of tokens is known: no map and no mean reaches inside."""
    patch, size = adapter.config.data.patch, adapter.config.data.size
    outer = ring(adapter.geometry.grid).to(adapter.tokenizer.device)

    def features(part: Tensor) -> Tensor:
        part = centre(part, size).clone().to(adapter.tokenizer.device)
        part[..., patch:-patch, patch:-patch] = PADDING
        tokens = adapter.tokenizer(part)
        keep = outer.expand(len(part), -1)
        latents = model(tokens, keep=keep, blocks=True)
        ringed = Latents(latents.tokens, tokens.positions[outer], blocks=latents.blocks)
        return pool(ringed, "all_mean_std_max+grid4").cpu()

    training = model.training
    found = chunked(images, features)
    model.train(training)
    return found


def _leaks(
    adapter: SarAdapter, encoders: dict[str, list[nn.Module]], train: Labelled, test: Labelled
) -> list[Arm]:
    """Arms that should know nothing: the background alone, and the native size alone."""
    arms = []
    for name, key in (("background", "encoder"), ("background_untrained", "untrained")):
        model = encoders[key][0].eval()
        features = (
            {"": background_features(adapter, model, part.images)} for part in (train, test)
        )
        arms.append(Arm(name, *features))
    if len(train.sizes.unique(dim=0)) > 1:
        arms.append(Arm("size", *({"": part.sizes.float().numpy()} for part in (train, test))))
    return arms


def _per_class(name: str, right: Array, truth: Array, classes: Sequence[str]) -> dict[str, float]:
    """Accuracy of each class, and their mean."""
    found = {
        f"{name}/class_{classes[number]}_accuracy": float(right[truth == number].mean())
        for number in np.unique(truth)
    }
    return found | {f"{name}/mean_class_accuracy": float(np.mean(list(found.values())))}


def _looks(
    adapter: SarAdapter,
    encoders: dict[str, list[nn.Module]],
    train: Labelled,
    test: Labelled,
    run: Path,
) -> dict[str, float]:
    """Accuracy under added speckle, and the confusion matrix of the clean chips.

    The noise is a function of the number of looks and the chip's place: the same for every arm.
    """
    choice, size = adapter.config.evaluate, adapter.config.data.size
    noisy = [test.images, *(speckled(test.images, looks) for looks in choice.looks)]
    y, truth = train.labels.numpy(), test.labels.numpy()

    def pooled(model: nn.Module, images: Tensor) -> Array:
        return encoder_features(adapter, model, images)[choice.pooling]

    functions: dict[str, Callable[[Tensor], Array]] = {
        name: partial(pooled, encoders[name][0]) for name in ("encoder", "untrained")
    }
    functions["bar"] = partial(chunked, function=partial(bar_features, size=size))
    functions["raw"] = partial(chunked, function=partial(raw_features, size=size))
    if not choice.looks:
        functions = {"encoder": functions["encoder"]}
    metrics: dict[str, float] = {}
    for name, features in functions.items():
        stacked = np.concatenate([features(images) for images in noisy])
        fit = ridge_probe(features(train.images), y, stacked)
        guesses = fit.predictions.reshape(len(noisy), -1)
        if name == "encoder":
            adapter.confusion = confusion(truth, guesses[0], train.classes)
            _write(run / "confusion.json", adapter.confusion)
        for looks, guess in zip(choice.looks, guesses[1:], strict=True):
            metrics |= _entry(f"{name}/ridge_looks{looks}", (guess == truth).astype(float))
    return metrics


def speckled(images: Tensor, looks: int) -> Tensor:
    """Chips under added speckle, clipped to 0..1 as the sensors' files are; padding stays."""
    noisy = add_speckle(images.clamp_min(0), looks, seeded(0, 8, looks)).clamp(0, 1)
    return torch.where(images < 0, PADDING, noisy)


def confusion(truth: Array, guess: Array, classes: Sequence[str]) -> dict[str, Any]:
    """Counts of (true class, predicted class) with the names, for JSON and the picture."""
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (truth, guess), 1)
    return {"classes": list(classes), "counts": counts.tolist()}


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content))
    os.replace(temporary, path)


def _entry(key: str, right: Array) -> dict[str, float]:
    mean, low, high = bootstrap_interval(right)
    return {f"{key}/accuracy": mean, f"{key}/accuracy_low": low, f"{key}/accuracy_high": high}


def linear_svm(train_x: Array, train_y: Array, test_x: Array) -> Fit:
    """Linear support vector machine; C, and whether to standardise, by 3-fold cross-validation.

    Histograms and ratio gradients are often better as they are: standardising blows up cells that
    hardly vary.
    """
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    machine = make_pipeline(StandardScaler(), LinearSVC(dual="auto", max_iter=5000))
    grid = [
        {"standardscaler": [StandardScaler()], "linearsvc__C": list(SVM_GRID)},
        {"standardscaler": ["passthrough"], "linearsvc__C": list(PLAIN_SVM_GRID)},
    ]
    search = GridSearchCV(machine, grid, cv=3)
    search.fit(train_x, train_y)
    chosen = {
        "C": search.best_params_["linearsvc__C"],
        "standardised": search.best_params_["standardscaler"] != "passthrough",
        "held_out": float(search.best_score_),
    }
    return Fit(search.predict(test_x), chosen, float(search.refit_time_))


def _svm_scores(
    name: str, x: Array, y: Array, t: Array, truth: Array, shots: Sequence[int], draws: int
) -> dict[str, float]:
    metrics = _entry(f"{name}/svm", (linear_svm(x, y, t).predictions == truth).astype(float))
    for count in shots:
        few = k_shot(x, y, t, truth, count, draws, 0, linear_svm)
        key = f"{name}/svm_{count}shot/accuracy"
        metrics |= {key: few.mean, f"{key}_low": few.low, f"{key}_high": few.high}
    return metrics
