"""One I-JEPA training step and its masks: ours beside the libraries that one installs instead.

    pip install lightly stable-pretraining
    OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0 python benchmarks/image_step.py --threads 1 \
        --out benchmarks/results/image_step_cpu.json

A step is the target pass, context pass, predictor, loss, backward, optimiser and EMA. Systems take
turns in one process, on the same images and the same masks; each round has its own masks. Ours also
normalises the images, takes the gradient norm and guards against a non-finite step, as in training;
peers get normalised images. Masks are drawn beforehand and timed apart. A peer that is not
installed is left out and named. `process CPU seconds` are the fair figure on a busy machine.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import importlib
import importlib.metadata
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from jepa_modalities.adapters.base import build_jepa, build_masker
from jepa_modalities.adapters.image.config import ImageConfig, ImageData
from jepa_modalities.adapters.image.model import embedding, geometry
from jepa_modalities.adapters.image.tokenizer import ImageTokenizer
from jepa_modalities.config import EncoderConfig, MaskConfig, PredictorConfig
from jepa_modalities.core.batch import Batch
from jepa_modalities.core.jepa import JEPA, JEPAOutput
from jepa_modalities.core.masking import BlockMasker, Masks, gather
from jepa_modalities.train.environment import commit
from jepa_modalities.train.optim import Rates, apply_rates, gradient_norm, guarded_step, optimiser

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LR, DECAY, MOMENTUM = 1.5e-4, 0.05, 0.996


@dataclass(frozen=True)
class Shape:
    """Model and batch of one case; all systems get the same."""

    size: int
    patch: int
    dim: int
    heads: int
    batch: int
    depth: int = 12
    width: int = 192
    predictor_depth: int = 6
    predictor_heads: int = 3  # stable-pretraining fixes one head per 64 channels

    @property
    def grid(self) -> int:
        """Patches per side."""
        return self.size // self.patch


SHAPES = {
    "vit_tiny_96px_patch8": Shape(96, 8, 192, 3, 16),
    "vit_small_224px_patch16": Shape(224, 16, 384, 6, 8),
}


@dataclass
class System:
    """One library's step.

    Attributes:
        student: what is trained.
        teacher: its EMA copy.
        loss: (images in 0..255, normalised images, masks) -> scalar, with the target pass.
        update: after backward: optimiser, gradients to None, EMA.
        differs: how the model or its work differs from ours, in words.
    """

    student: list[nn.Module]
    teacher: nn.Module
    loss: Callable[[Tensor, Tensor, Masks], Tensor]
    update: Callable[[], None]
    differs: str = ""
    jepa: JEPA | None = None

    def step(self, raw: Tensor, images: Tensor, masks: Masks, dtype: torch.dtype) -> None:
        """One whole training step."""
        with torch.autocast(raw.device.type, dtype, enabled=dtype != torch.float32):
            loss = self.loss(raw, images, masks)
        loss.backward()
        self.update()


# --- ours ----------------------------------------------------------------------------------------


def configuration(shape: Shape) -> ImageConfig:
    """The run that `jm pretrain` would be given."""
    return ImageConfig(
        data=ImageData(size=(shape.size, shape.size), patch=shape.patch),
        encoder=EncoderConfig(dim=shape.dim, depth=shape.depth, heads=shape.heads),
        predictor=PredictorConfig(
            width=shape.width, depth=shape.predictor_depth, heads=shape.predictor_heads
        ),
        mask=MaskConfig(min_keep=10),
    )


def update(jepa: JEPA, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    """What `train.engine` does after backward."""
    apply_rates(optimizer, Rates(LR, DECAY, MOMENTUM))
    void = guarded_step(optimizer, gradient_norm(parameters), None)
    optimizer.zero_grad(set_to_none=True)
    if void.device.type == "cpu":
        jepa.update_teacher(0.0 if bool(void) else 1 - MOMENTUM)
    else:
        jepa.update_teacher((1 - MOMENTUM) * (1 - void))


def together(masks: Masks) -> Masks:
    """All target blocks as one sequence."""
    return Masks(masks.context, masks.targets.flatten(1)[:, None])


def ours(shape: Shape, device: str, one_sequence: bool = False) -> System:
    """This package, built as `jm pretrain` builds it."""
    config = configuration(shape)
    parts: Any = SimpleNamespace(
        geometry=geometry(config), embedding=lambda: embedding(config), target=lambda: None
    )
    jepa = build_jepa(config, parts).to(device)
    tokenizer = ImageTokenizer(shape.patch, MEAN, STD).to(device)
    optimizer = optimiser(jepa)
    parameters = [p for p in jepa.parameters() if p.requires_grad]

    def loss(raw: Tensor, images: Tensor, masks: Masks) -> Tensor:
        tokens = tokenizer(raw)
        value: Tensor = jepa(Batch(tokens, tokens), together(masks) if one_sequence else masks).loss
        return value * torch.where(value.isfinite(), 1.0, math.nan)

    assert jepa.predictor is not None
    text = "as ours, but all targets of an image in one sequence, as stable-pretraining does"
    return System(
        [jepa.encoder, jepa.predictor],
        jepa.teacher,
        loss,
        partial(update, jepa, optimizer, parameters),
        text if one_sequence else "",
        jepa,
    )


# --- peers ---------------------------------------------------------------------------------------


def lightly(shape: Shape, device: str, timm_backbone: bool = False) -> System:
    """lightly's modules as its I-JEPA example wires them, with its own EMA update."""
    utils = importlib.import_module("lightly.models.utils")
    modules = importlib.import_module("lightly.models.modules.ijepa_timm")
    if timm_backbone:
        vit = importlib.import_module("timm.models.vision_transformer").VisionTransformer(
            shape.size, shape.patch, embed_dim=shape.dim, depth=shape.depth, num_heads=shape.heads,
            class_token=False, global_pool="", num_classes=0,
        )  # fmt: skip
        masked = importlib.import_module("lightly.models.modules.masked_vision_transformer_timm")
        encoder = masked.MaskedVisionTransformerTIMM(vit).to(device)
        teacher = copy.deepcopy(encoder).requires_grad_(False)
        whole, part = teacher.encode, lambda x, keep: encoder.encode(x, idx_keep=keep[0])
    else:
        backbone = importlib.import_module("lightly.models.modules.ijepa").IJEPABackbone
        encoder = backbone(
            shape.size, shape.patch, shape.depth, shape.heads, shape.dim, 4 * shape.dim
        )
        encoder.heads = nn.Identity()  # the unused classifier
        encoder = encoder.to(device)
        teacher = copy.deepcopy(encoder).requires_grad_(False)
        whole, part = teacher, encoder
    predictor = modules.IJEPAPredictorTIMM(
        shape.grid**2, shape.predictor_depth, shape.dim, shape.width, shape.predictor_heads
    ).to(device)
    learned = [*encoder.parameters(), *predictor.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=LR, weight_decay=DECAY)

    def loss(raw: Tensor, images: Tensor, masks: Masks) -> Tensor:
        context = list(masks.context.unbind(1))
        targets = list(masks.targets.unbind(1))
        with torch.no_grad():
            h = whole(images)
            h = F.layer_norm(h, (h.shape[-1],))
            h = utils.repeat_interleave_batch(utils.apply_masks(h, targets), len(images), 1)
        return F.smooth_l1_loss(predictor(part(images, context), context, targets), h)

    def after() -> None:
        optimizer.step()
        optimizer.zero_grad()
        utils.update_momentum(encoder, teacher, MOMENTUM)

    text = "timm blocks, no class token: the same model as ours; embeds all patches of the context"
    other = "torchvision blocks; class token in the teacher; learned positions; embeds all patches"
    return System([encoder, predictor], teacher, loss, after, text if timm_backbone else other)


