"""The log: complete records only, cut back on resume, a table at the end."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from jepa_modalities.train.log import Log, cut, read


def fill(folder: Path, steps: range) -> None:
    log = Log(folder)
    for step in steps:
        log.write({"step": step, "loss": 1 / 3 + step} | ({"extra": 1.0} if step == 3 else {}))
    log.close()


def test_records_keep_full_precision(tmp_path: Path) -> None:
    assert read(tmp_path) == []
    fill(tmp_path, range(1, 5))
    assert [record["loss"] for record in read(tmp_path)] == [1 / 3 + step for step in range(1, 5)]


def test_a_half_written_line_is_forgotten_by_the_cut(tmp_path: Path) -> None:
    fill(tmp_path, range(1, 5))
    path = tmp_path / "log.jsonl"
    path.write_text(path.read_text() + '{"step": 5, "lo')
    assert [record["step"] for record in read(tmp_path)] == [1, 2, 3, 4]
    cut(tmp_path, 4)
    fill(tmp_path, range(5, 7))
    assert [record["step"] for record in read(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_cut_leaves_no_record_after_the_step(tmp_path: Path) -> None:
    fill(tmp_path, range(1, 9))
    cut(tmp_path, 5)
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").open()] == [1, 2, 3, 4, 5]
    assert not list(tmp_path.glob(".*"))
    cut(tmp_path, 0)
    assert read(tmp_path) == []


def test_the_table_has_every_column(tmp_path: Path) -> None:
    fill(tmp_path, range(1, 5))
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["extra"] for row in rows] == ["", "", "1.0", ""]
