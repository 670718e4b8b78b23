"""Every stored table: raw columns, bars, untrained and pretrained encoders, under several heads.

    python benchmarks/tabular_suite.py --steps 10000 --seeds 3 --score test --few

Every cell (table, arm, head) is a file in the work folder, so an interrupted suite goes on where it
was, and `--summary-only` writes the tables of what is there. Tables and heads that an earlier run
left in the file of `--out` stay in it, so they may be done on different days. Develop with `--score
val`; test rows are read with `--score test` only.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabular_arm import (
    TABLES,
    Array,
    Data,
    Triple,
    Variant,
    keep_features,
    kept_features,
    parse_variant,
    side_by_side,
    untrained,
)
from tabular_summary import score_cell, write_summary

from jepa_modalities.adapters.tabular.tokenizer import pack
from jepa_modalities.eval.head.boosting import boosting
from jepa_modalities.eval.head.dcn import dcn
from jepa_modalities.eval.head.finetune import DEFAULT, finetune
from jepa_modalities.eval.head.fraction import fractions_of, label_curve
from jepa_modalities.eval.head.ft_transformer import ft_transformer
from jepa_modalities.eval.head.linear import linear
from jepa_modalities.eval.head.mlp import mlp
from jepa_modalities.eval.head.resnet import resnet
from jepa_modalities.eval.head.task import Predictions, Task
from jepa_modalities.eval.head.train import Recipe
from jepa_modalities.export.encoder import load_encoder
from jepa_modalities.train.checkpoint import write_json

# The validation rows choose among these.
GRID = (Recipe(lr=1e-3, dropout=0.1), Recipe(lr=1e-3, dropout=0.3), Recipe(lr=3e-4, dropout=0.1))
BARS = ("ple", "nystroem", "trees")


def heads(device: str, quick: bool) -> dict[str, Callable[..., Predictions]]:
    """name -> (task, seeds) -> Predictions."""
    grid = (Recipe(epochs=3),) if quick else GRID
    return {
        "linear": linear,
        "mlp": partial(mlp, recipes=grid, device=device),
        "boosting": boosting,
        "dcn": partial(dcn, recipes=grid, device=device),
        "resnet": partial(resnet, recipes=grid, device=device),
        "ft_transformer": partial(ft_transformer, recipes=grid[-1:], device=device),
    }


def recipe_of(found: Predictions) -> Recipe:
    """The recipe among several that a head chose."""
    return Recipe(**{field.name: found.chosen[field.name] for field in fields(Recipe)})


class Suite:
    """The cells of one table.

    Args:
        data: the table.
        own: the command line.
        variants: learned arms; the first is compared.
    """

    def __init__(self, data: Data, own: argparse.Namespace, variants: Sequence[Variant]) -> None:
        self.data, self.own, self.variants = data, own, variants
        self.seeds = list(range(own.seeds))
        self.home = Path(own.work) / data.name
        self.heads = heads(own.device, own.quick)
        self._made: dict[tuple[str, int], Triple] = {}

    def features(self, arm: str, seed: int) -> Triple:
        """Features of an arm; the last few stay in memory."""
        if (arm, seed) not in self._made:
            while len(self._made) > 6:
                self._made.pop(next(iter(self._made)))
            self._made[arm, seed] = self._features(arm, seed)
        return self._made[arm, seed]

    def _features(self, arm: str, seed: int) -> Triple:
        first, plus, second = arm.partition("+")
        if plus:
            return side_by_side(self.features(first, seed), self.features(second, seed))
        if arm.startswith("raw_"):
            return self.data.raw(arm.removeprefix("raw_"))
        if arm in BARS:
            return self.data.bar(arm, self.width, seed)
        if arm.startswith("peer_"):
            return self._peer(arm, seed)
        return self.data.encoder(*self._encoder(arm, seed))[0]

    def _peer(self, arm: str, seed: int) -> Triple:
        """Features of a SCARF or VIME network, which is trained once for all heads."""
        place = self.home / f"{arm}_{seed}--{self.data.score}.npz"
        if not place.exists():
            from tabular_peer import peer_features

            made = peer_features(self.data, arm.removeprefix("peer_"), self.own.steps, seed)
            keep_features(place, made)
        return kept_features(place)

    def _encoder(self, arm: str, seed: int) -> tuple[Variant, int, str, Path]:
        found = {v.name: v for v in self.variants} | {"untrained": untrained(self.variants[0])}
        return found[arm], seed, self.own.device, self.home / f"{arm}_{seed}"

    @property
    def width(self) -> int:
        """Features of the untrained encoder, which the bars get too."""
        return int(self.features("untrained", 0)[0].shape[1])

    def varies(self, arm: str) -> bool:
        """Whether an arm's features have a seed of their own."""
        return not (arm.startswith("raw_") or arm in ("ple", "columns"))

    def cell(self, arm: str, head: str) -> dict[str, Array]:
        """Predictions of a cell, computed once and kept."""
        place = self.home / "cells" / f"{arm}--{head}--{self.data.score}.npz"
        if not place.exists():
            start = time.perf_counter()
            found = self._predictions(arm, head)
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary = place.with_suffix(".writing.npz")
            chosen = json.dumps([item.chosen for item in found], default=str)
            width = 0 if arm == "columns" else self.features(arm, 0)[0].shape[1]
            np.savez_compressed(
                temporary,
                val=np.concatenate([item.val for item in found]).astype(np.float32),
                test=np.concatenate([item.test for item in found]).astype(np.float32),
                chosen=np.array(chosen),
                width=np.array(width),
                seconds=np.array(time.perf_counter() - start),
            )
            os.replace(temporary, place)
            print(f"{self.data.name:18s} {arm:18s} {head:10s} {self._line(place)}", flush=True)
        with np.load(place) as file:
            return {name: file[name] for name in file.files}

    def _line(self, place: Path) -> str:
        with np.load(place) as file:
            value = score_cell(self.data, file["test"])
            return f"{value.mean():.4f} +- {value.std():.4f}  {float(file['seconds']):.0f} s"

    def _predictions(self, arm: str, head: str) -> list[Predictions]:
        if head == "finetune":
            return [self._finetuned(arm, seed) for seed in self.seeds]
        fit = self.heads[head]
        if arm == "columns":
            parts, codes = self.data.columns()
            return [boosting(self._task(parts), self.seeds, categorical=codes)]
        if not self.varies(arm):
            return [fit(self._task(self.features(arm, 0)), self.seeds)]
        first, *others = self.seeds
        found = [fit(self._task(self.features(arm, first)), (first,))]
        # The recipe that the first seed's validation rows chose stands for the other seeds.
        more = {"recipes": (recipe_of(found[0]),)} if "lr" in found[0].chosen else {}
        for seed in others:
            found.append(fit(self._task(self.features(arm, seed)), (seed,), **more))
        return found

    def _finetuned(self, arm: str, seed: int) -> Predictions:
        """The whole encoder learns on, from pretrained or from untrained weights."""
        parts = self.features(arm, seed)  # there is an encoder file from here on
        model = load_encoder(self.home / f"{arm}_{seed}.safetensors")
        tokenizer: Any = model.tokenizer.to(self.own.device)
        packed = [pack(tokenizer.preprocess.transform(self.data.frame(n))) for n in range(3)]
        recipe = replace(DEFAULT, epochs=3) if self.own.quick else DEFAULT
        triple = (packed[0], packed[1], packed[2])
        task = self._task(parts)
        return finetune(
            task, model.encoder, tokenizer, triple, (seed,), recipe, device=self.own.device
        )

    def _task(self, parts: Triple) -> Task:
        data = self.data
        return Task(parts[0], data.y, parts[1], data.val_y, parts[2], data.regression)

    def best_on_val(self, arms: Sequence[str], head: str) -> str:
        """The arm whose validation predictions score best under a head."""
        sign = 1 if self.data.regression else -1
        value = {a: score_cell(self.data, self.cell(a, head)["val"], val=True).mean() for a in arms}
        return min(arms, key=lambda arm: sign * value[arm])

    def run(self) -> dict[str, Any]:
        """All cells of the table, and what stands for `raw` and `bar` under each head."""
        chosen: dict[str, dict[str, str]] = {}
        learned = [variant.name for variant in self.variants]
        for head in self.own.heads:
            if head == "finetune":
                for arm in ("untrained", *learned):
                    self.cell(arm, head)
                continue
            for arm in ("raw_standard", "raw_quantile", *BARS, "untrained", *learned):
                self.cell(arm, head)
            for peer in self.own.peers:
                self.cell(f"peer_{peer}", head)
            bar = self.best_on_val(BARS, head)
            chosen[head] = {
                "raw": self.best_on_val(("raw_standard", "raw_quantile"), head),
                "bar": bar,
            }
            for arm in ("untrained", *(v.name for v in self.variants if v.steps)):
                self.cell(f"{arm}+ple", head)
                self.cell(f"{arm}+{bar}", head)
        if "boosting" in self.own.heads:
            self.cell("columns", "boosting")
        if self.own.few:
            raw = self.best_on_val(("raw_standard", "raw_quantile"), "linear")
            for arm in (raw, *BARS, "untrained", *learned, f"{learned[0]}+ple"):
                self.few(arm)
        return chosen

    def few(self, arm: str) -> Mapping[str, Any]:
        """A linear head with few labels: per fraction the score of each (seed, draw).

        Piecewise-linear inputs have 16 bins here: what all labels choose is too fine for few.
        """
        place = self.home / "few" / f"{arm}--{self.data.score}.json"
        if not place.exists():
            data, wanted = self.data, fractions_of(len(self.data.y))
            curves = []
            for seed in self.seeds if self.varies(arm) else [0]:
                parts = [
                    self.data.piecewise if name == "ple" else self.features(name, seed)
                    for name in arm.split("+")
                ]
                x, _, t = parts[0] if len(parts) == 1 else side_by_side(*parts)
                curves.append(label_curve(x, data.y, t, data.truth, data.regression, wanted))
            found = {
                f"{part:.6g}": {
                    "rows": curves[0][part].rows,
                    "values": [curve[part].values.tolist() for curve in curves],
                }
                for part in wanted
            }
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary = place.with_suffix(".writing")
            temporary.write_text(json.dumps(found))
            os.replace(temporary, place)
        content: dict[str, Any] = json.loads(place.read_text())
        return content


