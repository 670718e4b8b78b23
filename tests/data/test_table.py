"""Reading tables: CSV, gzip, Parquet; roles of columns; splits; broken files."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_modalities.data.table import draw_splits, open_table
from jepa_modalities.data.table_file import read_frame, stored

pd = pytest.importorskip("pandas")
DATA = Path(os.environ.get("JEPA_DATA", Path(__file__).parents[3] / "shared" / "data")) / "tabular"


def frame(rows: int = 40) -> pd.DataFrame:
    number = np.arange(rows)
    return pd.DataFrame(
        {
            "a": number / 3,
            "b": np.where(number % 2 == 0, "x", "y"),
            "y": number * 0.5,
            "c": np.where(number % 3 == 0, "yes", "no"),
        }
    )


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.tsv", "t.parquet"])
def test_every_ending_gives_the_same_table(name: str, tmp_path: Path) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
        frame().to_parquet(tmp_path / name)
    else:
        frame().to_csv(tmp_path / name, index=False, sep="\t" if "tsv" in name else ",")
    pd.testing.assert_frame_equal(read_frame(tmp_path / name), frame(), check_dtype=False)


def test_roles(tmp_path: Path) -> None:
    path = str(tmp_path / "t.csv")
    frame().assign(part=["train"] * 30 + ["val"] * 4 + ["test"] * 6).to_csv(path, index=False)
    table = open_table(path, "y", "part", drop=["c"], categorical=["a"])
    assert list(table.frame.columns) == ["a", "b"]
    assert table.task == "regression" and table.categorical == ("a",)
    np.testing.assert_array_equal(table.target, np.arange(40) * 0.5)
    assert [len(table.rows(split)) for split in ("train", "val", "test")] == [30, 4, 6]
    classes = open_table(path, "c", "part")
    assert classes.task == "classification" and set(classes.target) == {"yes", "no"}
    plain = open_table(path)
    assert plain.target is None and plain.task == "" and "y" in plain.frame.columns


def test_gaps_in_the_target_are_unlabelled_rows(tmp_path: Path) -> None:
    path = str(tmp_path / "t.csv")
    frame().assign(y=[None if i % 4 == 0 else i for i in range(40)]).to_csv(path, index=False)
    table = open_table(path, "y")
    assert table.missing.sum() == 10
    labelled = np.concatenate([table.rows(s, labelled=True) for s in ("train", "val", "test")])
    assert sorted(labelled) == [i for i in range(40) if i % 4]
    every = np.concatenate([table.rows(s) for s in ("train", "val", "test")])
    assert sorted(every) == list(range(40))


def test_drawn_splits_are_stratified_and_fixed(tmp_path: Path) -> None:
    path = str(tmp_path / "t.csv")
    wide = pd.concat([frame(300)] * 1).assign(c=["rare"] * 30 + ["often"] * 270)
    wide.to_csv(path, index=False)
    table = open_table(path, "c")
    assert [len(table.rows(s)) for s in ("train", "val", "test")] == [192, 48, 60]
    assert (table.target[table.rows("test")] == "rare").sum() == 6
    np.testing.assert_array_equal(table.split, draw_splits(table))


def test_dates_are_parsed(tmp_path: Path) -> None:
    path = str(tmp_path / "t.csv")
    frame().assign(day="2024-02-29").to_csv(path, index=False)
    assert open_table(path, dates=["day"]).frame["day"].dt.day.tolist() == [29] * 40
    with pytest.raises(ValueError, match=r"data.dates: column 'b' holds no dates"):
        open_table(path, dates=["b"])


def test_names_and_values_that_cannot_be(tmp_path: Path) -> None:
    path = str(tmp_path / "t.csv")
    frame().assign(part="training", none=None).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"data.target names 'z'; .*\['a', 'b', 'y'"):
        open_table(path, "z")
    with pytest.raises(ValueError, match="split column 'part' holds"):
        open_table(path, split="part")
    with pytest.raises(ValueError, match="column 'none' is empty"):
        open_table(path, "none")
    with pytest.raises(ValueError, match=r"set data.task to classification"):
        open_table(path, "b", task="regression")
    with pytest.raises(ValueError, match=r"data.path is not given"):
        open_table("")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no table at"):
        read_frame(tmp_path / "none.csv")
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    with pytest.raises(ValueError, match="unknown kind of table"):
        read_frame(tmp_path / "t.xlsx")
    for name, content in (
        ("empty.csv", b""),
        ("head.csv", b"a,b\n"),
        ("broken.csv.gz", b"\x1f\x8b\x08 no gzip"),
        ("cut.csv.gz", gzip.compress(b"a,b\n1,2\n" * 99)[:-12]),
        ("bytes.csv", b"a,b\n\xff\xfe,\x80\n"),
        ("broken.parquet", b"PAR1 no parquet PAR1"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            read_frame(tmp_path / name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bytes")


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=200), ending=st.sampled_from([".csv", ".csv.gz", ".parquet"]))
def test_any_bytes_are_a_table_or_a_value_error(content: bytes, ending: str, folder: Path) -> None:
    path = folder / f"any{ending}"
    path.write_bytes(content)
    try:
        assert len(read_frame(path)) > 0
    except ValueError as error:
        assert path.name in str(error)


def test_stored_layout(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    frame().assign(split="train").to_csv(path, index=False)
    entry = {"file": "t.csv.gz", "task": "binclass", "target": "c", "categorical": ["b"]}
    (tmp_path / "datasets.json").write_text(json.dumps({"t": entry}))
    table = open_table(str(path))
    assert table.task == "classification" and table.categorical == ("b",)
    assert list(table.frame.columns) == ["a", "b", "y"] and (table.split == "train").all()
    assert stored(tmp_path / "other.csv") == {}
    (tmp_path / "datasets.json").write_text("{")
    with pytest.raises(ValueError, match=r"datasets.json cannot be read as JSON"):
        stored(path)


def test_bundled_table() -> None:
    table = open_table("breast_cancer")
    assert table.frame.shape == (569, 30) and table.task == "classification"
    counts = dict(zip(*np.unique(table.target, return_counts=True), strict=True))
    assert counts == {"benign": 357, "malignant": 212}
    assert [len(table.rows(s)) for s in ("train", "val", "test")] == [364, 91, 114]


@pytest.mark.realdata
@pytest.mark.skipif(not DATA.exists(), reason="needs the tables in the folder named by JEPA_DATA")
@pytest.mark.parametrize(
    ("name", "task", "splits", "categorical"),
    [
        ("california", "regression", (13_209, 3_303, 4_128), 0),
        ("credit_default", "classification", (19_200, 4_800, 6_000), 9),
        ("abalone", "regression", (2_672, 669, 836), 1),
        ("electricity", "classification", (28_999, 7_250, 9_063), 1),
    ],
)
def test_stored_tables(name: str, task: str, splits: tuple[int, ...], categorical: int) -> None:
    table = open_table(str(DATA / f"{name}.csv.gz"))
    assert table.task == task and len(table.categorical) == categorical
    assert tuple(len(table.rows(s, True)) for s in ("train", "val", "test")) == splits


def test_rows_longer_than_the_header_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b,s\n" + "".join(f"{n},0,x,\n" for n in range(30)))
    assert read_frame(path)["a"].tolist() == list(range(30))  # nothing but a comma is too much
    path.write_text("a,b,s\n" + "".join(f"{n},0,x,1\n" for n in range(30)))
    with pytest.raises(ValueError, match=r"t\.csv cannot be read as \.csv"):
        read_frame(path)


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_another_separator_is_named(mark: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"a{mark}b\n" + f"1{mark}2\n" * 20)
    with pytest.raises(ValueError, match="its separator seems to be"):
        read_frame(path)


def test_a_file_is_named_once(tmp_path: Path) -> None:
    place = tmp_path / "t.csv"
    place.write_text("a\n1\n2\n")
    for twice in (f"{place},{tmp_path}/./t.csv", f"{place}, {tmp_path}/*.csv"):
        with pytest.raises(ValueError, match=r"t.csv twice; its rows"):
            read_frame(twice)


def test_equal_headers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b,a\n" + "1,2,3\n" * 20)
    with pytest.raises(ValueError, match="two columns 'a'"):
        read_frame(path)


def test_a_named_index_is_a_column(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"s": range(20), "x": range(20)})
    frame.set_index("s").to_parquet(tmp_path / "named.parquet")
    frame[::2].to_parquet(tmp_path / "bare.parquet")
    assert list(read_frame(tmp_path / "named.parquet").columns) == ["s", "x"]
    assert list(read_frame(tmp_path / "bare.parquet").columns) == ["s", "x"]


def test_a_column_has_one_role(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    pd.DataFrame({"y": range(20), "x": range(20)}).to_csv(path, index=False)
    for role in ("dates", "categorical", "drop"):
        with pytest.raises(ValueError, match=rf"data\.target and data\.{role} both name 'y'"):
            open_table(str(path), "y", **{role: ["y"]})


def test_empty_cells_of_a_split_are_told(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    part = ["train"] * 18 + [None, "test"]
    pd.DataFrame({"x": range(20), "part": part}).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"'part' holds \[\] and 1 empty cells"):
        open_table(str(path), split="part")


def test_an_unknown_stored_task_is_refused(tmp_path: Path) -> None:
    (tmp_path / "datasets.json").write_text('{"t": {"file": "t.csv", "task": "weird"}}')
    with pytest.raises(ValueError, match="'weird'"):
        stored(tmp_path / "t.csv")
