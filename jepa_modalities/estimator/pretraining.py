"""A table in memory -> a pretrained encoder, through the library's own training loop."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from jepa_modalities.adapters.base import build_jepa
from jepa_modalities.adapters.tabular.adapter import TabularAdapter
from jepa_modalities.adapters.tabular.bar import one_hot
from jepa_modalities.adapters.tabular.bin import bin_edges, piecewise_linear
from jepa_modalities.adapters.tabular.preprocess import TableArrays
from jepa_modalities.api import recipe
from jepa_modalities.core.threads import threads
from jepa_modalities.data.table import Table
from jepa_modalities.export.encoder import PretrainedEncoder
from jepa_modalities.settings import changed
from jepa_modalities.train.distributed import Processes, pick_device
from jepa_modalities.train.engine import Interrupted, Trainer

# Steps that are timed before a run with a time limit; the first ones are slower.
TIMED = 20


@dataclass(frozen=True)
class Inputs:
    """Piecewise-linear codes of numbers, indicators of gaps, one-hot categories.

    Attributes:
        edges: of each numeric feature's bins.
        gappy: numeric features that have gaps in the training rows, (numeric features,).
        cardinalities: codes of each categorical feature.
        names: of the columns made, (width,).
    """

    edges: tuple[NDArray[np.float64], ...]
    gappy: NDArray[np.bool_]
    cardinalities: tuple[int, ...]
    names: tuple[str, ...]

    def __call__(self, arrays: TableArrays) -> NDArray[np.float32]:
        """(rows, width), float32."""
        gaps = np.isnan(arrays.numeric[:, self.gappy]).astype(np.float32)
        parts = [
            piecewise_linear(arrays.numeric, self.edges),
            gaps,
            one_hot(arrays, self.cardinalities),
        ]
        return np.concatenate(parts, axis=1)


@dataclass(frozen=True)
class Pretraining:
    """What `pretrain_table` leaves.

    Attributes:
        encoder: the teacher with its preprocessing, in eval mode.
        inputs: the table's columns as a linear head likes them.
        steps: optimiser steps done.
        verdict: last sentence of the collapse monitor; empty where nothing was trained.
        monitor: its last statistics, and those before training with `_start`.
    """

    encoder: PretrainedEncoder
    inputs: Inputs
    steps: int
    verdict: str
    monitor: dict[str, float]


def configuration(settings: Mapping[str, Any], more: Mapping[str, Any] | None) -> Any:
    """The recipe `tabular` with dotted settings, those of `more` last; nothing is evaluated.

    Raises:
        ValueError: an unknown name.
    """
    config = changed(recipe("tabular"), {**settings, "evaluate.enabled": False, **(more or {})})
    if config.train.steps is None:
        raise ValueError("train.steps = None: a table is pretrained for a number of steps")
    total = max(int(config.train.steps), 1)
    schedule = {
        "train.monitor_every": max(total // 10, 1),
        "train.checkpoint_every": total,  # only the last step's is written, beside nothing else
    }
    wanted = {name: value for name, value in schedule.items() if name not in (more or {})}
    return changed(config, wanted)


def in_memory(frame: Any, categorical: tuple[str, ...]) -> Table:
    """A DataFrame without target as a table whose rows are all for training."""
    rows = len(frame)
    split = np.full(rows, "train")
    return Table(frame, None, np.zeros(rows, dtype=bool), split, "", categorical)


def pretrain_table(
    config: Any, table: Table, time_limit: float | None = None, console: Console | None = None
) -> Pretraining:
    """Pretrain on all rows of a table, in a temporary run folder that is removed again.

    Args:
        config: from `configuration`; `train.steps` 0 leaves the encoder as it was drawn.
        table: see `in_memory`.
        time_limit: seconds; the first steps are timed and the run is made as long as fits, with its
            whole schedule.
        console: for the display; None is quiet.

    Raises:
        ValueError: settings or data that cannot work, before anything is trained.
        KeyboardInterrupt: Ctrl-C.
    """
    adapter = TabularAdapter(config, None, table)
    config = adapter.config
    if console is not None:
        for line in adapter.about:
            console.print(line, soft_wrap=True, markup=False, highlight=False)
    with threads(config.train.threads):
        if config.train.steps and time_limit is not None:
            config = _within(config, adapter, time_limit)
        encoder, verdict, monitor = _trained(config, adapter, console)
    pretrained = PretrainedEncoder(config, adapter.tokenizer, encoder).requires_grad_(False).eval()
    return Pretraining(pretrained, inputs_of(adapter), config.train.steps, verdict, monitor)


def inputs_of(adapter: Any) -> Inputs:
    """The piecewise-linear inputs that belong to an open table."""
    process = adapter.preprocess
    train = process.transform(adapter.table.frame.iloc[adapter.table.rows("train")])
    gappy = np.isnan(train.numeric).any(axis=0)
    edges = tuple(bin_edges(train.numeric, adapter.config.objective.bins))
    names = [
        f"{name}:bin{number}"
        for name, edge in zip(process.numeric_names, edges, strict=True)
        for number in range(len(edge) - 1)
    ]
    names += [f"{process.numeric_names[at]}:missing" for at in np.flatnonzero(gappy)]
    for column in (c for c in process.columns if c.kind == "category"):
        names += [f"{column.name}={level}" for level in ("<unknown>", "<missing>")]
        # A level of that very name keeps it, in quotes.
        names += [f"{column.name}={_quoted(level)}" for level in column.levels]
    return Inputs(edges, gappy, tuple(process.cardinalities), tuple(names))


def _quoted(level: str) -> str:
    return repr(level) if level in ("<unknown>", "<missing>") else level


def _trained(
    config: Any, adapter: Any, console: Console | None
) -> tuple[torch.nn.Module, str, dict[str, float]]:
    place = pick_device(config.train.device)
    if not config.train.steps:
        adapter.tokenizer.to(place)
        return build_jepa(config, adapter).teacher.to(place), "", {}
    peers = Processes(0, 1, place)
    with tempfile.TemporaryDirectory(prefix="jepa_modalities-") as folder:
        trainer = Trainer(adapter, config, Path(folder), peers, console)
        try:
            trained = trainer.run(None)
        except Interrupted:
            raise KeyboardInterrupt from None
        monitor = {f"{name}_start": value for name, value in trained.start.items()}
        last = trainer.monitor.look(trained.jepa.teacher, None)
        prefix = "collapse/"
        monitor |= {k.removeprefix(prefix): v for k, v in last.items() if k.startswith(prefix)}
    return trained.jepa.teacher, trained.verdict, monitor


def _within(config: Any, adapter: Any, seconds: float) -> Any:
    """The configuration with as many steps as the time allows, at least 1."""
    few = min(TIMED, config.train.steps)
    quick = {"train.steps": few, "train.warmup_steps": 0, "train.monitor_every": few}
    peers = Processes(0, 1, pick_device(config.train.device))
    with tempfile.TemporaryDirectory(prefix="jepa_modalities-") as folder:
        short = changed(config, quick)
        trained = Trainer(adapter, short, Path(folder), peers).run(None)
    each = config.train.batch_size / max(trained.samples_per_second, 1e-9)
    # A tenth for the monitor and for steps that take longer than the first ones.
    steps = max(int(0.9 * seconds / each) - few, 1)
    if steps >= config.train.steps:
        return config
    warnings.warn(
        f"time_limit = {seconds} s is enough for {steps} of {config.train.steps} steps",
        stacklevel=4,
    )
    shorter = {
        "train.steps": steps,
        "train.monitor_every": max(steps // 10, 1),
        "train.checkpoint_every": steps,
    }
    return changed(config, shorter)
