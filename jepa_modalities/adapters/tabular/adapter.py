"""The table adapter: the whole table as tensors, one gather per step; or streamed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jepa_modalities.adapters.base import Plan, build_masker
from jepa_modalities.adapters.tabular.bin import bin_edges
from jepa_modalities.adapters.tabular.config import TableShape, TabularConfig
from jepa_modalities.adapters.tabular.model import MOST_BINS, embedding, geometry
from jepa_modalities.adapters.tabular.objective import Detection, Reconstruction, replaced
from jepa_modalities.adapters.tabular.preprocess import TablePreprocess
from jepa_modalities.adapters.tabular.remarks import columns_in_words
from jepa_modalities.adapters.tabular.stream import StreamedRows, sample_table, streamed
from jepa_modalities.adapters.tabular.target import fixed_target
from jepa_modalities.adapters.tabular.tokenizer import TableTokenizer, pack
from jepa_modalities.core.batch import Batch, Tokens
from jepa_modalities.core.draw import Blocks, Draw
from jepa_modalities.core.masking import Masker, Masks
from jepa_modalities.core.registry import adapters
from jepa_modalities.data.ahead import read_ahead
from jepa_modalities.data.table import Table, open_table

MONITORED = 1_000  # rows of the collapse monitor
AHEAD = 64  # batches of a streamed table: a new window takes as long to read as many steps


@adapters.register("tabular")
class TabularAdapter:
    """Tables for JEPA (see `adapters.base.Adapter`).

    Args:
        config: of the run; `shape` is filled here.
        folder: not used.
        table: instead of `data.path`, for callers that hold the table already.

    Raises:
        ValueError: data or choices that cannot work, before anything is trained.
    """

    def __init__(
        self, config: TabularConfig, folder: Path | None = None, table: Table | None = None
    ) -> None:
        data = config.data
        blocks = streamed(config) if table is None else None
        if blocks is not None:
            table = sample_table(config, blocks)
        self.table = table or opened(config)
        train = self.table.frame.iloc[self.table.rows("train")]
        process = TablePreprocess.fit(train, data.numeric, self.table.categorical, data.max_levels)
        self.config = config
        self._resident: Tensor | None = None
        self._fill(TableTokenizer(process))
        check(self.config)
        build_masker(self.config, self.geometry)
        self.stream = None if blocks is None else StreamedRows(config, blocks, self.preprocess)
        self._check_evaluation()

    def _check_evaluation(self) -> None:
        if self.config.evaluate.enabled and self.probed:
            from jepa_modalities.adapters.tabular.evaluator import check as check_evaluation

            check_evaluation(self)

    def adopt(self, tokenizer: TableTokenizer, encoder: Any, config: TabularConfig) -> None:
        """Take over a trained encoder's scales, levels and bins, and how it saw the rows split.

        A split is drawn by the target; rows that this encoder was trained on stay training rows
        when another one is probed.

        Raises:
            ValueError: columns that the table lacks, or a split in which nothing can be probed.
        """
        if self.stream is None and resplit(config, self.config):
            self.table = replace(self.table, split=opened(config).split)
            self._check_evaluation()
        self._fill(tokenizer, encoder.embed.edges)

    def _fill(self, tokenizer: TableTokenizer, fine: list[Tensor] | None = None) -> None:
        """What follows from fitted scales and levels; bins of tokens are this table's if not given.

        Raises:
            ValueError: columns that the table lacks.
        """
        self.tokenizer, self.preprocess = tokenizer, tokenizer.preprocess
        arrays = self.preprocess.transform(self.table.frame.iloc[self.table.rows("train")])
        self.values, self._resident = pack(arrays), None
        self.edges = _edges(arrays.numeric, self.config.objective.bins)
        if fine is None:
            tokens = self.config.tokens
            fine = _edges(arrays.numeric, tokens.bins) if tokens.numeric == "ple" else []
        self.fine = fine
        self.config = replace(
            self.config,
            shape=TableShape(
                len(self.preprocess.numeric_names),
                self.preprocess.cardinalities,
                tuple(len(edge) - 1 for edge in self.fine),
                self.preprocess.text,
            ),
        )
        self.geometry = geometry(self.config)

    def __len__(self) -> int:
        return len(self.values if self.stream is None else self.stream)

    @property
    def blocks(self) -> Blocks | None:
        """The blocks that a streamed table is read in."""
        return None if self.stream is None else self.stream.order

    @property
    def about(self) -> list[str]:
        """What the columns were taken for."""
        train = self.table.frame.iloc[self.table.rows("train")]
        return columns_in_words(self.preprocess, train, self.table.categorical)

    @property
    def mark(self) -> str:
        """A checksum of the preprocessed training rows (of the sample, where they are streamed)."""
        return f"checksum {zlib.crc32(self.values.numpy().data):08x}"

    def embedding(self) -> nn.Module:
        """Weights for every feature."""
        return embedding(self.config, self.fine)

    def target(self) -> tuple[nn.Module, int] | None:
        """The fixed target that `target.kind` names, or None."""
        if self.config.target.kind == "ema":
            return None
        return fixed_target(self.config, self.edges, self.values)

    def terms(self) -> list[nn.Module]:
        """Detection of replaced values and reconstruction of hidden ones, where switched on."""
        wanted = self.config.objective.reconstruction and self.config.loss.weight
        fixed = self.target() if wanted else None
        return extra_terms(self.config, self.edges, None if fixed is None else fixed[1])

    def feed(
        self, plan: Plan, masker: Masker | None, device: torch.device
    ) -> Iterator[tuple[Batch, Masks | None]]:
        """Batches and masks on the device, in the plan's order."""
        table = self._on(device)
        choice = self.config.objective
        fixed = self.config.target.kind != "ema"
        for values, ids, draw in self._rows(plan, table):
            tokens: Tokens = self.tokenizer(values)
            masks = None if masker is None else draw.masks(masker).to(device)
            views: tuple[Tokens, ...] = ()
            if choice.detection:
                changed = replaced(values, table, draw, choice.detection_rate)
                views = (Tokens(changed, tokens.positions),)
            yield Batch(tokens, tokens, views, raw=values if fixed else None, ids=ids), masks

    def _rows(self, plan: Plan, table: Tensor) -> Iterator[tuple[Tensor, Tensor, Draw]]:
        """Packed rows of each batch on the table's device, with their numbers and draws."""
        device = table.device
        if self.stream is None:
            for ids, draw in plan:
                yield table.index_select(0, ids.to(device, non_blocking=True)), ids, draw
            return
        stream = self.stream
        for values, ids, draw in read_ahead(plan, lambda item: (stream(item[0]), *item), AHEAD):
            yield values.to(device, non_blocking=True), ids, draw

    def _on(self, device: torch.device) -> Tensor:
        """All training rows (the sample of a streamed table) on the device, copied once."""
        if self._resident is None or self._resident.device != device:
            self._resident = self.values.to(device)
        return self._resident

    def packed(self, split: str, labelled: bool = False) -> Tensor:
        """The rows of a split, preprocessed, (rows, features, 2)."""
        rows = self.table.rows(split, labelled)
        return pack(self.preprocess.transform(self.table.frame.iloc[rows]))

    def monitor(self) -> tuple[Tokens, Tensor | None]:
        """Up to 1,000 validation rows (training rows where there are few), with their classes."""
        split = "val" if len(self.table.rows("val")) >= 50 else "train"
        labels = None
        rows = self.table.rows(split)
        count = min(len(rows), MONITORED)
        chosen = np.linspace(0, len(rows) - 1, count).round().astype(int)  # a table may be sorted
        if self.table.task == "classification" and not self.table.missing[rows].any():
            assert self.table.target is not None
            codes = np.unique(self.table.target, return_inverse=True)[1]
            labels = torch.from_numpy(codes[rows[chosen]])
        device = self.tokenizer.about.device
        packed = self.preprocess.transform(self.table.frame.iloc[rows[chosen]])
        tokens: Tokens = self.tokenizer(pack(packed).to(device))
        return tokens, labels

    @property
    def probed(self) -> bool:
        """Whether there is a target to predict."""
        return self.table.target is not None

    def evaluate(self, encoders: dict[str, list[nn.Module]], run: Path) -> dict[str, float]:
        """Score the encoders beside raw columns and the bars; nothing without a target."""
        if not self.probed:
            return {}
        from jepa_modalities.adapters.tabular.evaluator import evaluate

        return evaluate(self, encoders, run)

    def pictures(self, encoders: dict[str, list[nn.Module]]) -> dict[str, Any]:
        """Masks, rows in the plane, what each feature looks at."""
        from jepa_modalities.adapters.tabular.picture import table_pictures

        return table_pictures(self, encoders)


