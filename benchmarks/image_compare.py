"""Image methods at equal cost: same data, model size and counted FLOPs, several seeds, paired.

    python benchmarks/image_compare.py --tflop 3 12 --seeds 0 1 2
    python benchmarks/image_compare.py --tflop 48 --seeds 0 1 2 --arms dictionary

Cost is counted, not timed: every arm gets as many steps as fit into the same number of FLOPs
(forward and backward, the teacher's pass included; not the looks of the monitor), so the comparison
does not depend on how busy the machine is. Every finished run leaves a file in --results that says
which test image each probe got right; such runs are not repeated, and several processes may share
the folder. `image_compare_summary.py` makes the table. The test images are scored once per run;
nothing is chosen on them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from equal_cost import once, train_within
from evidence import RESULTS
from numpy.typing import NDArray
from torch import nn

from jepa_modalities import api
from jepa_modalities.adapters.image.adapter import ImageAdapter
from jepa_modalities.adapters.image.config import ImageConfig
from jepa_modalities.adapters.image.evaluator import chunked, dictionary, labelled
from jepa_modalities.eval.features import extract
from jepa_modalities.eval.probes import knn_probe, ridge_probe
from jepa_modalities.settings import changed
from jepa_modalities.train.engine import untrained

POOLINGS = ("mean", "mean_std_max", "all_quadrants", "all_hidden_mean")
WIDEST = "all_hidden_mean"  # what stands beside the bar in `bar+...`
CONTROLS = ("raw", "bar", "untrained_linear", "untrained_conv")
Array = NDArray[np.float64]


def arms() -> dict[str, ImageConfig]:
    """The compared methods on the small CIFAR-10 model."""
    base = {
        name: api.recipe(f"image_{name}_cifar10_tiny_cpu")
        for name in ("ijepa", "cjepa", "dictionary", "vicreg", "jepa_vicreg")
    }
    target = replace(base["dictionary"].target, handover=(0.4, 0.6), layers=3)
    more = {
        "dictionary_then_ema": replace(base["dictionary"], target=target),
        "dictionary_blocks": replace(base["dictionary"], mask=base["ijepa"].mask),
    }
    packed = {
        f"{name}_packed": changed(config, {"predictor.packed": True})
        for name, config in (base | more).items()
        if name in ("ijepa", "dictionary_blocks")
    }
    return base | more | packed


def config_of(arm: str, seed: int) -> ImageConfig:
    """The arm's recipe; bf16 where the processor has it."""
    return changed(arms()[arm], {"train.precision": "fast", "train.seed": seed})


@cache
def fixed_target(seed: int, work: Path) -> tuple[nn.Module, int] | None:
    """The dictionary's table of targets: one for all arms of a seed."""
    folder = work / f"dictionary-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    return ImageAdapter(config_of("dictionary", seed), folder).target()


def train(arm: str, seed: int, tflop: float, work: Path) -> tuple[Any, ImageAdapter, Any]:
    """Train one arm and seed within the budget; goes on from a checkpoint."""
    config, folder = config_of(arm, seed), work / f"{arm}-{tflop:g}-{seed}"
    shared = fixed_target(seed, work) if config.target.kind == "dictionary" else None
    adapter = ImageAdapter(config, folder, shared)
    jepa, facts = train_within(adapter, config, tflop, folder, {"train.warmup_steps": 30})
    return jepa, adapter, facts


def correctness(features: dict[str, Array], test: dict[str, Array], y: Any, truth: Any) -> Any:
    """True where each probe is right, by "<probe>@<pooling>"."""
    right = {}
    for pooling, x in features.items():
        for name, probe in (("ridge", ridge_probe), ("knn", knn_probe)):
            if name == "knn" and pooling not in ("", "mean"):
                continue
            found = probe(x, y, test[pooling]).predictions  # type: ignore[operator]
            right[f"{name}@{pooling}"] = found == truth
    return right


def score(encoder: Any, adapter: ImageAdapter, bar: tuple[Array, Array]) -> Any:
    """Correctness of one encoder on the test images, alone and beside the bar's features."""
    images, y, test_images, truth = labelled(adapter)
    x, t = (extract(encoder, adapter.tokenizer, i, POOLINGS) for i in (images, test_images))
    right = correctness(x, t, y, truth)
    both, both_test = (
        {WIDEST: np.concatenate([f[WIDEST], b], 1)} for f, b in zip((x, t), bar, strict=True)
    )
    joined = correctness(both, both_test, y, truth)
    return right | {f"bar+{name}": value for name, value in joined.items()}


def bar_features(work: Path) -> tuple[Array, Array]:
    """The bar's features of training and test images, computed once."""
    path = work / "bar.npz"
    if not path.exists():
        adapter = ImageAdapter(config_of("ijepa", 0))
        images, _, test_images, _ = labelled(adapter)
        patches = dictionary(adapter)
        work.mkdir(parents=True, exist_ok=True)
        train, test = (chunked(i, patches.features) for i in (images, test_images))
        np.savez(path, train=train, test=test)
    with np.load(path) as file:
        return file["train"], file["test"]


def control(name: str, seed: int, work: Path) -> Any:
    """Correctness of one control."""
    adapter = ImageAdapter(config_of("vicreg" if name == "untrained_conv" else "ijepa", seed))
    if name.startswith("untrained"):
        return score(untrained(adapter.config, adapter, seed).eval(), adapter, bar_features(work))
    images, y, test_images, truth = labelled(adapter)
    if name == "bar":
        train, test = bar_features(work)
    else:
        train, test = (i.flatten(1).numpy() / 255.0 for i in (images, test_images))
    return correctness({"": train}, {"": test}, y, truth)


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tflop", type=float, nargs="+", default=[12.0], help="budgets per run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=[*CONTROLS, *arms()])
    parser.add_argument("--work", type=Path, default=Path("runs/compare"))
    parser.add_argument("--results", type=Path, default=RESULTS / "image_compare")
    parser.add_argument("--threads", type=int, default=1)
    own = parser.parse_args()
    torch.set_num_threads(own.threads)

    def run(name: str, compute: Callable[[], tuple[Any, Any]]) -> None:
        once(own.results / f"{name}.json", own.threads, compute)

    def trained(arm: str, seed: int, tflop: float) -> tuple[Any, Any]:
        jepa, adapter, facts = train(arm, seed, tflop, own.work)
        return score(jepa.teacher.eval(), adapter, bar_features(own.work)), facts

    for name in (n for n in own.arms if n in CONTROLS):
        for seed in own.seeds if name.startswith("untrained") else [0]:
            run(f"{name}-0-{seed}", lambda n=name, s=seed: (control(n, s, own.work), {}))
    for seed in own.seeds:
        for tflop in own.tflop:
            for arm in (n for n in own.arms if n not in CONTROLS):
                run(f"{arm}-{tflop:g}-{seed}", lambda a=arm, s=seed, t=tflop: trained(a, s, t))


if __name__ == "__main__":
    main()
