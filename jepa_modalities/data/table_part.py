"""Tables that are read in parts, in order, for files larger than memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jepa_modalities.data.refusal import refusing
from jepa_modalities.data.table import ENDINGS, REMEDY, stored

if TYPE_CHECKING:
    from pandas import DataFrame


def is_table(path: str | Path) -> bool:
    """Whether a name has the ending of a table that can be read in parts."""
    place = Path(path)
    return place.is_file() and place.name.lower().endswith(ENDINGS)


def frame_parts(path: str | Path, rows: int) -> Iterator[DataFrame]:
    """A CSV or Parquet file as DataFrames of at most `rows` rows, in order.

    Target and split columns that a `datasets.json` beside the file names are left out.

    Args:
        path: of the file, see `data.table.read_frame`.
        rows: per part.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another ending, a broken file, or Parquet without pyarrow.
    """
    place = Path(path)
    if not place.is_file():
        raise FileNotFoundError(f"no table at {place}")
    if not place.name.lower().endswith(ENDINGS):
        raise ValueError(f"{place}: unknown kind of table; expected one of {', '.join(ENDINGS)}")
    about = stored(place)
    roles = {about.get("target"), "split"} if about else set()
    for frame in _frames(place, rows):
        frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
        yield frame.drop(columns=[name for name in frame.columns if name in roles])


def _frames(place: Path, rows: int) -> Iterator[DataFrame]:
    import pandas as pd

    kind = "".join(place.suffixes[-2:]).lower()
    with refusing(place, kind, REMEDY):
        if place.suffix.lower() == ".parquet":
            from pyarrow import parquet

            with parquet.ParquetFile(place) as file:
                for batch in file.iter_batches(rows):
                    yield batch.to_pandas()
            return
        separator = "\t" if ".tsv" in place.name.lower() else ","
        with pd.read_csv(place, sep=separator, chunksize=rows) as reader:
            yield from reader
