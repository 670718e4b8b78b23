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
    """The clone's commit, marked when tracked files differ from it; None for an installed package.

    A package installed inside somebody's own repository must not take that one's commit for its
    own, so this file itself has to be tracked.
    """
    here = Path(__file__)
    if _git("ls-files", "--error-unmatch", here.name) is None:
        return None
    return _git("describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=-changed")


def _git(*words: str) -> str | None:
    """What git says about this file's folder; None where it fails or is not there."""
    try:
        done = subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
