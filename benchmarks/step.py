"""One training step of any modality: its phases, and the same step in the plain formulation.

    OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0 python benchmarks/step.py --threads 1 --each
    python benchmarks/step.py --modality image --device cuda --precision bf16 --compile

The plain formulation (`plain.py`) has the same networks, weights and batch, and computes the same
loss (checked before anything is timed), written the way published code is: masks from a Python
loop over samples, all patches embedded and then gathered, attention with its matrix laid out, the
predictor's last block computed for context tokens too, AdamW and EMA parameter by parameter, and
the loss read by the host at every step. `--each` adds ours with one of these plain at a time: what
each is worth. `--compile` adds ours with compiled blocks. All take turns in one process. On the CPU
process seconds count, on a GPU wall time. Masks differ in size from step to step, so a round is the
same few steps again: a time is the sum of each one's minimum over rounds, and a ratio, the other /
ours, is of these sums, or the median over rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from evidence import about
from plain import PARTS, LoopedMasker, RecordedMasker, plain
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from jepa_modalities import api
from jepa_modalities.adapters.base import build_jepa, build_masker
from jepa_modalities.core.draw import Draw
from jepa_modalities.core.masking import Masks
from jepa_modalities.core.registry import adapters
from jepa_modalities.settings import changed
from jepa_modalities.train.engine import compile_blocks
from jepa_modalities.train.hardware import product_rate
from jepa_modalities.train.optim import gradient_norm, guarded_step, optimiser

# One masked-prediction recipe per modality; --recipe takes any other.
RECIPES = {
    "image": "image_ijepa_cifar10_tiny_cpu",
    "ecg": "ecg_ptbxl_sub100_ema_tiny",
    "tabular": "tabular_adult",
    "sar": "sar_target_mstar_tiny_cpu",
}
RATE, LR, DECAY = 0.004, 1e-4, 0.05
CYCLE = 5  # steps, each with masks of its own, that every round repeats
PHASES = ("data and masks", "target", "context", "predictor", "backward", "optimiser", "EMA")


# --- one step ------------------------------------------------------------------------------------


class System:
    """A trainable copy of the modality's networks and one way to step it.

    Args:
        adapter: with its data open.
        jepa: the networks.
        masker: draws the masks.
        device: where.
        dtype: of the matrix products.
        parts: what is plain, of `plain.PARTS`.
        compiled: compile the blocks, as `train.compile` does.
    """

    def __init__(
        self,
        adapter: Any,
        jepa: Any,
        masker: Any,
        device: torch.device,
        dtype: Any,
        parts: Collection[str] = (),
        compiled: bool = False,
    ) -> None:
        self.adapter, self.masker, self.device, self.dtype = adapter, masker, device, dtype
        self.jepa, self.parts = jepa.to(device).train(), parts
        if compiled:
            compile_blocks(jepa)
        self.parameters = [p for p in jepa.parameters() if p.requires_grad]
        self.optimiser: torch.optim.Optimizer = optimiser(jepa)
        if "embed" in parts:
            jepa.encoder.embed.own_weights = True  # embeds everything, then gathers
            jepa.teacher.embed.own_weights = True
        if "optimiser" in parts:
            groups = [{k: g[k] for k in ("params", "decayed")} for g in self.optimiser.param_groups]
            self.optimiser = torch.optim.AdamW(groups, foreach=False, fused=False)
        for group in self.optimiser.param_groups:
            group |= {"lr": LR, "weight_decay": DECAY if group["decayed"] else 0.0}
        self.clip = adapter.config.train.clip
        self.spent: dict[str, float] | None = None
        self.number = 0

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Its time, when phases are being timed."""
        if self.spent is None:
            yield
            return
        start = clock(self.device)
        yield
        self.spent[name] += clock(self.device) - start

    def batch(self) -> Any:
        """The next batch of the cycle with its masks."""
        size, rows = self.adapter.config.train.batch_size, len(self.adapter)
        self.number = self.number % CYCLE + 1
        ids = (torch.arange(size) + self.number * size) % rows
        draw = Draw.of_step(0, self.number, size, 0, size)
        return next(self.adapter.feed([(ids, draw)], self.masker, self.device))

    def loss(self, batch: Any, masks: Masks) -> Any:
        """Forward pass."""
        on = self.dtype != torch.float32
        with plain(self.parts), torch.autocast(self.device.type, self.dtype, enabled=on):
            return self.jepa(batch, masks).loss

    def step(self) -> None:
        """One whole training step."""
        with self.phase("data and masks"):
            batch, masks = self.batch()
        loss = self.loss(batch, masks)
        with self.phase("backward"):
            loss.backward()
        with self.phase("optimiser"):
            if "optimiser" in self.parts:
                loss.item()
                norm = torch.nn.utils.clip_grad_norm_(
                    self.parameters, self.clip or math.inf, foreach=False
                )
                norm.item()
                self.optimiser.step()
                self.optimiser.zero_grad()
            else:
                guarded_step(self.optimiser, gradient_norm(self.parameters), self.clip)
                self.optimiser.zero_grad(set_to_none=True)
        with self.phase("EMA"), torch.no_grad():
            if "optimiser" in self.parts:
                pairs = zip(
                    self.jepa.teacher.parameters(), self.jepa.encoder.parameters(), strict=True
                )
                for theirs, mine in pairs:
                    theirs.mul_(1 - RATE).add_(mine, alpha=RATE)
            else:
                self.jepa.update_teacher(RATE)

    def phases(self, rounds: int) -> dict[str, float]:
        """Share of a step per phase; what is between them (terms) belongs to none.

        Args:
            rounds: cycles of steps.
        """
        self.spent = defaultdict(float)
        parts = {"context": self.jepa.encoder, "predictor": self.jepa.predictor}
        if isinstance(self.jepa.target, nn.Module):
            parts["target"] = self.jepa.target
        with contextlib.ExitStack() as stack:
            for name, module in parts.items():
                stack.enter_context(
                    mock.patch.object(module, "forward", self._timed(name, module.forward))
                )
            start = clock(self.device)
            for _ in range(rounds * CYCLE):
                self.step()
            whole = clock(self.device) - start
        found = {name: self.spent[name] / whole for name in PHASES}
        self.spent = None
        return found

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **more: Any) -> Any:
            with self.phase(name):
                return function(*args, **more)

        return timed


