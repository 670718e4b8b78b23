"""Corpora that do not fit into memory: does time per sample, or memory, grow with them?

    python benchmarks/streaming.py --modality tabular --rows 100000 1000000 10000000
    python benchmarks/streaming.py --modality ecg --rows 2000 20000 200000

Writes synthetic corpora into --work (10 million rows: 0.6 GB of Parquet; 200,000 recordings of 12
leads, 10 s at 100 Hz: 4.8 GB in HDF5 files of 25,000), then opens each in a process of its own and
measures reading alone (the adapter's batches, nothing trained) and training. Memory is that of the
process without the pages of mapped files, which the system takes back when it needs them. Sizes
take turns, --rounds times; the table gives medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from evidence import RESULTS, about

from jepa_modalities import api
from jepa_modalities.adapters.base import Adapter
from jepa_modalities.adapters.ecg.adapter import ECGAdapter
from jepa_modalities.adapters.tabular.adapter import TabularAdapter
from jepa_modalities.core.draw import Schedule
from jepa_modalities.data.ecg.synthetic import synthetic_records
from jepa_modalities.settings import changed
from jepa_modalities.train.distributed import Processes
from jepa_modalities.train.engine import Trainer
from jepa_modalities.train.plan import plan

SHARD, GROUP = 1_000_000, 50_000  # rows of a Parquet file and of its row groups
FILE = 25_000  # recordings of an HDF5 file
SETTINGS: dict[str, dict[str, Any]] = {
    "tabular": {"data.resident": 0.0, "train.batch_size": 512},
    "ecg": {"data.resident": 0.0, "train.batch_size": 128},
}


def write_table(folder: Path, rows: int) -> None:
    """Ten numbers and four categories that depend on five hidden numbers, in Parquet shards."""
    import pandas as pd

    mixing = np.random.default_rng(0).normal(size=(5, 14))
    for first in range(0, rows, SHARD):
        source = np.random.default_rng((1, first))
        count = min(SHARD, rows - first)
        values = np.tanh(source.normal(size=(count, 5)) @ mixing)
        values += 0.1 * source.normal(size=values.shape)
        columns: dict[str, Any] = {f"x{n}": values[:, n].astype(np.float32) for n in range(10)}
        for number in range(10, 14):
            level = np.digitize(values[:, number], np.linspace(-1, 1, 9))
            columns[f"c{number}"] = np.array([f"level {n}" for n in range(10)])[level]
        frame = pd.DataFrame(columns)
        frame.to_parquet(folder / f"part-{first:09d}.parquet", row_group_size=GROUP, index=False)


def write_recordings(folder: Path, rows: int) -> None:
    """Simulated recordings, turned in time and scaled, in files as `jm prepare` writes them."""
    from jepa_modalities.data.prepare.ecg_array import prepare_arrays

    base = synthetic_records(200, 100)
    signals = np.stack([base.physical(row).T for row in range(200)]).astype(np.float32)
    leads = base.leads(0)
    for first in range(0, rows, FILE):
        count = min(FILE, rows - first)
        path = folder / f"part-{first:07d}.h5"
        some = min(count, 2_000)
        prepare_arrays(signals[:2], folder / "model.h5", fs=float(base.fs[0]), leads=leads)
        _repeat(folder / "model.h5", path, signals, count, (2, first), some)
    (folder / "model.h5").unlink()


def _repeat(
    model: Path, path: Path, signals: Any, count: int, seed: tuple[int, int], part: int
) -> None:
    """A file with the model's layout and `count` recordings."""
    source = np.random.default_rng(seed)
    with h5py.File(model) as old, h5py.File(path, "w", libver="latest") as new:
        for name, value in old.attrs.items():
            new.attrs[name] = value
        for name, value in old.items():
            if name == "signals":
                continue
            known = value[:]
            if len(known) == 2 and name not in ("label_names", "skipped", "skipped_reason"):
                known = np.repeat(known[:1], count, axis=0)
            new[name] = known
        ids = np.array([f"s{seed[1] + row:07d}".encode() for row in range(count)])
        del new["record_id"]
        new["record_id"] = ids
        new["patient_id"][...] = np.array(b"", new["patient_id"].dtype)
        samples, width = signals.shape[2], signals.shape[1]
        into = new.create_dataset("signals", (count, samples, width), "<i2")
        gain = 1_000.0
        new["gain"][...] = gain
        new["baseline"][...] = 0
        for low in range(0, count, part):
            high = min(low + part, count)
            chosen = signals[source.integers(0, len(signals), high - low)].transpose(0, 2, 1)
            turn = source.integers(0, samples, high - low)
            at = (np.arange(samples) + turn[:, None]) % samples
            scale = source.uniform(0.7, 1.3, (high - low, 1, 1))
            block = np.take_along_axis(chosen, at[:, :, None], axis=1) * scale * gain
            into[low:high] = np.clip(block, -32_000, 32_000).astype(np.int16)


