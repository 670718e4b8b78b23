"""MSTAR raw files: the five stored ones, a round trip, and all that may be wrong with one."""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from jepa_modalities.data.sar.phoenix import parse_phoenix, read_phoenix, write_phoenix

ROOT = Path(__file__).parents[2]
SAR = Path(os.environ.get("JEPA_DATA", ROOT.parent / "shared" / "data")) / "sar"
RAW = SAR / "mstar_raw_samples"
real = pytest.mark.skipif(not RAW.is_dir(), reason=f"no data at {RAW}")

# File: header bytes, file bytes, class, serial, aspect, largest and mean magnitude (data README).
SAMPLES = {
    "BMP2_HB03787.000": (1976, 133048, "BMP2", "9563", "346.491974", 0.61411, 0.048546),
    "BMP2_HB03787.001": (1975, 133047, "BMP2", "9566", "315.512543", 0.72336, 0.046319),
    "BMP2_HB03787.002": (1974, 133046, "BMP2", "c21", "13.191422", 0.93668, 0.045761),
    "BTR70_HB03787.004": (1983, 133055, "BTR70", "c71", "302.006775", 0.96900, 0.046663),
    "T72_HB03787.015": (1973, 133045, "T72", "132", "10.790657", 2.18494, 0.046844),
}


def chip(rows: int = 6, columns: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    magnitude = rng.rayleigh(0.05, (rows, columns)).astype(np.float32)
    return magnitude, rng.uniform(0, 6.28, (rows, columns)).astype(np.float32)


def encoded(folder: Path, header: dict[str, str] | None = None) -> bytes:
    write_phoenix(folder / "x.000", *chip(), header)
    return (folder / "x.000").read_bytes()


@real
@pytest.mark.realdata
@pytest.mark.parametrize("name", SAMPLES)
def test_stored_files(name: str, tmp_path: Path) -> None:
    length, size, target, serial, aspect, top, mean = SAMPLES[name]
    found = read_phoenix(RAW / name)
    assert found.magnitude.shape == found.phase.shape == (128, 128)
    assert found.magnitude.dtype == found.phase.dtype == np.float32
    assert float(found.magnitude.max()) == pytest.approx(top, abs=6e-6)
    assert float(found.magnitude.mean(dtype=np.float64)) == pytest.approx(mean, abs=6e-7)
    assert found.phase.min() >= 0 and found.phase.max() < 6.2817
    assert found.target == target and found.header["TargetSerNum"] == serial
    assert found.header["TargetAz"] == aspect and found.header["DesiredDepression"] == "17"
    assert int(found.header["PhoenixHeaderLength"]) == length
    assert int(found.header["PhoenixSigSize"]) == size == (RAW / name).stat().st_size
    assert found.header["Bandwidth"] == "0.591 GHz" and found.header["Polarization"] == "HH"
    assert found.header["PhoenixHeaderCallingSequence"] == ""
    # One number read by hand: row 40, column 70.
    content = (RAW / name).read_bytes()
    (expected,) = struct.unpack_from(">f", content, length + 4 * (40 * 128 + 70))
    assert found.magnitude[40, 70] == np.float32(expected)
    (expected,) = struct.unpack_from(">f", content, length + 4 * (128 * 128 + 40 * 128 + 70))
    assert found.phase[40, 70] == np.float32(expected)
    write_phoenix(tmp_path / name, found.magnitude, found.phase, found.header)
    again = read_phoenix(tmp_path / name)
    assert (tmp_path / name).read_bytes()[-8 * 128**2 :] == content[-8 * 128**2 :]
    lengths = {"PhoenixHeaderLength", "PhoenixSigSize"}
    assert list(again.header) == list(found.header)
    assert {k: v for k, v in again.header.items() if k not in lengths} == {
        k: v for k, v in found.header.items() if k not in lengths
    }


@real
@pytest.mark.realdata
def test_a_stored_file_cut_or_in_the_other_order_is_refused(tmp_path: Path) -> None:
    content = (RAW / "T72_HB03787.015").read_bytes()
    with pytest.raises(ValueError, match=r"T72 is truncated: 100,000 bytes, expected 133,045"):
        parse_phoenix(content[:100_000], "T72")
    swapped = np.frombuffer(content, ">f4", offset=1973).astype("<f4").tobytes()
    with pytest.raises(ValueError, match="T72 is little-endian"):
        parse_phoenix(content[:1973] + swapped, "T72")


@given(
    arrays(
        np.float32,
        array_shapes(min_dims=3, max_dims=3, max_side=7).map(lambda s: (2, *s[1:])),
        elements=st.floats(0.0009765625, 6.25, width=32),
    ),
    st.dictionaries(
        st.text("abcXYZ_", min_size=1, max_size=8),
        st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20),
        max_size=4,
    ),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, blocks: np.ndarray, header: dict
) -> None:
    path = tmp_path_factory.mktemp("phoenix") / "x.000"
    write_phoenix(path, blocks[0], blocks[1], header)
    found = read_phoenix(path)
    np.testing.assert_array_equal(found.magnitude, blocks[0])
    np.testing.assert_array_equal(found.phase, blocks[1])
    assert {key: found.header[key] for key in header} == header
    assert [path.name] == [file.name for file in path.parent.iterdir()]