def check_work(own: argparse.Namespace, variants: Sequence[Variant]) -> None:
    """Refuse a work folder whose cells were made with other settings.

    Raises:
        SystemExit: naming the differences.
    """
    now = {
        "seeds": own.seeds,
        "limit": own.limit,
        "quick": own.quick,
        "variants": {v.name: [v.steps, dict(v.settings), dict(v.arguments)] for v in variants},
    }
    place = Path(own.work) / "settings.json"
    if place.exists():
        old = json.loads(place.read_text())
        known = old["variants"]
        same = all(old[k] == now[k] for k in ("seeds", "limit", "quick")) and all(
            known.get(name, value) == value
            for name, value in json.loads(json.dumps(now["variants"])).items()
        )
        if not same:
            raise SystemExit(f"{own.work} was begun with {old}, now {now}; give another --work")
        now["variants"] = {**known, **now["variants"]}
    place.parent.mkdir(parents=True, exist_ok=True)
    write_json(place, now)  # several processes may work in one folder


def main(argv: Sequence[str] | None = None) -> None:
    """Run the cells that are missing and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=TABLES)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--score", choices=("val", "test"), default="val")
    parser.add_argument("--heads", nargs="+", default=["linear", "mlp", "boosting"])
    parser.add_argument(
        "--variant",
        action="append",
        help="learned arm NAME:key=value;... (see tabular_arm.parse_variant), with steps=0 one "
        "more untrained control; the first is compared; default: jepa",
    )
    parser.add_argument("--peers", nargs="*", default=[], choices=("scarf", "vime"))
    parser.add_argument("--few", action="store_true", help="also few labels")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, help="rows per split, for quick checks")
    parser.add_argument("--quick", action="store_true", help="heads of 3 epochs, for quick checks")
    parser.add_argument("--work", default="runs/tabular_suite")
    parser.add_argument("--out", type=Path, help="name of the .json and .md files")
    parser.add_argument("--summary-only", action="store_true")
    own = parser.parse_args(argv)
    torch.set_num_threads(own.threads)
    variants = [parse_variant(text, own.steps) for text in own.variant or ["jepa"]]
    known = [*heads("cpu", True), "finetune"]
    if unknown := [head for head in own.heads if head not in known]:
        raise SystemExit(f"heads {unknown} are not known; there are {known}")
    check_work(own, variants)
    suites = []
    for name in own.tables:
        suite = Suite(Data(name, own.score, own.limit), own, variants)
        if not own.summary_only:
            suite.run()
        suites.append(suite)
        write_summary(suites, own)


if __name__ == "__main__":
    main()
