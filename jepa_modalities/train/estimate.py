"""What a run costs, before anything is started: FLOPs, parameters, memory, hours.

Exact: parameters; FLOPs of all matrix products, convolutions and attention of one step, counted on
the real modules on the meta device (nothing is computed or allocated), for the global batch and
masks that the run's own masker drew. Expected: those masks are, of the first steps', the ones whose
numbers of tokens lie nearest to their mean. By formula: activations. Assumed: the share of a
device's peak that a step reaches. Left out: the looks of the monitor, checkpoints and probes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from jepa_modalities.adapters.base import build_jepa, build_masker
from jepa_modalities.adapters.outline import Outline
from jepa_modalities.core.draw import Draw
from jepa_modalities.core.jepa import JEPA, JEPAOutput
from jepa_modalities.core.masking import Masks
from jepa_modalities.core.registry import modalities
from jepa_modalities.train.distributed import Processes
from jepa_modalities.train.hardware import Hardware
from jepa_modalities.train.plan import check, num_steps, precision

NUM_DRAWS = 32  # masks whose lengths are averaged
NUM_STAGES = 5  # of training, where a hand-over changes what a step computes
FP32 = 4  # bytes of a number


@dataclass(frozen=True)
class Work:
    """One optimiser step over the global batch, and the networks that take it.

    Attributes:
        target: FLOPs of the pass that makes the targets (teacher or fixed function).
        encoder: of the student's forward pass, views included.
        predictor: of the predictor's forward pass.
        terms: of the loss terms' forward pass; every process repeats it on the gathered batch.
        backward: of all backward passes.
        operations: kernels that are started, forward, backward and update.
        trained: parameters that gradients reach.
        teacher: parameters of the EMA copy.
        context: visible tokens per sample over all groups; None without masks.
        targets: predicted tokens per sample over all blocks; None without masks.
        activations: kept for backward, bytes per sample in (fp32, bf16).
    """

    target: float
    encoder: float
    predictor: float
    terms: float
    backward: float
    operations: int
    trained: int
    teacher: int
    context: int | None
    targets: int | None
    activations: tuple[float, float]

    @property
    def flops(self) -> float:
        """Of the whole step on one process."""
        return self.target + self.encoder + self.predictor + self.terms + self.backward

    def shared(self, processes: int) -> float:
        """FLOPs of each of so many processes."""
        everyone = 3 * self.terms  # forward and backward of the gathered batch
        return (self.flops - everyone) / processes + everyone


class Operations(TorchDispatchMode):
    """Counts operations that compute something; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def outline_of(config: Any) -> Outline:
    """A run without its data.

    Raises:
        ValueError: a modality that cannot tell.
    """
    modality = modalities[config.modality]
    if not hasattr(modality, "outline"):
        raise ValueError(
            f"modality {config.modality!r} has no outline(config), so its runs cannot be estimated"
        )
    found: Outline = modality.outline(config)
    return found


def expected_masks(outline: Outline) -> Masks | None:
    """The masks, of the first steps', whose lengths lie nearest to the mean; on the CPU."""
    train, masker = outline.config.train, build_masker(outline.config, outline.geometry)
    if masker is None:
        return None
    rows = min(train.batch_size, 2048)  # the trimmed lengths of larger batches differ little
    drawn = [
        Draw.of_step(train.seed, step, rows, 0, rows).masks(masker)
        for step in range(1, NUM_DRAWS + 1)
    ]
    lengths = torch.tensor([[m.context.shape[2], m.targets.shape[2]] for m in drawn]).double()
    distance = (lengths / lengths.mean(0) - 1).square().sum(1)
    return drawn[int(distance.argmin())]


def count(outline: Outline) -> Work:
    """Count one optimiser step.

    Raises:
        ValueError: choices that make no run.
    """
    config = outline.config
    with torch.device("meta"):
        jepa = build_jepa(config, outline).train()
    masks, size = expected_masks(outline), config.train.batch_size
    rows = size if masks is None else len(masks.context)
    scale = size / rows
    stages = NUM_STAGES if config.target.handover is not None else 1
    parts = dict.fromkeys(("target", "encoder", "predictor", "terms", "backward"), 0.0)
    operations = 0
    for stage in range(stages):
        if jepa.target is not None:
            jepa.target.schedule((stage + 0.5) / stages)
        with FlopCounterMode(display=False) as counter, Operations() as counted:
            output: JEPAOutput = jepa(
                outline.batch(rows, "meta"), None if masks is None else masks.to("meta")
            )
            # Backward passes are not told apart by module: take the parts before.
            modules, forward = counter.get_flop_counts(), counter.get_total_flops()
            for name in ("target", "encoder", "predictor"):
                parts[name] += scale * sum(modules.get(f"JEPA.{name}", {}).values()) / stages
            assert output.loss is not None
            output.loss.backward()
        operations += counted.count // stages
        parts["backward"] += scale * (counter.get_total_flops() - forward) / stages
        parts["terms"] += scale * forward / stages
    parts["terms"] -= parts["target"] + parts["encoder"] + parts["predictor"]
    trained = [p for p in jepa.parameters() if p.requires_grad]
    return Work(
        **parts,
        operations=operations * config.train.accumulate,
        trained=sum(p.numel() for p in trained),
        teacher=sum(p.numel() for p in jepa.teacher.parameters()),
        context=None if masks is None else masks.context[0].numel(),
        targets=None if masks is None else masks.targets[0].numel(),
        activations=(
            kept_for_backward(jepa, outline, masks, output, False) / rows,
            kept_for_backward(jepa, outline, masks, output, True) / rows,
        ),
    )


