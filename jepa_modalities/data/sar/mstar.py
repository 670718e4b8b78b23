"""The ten-class MSTAR task ("SOC") out of the original release: which raw files belong to it."""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from jepa_modalities.data.sar.listing import is_chip
from jepa_modalities.data.sar.phoenix import is_phoenix, parse_header

# Class -> (serial number, chips at 17 degrees, chips at 15 degrees): the usual table, with one
# serial per class. A looser one adds BMP2 9566 and c21, and T72 812 and s7.
SOC = {
    "2S1": ("b01", 299, 274),
    "BMP2": ("9563", 233, 195),
    "BRDM2": ("E-71", 298, 274),
    "BTR60": ("k10yt7532", 256, 195),
    "BTR70": ("c71", 233, 196),
    "D7": ("92v13015", 299, 274),
    "T62": ("A51", 299, 273),
    "T72": ("132", 232, 196),
    "ZIL131": ("E12", 299, 274),
    "ZSU234": ("d08", 299, 274),
}
SPLITS = {17: "train", 15: "test"}
HEADER_BYTES = 1 << 16  # chips have about 2 KiB of header
COLUMNS = ("file", "class", "label", "split", "depression_deg", "azimuth_deg", "serial", "sha1")


class Manifest(NamedTuple):
    """What `index_mstar` found.

    Attributes:
        path: of the CSV.
        counts: chips by (class, split).
        missing: chips that the usual table has and the folder has not, by (class, split).
        other: raw files that do not belong to the task.
    """

    path: Path
    counts: dict[tuple[str, str], int]
    missing: dict[tuple[str, str], int]
    other: int


def index_mstar(folder: str | Path, out: str | Path | None = None) -> Manifest:
    """Write the index of the ten-class task over a tree of raw files, for `read_chips(index=...)`.

    Serial number and depression come from the files' headers, so that any arrangement of the
    release's folders will do. 17 degrees are `train`, 15 degrees `test`.

    Args:
        folder: searched with everything below it.
        out: CSV; None: `index.csv` in `folder`, where `read_chips` finds it by itself.

    Raises:
        ValueError: no raw file, none that belongs to the task, or one without a needed key.
    """
    folder = Path(folder).expanduser()
    path = folder / "index.csv" if out is None else Path(out).expanduser()
    serials = {_plain(serial): name for name, (serial, _, _) in SOC.items()}
    numbers = {name: number for number, name in enumerate(SOC)}
    rows, other = [], 0
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        if not is_chip(file.name) or not (content := _raw(file)):
            continue
        header = parse_header(content[:HEADER_BYTES], str(file))
        try:
            name = serials.get(_plain(header["TargetSerNum"]))
            depression = round(float(header["DesiredDepression"]))
        except KeyError as error:
            raise ValueError(f"{file}: its header has no {error}; remove the file") from None
        except (ValueError, OverflowError):
            raise ValueError(
                f"{file}: DesiredDepression = {header['DesiredDepression']!r} is no angle; remove "
                f"the file"
            ) from None
        if name is None or depression not in SPLITS:
            other += 1
            continue
        place, sha1 = file.relative_to(folder).as_posix(), hashlib.sha1(content).hexdigest()
        known = [place, name, numbers[name], SPLITS[depression], depression]
        rows.append([*known, header.get("TargetAz", ""), header["TargetSerNum"], sha1])
    if not rows:
        raise ValueError(
            f"{folder} holds no raw file of the ten-class task ({other:,} other raw files); give "
            f"the folder of the MSTAR release with serials such as 9563 at 15 and 17 degrees"
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *rows])
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    counts = Counter((str(row[1]), str(row[3])) for row in rows)
    usual = {
        (name, split): number
        for name, (_, *both) in SOC.items()
        for split, number in zip(SPLITS.values(), both, strict=True)
    }
    missing = {key: n - counts[key] for key, n in usual.items() if counts[key] < n}
    return Manifest(path, dict(counts), missing, other)


def _raw(file: Path) -> bytes:
    """Content of a Phoenix file, nothing of another."""
    with file.open("rb") as stream:
        begin = stream.read(64)
        return begin + stream.read() if is_phoenix(begin) else b""


def _plain(serial: str) -> str:
    return serial.replace("-", "").lower()
