"""The cards of the ECG sets tell the truth, and their miniatures are prepared like real sets."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from jepa_modalities.data.ecg.file import open_records
from jepa_modalities.data.ecg.wfdb import read_record
from jepa_modalities.data.prepare import PREPARERS

CARDS = Path(__file__).parents[2] / "datasets"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"build_{name}", CARDS / name / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_miniature_of_code15(tmp_path: Path) -> None:
    build = script("code15")
    assert build.build(tmp_path / "in") in (CARDS / "code15" / "README.md").read_text()
    done = PREPARERS["code15"](tmp_path / "in", tmp_path / "a.h5")
    records = open_records(tmp_path / "a.h5")
    assert done.written == len(records) == 20 and len(done.skipped) == 2
    for row in range(20):
        expected = build.tracing(1000 + row)
        assert np.abs(records.physical(row) - expected).max() <= np.abs(expected).max() / 32767


def test_miniature_of_mimic(tmp_path: Path) -> None:
    build = script("mimic_iv_ecg")
    assert build.build(tmp_path / "in") in (CARDS / "mimic_iv_ecg" / "README.md").read_text()
    done = PREPARERS["mimic_iv_ecg"](tmp_path / "in", tmp_path / "a.h5")
    records = open_records(tmp_path / "a.h5")
    assert done.written == 20 and done.skipped == () and records.leads(0) == build.LEADS
    for row in range(20):
        np.testing.assert_array_equal(records.record(row), build.signal(row))


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("card", "folder", "pattern"),
    [
        ("cinc2021", "cinc2021", "*.mat"),
        ("mitdb", "mitdb", "*.dat"),
        ("mitdb", "mitdb_ch0", "*.dat"),
        ("cpsc2021", "cpsc2021", "*.dat"),
        ("ptbxl", "ptbxl_native/records100/00000", "*.dat"),
        ("ptbxl_sub100", "ptbxl_sub100", "records100/*/*.dat"),
        ("ptbxl_sub100", "ptbxl_sub100", "records100/*/*.hea"),
    ],
)
def test_checksums(card: str, folder: str, pattern: str, ecg_data: Path) -> None:
    digest = hashlib.sha256()
    for path in sorted((ecg_data / folder).glob(pattern)):
        digest.update(path.read_bytes())
    assert digest.hexdigest() in (CARDS / card / "README.md").read_text()


@pytest.mark.realdata
@pytest.mark.parametrize("number", [6005, 19293])
def test_the_subset_is_built_as_its_card_says(number: int, ecg_data: Path, tmp_path: Path) -> None:
    build = script("ptbxl_sub100")
    native = read_record(ecg_data / "cinc2021" / f"HR{number:05d}.hea")
    made = build.derived(native.signal / np.array(native.gain))
    part = f"records100/{number // 1000 * 1000:05d}/{number:05d}_lr"
    stored = read_record(ecg_data / "ptbxl_sub100" / f"{part}.hea")
    assert np.abs(made - stored.signal).max() <= 1
    build.write(made, tmp_path / part)
    again = read_record(tmp_path / f"{part}.hea")
    np.testing.assert_array_equal(again.signal, made)
    assert (again.unit, again.gain, again.leads) == (stored.unit, stored.gain, stored.leads)
