"""A process of a launch dies: torchrun's restart goes on from the last checkpoint."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jepa_modalities import api
from jepa_modalities.train import checkpoint
from jepa_modalities.train.distributed import Processes
from jepa_modalities.train.lock import locked
from jepa_modalities.train.log import read

PROGRAM = Path(__file__).with_name("elastic.py")


def launch(folder: Path, *deaths: int) -> subprocess.CompletedProcess[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    sizes = ["--nproc-per-node", "2", "--max-restarts", str(len(deaths))]
    return subprocess.run(
        [*torchrun, *sizes, str(PROGRAM), str(folder), *map(str, deaths)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Never disturbed, on two processes."""
    folder = tmp_path_factory.mktemp("elastic") / "whole"
    done = launch(folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def curve(folder: Path) -> list[tuple[int, float]]:
    return [(record["step"], record["loss"]) for record in read(folder)]


def test_restarts_lose_nothing(whole: Path, tmp_path: Path) -> None:
    """Before the first checkpoint and after it; what was logged since is forgotten."""
    folder = tmp_path / "run"
    done = launch(folder, 2, 11)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("exitcode: -9") == 2  # it did die
    assert curve(folder) == curve(whole)
    weights, expected = (load_file(run / "encoder.safetensors") for run in (folder, whole))
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


def test_a_run_is_resumed_on_another_number_of_processes(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "finish", lambda *args: None)  # drawing costs more than the run
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    config = api.read_config(folder / "config.json")
    step = checkpoint.steps(folder)[0]
    api.pretrain(config, folder, resume_step=step, quiet=True)
    alone, together = curve(folder), curve(whole)
    assert step == 12 and alone[:step] == together[:step]
    for (number, loss), (expected, other) in zip(alone, together, strict=True):
        # Sums in another order. Seen on AVX-512: 6e-8 at the first step, 4e-5 at the fourth; the
        # curve itself moves by .03 a step. Why it grows so fast was not looked into.
        assert number == expected and loss == pytest.approx(other, abs=2e-4, rel=0)


def test_only_the_launch_that_began_a_run_takes_it_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    peers = Processes(0, 1, torch.device("cpu"))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "first")
    with locked(tmp_path, peers, fresh=True):
        (tmp_path / "log.jsonl").write_text("{}\n")
    for name, count, mine in (("first", "0", False), ("other", "1", False), ("first", "1", True)):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", name)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        if mine:
            with locked(tmp_path, peers, fresh=True):
                continue
        with (
            pytest.raises(FileExistsError, match="holds a run already"),
            locked(tmp_path, peers, fresh=True),
        ):
            pass
    shutil.rmtree(tmp_path)


def test_restarts_need_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(ValueError, match="--max-restarts needs --out"):
        api.pretrain("image_digits")
