"""WFDB records for tests: written byte by byte, or real ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
STANDARD = ["I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6"]
Write = Callable[..., np.ndarray[Any, Any]]


@pytest.fixture(scope="session")
def ecg_data() -> Path:
    """Folder of the real recordings."""
    folder = Path(os.environ.get("JEPA_DATA", ROOT.parent / "shared" / "data")) / "ecg"
    if not folder.is_dir():
        pytest.skip(f"no real recordings: set JEPA_DATA ({folder} is not there)")
    return folder


def write_record(
    path: Path,
    seed: int = 0,
    samples: int = 100,
    fs: float = 100.0,
    leads: Sequence[str] = STANDARD,
    comments: Sequence[str] = (),
    unit: str = "mV",
    gain: float = 1000.0,
    suffix: str = "dat",
    signal: np.ndarray[Any, Any] | None = None,
    record: str | None = None,
) -> np.ndarray[Any, Any]:
    """Write a record in format 16 (.mat: behind 24 bytes) and return its integers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if signal is None:
        shape = (samples, len(leads))
        signal = np.random.default_rng(seed).integers(-900, 900, shape).astype("<i2")
    offset = "+24" if suffix == "mat" else ""
    lines = [f"{record or path.name} {signal.shape[1]} {fs:g} {len(signal)}"]
    for lead, values in zip(leads, signal.T, strict=True):
        total = sum(int(value) for value in values)
        checksum = (total + 32768) % 65536 - 32768
        level = f"{gain:g}(0)/{unit} 16 0 {values[0]} {checksum} 0"
        lines.append(f"{path.name}.{suffix} 16{offset} {level} {lead}")
    lines += [f"# {comment}" for comment in comments]
    path.with_name(f"{path.name}.hea").write_text("\n".join(lines) + "\n")
    head = bytes(24) if suffix == "mat" else b""
    path.with_name(f"{path.name}.{suffix}").write_bytes(head + signal.astype("<i2").tobytes())
    return signal


@pytest.fixture
def written() -> Write:
    """`write_record`."""
    return write_record