def test_complex_numbers(tmp_path: Path) -> None:
    found = parse_phoenix(encoded(tmp_path), "x")
    magnitude, phase = chip()
    for row in range(6):
        for column in range(5):
            size, angle = float(magnitude[row, column]), float(phase[row, column])
            expected = complex(size * math.cos(angle), size * math.sin(angle))
            assert complex(found.complex[row, column]) == pytest.approx(expected, abs=1e-7)


def test_the_native_header_is_skipped(tmp_path: Path) -> None:
    content = encoded(tmp_path)
    start = len(content) - 8 * 30
    longer = content[:start].replace(b"native_header_length= 0", b"native_header_length= 9")
    found = parse_phoenix(longer + b"x" * 9 + content[start:], "x")
    np.testing.assert_array_equal(found.magnitude, chip()[0])


def test_phases_from_minus_pi_and_empty_magnitudes_are_read(tmp_path: Path) -> None:
    magnitude, phase = chip()
    write_phoenix(tmp_path / "x.000", 0 * magnitude, phase - np.float32(math.pi))
    found = read_phoenix(tmp_path / "x.000")
    assert not found.magnitude.any() and found.phase.min() < 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[:-1], r"x is truncated: [\d,]+ bytes, expected [\d,]+ .*6 x 5"),
        (lambda c: c + b"\0", "x is too long"),
        (lambda c: c[:100], r"x is truncated: its header has no '\[EndofPhoenixHeader\]'"),
        (lambda c: c[: -8 * 30] + b"\0" * 4 * 30, "16-bit full scenes are not supported"),
        (lambda c: b"\x89PNG" + c[60:], r"no MSTAR Phoenix file: it begins with b'\\x89PNG"),
        (lambda c: b"", "no MSTAR Phoenix file"),
        (lambda c: c.replace(b"NumberOfRows", b"NumberOfCows"), "its header has no NumberOfRows"),
        (lambda c: c.replace(b"NumberOfRows= 6", b"NumberOfRows= a"), "'a' is no whole number"),
        (lambda c: c.replace(b"NumberOfRows= 6", b"NumberOfRows= 0"), "gives 0 x 5 pixels"),
    ],
)
def test_broken_files(tmp_path: Path, change: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_phoenix(change(encoded(tmp_path)), "x")  # type: ignore[operator]


def test_little_endian_is_named(tmp_path: Path) -> None:
    content = encoded(tmp_path)
    start = len(content) - 8 * 30
    swapped = np.frombuffer(content, ">f4", offset=start).byteswap().tobytes()
    with pytest.raises(ValueError, match=r"x is little-endian.*write_phoenix"):
        parse_phoenix(content[:start] + swapped, "x")
    # Round numbers look like tiny positive ones in the other order.
    ones = np.concatenate([np.ones(30, "<f4"), np.zeros(30, "<f4")]).tobytes()
    with pytest.raises(ValueError, match="x is little-endian"):
        parse_phoenix(content[:start] + ones, "x")


def test_numbers_that_are_no_magnitudes_are_refused(tmp_path: Path) -> None:
    content = encoded(tmp_path)
    start = len(content) - 8 * 30
    for bad in (-1.0, float("nan"), float("inf")):
        broken = content[:start] + struct.pack(">f", bad) + content[start + 4 :]
        with pytest.raises(ValueError, match="neither in big- nor in little-endian order"):
            parse_phoenix(broken, "x")


def test_the_writer_refuses_what_cannot_be_read_again(tmp_path: Path) -> None:
    magnitude, phase = chip()
    with pytest.raises(ValueError, match=r"\(6, 5\), phase \(5, 5\)"):
        write_phoenix(tmp_path / "x", magnitude, phase[:5])
    for header in ({"a=b": "1"}, {"a": "1\n2"}):
        with pytest.raises(ValueError, match="line break or '='"):
            write_phoenix(tmp_path / "x", magnitude, phase, header)
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_an_error() -> None:
    with pytest.raises(FileNotFoundError, match=r"no_such\.000"):
        read_phoenix("no_such.000")