class Given(nn.Module):
    """Hands stable-pretraining's model the round's masks instead of drawing its own."""

    masks: Masks

    def forward(self, x: Tensor, rows: int, columns: int) -> Any:
        """Its masker's output, filled with the given token numbers."""
        one = together(self.masks)
        return SimpleNamespace(context_idx=one.context[:, 0], target_idx=one.targets[:, 0])


def stable_pretraining(shape: Shape, device: str) -> System:
    """stable-pretraining's IJEPA module, masks handed in, with its own EMA update."""
    method = importlib.import_module("stable_pretraining.methods.ijepa")
    vit = importlib.import_module("timm.models.vision_transformer").VisionTransformer(
        shape.size, shape.patch, embed_dim=shape.dim, depth=shape.depth, num_heads=shape.heads,
        class_token=False, global_pool="", num_classes=0,
    )  # fmt: skip
    model = method.IJEPA(vit, shape.width, shape.predictor_depth).to(device).train()
    model.masking = Given()
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=LR, weight_decay=DECAY)

    def loss(raw: Tensor, images: Tensor, masks: Masks) -> Tensor:
        model.masking.masks = masks
        value: Tensor = model(images).loss
        return value

    def after() -> None:
        optimizer.step()
        optimizer.zero_grad()
        model.encoder.update_ema_coefficient(0, 100)
        model.encoder.update_teacher()

    text = (
        "all targets of an image in ONE sequence (blocks see each other); projects a dummy query; "
        "learned positions; embeds all patches of the context"
    )
    return System(
        [model.encoder.student, model.predictor], model.encoder.teacher, loss, after, text
    )


