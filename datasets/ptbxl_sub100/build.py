"""Make the subset from PTB-XL: `python datasets/ptbxl_sub100/build.py PTBXL TABLE OUT`.

PTBXL holds records500, TABLE is the subset's ptbxl_database.csv: its ecg_id column says which.
"""

from __future__ import annotations

import csv
import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEADS = ("I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")
GAIN = 100  # integers per standard deviation


def derived(physical: NDArray[Any]) -> NDArray[np.int16]:
    """Band-pass 0.5 to 40 Hz, z-score per lead, 500 -> 100 Hz: (5000, 12) mV -> (1000, 12)."""
    from scipy.signal import butter, filtfilt, resample_poly

    band = filtfilt(*butter(4, [0.5, 40], "bandpass", fs=500), physical, axis=0)
    scored = (band - band.mean(0)) / band.std(0)
    return np.rint(resample_poly(scored, 1, 5, axis=0) * GAIN).astype("<i2")


def write(signal: NDArray[np.int16], stem: Path) -> None:
    """A WFDB record in format 16."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{stem.name} {len(LEADS)} 100 {len(signal)}"]
    for lead, values in zip(LEADS, signal.T, strict=True):
        checksum = int(values.sum(dtype=np.int64)) % 65536
        level = f"{GAIN}.0(0)/NU 16 0 {values[0]} {checksum} 0"
        lines.append(f"{stem.name}.dat 16 {level} {lead}")
    stem.with_suffix(".hea").write_text("\n".join(lines) + "\n")
    stem.with_suffix(".dat").write_bytes(signal.tobytes())


def build(source: Path, table: Path, out: Path) -> None:
    """Write `OUT/records100/NNNNN/NNNNN_lr` for every ecg_id of the table."""
    from jepa_modalities.data.ecg.wfdb import read_record

    with table.open(newline="") as file:
        numbers = [int(row["ecg_id"]) for row in csv.DictReader(file)]
    for number in numbers:
        folder = f"{number // 1000 * 1000:05d}"
        native = read_record(source / "records500" / folder / f"{number:05d}_hr.hea")
        physical = (native.signal - np.array(native.baseline)) / np.array(native.gain)
        write(derived(physical), out / "records100" / folder / f"{number:05d}_lr")


def checksum(folder: Path, suffix: str = ".dat") -> str:
    """sha256 of all files with this ending one after the other, in the order of their paths."""
    digest = hashlib.sha256()
    for path in sorted((folder / "records100").rglob(f"*{suffix}")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    build(*map(Path, sys.argv[1:4]))
    print(checksum(Path(sys.argv[3])))
