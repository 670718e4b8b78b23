"""Tiny runs through the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# 3 blocks of 8 digits: a run takes about a second, most of it the report.
DIGITS = """image_digits --train.device cpu --train.threads 1 --train.steps 6 --train.batch-size 8
--train.log-every 1 --train.warmup-steps 2 --encoder.dim 16 --encoder.depth 1 --encoder.heads 2
--regulariser.widths 8 8 --data.limit 80 --evaluate.enabled False"""


@pytest.fixture(scope="session")
def digits() -> list[str]:
    return DIGITS.split()


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images of mixed sizes in two class folders: they are streamed by worker processes."""
    top, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(40):
        height, width = rng.integers(20, 40, 2)
        pixels = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((int(width), int(height)))
        (top / "ab"[number % 2]).mkdir(exist_ok=True)
        image.save(top / "ab"[number % 2] / f"{number:02d}.png")
    return top


@pytest.fixture(scope="session")
def start() -> Callable[..., subprocess.Popen[str]]:
    """Start `jm` (or another program in front of its module) in a process group of its own."""

    def run(*args: str, program: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *program, "-m", "jepa_modalities.cli.main", *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )

    return run
