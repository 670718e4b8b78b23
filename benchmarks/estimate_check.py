"""Is `jm estimate` right? Real steps of small recipes on one CPU thread beside their estimates.

    python benchmarks/estimate_check.py --out benchmarks/results/estimate_check

The rate that one case sustains predicts the time of a step of every other case: another network,
another shape, another modality. `predicted / measured` of all pairs is the table; 1 is right, the
aim is 0.8 to 1.25. Cases take turns; the minimum of process CPU seconds counts, as other work on
the machine disturbs it least. Making the batches is timed apart, because estimates leave it out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from evidence import about

from jepa_modalities import api
from jepa_modalities.core.draw import Schedule
from jepa_modalities.core.registry import adapters
from jepa_modalities.settings import changed
from jepa_modalities.train.distributed import Processes
from jepa_modalities.train.engine import Trainer
from jepa_modalities.train.estimate import count, outline_of, seconds
from jepa_modalities.train.hardware import hardware
from jepa_modalities.train.optim import gradient_norm, guarded_step
from jepa_modalities.train.plan import plan

# All from data that come with the package, in fp32.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "tabular": ("tabular_breast_cancer", {}),
    "image": ("image_digits", {}),
    "image_wide": ("image_digits", {"encoder.dim": 192, "encoder.depth": 6, "encoder.heads": 6}),
    "ecg": ("ecg_synthetic", {}),
    "sar": ("sar_synthetic", {}),
}
ALONE = Processes(0, 1, torch.device("cpu"))


class Case:
    """One recipe, ready to be stepped.

    Args:
        name: in `CASES`.
        folder: for what the adapter keeps.
        steps: at most.
    """

    def __init__(self, name: str, folder: Path, steps: int) -> None:
        recipe, settings = CASES[name]
        fixed = {
            "train.precision": "fp32",
            "train.threads": 1,
            "train.steps": steps,
            "evaluate.enabled": False,
        }
        config = changed(api.recipe(recipe), {**settings, **fixed})
        self.outline = outline_of(config)
        self.work = count(self.outline)
        adapter = adapters[config.modality](config, folder)
        self.trainer = Trainer(adapter, config, folder, ALONE)
        self.trainer.model.train()
        schedule = Schedule(len(adapter), config.train.batch_size, config.train.seed)
        micro = plan(config.train, schedule, ALONE, 1, steps)
        self.feed = adapter.feed(micro, self.trainer.masker, ALONE.device)
        self.steps: list[float] = []
        self.batches: list[float] = []

    def step(self) -> None:
        """One optimiser step as the engine takes it, timed."""
        trainer = self.trainer
        begin = time.process_time()
        batch, masks = next(self.feed)
        ready = time.process_time()
        loss = trainer.model(batch, masks).loss
        loss.backward()
        norm = gradient_norm(trainer.parameters)
        guarded_step(trainer.optimizer, norm, trainer.config.train.clip)
        trainer.optimizer.zero_grad(set_to_none=True)
        trainer.jepa.update_teacher(0.004)
        self.steps.append(time.process_time() - ready)
        self.batches.append(ready - begin)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--steps", type=int, default=30, help="of each case")
    parser.add_argument("--out", type=Path, help="name of the .json file without ending")
    own = parser.parse_args(argv)
    torch.set_num_threads(1)
    place = hardware("cpu", 1, time.process_time)
    with tempfile.TemporaryDirectory() as top:
        cases = {}
        for name in own.cases:
            folder = Path(top) / name
            folder.mkdir()
            cases[name] = Case(name, folder, own.steps)
        for _ in range(own.steps):
            for case in cases.values():
                case.step()
    measured = {name: min(case.steps) for name, case in cases.items()}
    estimated = {n: max(seconds(c.work, c.outline.config, place)) for n, c in cases.items()}
    rows = {}
    for name, case in cases.items():
        rows[name] = {
            "recipe": CASES[name],
            "work": asdict(case.work),
            "step_seconds": {"min": measured[name], "all": case.steps},
            "batch_seconds_min": min(case.batches),
            "estimated_seconds": estimated[name],
            "predicted_over_measured": {
                # The other's measured time over its estimate corrects the rate.
                other: estimated[name] * measured[other] / estimated[other] / measured[name]
                for other in cases
                if other != name
            },
        }
        pairs = ", ".join(
            f"{ratio:.2f} by {other}"
            for other, ratio in rows[name]["predicted_over_measured"].items()
        )
        print(
            f"{name}: {case.work.flops / 1e9:.2f} GFLOP, step {1e3 * measured[name]:.1f} ms, "
            f"estimate / it {estimated[name] / measured[name]:.2f}; calibrated: {pairs}; "
            f"batch {1e3 * min(case.batches):.1f} ms"
        )
    if own.out is not None:
        content = about(1) | {"hardware": asdict(place), "cases": rows}
        own.out.parent.mkdir(parents=True, exist_ok=True)
        Path(f"{own.out}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
