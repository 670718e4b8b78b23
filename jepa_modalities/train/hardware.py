"""What a step can run on: nominal peaks, memory, price, and the share of the peak it reaches."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from jepa_modalities.core.threads import threads as cpu_threads
from jepa_modalities.train.profile import PEAKS


@dataclass(frozen=True)
class Hardware:
    """One or several equal devices.

    Attributes:
        name: such as "h100x8".
        bf16: peak of a device's dense matrix products in bf16, FLOP/s.
        fp32: the same in fp32, without TF32, FLOP/s.
        memory: of a device, GiB.
        price: of a device, $ per hour: an ASSUMPTION, of the order of public on-demand prices.
        mfu: share of the peak that a whole step reaches: an ASSUMPTION.
        source: of `mfu`.
        launch: seconds that starting one operation takes: small networks cannot be faster.
        balance: FLOPs in the time that one byte of kept activations costs; 0 where `mfu` was taken
            from whole steps.
        devices: how many.
    """

    name: str
    bf16: float
    fp32: float
    memory: float
    price: float
    mfu: float
    source: str
    launch: float = 5e-6
    balance: float = 0.0
    devices: int = 1

    def peak(self, precision: torch.dtype) -> float:
        """Peak of one device for matrix products of this type, FLOP/s."""
        return self.bf16 if precision == torch.bfloat16 else self.fp32


_IJEPA = "I-JEPA H/14 as published, 300 epochs in under 72 hours on 16 A100: 61 of 312 TFLOP/s"
_SMALL = "a small ViT on one H100 as published: 16 % compiled, 23 % tuned"
_OWN = "chosen on small recipes, see benchmarks/estimate_check.py"
GPUS = {
    "a100": Hardware("a100", PEAKS["A100"], 19.5e12, 80, 2.0, 0.2, _IJEPA),
    "h100": Hardware("h100", PEAKS["H100"], 67e12, 80, 3.0, 0.2, _SMALL),
    "h200": Hardware("h200", PEAKS["H200"], 67e12, 141, 3.5, 0.2, f"as for the H100: {_SMALL}"),
}
KNOWN = "cpu, a100, h100, h200, or several such GPUs: h100x1, h100x8, a100x16"


def hardware(
    name: str, threads: int | None = None, clock: Callable[[], float] = time.perf_counter
) -> Hardware:
    """The devices that a name such as "h100x8" stands for; "cpu" is measured now, in half a second.

    Args:
        name: of the hardware.
        threads: of the CPU; as many as PyTorch uses if not given.
        clock: of the measurement: wall time, so a busy machine counts as a slow one.

    Raises:
        ValueError: unknown; lists what is known.
    """
    if name == "cpu":
        with cpu_threads(threads):
            bf16, fp32 = (product_rate(dtype, clock) for dtype in (torch.bfloat16, torch.float32))
        return Hardware("cpu", bf16, fp32, ram(), 0.0, 0.9, _OWN, balance=90.0)
    found = re.fullmatch(r"([a-z0-9]+?)(?:x([1-9][0-9]*))?", name)
    if found is None or found[1] not in GPUS:
        raise ValueError(f"hardware {name!r} is not known; there are {KNOWN}")
    return replace(GPUS[found[1]], name=name, devices=int(found[2] or 1))


def product_rate(
    dtype: torch.dtype, clock: Callable[[], float], side: int = 512, seconds: float = 0.2
) -> float:
    """FLOP/s of the fastest of many products of two square matrices on this CPU.

    Args:
        dtype: of the matrices.
        clock: seconds.
        side: rows and columns.
        seconds: to spend.
    """
    a, b = torch.randn(2, side, side).to(dtype)
    a @ b
    fastest, end = float("inf"), clock() + seconds
    while clock() < end:
        start = clock()
        a @ b
        fastest = min(fastest, clock() - start)
    return 2 * side**3 / fastest


def ram() -> float:
    """Memory of this machine, GiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
