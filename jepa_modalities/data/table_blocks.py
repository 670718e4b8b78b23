"""Parquet files whose rows are read block by block, for tables larger than memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jepa_modalities.data.refusal import refusing
from jepa_modalities.data.table_file import REMEDY, with_index

if TYPE_CHECKING:
    from pandas import DataFrame


class TableBlocks:
    """The row groups of Parquet files with the same columns, as blocks.

    Args:
        files: in the order of the rows.
        drop: columns that are not read, where there are such.

    Attributes:
        names: of all columns.
        columns: names of those that are read.
        sizes: rows of every block, int64, (blocks,).

    Raises:
        ValueError: a file that is no Parquet, or has two columns of one name; files with other
            columns or types than the first; no rows.
    """

    def __init__(self, files: Sequence[Path], drop: Sequence[str] = ()) -> None:
        self._files = tuple(files)
        groups: list[tuple[int, int]] = []
        sizes: list[int] = []
        first: dict[str, str] = {}
        for number, place in enumerate(files):
            with refusing(place, ".parquet", REMEDY), _opened(place) as file:
                found = {field.name: str(field.type) for field in file.schema_arrow}
                # `metadata.row_group` would know, but ends the interpreter on a damaged footer.
                rows = [
                    file.read_row_group(group, columns=[]).num_rows
                    for group in range(file.num_row_groups)
                ]
                names = file.schema_arrow.names
            if len(found) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise ValueError(f"{place} has two columns {twice!r}; rename one")
            first = first or found
            if found != first:
                raise ValueError(
                    f"{place} and {files[0]} differ in {_difference(found, first)}; all files of "
                    f"a table need the same columns and types"
                )
            groups += [(number, group) for group, count in enumerate(rows) if count]
            sizes += [count for count in rows if count]
        self.columns = tuple(name for name in first if name not in drop)
        if not groups or not self.columns:
            raise ValueError(
                f"{files[0]}: {sum(sizes)} rows of {len(self.columns)} columns in {len(files)} "
                f"file(s)"
            )
        self.names = tuple(first)
        self._groups = groups
        self.sizes: NDArray[np.int64] = np.array(sizes, np.int64)
        self.ends = self.sizes.cumsum()

    def __len__(self) -> int:
        return int(self.ends[-1])

    def name(self, number: int) -> str:
        """File and row group of a block, for messages."""
        file, group = self._groups[number]
        return f"{self._files[file]}, row group {group}"

    def check(self) -> None:
        """Read all numbers once, a block at a time: what cannot be used is told before training.

        Raises:
            ValueError: a damaged block, or an infinite value; names file, row group and column.
        """
        from pyarrow import compute, types

        for number, (name, group) in enumerate(self._groups):
            place = self._files[name]
            with refusing(place, ".parquet", REMEDY), _opened(place) as file:
                fields = [field for field in file.schema_arrow if field.name in self.columns]
                real = [field.name for field in fields if types.is_floating(field.type)]
                numbers = file.read_row_group(group, columns=real)
                infinite = [c for c in real if compute.any(compute.is_inf(numbers[c])).as_py()]
            if infinite:
                raise ValueError(
                    f"{self.name(number)}: column {infinite[0]!r} holds infinite values (inf); "
                    f"replace them by NaN, which counts as missing"
                )

    def block(self, number: int) -> DataFrame:
        """A block's rows.

        Raises:
            ValueError: it cannot be read.
        """
        name, group = self._groups[number]
        place = self._files[name]
        with refusing(place, ".parquet", REMEDY), _opened(place) as file:
            frame: DataFrame = file.read_row_group(group, columns=list(self.columns)).to_pandas()
            frame = with_index(frame)
        if len(frame) != self.sizes[number]:
            raise ValueError(f"{place} changed while it was read")
        return frame.reset_index(drop=True)

    def sample(self, rows: int) -> DataFrame:
        """About `rows` rows, evenly from blocks all over the table, in its order.

        At most 32 blocks are read.
        """
        import pandas as pd

        count = min(len(self.sizes), 32)
        chosen = np.unique(np.linspace(0, len(self.sizes) - 1, count).round().astype(int))
        share = min(rows / self.sizes[chosen].sum(), 1.0)
        parts = []
        for number in chosen.tolist():
            block = self.block(number)
            kept = max(round(share * len(block)), 1)
            parts.append(block.iloc[np.linspace(0, len(block) - 1, kept).round().astype(int)])
        return pd.concat(parts, ignore_index=True)


def _opened(place: Path) -> Any:
    from pyarrow import parquet

    return parquet.ParquetFile(place)


def _difference(found: dict[str, str], first: dict[str, str]) -> str:
    names = sorted(set(found) ^ set(first)) or [
        f"{name} ({found[name]}, {first[name]})" for name in found if found[name] != first[name]
    ]
    return f"the columns {', '.join(names[:5])}" if names else "the order of their columns"