def clock(device: torch.device) -> float:
    """Process CPU seconds, or wall seconds after the GPU has finished."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


# --- measuring -----------------------------------------------------------------------------------


def systems(
    own: argparse.Namespace, recipe: str, device: torch.device, dtype: Any
) -> dict[str, System]:
    """Ours, the plain formulation, and what lies between, all from the same weights."""
    settings: dict[str, Any] = {"evaluate.enabled": False}
    given = {"train.batch_size": own.batch, "data.path": own.data}
    settings |= {name: value for name, value in given.items() if value is not None}
    config = changed(api.recipe(recipe), settings)
    adapter = adapters[config.modality](config, None)
    adapter.tokenizer.to(device)
    config = adapter.config
    torch.manual_seed(0)
    jepa = build_jepa(config, adapter)
    masker = RecordedMasker(build_masker(config, adapter.geometry), adapter.geometry.num_tokens)

    def system(parts: Collection[str] = (), compiled: bool = False) -> System:
        drawn: Any = LoopedMasker(masker) if "masks" in parts else masker
        return System(adapter, copy.deepcopy(jepa), drawn, device, dtype, parts, compiled)

    found = {"ours": system(), "plain": system(tuple(PARTS))}
    if own.each:
        found |= {part: system((part,)) for part in PARTS}
    if own.compile:
        found["compiled"] = system(compiled=True)
    return found


def same_loss(every: dict[str, System]) -> float:
    """Largest relative difference of the losses on one batch.

    Raises:
        RuntimeError: they compute different things.
    """
    batch, masks = every["ours"].batch()
    losses = {name: system.loss(batch, masks).item() for name, system in every.items()}
    every["ours"].number = 0
    ours = losses["ours"]
    difference = max(abs(ours - other) / abs(ours) for other in losses.values())
    if difference > (1e-4 if every["ours"].dtype == torch.float32 else 2e-2):
        raise RuntimeError(f"losses differ: {losses}; a ratio would mean nothing")
    return difference


def count(system: System) -> float:
    """FLOPs of forward and backward over a cycle of steps, attention products included."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        for _ in range(CYCLE):
            system.loss(*system.batch()).backward()
    system.jepa.zero_grad(set_to_none=True)
    return float(counter.get_total_flops())


def peak_rate(device: torch.device, dtype: Any) -> float:
    """FLOP/s of a large matrix product on the same device."""
    if device.type == "cpu":
        return product_rate(dtype, time.process_time, 1024, 1.0)
    a, b = torch.randn(2, 8192, 8192, device=device).to(dtype)
    times = []
    for _ in range(10):
        start = clock(device)
        a @ b
        times.append(clock(device) - start)
    return 2 * 8192**3 / min(times)


