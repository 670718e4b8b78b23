"""Training within a budget of counted FLOPs, so that methods and busy machines compare."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from evidence import about, write_evidence
from torch.utils.flop_counter import FlopCounterMode

from jepa_modalities.core import block
from jepa_modalities.core.draw import Schedule
from jepa_modalities.settings import changed
from jepa_modalities.train.distributed import Processes
from jepa_modalities.train.engine import Trainer
from jepa_modalities.train.log import Log, read
from jepa_modalities.train.plan import plan

NUM_LOOKS = 8  # of the collapse monitor over a run


def step_flops(trainer: Trainer, adapter: Any) -> float:
    """FLOPs of one optimiser step, the mean over five masks drawn at five stages of training.

    Attention's own products are left out at every length: PyTorch does not count the fused kernel.
    """
    train = trainer.config.train
    schedule = Schedule(len(adapter), train.batch_size, train.seed)
    micro = plan(train, schedule, trainer.peers, 1, 5)
    with FlopCounterMode(display=False) as counter, mock.patch.object(block, "SHORT", 0):
        feed = adapter.feed(micro, trainer.masker, trainer.peers.device)
        for stage, (batch, masks) in enumerate(feed):
            if trainer.jepa.target is not None:
                trainer.jepa.target.schedule(0.1 + 0.2 * stage)
            loss = trainer.jepa(batch, masks).loss
            assert loss is not None
            loss.backward()
    trainer.jepa.zero_grad(set_to_none=True)
    return counter.get_total_flops() / 5


def portable(path: str) -> str:
    """Names of files only, selectors kept: folders differ from machine to machine."""
    return ",".join(Path(part).name for part in path.split(","))


def train_within(
    adapter: Any, config: Any, tflop: float, folder: Path, settings: dict[str, Any] | None = None
) -> tuple[Any, dict[str, Any]]:
    """Train as many steps as fit into the budget; goes on from a checkpoint.

    Args:
        adapter: with its data open.
        config: of the run.
        tflop: budget of forward and backward, the teacher's pass included; not the monitor.
        folder: run folder.
        settings: further changes of the configuration.

    Returns:
        The trained model, and the facts of the run for its evidence file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    alone = Processes(0, 1, torch.device("cpu"))
    short = Trainer(adapter, changed(config, {"train.steps": 2}), folder, alone)
    flops = step_flops(short, adapter)
    steps = round(tflop * 1e12 / flops)
    looks = {"train.steps": steps, "train.monitor_every": max(steps // NUM_LOOKS, 1)}
    trainer = Trainer(adapter, changed(config, looks | (settings or {})), folder, alone)
    if (folder / "checkpoint").is_dir():
        trainer.resume()
    log = Log(folder)
    try:
        trained = trainer.run(log)
    finally:
        log.close()
    records = read(folder)
    content = asdict(trainer.config)
    paths = {k: portable(v) for k, v in content["data"].items() if k.endswith("path")}
    content["data"] |= paths
    return trained.jepa, {
        "steps": steps,
        "gflop_per_step": flops / 1e9,
        "loss": records[-1]["loss"],
        "rankme": [[r["step"], r["collapse/rankme"]] for r in records if "collapse/rankme" in r],
        "verdict": records[-1].get("verdict"),
        "samples_per_second": trained.samples_per_second,
        "config": content,
    }


def once(path: Path, threads: int, compute: Callable[[], tuple[Any, dict[str, Any]]]) -> None:
    """Write the evidence of one run unless its file is there."""
    if path.exists():
        return
    right, facts = compute()
    write_evidence(path, right, about(threads) | facts)
    best = max(np.mean(v) for k, v in right.items() if k.startswith("ridge"))
    print(f"{path.stem}: best {best:.3f} {json.dumps(facts.get('verdict'))}", flush=True)
