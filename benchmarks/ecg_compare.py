"""ECG methods at equal cost on PTB-XL: same records, model size and counted FLOPs, paired.

    jm prepare ptbxl FOLDER ptbxl_sub100.h5
    python benchmarks/ecg_compare.py ptbxl_sub100.h5 --on validation --tflop 10
    python benchmarks/ecg_compare.py ptbxl_sub100.h5 --on test --tflop 10 --seeds 0 1 2 --heads
    python benchmarks/ecg_compare.py ptbxl_sub100.h5 --on test --summary

Superdiagnostic labels, macro AUC. `validation` learns from folds 1 to 7, chooses C on fold 8 and
scores fold 9; it also cross-validates inside folds 1 to 7, whose signals the encoder has seen.
`test` learns from folds 1 to 8, chooses on fold 9 and scores fold 10, once per run. Every finished
run leaves a file in --results/<on> with the rank of every record under every probe (which is all
that an AUC depends on), so runs of other days can be added and paired; such runs are not repeated,
and several processes may share the folder. Few labels: eight stratified draws, the same for every
arm.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from equal_cost import train_within
from evidence import RESULTS, about
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import nn

from jepa_modalities import api
from jepa_modalities.adapters.ecg.adapter import ECGAdapter
from jepa_modalities.adapters.ecg.config import ECGConfig
from jepa_modalities.adapters.ecg.evaluator import control_arms
from jepa_modalities.adapters.ecg.head import RecordCrops, head_recipe
from jepa_modalities.adapters.ecg.model import in_samples
from jepa_modalities.adapters.ecg.part import Parts, tokens_of
from jepa_modalities.adapters.ecg.task import task_labels
from jepa_modalities.eval.arms import Arm, concatenate
from jepa_modalities.eval.features import extract
from jepa_modalities.eval.macro_auc import macro_auc, resampled_macro, resamples
from jepa_modalities.eval.multilabel import label_draws, linear_multilabel
from jepa_modalities.eval.multilabel_head import fit_head
from jepa_modalities.eval.statistics import t_interval
from jepa_modalities.settings import changed
from jepa_modalities.train.engine import untrained

POOLINGS = ("mean", "mean_std_max", "all_mean_std_max", "all_hidden_mean_std_max")
WIDEST = "all_hidden_mean_std_max"  # what stands beside the bar, and with few labels
COUNTS, DRAWS = (50, 100, 200, 400), 8
CONTROLS = ("raw", "bar", "untrained", "untrained_stem")
# The recipe behind an arm, and its changes.
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "jepa": ("ecg_ptbxl_sub100_tiny", {}),
    "hidden": ("ecg_ptbxl_sub100_tiny", {"loss.visible": 0.0}),
    "vicreg": ("ecg_ptbxl_sub100_vicreg_tiny", {}),
    "jepa_vicreg": ("ecg_ptbxl_sub100_both_tiny", {}),
    "ema": ("ecg_ptbxl_sub100_ema_tiny", {}),
    "stem": ("ecg_ptbxl_sub100_stem_tiny", {}),
}
# What was tried on validation before the recipe was fixed.
_FIRST = {"loss.visible": 0.0, "train.batch_size": 64, "train.lr": 1.5e-3}
TRIED: dict[str, dict[str, Any]] = {
    "hidden_first": _FIRST,
    "hidden_relative": _FIRST | {"encoder.position": "relative"},
    "hidden_dilated": _FIRST | {"encoder.mixer": "dilated"},
    "jepa_b64": {"train.batch_size": 64, "train.lr": 1.5e-3},
    "jepa_lr": {"train.lr": 1.5e-3},
    "jepa_wide": {"target.dim": 128},
    "jepa_leads": {"augment.dropped": 0.7, "augment.lead_dropout": 1.0},
}
ARMS |= {name: ("ecg_ptbxl_sub100_tiny", changes) for name, changes in TRIED.items()}
UNTRAINED = {"untrained": "jepa", "untrained_stem": "stem"}  # by first layer
FOLDS = {
    "validation": {"data.test_fold": 9, "data.valid_fold": 8},
    "test": {"data.test_fold": 10, "data.valid_fold": 9},
}
Array = NDArray[Any]


def config_of(arm: str, seed: int, own: argparse.Namespace) -> ECGConfig:
    """The arm's recipe on the given file."""
    settings = {"data.path": str(own.file), "train.seed": seed, "train.threads": own.threads}
    recipe, more = ARMS[arm]
    return changed(api.recipe(recipe), settings | more | FOLDS[own.on])


