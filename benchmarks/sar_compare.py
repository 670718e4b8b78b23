"""SAR methods at equal cost: same chips, model size and counted FLOPs, several seeds, paired.

    python benchmarks/sar_compare.py --on validation --tflop 6 --seeds 0
    python benchmarks/sar_compare.py --on test --tflop 6 24 --seeds 0 1 2

Choices are made on the gain-jittered validation chips; test files are written once per run. Every
finished run leaves a file in --results/<on> that says which chip each probe got right: ridge with
10, 20 and 40 labels per class (five draws, the same for every arm) and with all. Such runs are not
repeated, and several processes may share the folder. `sar_compare_summary.py` makes the tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from equal_cost import once, train_within
from evidence import RESULTS, about, read_evidence, write_evidence
from numpy.typing import NDArray
from torch import nn

from jepa_modalities import api
from jepa_modalities.adapters.sar.adapter import SarAdapter
from jepa_modalities.adapters.sar.bar import (
    bar_features,
    gradient_features,
    hog_features,
    raw_features,
)
from jepa_modalities.adapters.sar.config import SarConfig
from jepa_modalities.adapters.sar.evaluator import (
    background_features,
    chunked,
    encoder_features,
    linear_svm,
    parts,
    speckled,
)
from jepa_modalities.adapters.sar.source import Labelled
from jepa_modalities.adapters.sar.tuning import fine_tune
from jepa_modalities.eval.arms import Arm, concatenate
from jepa_modalities.eval.fewshot import Probe, k_shot
from jepa_modalities.eval.probes import ridge_probe
from jepa_modalities.eval.ridge import loo_ridge_probe
from jepa_modalities.settings import changed
from jepa_modalities.train.engine import untrained

SHOTS, DRAWS, LOOKS = (10, 20, 40), 5, (8, 4, 2, 1)
WIDEST = "all_mean_std_max+grid4"
HIDDEN = f"{WIDEST}+all_hidden_mean_std_max"
POOLINGS = (HIDDEN, WIDEST, "all_mean_std_max", "mean")
TARGETS = ("pixels", "hog", "gradient", "gradient_gaussian", "ema", "gradient+ema")
PLAIN = {"raw": raw_features, "bar": bar_features}
# What was tried on validation before the recipe was fixed, as changes of it.
TRIED: dict[str, dict[str, Any]] = {
    "vicreg_narrow": {"data.maps": (2, 4, 6, 8), "data.margin": 8},
    "vicreg_cut": {"data.margin": 8},
    "vicreg_17": {"data.maps": (2, 5, 9, 13, 17), "data.margin": 8},
    "vicreg_cov4": {"data.margin": 8, "regulariser.coefficients": (25.0, 25.0, 4.0)},
    "vicreg_speckle": {"view_augment.looks": 4.0},
}
SVM = {"gradient_svm": gradient_features, "hog_svm": hog_features}
# By input.
UNTRAINED = {
    "untrained": "vicreg",
    "untrained_narrow": "vicreg_narrow",
    "untrained_image": "target_gradient",
}
Array = NDArray[Any]
# (encoder, adapter) -> where each probe is right.
Look = Callable[[nn.Module, SarAdapter], Any]


def arms() -> dict[str, SarConfig]:
    """The compared methods on the small MSTAR model."""
    base = {
        "vicreg": api.recipe("sar_mstar_tiny_cpu"),
        "vicreg_gradient": api.recipe("sar_jepa_vicreg_mstar_tiny_cpu"),
        "sar_jepa": api.recipe("sar_jepa_mstar_tiny_cpu"),
    }
    strict = api.recipe("sar_mstar_small_strict").data.path
    base["vicreg_strict"] = changed(base["vicreg"], {"data.path": strict})
    base |= {name: changed(base["vicreg"], more) for name, more in TRIED.items()}
    target = api.recipe("sar_target_mstar_tiny_cpu")
    kinds = {f"target_{k}": replace(target, target=replace(target.target, kind=k)) for k in TARGETS}
    return base | kinds


def config_of(arm: str, seed: int, on: str) -> SarConfig:
    """The arm's recipe, scored on `on`."""
    poolings = {"evaluate.poolings": POOLINGS, "evaluate.pooling": WIDEST}  # fine-tuned: WIDEST
    return changed(arms()[arm], {"train.seed": seed, "evaluate.on": on} | poolings)


def right_ones(x: Array, y: Array, t: Array, truth: Array, suffix: str, full: Any) -> Any:
    """Where the probe is right: all labels, then each draw of few."""
    found = {f"ridge{suffix}": full(x, y, t).predictions == truth}
    few: Probe = loo_ridge_probe if full is ridge_probe else full
    for shots in SHOTS:
        draws = k_shot(x, y, t, truth, shots, DRAWS, 0, few).predictions
        found |= {f"ridge_{shots}shot{n}{suffix}": d == truth for n, d in enumerate(draws)}
    return found


def robust(
    features: Callable[[torch.Tensor], Array], train: Labelled, test: Labelled, suffix: str
) -> Any:
    """Where ridge with all labels is right under added speckle."""
    y, truth = train.labels.numpy(), test.labels.numpy()
    noisy = np.concatenate([features(speckled(test.images, looks)) for looks in LOOKS])
    guesses = ridge_probe(features(train.images), y, noisy).predictions.reshape(len(LOOKS), -1)
    return {f"looks{n}{suffix}": g == truth for n, g in zip(LOOKS, guesses, strict=True)}


