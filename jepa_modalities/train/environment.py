"""env.json: what a run was made with."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

from jepa_modalities import __version__
from jepa_modalities.train import checkpoint
from jepa_modalities.train.distributed import Processes


def write_environment(folder: Path, peers: Processes) -> None:
    """env.json: what the run was made with."""
    device = str(peers.device)
    if peers.device.type == "cuda":
        device = torch.cuda.get_device_name(peers.device)
    checkpoint.write_json(
        folder / "env.json",
        {
            "jepa_modalities": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "platform": platform.platform(),
            "device": device,
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "processes": peers.world,
            "commit": commit(),
            "date": datetime.datetime.now().isoformat(timespec="seconds"),
            "command": sys.argv,
        },
    )


def commit() -> str | None:
    """The clone's commit; None for an installed package."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if not result.stdout.strip():
        return None
    changes = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    return result.stdout.strip() + ("-changed" if changes.stdout.strip() else "")
