"""WFDB headers, samples and annotations."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from jepa_modalities.data.ecg.annotation import read_annotations
from jepa_modalities.data.ecg.wfdb import Recording, read_header, read_record

SAMPLES = 50


def record(folder: Path, fmt: str = "16", leads: int = 2) -> Path:
    """A record of 2 leads and 50 samples at 100 Hz in one file; .mat: behind 24 bytes."""
    signal = np.random.default_rng(0).integers(-100, 100, (SAMPLES, leads))
    name, offset = ("case.mat", "+24") if fmt == "mat" else ("case.dat", "")
    kind = "16" if fmt == "mat" else fmt
    lines = [f"case {leads} 100 {SAMPLES}"]
    for lead, values in zip(("I", "V6"), signal.T, strict=False):
        lines.append(
            f"{name} {kind}{offset} 200(3)/mV 16 0 {values[0]} {values.sum() % 65536} 0 {lead}"
        )
    lines += ["# Age: 71", "# Dx: 426783006"]
    if kind == "16":
        content = signal.astype("<i2").tobytes()
    elif kind == "212":
        pairs = (signal & 0xFFF).reshape(-1, 2)
        low, high = pairs[:, 0], pairs[:, 1]
        triples = [low & 0xFF, low >> 8 | (high >> 8) << 4, high & 0xFF]
        content = np.stack(triples, 1).astype(np.uint8).tobytes()
    else:  # 80: bytes with an offset of 128
        content = (signal + 128).astype(np.uint8).tobytes()
    (folder / name).write_bytes((bytes(24) if fmt == "mat" else b"") + content)
    (folder / "case.hea").write_text("\n".join(lines) + "\n")
    return folder / "case.hea"


def checked(path: Path) -> Recording:
    """Read, and hold what came to what the header says."""
    header, found = read_header(path), read_record(path)
    signal = found.signal
    assert signal.dtype == np.int16 and signal.ndim == 2 and len(signal) > 0
    if header.segments == 1:
        assert signal.shape[1] == len(header.signals)
        assert header.length in (None, len(signal))
    width = signal.shape[1]
    assert width == len(found.leads) == len(found.gain) == len(found.baseline) == len(found.unit)
    assert len(set(found.leads)) == width and all(found.leads)
    assert math.isfinite(found.fs) and found.fs > 0
    assert all(math.isfinite(gain) and gain != 0 for gain in found.gain)
    assert all(abs(zero) < 2**31 for zero in found.baseline)
    return found


@pytest.mark.parametrize("fmt", ["16", "212", "mat"])
def test_records(mutation: ModuleType, tmp_path: Path, fmt: str) -> None:
    path = record(tmp_path, fmt)
    payload = next(p for p in tmp_path.iterdir() if p.suffix != ".hea")
    files = {path: mutation.text, payload: mutation.binary}
    mutation.attack(lambda: checked(path), files, count=mutation.COUNT // 2)


def test_records_of_other_formats(mutation: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("wfdb")
    path = record(tmp_path, "80")
    files = {path: mutation.text, path.with_suffix(".dat"): mutation.binary}
    mutation.attack(lambda: checked(path), files)


def annotations(folder: Path) -> Path:
    """Beats, a rhythm change, a long pause, and a rate."""

    def word(code: int, interval: int) -> bytes:
        return (code << 10 | interval).to_bytes(2, "little")

    def note(text: bytes) -> bytes:
        return word(63, len(text)) + text + bytes(len(text) % 2)

    content = word(22, 0) + note(b"## time resolution: 360")
    content += word(22, 0) + note(b"## annotation type definitions")
    content += word(22, 0) + note(b"42 % odd beat") + word(22, 0) + note(b"## end of definitions")
    content += word(1, 20) + word(28, 0) + note(b"(AFIB") + word(42, 300)
    content += word(59, 0) + b"\x01\x00\x00\x00" + word(5, 0) + word(1, 250) + word(0, 0)
    (folder / "case.atr").write_bytes(content)
    return folder / "case.atr"


def test_annotations(mutation: ModuleType, tmp_path: Path) -> None:
    path = annotations(tmp_path)

    def read() -> None:
        found = read_annotations(path)
        assert len(found.sample) == len(found.symbol) == len(found.aux)
        assert (found.sample >= 0).all() and all(found.symbol)
        assert found.fs is None or (math.isfinite(found.fs) and found.fs > 0)

    mutation.attack(read, {path: mutation.both})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (" 100 50", " 100 +5", "the record line is"),  # which WFDB's reader passes over
        (" 100 50", " 100 \u0663", "the record line is"),  # a three in Arabic
        ("200(3)", "1e999(3)", "no signal line"),  # a gain of infinity made every sample 0
        ("200(3)", "200(99999999999)", "no signal line"),
        ("200(3)", f"200({5000 * '9'})", "no signal line"),
        ("case.dat", "../case.dat", "expected a file beside it"),
        ("case.dat", "/etc/passwd", "expected a file beside it"),
        ("case.dat", "..", "expected a file beside it"),
        ("case.dat", 300 * "x", "expected a file beside it"),
    ],
)
def test_headers_that_lead_astray(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = record(tmp_path)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=f"case.hea.*{message}"):
        read_record(path)


def test_claims_are_held_against_the_files(tmp_path: Path) -> None:
    """A terabyte is refused before memory is taken, in every format and by segments."""
    path = record(tmp_path, "80")
    path.write_text(path.read_text().replace("100 50", "100 1000000000000"))
    with pytest.raises(ValueError, match=r"case\.hea claims 2,000,000,000,000 samples"):
        read_record(path)
    for kind in ("16x1000000000", "16:1000000000"):
        path = record(tmp_path)
        path.write_text(path.read_text().replace(".dat 16", f".dat {kind}"))
        with pytest.raises(ValueError, match=r"case\.hea claims"):
            read_record(path)
    record(tmp_path)
    (tmp_path / "many.hea").write_text("many/2 2 100 1000000000000\ncase 50\n~ 999999999950\n")
    with pytest.raises(ValueError, match=r"many\.hea claims 2,000,000,000,000 samples"):
        read_record(tmp_path / "many.hea")
    (tmp_path / "many.hea").write_text("many/2 2 100 100\ncase 50\n../case 50\n")
    with pytest.raises(ValueError, match=r"many\.hea names '\.\./case'"):
        read_record(tmp_path / "many.hea")
    (tmp_path / "many.hea").write_text("many/2 2 100 100\ncase 50\nmany 50\n")
    with pytest.raises(ValueError, match="has segments of its own"):
        read_record(tmp_path / "many.hea")


def test_complaints_of_wfdb_name_the_record(tmp_path: Path) -> None:
    path = record(tmp_path, "80")
    path.with_suffix(".dat").write_bytes(bytes(99))
    with pytest.raises(ValueError, match=r"case\.hea"):
        read_record(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"360", b"nan", "expected a rate"),
        (b"360", b"-32", "expected a rate"),
        (b"360", b"/et", "expected a rate"),
        (b"42 % odd", b"inf inf ", "expected `NUMBER SYMBOL"),
        (b"42 % odd beat", b"             ", "expected `NUMBER SYMBOL"),
        (b"\x01\x00\x00\x00", b"\x00\x80\x00\x00", "before the first"),
    ],
)
def test_annotations_that_make_no_sense(
    tmp_path: Path, old: bytes, new: bytes, message: str
) -> None:
    path = annotations(tmp_path)
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(ValueError, match=rf"case\.atr.*{message}"):
        read_annotations(path)