# --- evidence ------------------------------------------------------------------------------------


def packed(scores: Array) -> str:
    """Ranks of (records, classes), ties kept, as text."""
    ranks = rankdata(scores, method="dense", axis=0).astype("<u2")
    return base64.b64encode(ranks.tobytes()).decode()


def write(path: Path, scores: dict[str, Array], truth: Array, facts: dict[str, Any]) -> None:
    """One run's file, atomically."""
    content = {
        **facts,
        "auc": {name: round(macro_auc(truth, s), 5) for name, s in scores.items()},
        "shape": list(truth.shape),
        "truth": base64.b64encode(np.packbits(truth.astype(bool)).tobytes()).decode(),
        "ranks": {name: packed(s) for name, s in scores.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1))
    os.replace(temporary, path)


def read(path: Path) -> tuple[dict[str, Array], Array, dict[str, list[float]]]:
    """Ranks by probe, labels, and the AUCs with few labels."""
    content = json.loads(path.read_text())
    shape = tuple(content["shape"])
    bits = np.unpackbits(np.frombuffer(base64.b64decode(content["truth"]), np.uint8))
    truth = bits[: shape[0] * shape[1]].reshape(shape)
    ranks = {
        name: np.frombuffer(base64.b64decode(text), "<u2").reshape(shape).astype(np.float64)
        for name, text in content["ranks"].items()
    }
    return ranks, truth, content["few"]


# --- scoring -------------------------------------------------------------------------------------


class Task:
    """Labelled records of the three parts and the bar's features, made once.

    Args:
        own: command line.
    """

    def __init__(self, own: argparse.Namespace) -> None:
        self.config = config_of("jepa", 0, own)
        adapter = ECGAdapter(self.config)
        task = task_labels(adapter.source.records, self.config.evaluate.task)
        assert task is not None
        self.parts = Parts.of(adapter.source, task)
        self.y, self.valid_y, self.truth = map(self.parts.labels, ("train", "valid", "test"))
        self.raw, self.bar = control_arms(self.parts, self.config)
        self.draws = {n: label_draws(self.y, n, DRAWS, 0) for n in COUNTS}
        self.crossed = ("", "mean_std_max", WIDEST) if own.on == "validation" else ()
        self.inside: dict[str, float] = {}

    def score(self, arm: Arm) -> tuple[dict[str, Array], dict[str, list[float]]]:
        """Scores by "linear@<pooling>", and macro AUC of each draw by number of labels."""
        scores, few = {}, {}
        held = len(self.valid_y)
        train, test = arm.seeds()[0]
        self.inside |= {
            f"{arm.name}@{p}": self.cross_validated(train[p]) for p in self.crossed if p in train
        }
        for pooling in arm.poolings:
            x, t = train[pooling], test[pooling]
            valid, rest = t[:held], t[held:]
            found = linear_multilabel(x, self.y, [valid, rest], self.valid_y)[0][1]
            scores[f"linear@{pooling}"] = found
            if pooling in ("", WIDEST):
                few |= {
                    str(count): [
                        macro_auc(self.truth, linear_multilabel(x[r], self.y[r], [rest])[0][0])
                        for r in rows
                    ]
                    for count, rows in self.draws.items()
                }
        return scores, few

    def cross_validated(self, x: Array) -> float:
        """Macro AUC inside the training folds: less noisy than one fold, for choices only."""
        fold = np.random.default_rng(0).permutation(len(x)) % 4
        scores = np.zeros(self.y.shape)
        for part in (fold == n for n in range(4)):
            scores[part] = linear_multilabel(x[~part], self.y[~part], [x[part]])[0][0]
        return round(macro_auc(self.y, scores), 5)

    def encoder(self, model: nn.Module, adapter: ECGAdapter, heads: bool) -> Any:
        """An encoder alone and beside the bar; with `heads` also attentive and fine-tuned."""
        features = [
            extract(model, lambda x: tokens_of(adapter.tokenizer, x), part, POOLINGS, 128)
            for part in (self.parts.train, self.parts.valid, self.parts.test)
        ]
        held = {p: np.concatenate([features[1][p], features[2][p]]) for p in POOLINGS}
        scores, few = self.score(Arm("encoder", features[0], held))
        narrow = Arm("encoder", {WIDEST: features[0][WIDEST]}, {WIDEST: held[WIDEST]})
        joined, with_bar = self.score(concatenate(narrow, self.bar))
        scores |= {f"bar+{name}": value for name, value in joined.items()}
        few |= {f"bar+{name}": value for name, value in with_bar.items()}
        for kind in ("attentive", "finetune") if heads else ():
            scores[kind] = self.head(kind, model, adapter)
        return scores, few

    def head(self, kind: str, model: nn.Module, adapter: ECGAdapter) -> Array:
        """Scores of an attentive probe or of the fine-tuned encoder."""
        config = adapter.config
        lengths = ("window", "stride")
        window, stride = (
            in_samples(config, f"evaluate.{name}", getattr(config.evaluate, name))
            for name in lengths
        )
        crops = RecordCrops(self.parts, adapter.tokenizer, window, stride)
        recipe, seed = head_recipe(kind, config), config.train.seed
        return fit_head(
            model, crops, self.y, self.valid_y, recipe, config.encoder.heads, seed, "cpu"
        )[0]


