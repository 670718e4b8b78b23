"""Reading prepared files: any rows, crops and leads, from one file or several."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_modalities.data.ecg.file import ECGRecords, memory_records, open_records
from jepa_modalities.data.prepare.ecg_wfdb import prepare_wfdb

Write = Callable[..., np.ndarray[Any, Any]]
SIGNALS: dict[str, np.ndarray[Any, Any]] = {}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of equal lengths, one of different lengths, one compressed of each."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("wfdb_case", Path(__file__).with_name("conftest.py"))
    assert spec is not None and spec.loader is not None
    case = module_from_spec(spec)
    spec.loader.exec_module(case)
    top = tmp_path_factory.mktemp("files")
    for number in range(6):
        leads = [["V6", "aVR", "I"], ["MLII"]][number % 2]
        comments = [f"Dx: {number % 3}, 99"]
        for kind, length in (("equal", 40), ("ragged", 40 + 3 * number)):
            path = top / kind / f"{number}"
            written = case.write_record(path, number, length, 100, leads, comments, gain=200)
            SIGNALS[f"{kind}/{number}"] = written
    for kind in ("equal", "ragged"):
        prepare_wfdb(top / kind, top / f"{kind}.h5")
        prepare_wfdb(top / kind, top / f"{kind}_gzip.h5", compress=True)
    return top


KINDS = ["equal.h5", "ragged.h5", "equal_gzip.h5", "ragged_gzip.h5"]


def expected(records: ECGRecords, row: int) -> np.ndarray[Any, Any]:
    return SIGNALS[f"{records.source[row]}/{records.record_id[row]}"]


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(KINDS), st.data())
def test_crops_of_any_rows(files: Path, kind: str, data: st.DataObject) -> None:
    records = open_records(files / kind)
    rows = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=9))
    length = data.draw(st.integers(1, 40))
    starts = [data.draw(st.integers(0, int(records.length[row]) - length)) for row in rows]
    found = records.read(rows, starts, length)
    assert found.shape == (len(rows), length, 3) and found.dtype == np.int16
    for crop, row, start in zip(found, rows, starts, strict=True):
        signal = expected(records, row)[start : start + length]
        np.testing.assert_array_equal(crop[:, : signal.shape[1]], signal)
        assert (crop[:, signal.shape[1] :] == 0).all()


def test_names_and_columns(files: Path) -> None:
    records = open_records(files / "equal.h5")
    assert len(records) == 6 and records.lead_names == ("I", "aVR", "V6", "MLII")
    assert records.leads(0) == ("V6", "aVR", "I") and records.leads(1) == ("MLII",)
    assert records.columns(["I", "V6", "V1"])[:2].tolist() == [[2, 0, -1], [-1, -1, -1]]
    assert records.label_names == ("0", "1", "2", "99")
    assert records.labels is not None and records.labels[4].tolist() == [0, 1, 0, 1]
    assert (records.seconds == 0.4).all()
    np.testing.assert_array_equal(records.physical(3), expected(records, 3) / 200)
    assert len(records.annotations(2).sample) == 0
    chosen = records.select(records.fs == 100).select([4, 0])
    assert chosen.record_id.tolist() == ["4", "0"] and len(chosen) == 2
    np.testing.assert_array_equal(chosen.record(1), expected(records, 0))


def test_several_files_as_one(files: Path, tmp_path: Path, written: Write) -> None:
    written(tmp_path / "far" / "x", 9, 30, 250, ["II", "I", "V1", "V2"], ["Dx: 7"])
    prepare_wfdb(tmp_path / "far", tmp_path / "far.h5")
    records = open_records([files / "ragged.h5", tmp_path / "f*.h5", files / "equal_gzip.h5"])
    assert len(records) == 13 and records.lead_index.shape == (13, 4)
    assert records.leads(6) == ("II", "I", "V1", "V2") and records.leads(0) == ("V6", "aVR", "I")
    assert records.label_names == ("0", "1", "2", "99", "7")
    assert records.labels is not None and records.labels[6].tolist() == [0, 0, 0, 0, 1]
    assert records.labels[7].tolist() == [1, 0, 0, 1, 0]
    found = records.read([12, 6, 2], 5, 20)
    np.testing.assert_array_equal(found[0, :, :1], SIGNALS["equal/5"][5:25])
    np.testing.assert_array_equal(found[2, :, :3], SIGNALS["ragged/2"][5:25])
    assert records.columns(["I"])[:, 0].tolist() == [2, -1, 2, -1, 2, -1, 1, 2, -1, 2, -1, 2, -1]
    assert records.source[[0, 6, 7]].tolist() == ["ragged", "far", "equal"]
    # Compressed files without labels of their own.
    with h5py.File(files / "equal_gzip.h5") as file:
        assert file["signals"].compression == "gzip"


def test_what_cannot_be_read(files: Path, tmp_path: Path) -> None:
    records = open_records(files / "ragged.h5")
    with pytest.raises(ValueError, match="record 1 has 43 samples; a crop of 40 from 4 leaves it"):
        records.read([0, 1], [0, 4], 40)
    with pytest.raises(ValueError, match="of 40 to 43 samples cannot be read as one array"):
        records.read([0, 1])
    with pytest.raises(IndexError):
        records.read([6], 0, 4)
    with pytest.raises(FileNotFoundError, match=r"no file .*jm prepare ptbxl"):
        open_records(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(ValueError, match="is not a complete HDF5 file"):
        open_records(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["images"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"layout None, expected 'ecg-1'"):
        open_records(tmp_path / "other.h5")


@pytest.mark.parametrize("kind", KINDS)
def test_other_processes_read_too(files: Path, kind: str) -> None:
    records = open_records(files / kind)
    first = records.record(4)  # handles are open here
    copied = pickle.loads(pickle.dumps(records))
    np.testing.assert_array_equal(copied.record(4), first)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for row, found in enumerate(pool.map(records.record, range(6))):
            signal = expected(records, row)
            np.testing.assert_array_equal(found[:, : signal.shape[1]], signal)


def test_recordings_in_memory() -> None:
    signals = np.random.default_rng(0).integers(-99, 99, (4, 30, 2)).astype(np.int16)
    labels = np.eye(4, 2, dtype=np.uint8)
    made = memory_records(
        signals, 50, ["I", "V1"], 10, labels=labels, label_names=["a", "b"], fold=np.arange(4)
    )
    np.testing.assert_array_equal(
        made.read([3, 0], [1, 2], 9), [signals[3, 1:10], signals[0, 2:11]]
    )
    np.testing.assert_array_equal(made.physical(2), signals[2] / 10)
    assert made.fold.tolist() == [0, 1, 2, 3] and made.seconds.tolist() == [0.6] * 4
    with pytest.raises(ValueError, match="for 1 classes do not fit"):
        memory_records(signals, 50, ["I", "V1"], 10, labels=labels, label_names=["a"])
