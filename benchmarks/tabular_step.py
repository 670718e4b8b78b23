"""Time of a pretraining epoch on Adult, and of masker and step against a per-sample formulation.

    python benchmarks/tabular_step.py --out benchmarks/results/tabular_step_cpu

Both sides take turns in one process on the same rows; minima of CPU seconds count, and ratios, as
other work on the machine disturbs them least. The per-sample formulation is the published kind: a
Python loop over rows draws permutations, and the network runs on the same stacked indices.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from evidence import about
from tabular_arm import TABLES, Data
from torch import Generator, Tensor

from jepa_modalities.adapters.base import build_jepa, build_masker
from jepa_modalities.adapters.tabular.adapter import TabularAdapter
from jepa_modalities.core.draw import Draw
from jepa_modalities.core.masking import Masks
from jepa_modalities.estimator.pretraining import configuration, in_memory
from jepa_modalities.train.optim import gradient_norm, guarded_step, optimiser

STEPS = 20  # masks of a step have one size, the next step's another


class LoopedMasker:
    """Masks row by row: a shuffle for the context, one more for every target (spec of T-JEPA).

    Args:
        features: tokens per row.
        context: smallest and largest number of context tokens.
        target: smallest and largest number of tokens of a target.
        num_targets: targets per row.
    """

    def __init__(
        self, features: int, context: tuple[int, int], target: tuple[int, int], num_targets: int
    ) -> None:
        self.features, self.num_targets = features, num_targets
        self.context, self.target = context, target

    def __call__(self, batch_size: int, generator: Generator, valid: Tensor | None = None) -> Masks:
        """The same distribution as the vectorised masker, other draws."""

        def size(low: int, high: int) -> int:
            return int(torch.randint(low, high + 1, (1,), generator=generator))

        seen = size(*self.context)
        count = min(size(*self.target), self.features - seen)
        contexts, targets = [], []
        for _ in range(batch_size):
            order = torch.randperm(self.features, generator=generator)
            contexts.append(order[:seen])
            rest = order[seen:]
            blocks = []
            for _ in range(self.num_targets):
                place = torch.randperm(len(rest), generator=generator)[:count]
                blocks.append(rest[place])
            targets.append(torch.stack(blocks))
        return Masks(torch.stack(contexts)[:, None], torch.stack(targets))


def looped(masker: Any) -> LoopedMasker:
    """The per-sample formulation of a `FeatureMasker`."""
    return LoopedMasker(masker.num_features, masker.context, masker.target, masker.num_targets)


class Step:
    """Everything that one optimiser step does, with a masker of choice.

    Args:
        adapter: open table.
        masker: draws the masks.
        device: where.
    """

    def __init__(self, adapter: TabularAdapter, masker: Any, device: torch.device) -> None:
        self.adapter, self.masker, self.device = adapter, masker, device
        adapter.tokenizer.to(device)
        self.jepa = build_jepa(adapter.config, adapter).to(device).train()
        self.optimiser, self.number = optimiser(self.jepa), 0
        for group in self.optimiser.param_groups:
            group["lr"] = 1e-3
        self.parameters = [p for p in self.jepa.parameters() if p.requires_grad]

    def __call__(self) -> None:
        """One step on the next rows."""
        size, rows = self.adapter.config.train.batch_size, len(self.adapter)
        self.number += 1
        ids = (torch.arange(size) + self.number * size) % rows
        draw = Draw.of_step(0, self.number, size, 0, size)
        batch, masks = next(self.adapter.feed([(ids, draw)], self.masker, self.device))
        output = self.jepa(batch, masks)
        output.loss.backward()
        guarded_step(self.optimiser, gradient_norm(self.parameters), 5.0)
        self.optimiser.zero_grad(set_to_none=True)
        self.jepa.update_teacher(0.004)
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def fastest(runs: dict[str, Callable[[], Any]], rounds: int, clock: Any) -> dict[str, float]:
    """Smallest time of each, taking turns."""
    best = dict.fromkeys(runs, float("inf"))
    for function in runs.values():
        function()
    for _ in range(rounds):
        for name, function in runs.items():
            start = clock()
            function()
            best[name] = min(best[name], clock() - start)
    return best


def several(step: Step) -> None:
    """So many steps that the sizes of their masks come near to the mean."""
    for _ in range(STEPS):
        step()


def measure(name: str, own: argparse.Namespace, num_targets: int) -> dict[str, Any]:
    """Masker, step and epoch of one table."""
    data = Data(name, "val", own.limit)
    config = configuration({"mask.num_targets": num_targets, "train.batch_size": own.batch}, None)
    frame = data.frame(0).reset_index(drop=True)
    adapter = TabularAdapter(config, None, in_memory(frame, data.table.categorical))
    fast = build_masker(adapter.config, adapter.geometry)
    slow = looped(fast)
    clock = time.perf_counter if own.device.startswith("cuda") else time.process_time
    generator = Generator().manual_seed(0)
    masks = fastest(
        {
            "vectorised": partial(fast, own.batch, generator),  # type: ignore[arg-type]
            "per sample": partial(slow, own.batch, generator),
        },
        own.rounds,
        clock,
    )
    place = torch.device(own.device)
    runs = {
        name: partial(several, Step(adapter, masker, place))
        for name, masker in (("vectorised", fast), ("per sample", slow))
    }
    steps = {name: spent / STEPS for name, spent in fastest(runs, own.rounds, clock).items()}
    return {
        "table": name,
        "features": adapter.geometry.num_tokens,
        "rows": len(adapter),
        "batch": own.batch,
        "targets": num_targets,
        "masker_seconds": masks,
        "masker_ratio": masks["per sample"] / masks["vectorised"],
        "step_seconds": steps,
        "step_ratio": steps["per sample"] / steps["vectorised"],
        "epoch_seconds": steps["vectorised"] * len(adapter) / own.batch,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", nargs="+", default=["adult", "jannis_part"], choices=TABLES)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--targets", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, help="rows per split, for quick checks")
    parser.add_argument("--out", type=Path, help="name of the .json file without ending")
    own = parser.parse_args(argv)
    torch.set_num_threads(own.threads)
    found = []
    for name in own.tables:
        for count in own.targets:
            row = measure(name, own, count)
            found.append(row)
            print(
                f"{name}, {row['features']} features, {count} target(s), batch {own.batch}: masks "
                f"{1e3 * row['masker_seconds']['vectorised']:.2f} ms, per sample "
                f"{row['masker_ratio']:.1f} x; step "
                f"{1e3 * row['step_seconds']['vectorised']:.1f} ms, with such masks "
                f"{row['step_ratio']:.2f} x; epoch of {row['rows']} rows "
                f"{row['epoch_seconds']:.1f} s",
                flush=True,
            )
    if own.out is not None:
        content = about(own.threads) | {"place": own.device, "results": found}
        own.out.parent.mkdir(parents=True, exist_ok=True)
        Path(f"{own.out}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
