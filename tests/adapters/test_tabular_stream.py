"""Parquet tables larger than memory: the same rows as in memory, block by block; clear refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from jepa_modalities import api
from jepa_modalities.adapters.tabular.adapter import TabularAdapter
from jepa_modalities.adapters.tabular.config import TabularConfig
from jepa_modalities.adapters.tabular.outline import outline
from jepa_modalities.adapters.tabular.preprocess import TablePreprocess
from jepa_modalities.adapters.tabular.stream import StreamedRows, sample_table, streamed
from jepa_modalities.adapters.tabular.tokenizer import pack
from jepa_modalities.data.table_blocks import TableBlocks
from jepa_modalities.data.table_file import read_frame, table_files
from jepa_modalities.settings import changed
from jepa_modalities.testing import check_adapter
from jepa_modalities.train.log import read

pd = pytest.importorskip("pandas")
pyarrow = pytest.importorskip("pyarrow", reason="not installed (extra tabular)")
parquet = pytest.importorskip("pyarrow.parquet")

ROWS, FILES, GROUP = 300, 3, 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files of 300 rows in row groups of 40."""
    source = np.random.default_rng(0)
    place = tmp_path / "shards"
    place.mkdir()
    for number in range(FILES):
        values = source.normal(size=(ROWS, 3))
        values[::7, 1] = np.nan
        frame = pd.DataFrame(values, columns=["a", "b", "c"])
        frame["kind"] = source.choice(["x", "y", "z"], ROWS)
        frame["day"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(
            source.integers(0, 999, ROWS), "D"
        )
        frame["y"] = values[:, 0] > 0
        frame.to_parquet(place / f"part-{number}.parquet", row_group_size=GROUP, index=False)
    return place


def config(folder: Path | str, **settings: object) -> TabularConfig:
    """A tiny run that streams."""
    base = api.recipe("tabular")
    small: dict[str, object] = {
        "data.path": str(folder),
        "data.resident": 0.0,
        "data.drop": ("y",),
        "encoder.dim": 16,
        "encoder.depth": 1,
        "encoder.heads": 2,
        "predictor.width": 16,
        "predictor.depth": 1,
        "train.steps": 12,
        "train.batch_size": 64,
        "evaluate.enabled": False,
    }
    return changed(base, small | settings)


def test_rows_are_those_of_the_table_in_memory(folder: Path) -> None:
    chosen = config(folder)
    blocks = streamed(chosen)
    assert blocks is not None and len(blocks) == ROWS * FILES
    assert blocks.sizes.tolist() == [40, 40, 40, 40, 40, 40, 40, 20] * FILES
    whole = read_frame(folder).drop(columns="y")
    preprocess = TablePreprocess.fit(whole)
    packed = pack(preprocess.transform(whole))
    rows = StreamedRows(chosen, blocks, preprocess)
    rows._most = 100  # fewer rows than the table: blocks are forgotten and read again
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        ids = torch.randint(len(packed), (50,), generator=generator)
        assert torch.equal(rows(ids), packed[ids])
        assert sum(map(len, rows._kept.values())) <= 100


def test_the_sample_comes_from_all_over_the_table(folder: Path) -> None:
    blocks = TableBlocks(table_files(folder), ["y"])
    sample = blocks.sample(90)
    assert 90 <= len(sample) <= 110 and list(sample.columns) == ["a", "b", "c", "kind", "day"]
    whole = read_frame(folder)["a"].to_numpy()
    places = np.flatnonzero(np.isin(whole, sample["a"].to_numpy()))
    assert len(places) == len(sample)
    assert np.bincount(places // ROWS, minlength=FILES).min() >= 20
    assert len(blocks.sample(10**6)) == len(blocks)


def test_keeps_the_contract(folder: Path) -> None:
    adapter = TabularAdapter(config(folder, **{"objective.detection": 0.5}))
    assert adapter.stream is not None and len(adapter) == ROWS * FILES
    check_adapter(adapter)


def test_fixed_targets_and_read_ahead(folder: Path) -> None:
    adapter = TabularAdapter(config(folder, **{"target.kind": "nystroem", "target.dim": 8}))
    check_adapter(adapter)


def test_a_streamed_run_trains_resumes_and_embeds(folder: Path, tmp_path: Path) -> None:
    chosen = config(folder, **{"train.checkpoint_every": 5, "train.log_every": 1})
    whole = api.pretrain(chosen, tmp_path / "whole", quiet=True)
    half = api.pretrain(chosen, tmp_path / "half", quiet=True)
    weights = load_file(half.path / "encoder.safetensors")
    api.pretrain(chosen, half.path, quiet=True, resume=True, resume_step=10)
    losses = [[row["loss"] for row in read(run.path)] for run in (whole, half)]
    assert len(losses[0]) == 12 and losses[0] == losses[1]
    again = load_file(half.path / "encoder.safetensors")
    assert all(torch.equal(again[name], value) for name, value in weights.items())
    features = api.load(whole.path).embed(read_frame(folder).drop(columns="y"))
    assert features.shape[0] == ROWS * FILES and np.isfinite(features).all()


def test_in_memory_where_it_fits(folder: Path) -> None:
    chosen = config(folder, **{"data.resident": 1.0})
    assert streamed(chosen) is None
    adapter = TabularAdapter(chosen)
    assert adapter.stream is None and adapter.blocks is None
    assert len(adapter.table) == ROWS * FILES
    several = ",".join(str(path) for path in sorted(folder.glob("*.parquet"))[:2])
    assert (
        len(TabularAdapter(replace(chosen, data=replace(chosen.data, path=several))).table) == 600
    )
    pattern = config(f"{folder}/part-[01].parquet", **{"data.resident": 1.0})
    assert len(TabularAdapter(pattern).table) == 600


def test_a_target_is_no_feature(folder: Path) -> None:
    chosen = config(folder, **{"data.target": "y", "data.drop": ()})
    blocks = streamed(chosen)
    assert blocks is not None and "y" not in blocks.columns
    assert "y" not in sample_table(chosen, blocks).frame.columns


def test_what_is_stored_of_a_table_counts(folder: Path) -> None:
    first = sorted(folder.glob("*.parquet"))[0]
    known = {"file": first.name, "task": "binclass", "target": "y", "categorical": ["a", "kind"]}
    (folder / "datasets.json").write_text(json.dumps({"shards": known}))
    split = pd.read_parquet(first).assign(split="test")
    split.to_parquet(folder.parent / first.name)
    (folder.parent / "datasets.json").write_text(json.dumps({"shards": known}))
    with pytest.raises(ValueError, match=r"test rows too.*without the column 'split'"):
        TabularAdapter(config(folder.parent / first.name))
    chosen = config(folder, **{"data.drop": ()})
    adapter = TabularAdapter(chosen)
    assert adapter.stream is not None and "y" not in adapter.table.frame.columns
    assert adapter.table.categorical == ("a", "kind")
    assert adapter.preprocess.category_names == ("a", "kind")


def test_an_estimate_opens_a_streamed_table(folder: Path) -> None:
    found = outline(config(folder))
    assert found.samples == ROWS * FILES
    assert "the table was opened for its columns" in found.notes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data.split": "kind"}, "test rows too.*without the column 'kind'"),
        ({"data.target": "y", "data.drop": (), "evaluate.enabled": True}, "probe afterwards"),
        ({"data.drop": ("other",)}, "data.drop names 'other'"),
        ({"data.target": "other"}, "data.target names 'other'"),
        ({"data.dates": ("other",)}, "data.dates names 'other'"),
        ({"data.path": "nowhere"}, "no table at nowhere"),
    ],
)
def test_refusals(folder: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        TabularAdapter(config(folder, **settings))


def test_files_that_do_not_fit_are_named(folder: Path) -> None:
    frame = pd.read_parquet(folder / "part-0.parquet")
    frame.drop(columns="b").to_parquet(folder / "part-9.parquet", index=False)
    with pytest.raises(ValueError, match=r"part-9.parquet and .*differ in the columns b;"):
        TabularAdapter(config(folder))
    with pytest.raises(ValueError, match=r"part-9.parquet and .*differ in the columns \['b'\]"):
        read_frame(folder)
    frame.assign(a=frame["a"].astype(str)).to_parquet(folder / "part-9.parquet", index=False)
    with pytest.raises(ValueError, match=r"differ in the columns a \((large_)?string, double\)"):
        TabularAdapter(config(folder))
    frame.loc[17, "c"] = np.inf
    frame.to_parquet(folder / "part-9.parquet", index=False)
    with pytest.raises(ValueError, match=r"part-9.parquet, row group 0: column 'c' holds inf"):
        TabularAdapter(config(folder))
    twice = pyarrow.table([[1.0], [2.0]], names=["a", "a"])
    parquet.write_table(twice, folder / "part-9.parquet")
    with pytest.raises(ValueError, match=r"part-9.parquet has two columns 'a'"):
        TabularAdapter(config(folder))
    (folder / "part-9.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(ValueError, match=r"part-9.parquet cannot be read as .parquet"):
        TabularAdapter(config(folder))


def test_a_block_that_does_not_fit_the_sample_is_named(folder: Path) -> None:
    blocks = streamed(config(folder))
    assert blocks is not None
    preprocess = TablePreprocess.fit(pd.DataFrame({"a": [0.0, 1.0], "q": [1.0, 2.0]}))
    rows = StreamedRows(config(folder), blocks, preprocess)
    with pytest.raises(ValueError, match=r"part-1.parquet, row group 0: columns \['q'\]"):
        rows(torch.tensor([ROWS]))


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no \.parquet file in"):
        TabularAdapter(config(tmp_path))
