"""Image methods at equal cost: same data, model size and counted FLOPs, several seeds, paired.

    python benchmarks/image_compare.py --tflop 14 --seeds 0 1 2 --work runs/compare \
        --out benchmarks/results/image_compare_short.json

Cost is counted, not timed: every arm gets as many steps as fit into the same number of FLOPs
(forward and backward, the teacher's pass included), so the comparison does not depend on how busy
the machine is. Finished runs are kept in --work and not repeated. The test images are scored once
per finished run; nothing is chosen on them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from jepa_modalities import api
from jepa_modalities.adapters.image.adapter import ImageAdapter
from jepa_modalities.adapters.image.config import ImageConfig
from jepa_modalities.adapters.image.evaluator import chunked, dictionary, labelled
from jepa_modalities.config import changed
from jepa_modalities.core.draw import Schedule
from jepa_modalities.eval.arms import Arm, concatenate
from jepa_modalities.eval.features import extract
from jepa_modalities.eval.probes import knn_probe, ridge_probe
from jepa_modalities.eval.statistics import bootstrap_interval, paired_bootstrap
from jepa_modalities.train.distributed import Processes
from jepa_modalities.train.engine import Trainer, plan, untrained
from jepa_modalities.train.environment import commit
from jepa_modalities.train.log import Log, read

POOLINGS = ("mean", "mean_std_max", "all_quadrants", "all_hidden_mean")
Array = NDArray[np.float64]


def arms() -> dict[str, ImageConfig]:
    """The compared methods on the small CIFAR-10 model."""
    base = {
        name: api.recipe(f"image_{name}_cifar10_tiny_cpu")
        for name in ("ijepa", "cjepa", "dictionary", "vicreg", "jepa_vicreg")
    }
    target = replace(base["dictionary"].target, handover=(0.4, 0.6), layers=3)
    return base | {"dictionary_then_ema": replace(base["dictionary"], target=target)}


def step_flops(trainer: Trainer, adapter: ImageAdapter) -> float:
    """FLOPs of one optimiser step, the mean over five masks drawn at five stages of training."""
    train = trainer.config.train
    schedule = Schedule(len(adapter), train.batch_size, train.seed)
    micro = plan(train, schedule, trainer.peers, 1, 5)
    with FlopCounterMode(display=False) as counter:
        feed = adapter.feed(micro, trainer.masker, trainer.peers.device)
        for stage, (batch, masks) in enumerate(feed):
            if trainer.jepa.target is not None:
                trainer.jepa.target.schedule(0.1 + 0.2 * stage)
            loss = trainer.jepa(batch, masks).loss
            assert loss is not None
            loss.backward()
    trainer.jepa.zero_grad(set_to_none=True)
    return counter.get_total_flops() / 5


def train(config: ImageConfig, folder: Path, tflop: float) -> tuple[Any, ImageAdapter, int, float]:
    """Train one arm and seed within the budget; goes on from a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    adapter = ImageAdapter(config, folder)
    alone = Processes(0, 1, torch.device("cpu"))
    flops = step_flops(
        Trainer(adapter, changed(config, {"train.steps": 2}), folder, alone), adapter
    )
    steps = round(tflop * 1e12 / flops)
    trainer = Trainer(adapter, changed(config, {"train.steps": steps}), folder, alone)
    if (folder / "checkpoint").is_dir():
        trainer.resume()
    log = Log(folder)
    try:
        trained = trainer.run(log)
    finally:
        log.close()
    return trained.jepa, adapter, steps, flops


def correctness(features: dict[str, Array], test: dict[str, Array], y: Any, truth: Any) -> Any:
    """1.0 where each probe is right, by "<probe>@<pooling>"."""
    right = {}
    for pooling, x in features.items():
        for name, probe in (("ridge", ridge_probe), ("knn", knn_probe)):
            if name == "knn" and pooling not in ("", "mean"):
                continue
            found = probe(x, y, test[pooling]).predictions  # type: ignore[operator]
            right[f"{name}@{pooling}"] = (found == truth).astype(np.float64)
    return right


def score(encoder: Any, adapter: ImageAdapter, with_bar: Arm | None) -> dict[str, Array]:
    """Correctness of one encoder on the test images."""
    images, y, test_images, truth = labelled(adapter)
    x, t = (extract(encoder, adapter.tokenizer, i, POOLINGS) for i in (images, test_images))
    right = correctness(x, t, y, truth)
    if with_bar is not None:
        best = "all_hidden_mean"
        joined = concatenate(Arm("encoder", {best: x[best]}, {best: t[best]}), with_bar)
        both, both_test = joined.seeds()[0]
        for name, value in correctness(dict(both), dict(both_test), y, truth).items():
            right[f"bar+{name}"] = value
    return right


