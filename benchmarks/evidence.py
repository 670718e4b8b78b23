"""One small file per finished run: who made it, and which test sample each probe got right.

Correctness is kept as bits, so that runs made on other days can be added and paired with these.
"""

from __future__ import annotations

import base64
import datetime
import json
import os
import platform
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from jepa_modalities.train.environment import commit

RESULTS = Path(__file__).resolve().parent / "results"
# Correctness (seeds, samples) of every (arm, budget) by probe.
Runs = dict[tuple[str, float], dict[str, NDArray[np.float64]]]


def about(threads: int) -> dict[str, Any]:
    """What made a number: command, commit, date, device, versions.

    Of paths only the last part: folders differ from machine to machine.
    """
    given = [Path(text).name if text.startswith("/") else text for text in sys.argv[1:]]
    return {
        "command": " ".join(["python", "benchmarks/" + Path(sys.argv[0]).name, *given]),
        "commit": commit(),
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
        "device": processor(),
        "threads": threads,
        "torch": torch.__version__,
    }


def processor() -> str:
    """Name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def write_evidence(path: Path, right: Mapping[str, ArrayLike], facts: Mapping[str, Any]) -> None:
    """Write one run's file, atomically: facts, accuracies and the bits behind them."""
    values = {name: np.asarray(value, dtype=bool) for name, value in right.items()}
    bits = {name: np.packbits(value).tobytes() for name, value in values.items()}
    content = {
        **facts,
        "accuracy": {name: round(float(value.mean()), 5) for name, value in values.items()},
        "samples": len(next(iter(values.values()))),
        "right": {name: base64.b64encode(packed).decode() for name, packed in bits.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1))
    os.replace(temporary, path)


def read_evidence(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[np.bool_]]]:
    """Facts and correctness of one run."""
    content = json.loads(path.read_text())
    right = {}
    for name, text in content.pop("right").items():
        packed = np.frombuffer(base64.b64decode(text), np.uint8)
        right[name] = np.unpackbits(packed, count=content["samples"]).astype(bool)
    return content, right


def collect(folder: Path) -> Runs:
    """All runs of a folder; files are called <arm>-<budget>-<seed>.json."""
    parts: dict[tuple[str, float], dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.glob("*.json")):
        arm, budget, _ = path.stem.rsplit("-", 2)
        for probe, value in read_evidence(path)[1].items():
            parts[arm, float(budget)][probe].append(value.astype(np.float64))
    return {k: {p: np.stack(v) for p, v in probes.items()} for k, probes in parts.items()}