def memory(own: argparse.Namespace, recipe: str, formulation: str) -> float:
    """Peak memory of a few steps in a process of its own, GiB."""
    here = [sys.executable, __file__, "--recipe", recipe, "--memory-of", formulation]
    here += ["--device", own.device, "--precision", own.precision, "--threads", str(own.threads)]
    for name in ("batch", "data"):
        if getattr(own, name) is not None:
            here += [f"--{name}", str(getattr(own, name))]
    done = subprocess.run(here, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def peak_memory(system: System) -> float:
    """GiB after three steps: of the GPU, or resident in this process with its data."""
    for _ in range(3):
        system.step()
    if system.device.type == "cuda":
        return float(torch.cuda.max_memory_allocated()) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(own: argparse.Namespace, recipe: str, device: torch.device, dtype: Any) -> Any:
    """Times, ratios, phases and memory of one recipe."""
    every = systems(own, recipe, device, dtype)
    difference = same_loss(every)
    flops = count(every["ours"])
    times = {name: torch.zeros(own.rounds + 1, CYCLE) for name in every}
    for turn in range(own.rounds + 1):
        for number in range(CYCLE):
            for name, system in every.items():
                start = clock(device)
                system.step()
                times[name][turn, number] = clock(device) - start
    times = {name: spent[1:] for name, spent in times.items()}  # the first round warms up
    fastest = {name: float(spent.amin(0).sum()) for name, spent in times.items()}
    rounds = {name: spent.sum(1).tolist() for name, spent in times.items()}
    size = every["ours"].adapter.config.train.batch_size
    rate = peak_rate(device, dtype)
    both = ("ours", "plain")
    return {
        "recipe": recipe,
        "batch": size,
        "loss_difference": difference,
        "gflop_per_step": flops / CYCLE / 1e9,
        "seconds_per_step": {
            name: {"min": fastest[name] / CYCLE, "median": statistics.median(spent) / CYCLE}
            for name, spent in rounds.items()
        },
        "samples_per_second": size * CYCLE / fastest["ours"],
        "mfu": flops / fastest["ours"] / rate,
        "peak_gflops": rate / 1e9,
        "ratio": {
            name: {
                "min": fastest[name] / fastest["ours"],
                "median": statistics.median(
                    o / u for u, o in zip(rounds["ours"], spent, strict=True)
                ),
            }
            for name, spent in rounds.items()
            if name != "ours"
        },
        "phases": {name: every[name].phases(own.rounds) for name in both},
        "peak_gib": {name: memory(own, recipe, name) for name in both},
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--modality", nargs="+", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("--recipe", help="instead of the modality's own")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, help="samples per step; the recipe's own if not given")
    parser.add_argument("--data", help="instead of the recipe's data.path")
    parser.add_argument("--rounds", type=int, default=6, help=f"of {CYCLE} steps")
    parser.add_argument("--each", action="store_true", help="also ours with one part plain")
    parser.add_argument("--compile", action="store_true", help="also ours with compiled blocks")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory-of", choices=("ours", "plain"), help=argparse.SUPPRESS)
    own = parser.parse_args()
    torch.set_num_threads(own.threads)
    device = torch.device(own.device)
    dtype = torch.float32 if own.precision == "fp32" else torch.bfloat16
    if own.memory_of:
        print(peak_memory(systems(own, own.recipe, device, dtype)[own.memory_of]))
        return
    found = []
    for recipe in [own.recipe] if own.recipe else [RECIPES[name] for name in own.modality]:
        row = measure(own, recipe, device, dtype)
        found.append(row)
        shares = ", ".join(f"{k} {100 * v:.0f}" for k, v in row["phases"]["ours"].items())
        peak = row["peak_gflops"]
        ratios = ", ".join(
            f"{name} {value['min']:.2f} (median {value['median']:.2f})"
            for name, value in row["ratio"].items()
        )
        print(
            f"{recipe}, batch {row['batch']}: {row['samples_per_second']:.0f} samples/s, MFU "
            f"{100 * row['mfu']:.0f} % of {peak:.0f} GFLOP/s; it / ours: {ratios}; GiB "
            f"{row['peak_gib']['ours']:.2f} / {row['peak_gib']['plain']:.2f}; per cent: {shares}",
            flush=True,
        )
    if own.out is not None:
        own.out.parent.mkdir(parents=True, exist_ok=True)
        content = about(own.threads) | {"precision": own.precision, "results": found}
        own.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