def kept_for_backward(
    jepa: JEPA, outline: Outline, masks: Masks | None, output: JEPAOutput, half: bool
) -> float:
    """Bytes that blocks and prediction keep until backward, for the batch of `output`.

    A block keeps, per token: its two residual sums (always fp32), and in the type of the matrix
    products two normed copies, queries, keys and values, attention's output, and both sides of the
    activation: (6 + 2 mlp_ratio) widths. The fused attention keeps no map.

    Args:
        jepa: the networks.
        outline: of the run.
        masks: of the step.
        output: of the step.
        half: bf16 instead of fp32 products.
    """
    config, small = outline.config, 2 if half else FP32
    batch = len(output.views[0]) if output.views is not None else 0
    total, prefix = 0.0, config.encoder.num_prefix
    if masks is not None:
        batch, groups, keep = masks.context.shape
        total += groups * (keep + prefix) * _block(jepa.encoder, config.encoder.dim, small)
        if jepa.predictor is not None:
            _, blocks, targets = masks.targets.shape
            hidden = 0 if masks.hidden is not None else targets
            context = keep + prefix * config.predictor.sees_prefix
            contexts = 1 if config.predictor.packed else blocks
            length = contexts * context + blocks * hidden
            total += length * _block(jepa.predictor, config.predictor.width, small)
            if output.predicted is not None:
                total += 3 * FP32 * output.predicted[0].numel()
    if output.views is not None:
        views, _, tokens, _ = output.views.shape
        total += views * (tokens + prefix) * _block(jepa.encoder, config.encoder.dim, small)
    return total * batch


def _block(network: nn.Module, width: int, small: int) -> float:
    """Bytes per token that all blocks of a network keep."""
    blocks: Any = network.blocks
    hidden = blocks[0].mlp.fc1.out_features if len(blocks) else 0
    return len(blocks) * (2 * FP32 * width + small * (6 * width + 2 * hidden))


@dataclass(frozen=True)
class Estimate:
    """One run on some hardware.

    Attributes:
        hardware: name.
        devices: how many.
        precision: of the matrix products.
        peak: of a device, FLOP/s.
        mfu: assumed share of it.
        source: of `mfu`.
        memory: per device, GiB, by what it holds.
        available: per device, GiB.
        seconds: per step.
        bound: "arithmetic", or "launches" where starting the operations takes longer.
        hours: of the run.
        price: assumed, $ per device and hour.
        cost: of the run, $.
    """

    hardware: str
    devices: int
    precision: str
    peak: float
    mfu: float
    source: str
    memory: dict[str, float]
    available: float
    seconds: float
    bound: str
    hours: float
    price: float
    cost: float

    @property
    def fits(self) -> bool:
        """Whether the memory is enough by this count."""
        return sum(self.memory.values()) <= self.available


def steps_of(config: Any, samples: int | None) -> int:
    """Optimiser steps of the run.

    Raises:
        ValueError: epochs of an unknown number of samples.
    """
    if config.train.steps is None and samples is None:
        raise ValueError(
            f"train.epochs = {config.train.epochs:g} of how many samples? The data are not opened: "
            f"give --samples N, or --train.steps N"
        )
    return num_steps(config.train, samples or 1)[0]


def memory(work: Work, config: Any, devices: int, half: bool) -> dict[str, float]:
    """GiB per device: weights, gradients, AdamW's two moments, teacher, activations.

    All but activations in fp32. FSDP splits them over the devices; DDP copies them.
    """
    parts = devices if config.train.strategy == "fsdp" else 1
    numbers = {
        "weights": work.trained,
        "gradients": work.trained,
        "optimiser": 2 * work.trained,
        "teacher": work.teacher,
    }
    found = {name: FP32 * value / parts / 2**30 for name, value in numbers.items()}
    micro = math.ceil(config.train.batch_size / config.train.accumulate / devices)
    found["activations"] = micro * work.activations[half] / 2**30
    return found


def seconds(work: Work, config: Any, place: Hardware) -> tuple[float, float]:
    """Of a step's arithmetic, and of starting its operations; the longer one counts.

    Activations cost time of their own where the hardware says so (`Hardware.balance`).
    """
    kind = _precision(config, place)
    bytes_kept = work.activations[0] * config.train.batch_size
    flops = work.shared(place.devices) + place.balance * bytes_kept / place.devices
    return flops / (place.peak(kind) * place.mfu), work.operations * place.launch


def _precision(config: Any, place: Hardware) -> torch.dtype:
    return precision(config.train, torch.device("cpu" if place.name == "cpu" else "cuda"))


def estimate(work: Work, config: Any, steps: int, place: Hardware) -> Estimate:
    """Memory, hours and cost of a counted run on some hardware.

    Raises:
        ValueError: a batch that cannot be split over the devices.
    """
    check(config.train, Processes(0, place.devices, torch.device("cpu")))
    arithmetic, launches = seconds(work, config, place)
    half = _precision(config, place) == torch.bfloat16
    step = max(arithmetic, launches)
    hours = step * steps / 3600
    return Estimate(
        hardware=place.name,
        devices=place.devices,
        precision="bf16" if half else "fp32",
        peak=place.bf16 if half else place.fp32,
        mfu=place.mfu,
        source=place.source,
        memory=memory(work, config, place.devices, half),
        available=place.memory,
        seconds=step,
        bound="arithmetic" if arithmetic >= launches else "launches",
        hours=hours,
        price=place.price,
        cost=hours * place.price * place.devices,
    )
