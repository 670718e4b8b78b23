"""Checkpoints, the log of a run, and its metrics."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import torch

from jepa_modalities.api import Run
from jepa_modalities.train import checkpoint
from jepa_modalities.train.checkpoint import CheckpointError
from jepa_modalities.train.log import cut, read


def repacked(mutation: ModuleType) -> object:
    """A member of the state's archive damaged: mostly its pickle."""

    def damage(content: bytes, draw: random.Random) -> bytes:
        if draw.random() < 0.4:
            return bytes(mutation.binary(content, draw))
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
            chosen = draw.choice(
                [name for name in old.namelist() if name.endswith(".pkl")] * 3 + old.namelist()
            )
            for name in old.namelist():
                inside = old.read(name)
                new.writestr(name, mutation.both(inside, draw) if name == chosen else inside)
        return out.getvalue()

    return damage


def saved(folder: Path) -> Path:
    """A checkpoint with the kinds of content that training saves."""
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
    moments = {"exp_avg": torch.rand(2, 3), "step": torch.tensor(5.0)}
    state = {"optim": {"state": {0: moments}, "lr": 1e-3}, "names": ["a", "b"], "seed": (1, 2)}
    return checkpoint.save(folder, 5, weights, state)


def seal(home: Path) -> None:
    """Write the checksums anew, as someone would who means harm."""
    manifest = json.loads((home / "manifest.json").read_text())
    manifest["sha256"] = {
        part: hashlib.sha256((home / part).read_bytes()).hexdigest() for part in checkpoint.PARTS
    }
    (home / "manifest.json").write_text(json.dumps(manifest))


def test_checkpoints(mutation: ModuleType, tmp_path: Path) -> None:
    """Damage by accident, which the checksums tell, and by intent, with fitting checksums."""
    home = saved(tmp_path)
    parts = {part: home / part for part in checkpoint.PARTS}

    def load() -> None:
        step, tensors, state = checkpoint.load(tmp_path)
        assert step == 5 and isinstance(state, dict)
        assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
        [float(tensor.double().sum()) for tensor in tensors.values()]
        repr(state)

    def sealed() -> None:
        seal(home)
        load()

    names = [home.name]
    damage = {parts["model.safetensors"]: mutation.both, parts["state.pt"]: repacked(mutation)}
    mutation.attack(sealed, damage, names)
    seal(home)
    files = {
        **dict.fromkeys(parts.values(), mutation.binary),
        home / "manifest.json": mutation.json_damage,
    }
    mutation.attack(load, files, names, mutation.COUNT // 4)


def test_logs_and_metrics(mutation: ModuleType, tmp_path: Path) -> None:
    log, metrics = tmp_path / "log.jsonl", tmp_path / "metrics.json"
    log.write_text("".join(json.dumps({"step": n, "loss": 0.5}) + "\n" for n in range(1, 5)))
    metrics.write_text(json.dumps({"encoder/linear/accuracy": 0.9, "collapse/rankme": 3.0}))

    def load() -> None:
        cut(tmp_path, 3)
        assert all(record["step"] <= 3 for record in read(tmp_path))
        assert all(isinstance(value, float) for value in Run(tmp_path).metrics.values())

    mutation.attack(load, {log: mutation.text, metrics: mutation.json_damage})


class Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.place),)


def test_pickles_are_never_executed(tmp_path: Path) -> None:
    """In torch's archive, as a bare pickle, and in place of the weights."""
    home, sprung = saved(tmp_path), tmp_path / "sprung"
    intact = {part: (home / part).read_bytes() for part in checkpoint.PARTS}
    packed = io.BytesIO()
    torch.save({"a": Trap(sprung)}, packed)
    bare = pickle.dumps(Trap(sprung))
    hostile = [("state.pt", packed.getvalue()), ("state.pt", bare), ("model.safetensors", bare)]
    for part, content in hostile:
        (home / part).write_bytes(content)
        seal(home)
        with pytest.raises(CheckpointError, match=r"step-000000005 .*nothing in it was executed"):
            checkpoint.load(tmp_path)
        (home / part).write_bytes(intact[part])
    assert not sprung.exists()


@pytest.mark.parametrize("state", [[1], torch.ones(2)])
def test_states_of_another_kind(tmp_path: Path, state: object) -> None:
    home = saved(tmp_path)
    torch.save(state, home / "state.pt")
    seal(home)
    with pytest.raises(CheckpointError, match="expected a dict"):
        checkpoint.load(tmp_path)


def test_checkpoints_under_another_name(tmp_path: Path) -> None:
    home = saved(tmp_path)
    home.rename(home.with_name("step-000000009"))
    with pytest.raises(CheckpointError, match=r"000000009 is damaged .*for step 5"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("line", ["[1]", '{"loss": 1}', '{"step": "3"}', "\xff", 9999 * "["])
def test_logs_end_at_the_first_line_that_is_none(tmp_path: Path, line: str) -> None:
    content = '{"step": 1}\n' + line + '\n{"step": 3}\n'
    (tmp_path / "log.jsonl").write_bytes(content.encode("latin-1"))
    assert read(tmp_path) == [{"step": 1}]
    cut(tmp_path, 1)


@pytest.mark.parametrize("text", ["[1]", "{", '{"a": "x"}', '{"a": null}', 99_999 * "["])
def test_metrics_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(ValueError, match=r"metrics\.json holds no results"):
        Run(tmp_path).metrics  # noqa: B018