def corpus(work: Path, modality: str, rows: int) -> Path:
    """The folder of a corpus, written once."""
    folder = work / f"{modality}-{rows}"
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (write_table if modality == "tabular" else write_recordings)(folder, rows)
        (folder / "done").touch()
    return folder


def memory() -> dict[str, float]:
    """MiB of this process: its own, and its own with mapped files."""
    found = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "own_mib": int(found["RssAnon"].split()[0]) / 1024,
        "with_files_mib": int(found["VmRSS"].split()[0]) / 1024,
    }


def measure(modality: str, folder: Path, own: argparse.Namespace) -> dict[str, Any]:
    """Open, read and train one corpus."""
    warm, total = own.warm, own.warm + own.train_steps
    name = {"tabular": "tabular", "ecg": "ecg"}[modality]
    path = f"{folder}/*.parquet" if modality == "tabular" else f"{folder}/part-*.h5"
    config = changed(
        api.recipe(name),
        SETTINGS[modality]
        | {
            "data.path": path,
            "evaluate.enabled": False,
            "train.steps": total,
            "train.log_every": 50,
            "train.monitor_every": total,
            "train.checkpoint_every": total,
        }
        | ({"data.holdout": 0.0} if modality == "ecg" else {}),
    )
    before, begin = memory(), time.perf_counter()
    adapter: Adapter = (TabularAdapter if modality == "tabular" else ECGAdapter)(config)
    opened = time.perf_counter() - begin
    facts: dict[str, Any] = {"samples": len(adapter), "open_seconds": opened}
    facts["opened"] = {k: v - before[k] for k, v in memory().items()}
    train = config.train
    alone = Processes(0, 1, torch.device("cpu"))
    schedule = Schedule(len(adapter), train.batch_size, train.seed, adapter.blocks)  # type: ignore[attr-defined]
    feed = adapter.feed(plan(train, schedule, alone, 1, warm + own.steps), None, alone.device)
    begin = time.perf_counter()
    for number, _ in enumerate(feed, 1):
        if number == warm:
            begin = time.perf_counter()
    facts["read_samples_per_second"] = own.steps * train.batch_size / (time.perf_counter() - begin)
    with tempfile.TemporaryDirectory() as place:
        trainer = Trainer(adapter, config, Path(place), alone)
        trained = trainer.run(None)
    facts["train_samples_per_second"] = trained.samples_per_second
    facts["trained"] = {k: v - before[k] for k, v in memory().items()}
    return facts


def child(args: argparse.Namespace, rows: int) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--modality", args.modality, "--rows", str(rows)]
    for name in ("work", "steps", "train_steps", "warm", "threads"):
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    done = subprocess.run([*command, "--child"], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of every number."""
    return {
        key: median([run[key] for run in runs])
        if isinstance(runs[0][key], dict)
        else statistics.median(run[key] for run in runs)
        for key in runs[0]
    }


def main() -> None:
    """Write what is missing, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modality", choices=("tabular", "ecg"), required=True)
    parser.add_argument("--rows", type=int, nargs="+", required=True)
    parser.add_argument("--steps", type=int, default=800, help="batches that are read")
    parser.add_argument("--train-steps", type=int, default=100, help="that are trained")
    parser.add_argument("--warm", type=int, default=20, help="steps before them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/streaming"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    own = parser.parse_args()
    torch.set_num_threads(own.threads)
    if own.child:
        folder = corpus(own.work, own.modality, own.rows[0])
        print(json.dumps(measure(own.modality, folder, own)))
        return
    for rows in own.rows:
        corpus(own.work, own.modality, rows)
    runs: dict[int, list[dict[str, Any]]] = {rows: [] for rows in own.rows}
    for _ in range(own.rounds):
        for rows in own.rows:
            runs[rows].append(child(own, rows))
    table = {rows: median(found) for rows, found in runs.items()}
    first = table[own.rows[0]]
    print("samples | open s | read/s | train/s | time per sample | own MiB | with files MiB")
    for rows, row in table.items():
        row["time_per_sample"] = first["train_samples_per_second"] / row["train_samples_per_second"]
        print(
            f"{rows:,} | {row['open_seconds']:.2f} | {row['read_samples_per_second']:,.0f} | "
            f"{row['train_samples_per_second']:,.0f} | {row['time_per_sample']:.2f} x | "
            f"{row['trained']['own_mib']:,.0f} | {row['trained']['with_files_mib']:,.0f}"
        )
    out = own.out or RESULTS / f"streaming_{own.modality}.json"
    content = about(own.threads) | {"table": table, "rounds": runs}
    out.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
