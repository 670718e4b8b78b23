"""Samples per second, data wait and, on a GPU, the share of the peak that is used (MFU)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch

from jepa_modalities.train.distributed import Processes

# Dense bf16 peaks in FLOP/s, from the makers' data sheets.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40": 181e12, "4090": 165e12}


def peak(device: torch.device) -> float | None:
    """Nominal bf16 peak of a known GPU, FLOP/s."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((value for key, value in PEAKS.items() if key in name), None)


class Speed:
    """Counts samples and time; looks at the clock only when a record is written.

    Args:
        batch_size: samples per optimiser step over all processes.
        peers: this process among its peers.
    """

    def __init__(self, batch_size: int, peers: Processes) -> None:
        self.batch_size, self.peers = batch_size, peers
        self._peak = peak(peers.device)
        self._flops = 0.0
        self._steps = self._all_steps = 0
        self._wait = self._off = self._all_seconds = 0.0
        self._start = time.perf_counter()

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count the FLOPs of the first step, on a GPU of known peak."""
        if self._peak is None or self._all_steps + self._steps:
            yield
            return
        from torch.utils.flop_counter import FlopCounterMode  # imports Triton

        with FlopCounterMode(display=False) as counter:
            yield
        self._flops += counter.get_total_flops()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent on making batches and masks."""
        begin = time.perf_counter()
        yield
        self._wait += time.perf_counter() - begin

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave monitor and checkpoints out of the rate."""
        begin = time.perf_counter()
        yield
        self._off += time.perf_counter() - begin

    def step(self) -> None:
        """One optimiser step is done."""
        self._steps += 1

    def read(self) -> dict[str, float]:
        """Numbers since the last call; call right after a synchronisation."""
        now = time.perf_counter()
        seconds = max(now - self._start - self._off, 1e-9)
        numbers = {
            "samples_per_second": self._steps * self.batch_size / seconds,
            "data_wait": self._wait / seconds,
        }
        if self._peak is not None and self._flops:
            numbers["mfu"] = self._flops * self._steps / seconds / self._peak
            numbers["memory_gib"] = torch.cuda.max_memory_allocated(self.peers.device) / 2**30
        self._all_steps += self._steps
        self._all_seconds += seconds
        self._steps, self._wait, self._off, self._start = 0, 0.0, 0.0, now
        return numbers

    def overall(self) -> float:
        """Samples per second since the start of this call."""
        return self._all_steps * self.batch_size / max(self._all_seconds, 1e-9)
