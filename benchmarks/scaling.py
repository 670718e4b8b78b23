"""One run on 1, 2 and 4 processes, on two hosts, and sharded: speed, losses, memory.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --skip hosts      # without root

Every launch is a real torchrun with gloo, one thread per process, on the same global batch; the
table gives samples per second over the run's steps (the first --warm left out), the largest
difference of any step's loss from that of one process, and each process's memory. "two hosts" are
two network namespaces with a virtual cable between them, each with an agent of its own and the same
rendezvous. FSDP is compared with DDP on ViT-B/16 at 224 pixels.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evidence import RESULTS, about

from jepa_modalities import api
from jepa_modalities.adapters.image.adapter import ImageAdapter
from jepa_modalities.config import encoder_size
from jepa_modalities.settings import changed
from jepa_modalities.train.distributed import gather_numbers, processes
from jepa_modalities.train.engine import Trainer
from jepa_modalities.train.log import Log, read

HOSTS = ("10.200.0.1", "10.200.0.2")
SPACES = ("jepa-a", "jepa-b")


def config(kind: str, data: Path, steps: int) -> Any:
    """A small I-JEPA run, or ViT-B with DDP or FSDP."""
    small: dict[str, Any] = {
        "data.path": str(data),
        "data.test_path": "",
        "data.limit": None,
        "evaluate.enabled": False,
        "train.steps": steps,
        "train.batch_size": 64,
        "train.log_every": 1,
        "train.monitor_every": steps,
        "train.checkpoint_every": steps,
        "train.warmup_steps": 2,
        "train.threads": 1,
        "train.device": "cpu",
        "train.precision": "fp32",
    }
    base = changed(api.recipe("image_ijepa_cifar10_tiny_cpu"), small)
    if kind == "small":
        return base
    large = {
        "data.size": (224, 224),
        "data.patch": 16,
        "encoder": encoder_size("base"),
        "train.batch_size": 4,
        "train.strategy": kind,
    }
    return changed(base, large)


def own_memory() -> float:
    """MiB that this process holds, without mapped files and what the allocator keeps for later."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def child(own: argparse.Namespace) -> None:
    """One process of a launch; the first one writes what was measured."""
    torch.set_num_threads(1)
    with processes("cpu") as peers:
        folder = Path(peers.agree(str(own.folder)))
        chosen = config(own.kind, own.data, own.steps)
        trainer = Trainer(ImageAdapter(chosen), chosen, folder, peers)
        log = Log(folder) if peers.main else None
        # The engine's own number leaves the monitor out; here the clock of every step counts.
        clock: list[float] = []
        optimise = trainer._optimise

        def timed(*args: Any) -> Any:
            done = optimise(*args)
            clock.append(time.perf_counter())
            return done

        trainer._optimise = timed  # type: ignore[method-assign]
        trainer.run(log)
        memory = gather_numbers(torch.tensor(own_memory(), dtype=torch.float64))
        if peers.main:
            seconds = statistics.median(np.diff(clock[own.warm :]))
            facts = {
                "samples_per_second": chosen.train.batch_size / seconds,
                "losses": [record["loss"] for record in read(folder)],
                "own_mib": memory.flatten().tolist(),
                "parameters": sum(p.numel() for p in trainer.jepa.encoder.parameters()),
            }
            own.out.write_text(json.dumps(facts))
        peers.barrier()


@contextmanager
def two_hosts() -> Iterator[None]:
    """Two network namespaces with a cable between them."""

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    try:
        for space in SPACES:
            ip("netns", "add", space)
        ip("link", "add", "jepa-0", "type", "veth", "peer", "name", "jepa-1")
        for number, space in enumerate(SPACES):
            ip("link", "set", f"jepa-{number}", "netns", space)
            ip("-n", space, "addr", "add", f"{HOSTS[number]}/24", "dev", f"jepa-{number}")
            ip("-n", space, "link", "set", f"jepa-{number}", "up")
            ip("-n", space, "link", "set", "lo", "up")
        yield
    finally:
        for space in SPACES:
            subprocess.run(["ip", "netns", "del", space], check=False)


