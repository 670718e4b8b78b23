"""Ratio-gradient targets from integral images beside dense convolutions: time as a ratio.

    OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0 python benchmarks/sar_target.py --threads 1 \
        --out benchmarks/results/sar_target_cpu.json

The dense way is the definition written down: four kernels of (2 r + 1)^2 weights per radius, one
`conv2d`. Both take turns in one process on the same chips; the fastest round of each counts. On the
CPU that is the process's own time, which other work on the machine disturbs least. The largest
difference of the values is reported too.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_modalities.adapters.sar.target import EPS, RADII, gaussian_weights, gradient_targets
from jepa_modalities.train.environment import commit

# batch, side in pixels, radii
CASES = {
    "SAR-JEPA, 224 px, radii 5 9 13 17": (8, 224, RADII),
    "MSTAR, 80 px, radii 2 4 6 8": (64, 80, (2, 4, 6, 8)),
}


def dense(images: Tensor, radii: tuple[int, ...], window: str) -> Tensor:
    """The same targets by two-dimensional convolutions."""
    scales = []
    for radius in radii:
        side = 2 * radius + 1
        kernel = torch.ones(side, side)
        if window == "gaussian":
            weight = torch.tensor(gaussian_weights(radius))
            kernel = weight[:, None] * weight
        halves = torch.zeros(4, 1, side, side)
        gap = int(window == "gaussian")
        halves[0, 0, :, : radius + 1 - gap] = kernel[:, : radius + 1 - gap]
        halves[1, 0, :, radius + gap :] = kernel[:, radius + gap :]
        halves[2, 0, : radius + 1 - gap] = kernel[: radius + 1 - gap]
        halves[3, 0, radius + gap :] = kernel[radius + gap :]
        padded = F.pad(images, (radius,) * 4, mode="reflect") + EPS
        left, right, up, down = F.conv2d(padded, halves.to(images.device)).unbind(1)
        scales.append(torch.hypot((left / right).log(), (up / down).log()))
    return torch.stack(scales, 1)


def seconds(run: Callable[[], Tensor], device: str) -> float:
    """Time of one call: the process's own on the CPU, with the device's work on a GPU."""
    if device == "cpu":
        start = time.process_time()
        run()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(device: str, rounds: int) -> list[dict[str, object]]:
    """Every case and window: milliseconds per chip of both ways, their ratio, the difference."""
    rows: list[dict[str, object]] = []
    for name, (batch, side, radii) in CASES.items():
        images = torch.rand(batch, 1, side, side, generator=torch.Generator().manual_seed(0))
        images = images.to(device)
        for window in ("areal", "gaussian"):
            ours = partial(gradient_targets, images, radii, window=window)  # type: ignore[arg-type]
            theirs = partial(dense, images, radii, window)
            difference = float((ours() - theirs()).abs().max())
            times = [[seconds(run, device) for run in (ours, theirs)] for _ in range(rounds)]
            best = [min(column) for column in zip(*times, strict=True)]
            rows.append(
                {
                    "case": name,
                    "window": window,
                    "ours_ms_per_chip": 1000 * best[0] / batch,
                    "dense_ms_per_chip": 1000 * best[1] / batch,
                    "ratio": best[1] / best[0],
                    "largest_difference": difference,
                }
            )
    return rows


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = measure(options.device, options.rounds)
    for row in rows:
        print(
            f"{row['case']:36s} {row['window']:9s} {row['ours_ms_per_chip']:8.2f} ms  dense "
            f"{row['dense_ms_per_chip']:8.2f} ms  ratio {row['ratio']:5.1f}  "
            f"difference {row['largest_difference']:.1e}"
        )
    if options.out:
        content = {
            "date": datetime.date.today().isoformat(),
            "commit": commit(),
            "machine": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "device": options.device,
            "threads": options.threads,
            "rounds": options.rounds,
            "rows": rows,
        }
        temporary = options.out.with_name(f".{options.out.name}.{os.getpid()}")
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(temporary, options.out)


if __name__ == "__main__":
    main()
