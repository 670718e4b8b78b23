"""Recordings become one HDF5 file that holds them unchanged, also after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from jepa_modalities.cli.main import main
from jepa_modalities.data.ecg.file import open_records
from jepa_modalities.data.ecg.layout import INVALID
from jepa_modalities.data.ecg.wfdb import read_record
from jepa_modalities.data.prepare import ecg as module
from jepa_modalities.data.prepare.ecg_cinc2021 import prepare_cinc2021, set_of
from jepa_modalities.data.prepare.ecg_mitdb import DS1, DS2, prepare_mitdb
from jepa_modalities.data.prepare.ecg_ptbxl import prepare_ptbxl
from jepa_modalities.data.prepare.ecg_wfdb import prepare_wfdb

Write = Callable[..., np.ndarray[Any, Any]]


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def folder(tmp_path: Path, written: Write) -> Path:
    """Records of several lengths, rates, leads, gains and units."""
    top = tmp_path / "own"
    written(top / "b" / "one", 1, 90, 100, ["DII", "v1"], unit="mv", gain=250)
    written(top / "b" / "two", 2, 70, 360, ["MLII"], unit="uV")
    written(top / "a", 3, 130, 500, comments=["Age: 72", "Sex: Female", "Dx: 427084000,39732003"])
    return top


def test_any_folder(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "own.h5"
    seen: list[tuple[str, int, int]] = []
    done = prepare_wfdb(folder, out, progress=lambda *told: seen.append(told))
    assert done.files == {out: sha(out)} and done.written == 3 and done.skipped == ()
    assert seen[-1] == ("own.h5", 3, 3)
    assert done.notes == ("3 recordings, such as a: no annotations",)
    records = open_records(out)
    names = ["a", "b/one", "b/two"]
    assert records.record_id.tolist() == names and set(records.source) == {"own"}
    assert records.fs.tolist() == [500, 100, 360] and records.length.tolist() == [130, 90, 70]
    assert records.leads(1) == ("II", "V1") and records.leads(2) == ("MLII",)
    assert records.unit[1, :2].tolist() == ["mV", "mV"] and records.unit[2, 0] == "uV"
    assert records.age[0] == 72 and np.isnan(records.age[1]) and records.sex.tolist() == [1, -1, -1]
    assert records.label_names == ("39732003", "427084000")
    assert records.labels is not None and records.labels.tolist() == [[1, 1], [0, 0], [0, 0]]
    assert records.fold.tolist() == [-1, -1, -1]
    for row, name in enumerate(names):
        expected = read_record(folder / f"{name}.hea")
        there = records.lead_index[row] >= 0
        np.testing.assert_array_equal(records.record(row)[:, there], expected.signal)
        assert (records.record(row)[:, ~there] == 0).all()
        np.testing.assert_array_equal(records.physical(row), expected.signal / expected.gain)
    with h5py.File(out) as file:  # the layout of the documentation
        assert file["signals"].shape == (290, 12) and file["starts"][:].tolist() == [0, 130, 220]
        assert file["signals"].dtype == np.int16 and file["gain"].dtype == np.float64
        assert file["baseline"].dtype == np.int32
        assert json.loads(file.attrs["settings"])["dataset"] == "wfdb"
        assert file["sha256"][0].decode() == read_record(folder / "a.hea").sha256


def test_equal_lengths_are_one_chunk_per_record(tmp_path: Path, written: Write) -> None:
    signals = [
        written(tmp_path / "in" / f"{n}", n, 64, leads=["I", "II"][: 1 + n % 2]) for n in range(5)
    ]
    prepare_wfdb(tmp_path / "in", tmp_path / "a.h5")
    prepare_wfdb(tmp_path / "in", tmp_path / "b.h5", compress=True)
    for name in ("a.h5", "b.h5"):
        with h5py.File(tmp_path / name) as file:
            assert file["signals"].shape == (5, 64, 2) and file["signals"].chunks == (1, 64, 2)
            assert (file["signals"].compression == "gzip") == (name == "b.h5")
        records = open_records(tmp_path / name)
        for row, expected in enumerate(signals):
            np.testing.assert_array_equal(records.record(row)[:, : expected.shape[1]], expected)
    assert open_records(tmp_path / "a.h5").stretches[0].mapped() is not None


@pytest.mark.parametrize(("fault", "workers", "lengths"), [(7, 2, 40), (8, 1, 0), (30, 2, 0)])
def test_killed_and_resumed_file_equals_the_undisturbed_one(
    fault: int, workers: int, lengths: int, tmp_path: Path, written: Write, monkeypatch: Any
) -> None:
    for number in range(30):
        written(
            tmp_path / "in" / f"{number:02}", number, 50 + (number if lengths else 0), leads=["I"]
        )
    (tmp_path / "in" / "05.dat").write_bytes(b"short")
    script = (
        "import sys; from jepa_modalities.data.prepare import ecg; ecg.COMMIT = 4\n"
        "from jepa_modalities.data.prepare.ecg_wfdb import prepare_wfdb\n"
        "prepare_wfdb(sys.argv[1], sys.argv[2], workers=int(sys.argv[3]))"
    )
    out = tmp_path / "killed.h5"
    environment = os.environ | {module.FAULT: str(fault), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, str(tmp_path / "in"), str(out), str(workers)]
    result = subprocess.run(command, env=environment, capture_output=True, timeout=120)
    assert result.returncode == -signal.SIGKILL, result.stderr
    log = tmp_path / "killed.h5.part" / "log.jsonl"
    assert not out.exists() and log.read_bytes().endswith(b'{"torn')
    assert log.read_bytes().count(b"\n") == 1 + fault
    time.sleep(1.1)  # a file with times in it would now differ
    resumed = prepare_wfdb(tmp_path / "in", out, workers=2)
    monkeypatch.setattr(module, "COMMIT", 7)
    straight = prepare_wfdb(tmp_path / "in", tmp_path / "straight.h5", workers=1)
    assert sha(out) == sha(tmp_path / "straight.h5") == straight.files[tmp_path / "straight.h5"]
    assert resumed.resumed == fault - (fault > 5) and resumed.written == straight.written == 29
    assert [name for name, _ in resumed.skipped] == ["05"] and not log.parent.exists()


def test_finished_files_are_kept_and_other_sources_noticed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "own.h5"
    first = prepare_wfdb(folder, out)
    before = out.stat().st_mtime_ns
    again = prepare_wfdb(folder, out, workers=2)
    assert again.resumed == 3 and again.files == first.files and out.stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match="was not made from these recordings"):
        prepare_wfdb(folder, out, name="another")
    touched = folder / "b" / "one.dat"
    os.utime(touched, ns=(before + 10**9, before + 10**9))
    with pytest.raises(FileExistsError, match=r"one\.dat changed after .*own\.h5 was made.*--anew"):
        prepare_wfdb(folder, out)
    assert prepare_wfdb(folder, out, resume=False).resumed == 0  # made again
    assert out.stat().st_mtime_ns > before and sha(out) == first.files[out]
    os.utime(touched, ns=(before, before))
    (folder / "b" / "two.dat").unlink()
    with pytest.raises(FileExistsError, match="remove it or choose another name"):
        prepare_wfdb(folder, out)
    skipped = prepare_wfdb(folder, tmp_path / "less.h5").skipped
    assert skipped == (
        ("b/two", "two.hea asks for two.dat, which is not beside it; copy it there"),
    )


def test_strict_stops_and_goes_on_after_a_repair(folder: Path, tmp_path: Path) -> None:
    data = (folder / "b" / "two.dat").read_bytes()
    (folder / "b" / "two.dat").write_bytes(data[:-8])
    out = tmp_path / "own.h5"
    with pytest.raises(ValueError, match=r"b/two: two.dat is cut off.*\n.*without"):
        prepare_wfdb(folder, out, "raise")
    assert not out.exists()
    (folder / "b" / "two.dat").write_bytes(data)
    assert prepare_wfdb(folder, out, "raise").resumed == 2
    prepare_wfdb(folder, tmp_path / "other.h5")
    assert sha(out) == sha(tmp_path / "other.h5")


def test_a_source_that_changed_meanwhile(folder: Path, tmp_path: Path, written: Write) -> None:
    (folder / "b" / "two.dat").write_bytes(b"")
    out = tmp_path / "own.h5"
    with pytest.raises(ValueError, match="b/two"):
        prepare_wfdb(folder, out, "raise")
    written(folder / "a", 9, 20)
    with pytest.raises(ValueError, match=r"a changed since .*resume=False"):
        prepare_wfdb(folder, out)
    with pytest.raises(ValueError, match="begun with another annotator"):
        prepare_wfdb(folder, out, annotator="atr")
    assert prepare_wfdb(folder, out, resume=False).written == 2


def test_wrong_arguments(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no folder"):
        prepare_wfdb(tmp_path / "nowhere", tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"ends in \.h5"):
        prepare_wfdb(folder, tmp_path / "a.npz")
    with pytest.raises(ValueError, match="workers = 0"):
        prepare_wfdb(folder, tmp_path / "a.h5", workers=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no WFDB headers"):
        prepare_wfdb(tmp_path / "empty", tmp_path / "a.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "own"]


def said(capsys: pytest.CaptureFixture[str], *args: Any) -> tuple[int, str]:
    code = main(["prepare", *map(str, args)])
    shown = capsys.readouterr()
    return code, " ".join((shown.out + shown.err).split())


def faulty(kind: str, top: Path, written: Write) -> None:
    """A good record `g` and one, `x`, with a fault."""
    written(top / "g", 1, 100)
    leads = ["I", "II"] if kind == "two leads" else None
    written(top / "x", 2, 100, **({"leads": leads} if leads else {}))
    data, text = (top / "x.dat").read_bytes(), (top / "x.hea").read_text()
    if kind == "truncated":
        (top / "x.dat").write_bytes(data[:-1])
    elif kind == "checksum":
        (top / "x.dat").write_bytes(b"\x01" + data[1:] if data[0] != 1 else b"\x02" + data[1:])
    elif kind == "unknown lead":
        (top / "x.hea").write_text(text.replace(" V6", " CH12"))
    elif kind == "lead of NaN":
        signal = np.frombuffer(data, "<i2").reshape(-1, 12).copy()
        signal[:, 6] = INVALID
        written(top / "x", signal=signal)
    elif kind == "8 s":
        written(top / "x", 2, 80)
    elif kind == "no rate":
        (top / "x.hea").write_text(text.replace(" 12 100 100", " 12 0 100"))
    elif kind == "legacy header":
        (top / "x.hea").write_text(
            text.replace("x 12 100 100", "x.mat 12 100 100 05-May-2020 1:2:3")
        )


@pytest.mark.parametrize(
    ("kind", "count", "parts"),
    [
        ("truncated", 1, ["1 skipped", "x: x.dat is cut off: it holds 99 of 100 samples"]),
        ("checksum", 1, ["1 skipped", "x: checksum of lead I in x.dat", "was changed, copy both"]),
        ("unknown lead", 2, ["note: 1 recording, such as x: CH12 is no lead that we know"]),
        ("lead of NaN", 2, ["note: 1 recording, such as x: lead V1 has no valid sample"]),
        ("8 s", 2, ["2 written, 0 skipped"]),
        ("two leads", 2, ["2 written, 0 skipped"]),
        ("no rate", 1, ["x: x.hea: 12 leads, 0.0 Hz and 100 samples are no recording"]),
        ("legacy header", 2, ["2 written, 0 skipped"]),
    ],
)
def test_what_a_user_sees(
    kind: str,
    count: int,
    parts: list[str],
    tmp_path: Path,
    written: Write,
    capsys: pytest.CaptureFixture[str],
) -> None:
    faulty(kind, tmp_path / "in", written)
    out = tmp_path / "a.h5"
    code, message = said(capsys, "wfdb", tmp_path / "in", out, "--workers", 1)
    assert code == 0 and str(out) in message and sha(out) in message
    for part in parts:
        assert part in message
    records = open_records(out)
    assert len(records) == count
    if kind == "8 s":
        assert records.seconds.tolist() == [10 * 0.1, 8 * 0.1]
    if kind == "two leads":
        assert records.leads(1) == ("I", "II")
    if count == 1:
        code, message = said(capsys, "wfdb", tmp_path / "in", tmp_path / "b.h5", "--strict")
        assert code == 2 and "x: " in message and "leave out --strict" in message


def test_flags_of_the_command_line(
    folder: Path, tmp_path: Path, written: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    code, message = said(capsys, "mitdb", folder, tmp_path / "a.h5", "--size", 64)
    assert code == 2 and "jm prepare mitdb has no setting --size" in message
    code, message = said(capsys, "mitdb", folder, tmp_path / "a.h5", "--annotator", "vnv")
    assert code == 2 and "annotation file a.vnv is missing; copy it" in message
    assert not (tmp_path / "a.h5.part").exists()  # nothing good was in it
    (folder / "b" / "two.dat").write_bytes(b"")
    code, message = said(capsys, "wfdb", folder, tmp_path / "a.h5", "--strict")
    assert code == 2 and (tmp_path / "a.h5.part").exists()
    code, message = said(capsys, "wfdb", folder, tmp_path / "a.h5", "--anew", "--name", "mine")
    assert code == 0 and set(open_records(tmp_path / "a.h5").source) == {"mine"}
    for number in range(25):
        written(tmp_path / "many" / f"{number:02}", number, 5)
        if number:
            (tmp_path / "many" / f"{number:02}.dat").unlink()
    code, message = said(capsys, "wfdb", tmp_path / "many", tmp_path / "m.h5", "--compress")
    assert code == 0 and "1 written, 24 skipped" in message and "and 4 more: datasets" in message
    with h5py.File(tmp_path / "m.h5") as file:
        assert len(file["skipped"]) == 24 and b"is not beside it" in file["skipped_reason"][23]


def annotated(top: Path, written: Write, extension: str, last: int = 30) -> None:
    written(top / "100", 1, 50, 360, ["MLII", "V5"])
    code = b"\x02\x04" + (5 << 10 | last - 2).to_bytes(2, "little")  # N at 2, V at `last`
    (top / f"100.{extension}").write_bytes(code + b"\0\0")


def test_beats_come_with_their_record(tmp_path: Path, written: Write) -> None:
    annotated(tmp_path / "db", written, "vnv")
    written(tmp_path / "db" / "202", 2, 50, 360, ["MLII", "V5"])
    done = prepare_mitdb(tmp_path / "db", tmp_path / "a.h5", annotator="vnv")
    assert done.skipped == (("202", "annotation file 202.vnv is missing; copy it"),)
    records = open_records(tmp_path / "a.h5")
    found = records.annotations(0)
    assert found.sample.tolist() == [2, 30] and found.symbol.tolist() == ["N", "V"]
    assert records.fold.tolist() == [2] and records.patient_id.tolist() == ["100"]
    skipped = [("100", "annotation file 100.atr is missing; there is vnv: give --annotator vnv")]
    with pytest.raises(ValueError, match=skipped[0][1]):
        prepare_mitdb(tmp_path / "db", tmp_path / "b.h5")
    annotated(tmp_path / "db", written, "vnv", last=50)
    with pytest.raises(ValueError, match=r"last annotation in 100.vnv is at sample 50, the signal"):
        prepare_mitdb(tmp_path / "db", tmp_path / "b.h5", annotator="vnv")


def test_split_between_patients() -> None:
    assert len(DS1) == len(DS2) == 22 and not set(DS1) & set(DS2)
    assert not {102, 104, 107, 217} & {*DS1, *DS2}


PTBXL = "ecg_id,age,sex,scp_codes,strat_fold,filename_lr\n"
STATEMENTS = ",description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass\n"


def small_ptbxl(top: Path, written: Write, rate: int = 100, fs: float = 100) -> None:
    rows = ["7,300.0,1,\"{'NORM': 0.0, 'SR': 0.0}\",10,", "1009,41.0,0,\"{'AFIB': 100.0}\",3,"]
    for number in (7, 1009):
        ending = f"{number // 1000 * 1000:05d}/{number:05d}_{'lr' if rate == 100 else 'hr'}"
        written(top / f"records{rate}" / ending, number, rate, fs)
    (top / "ptbxl_database.csv").write_text(PTBXL + "\n".join(rows) + "\n")
    lines = ["NORM,normal,1.0,,,NORM,NORM", "AFIB,fibrillation,,,1.0,,", "SR,sinus,,,1.0,,"]
    (top / "scp_statements.csv").write_text(STATEMENTS + "\n".join(lines) + "\n")


def test_ptbxl_without_patients_and_file_names(tmp_path: Path, written: Write) -> None:
    top = tmp_path / "ptbxl"
    small_ptbxl(top, written)
    done = prepare_ptbxl(top, tmp_path / "a.h5")
    records = open_records(tmp_path / "a.h5")
    assert done.written == 2 and records.record_id.tolist() == ["00007", "01009"]
    assert records.label_names == ("NORM", "AFIB", "SR")  # as scp_statements.csv orders them
    assert records.labels is not None and records.labels.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert records.fold.tolist() == [10, 3] and records.age.tolist() == [90, 41]
    assert records.label_table["AFIB"]["rhythm"] and not records.label_table["AFIB"]["diagnostic"]
    assert records.label_table["NORM"]["superclass"] == "NORM"
    small_ptbxl(top, written, 500, 500)
    prepare_ptbxl(top, tmp_path / "b.h5")
    assert set(open_records(tmp_path / "b.h5").fs) == {500}
    prepare_ptbxl(top, tmp_path / "c.h5", rate=100)
    assert set(open_records(tmp_path / "c.h5").fs) == {100}
    with pytest.raises(ValueError, match=r"rate = 250; .* has 500 and 100 Hz"):
        prepare_ptbxl(top, tmp_path / "d.h5", rate=250)


def test_faults_of_ptbxl(tmp_path: Path, written: Write) -> None:
    top = tmp_path / "ptbxl"
    small_ptbxl(top, written, 100, fs=500)  # a header with a wrong rate
    with pytest.raises(ValueError, match="header says 500 Hz, the data set has 100 Hz"):
        prepare_ptbxl(top, tmp_path / "a.h5")
    small_ptbxl(top, written)
    (top / "records100" / "01000" / "01009_lr.hea").unlink()
    done = prepare_ptbxl(top, tmp_path / "a.h5")
    missing = "ptbxl_database.csv names records100/01000/01009_lr, which is not there"
    assert done.skipped == (("01009", missing),)
    with pytest.raises(ValueError, match="names records100/01000/01009_lr"):
        prepare_ptbxl(top, tmp_path / "b.h5", "raise")
    table = top / "ptbxl_database.csv"
    table.write_text(table.read_text().replace("'AFIB'", "'NEW'").replace("01009_lr", ""))
    small = (top / "records100" / "00000" / "00007_lr.hea", top / "records100" / "01000")
    written(small[1] / "01009_lr", 5, 100, 100)
    skipped = prepare_ptbxl(top, tmp_path / "c.h5").skipped
    assert skipped == (("01009", "its code NEW is not in scp_statements.csv"),)
    table.write_text(table.read_text().replace("strat_fold", "fold"))
    with pytest.raises(ValueError, match=r"lacks the column strat_fold; it has ecg_id, age"):
        prepare_ptbxl(top, tmp_path / "d.h5")
    (top / "scp_statements.csv").unlink()
    table.write_text(table.read_text().replace("fold", "strat_fold"))
    with pytest.raises(FileNotFoundError, match=r"no table .*scp_statements.csv"):
        prepare_ptbxl(top, tmp_path / "d.h5")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("training/ptb-xl/g1/HR00001.hea", "ptbxl"), ("x/HR00001.hea", "ptbxl"),
        ("training/ningbo/g1/JS00001.hea", "ningbo"), ("x/JS10646.hea", "chapman_shaoxing"),
        ("x/JS10647.hea", "ningbo"), ("x/A0001.hea", "cpsc_2018"), ("x/S0001.hea", "ptb"),
        ("x/Q0001.hea", "cpsc_2018_extra"), ("x/I0001.hea", "st_petersburg_incart"),
        ("x/E00001.hea", "georgia"),
        ("x/other.hea", "cinc2021"),
    ],
)  # fmt: skip
def test_sets_of_the_challenge(path: str, name: str) -> None:
    assert set_of(Path(path)) == name


def test_folds_of_ptbxl_in_the_challenge(tmp_path: Path, written: Write) -> None:
    top = tmp_path / "c"
    written(top / "HR00007", 1, suffix="mat", comments=["Dx: 1"])
    written(top / "E00001", 2, suffix="mat", comments=["Dx: Unknown"], record="E00001.mat")
    done = prepare_cinc2021(top, tmp_path / "a.h5")
    assert any("HR00007: a record of PTB-XL without its fold" in note for note in done.notes)
    assert any("E00001: its header names no diagnosis" in note for note in done.notes)
    (top / "ptbxl_database.csv").write_text("ecg_id,strat_fold\n7.0,10\n")
    prepare_cinc2021(top, tmp_path / "b.h5")
    assert open_records(tmp_path / "b.h5").fold.tolist() == [-1, 10]
    (top / "index.csv").write_text("record,ptbxl_strat_fold\nHR00007,9\nE00001,\n")
    (top / "ptbxl_database.csv").unlink()
    prepare_cinc2021(top, tmp_path / "c.h5")
    assert open_records(tmp_path / "c.h5").fold.tolist() == [-1, 9]


@pytest.mark.realdata
def test_real_ptbxl(ecg_data: Path, tmp_path: Path) -> None:
    top = ecg_data / "ptbxl_sub100"
    done = prepare_ptbxl(top, tmp_path / "a.h5", workers=2)
    assert done.written == 1819 and done.skipped == () and done.notes == ()
    records = open_records(tmp_path / "a.h5")
    assert set(records.unit.ravel()) == {"NU"} and set(records.fs) == {100}
    assert records.labels is not None and records.labels.shape == (1819, 71)
    # The counts of the data's own README, per superclass and part.
    table = [records.label_table[code] for code in records.label_names]
    of_class = [str(row["superclass"]) if row["diagnostic"] else "" for row in table]
    names = ("NORM", "MI", "STTC", "CD", "HYP")
    columns = {name: [n for n, found in enumerate(of_class) if found == name] for name in names}
    counts = {
        part: [int(records.labels[fold][:, columns[name]].any(1).sum()) for name in columns]
        for part, fold in (("test", records.fold == 10), ("val", records.fold == 9))
    }
    assert counts == {"test": [87, 34, 66, 56, 19], "val": [101, 22, 50, 39, 14]}
    assert (records.fold < 9).sum() == 1442
    for row in range(0, 1819, 151):
        stem = f"{int(records.record_id[row]):05d}_lr"
        part = f"{int(records.record_id[row]) // 1000 * 1000:05d}"
        expected = (top / "records100" / part / f"{stem}.dat").read_bytes()
        assert records.record(row).tobytes() == expected


@pytest.mark.realdata
def test_real_challenge_and_holter(ecg_data: Path, tmp_path: Path) -> None:
    done = prepare_cinc2021(ecg_data / "cinc2021", tmp_path / "c.h5", workers=2)
    records = open_records(tmp_path / "c.h5")
    assert done.written == 76 and sorted(set(records.length)) == [5000, 6000, 8500, 10000]
    kinds = dict(zip(*np.unique(records.source, return_counts=True), strict=True))
    assert kinds["ptbxl"] == 27 and kinds["georgia"] == 20 and kinds["cpsc_2018"] == 4
    assert kinds.get("ningbo", 0) + kinds.get("chapman_shaoxing", 0) == 25
    assert (records.fold[records.source == "ptbxl"] > 0).all() and done.notes == ()
    prepare_wfdb(ecg_data / "cpsc2021", tmp_path / "p.h5")
    records = open_records(tmp_path / "p.h5")
    row = records.record_id.tolist().index("data_8_4")
    assert records.gain[row, 1] == 47660.88631984586 and records.baseline[row, 1] == -230655
    assert "(AFIB" in set(records.annotations(row).aux)
    assert records.comments[row] == "persistent atrial fibrillation"
    prepare_mitdb(ecg_data / "mitdb_ch0", tmp_path / "m.h5", annotator="vnv", workers=2)
    records = open_records(tmp_path / "m.h5")
    ectopic = {1: 0, 2: 0}
    for row in range(len(records)):
        beats = records.annotations(row).symbol
        ectopic[int(records.fold[row])] += int((beats == "V").sum())
    assert ectopic == {1: 1133, 2: 872 - 1}  # record 100, with one more, is in mitdb/
    assert records.leads(records.record_id.tolist().index("114")) == ("V5",)
