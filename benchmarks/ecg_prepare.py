"""WFDB folders to one HDF5 file: `jm prepare` beside a plain loop over the wfdb package.

    python benchmarks/ecg_prepare.py $JEPA_DATA/ecg --out benchmarks/results/ecg_prepare.json

Both go from the folder to the finished file. The plain loop is what one writes otherwise:
`wfdb.rdrecord` for every header (and `wfdb.rdann` where there are annotations), integers into an
HDF5 dataset. It checks nothing. Ours also compares checksums, hashes every file, parses comments,
logs what is done for the case of a kill, waits for the disk after every 64 records, and copies the
payload once more into the final file. Both take turns in one process; imports are not counted.
`process CPU seconds`, children included, are the fair figure on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import wfdb

from jepa_modalities.data.prepare import PREPARERS
from jepa_modalities.train.environment import commit

# Name, data set, folder, options, extension of the annotations.
CASES: list[tuple[str, str, str, dict[str, Any], str | None]] = [
    ("PTB-XL subset, 100 Hz", "ptbxl", "ptbxl_sub100", {}, None),
    ("challenge 2021, 500 Hz .mat", "cinc2021", "cinc2021", {}, None),
    ("MIT-BIH, one lead, format 212", "mitdb", "mitdb_ch0", {"annotator": "vnv"}, "vnv"),
    ("CPSC 2021, 200 Hz", "wfdb", "cpsc2021", {}, "atr"),
]


def plain(source: Path, out: Path, extension: str | None) -> int:
    """The loop one writes: returns the number of records."""
    signals, annotations = [], []
    for header in sorted(source.rglob("*.hea")):
        name = str(header.with_suffix(""))
        signals.append(wfdb.rdrecord(name, physical=False).d_signal.astype(np.int16))
        if extension is not None:
            annotations.append(wfdb.rdann(name, extension))
    with h5py.File(out, "w") as file:
        file["signals"] = np.concatenate(signals)
        file["lengths"] = [len(signal) for signal in signals]
        if annotations:
            file["ann_sample"] = np.concatenate([found.sample for found in annotations])
            file["ann_symbol"] = [s for found in annotations for s in found.symbol]
    return len(signals)


def cost(function: Callable[[], Any]) -> tuple[float, float]:
    """Wall seconds and CPU seconds, those of finished children included."""

    def used() -> float:
        kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, kinds))

    wall, cpu = time.perf_counter(), used()
    function()
    return time.perf_counter() - wall, used() - cpu


def measure(case: tuple[Any, ...], data: Path, rounds: int, workers: list[int]) -> dict[str, Any]:
    """Minima over the rounds for every system."""
    name, dataset, folder, options, extension = case
    source, times = data / folder, {}
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out.h5"
        systems: dict[str, Callable[[], Any]] = {"wfdb": lambda: plain(source, out, extension)}
        for count in workers:
            systems[f"ours, {count} worker{'s' if count > 1 else ''}"] = lambda count=count: (
                PREPARERS[dataset](source, out, workers=count, **options)
            )
        for _ in range(rounds):
            for system, function in systems.items():
                out.unlink(missing_ok=True)
                times.setdefault(system, []).append(cost(function))
        records = plain(source, out, extension)
    size = sum(path.stat().st_size for path in source.rglob("*") if path.suffix in (".dat", ".mat"))
    best = {system: tuple(map(min, zip(*found, strict=True))) for system, found in times.items()}
    return {
        "case": name,
        "records": records,
        "megabytes": size / 1e6,
        "systems": {
            system: {
                "wall_seconds": wall,
                "cpu_seconds": cpu,
                "records_per_second": records / wall,
                "wall_ratio": best["wfdb"][0] / wall,
                "cpu_ratio": best["wfdb"][1] / cpu,
            }
            for system, (wall, cpu) in best.items()
        },
    }


def main() -> None:
    """Print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--out", type=Path)
    own = parser.parse_args()
    results = [measure(case, own.data, own.rounds, own.workers) for case in CASES]
    print("| case | records | MB | system | wall s | CPU s | records/s | wfdb / it: wall | CPU |")
    print("|---|---|---|---|---|---|---|---|---|")
    for result in results:
        for system, found in result["systems"].items():
            print(
                f"| {result['case']} | {result['records']} | {result['megabytes']:.1f} | {system} "
                f"| {found['wall_seconds']:.2f} | {found['cpu_seconds']:.2f} "
                f"| {found['records_per_second']:.0f} | {found['wall_ratio']:.1f} "
                f"| {found['cpu_ratio']:.1f} |"
            )
    if own.out is not None:
        about = {
            "command": "python benchmarks/ecg_prepare.py DATA",
            "commit": commit(),
            "rounds": own.rounds,
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "wfdb": wfdb.__version__,
            "h5py": h5py.__version__,
            "numpy": np.__version__,
        }
        own.out.parent.mkdir(parents=True, exist_ok=True)
        own.out.write_text(json.dumps({"about": about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
