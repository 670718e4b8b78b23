"""What the loop will do: how many steps, which rows and random numbers, in which precision."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from jepa_modalities.config import TrainConfig
from jepa_modalities.core.draw import Draw, Schedule
from jepa_modalities.train.distributed import Processes


def num_steps(config: TrainConfig, samples: int) -> tuple[int, int]:
    """Optimiser steps of the run and of the warm-up.

    A share keeps its meaning when the run is made shorter or longer; steps and epochs of warm-up
    that do not fit are cut to all steps but the last, with a warning.
    """
    per_epoch = samples / config.batch_size
    total = config.steps or max(math.ceil(config.epochs * per_epoch), 1)
    if config.warmup_steps is not None:
        warmup = config.warmup_steps
    elif config.warmup is not None:
        warmup = round(config.warmup * total)
    else:
        warmup = round(config.warmup_epochs * per_epoch)
    if warmup >= total > 1:
        warnings.warn(
            f"a warm-up of {warmup} steps fills this run of {total}: the learning rate will only "
            f"rise; give train.warmup, a share of the run, e.g. 0.05",
            stacklevel=2,
        )
    return total, min(warmup, total - 1)


def precision(config: TrainConfig, device: torch.device) -> torch.dtype:
    """Type of the matrix products; weights, attention on the CPU and statistics stay fp32."""
    choice = config.precision
    if device.type == "cuda":
        return torch.float32 if choice == "fp32" else torch.bfloat16
    # Without such instructions bf16 on a CPU can be ten times slower than fp32.
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    use = choice == "bf16" or (choice == "fast" and native)
    return torch.bfloat16 if use else torch.float32


def plan(
    config: TrainConfig, schedule: Schedule, peers: Processes, first: int, total: int
) -> Iterator[tuple[Tensor, Draw]]:
    """Row and random numbers of this process's micro-batches, a function of (seed, step).

    Both are drawn for the global batch and then cut: any number of micro-batches sees the same
    rows, masks (with their trimmed lengths) and crops.
    """
    micro = config.batch_size // config.accumulate
    low, high = peers.slice(micro)
    parts = [(part * micro + low, part * micro + high) for part in range(config.accumulate)]
    for step in range(first, total + 1):
        rows = schedule.rows(step)
        for draw in Draw.parts(config.seed, step, config.batch_size, parts):
            yield rows[draw.start : draw.stop], draw


def check(config: TrainConfig, peers: Processes) -> None:
    """Complain about settings of the loop that cannot work.

    Raises:
        ValueError: naming the numbers.
    """
    least = {
        "batch_size": 1,
        "accumulate": 1,
        "steps": 1,
        "log_every": 1,
        "checkpoint_every": 1,
        "monitor_every": 1,
        "warmup_steps": 0,
        "workers": 0,
    }
    for name, low in least.items():
        value = getattr(config, name)
        if value is not None and value < low:
            raise ValueError(f"train.{name} = {value}: give at least {low}")
    if config.warmup is not None and not 0 <= config.warmup < 1:
        raise ValueError(f"train.warmup = {config.warmup}: give a share from 0 to below 1")
    if not all(0 <= momentum <= 1 for momentum in config.ema):
        raise ValueError(f"train.ema = {config.ema}: momenta lie between 0 and 1")
    if config.clip is not None and not config.clip > 0:
        raise ValueError(f"train.clip = {config.clip}: give more than 0, or nothing")
    if config.steps is None and config.epochs <= 0:
        raise ValueError(f"train.epochs = {config.epochs}: give more than 0")
    parts = peers.world * config.accumulate
    if config.batch_size % parts:
        raise ValueError(
            f"train.batch_size = {config.batch_size} cannot be split over {peers.world} processes "
            f"x {config.accumulate} micro-batches; choose a multiple of {parts}"
        )