def launch(kind: str, count: int, own: argparse.Namespace, hosts: bool = False) -> dict[str, Any]:
    """One torchrun, or two that meet."""
    with tempfile.TemporaryDirectory() as place:
        folder, out = Path(place) / "run", Path(place) / "facts.json"
        folder.mkdir()
        data = own.work / ("large.npy" if kind in ("ddp", "fsdp") else "small.npy")
        flags = ["--child", "--kind", kind, "--data", str(data), "--folder", str(folder)]
        flags += ["--out", str(out), "--warm", str(own.warm)]
        flags += ["--steps", str(own.steps if kind == "small" else own.large_steps)]
        torchrun = [sys.executable, "-m", "torch.distributed.run"]
        if not hosts:
            commands = [[*torchrun, "--standalone", "--nproc-per-node", str(count)]]
        else:
            meet = ["--rdzv-backend", "c10d", "--rdzv-id", "jepa", "--nproc-per-node", "1"]
            meet += ["--nnodes", "2", "--rdzv-endpoint", f"{HOSTS[0]}:29400"]
            commands = []
            for number, (space, address) in enumerate(zip(SPACES, HOSTS, strict=True)):
                # Namespaces share one hostname, so each agent is told whether it is the host.
                role = ["--local-addr", address, "--rdzv-conf", f"is_host={1 - number}"]
                commands.append(["ip", "netns", "exec", space, *torchrun, *meet, *role])
        running = []
        for number, command in enumerate(commands):
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            if hosts:
                environment["GLOO_SOCKET_IFNAME"] = f"jepa-{number}"
            script = [str(Path(__file__).resolve()), *flags]
            running.append(subprocess.Popen([*command, *script], env=environment))
        for process in running:
            if process.wait(own.patience):
                raise RuntimeError(f"{process.args} failed")
        found: dict[str, Any] = json.loads(out.read_text())
        return found


def images(path: Path, count: int, side: int) -> None:
    """Noise of several scales; speed does not depend on it."""
    if path.exists():
        return
    source = np.random.default_rng(0)
    coarse = source.integers(0, 255, (count, side // 8, side // 8, 3))
    fine = source.integers(0, 60, (count, side, side, 3))
    values = np.kron(coarse, np.ones((1, 8, 8, 1), int)) * 3 // 4 + fine
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values.astype(np.uint8))


def main() -> None:
    """Launch, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--large-steps", type=int, default=5)
    parser.add_argument("--warm", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3, help="of the small run; medians count")
    parser.add_argument("--skip", nargs="*", default=[], choices=("hosts", "large"))
    parser.add_argument("--work", type=Path, default=Path("runs/scaling"))
    parser.add_argument("--out", type=Path, default=RESULTS / "scaling_cpu.json")
    parser.add_argument("--patience", type=float, default=1800.0, help="seconds per launch")
    for name in ("--kind", "--data", "--folder"):
        parser.add_argument(name, type=str if name == "--kind" else Path, help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    own = parser.parse_args()
    if own.child:
        child(own)
        return
    images(own.work / "small.npy", 2_000, 32)
    images(own.work / "large.npy", 40, 224)
    launches: dict[str, list[dict[str, Any]]] = {}

    def measured(name: str, *args: Any, **more: Any) -> None:
        launches.setdefault(name, []).append(launch(*args, **more))
        print(name, launches[name][-1]["samples_per_second"], flush=True)

    for _ in range(own.rounds):
        for count in own.processes:
            measured(f"{count} process{'es' * (count > 1)}", "small", count, own)
        if "hosts" not in own.skip:
            with two_hosts():
                measured("2 hosts, 1 process each", "small", 2, own, hosts=True)
    if "large" not in own.skip:
        measured("ViT-B, 1 process", "ddp", 1, own)
        for kind in ("ddp", "fsdp"):
            measured(f"ViT-B, 2 processes, {kind}", kind, 2, own)
    cores = len(os.sched_getaffinity(0))
    table = {}
    for name, found in launches.items():
        alone = launches["ViT-B, 1 process" if name.startswith("ViT") else "1 process"]
        speed = statistics.median(f["samples_per_second"] for f in found)
        base = statistics.median(f["samples_per_second"] for f in alone)
        gaps = np.abs(np.array(found[0]["losses"]) - np.array(alone[0]["losses"]))
        count = len(found[0]["own_mib"])
        table[name] = {
            "samples_per_second": speed,
            "speed_up": speed / base,
            "efficiency": speed / base / count,
            "oversubscribed": count > cores,
            "largest_difference_of_loss": float(gaps.max()),
            "own_mib": found[0]["own_mib"],
        }
        print(
            f"{name}{' (oversubscribed)' * (count > cores)}: {speed:.1f} samples/s, "
            f"{speed / base:.2f} x, loss within {gaps.max():.1e}, "
            f"MiB {' '.join(f'{m:,.0f}' for m in found[0]['own_mib'])}"
        )
    content = about(1) | {"cores": cores, "table": table, "launches": launches}
    own.out.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
