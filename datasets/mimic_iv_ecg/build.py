"""A miniature in the layout of MIMIC-IV-ECG: `python datasets/mimic_iv_ecg/build.py OUT`.

Not real data.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np

RECORDS, SAMPLES = 20, 5000
LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
INVALID = -32768


def signal(number: int) -> np.ndarray[tuple[int, int], np.dtype[np.int16]]:
    """Integers that look like nothing in particular; record 3 has a gap, as some real ones do."""
    steps = np.arange(SAMPLES * len(LEADS), dtype=np.int64).reshape(SAMPLES, len(LEADS))
    values = ((steps * 7919 + number * 104729) % 4001 - 2000).astype("<i2")
    if number == 3:
        values[100:140, 4] = INVALID
    return values


def build(out: Path) -> str:
    """Write record_list.csv and 20 WFDB records; returns the sha256 of all samples."""
    lines, digest = ["subject_id,study_id,file_name,ecg_time,path"], hashlib.sha256()
    for number in range(RECORDS):
        subject, study = 10000000 + number // 2, 40000000 + number
        path = f"files/p{str(subject)[:4]}/p{subject}/s{study}/{study}"
        lines.append(f"{subject},{study},{study},2180-07-23 08:44:00,{path}")
        values = signal(number)
        header = [f"{study} {len(LEADS)} 500 {SAMPLES}"]
        for lead, column in zip(LEADS, values.T, strict=True):
            checksum = int(column.sum(dtype=np.int64)) % 65536
            level = f"200.0(0)/mV 16 0 {column[0]} {checksum} 0"
            header.append(f"{study}.dat 16 {level} {lead}")
        place = out / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.with_suffix(".hea").write_text("\n".join(header) + "\n")
        place.with_suffix(".dat").write_bytes(values.tobytes())
        digest.update(values.tobytes())
    (out / "record_list.csv").write_text("\n".join(lines) + "\n")
    return digest.hexdigest()


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
