"""Tables that are read in parts, in order, for files larger than memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jepa_modalities.data.refusal import refusing
from jepa_modalities.data.table_file import (
    ENDINGS,
    REMEDY,
    check_header,
    kind_of_file,
    read_csv,
    stored,
    with_index,
)

if TYPE_CHECKING:
    from pandas import DataFrame


def is_table(path: str | Path) -> bool:
    """Whether a name has the ending of a table that can be read in parts."""
    place = Path(path)
    return place.is_file() and place.name.lower().endswith(ENDINGS)


def frame_parts(path: str | Path, rows: int, text: Sequence[str] = ()) -> Iterator[DataFrame]:
    """A CSV or Parquet file as DataFrames of at most `rows` rows, in order.

    Target and split columns that a `datasets.json` beside the file names are left out.

    Args:
        path: of the file, see `data.table_file.read_frame`.
        rows: per part.
        text: columns of CSV files that are kept as they are spelled.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another ending, a broken file, or Parquet without pyarrow.
    """
    place = Path(path)
    if not place.is_file():
        raise FileNotFoundError(f"no table at {place}")
    kind_of_file(place)
    about = stored(place)
    roles = {about.get("target"), "split"} if about else set()
    for number, frame in enumerate(_frames(place, rows, text)):
        frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
        if not number:
            check_header(place, list(frame.columns))
        yield frame.drop(columns=[name for name in frame.columns if name in roles])


def _frames(place: Path, rows: int, text: Sequence[str]) -> Iterator[DataFrame]:
    kind = kind_of_file(place)
    with refusing(place, kind, REMEDY):
        if kind == ".parquet":
            from pyarrow import parquet

            with parquet.ParquetFile(place) as file:
                for batch in file.iter_batches(rows):
                    yield with_index(batch.to_pandas())
            return
        with read_csv(place, text, chunksize=rows) as reader:
            yield from reader
