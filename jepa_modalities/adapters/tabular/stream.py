"""Tables larger than memory: fitted on a sample, packed block by block while training."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from jepa_modalities.adapters.tabular.config import TabularConfig
from jepa_modalities.adapters.tabular.model import TabularModality
from jepa_modalities.adapters.tabular.preprocess import TablePreprocess
from jepa_modalities.adapters.tabular.tokenizer import pack
from jepa_modalities.core.draw import Blocks
from jepa_modalities.data.table import Table
from jepa_modalities.data.table_blocks import TableBlocks
from jepa_modalities.data.table_file import stored, table_files

SAMPLE = 200_000  # rows that preprocessing, bins, fixed targets and replaced values come from
WINDOW = 2**17  # rows that are mixed
BYTES = 16  # of a value in memory: as a number in its DataFrame, and packed


def streamed(config: TabularConfig) -> TableBlocks | None:
    """The blocks of Parquet files that would need more than `data.resident`; else None.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, or choices that need the whole table in memory.
    """
    data = config.data
    if not data.path or data.path == "breast_cancer":
        return None
    files = table_files(data.path)
    if any(file.suffix.lower() != ".parquet" for file in files):
        return None
    about = stored(files[0])
    roles = (data.target or about.get("target", ""), data.split or ("split" if about else ""))
    blocks = TableBlocks(files, (*roles, *data.drop))
    size = len(blocks) * len(blocks.columns) * BYTES
    if size <= data.resident * 2**30:
        return None
    what = (
        f"{data.path} holds {len(blocks):,} rows of {len(blocks.columns)} columns, more than "
        f"data.resident = {data.resident:g} GiB in memory, and is streamed"
    )
    given = {"target": (data.target,), "split": (data.split,), "drop": data.drop}
    given |= {"categorical": data.categorical, "dates": data.dates}
    for role, names in given.items():
        if lacking := [name for name in names if name and name not in blocks.names]:
            raise ValueError(f"data.{role} names {lacking[0]!r}; {files[0]} has {blocks.names}")
    if roles[1] in blocks.names:
        raise ValueError(
            f"{what}: all its rows would be used, test rows too. Write the training rows into "
            f"files of their own without the column {roles[1]!r}, or raise data.resident"
        )
    if config.evaluate.enabled and data.target:
        raise ValueError(
            f"{what}: probes need a table in memory. Set evaluate.enabled to False and probe "
            f"afterwards with `jm evaluate RUN --evaluate.enabled True --data.path FILE`, or "
            f"raise data.resident"
        )
    blocks.check()
    return blocks


def sample_table(config: TabularConfig, blocks: TableBlocks) -> Table:
    """Rows from all over a streamed table, all of them training rows without a target."""
    frame = TabularModality.read(config, blocks.sample(SAMPLE))
    none, every = np.zeros(len(frame), dtype=bool), np.full(len(frame), "train")
    known = stored(table_files(config.data.path)[0]).get("categorical", ())
    names = config.data.categorical or tuple(name for name in known if name in frame.columns)
    return Table(frame, None, none, every, "", names)


class StreamedRows:
    """Packed rows of a streamed table; blocks that were just used stay in memory.

    Args:
        config: of the run.
        blocks: of the table.
        preprocess: fitted.
    """

    def __init__(
        self, config: TabularConfig, blocks: TableBlocks, preprocess: TablePreprocess
    ) -> None:
        self.config, self.blocks, self.preprocess = config, blocks, preprocess
        self.order = Blocks(torch.from_numpy(blocks.sizes), WINDOW)
        self._ends = torch.from_numpy(blocks.ends)
        # Two windows: a batch may end one and begin the next.
        self._most = 2 * self.order.span
        self._kept: OrderedDict[int, Tensor] = OrderedDict()
        self._lock = Lock()  # a step may be read again while others are read ahead

    def __len__(self) -> int:
        return len(self.blocks)

    def __call__(self, ids: Tensor) -> Tensor:
        """Packed rows, (batch, features, 2), on the CPU.

        Raises:
            ValueError: a block that cannot be read or does not fit the rows of the sample.
        """
        number = torch.searchsorted(self._ends, ids, right=True)
        order = number.argsort(stable=True)
        used, counts = number[order].unique_consecutive(return_counts=True)
        inside = (ids - (self._ends - self.order.sizes)[number])[order]
        with self._lock:
            parts = [
                self._block(block)[rows]
                for block, rows in zip(used.tolist(), inside.split(counts.tolist()), strict=True)
            ]
        return torch.empty_like(found := torch.cat(parts)).index_copy_(0, order, found)

    def _block(self, number: int) -> Tensor:
        if number not in self._kept:
            frame = TabularModality.read(self.config, self.blocks.block(number))
            try:
                self._kept[number] = pack(self.preprocess.transform(frame))
            except ValueError as error:
                raise ValueError(f"{self.blocks.name(number)}: {error}") from error
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]