def opened(config: TabularConfig) -> Table:
    """The table of a run, in memory (see `data.table.open_table`)."""
    data = config.data
    return open_table(
        data.path,
        data.target,
        data.split,
        data.task,
        data.categorical,
        data.dates,
        data.drop,
        config.shape.text,
    )


def resplit(first: TabularConfig, then: TabularConfig) -> bool:
    """Whether two runs would split the rows of the same file in two ways."""
    a, b = first.data, then.data
    same = bool(a.path) and str(Path(a.path).resolve()) == str(Path(b.path).resolve())
    return same and a.split == b.split and (a.target, a.task) != (b.target, b.task)


def _edges(numeric: Any, bins: int) -> list[Tensor]:
    return [torch.from_numpy(edge).float() for edge in bin_edges(numeric, bins)]


def extra_terms(
    config: TabularConfig, edges: Sequence[Tensor], fixed: int | None
) -> list[nn.Module]:
    """Detection and reconstruction, where switched on.

    Args:
        config: with `shape` filled.
        edges: of the bins of each numeric feature.
        fixed: width of the fixed target, or None.
    """
    choice, found = config.objective, list[nn.Module]()
    if choice.detection:
        features = geometry(config).num_tokens
        found.append(Detection(config.encoder.dim, features, choice.detection))
    if choice.reconstruction:
        dim = config.encoder.dim if fixed is None else fixed
        if fixed is not None and config.target.handover is not None:
            dim += config.encoder.dim
        levels = config.shape.cardinalities
        found.append(Reconstruction(dim, edges, levels, choice.reconstruction))
    return found