# --- tables --------------------------------------------------------------------------------------


def summary(folder: Path) -> str:
    """Macro AUC averaged over seeds with intervals over records, and paired differences."""
    runs: dict[tuple[str, float], list[Any]] = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        arm, budget, _ = path.stem.rsplit("-", 2)
        runs[arm, float(budget)].append(read(path))
    truth = next(iter(runs.values()))[0][1]
    counts = resamples(truth)
    drawn: dict[tuple[str, float, str], tuple[float, Array]] = {}
    for (arm, budget), seeds in runs.items():
        for probe in seeds[0][0]:
            ranks = [scores[probe] for scores, _, _ in seeds if probe in scores]
            drawn[arm, budget, probe] = (
                float(np.mean([macro_auc(truth, r) for r in ranks])),
                np.mean([resampled_macro(truth, r, counts) for r in ranks], axis=0),
            )

    def cell(key: tuple[str, float, str], other: tuple[str, float, str] | None = None) -> str:
        if key not in drawn or (other is not None and other not in drawn):
            return ""
        mean, values = drawn[key]
        if other is not None:
            mean, values = mean - drawn[other][0], values - drawn[other][1]
        low, high = np.quantile(values, [0.025, 0.975])
        sign = "+" if other is not None else ""
        return f"{mean:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"

    probes = [*(f"linear@{p}" for p in POOLINGS), f"bar+linear@{WIDEST}", "attentive", "finetune"]
    lines = [f"| arm | TFLOP | seeds | {' | '.join(probes)} |", "|" + "---|" * (3 + len(probes))]
    further = [
        "| arm | TFLOP | probe | - untrained | - bar | - vicreg at equal cost |",
        "|---" * 6 + "|",
    ]
    labels = ["| arm | TFLOP | labels | macro AUC, mean over draws | - bar |", "|---" * 5 + "|"]
    bar = ("bar", 0.0, "linear@")
    for (arm, budget), seeds in sorted(runs.items(), key=lambda item: (item[0][1], item[0][0])):
        shown = f"{budget:g}" if budget else ""
        cells = [cell((arm, budget, p)) for p in probes]
        cells[1] = cells[1] or cell((arm, budget, "linear@"))
        lines.append(f"| {arm} | {shown} | {len(seeds)} | {' | '.join(cells)} |")
        for probe in probes if budget else []:
            key = (arm, budget, probe)
            if key in drawn:
                bare = "untrained_stem" if arm == "stem" else "untrained"
                others = ((bare, 0.0, probe), bar, ("vicreg", budget, probe))
                found = [cell(key, o if o != key else None) if o != key else "" for o in others]
                further.append(f"| {arm} | {shown} | {probe} | {' | '.join(found)} |")
        for name in seeds[0][2]:
            ours = np.mean([few[name] for _, _, few in seeds], axis=0)
            theirs = np.array(runs["bar", 0.0][0][2][name.removeprefix("bar+")])
            mean, low, high = t_interval(ours - theirs) if arm != "bar" else (0.0, 0.0, 0.0)
            difference = f"{mean:+.3f} ({low:+.3f} to {high:+.3f})" if arm != "bar" else ""
            labels.append(f"| {arm} | {shown} | {name} | {ours.mean():.3f} | {difference} |")
    return "\n\n".join("\n".join(part) for part in (lines, further, labels)) + "\n"