def cached(path: Path, compute: Any) -> dict[str, Array]:
    """Arrays from a file, or computed and written."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **compute())
    with np.load(path) as file:
        return dict(file)


def controls(adapter: ImageAdapter, work: Path, conv: ImageAdapter) -> tuple[Arm, dict[str, Any]]:
    """The bar's features, and the correctness of raw pixels, bar and untrained encoders."""
    images, y, test_images, truth = labelled(adapter)
    path = work / "bar.npz"

    def bar_features() -> dict[str, Array]:
        patches = dictionary(adapter)
        return {
            "train": chunked(images, patches.features),
            "test": chunked(test_images, patches.features),
        }

    both = cached(path, bar_features)
    bar = Arm("bar", {"": both["train"]}, {"": both["test"]})
    flat = [{"": i.flatten(1).numpy() / 255.0} for i in (images, test_images)]
    found = {
        "raw": [cached(work / "raw.npz", lambda: correctness(flat[0], flat[1], y, truth))],
        "bar": [
            cached(
                work / "bar-score.npz",
                lambda: correctness({"": both["train"]}, {"": both["test"]}, y, truth),
            )
        ],
    }
    for name, source in (("untrained_linear", adapter), ("untrained_conv", conv)):
        found[name] = [
            cached(
                work / f"{name}-{seed}.npz",
                lambda s=source, n=seed: score(untrained(s.config, s, n).eval(), s, None),
            )
            for seed in range(3)
        ]
    return bar, found


def summary(found: dict[str, list[dict[str, Array]]]) -> dict[str, Any]:
    """Mean, interval and seeds of every arm; paired differences between arms and to controls."""
    table: dict[str, Any] = {}
    stacked = {
        (arm, probe): np.stack([seed[probe] for seed in seeds])
        for arm, seeds in found.items()
        for probe in seeds[0]
    }
    for (arm, probe), values in stacked.items():
        mean, low, high = bootstrap_interval(values)
        each = values.mean(1).round(4).tolist()
        table.setdefault(arm, {})[probe] = {"mean": mean, "low": low, "high": high, "seeds": each}
    pairs: dict[str, Any] = {}
    for (arm, probe), values in stacked.items():
        for (other, same), theirs in stacked.items():
            control = (
                other in ("raw", "bar")
                and same.split("@")[0] == probe.removeprefix("bar+").split("@")[0]
            )
            if arm == other or arm in ("raw", "bar") or not (same == probe or control):
                continue
            mean, low, high = paired_bootstrap(values, theirs)
            pairs[f"{arm}-{other}/{probe}"] = {"mean": mean, "low": low, "high": high}
    return {"arms": table, "paired": pairs}


def main() -> None:
    """Run what is missing, then write the summary."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tflop", type=float, default=14.0, help="training budget per run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(arms()))
    parser.add_argument("--work", type=Path, default=Path("runs/compare"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    own = parser.parse_args()
    torch.set_num_threads(own.threads)
    quiet = {"train.precision": "fast"}
    linear = ImageAdapter(changed(arms()["ijepa"], quiet))
    conv = ImageAdapter(changed(arms()["vicreg"], quiet))
    bar, found = controls(linear, own.work, conv)
    facts: dict[str, Any] = {}
    for seed in own.seeds:
        for name in own.arms:
            config = changed(arms()[name], {**quiet, "train.seed": seed})
            folder = own.work / f"{name}-{own.tflop:g}-{seed}"

            def compute(config: ImageConfig = config, folder: Path = folder) -> dict[str, Array]:
                jepa, adapter, steps, flops = train(config, folder, own.tflop)
                about = {"steps": steps, "gflop_per_step": flops / 1e9}
                (folder / "about.json").write_text(json.dumps(about))
                return score(jepa.teacher.eval(), adapter, bar)

            found.setdefault(name, []).append(cached(folder / "correct.npz", compute))
            records = read(folder)
            curve = [[r["step"], r["collapse/rankme"]] for r in records if "collapse/rankme" in r]
            facts[f"{name}-{seed}"] = json.loads((folder / "about.json").read_text()) | {
                "loss": records[-1]["loss"],
                "rankme": curve,
                "verdict": records[-1].get("verdict"),
            }
            result = {
                "command": sys.argv,
                "commit": commit(),
                "date": datetime.datetime.now().isoformat(timespec="seconds"),
                "device": platform.processor() or platform.machine(),
                "threads": own.threads,
                "torch": torch.__version__,
                "tflop": own.tflop,
                "seeds": own.seeds,
                "runs": facts,
                **summary(found),
            }
            own.out.parent.mkdir(parents=True, exist_ok=True)
            own.out.write_text(json.dumps(result, indent=1))
            best = max(v["mean"] for k, v in result["arms"][name].items() if k[0] == "r")
            print(f"{name} seed {seed}: {facts[f'{name}-{seed}']['loss']:.3f} best {best:.3f}")


if __name__ == "__main__":
    main()
