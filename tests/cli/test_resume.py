"""Killed, interrupted and resumed runs of the real command, on images that workers decode."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from jepa_modalities.cli.main import main
from jepa_modalities.train import checkpoint
from jepa_modalities.train.log import read

STEPS = 40
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def flags(photos: Path) -> list[str]:
    """Two workers, crops, flips, colour, masks and a batch-norm projector: much that is random."""
    return f"""image_cjepa_cifar10_tiny_cpu --data.path {photos} --data.test-path {photos}
        --data.size 16 16 --data.patch 4 --train.device cpu --train.threads 1 --train.workers 2
        --train.steps {STEPS} --train.batch-size 8 --train.log-every 1 --train.checkpoint-every 4
        --train.warmup-steps 3 --encoder.dim 16 --encoder.depth 1 --encoder.heads 2
        --predictor.width 16 --predictor.depth 1 --regulariser.widths 8 8 --augment.flip True
        --augment.colour 0.5 --mask.min-keep 1 --mask.target-scale 0.1 0.2
        --evaluate.enabled False""".split()


@pytest.fixture(scope="module")
def whole(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """Loss of every step of the undisturbed run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    threads = torch.get_num_threads()
    assert main(["pretrain", *flags, "--out", str(folder), "--quiet"]) == 0
    torch.set_num_threads(threads)
    return {record["step"]: record["loss"] for record in read(folder)}


def wait_for(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until the log has reached a step."""
    end = time.monotonic() + 120
    while len(read(folder)) < step:
        if process.poll() is not None:
            raise AssertionError(process.communicate())
        assert time.monotonic() < end, f"step {step} was not reached"
        time.sleep(0.002)


def check_log(folder: Path, whole: dict[int, float]) -> None:
    """One record per step, and bit for bit the loss of the undisturbed run."""
    records = read(folder)
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    assert {record["step"]: record["loss"] for record in records} == whole


@pytest.mark.slow
def test_killed_at_a_random_step_and_resumed(
    flags: list[str], whole: dict[int, float], start: Start, tmp_path: Path
) -> None:
    folder, step = tmp_path / "run", random.SystemRandom().randint(5, STEPS - 12)
    process = start("pretrain", *flags, "--out", str(folder))
    wait_for(folder, step, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    there = checkpoint.steps(folder)
    assert there and there[-1] < STEPS, f"killed at step {step}"
    # At once: the dead run's workers may still be alive, and must not hold the folder.
    assert main(["pretrain", *flags[:1], "--out", str(folder), "--resume", "--quiet"]) == 0
    process.communicate()  # ends with the last worker
    check_log(folder, whole)
    assert (folder / "metrics.json").exists() and (folder / "encoder.safetensors").exists()


@pytest.mark.slow
def test_ctrl_c_and_sigterm_save_first(
    flags: list[str], whole: dict[int, float], start: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    never = ["--train.checkpoint-every", "1000"]
    stopped = 0
    for number, extra in ((signal.SIGINT, []), (signal.SIGTERM, ["--resume"])):
        process = start("pretrain", *flags, *never, "--out", str(folder), *extra)
        wait_for(folder, stopped + 5, process)
        os.killpg(process.pid, number)  # the workers get it too, as on a terminal
        _, message = process.communicate(timeout=60)
        assert process.returncode == 130, message
        [stopped] = checkpoint.steps(folder)[-1:]
        assert f"stopped at step {stopped} of {STEPS}" in message
        assert f"--out {folder} --resume" in message and "Traceback" not in message
        assert len(read(folder)) == stopped < STEPS
    assert main(["pretrain", *flags, "--out", str(folder), "--resume", "--quiet"]) == 0
    check_log(folder, whole)


@pytest.mark.slow
def test_torchrun_writes_one_run_folder(digits: list[str], start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    alone = tmp_path / "alone"
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = start("pretrain", *digits, "--out", str(folder), program=torchrun)
    told, message = process.communicate(timeout=180)
    assert process.returncode == 0, message
    assert told.rstrip().endswith(f"run: {folder}") and told.count("run: ") == 1
    threads = torch.get_num_threads()
    assert main(["pretrain", *digits, "--out", str(alone), "--quiet"]) == 0
    torch.set_num_threads(threads)
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in alone.iterdir())
    losses = [[record["loss"] for record in read(run)] for run in (folder, alone)]
    assert len(losses[0]) == 6 and losses[0] == pytest.approx(losses[1], abs=1e-5, rel=0)
