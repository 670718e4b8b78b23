"""Tables on the terminal, and feature files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.table import Table

from jepa_modalities.eval import score as scores

PROBES_PER_TABLE = 4  # beside the arms' names, in 80 columns


def result_table(run: Path) -> Group:
    """Arms as rows, primary probes as columns, each with its 95 % interval; four probes a table."""
    results = scores.parse(json.loads((run / "metrics.json").read_text()))
    columns = scores.primary_columns(results)
    tables = []
    for first in range(0, len(columns), PROBES_PER_TABLE):
        shown = columns[first : first + PROBES_PER_TABLE]
        table = Table(box=None, leading=1)
        table.add_column("arm", no_wrap=True)
        for column in shown:
            table.add_column(scores.probe_name(column.probe), min_width=10)
        for arm in scores.arm_order({arm for arm, _ in results.arms}):
            found = [(results.arms.get((arm, column)), column.metric) for column in shown]
            if any(score is not None for score, _ in found):
                table.add_row(arm, *("" if s is None else _cell(s, metric) for s, metric in found))
        tables.append(table)
    return Group(*tables)


def _cell(score: scores.Score, metric: str) -> str:
    value = scores.number(score.value, metric)
    if score.low is None or score.high is None:
        return value
    low, high = scores.number(score.low, metric), scores.number(score.high, metric)
    return f"{value}\n{low}\N{EN DASH}{high}"


def run_table(folder: Path) -> Table:
    """One line per run below a folder, best first by its first primary probe.

    Raises:
        FileNotFoundError: no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; name the one that holds your runs")
    table = Table("run", "recipe", "seed", "linear", "steps", box=None)
    rows = []
    for path in sorted(folder.glob("*/config.json")):
        config = json.loads(path.read_text())
        place = path.parent / "metrics.json"
        metrics = json.loads(place.read_text()) if place.exists() else {}
        linear = metrics.get("encoder/linear/accuracy")
        rows.append(
            (
                -(linear or 0.0),
                path.parent.name,
                config.get("recipe", ""),
                str(config["train"]["seed"]),
                "unfinished" if not metrics else "" if linear is None else f"{linear:.1%}",
                str(int(metrics.get("train/steps", 0))),
            )
        )
    for _, *cells in sorted(rows):
        table.add_row(*cells)
    return table


def write_features(path: Path, features: NDArray[np.float32], remarks: Sequence[str] = ()) -> None:
    """Write features atomically as .npy, or as Parquet with one column per feature.

    Args:
        path: of the file.
        features: (rows, width).
        remarks: on the data; Parquet keeps them, see `stream_features`. .npy has no place for them.

    Raises:
        ValueError: Parquet without pyarrow.
    """
    if path.suffix != ".npy":
        stream_features(path, iter([features]), remarks)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            np.lib.format.write_array_header_1_0(
                file, np.lib.format.header_data_from_array_1_0(features)
            )
            file.write(
                np.ascontiguousarray(features).data
            )  # unlike np.save it tells of a full disk
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def stream_features(
    path: Path, parts: Iterator[NDArray[np.float32]], remarks: Sequence[str] = ()
) -> tuple[int, int]:
    """Write features as Parquet, one column per feature, one row group per part; atomically.

    Only one part is in memory at a time.

    Args:
        path: of the file.
        parts: (rows, width) each, all of one width.
        remarks: on the data, kept as a JSON list under `remarks` in the schema's metadata.

    Returns:
        Rows and width.

    Raises:
        ValueError: Parquet without pyarrow, or no part.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise ValueError("Parquet needs pyarrow: pip install pyarrow, or use .npy") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    rows, width, writer = 0, 0, None
    try:
        for part in parts:
            rows, width = rows + len(part), part.shape[1]
            names = [f"feature_{number}" for number in range(width)]
            table = arrow.table(list(part.T), names=names)
            if writer is None:
                about = {"remarks": json.dumps(list(remarks))}
                writer = parquet.ParquetWriter(temporary, table.schema.with_metadata(about))
            writer.write_table(table)
        if writer is None:
            raise ValueError(f"nothing to write to {path}: the input holds no rows")
        writer.close()
        os.replace(temporary, path)
    finally:
        if writer is not None and writer.is_open:
            writer.close()
        temporary.unlink(missing_ok=True)
    return rows, width
