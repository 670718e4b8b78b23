"""CSV and Parquet tables, what lies beside them, and the tables of ECG data sets."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from jepa_modalities.data.prepare.ecg_mimic import prepare_mimic_iv_ecg
from jepa_modalities.data.prepare.ecg_ptbxl import label_table, ptbxl_source, read_table
from jepa_modalities.data.table import open_table
from jepa_modalities.data.table_blocks import TableBlocks
from jepa_modalities.data.table_file import read_frame
from jepa_modalities.data.table_part import frame_parts

pd = pytest.importorskip("pandas")
ROWS = 12


def checked(path: Path) -> None:
    """Open with roles and in parts, and hold both to each other."""
    found = open_table(str(path), target="y")
    assert len(found) == len(found.missing) == len(found.split) > 0
    assert found.target is not None and found.target.shape == (len(found),)
    assert len(set(found.frame.columns)) == len(found.frame.columns)
    assert sum(len(part) for part in frame_parts(path, 5)) == len(found)


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_tables(mutation: ModuleType, tmp_path: Path, kind: str) -> None:
    path, beside = tmp_path / f"case.{kind}", tmp_path / "datasets.json"
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"a": draw.random(ROWS).round(3), "b": ["u", "v"] * (ROWS // 2)})
    frame = frame.assign(c=range(ROWS), y=[0, 1, 1] * (ROWS // 3))
    if kind == "parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(path)
    elif kind == "csv":
        frame.to_csv(path, index=False)
    else:
        path.write_bytes(gzip.compress(frame.to_csv(index=False).encode()))
    about = {"file": path.name, "task": "multiclass", "target": "y", "categorical": ["b"]}
    beside.write_text(json.dumps({"case": about}))
    how = mutation.text if kind == "csv" else mutation.binary
    files = {path: how, beside: mutation.json_damage}
    names = [path.name, beside.name, "data."]
    mutation.attack(lambda: checked(path), files, names, mutation.COUNT // 3)


def test_blocks_of_a_streamed_table(mutation: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path, draw = tmp_path / "case.parquet", np.random.default_rng(0)
    frame = pd.DataFrame({"a": draw.random(60), "b": ["u", "v", None] * 20, "c": range(60)})
    frame.to_parquet(path, row_group_size=20)

    def read() -> None:
        blocks = TableBlocks([path], ["c"])
        blocks.check()
        parts = [blocks.block(number) for number in range(len(blocks.sizes))]
        assert [len(part) for part in parts] == blocks.sizes.tolist()
        assert 0 < len(blocks.sample(30)) <= len(blocks) and "c" not in blocks.columns

    mutation.attack(read, {path: mutation.binary}, [path.name], mutation.COUNT // 2)


def test_tables_of_recordings(mutation: ModuleType, tmp_path: Path) -> None:
    ptbxl(tmp_path)
    table, kinds = tmp_path / "ptbxl_database.csv", tmp_path / "scp_statements.csv"

    def read() -> None:
        rows = read_table(table, ("ecg_id",))
        assert all(isinstance(value, str) for row in rows for value in row.values())
        assert label_table(kinds)
        ptbxl_source(tmp_path, 100)

    mutation.attack(read, {table: mutation.text, kinds: mutation.text})


def test_tables_that_are_damaged_name_the_file(tmp_path: Path) -> None:
    """zlib.error of gzip, and what pyarrow's own readers say of a broken footer."""
    packed = bytearray(gzip.compress(b"a,b\n" + b"1,2\n" * 50))
    packed[12:16] = 4 * b"\xff"
    (tmp_path / "case.csv.gz").write_bytes(packed)
    for read in (read_frame, lambda path: list(frame_parts(path, 5))):
        with pytest.raises(ValueError, match=r"case\.csv\.gz cannot be read as"):
            read(tmp_path / "case.csv.gz")
    pytest.importorskip("pyarrow")
    pd.DataFrame({"a": range(9)}).to_parquet(tmp_path / "case.parquet")
    content = (tmp_path / "case.parquet").read_bytes()
    content = content.replace(b'"index_columns"', b'"index\xffcolumns"')
    (tmp_path / "case.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"case\.parquet cannot be read as"):
        list(frame_parts(tmp_path / "case.parquet", 5))


@pytest.mark.parametrize(
    "about",
    [{"target": ["y"]}, {"target": {}}, {"task": 3}, {"categorical": 7}, {"categorical": [{}]}],
)
def test_what_lies_beside_a_table(tmp_path: Path, about: dict[str, object]) -> None:
    (tmp_path / "case.csv").write_text("a,y\n" + "1,0\n" * 12)
    (tmp_path / "datasets.json").write_text(json.dumps({"x": {"file": "case.csv", **about}}))
    for read in (open_table, lambda path: list(frame_parts(path, 5))):
        with pytest.raises(ValueError, match=r"datasets\.json: of case\.csv it says"):
            read(str(tmp_path / "case.csv"))
    (tmp_path / "datasets.json").write_text(100_000 * "[")
    with pytest.raises(ValueError, match=r"datasets\.json cannot be read as JSON"):
        open_table(str(tmp_path / "case.csv"))


def test_too_few_rows_name_the_setting(tmp_path: Path) -> None:
    (tmp_path / "case.csv").write_text("a,y\n" + "1,0\n" * 9)
    with pytest.raises(ValueError, match=r"9 rows are too few.*data\.split"):
        open_table(str(tmp_path / "case.csv"))


def ptbxl(folder: Path, **changed: str) -> Path:
    """The tables of PTB-XL with one row."""
    row = {"ecg_id": "1", "patient_id": "15.0", "age": "56", "sex": "1", "strat_fold": "3"}
    row |= {"scp_codes": "{'NORM': 100.0}", "filename_lr": "records100/r"} | changed
    (folder / "records100").mkdir(parents=True, exist_ok=True)
    (folder / "records100" / "r.hea").write_text("")
    lines = [",".join(row), ",".join(row.values())]
    (folder / "ptbxl_database.csv").write_text("\n".join(lines) + "\n")
    (folder / "scp_statements.csv").write_text(
        ",description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass\n"
        "NORM,normal,1.0,,,NORM,NORM\n"
    )
    return folder


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ecg_id": "inf"}, "ecg_id = 'inf', expected a whole number"),
        ({"strat_fold": "x"}, "strat_fold = 'x', expected a whole number"),
        ({"sex": "1e999"}, "sex = '1e999', expected a whole number"),
        ({"age": "1,2"}, "row 1 has more fields"),
        ({"filename_lr": "../../etc/passwd"}, "names '../../etc/passwd.hea', which is not below"),
        ({"filename_lr": "/etc/passwd"}, "names '/etc/passwd.hea', which is not below"),
        ({"filename_lr": "records100/../../r"}, "which is not below"),
    ],
)
def test_tables_of_recordings_that_lead_astray(
    tmp_path: Path, changed: dict[str, str], message: str
) -> None:
    assert len(ptbxl_source(ptbxl(tmp_path / "good"), 100).items) == 1
    with pytest.raises(ValueError, match=rf"ptbxl_database\.csv.*{message}"):
        ptbxl_source(ptbxl(tmp_path / "bad", **changed), 100)


def test_rows_that_no_file_or_code_fits_are_missing(tmp_path: Path) -> None:
    for number, changed in enumerate(({"filename_lr": 5000 * "x"}, {"scp_codes": 9999 * "("})):
        source = ptbxl_source(ptbxl(tmp_path / str(number), **changed), 100)
        assert len(source.items) == 0 and len(source.missing) == 1


def test_tables_in_other_encodings_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "case.csv"
    for content in (b"ecg_id\n\xe1\n", b"ecg_id\n" + 200_000 * b"x"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"case\.csv cannot be read as a CSV table"):
            read_table(path, ("ecg_id",))


def test_recordings_of_mimic_stay_in_their_folder(tmp_path: Path) -> None:
    (tmp_path / "record_list.csv").write_text("subject_id,study_id,path\n1,2,../../etc/passwd\n")
    with pytest.raises(ValueError, match=r"record_list\.csv names '\.\./\.\./etc/passwd\.hea'"):
        prepare_mimic_iv_ecg(tmp_path, tmp_path / "out.h5")