SYSTEMS: dict[str, Callable[[Shape, str], System]] = {
    "ours": ours,
    "lightly": lightly,
    "lightly_timm": partial(lightly, timm_backbone=True),
    "ours_one_sequence": partial(ours, one_sequence=True),
    "stable_pretraining": stable_pretraining,
}
PAIRS = (
    ("ours", "lightly"),
    ("ours", "lightly_timm"),
    ("ours_one_sequence", "stable_pretraining"),
)


# --- measuring -----------------------------------------------------------------------------------


def wait(device: str) -> None:
    """Let the device finish."""
    if device == "cuda":
        torch.cuda.synchronize()


def timed(function: Callable[[], object], device: str) -> tuple[float, float]:
    """Wall and process CPU seconds of one call."""
    wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    wait(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def spread(times: list[tuple[float, float]]) -> dict[str, float]:
    """Minimum and median of wall and CPU seconds."""
    numbers: dict[str, float] = {}
    for name, values in zip(("wall", "cpu"), zip(*times, strict=True), strict=True):
        numbers |= {f"{name}_min": min(values), f"{name}_median": statistics.median(values)}
    return numbers


def inputs(shape: Shape, device: str, rounds: int) -> tuple[Tensor, Tensor, list[Masks]]:
    """Images in 0..255, the same normalised, and one set of masks per round."""
    generator = Generator().manual_seed(0)
    masker = build_masker(configuration(shape), geometry(configuration(shape)))
    assert masker is not None
    masks = [masker(shape.batch, generator).to(device) for _ in range(rounds)]
    size = (shape.batch, 3, shape.size, shape.size)
    raw = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8).to(device)
    mean, std = (torch.tensor(v, device=device).view(-1, 1, 1) for v in (MEAN, STD))
    return raw, (raw / 255 - mean) / std, masks


def built(shape: Shape, device: str) -> tuple[dict[str, System], dict[str, str]]:
    """Every system that can be imported, and why the others cannot."""
    systems, missing = {}, {}
    for name, make in SYSTEMS.items():
        torch.manual_seed(0)
        try:
            systems[name] = make(shape, device)
        except ImportError as error:
            missing[name] = f"{error}; pip install lightly stable-pretraining"
    return systems, missing


def count(system: System, raw: Tensor, images: Tensor, masks: Masks) -> dict[str, Any]:
    """Parameters, and FLOPs of forward and backward with explicit attention."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        system.loss(raw, images, masks).backward()
    for module in system.student:
        module.zero_grad(set_to_none=True)
    trained = sum(p.numel() for m in system.student for p in m.parameters() if p.requires_grad)
    return {
        "trained_parameters": trained,
        "teacher_parameters": sum(p.numel() for p in system.teacher.parameters()),
        "gflop": counter.get_total_flops() / 1e9,
        "differs": system.differs,
    }


def phases(
    system: System, raw: Tensor, masks: list[Masks], shape: Shape, dtype: torch.dtype
) -> dict[str, dict[str, float]]:
    """Where our step's time goes."""
    jepa, device = system.jepa, raw.device.type
    assert jepa is not None and jepa.predictor is not None
    predictor = jepa.predictor
    config = configuration(shape)
    masker = build_masker(config, geometry(config))
    assert masker is not None
    tokenizer = ImageTokenizer(shape.patch, MEAN, STD).to(device)
    optimizer, generator = optimiser(jepa), Generator().manual_seed(1)
    parameters = [p for p in jepa.parameters() if p.requires_grad]
    times: dict[str, list[tuple[float, float]]] = {}
    kept: dict[str, Any] = {}

    def phase(name: str, function: Callable[[], object]) -> None:
        def keep() -> None:
            kept[name] = function()

        with torch.autocast(device, dtype, enabled=dtype != torch.float32 and name != "backward"):
            times.setdefault(name, []).append(timed(keep, device))

    def predict(each: Masks) -> Tensor:
        output = JEPAOutput(latents=kept["context"], target=kept["target"])
        output.predicted = predictor(output.latents, each)
        values = [term(output, kept["batch"], jepa.gather) for term in jepa.terms]
        return torch.stack(values).sum()

    def tokens() -> Batch:
        values = tokenizer(raw)
        return Batch(values, values)

    for each in [masks[0], *masks]:
        phase("masks", partial(masker, shape.batch, generator))
        phase("batch", tokens)
        with torch.no_grad():
            phase(
                "target",
                lambda e=each: gather(jepa.target(kept["batch"], jepa.teacher), e.targets),
            )
        phase("context", partial(jepa.encoder, kept["batch"].context, each))
        phase("predictor_loss", partial(predict, each))
        phase("backward", kept["predictor_loss"].backward)
        apply_rates(optimizer, Rates(LR, DECAY, MOMENTUM))
        phase("optimiser", lambda: guarded_step(optimizer, gradient_norm(parameters), None))
        optimizer.zero_grad(set_to_none=True)
        phase("ema", partial(jepa.update_teacher, 1 - MOMENTUM))
    return {name: spread(found[1:]) for name, found in times.items()}  # the first warms up


