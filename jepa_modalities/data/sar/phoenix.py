"""MSTAR "Phoenix" files: ASCII header, magnitude block, phase block (big-endian float32)."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

START, END = b"[PhoenixHeaderVer", b"[EndofPhoenixHeader]"
# Magnitudes of an image formed from 64 dB of dynamic range are far above this; bytes in the wrong
# order often make smaller numbers.
SMALLEST = 1e-20


@dataclass(frozen=True, eq=False)
class PhoenixChip:
    """One MSTAR chip.

    Attributes:
        magnitude: at least 0, float32, (rows, columns).
        phase: radians, float32, (rows, columns).
        header: all keys with their text, in the file's order, without surrounding blanks.
    """

    magnitude: NDArray[np.float32]
    phase: NDArray[np.float32]
    header: dict[str, str]

    @property
    def complex(self) -> NDArray[np.complex64]:
        """magnitude * exp(i phase), (rows, columns)."""
        return (self.magnitude * np.exp(1j * self.phase)).astype(np.complex64)

    @property
    def target(self) -> str:
        """Class name from `TargetType`: `bmp2_tank` is BMP2; "" if unnamed."""
        return _target(self.header)


def header_target(content: bytes) -> str:
    """`PhoenixChip.target` of a file whose pixels are not needed; "" for any other file."""
    if not is_phoenix(content) or END not in content:
        return ""
    return _target(parse_header(content, ""))


def _target(header: Mapping[str, str]) -> str:
    return header.get("TargetType", "").split("_")[0].replace("-", "").upper()


def is_phoenix(content: bytes) -> bool:
    """Whether these bytes begin like a Phoenix file."""
    return START in content[:64]


def read_phoenix(path: str | Path) -> PhoenixChip:
    """Read one file; see `parse_phoenix`."""
    return parse_phoenix(Path(path).read_bytes(), str(path))


def parse_phoenix(content: bytes, name: str) -> PhoenixChip:
    """Read header, magnitude and phase.

    Args:
        content: the whole file. Lengths come from `PhoenixHeaderLength`, `native_header_length`,
            `NumberOfRows` and `NumberOfColumns`.
        name: for messages.

    Raises:
        ValueError: no Phoenix header, a missing key, a file of another length than the header says,
            bytes in little-endian order, or numbers that are no magnitudes and phases.
    """
    header = parse_header(content, name)
    rows, columns = (_number(header, key, name) for key in ("NumberOfRows", "NumberOfColumns"))
    if rows < 1 or columns < 1:
        raise ValueError(f"{name}: the header gives {rows} x {columns} pixels")
    start = _number(header, "PhoenixHeaderLength", name)
    start += (
        _number(header, "native_header_length", name) if "native_header_length" in header else 0
    )
    text = content.find(END) + len(END)
    if start < text:
        raise ValueError(
            f"{name}: the header says that it has {start:,} bytes, but its text has {text:,}; copy "
            f"the file again"
        )
    expected = start + 8 * rows * columns
    if len(content) != expected:
        kind = "truncated" if len(content) < expected else "too long"
        scene = (
            "; 16-bit full scenes are not supported"
            if len(content) == start + 4 * rows * columns
            else ""
        )
        raise ValueError(
            f"{name} is {kind}: {len(content):,} bytes, expected {expected:,} ({start:,} of header "
            f"and 2 float32 blocks of {rows} x {columns}){scene}; copy the file again"
        )
    blocks = np.frombuffer(content, ">f4", offset=start).reshape(2, rows, columns)
    if not _plausible(blocks):
        if _plausible(blocks.view("<f4")):
            raise ValueError(
                f"{name} is little-endian: its numbers make sense only in the other byte order; "
                f"MSTAR files are big-endian, so write it again, e.g. with write_phoenix"
            )
        raise ValueError(
            f"{name}: magnitudes {_span(blocks[0])} and phases {_span(blocks[1])} are neither in "
            f"big- nor in little-endian order magnitudes (from 0) and radians; copy the file again"
        )
    magnitude, phase = blocks.astype(np.float32)
    return PhoenixChip(magnitude, phase, header)


def parse_header(content: bytes, name: str) -> dict[str, str]:
    """Keys and values of the ASCII header.

    Raises:
        ValueError: begin or end of the header is missing.
    """
    if not is_phoenix(content):
        raise ValueError(
            f"{name} is no MSTAR Phoenix file: it begins with {content[:20]!r}, expected "
            f"'{START.decode()}...]'"
        )
    end = content.find(END)
    if end < 0:
        raise ValueError(
            f"{name} is truncated: its header has no '{END.decode()}' in {len(content):,} bytes; "
            f"copy the file again"
        )
    lines = content[:end].decode("latin-1").splitlines()
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def write_phoenix(
    path: str | Path,
    magnitude: NDArray[np.floating],
    phase: NDArray[np.floating],
    header: Mapping[str, str] | None = None,
) -> None:
    """Write a Phoenix file, atomically.

    Args:
        path: of the file.
        magnitude: at least 0, (rows, columns).
        phase: radians, (rows, columns).
        header: further keys; lengths and sizes are set to what they are.

    Raises:
        ValueError: shapes differ, or a key or value that would break the header.
    """
    if magnitude.ndim != 2 or magnitude.shape != phase.shape:
        raise ValueError(
            f"magnitude has shape {magnitude.shape}, phase {phase.shape}; expected (rows, columns)"
        )
    own = {
        "PhoenixHeaderLength": "00000",
        "PhoenixSigSize": "00000000",
        "native_header_length": "0",
        "NumberOfColumns": str(magnitude.shape[1]),
        "NumberOfRows": str(magnitude.shape[0]),
    }
    given = dict(header or {})
    fields = {**{key: own[key] for key in own if key not in given}, **given, **own}
    for key, value in fields.items():
        if re.search(r"[=\r\n]", key) or re.search(r"[\r\n]", value):
            raise ValueError(f"header key {key!r} = {value!r} has a line break or '=' in its name")
    length = len(_header_text(fields))
    fields["PhoenixHeaderLength"] = f"{length:05d}"
    fields["PhoenixSigSize"] = f"{length + 8 * magnitude.size:08d}"
    blocks = np.stack([magnitude, phase]).astype(">f4")
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(_header_text(fields) + blocks.tobytes())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _header_text(fields: Mapping[str, str]) -> bytes:
    lines = ["", "[PhoenixHeaderVer01.04]", *(f"{k}= {v}" for k, v in fields.items())]
    return ("\n".join(lines) + f"\n{END.decode()}\n").encode("latin-1")


def _number(header: Mapping[str, str], key: str, name: str) -> int:
    try:
        return int(header[key])
    except KeyError:
        raise ValueError(f"{name}: its header has no {key}") from None
    except ValueError:
        raise ValueError(f"{name}: {key} = {header[key]!r} is no whole number") from None


def _plausible(blocks: NDArray[np.floating]) -> bool:
    """Whether these can be magnitudes and phases (some tools write phases from -pi)."""
    with np.errstate(invalid="ignore"):
        magnitude, phase = blocks.astype(np.float64)
        top = magnitude.max()
        return bool(
            np.isfinite(blocks).all()
            and magnitude.min() >= 0
            and (top == 0 or top > SMALLEST)
            and np.abs(phase).max() <= 2 * math.pi + 1e-3
        )


def _span(values: NDArray[np.floating]) -> str:
    return f"{values.min():.3g} to {values.max():.3g}"
