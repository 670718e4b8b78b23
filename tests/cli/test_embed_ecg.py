"""`jm embed` on recordings says which leads are missing: on the terminal and in the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import jepa_modalities as jm
from jepa_modalities.cli.main import main
from jepa_modalities.data.ecg.synthetic import synthetic_ecg

SMALL = {"rate": 50.0, "crop": 2.0, "patch": 0.2, "dim": 8, "depth": 1, "heads": 1, "steps": 0}
KERNELS = {"target.centroids": 12, "target.dim": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of I, II and V1, and files with all of them and with II alone."""
    top = tmp_path_factory.mktemp("ecg")
    made = synthetic_ecg(6, fs=100.0, seconds=4.0)
    signals = made.signals[:, :, [0, 1, 6]].transpose(0, 2, 1).astype(np.float32) / 1000
    leads = ("I", "II", "V1")
    model = jm.ECGJEPA(100.0, leads, settings=KERNELS, random_state=0, device="cpu", **SMALL)
    model.fit(signals).save(top / "encoder.safetensors")
    for name, columns, named in (("all", [0, 1, 2], "I,II,V1"), ("few", [1], "II")):
        np.save(top / f"{name}.npy", signals[:, columns].transpose(0, 2, 1))
        wanted = ["prepare", "arrays", str(top / f"{name}.npy"), str(top / f"{name}.h5")]
        assert main([*wanted, "--fs", "100", "--leads", named, "--quiet"]) == 0
    return top


@pytest.mark.parametrize("ending", ["npy", "parquet"])
def test_missing_leads_are_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / f"features.{ending}"

    def embed(source: str) -> tuple[str, list[str]]:
        given = ["embed", str(folder / "encoder.safetensors"), str(folder / source)]
        assert main([*given, "--out", str(out)]) == 0
        kept = parquet.read_schema(out).metadata[b"remarks"] if ending == "parquet" else b"[]"
        return capsys.readouterr().err, json.loads(kept)

    assert embed("all.h5") == ("", [])
    said, kept = embed("few.h5")
    assert "few.h5: the recordings lack the leads I, V1; they are masked" in said
    if ending == "parquet":
        assert len(kept) == 1 and kept[0] in said
    said, _ = embed("*.h5")
    assert "6 of 12 recordings lack the leads I (6), V1 (6)" in said


def test_python_is_warned(folder: Path) -> None:
    with pytest.warns(UserWarning, match="lack the leads I, V1; they are masked"):
        jm.load(folder / "encoder.safetensors").embed(str(folder / "few.h5"))