def main() -> None:
    """Run what is missing, or make the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="made by jm prepare ptbxl")
    parser.add_argument("--on", choices=FOLDS, default="validation")
    parser.add_argument("--tflop", type=float, nargs="+", default=[10.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", default=[*CONTROLS, *ARMS], choices=[*CONTROLS, *ARMS])
    parser.add_argument("--heads", action="store_true", help="also attentive and fine-tuned")
    parser.add_argument("--summary", action="store_true", help="only print the tables")
    parser.add_argument("--work", type=Path, default=Path("runs/ecg_compare"))
    parser.add_argument("--results", type=Path, default=RESULTS / "ecg_compare")
    parser.add_argument("--threads", type=int, default=1)
    own = parser.parse_args()
    torch.set_num_threads(own.threads)
    folder = own.results / own.on
    if own.summary:
        text = summary(folder)
        (own.results / f"{own.on}.md").write_text(text)
        print(text)
        return
    task = Task(own)

    def run(name: str, compute: Callable[[], tuple[Any, dict[str, Any]]]) -> None:
        path = folder / f"{name}.json"
        if not path.exists():
            task.inside = {}
            (scores, few), facts = compute()
            more = {"few": few, "cross_validated": task.inside}
            write(path, scores, task.truth, about(own.threads) | facts | more)
            print(name, json.loads(path.read_text())["auc"], flush=True)

    def bare(name: str, seed: int) -> Any:
        adapter = ECGAdapter(config_of(UNTRAINED[name], seed, own))
        model = untrained(adapter.config, adapter, seed).eval()
        return task.encoder(model, adapter, own.heads), {}

    def trained(arm: str, seed: int, tflop: float) -> Any:
        config, place = config_of(arm, seed, own), own.work / f"{own.on}-{arm}-{tflop:g}-{seed}"
        place.mkdir(parents=True, exist_ok=True)
        adapter = ECGAdapter(config, place)
        jepa, facts = train_within(adapter, config, tflop, place)
        return task.encoder(jepa.teacher.eval(), adapter, own.heads), facts

    for name in (n for n in own.arms if n in CONTROLS):
        if name in UNTRAINED:
            for seed in own.seeds:
                run(f"{name}-0-{seed}", lambda n=name, s=seed: bare(n, s))
        else:
            run(f"{name}-0-0", lambda n=name: (task.score(getattr(task, n)), {}))
    for seed in own.seeds:
        for tflop in own.tflop:
            for arm in (n for n in own.arms if n not in CONTROLS):
                run(f"{arm}-{tflop:g}-{seed}", lambda a=arm, s=seed, b=tflop: trained(a, s, b))


if __name__ == "__main__":
    main()
