"""WFDB records: formats 16 and 212 by NumPy, all others through the wfdb package."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepa_modalities.data.ecg.header import NOTHING, Header, SignalLine, parse_header
from jepa_modalities.data.ecg.layout import INVALID
from jepa_modalities.data.ecg.lead import KNOWN_LEADS, lead_name, unit_name
from jepa_modalities.data.refusal import refusing

# What stands for "no sample" in each format (signal(5) of the WFDB manual).
SENTINEL = {"16": -32768, "212": -2048}
# Samples that a byte can stand for at most: one in the plainest format, about 6,500 of a constant
# in FLAC (a subframe of 10 bytes for up to 65,535); segments may have long gaps between them.
PER_BYTE, PER_BYTE_FLAC, PER_BYTE_SEGMENTS = 1, 8192, 1000


@dataclass(frozen=True)
class Recording:
    """A recording as it is stored: integers at the native rate, all leads in native order.

    Attributes:
        signal: int16 (samples, leads); `layout.INVALID` where there is no sample.
        fs: Hz.
        leads: standard names.
        gain: integers per unit, per lead.
        baseline: the integer that stands for 0, per lead.
        unit: per lead.
        comments: of the header.
        sha256: of all files it was read from.
        notes: what a user may want to know, e.g. that there was no checksum.
    """

    signal: NDArray[np.int16]
    fs: float
    leads: tuple[str, ...]
    gain: tuple[float, ...]
    baseline: tuple[int, ...]
    unit: tuple[str, ...]
    comments: tuple[str, ...] = ()
    sha256: str = ""
    notes: tuple[str, ...] = ()


def read_header(path: Path) -> Header:
    """The header of a record; `path` ends in .hea.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `parse_header`.
    """
    return parse_header(_text(path.read_bytes()), path.name)


def read_record(path: Path, further: Sequence[Path] = ()) -> Recording:
    """Read and check a record.

    Args:
        path: of the .hea file; the payload lies beside it.
        further: files that belong to it and count in `sha256`, such as annotations.

    Raises:
        FileNotFoundError: header or payload is missing.
        ValueError: a payload that is too short, or whose sum differs from the header's; leads of
            different lengths, the same lead twice, values that 16 bits cannot hold, or a header
            that asks for files elsewhere or claims more samples than its files can hold.
        ImportError: a format that needs the wfdb package, which is not installed.
    """
    raw = path.read_bytes()
    header = parse_header(_text(raw), path.name)
    digest = hashlib.sha256(raw)
    lines = header.signals
    if header.segments == 1 and not lines:
        raise ValueError(f"{path.name} describes no signals")
    plain = all(line.fmt in SENTINEL and line.frame == 1 and line.skew == 0 for line in lines)
    if header.segments == 1 and plain:
        content = {file: _payload(path, file) for file in dict.fromkeys(s.file for s in lines)}
        for data in content.values():
            digest.update(data)
        signal = _decoded(content, header, path)
    else:
        content = {file: _payload(path, file) for file in dict.fromkeys(s.file for s in lines)}
        for data in content.values():
            digest.update(data)
        _check_claim(path, header)
        header, signal = _through_wfdb(path, header)
    for other in further:
        digest.update(other.read_bytes())
    _check_sums(signal, header.signals)
    leads = unique_leads([line.name for line in header.signals], path.name)
    sentinels = np.array([SENTINEL.get(line.fmt, INVALID) for line in header.signals])
    if (sentinels != INVALID).any():
        signal = np.where(signal == sentinels, INVALID, signal)
    return Recording(
        np.ascontiguousarray(signal, "<i2"),
        header.fs,
        leads,
        tuple(line.gain for line in header.signals),
        tuple(line.baseline for line in header.signals),
        tuple(unit_name(line.unit) for line in header.signals),
        header.comments,
        digest.hexdigest(),
        tuple(_notes(signal, leads, header.signals)),
    )


def _notes(
    signal: NDArray[np.int16], leads: Sequence[str], lines: Sequence[SignalLine]
) -> Iterator[str]:
    if any(line.checksum is None for line in lines):
        yield "the header has no checksums, so the samples could not be verified"
    yield from sample_notes(signal, leads)


def sample_notes(signal: NDArray[np.int16], leads: Sequence[str]) -> Iterator[str]:
    """What a user may want to know of the samples (samples, leads) of a recording."""
    for lead in leads:
        if lead not in KNOWN_LEADS:
            yield f"{lead} is no lead that we know; it is kept under this name"
    missing = signal == INVALID
    if missing.any():
        empty = missing.all(0)
        for lead, nothing in zip(leads, empty, strict=True):
            if nothing:
                yield f"lead {lead} has no valid sample"
        if missing[:, ~empty].any():
            yield "some samples are marked as invalid"


def unique_leads(names: Sequence[str], what: str) -> tuple[str, ...]:
    """Standard names of leads; unnamed ones are called ch0, ch1 and so on.

    Raises:
        ValueError: the same lead twice.
    """
    leads = tuple(lead_name(name) or f"ch{place}" for place, name in enumerate(names))
    twice = sorted({lead for lead in leads if leads.count(lead) > 1})
    if twice:
        raise ValueError(f"{what} names the lead {twice[0]} {leads.count(twice[0])} times")
    return leads


def decode_16(data: bytes, count: int) -> NDArray[np.int16]:
    """`count` samples of format 16: two bytes each, little-endian."""
    return np.frombuffer(data, "<i2", count)


def decode_212(data: bytes, count: int) -> NDArray[np.int16]:
    """`count` samples of format 212: two 12-bit numbers in three bytes."""
    triples = np.frombuffer(data, np.uint8, -(-3 * count // 2))
    triples = np.pad(triples, (0, -len(triples) % 3)).reshape(-1, 3).astype(np.int16)
    samples = np.empty((len(triples), 2), np.int16)
    samples[:, 0] = triples[:, 0] | (triples[:, 1] & 0x0F) << 8
    samples[:, 1] = triples[:, 2] | (triples[:, 1] & 0xF0) << 4
    samples -= (samples > 2047).astype(np.int16) << 12
    return samples.reshape(-1)[:count]


_DECODE = {"16": decode_16, "212": decode_212}


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _payload(header: Path, file: str) -> bytes:
    try:
        return header.with_name(file).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{header.name} asks for {file}, which is not beside it; copy it there"
        ) from None


def _decoded(content: dict[str, bytes], header: Header, path: Path) -> NDArray[np.int16]:
    """Samples of all files, (samples, leads)."""
    lines = header.signals
    parts, lengths = [], []
    for file, data in content.items():
        mine = [line for line in lines if line.file == file]
        first = mine[0]
        if any((line.fmt, line.offset) != (first.fmt, first.offset) for line in mine):
            raise ValueError(f"{path.name}: the leads in {file} differ in format or offset")
        there = (len(data) - first.offset) * (2 if first.fmt == "212" else 1)
        there = max(there, 0) // ((3 if first.fmt == "212" else 2) * len(mine))
        length = header.length if header.length is not None else there
        if there < length:
            raise ValueError(
                f"{file} is cut off: it holds {there:,} of {length:,} samples of {len(mine)} "
                f"leads; copy it again"
            )
        flat = _DECODE[first.fmt](data[first.offset :], length * len(mine))
        parts.append(flat.reshape(length, len(mine)))
        lengths.append(length)
    if len(set(lengths)) > 1:
        raise ValueError(f"{path.name}: its files hold {min(lengths)} to {max(lengths)} samples")
    if lengths[0] == 0:
        raise ValueError(f"{path.name} describes 0 samples")
    # Files in the order of their first lead; leads of one file are neighbours in practice.
    order = [line for file in content for line in lines if line.file == file]
    signal = parts[0] if len(parts) == 1 else np.concatenate(parts, 1)
    places = [next(i for i, line in enumerate(order) if line is wanted) for wanted in lines]
    return signal if places == sorted(places) else signal[:, places]


def _check_sums(signal: NDArray[np.int16], lines: Sequence[SignalLine]) -> None:
    """Compare sums with the header's.

    Raises:
        ValueError: a sum differs.
    """
    sums = signal.sum(0, dtype=np.int64)
    for line, found in zip(lines, sums, strict=True):
        if line.checksum is not None and (int(found) - line.checksum) % 65536:
            raise ValueError(
                f"checksum of lead {line.name or '?'} in {line.file}: the samples give "
                f"{int(found) % 65536}, the header says {line.checksum % 65536}; signal or header "
                f"was changed, copy both again"
            )


def _through_wfdb(path: Path, header: Header) -> tuple[Header, NDArray[np.int16]]:
    """What NumPy does not read here: other formats, frames, skew, several segments."""
    try:
        import wfdb
    except ImportError:
        kinds = sorted({line.fmt for line in header.signals}) or ["several segments"]
        raise ImportError(
            f"{path.name} has format {', '.join(kinds)}, which needs the wfdb package: "
            f"pip install wfdb"
        ) from None
    with refusing(path, "a WFDB record"):
        record = wfdb.rdrecord(str(path.with_suffix("")), physical=False)
        signal = np.asarray(record.d_signal)
        given = header.signals or (_BLANK,) * record.n_sig
        # Sums are those of the file; frames, skew and segments change what is read, so wfdb is
        # trusted.
        lines = tuple(
            replace(
                line,
                gain=float(record.adc_gain[place]),
                baseline=int(record.baseline[place]),
                unit=str(record.units[place]),
                name=str(record.sig_name[place] or ""),
                checksum=line.checksum if line.frame == 1 and line.skew == 0 else None,
            )
            for place, line in enumerate(given)
        )
        fs = float(record.fs)
    if signal.ndim != 2 or 0 in signal.shape or signal.shape[1] != len(lines):
        raise ValueError(
            f"{path.name} gives samples of shape {signal.shape} for {len(lines)} signals; copy "
            f"header and samples again"
        )
    if signal.min() < -32768 or signal.max() > 32767:
        raise ValueError(
            f"{path.name} holds values from {signal.min()} to {signal.max()}, more than 16 bits"
        )
    return replace(header, fs=fs, signals=lines), signal.astype(np.int16)


_BLANK = SignalLine("", "16", 1, 0, 0, 200.0, 0, "mV", None, "")


def _check_claim(path: Path, header: Header) -> None:
    """Compare the samples that a header promises with its files, before memory is taken.

    Raises:
        FileNotFoundError: a segment is missing.
        ValueError: more than the files can hold.
    """
    if header.segments == 1:
        flac = any(line.fmt.startswith("5") for line in header.signals)
        rate = PER_BYTE_FLAC if flac else PER_BYTE
        claimed = sum((header.length or 1) * line.frame + line.skew for line in header.signals)
        held = rate * sum(_sizes(path, header))
    else:
        held, width = 0, 1
        for part in dict.fromkeys(header.parts):
            if part != NOTHING:
                place = path.with_name(f"{part}.hea")
                inner = parse_header(_text(_payload(path, place.name)), place.name)
                if inner.segments > 1:
                    raise ValueError(f"{path.name}: its segment {part} has segments of its own")
                if any(line.file != NOTHING for line in inner.signals):
                    _check_claim(place, inner)
                held += PER_BYTE_SEGMENTS * sum(_sizes(place, inner))
                width = max(width, len(inner.signals))
        claimed = (header.length or 1) * width
    if claimed > held:
        raise ValueError(
            f"{path.name} claims {claimed:,} samples, but its files can hold {held:,} at most; "
            f"copy header and samples again"
        )


def _sizes(path: Path, header: Header) -> Iterator[int]:
    """Bytes of each file of samples."""
    for file in {line.file for line in header.signals} - {NOTHING}:
        yield len(_payload(path, file))
