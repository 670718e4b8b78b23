"""A hundred kills, at random moments and inside writes: runs end as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = int(os.environ.get("JEPA_KILLS", "25"))  # of each modality


@pytest.mark.parametrize("modality", ["image", "tabular", "ecg", "sar"])
def test_killed_runs_equal_the_undisturbed_one(modality: str, tmp_path: Path) -> None:
    script = Path(__file__).with_name("killed.py")
    seed = random.SystemRandom().randrange(2**32)
    command = [sys.executable, str(script), modality, str(tmp_path), str(KILLS), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 + 8 * KILLS)
    print(f"seed {seed}\n{done.stdout}")
    assert done.returncode == 0, done.stderr[-3000:]
    *kills, last = [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"]
    assert last["kills"] == len(kills) == KILLS and last["runs"] >= 1
    assert any(kill["inside"] != "a random moment" for kill in kills)
