"""WFDB records and annotations: equal to the wfdb package bit for bit, and clear about faults."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_modalities.data.ecg.annotation import SYMBOLS, read_annotations
from jepa_modalities.data.ecg.header import parse_header
from jepa_modalities.data.ecg.layout import INVALID
from jepa_modalities.data.ecg.lead import lead_name, unit_name
from jepa_modalities.data.ecg.wfdb import decode_16, decode_212, read_record

FOLDERS = ["cinc2021", "cpsc2021", "mitdb", "mitdb_ch0", "ptbxl_native", "ptbxl_sub100"]


@pytest.mark.realdata
@pytest.mark.parametrize("folder", FOLDERS)
def test_equals_wfdb_on_real_records(folder: str, ecg_data: Path) -> None:
    wfdb = pytest.importorskip("wfdb")
    headers = sorted((ecg_data / folder).rglob("*.hea"))
    for header in headers[:: max(1, len(headers) // 30)]:
        found = read_record(header)
        expected = wfdb.rdrecord(str(header.with_suffix("")), physical=False)
        sentinel = -2048 if expected.fmt[0] == "212" else INVALID
        digital = np.where(expected.d_signal == sentinel, INVALID, expected.d_signal)
        assert found.signal.dtype == np.int16
        np.testing.assert_array_equal(found.signal, digital)
        assert list(found.gain) == expected.adc_gain and list(found.baseline) == expected.baseline
        assert found.fs == expected.fs and list(found.comments) == expected.comments
        assert [lead_name(name) for name in expected.sig_name] == list(found.leads)
        assert [unit_name(unit) for unit in expected.units] == list(found.unit)
        physical = wfdb.rdrecord(str(header.with_suffix(""))).p_signal
        mine = (found.signal.astype(float) - found.baseline) / found.gain
        mine[found.signal == INVALID] = np.nan
        np.testing.assert_array_equal(mine, physical)
        content = header.read_bytes() + header.with_name(expected.file_name[0]).read_bytes()
        assert found.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("folder", "extension"), [("mitdb", "atr"), ("mitdb_ch0", "vnv"), ("cpsc2021", "atr")]
)
def test_annotations_equal_wfdb(folder: str, extension: str, ecg_data: Path) -> None:
    wfdb = pytest.importorskip("wfdb")
    files = sorted((ecg_data / folder).glob(f"*.{extension}"))
    assert files
    for path in files:
        found, expected = read_annotations(path), wfdb.rdann(str(path.with_suffix("")), extension)
        np.testing.assert_array_equal(found.sample, expected.sample)
        assert list(found.symbol) == expected.symbol
        assert list(found.aux) == [note.rstrip("\0") for note in expected.aux_note]
    table = wfdb.io.annotation.ann_label_table
    known = dict(zip(table.label_store.astype(int), table.symbol, strict=True))
    assert known.pop(0) == " " and known == SYMBOLS


@pytest.mark.realdata
def test_headers_that_wfdb_rejects_are_read(ecg_data: Path) -> None:
    wfdb = pytest.importorskip("wfdb")
    for header in sorted((ecg_data / "cinc2021_legacy_headers").glob("*.hea")):
        with pytest.raises(Exception, match="invalid syntax"):
            wfdb.rdheader(str(header.with_suffix("")))
        found = read_record(header)  # sums are compared inside
        payload = header.with_suffix(".mat").read_bytes()[24:]
        expected = np.frombuffer(payload, "<i2").reshape(-1, 12)
        np.testing.assert_array_equal(found.signal, expected)
        assert found.fs == 500 and found.leads[3:6] == ("aVR", "aVL", "aVF")
        assert any(comment.startswith("Dx: ") for comment in found.comments)


def plain_212(data: bytes, count: int) -> list[int]:
    samples: list[int] = []
    for at in range(0, len(data), 3):
        b0, b1, b2 = (*data[at : at + 3], 0, 0)[:3]
        for low, high in ((b0, b1 & 15), (b2, b1 >> 4)):
            value = low + 256 * high
            samples.append(value - 4096 if value > 2047 else value)
    return samples[:count]


@given(st.binary(min_size=3, max_size=60))
def test_format_212_is_two_numbers_in_three_bytes(data: bytes) -> None:
    count = len(data) // 3 * 2 + (len(data) % 3 == 2)
    assert decode_212(data, count).tolist() == plain_212(data, count)


@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=40))
def test_format_16_is_two_bytes(values: list[int]) -> None:
    data = b"".join((value % 65536).to_bytes(2, "little") for value in values)
    assert decode_16(data, len(values)).tolist() == values


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(["16", "212", "80"]),
    st.integers(1, 3),
    st.integers(1, 31),
    st.integers(0, 999),
)
def test_written_by_wfdb_read_by_us(
    tmp_path_factory: pytest.TempPathFactory, fmt: str, leads: int, samples: int, seed: int
) -> None:
    wfdb = pytest.importorskip("wfdb")
    folder = tmp_path_factory.mktemp("made")
    bound = {"16": 32767, "212": 2047, "80": 127}[fmt]
    rng = np.random.default_rng(seed)
    signal = rng.integers(-bound, bound + 1, (samples, leads))
    wfdb.wrsamp(
        "r", 250.5, ["mV"] * leads, [f"V{n + 1}" for n in range(leads)], d_signal=signal,
        fmt=[fmt] * leads, adc_gain=[200.0] * leads, baseline=[-3] * leads, write_dir=str(folder),
    )  # fmt: skip
    found = read_record(folder / "r.hea")
    np.testing.assert_array_equal(found.signal, signal)
    assert found.fs == 250.5 and found.gain == (200.0,) * leads and found.baseline == (-3,) * leads


def header(*lines: str, record: str = "r 1 500 4") -> Any:
    return parse_header("\n".join([record, *lines]), "r.hea")


def test_fields_of_a_signal_line() -> None:
    full = header("r.mat 16x1:2+24 1000.0(-7)/uV 16 3 11 -22 0 lead aVR").signals[0]
    assert (full.file, full.fmt, full.frame, full.skew, full.offset) == ("r.mat", "16", 1, 2, 24)
    assert (full.gain, full.baseline, full.unit) == (1000, -7, "uV")
    assert (full.checksum, full.name) == (-22, "lead aVR")
    bare = header("r.dat 212").signals[0]
    assert (bare.gain, bare.baseline, bare.unit, bare.checksum, bare.name) == (
        200,
        0,
        "mV",
        None,
        "",
    )
    zero = header("r.dat 212 200 11 1024 995 -22131 0 MLII").signals[0]
    assert (zero.baseline, zero.unit) == (1024, "mV")  # without (baseline) it is the ADC's zero
    assert header("r.dat 16 0/mV").signals[0].gain == 200  # 0 stands for the default
    assert header("r.dat 16 1.5e3/mV").signals[0].gain == 1500


@pytest.mark.parametrize(
    ("record", "name", "fs", "length"),
    [
        ("E00271.mat 1 500 5000 05-May-2020 14:50:55", "E00271", 500, 5000),
        ("a 1", "a", 250, None),
        ("a 1 360/250(0) 9 26-Mar-2021 15:17:31", "a", 360, 9),
        ("plus/sub 1 128.5 0", "plus/sub", 128.5, None),
    ],
)
def test_record_lines(record: str, name: str, fs: float, length: int | None) -> None:
    text = f"# before the record line\n\n{record}\nr.dat 16\n#Age: 72\n # Dx: 1,2 \n"
    found = parse_header(text)
    assert (found.name, found.fs, found.length, found.segments) == (name, fs, length, 1)
    assert found.comments == ("before the record line", "Age: 72", "Dx: 1,2")
    assert found.comment("dx") == "1,2" and found.comment("Sex") is None
    assert parse_header("many/2 2 360 600\nmany_1 300\nmany_2 300\n").parts == ("many_1", "many_2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no record line"),
        ("# only\n", "has no record line"),
        ("r twelve 500\n", "record line is 'r twelve 500'"),
        ("r 1 0 4\nr.dat 16\n", "0.0 Hz"),
        ("r 2 500 4\nr.dat 16\n", "says 2 leads, 1 follow"),
        ("r 1 500 4\nr.dat sixteen\n", "is no signal line"),
        ("r 1 500 4\nr.dat 16 gain/mV\n", "is no signal line"),
    ],
)
def test_broken_headers(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_header(text, "r.hea")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("AVR", "aVR"), (" avf ", "aVF"), ("DII", "II"), ("Lead I", "I"), ("ECG_v3", "V3"),
        ("MLII", "MLII"), ("ml2", "MLII"), ("vz", "VZ"), ("v3r", "V3R"), ("RESP", "RESP"),
    ],
)  # fmt: skip
def test_lead_names(text: str, name: str) -> None:
    assert lead_name(text) == name
    assert lead_name(lead_name(text)) == name
    assert lead_name("MLII", {"MLII": "II"}) == "II"


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("mv", "mV"),
        ("MV", "mV"),
        ("µV", "uV"),
        ("μv", "uV"),
        ("UV", "uV"),
        ("NU", "NU"),
        ("bpm", "bpm"),
    ],
)
def test_units(text: str, unit: str) -> None:
    assert unit_name(text) == unit


def test_offset_and_sentinel(tmp_path: Path, written: Any) -> None:
    signal = np.array([[5, INVALID], [INVALID, INVALID], [-7, INVALID]], np.int16)
    written(tmp_path / "a", leads=["I", "V1"], signal=signal, suffix="mat")
    found = read_record(tmp_path / "a.hea")
    np.testing.assert_array_equal(found.signal, signal)
    assert found.notes == ("lead V1 has no valid sample", "some samples are marked as invalid")
    # Format 212: -2048 is its "no sample", and only there.
    (tmp_path / "b.hea").write_text("b 1 360 2\nb.dat 212 200(0)/mV 12 0 -2048 -2043 0 MLII\n")
    (tmp_path / "b.dat").write_bytes(bytes([0x00, 0x08, 0x05]))
    np.testing.assert_array_equal(read_record(tmp_path / "b.hea").signal, [[INVALID], [5]])
    written(tmp_path / "c", leads=["I"], signal=np.array([[-2048], [1]], np.int16))
    np.testing.assert_array_equal(read_record(tmp_path / "c.hea").signal, [[-2048], [1]])


def test_leads_in_several_files(tmp_path: Path, written: Any) -> None:
    one = written(tmp_path / "one", 1, 9, leads=["I", "II"])
    two = written(tmp_path / "two", 2, 9, leads=["V1"])
    lines = [(tmp_path / f"{name}.hea").read_text().splitlines()[1:] for name in ("one", "two")]
    text = ["both 3 100 9", lines[0][0], lines[1][0], lines[0][1]]
    (tmp_path / "both.hea").write_text("\n".join(text))
    found = read_record(tmp_path / "both.hea")
    assert found.leads == ("I", "V1", "II")
    np.testing.assert_array_equal(found.signal, np.stack([one[:, 0], two[:, 0], one[:, 1]], 1))


def test_length_from_the_file_where_the_header_has_none(tmp_path: Path, written: Any) -> None:
    signal = written(tmp_path / "a", 3, 17, leads=["I", "II"])
    text = (tmp_path / "a.hea").read_text().replace("a 2 100 17", "a 2 100")
    (tmp_path / "a.hea").write_text(text)
    np.testing.assert_array_equal(read_record(tmp_path / "a.hea").signal, signal)


def test_faults_of_a_payload(tmp_path: Path, written: Any) -> None:
    path = tmp_path / "a.hea"
    signal = written(tmp_path / "a", leads=["I", "II"], samples=50)
    data = (tmp_path / "a.dat").read_bytes()
    (tmp_path / "a.dat").write_bytes(data[:-101])
    with pytest.raises(ValueError, match=r"a.dat is cut off: it holds 24 of 50 samples of 2 leads"):
        read_record(path)
    changed = bytearray(data)
    changed[4] ^= 1
    (tmp_path / "a.dat").write_bytes(changed)
    right = sum(int(value) for value in signal[:, 0]) % 65536
    with pytest.raises(ValueError, match=rf"checksum of lead I in a.dat.*header says {right}"):
        read_record(path)
    (tmp_path / "a.dat").unlink()
    with pytest.raises(FileNotFoundError, match=r"a.hea asks for a.dat, which is not beside it"):
        read_record(path)
    (tmp_path / "a.dat").write_bytes(data + b"more")  # longer files are as the header says
    np.testing.assert_array_equal(read_record(path).signal, signal)


def test_notes_and_faults_of_leads(tmp_path: Path, written: Any) -> None:
    written(tmp_path / "a", leads=["CH7", "II"])
    assert read_record(tmp_path / "a.hea").notes == (
        "CH7 is no lead that we know; it is kept under this name",
    )
    written(tmp_path / "b", leads=["II", "DII"])
    with pytest.raises(ValueError, match=r"b.hea names the lead II 2 times"):
        read_record(tmp_path / "b.hea")
    (tmp_path / "c.hea").write_text("c 2 100 1\nc.dat 16\nc.dat 16\n")
    (tmp_path / "c.dat").write_bytes(bytes(4))
    found = read_record(tmp_path / "c.hea")
    assert found.leads == ("ch0", "ch1") and "no checksums" in found.notes[0]


def test_values_of_more_than_16_bits_are_refused(tmp_path: Path) -> None:
    wfdb = pytest.importorskip("wfdb")
    signal = np.array([[40_000], [1]])
    wfdb.wrsamp(
        "w",
        100,
        ["mV"],
        ["I"],
        d_signal=signal,
        fmt=["24"],
        adc_gain=[1.0],
        baseline=[0],
        write_dir=str(tmp_path),
    )
    with pytest.raises(ValueError, match="values from 1 to 40000, more than 16 bits"):
        read_record(tmp_path / "w.hea")


def word(code: int, interval: int) -> bytes:
    return (code << 10 | interval).to_bytes(2, "little")


def test_annotation_codes(tmp_path: Path) -> None:
    path = tmp_path / "a.atr"
    note = b"(AFIB"
    long = (
        word(59, 0) + (70_000 >> 16).to_bytes(2, "little") + (70_000 % 65536).to_bytes(2, "little")
    )
    path.write_bytes(
        word(1, 10) + word(5, 20) + word(61, 3) + word(62, 1)  # N at 10, V at 30 with sub and chan
        + long + word(28, 5) + word(63, len(note)) + note + b"\0"  # + at 70,035 with a note
        + word(0, 1) + word(8, 2) + b"\0\0" + b"rest"
    )  # fmt: skip
    found = read_annotations(path)
    assert found.sample.tolist() == [10, 30, 70_035, 70_038]
    assert found.symbol == ("N", "V", "+", "A") and found.aux == ("", "", "(AFIB", "")
    content = path.read_bytes()
    for cut in (3, 9, 12, 18, 22):
        path.write_bytes(content[:cut])
        with pytest.raises(ValueError, match=r"a.atr ends in the middle of an annotation"):
            read_annotations(path)
    path.write_bytes(word(55, 1) + b"\0\0")
    with pytest.raises(ValueError, match="code 55 at sample 1"):
        read_annotations(path)


def test_annotations_with_codes_of_their_own(tmp_path: Path) -> None:
    wfdb = pytest.importorskip("wfdb")
    import pandas

    own = pandas.DataFrame(
        {"label_store": [42], "symbol": ["z"], "description": ["something of ours"]}
    )
    wfdb.wrann(
        "r", "own", np.array([4, 9]), ["N", "z"], fs=128, custom_labels=own, write_dir=str(tmp_path)
    )
    found = read_annotations(tmp_path / "r.own")
    assert found.symbol == ("N", "z") and found.sample.tolist() == [4, 9] and found.fs == 128