def check(config: TabularConfig) -> None:
    """Complain about choices that exclude each other.

    Raises:
        ValueError: naming them.
    """
    masked, choice = config.mask.kind != "none", config.objective
    if not (choice.detection or choice.reconstruction or config.regulariser.kind != "none") and (
        not masked or not config.loss.weight
    ):
        raise ValueError(
            "nothing to learn from: give mask.kind 'feature' with loss.weight, objective.detection "
            "or objective.reconstruction above 0"
        )
    if choice.reconstruction and not masked:
        raise ValueError("objective.reconstruction needs masks: set mask.kind to 'feature'")
    if choice.detection and not 0 < choice.detection_rate < 1:
        raise ValueError(
            f"objective.detection_rate = {choice.detection_rate}: give a share between 0 and 1"
        )
    for name, value, least in (
        ("objective.detection", choice.detection, 0),
        ("objective.reconstruction", choice.reconstruction, 0),
        ("objective.bins", choice.bins, 2),
        ("tokens.bins", config.tokens.bins, 2),
        ("tokens.frequencies", config.tokens.frequencies, 1),
        ("data.max_levels", config.data.max_levels, 1),
    ):
        if value < least:
            raise ValueError(f"{name} = {value}: give at least {least}")
    for name, bins in (("objective.bins", choice.bins), ("tokens.bins", config.tokens.bins)):
        if bins > MOST_BINS:
            raise ValueError(f"{name} = {bins}: give at most {MOST_BINS:,}")
    if config.encoder.stem != "linear":
        raise ValueError("encoder.stem = 'conv' is for images; tables need 'linear'")
