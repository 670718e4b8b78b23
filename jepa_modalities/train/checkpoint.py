"""Checkpoints: written whole or not at all, checked before they are read, the last two kept."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from jepa_modalities.export.encoder import write_tensors

KEPT = 2
PARTS = ("model.safetensors", "state.pt")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message says which one can."""


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _save_state(path: Path, state: dict[str, Any]) -> None:
    try:
        with path.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:
        # torch hides the disk's complaint behind one about its own position in the file.
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a run folder, ascending; unfinished writes are not among them."""
    found = [path for path in (folder / "checkpoint").glob("step-*") if path.is_dir()]
    numbers = [path.name.removeprefix("step-") for path in found]
    return sorted(int(number) for number in numbers if number.isdecimal())


def save(folder: Path, step: int, model: dict[str, Tensor], state: dict[str, Any]) -> Path:
    """Write the checkpoint of a step atomically and drop all but the last two.

    Args:
        folder: run folder.
        step: optimiser steps done.
        model: tensors by name.
        state: anything that `torch.load(weights_only=True)` reads back.

    Raises:
        OSError: the disk is full or read-only; the checkpoints that were there stay as they were.
    """
    home = folder / "checkpoint"
    home.mkdir(parents=True, exist_ok=True)
    for stale in home.glob(".writing-*"):
        shutil.rmtree(stale, ignore_errors=True)
    temporary = home / f".writing-{step}"
    temporary.mkdir()
    try:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.items()}
        write_tensors(temporary / PARTS[0], weights)
        _save_state(temporary / PARTS[1], state)
        for part in PARTS:
            _sync(temporary / part)
        digests = {part: _digest(temporary / part) for part in PARTS}
        write_json(temporary / "manifest.json", {"step": step, "sha256": digests})
        final = home / f"step-{step:09d}"
        if final.exists():
            shutil.rmtree(final)
        os.replace(temporary, final)
        _sync(home)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in steps(folder)[:-KEPT]:
        shutil.rmtree(home / f"step-{old:09d}", ignore_errors=True)
    return final


def _complaint(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        for part in PARTS:
            if _digest(path / part) != manifest["sha256"][part]:
                return f"{part} differs from its checksum"
        if manifest["step"] != int(path.name.removeprefix("step-")):
            return f"it was written for step {manifest['step']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def load(folder: Path, step: int | None = None) -> tuple[int, dict[str, Tensor], dict[str, Any]]:
    """Read the last checkpoint, or the one of a step.

    Returns:
        The step, the model's tensors, the state.

    Raises:
        CheckpointError: there is none, it is damaged (names the intact ones), or it holds other
            objects than tensors and plain values, which are never unpickled.
    """
    there = steps(folder)
    if not there:
        raise CheckpointError(
            f"no checkpoint in {folder / 'checkpoint'}: the run ended before its first one; remove "
            f"{folder} or start in another --out folder, without --resume"
        )
    wanted = there[-1] if step is None else step
    if wanted not in there:
        raise CheckpointError(f"no checkpoint of step {wanted} in {folder}; there are: {there}")
    path = folder / "checkpoint" / f"step-{wanted:09d}"
    complaint = _complaint(path)
    if complaint is not None:
        intact = [
            other
            for other in there
            if other != wanted and _complaint(path.with_name(f"step-{other:09d}")) is None
        ]
        remedy = (
            f"go on from the one of step {intact[-1]} with --resume-step {intact[-1]}"
            if intact
            else "no other checkpoint is intact: start again in another --out folder"
        )
        raise CheckpointError(f"the checkpoint {path} is damaged ({complaint}); {remedy}")
    try:
        state = torch.load(path / PARTS[1], map_location="cpu", weights_only=True)
        weights = load_file(path / PARTS[0])
        if not isinstance(state, dict):
            raise TypeError(f"its state is a {type(state).__name__}, expected a dict")
    except MemoryError:
        raise
    except Exception as error:  # torch, pickle and safetensors have kinds of their own
        told = f"{type(error).__name__}: {error}"[:200]
        if isinstance(error, pickle.UnpicklingError):  # torch's words advise to execute it
            told = f"{PARTS[1]} holds other objects than tensors and plain values"
        raise CheckpointError(
            f"the checkpoint {path} fits its checksums but was not written by training ({told}); "
            f"do not use it, nothing in it was executed"
        ) from error
    return wanted, weights, state


def forget_after(folder: Path, step: int) -> None:
    """Drop the checkpoints of later steps: the run goes on from `step`, so they never happened."""
    for later in steps(folder):
        if later > step:
            shutil.rmtree(folder / "checkpoint" / f"step-{later:09d}", ignore_errors=True)