def score(encoder: nn.Module, adapter: SarAdapter) -> Any:
    """One encoder: every pooling, beside the bar, its background alone, and under speckle."""
    right = brief(encoder, adapter, POOLINGS)
    train, test = parts(adapter)
    y, truth = train.labels.numpy(), test.labels.numpy()
    ring = [background_features(adapter, encoder, part.images) for part in (train, test)]
    alone = right_ones(ring[0], y, ring[1], truth, f"@{WIDEST}", ridge_probe)
    right |= {f"background {name}": value for name, value in alone.items()}
    return right | robust(
        lambda images: encoder_features(adapter, encoder, images)[WIDEST], train, test, f"@{WIDEST}"
    )


def brief(encoder: nn.Module, adapter: SarAdapter, poolings: Sequence[str]) -> Any:
    """One encoder under some poolings, and beside the bar under the first."""
    train, test = parts(adapter)
    y, truth = train.labels.numpy(), test.labels.numpy()
    x, t = (encoder_features(adapter, encoder, part.images) for part in (train, test))
    right = {}
    for pooling in poolings:
        right |= right_ones(x[pooling], y, t[pooling], truth, f"@{pooling}", ridge_probe)
    plain = partial(chunked, function=partial(bar_features, size=adapter.config.data.size))
    bar = Arm("bar", *({"": plain(part.images)} for part in (train, test)))
    first = poolings[0]
    both = concatenate(Arm("encoder", {first: x[first]}, {first: t[first]}), bar).seeds()[0]
    joined = right_ones(both[0][first], y, both[1][first], truth, f"@{first}", ridge_probe)
    return right | {f"bar+{name}": value for name, value in joined.items()}


def tuned(encoder: nn.Module, adapter: SarAdapter) -> Any:
    """Where the encoder is right after fine-tuning on each of the first draws of 40 labels."""
    train, test = parts(adapter)
    truth = test.labels.numpy()
    fits = fine_tune(adapter, encoder, train, test)
    return {f"finetune_40shot{n}": fit.predictions == truth for n, fit in enumerate(fits)}


def control(name: str, seed: int, own: argparse.Namespace, look: Look) -> Any:
    """One control; only networks are looked at in several ways."""
    adapter = SarAdapter(config_of(UNTRAINED.get(name, "vicreg"), seed, own.on))
    if name in UNTRAINED:
        model = untrained(adapter.config, adapter, seed).eval()
        return look(model, adapter)
    train, test = parts(adapter)
    function = partial((PLAIN | SVM)[name], size=adapter.config.data.size)
    features = partial(chunked, function=function)
    x, t = features(train.images), features(test.images)
    y, truth = train.labels.numpy(), test.labels.numpy()
    if name in SVM:
        return right_ones(x, y, t, truth, "@", linear_svm)
    return right_ones(x, y, t, truth, "@", ridge_probe) | robust(features, train, test, "@")


def main() -> None:
    """Run what is missing."""
    controls = (*PLAIN, *SVM, *UNTRAINED)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", choices=("validation", "test"), default="validation")
    parser.add_argument("--tflop", type=float, nargs="+", default=[6.0], help="budgets per run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", default=[*controls, *arms()])
    parser.add_argument(
        "--finetune", action="store_true", help="also 40 labels, two draws; may be added later"
    )
    parser.add_argument(
        "--brief", action="store_true", help="ridge on the two widest poolings only"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/sar_compare"))
    parser.add_argument("--results", type=Path, default=RESULTS / "sar_compare")
    parser.add_argument("--threads", type=int, default=1)
    own = parser.parse_args()
    torch.set_num_threads(own.threads)

    two = partial(brief, poolings=POOLINGS[:2])

    def run(name: str, compute: Callable[[Look], tuple[Any, Any]], network: bool = True) -> None:
        path = own.results / own.on / f"{name}.json"
        once(path, own.threads, lambda: compute(two if own.brief else score))
        if not network:
            return
        facts, right = read_evidence(path)
        if f"ridge@{HIDDEN}" not in right:
            right |= compute(two)[0]
            write_evidence(path, right, facts := facts | {"hidden": about(own.threads)})
        if own.finetune and not any(probe.startswith("finetune") for probe in right):
            right |= compute(tuned)[0]
            write_evidence(path, right, facts | {"finetuned": about(own.threads)})

    def trained(arm: str, seed: int, tflop: float, look: Look) -> tuple[Any, Any]:
        config = config_of(arm, seed, own.on)
        adapter, folder = SarAdapter(config), own.work / f"{arm}-{tflop:g}-{seed}"
        jepa, facts = train_within(adapter, config, tflop, folder)
        return look(jepa.teacher.eval(), adapter), facts

    for name in (n for n in own.arms if n in controls):
        for seed in own.seeds if name in UNTRAINED else [0]:
            look_at = partial(control, name, seed, own)
            run(f"{name}-0-{seed}", lambda look, f=look_at: (f(look), {}), name in UNTRAINED)
    for seed in own.seeds:
        for tflop in own.tflop:
            for arm in (n for n in own.arms if n not in controls):
                run(
                    f"{arm}-{tflop:g}-{seed}",
                    lambda look, a=arm, s=seed, b=tflop: trained(a, s, b, look),
                )


if __name__ == "__main__":
    main()