def peak_memory(name: str, case: str, device: str, precision: str, threads: int) -> float | None:
    """MiB that two steps add: of the device, or resident in a process of its own."""
    line = [sys.executable, __file__, "--peak", name, "--shapes", case, "--device", device]
    line += ["--precision", precision, "--threads", str(threads)]
    found = subprocess.run(line, capture_output=True, text=True, check=False)
    if found.returncode:
        print(f"  peak memory of {name}: {found.stderr.strip().splitlines()[-1:]}")
        return None
    return float(found.stdout.split()[-1])


def resident() -> float:
    """Highest resident memory of this process so far, MiB; of this program alone, unlike rusage."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def print_peak(name: str, case: str, device: str, precision: str) -> None:
    """The other end of `peak_memory`."""
    shape, dtype = SHAPES[case], {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    raw, images, masks = inputs(shape, device, 2)
    system = SYSTEMS[name](shape, device)
    before = 0.0 if device == "cuda" else resident()
    for each in masks:
        system.step(raw, images, each, dtype)
    wait(device)
    print(torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else resident() - before)


def compare(case: str, precision: str, own: argparse.Namespace) -> dict[str, Any]:
    """All systems in turn on one case; prints a table."""
    shape, dtype = SHAPES[case], {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    raw, images, masks = inputs(shape, own.device, own.rounds)
    systems, missing = built(shape, own.device)
    table = {name: count(system, raw, images, masks[0]) for name, system in systems.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in systems}
    for system in systems.values():
        system.step(raw, images, masks[0], dtype)
    names = list(systems)
    for number, each in enumerate(masks):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            run = partial(systems[name].step, raw, images, each, dtype)
            times[name].append(timed(run, own.device))
    parts = phases(systems["ours"], raw, masks, shape, dtype)
    main = "wall" if own.device == "cuda" else "cpu"
    print(f"\n{case}, batch {shape.batch}, {precision}, {own.device}")
    for name, row in table.items():
        row |= spread(times[name])
        row["samples_per_second"] = shape.batch / row[f"{main}_min"]
        row["peak_mib"] = None
        if precision == own.precision[0]:  # a process each: slow
            row["peak_mib"] = peak_memory(name, case, own.device, precision, own.threads)
        print(
            f"  {name:19s} {row['trained_parameters'] / 1e6:6.2f} M  {row['gflop']:6.1f} GFLOP  "
            f"cpu min {row['cpu_min']:.3f} median {row['cpu_median']:.3f} s  wall min "
            f"{row['wall_min']:.3f} s  peak {row['peak_mib'] or math.nan:.0f} MiB  {row['differs']}"
        )
    ratios = {}
    for mine, peer in PAIRS:
        if peer not in times:
            continue
        found = {"gflop": table[mine]["gflop"] / table[peer]["gflop"]}
        for index, clock in enumerate(("wall", "cpu")):
            pairs = zip(times[mine], times[peer], strict=True)
            each_round = [a[index] / b[index] for a, b in pairs]
            found[f"{clock}_min"] = table[mine][f"{clock}_min"] / table[peer][f"{clock}_min"]
            found[f"{clock}_median"] = statistics.median(each_round)
        ratios[f"{mine}/{peer}"] = found
        print(f"  {mine}/{peer}: " + ", ".join(f"{k} {v:.3f}" for k, v in found.items()))
    total = sum(part[f"{main}_min"] for part in parts.values())
    for part in parts.values():
        part["share"] = part[f"{main}_min"] / total
    print("  ours: " + ", ".join(f"{name} {part['share']:.1%}" for name, part in parts.items()))
    lengths = [[m.context.shape[-1], m.targets.shape[-1]] for m in masks]
    return {
        "case": case,
        "precision": precision,
        "shape": asdict(shape),
        "context_and_target_lengths": lengths,
        "systems": table,
        "ratios": ratios,
        "phases_of_ours": parts,
        "missing": missing,
    }


# --- masks ---------------------------------------------------------------------------------------


def looped(grid: int, batch: int, generator: Generator) -> tuple[Tensor, list[Tensor]]:
    """The published kind of collator: Python loops over images and blocks (I-JEPA, section 3)."""
    share = torch.rand(2, generator=generator).tolist()
    area, aspect = int(grid**2 * (0.15 + 0.05 * share[0])), 0.75 + 0.75 * share[0]
    high, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    side = min(round(math.sqrt(int(grid**2 * (0.85 + 0.15 * share[1])))), grid - 1)

    def block(height: int, width: int) -> Tensor:
        top = int(torch.randint(0, grid - height, (1,), generator=generator))
        left = int(torch.randint(0, grid - width, (1,), generator=generator))
        inside = torch.zeros(grid, grid, dtype=torch.int32)
        inside[top : top + height, left : left + width] = 1
        return inside

    contexts, targets = [], []
    for _ in range(batch):
        blocks = [block(high, wide) for _ in range(4)]
        targets.append([b.flatten().nonzero().squeeze(1) for b in blocks])
        context = torch.zeros(0)
        while len(context) <= 10:
            free = block(side, side)
            for taken in blocks:
                free *= 1 - taken
            context = free.flatten().nonzero().squeeze(1)
        contexts.append(context)
    shortest = min(len(c) for c in contexts)
    stacked = torch.stack([c[:shortest] for c in contexts])
    return stacked, [torch.stack([t[k] for t in targets]) for k in range(4)]


def maskers(grid: int, batch: int) -> dict[str, Callable[[], object]]:
    """Everything that draws masks for one batch."""
    generator = Generator().manual_seed(0)
    found: dict[str, Callable[[], object]] = {
        "ours": partial(BlockMasker((grid, grid), min_keep=10), batch, generator),
        "python_loop": partial(looped, grid, batch, generator),
    }
    try:
        collate = importlib.import_module("lightly.data.ijepa_collate").IJEPAMaskCollator(
            grid * 16, 16, (0.85, 1.0), (0.15, 0.2), (0.75, 1.5), npred=4, min_keep=10
        )
        found["lightly"] = partial(collate, [0] * batch)  # nothing but masks to collate
    except ImportError:
        pass
    try:
        module = importlib.import_module("stable_pretraining.backbone").IJEPAMasking()
        blank = torch.zeros(batch, grid**2, 1)
        found["stable_pretraining"] = partial(module.train(), blank, grid, grid)
    except ImportError:
        pass
    return found


def compare_maskers(batches: tuple[int, ...] = (16, 128, 2048)) -> list[dict[str, Any]]:
    """Time per batch of every masker on the 14 x 14 grid, in turn; prints a table."""
    print(
        "\nmasks, 14 x 14 patches, 4 targets: CPU ms per batch, minimum (microseconds per sample)"
    )
    rows = []
    for batch in batches:
        random.seed(0)
        torch.manual_seed(0)
        functions = maskers(14, batch)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
        for _ in range(20 if batch < 1000 else 5):
            for name, function in functions.items():
                times[name].append(timed(function, "cpu"))
        found = {name: spread(values[1:]) for name, values in times.items()}
        rows.append({"batch": batch, "seconds": found})
        each = (
            f"{n} {1e3 * v['cpu_min']:.2f} ({1e6 * v['cpu_min'] / batch:.1f})"
            for n, v in found.items()
        )
        print(f"  batch {batch:4d}: " + ", ".join(each))
    return rows


def versions() -> dict[str, str]:
    """Of everything that takes part."""
    found = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "timm", "lightly", "stable-pretraining"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def device_name(device: str) -> str:
    """Of the processor or the card."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((x.split(":")[1].strip() for x in lines if "model name" in x), platform.machine())


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32"])
    parser.add_argument("--shapes", nargs="+", choices=tuple(SHAPES), default=list(SHAPES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--peak", choices=tuple(SYSTEMS), help=argparse.SUPPRESS)
    own = parser.parse_args()
    torch.set_num_threads(own.threads)
    if own.peak:
        print_peak(own.peak, own.shapes[0], own.device, own.precision[0])
        return
    result: dict[str, Any] = {
        "command": ["python", *sys.argv],
        "commit": commit(),
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
        "device": device_name(own.device),
        "threads": own.threads,
        "rounds": own.rounds,
        "load_at_start": os.getloadavg(),
        "versions": versions(),
        "masks": compare_maskers(),
        "steps": [compare(case, p, own) for p in own.precision for case in own.shapes],
    }
    if own.out is not None:
        own.out.parent.mkdir(parents=True, exist_ok=True)
        own.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
