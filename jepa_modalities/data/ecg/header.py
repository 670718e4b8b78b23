"""WFDB header files, read tolerantly: what WFDB's own reader takes 80 % of its time for."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

# WFDB header format (header(5) of the WFDB manual): what an empty field stands for.
DEFAULT_FS = 250.0
DEFAULT_GAIN = 200.0

NOTHING = "~"  # stands for the file of a signal, or the name of a segment, that is not there
_LONGEST_NAME = 255  # bytes, of a file
_LARGEST_BASELINE = 2**31  # baselines are 32-bit integers

_FORMAT = re.compile(
    r"(?P<fmt>\d+)(?:x(?P<frame>\d+))?(?::(?P<skew>\d+))?(?:\+(?P<offset>\d+))?$", re.ASCII
)
_GAIN = re.compile(
    r"(?P<gain>[-+.\deE]+)(?:\((?P<baseline>[-+]?\d+)\))?(?:/(?P<unit>\S+))?$", re.ASCII
)


@dataclass(frozen=True)
class SignalLine:
    """One signal of a header.

    Attributes:
        file: name of the file with its samples.
        fmt: storage format, such as 16 or 212.
        frame: samples per frame.
        skew: samples by which it lies behind.
        offset: bytes before the first sample.
        gain: integers per unit.
        baseline: the integer that stands for 0.
        unit: as written; mV if empty.
        checksum: sum of all samples mod 65,536, signed or not; None if absent.
        name: description, such as aVR; empty if absent.
    """

    file: str
    fmt: str
    frame: int
    skew: int
    offset: int
    gain: float
    baseline: int
    unit: str
    checksum: int | None
    name: str


@dataclass(frozen=True)
class Header:
    """A parsed header.

    Attributes:
        name: of the record, without a trailing .mat.
        fs: Hz.
        length: samples per signal; None if not given.
        segments: 1, or the number of segments of a multi-segment record.
        signals: one per lead.
        parts: names of the segments of a multi-segment record.
        comments: lines behind #, stripped, without the leading #.
    """

    name: str
    fs: float
    length: int | None
    segments: int
    signals: tuple[SignalLine, ...]
    comments: tuple[str, ...]
    parts: tuple[str, ...] = ()

    def comment(self, key: str) -> str | None:
        """The value of a comment such as `Dx: 426783006`, in any case; None if absent."""
        for line in self.comments:
            name, colon, value = line.partition(":")
            if colon and name.strip().lower() == key.lower():
                return value.strip()
        return None


def parse_header(text: str, name: str = "header") -> Header:
    """Read a header, also those that WFDB's own reader rejects.

    Taken: comments before the record line, record names with `.mat` or a slash, dates in any form
    (times are not read: some are silently wrong elsewhere), units and names in any spelling.

    Args:
        text: content of the .hea file.
        name: for messages.

    Raises:
        ValueError: no record line, a line that makes no sense, or a file in another folder; the
            message quotes it.
    """
    lines = [line.strip() for line in text.splitlines()]
    comments = tuple(line.lstrip("#").strip() for line in lines if line.startswith("#"))
    content = [line for line in lines if line and not line.startswith("#")]
    if not content:
        raise ValueError(f"{name} has no record line; expected `NAME LEADS FS SAMPLES`")
    fields = content[0].split()
    try:
        record, segments = _record_name(fields[0])
        count = int(_plain(fields[1]))
        # 360/360(0): counter frequency and base counter do not matter here.
        fs = float(_plain(fields[2].split("/")[0])) if len(fields) > 2 else DEFAULT_FS
        length = int(_plain(fields[3])) if len(fields) > 3 else 0
    except (IndexError, ValueError):
        raise ValueError(
            f"{name}: the record line is {content[0]!r}; expected `NAME LEADS FS SAMPLES`"
        ) from None
    if count < 0 or not 0 < fs < 1e6 or length < 0:
        raise ValueError(
            f"{name}: {count} leads, {fs} Hz and {length} samples are no recording; the record "
            f"line is {content[0]!r}"
        )
    rows, what = (count, "leads") if segments == 1 else (segments, "segments")
    if len(content) - 1 < rows:
        raise ValueError(
            f"{name}: the record line says {rows} {what}, {len(content) - 1} follow; the header is "
            f"cut off, copy it again"
        )
    signals: Sequence[SignalLine] = ()
    parts: Sequence[str] = ()
    if segments == 1:
        signals = [_signal(line, name) for line in content[1 : rows + 1]]
    else:
        parts = [_beside(line.split()[0], name) for line in content[1 : rows + 1]]
    return Header(record, fs, length or None, segments, tuple(signals), comments, tuple(parts))


def _beside(file: str, name: str) -> str:
    """The name of a file that lies beside the header.

    Raises:
        ValueError: it leads elsewhere, or can be no name of a file.
    """
    long = len(file.encode(errors="replace")) > _LONGEST_NAME
    if long or file in (".", "..") or any(mark in file for mark in "/\\\0"):
        raise ValueError(
            f"{name} names {file[:60]!r}; expected a file beside it, without folders: put it there "
            f"and change the name"
        )
    return file


def _plain(text: str) -> str:
    """A number as WFDB's own reader would take it; Python takes more (`+5`, `1_0`, other digits).

    Raises:
        ValueError: another spelling.
    """
    if text[:1] == "+" or "_" in text or not text.isascii():
        raise ValueError
    return text


def _record_name(text: str) -> tuple[str, int]:
    head, slash, tail = text.rpartition("/")
    segments = 1
    if slash and tail.isascii() and tail.isdigit():
        text, segments = head, int(tail[:9])
    return text.removesuffix(".mat"), segments


def _signal(line: str, name: str) -> SignalLine:
    fields = line.split(maxsplit=8)
    kind = _FORMAT.match(fields[1]) if len(fields) > 1 else None
    level = _GAIN.match(fields[2]) if len(fields) > 2 else None
    try:
        if kind is None or (len(fields) > 2 and level is None):
            raise ValueError
        gain = float(level["gain"]) if level is not None else 0.0
        zero = int(_plain(fields[4])) if len(fields) > 4 else 0
        baseline = zero if level is None or level["baseline"] is None else int(level["baseline"])
        checksum = int(_plain(fields[6])) if len(fields) > 6 else None
        frame, skew, offset = (int(kind[part] or 0) for part in ("frame", "skew", "offset"))
        if not math.isfinite(gain) or abs(baseline) >= _LARGEST_BASELINE:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{name}: {line!r} is no signal line; expected `FILE FORMAT GAIN(BASELINE)/UNIT BITS "
            f"ZERO FIRST CHECKSUM BLOCK LEAD`"
        ) from None
    return SignalLine(
        file=_beside(fields[0], name),
        fmt=kind["fmt"],
        frame=frame or 1,
        skew=skew,
        offset=offset,
        gain=gain or DEFAULT_GAIN,
        baseline=baseline,
        unit="mV" if level is None or level["unit"] is None else level["unit"],
        checksum=checksum,
        name=fields[8].strip() if len(fields) > 8 else "",
    )
