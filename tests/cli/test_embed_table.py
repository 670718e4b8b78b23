"""`jm embed` on tables: part by part, the same features as at once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import jepa_modalities.adapters.tabular.adapter
import jepa_modalities.adapters.tabular.model  # noqa: F401
from jepa_modalities.cli import main as command
from jepa_modalities.data.table_part import frame_parts, is_table
from jepa_modalities.estimator.transformer import TabularJEPA


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "x": rng.normal(size=50),
            "count": rng.integers(0, 9, 50),
            "town": rng.choice(["Ulm", "Bonn"], 50),
        }
    )


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv", ".parquet"])
def test_parts_are_the_file(frame: pd.DataFrame, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"table{ending}"
    if ending == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ending == ".tsv" else ",")
    parts = list(frame_parts(path, 20))
    assert [len(part) for part in parts] == [20, 20, 10] and is_table(path)
    whole = pd.concat(parts, ignore_index=True)
    assert whole["town"].tolist() == frame["town"].tolist()
    assert whole["x"].to_numpy() == pytest.approx(frame["x"].to_numpy())


def test_target_and_split_of_a_stored_table_are_left_out(
    frame: pd.DataFrame, tmp_path: Path
) -> None:
    frame.assign(y=1, split="train").to_csv(tmp_path / "t.csv", index=False)
    about = {"t": {"file": "t.csv", "target": "y", "task": "regression"}}
    (tmp_path / "datasets.json").write_text(json.dumps(about))
    assert list(next(frame_parts(tmp_path / "t.csv", 20)).columns) == list(frame.columns)


def test_no_such_file_or_kind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no table"):
        next(frame_parts(tmp_path / "t.csv", 20))
    (tmp_path / "t.xls").write_text("")
    assert not is_table(tmp_path / "t.xls")
    with pytest.raises(ValueError, match="unknown kind of table"):
        next(frame_parts(tmp_path / "t.xls", 20))


def test_embed_streams_a_table(
    frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    small = {"steps": 2, "dim": 8, "heads": 1, "depth": 1, "batch_size": 16}
    model = TabularJEPA(random_state=0, **small).fit(frame)
    model.save(tmp_path / "encoder.safetensors")
    frame.to_csv(tmp_path / "rows.csv", index=False)
    monkeypatch.setattr(command, "PART", 20)
    wanted = ["embed", str(tmp_path / "encoder.safetensors"), str(tmp_path / "rows.csv")]
    assert command.main([*wanted, "--out", str(tmp_path / "out.parquet")]) == 0
    file = parquet.ParquetFile(tmp_path / "out.parquet")
    assert file.num_row_groups == 3
    streamed = file.read().to_pandas().to_numpy()
    assert streamed == pytest.approx(model.transform(frame), abs=1e-5)
    assert command.main([*wanted, "--out", str(tmp_path / "out.npy")]) == 0
    assert np.load(tmp_path / "out.npy") == pytest.approx(streamed, abs=1e-6)
