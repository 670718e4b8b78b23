"""Short runs that are killed again and again: `killed.py MODALITY FOLDER KILLS SEED`.

Children are forked from one process that has imported everything, so a kill costs a second. Half of
them die at a random moment, half inside a write of a checkpoint, which leaves half a file behind.
Each run is resumed until it ends, and must then equal the undisturbed one bit for bit. Every kill
is printed as a line of JSON.
"""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from jepa_modalities import api
from jepa_modalities.data.sar import synthetic
from jepa_modalities.settings import changed
from jepa_modalities.train import checkpoint
from jepa_modalities.train.log import read

STEPS = 16
SMALL: dict[str, Any] = {
    "train.steps": STEPS,
    "train.batch_size": 16,
    "train.log_every": 1,
    "train.checkpoint_every": 2,
    "train.monitor_every": 6,
    "train.warmup_steps": 3,
    "train.threads": 1,
    "train.device": "cpu",
    "encoder.dim": 16,
    "encoder.depth": 1,
    "encoder.heads": 2,
    "evaluate.enabled": False,
}
PREDICTED: dict[str, Any] = {"predictor.width": 16, "predictor.depth": 1, "predictor.heads": 2}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "image": (
        "image_jepa_vicreg_cifar10_tiny_cpu",
        PREDICTED
        | {"data.path": "digits", "data.size": (8, 8), "data.channels": 1, "data.patch": 2}
        | {"data.limit": 200, "regulariser.widths": (8, 8), "target.kind": "ema"},
    ),
    "tabular": ("tabular_breast_cancer", PREDICTED),
    "ecg": (
        "ecg_synthetic",
        PREDICTED | {"data.records": 60, "target.centroids": 84, "target.dim": 8},
    ),
    "sar": ("sar_synthetic", {"data.limit": 80, "regulariser.widths": (8, 8)}),
}
WRITERS = ("write_tensors", "_save_state", "write_json", "_sync")


def config_of(modality: str) -> Any:
    """The short run."""
    recipe, own = RUNS[modality]
    return changed(api.recipe(recipe), SMALL | own)


def no_report(*args: Any) -> None:
    """Instead of `api.finish`: drawing would cost more than such a run."""


def die_inside(number: int) -> None:
    """Kill this process inside the `number`-th call that writes a part of a checkpoint."""
    left = [number]

    def lethal(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def write(path: Path, *args: Any, **more: Any) -> Any:
            done = function(path, *args, **more)
            left[0] -= "checkpoint" in path.parts
            if left[0] == 0:
                if path.is_file():
                    os.truncate(path, path.stat().st_size // 2)
                (folder_of(path) / "died").write_text(f"{name} {path.name}")
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return write

    for name in WRITERS:
        setattr(checkpoint, name, lethal(name, getattr(checkpoint, name)))


def folder_of(path: Path) -> Path:
    """The run folder of a checkpoint's file."""
    return Path(*path.parts[: path.parts.index("checkpoint")])


def child(config: Any, folder: Path, inside: int | None) -> int:
    """Fork a process that trains; resumes where a checkpoint is. Returns its number."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        if inside is not None:
            die_inside(inside)
        api.pretrain(config, folder, resume=bool(checkpoint.steps(folder)), quiet=True)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def outcome(folder: Path) -> tuple[list[tuple[int, float]], dict[str, torch.Tensor]]:
    """What must not depend on kills: losses and weights."""
    losses = [(record["step"], record["loss"]) for record in read(folder)]
    return losses, load_file(folder / "encoder.safetensors")


def main(modality: str, root: Path, kills: int, seed: int) -> None:
    """Kill so often; every run that ends is compared."""
    torch.set_num_threads(1)
    api.finish = no_report
    config, chance = config_of(modality), random.Random(seed)
    # In this process: all that is imported, and the simulated chips, are there for the children.
    synthetic.synthetic_chips = functools.cache(synthetic.synthetic_chips)
    api.pretrain(config, root / "whole", quiet=True)
    start = time.monotonic()
    _, status = os.waitpid(child(config, root / "again", None), 0)
    assert status == 0, "the undisturbed run failed"
    seconds = time.monotonic() - start
    losses, weights = outcome(root / "whole")
    assert [step for step, _ in losses] == list(range(1, STEPS + 1))
    done = ended = 0
    folder = root / "run"
    while done < kills or folder.exists():
        if not checkpoint.steps(folder):  # died before its first checkpoint: begun again
            shutil.rmtree(folder, ignore_errors=True)
        inside = chance.randint(1, 20) if done < kills and chance.random() < 0.5 else None
        process = child(config, folder, inside)
        if inside is None and done < kills:
            time.sleep(chance.uniform(0.1, 0.8) * seconds)
            if os.waitpid(process, os.WNOHANG)[0] == 0:
                os.kill(process, signal.SIGKILL)
                status = os.waitpid(process, 0)[1]
            else:
                status = 0
        else:
            status = os.waitpid(process, 0)[1]
        died = folder / "died"
        if os.WIFSIGNALED(status):
            done += 1
            step = len(read(folder))
            where = died.read_text() if died.exists() else "a random moment"
            print(json.dumps({"kill": done, "step": step, "inside": where}), flush=True)
        else:
            assert status == 0, "a resumed run failed"
            again, tensors = outcome(folder)
            assert again == losses, "another loss curve"
            assert tensors.keys() == weights.keys()
            assert all(torch.equal(tensors[name], weights[name]) for name in weights)
            ended += 1
            shutil.rmtree(folder)
        died.unlink(missing_ok=True)
    print(json.dumps({"kills": done, "runs": ended}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
