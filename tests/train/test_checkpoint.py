"""Checkpoints are whole, checked, kept in pairs; damage is told and the other one offered."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jepa_modalities.train import checkpoint
from jepa_modalities.train.checkpoint import CheckpointError


def model(value: float = 1.0, size: int = 8) -> dict[str, Tensor]:
    return {"encoder.weight": torch.full((size, size), value), "count": torch.tensor(3)}


def write(folder: Path, *steps: int) -> None:
    for step in steps:
        state = {"optimizer": {"w": {"step": torch.tensor(float(step))}}, "verdict": "fine"}
        checkpoint.save(folder, step, model(step), state)


def test_round_trip_and_the_last_two_are_kept(tmp_path: Path) -> None:
    write(tmp_path, 5, 10, 100)
    assert checkpoint.steps(tmp_path) == [10, 100]
    step, tensors, state = checkpoint.load(tmp_path)
    assert step == 100 and torch.equal(tensors["encoder.weight"], model(100.0)["encoder.weight"])
    assert state["optimizer"]["w"]["step"] == 100 and state["verdict"] == "fine"
    assert checkpoint.load(tmp_path, 10)[0] == 10
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 5.*\[10, 100\]"):
        checkpoint.load(tmp_path, 5)


def test_nothing_in_it_is_executed_when_it_is_read(tmp_path: Path) -> None:
    write(tmp_path, 1)
    place = tmp_path / "checkpoint" / "step-000000001"
    assert {path.name for path in place.iterdir()} == {
        "model.safetensors",
        "state.pt",
        "manifest.json",
    }
    torch.load(place / "state.pt", weights_only=True)
    with pytest.raises(Exception, match=r"(?i)weights.only|pickle"):
        torch.save({"f": shutil.rmtree}, place / "state.pt")
        torch.load(place / "state.pt", weights_only=True)


@pytest.mark.parametrize("part", ["model.safetensors", "state.pt", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_damage_is_told_and_the_other_one_is_offered(
    tmp_path: Path, part: str, damage: str
) -> None:
    write(tmp_path, 4, 8)
    file = tmp_path / "checkpoint" / "step-000000008" / part
    content = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)
    else:
        file.unlink()
    with pytest.raises(CheckpointError, match=r"step-000000008 is damaged.*--resume-step 4"):
        checkpoint.load(tmp_path)
    assert checkpoint.load(tmp_path, 4)[0] == 4
    shutil.rmtree(tmp_path / "checkpoint" / "step-000000004")
    with pytest.raises(CheckpointError, match="no other checkpoint is intact"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("content", ["null", "[]", '{"sha256": []}', '{"sha256": {}}'])
def test_a_strange_manifest_is_damage(tmp_path: Path, content: str) -> None:
    write(tmp_path, 4)
    (tmp_path / "checkpoint" / "step-000000004" / "manifest.json").write_text(content)
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.load(tmp_path)


def test_an_unfinished_write_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="ended before its first one"):
        checkpoint.load(tmp_path)
    home = tmp_path / "checkpoint"
    (home / ".writing-7").mkdir(parents=True)
    (home / ".writing-7" / "model.safetensors").write_bytes(b"half")
    (home / "step-000000003-copy").mkdir()
    assert checkpoint.steps(tmp_path) == []
    write(tmp_path, 8)
    assert sorted(path.name for path in home.iterdir()) == ["step-000000003-copy", "step-000000008"]


def test_going_on_from_an_earlier_one_forgets_the_later(tmp_path: Path) -> None:
    write(tmp_path, 4, 8)
    checkpoint.forget_after(tmp_path, 4)
    assert checkpoint.steps(tmp_path) == [4]
    write(tmp_path, 5, 8)
    assert checkpoint.steps(tmp_path) == [5, 8]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("big", ["model", "state"])
def test_what_was_there_survives_a_failed_write(tmp_path: Path, big: str) -> None:
    write(tmp_path, 4)
    weights = model(5.0, 256 if big == "model" else 8)
    state = {"moments": torch.zeros(65536 if big == "state" else 8)}
    with largest_file(64 << 10), pytest.raises(OSError, match=r"(?i)file too large|disk|space"):
        checkpoint.save(tmp_path, 5, weights, state)
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["step-000000004"]
    assert checkpoint.load(tmp_path)[0] == 4


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system that is soon full; needs the right to mount one."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        failed = subprocess.run(command, capture_output=True).returncode
    except OSError:
        failed = 1
    if failed:
        pytest.skip("mounting a small file system needs root on Linux")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("big", ["model", "state"])
def test_a_full_disk_has_its_own_number(tmp_path: Path, big: str) -> None:
    with small_disk(tmp_path, "256k"):
        write(tmp_path, 4)
        weights = model(5.0, 512 if big == "model" else 8)
        state = {"moments": torch.zeros(262144 if big == "state" else 8)}
        with pytest.raises(OSError, match="No space left") as caught:
            checkpoint.save(tmp_path, 5, weights, state)
        assert caught.value.errno == 28
        assert checkpoint.load(tmp_path)[0] == 4
        assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["step-000000004"]


def test_files_get_the_mode_that_the_umask_gives(tmp_path: Path) -> None:
    program = (
        "import os, sys, torch; os.umask(0o027)\n"
        "from pathlib import Path\n"
        "from jepa_modalities.train.checkpoint import save\n"
        "save(Path(sys.argv[1]), 1, {'w': torch.ones(2)}, {})\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, env=os.environ)
    for path in (tmp_path / "checkpoint" / "step-000000001").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o640, path.name


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    checkpoint.write_json(path, {"a": 1.0})
    with pytest.raises(TypeError):
        checkpoint.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1.0}
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]
