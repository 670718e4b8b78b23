"""Sources without stored data, as miniatures in the documented layout, and arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jepa_modalities.cli.main import main
from jepa_modalities.data.ecg.file import open_records
from jepa_modalities.data.ecg.layout import INVALID
from jepa_modalities.data.ecg.quantise import GAINS, quantised
from jepa_modalities.data.prepare import ecg
from jepa_modalities.data.prepare.ecg_array import prepare_arrays
from jepa_modalities.data.prepare.ecg_cinc2021 import prepare_cinc2021
from jepa_modalities.data.prepare.ecg_code15 import prepare_code15
from jepa_modalities.data.prepare.ecg_mimic import prepare_mimic_iv_ecg

Write = Callable[..., np.ndarray[Any, Any]]
STANDARD = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]


@given(st.lists(st.lists(st.floats(-40, 40, width=32), min_size=2, max_size=2), min_size=1))
def test_real_numbers_lose_at_most_half_a_step(values: list[list[float]]) -> None:
    x = np.array(values)
    integers, gains = quantised(x)
    for lead in range(2):
        largest = max(abs(value) for value in x[:, lead])
        assert abs(integers[:, lead]).max() <= 32767
        error = np.abs(integers[:, lead] / gains[lead] - x[:, lead]).max()
        assert error <= max(largest / 32767, 2**-8 / gains[lead])


@given(
    st.sampled_from(GAINS),
    st.lists(st.integers(-32767, 32767), min_size=1, max_size=20),
    st.sampled_from([np.float32, np.float64]),
)
@example(400.0, [1], np.float32)  # a lead so small that it was once taken for rounding errors of 0
def test_numbers_of_a_converter_come_back_exactly(gain: float, steps: list[int], kind: Any) -> None:
    x = (np.array(steps)[:, None] / gain).astype(kind)
    integers, gains = quantised(x)
    expected = np.array(steps)[:, None] / gain
    np.testing.assert_allclose(integers / gains[0], expected, rtol=0, atol=2**-8 / gain)
    if gains[0] == gain:
        assert integers[:, 0].tolist() == steps


def test_missing_numbers_are_marked() -> None:
    integers, gains = quantised(np.array([[1.0, np.nan], [np.inf, np.nan], [-0.5, np.nan]]))
    assert gains == (10.0, 1.0)
    assert integers.tolist() == [[10, INVALID], [INVALID, INVALID], [-5, INVALID]]


HEAD = (
    "exam_id,age,is_male,nn_predicted_age,1dAVb,RBBB,LBBB,SB,ST,AF,patient_id,death,timey,"
    "normal_ecg,trace_file\n"
)


def small_code15(top: Path) -> dict[str, np.ndarray[Any, Any]]:
    """20 exams in two parts: 2,800 or 4,000 samples in the middle of 4,096 zeros."""
    top.mkdir()
    rng, lines, kept = np.random.default_rng(0), [], {}
    for part in range(2):
        exams = [1000 + 10 * part + number for number in range(10)]
        tracings = np.zeros((11, 4096, 12), np.float32)
        for number, exam in enumerate(exams):
            length = (2800, 4000)[number % 2]
            low = (4096 - length) // 2
            tracing = rng.normal(size=(length, 12)).astype(np.float32)
            tracings[number, low : low + length] = tracing
            kept[str(exam)] = tracing
            flags = ",".join(str(number == place) for place in range(6))
            about = f"{exam},{30 + number},{number % 2 == 0},40,{flags},{exam // 2},False,1.5"
            lines.append(f"{about},{number > 5},exams_part{part}.hdf5")
        with h5py.File(top / f"exams_part{part}.hdf5", "w") as file:
            file["exam_id"], file["tracings"] = [*exams, 0], tracings
    (top / "exams.csv").write_text(HEAD + "\n".join(lines) + "\n")
    return kept


@pytest.mark.parametrize("workers", [1, 2])
def test_code15(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ecg, "COMMIT", 3)  # more commits than one process does alone
    kept = small_code15(tmp_path / "code15")
    done = prepare_code15(tmp_path / "code15", tmp_path / "a.h5", workers=workers)
    assert done.written == 20
    zeros = "exam_id 0 marks no exam"
    assert done.skipped == (("exams_part0.hdf5[10]", zeros), ("exams_part1.hdf5[10]", zeros))
    records = open_records(tmp_path / "a.h5")
    assert records.record_id.tolist() == list(kept) and set(records.source) == {"code15"}
    assert set(records.fs) == {400} and records.length.tolist() == [2800, 4000] * 10
    assert records.leads(0) == tuple(STANDARD)
    assert records.label_names == ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF", "normal_ecg")
    assert records.labels is not None
    for number in range(10):
        flags = [int(number == place) for place in range(6)] + [int(number > 5)]
        assert records.labels[number].tolist() == flags
    assert records.sex[:2].tolist() == [0, 1] and records.patient_id[4] == "502"
    for row, tracing in enumerate(kept.values()):
        limit = np.abs(tracing).max(0) / 32767
        assert (np.abs(records.physical(row) - tracing) <= limit).all()


def test_faults_of_code15(tmp_path: Path) -> None:
    top = tmp_path / "code15"
    small_code15(top)
    with h5py.File(top / "exams_part0.hdf5", "a") as file:
        file["tracings"][3] = 0
        file["exam_id"][4] = 77
    done = prepare_code15(top, tmp_path / "a.h5")
    assert dict(done.skipped) == {
        "exams_part0.hdf5[10]": "exam_id 0 marks no exam",
        "exams_part1.hdf5[10]": "exam_id 0 marks no exam",
        "77": "it is not in exams.csv",
        "1004": "exams_part0.hdf5 is not there or lacks it",
        "1003": "it holds zeros only",
    }
    for part in top.glob("*.hdf5"):
        part.unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no exams_part\*.hdf5"):
        prepare_code15(top, tmp_path / "b.h5")


def test_mimic(tmp_path: Path, written: Write) -> None:
    top = tmp_path / "mimic"
    leads = ["I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"]
    lines, signals = ["subject_id,study_id,file_name,ecg_time,path"], []
    for number in range(20):
        subject, study = 10000000 + number // 2, 40000000 + number
        path = f"files/p{str(subject)[:4]}/p{subject}/s{study}/{study}"
        signal = np.random.default_rng(number).integers(-500, 500, (50, 12)).astype(np.int16)
        if number == 3:
            signal[5:9, 4] = INVALID
        written(top / path, fs=500, leads=leads, signal=signal, gain=200)
        signals.append(signal)
        lines.append(f"{subject},{study},{study},2180-07-23 08:44:00,{path}")
    lines.append("10000099,40000099,40000099,2180-07-23 08:44:00,files/p1000/p10000099/s4/4")
    (top / "record_list.csv").write_text("\n".join(lines) + "\n")
    done = prepare_mimic_iv_ecg(top, tmp_path / "a.h5", workers=2)
    assert done.written == 20 and done.skipped == (
        ("40000099", "record_list.csv names files/p1000/p10000099/s4/4, which is not there"),
    )
    assert done.notes == ("1 recording, such as 40000003: some samples are marked as invalid",)
    records = open_records(tmp_path / "a.h5")
    assert records.leads(0) == tuple(leads) and records.labels is None
    assert records.patient_id[:3].tolist() == ["10000000", "10000000", "10000001"]
    for row, signal in enumerate(signals):
        np.testing.assert_array_equal(records.record(row), signal)
    assert np.isnan(records.physical(3)).sum() == 4
    assert records.columns(["aVL", "aVF"])[0].tolist() == [5, 4]


def test_mixture_of_ten_sets(tmp_path: Path, written: Write) -> None:
    """Two records of each set, in the folders of the challenge and in files of their own."""
    kinds = {
        "cpsc_2018": ("A", 500), "cpsc_2018_extra": ("Q", 500), "georgia": ("E", 500),
        "st_petersburg_incart": ("I", 257), "ptb": ("S", 1000), "ptb-xl": ("HR", 500),
        "chapman_shaoxing": ("JS", 500), "ningbo": ("JS", 500),
    }  # fmt: skip
    top = tmp_path / "training"
    for place, (name, (letters, fs)) in enumerate(kinds.items()):
        for number in range(2):
            record = top / name / "g1" / f"{letters}{10 * place + number:05}"
            written(record, place, 60 + place, fs, suffix="mat", comments=["Dx: 426783006"])
    done = prepare_cinc2021(top, tmp_path / "cinc.h5", workers=2)
    assert done.written == 16
    small_code15(tmp_path / "code15")
    prepare_code15(tmp_path / "code15", tmp_path / "code.h5")
    path = "files/p1000/p10000000/s40000000/40000000"
    written(tmp_path / "mimic" / path, 1, 50, 500)
    table = f"subject_id,study_id,path\n10000000,40000000,{path}\n"
    (tmp_path / "mimic" / "record_list.csv").write_text(table)
    prepare_mimic_iv_ecg(tmp_path / "mimic", tmp_path / "mimic.h5")
    records = open_records([tmp_path / f"{name}.h5" for name in ("cinc", "code", "mimic")])
    assert set(records.source) == {
        "cpsc_2018", "cpsc_2018_extra", "georgia", "st_petersburg_incart", "ptb", "ptbxl",
        "chapman_shaoxing", "ningbo", "code15", "mimic_iv_ecg",
    }  # fmt: skip
    assert sorted(set(records.fs)) == [257, 400, 500, 1000] and len(records) == 37
    assert (records.columns(STANDARD) >= 0).all()


def frames(count: int = 3) -> list[Any]:
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(5)
    return [
        pandas.DataFrame(rng.integers(-900, 900, (40 + n, 2)) / 1000, columns=["DII", "avr"])
        for n in range(count)
    ]


def test_arrays_of_any_kind_are_equal(tmp_path: Path) -> None:
    integers = np.random.default_rng(1).integers(-999, 999, (4, 30, 3))
    values = integers / 1000
    np.save(tmp_path / "one.npy", values)
    np.save(tmp_path / "two.npy", values.transpose(0, 2, 1).astype(np.float32))
    with h5py.File(tmp_path / "three.h5", "w") as file:
        file["deep/signals"], file["labels"] = values, np.zeros(4)
    for row in range(4):
        (tmp_path / "folder").mkdir(exist_ok=True)
        np.save(tmp_path / "folder" / f"{row}.npy", values[row])
    choice: dict[str, Any] = {"fs": 50, "leads": "I,II,V1"}
    for number, source in enumerate(["one.npy", "two.npy", "three.h5", "folder", values]):
        out = tmp_path / f"out{number}.h5"
        prepare_arrays(source if number == 4 else tmp_path / source, out, **choice)
        records = open_records(out)
        assert records.leads(0) == ("I", "II", "V1") and set(records.fs) == {50}
        for row in range(4):
            np.testing.assert_array_equal(records.record(row), integers[row])
            np.testing.assert_array_equal(records.physical(row), values[row])
    prepare_arrays(integers, tmp_path / "int.h5", **choice, gain=250, unit="uv")
    records = open_records(tmp_path / "int.h5")
    np.testing.assert_array_equal(records.physical(2), integers[2] / 250)
    assert set(records.unit.ravel()) == {"uV"}


def test_tables_name_their_leads(tmp_path: Path) -> None:
    tables = frames()
    prepare_arrays(tables, tmp_path / "a.h5", fs=100)
    prepare_arrays({f"p{n}": table for n, table in enumerate(tables)}, tmp_path / "b.h5", fs=100)
    (tmp_path / "csv").mkdir()
    for number, table in enumerate(tables):
        table.to_csv(tmp_path / "csv" / f"p{number}.csv", index=False)
    assert (
        main(["prepare", "arrays", str(tmp_path / "csv"), str(tmp_path / "c.h5"), "--fs", "100"])
        == 0
    )
    for name in "abc":
        records = open_records(tmp_path / f"{name}.h5")
        assert records.leads(0) == ("II", "aVR") and records.length.tolist() == [40, 41, 42]
        assert name == "a" or records.record_id.tolist() == ["p0", "p1", "p2"]
        for row, table in enumerate(tables):
            np.testing.assert_array_equal(records.physical(row), table.to_numpy())
    prepare_arrays(tables, tmp_path / "d.h5", fs=100, leads=["aVR"])
    np.testing.assert_array_equal(
        open_records(tmp_path / "d.h5").physical(0)[:, 0], tables[0]["avr"]
    )


def test_what_is_odd_in_arrays_is_noted(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(4, 30, 3))
    values[0] = np.nan  # left out
    values[1, :, 2] = np.nan
    values[2, 4, 0] = np.inf
    done = prepare_arrays(values, tmp_path / "a.h5", fs=50, leads="I,foo,V1", name="odd")
    assert done.skipped == (("odd-000000", "it has no valid sample in any lead"),)
    assert set(done.notes) == {
        "3 recordings, such as odd-000001: foo is no lead that we know; it is kept under this name",
        "1 recording, such as odd-000001: lead V1 has no valid sample",
        "1 recording, such as odd-000002: some samples are marked as invalid",
        "1 recording, such as odd-000002: infinite samples are stored as missing",
    }


def test_faults_of_arrays(tmp_path: Path) -> None:
    values = np.zeros((2, 9, 3))
    for wrong, message in (
        ({"fs": float("inf"), "leads": "I,II,V1"}, "fs = inf"),
        ({"fs": 100, "leads": "I,,V1"}, "one of the names is empty"),
        ({"fs": 100, "leads": "I,II,V1", "unit": "furlong"}, "unit = 'furlong' is not one of mV"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare_arrays(values, tmp_path / "a.h5", **wrong)
    (tmp_path / "empty.npy").touch()
    with pytest.raises(ValueError, match=r"empty\.npy cannot be read as a \.npy array of numbers"):
        prepare_arrays(tmp_path / "empty.npy", tmp_path / "a.h5", fs=100, leads="I,II,V1")
    with pytest.raises(ValueError, match=r"empty\.npy is no file of `jm prepare`"):
        open_records(tmp_path / "empty.npy")
    with pytest.raises(ValueError, match=r"do not know their sampling rate.*--fs"):
        prepare_arrays(values, tmp_path / "a.h5", leads="I,II,V1")
    with pytest.raises(ValueError, match=r"does not name its leads.*--leads"):
        prepare_arrays(values, tmp_path / "a.h5", fs=100)
    with pytest.raises(
        ValueError, match=r"has shape \(2, 9, 3\), expected \(records, samples, 2\)"
    ):
        prepare_arrays(values, tmp_path / "a.h5", fs=100, leads="I,II")
    with pytest.raises(ValueError, match="leads names the lead I 2 times"):
        prepare_arrays(values, tmp_path / "a.h5", fs=100, leads="I,DI,V1")
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"], file["b"] = values, values
    with pytest.raises(ValueError, match=r"holds 2 datasets of 3 axes \(a, b\); name the one"):
        prepare_arrays(tmp_path / "two.h5", tmp_path / "a.h5", fs=100, leads="I,II,V1")
    with pytest.raises(FileNotFoundError, match="neither a file nor a folder"):
        prepare_arrays(tmp_path / "no.npy", tmp_path / "a.h5", fs=100)
    with pytest.raises(ValueError, match="from 0 to 99999, more than 16 bits"):
        prepare_arrays(np.array([[[0], [99999]]]), tmp_path / "a.h5", fs=100, leads="I")
    tables = frames()
    tables[1]["note"] = "text"
    with pytest.raises(ValueError, match="the table has the columns DII, avr, but no V1"):
        prepare_arrays(tables[:1], tmp_path / "a.h5", fs=100, leads="V1")
    done = prepare_arrays(tables, tmp_path / "a.h5", fs=100)
    assert [name for name, _ in done.skipped] == ["arrays-000001"]
    assert "expected numbers; name the leads' columns" in done.skipped[0][1]
    with pytest.raises(FileExistsError):  # other content under the same names
        prepare_arrays(frames(2), tmp_path / "a.h5", fs=100)
