"""The ECG adapter: opens recordings, makes batches on the device, names targets and scores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jepa_modalities.adapters.base import Plan, build_masker
from jepa_modalities.adapters.ecg.augment import changed_leads, starts
from jepa_modalities.adapters.ecg.config import ECGConfig
from jepa_modalities.adapters.ecg.embedding import KernelStem
from jepa_modalities.adapters.ecg.model import ECGModality, by_lead, geometry, in_samples
from jepa_modalities.adapters.ecg.source import ECGSource
from jepa_modalities.adapters.ecg.target import fit_stem, fixed_target, token_starts
from jepa_modalities.adapters.ecg.tokenizer import ECGTokenizer
from jepa_modalities.core.batch import Batch, Tokens
from jepa_modalities.core.draw import Blocks, Draw
from jepa_modalities.core.masking import Masker, Masks
from jepa_modalities.core.registry import adapters
from jepa_modalities.data.ahead import read_ahead
from jepa_modalities.data.ecg.records import ECGRecords

AHEAD = 3  # batches that are read while the device works on another one
BLOCK, WINDOW = 256, 2**14  # recordings that lie together, and that are mixed
MONITORED = 1000  # recordings of the collapse monitor


@adapters.register("ecg")
class ECGAdapter:
    """ECGs for JEPA (see `adapters.base.Adapter`).

    Args:
        config: of the run.
        folder: run folder, where fitted kernels are kept for resuming; None for nowhere.
        records: recordings in memory instead of those that `data.path` names.

    Raises:
        ValueError: data or choices that cannot work, before anything is trained.
    """

    def __init__(
        self, config: ECGConfig, folder: Path | None = None, records: ECGRecords | None = None
    ) -> None:
        self.config, self.folder = config, folder
        if config.views not in (0, 2):
            raise ValueError(f"views = {config.views}: two-view terms need 2, others 0")
        if config.encoder.stem != "linear" and config.mask.kind != "none":
            raise ValueError(
                f"encoder.stem = {config.encoder.stem!r} lets hidden samples leak into visible "
                f"tokens; use 'linear' with masked prediction"
            )
        self.geometry = geometry(config)
        build_masker(config, self.geometry)  # impossible masks are told before data are read
        self.patch = in_samples(config, "data.patch", config.data.patch)
        if config.evaluate.enabled:
            from jepa_modalities.adapters.ecg.evaluator import check

            check(config)
        self.source = ECGSource(config, records)
        self.tokenizer = ECGTokenizer(self.source.preprocess, self.patch, by_lead(config))
        self._target: tuple[nn.Module, int] | None = None
        self._stem: nn.Module | None = None
        # Truth, class names and scores of the last evaluation, for its ROC curves.
        self.scored: tuple[Any, tuple[str, ...], dict[str, Any]] | None = None
        if config.evaluate.enabled:
            from jepa_modalities.adapters.ecg.evaluator import check_data

            check_data(self)

    def __len__(self) -> int:
        return len(self.source)

    def adopt(self, tokenizer: ECGTokenizer, encoder: nn.Module, config: ECGConfig) -> None:
        """Take over the constants of a trained encoder's tokenizer."""
        self.tokenizer, self.source.preprocess = tokenizer, tokenizer.preprocess

    @property
    def blocks(self) -> Blocks | None:
        """Recordings that follow each other in the file, where they are not in memory."""
        if self.source.resident:
            return None
        full, rest = divmod(len(self), BLOCK)
        return Blocks(torch.tensor([BLOCK] * full + [rest] * bool(rest)), WINDOW)

    def embedding(self) -> nn.Module:
        """The first layer; random kernels are fitted to the training records, once."""
        stem = ECGModality.embedding(self.config)
        if isinstance(stem, KernelStem):
            if self._stem is None:
                self._stem = fit_stem(self.source, self.folder)
            stem.local.load_state_dict(self._stem.state_dict())
        return stem

    @property
    def caches(self) -> bool:
        """Whether the fixed target is read from a table instead of computed per batch."""
        target = self.config.target
        return target.kind != "ema" and target.cache and self.source.resident

    def target(self) -> tuple[nn.Module, int] | None:
        """The fixed target that `target.kind` names, or None."""
        if self.config.target.kind == "ema":
            return None
        if self._target is None:
            self._target = fixed_target(self.source, self.caches, self.folder)
        return self._target

    def feed(
        self, plan: Plan, masker: Masker | None, device: torch.device
    ) -> Iterator[tuple[Batch, Masks | None]]:
        """Batches and masks on `device`; crops that are not in memory are read ahead."""
        self.tokenizer.to(device)
        if self.source.resident:
            for ids, draw in plan:
                yield self._moved(self._cpu(ids, draw, masker), device)
            return

        def read(item: tuple[Tensor, Draw]) -> dict[str, Any]:
            return self._cpu(*item, masker)

        for found in read_ahead(plan, read, AHEAD):
            yield self._moved(found, device)

    def _cpu(self, ids: Tensor, draw: Draw, masker: Masker | None) -> dict[str, Any]:
        """Everything random and everything read, in a fixed order; normalised crops on the CPU."""
        config, source = self.config, self.source
        masks = None if masker is None else draw.masks(masker)
        if config.data.weights:
            ids = source.drawn(ids, draw)
        room = source.length[ids] - source.crop
        found: dict[str, Any] = {"masks": masks, "ids": ids, "views": []}
        if config.mask.kind != "none":
            start = starts(draw, room, self.patch if self.caches else 1)
            clean = source.cropped(ids, start)
            found["clean"], found["seen"] = clean, changed_leads(clean, config.augment, draw)
            if self.caches:
                found["raw"] = token_starts(source, self.patch)[ids] + start // self.patch
            elif config.target.kind != "ema":
                found["raw"] = clean
        for _ in range(config.views):
            view = source.cropped(ids, starts(draw, room))
            found["views"].append(changed_leads(view, config.view_augment, draw))
        return found

    def _moved(self, found: dict[str, Any], device: torch.device) -> tuple[Batch, Masks | None]:
        def tokens(values: Tensor) -> Tokens:
            return self.tokenizer.tokens(values.to(device, non_blocking=True))

        views = tuple(tokens(view) for view in found["views"])
        context = target = views[0] if views else None
        if "clean" in found:
            target = tokens(found["clean"])
            context = target if found["seen"] is found["clean"] else tokens(found["seen"])
        assert context is not None and target is not None
        raw = found.get("raw")
        raw = None if raw is None else raw.to(device, non_blocking=True)
        masks = found["masks"]
        batch = Batch(context, target, views, raw=raw, ids=found["ids"])
        return batch, None if masks is None else masks.to(device)

    def monitor(self) -> tuple[Tokens, Tensor | None]:
        """The first crop of up to 1,000 records for choices, labelled by their set of classes."""
        source = self.source
        rows = source.splits.valid
        rows = rows[source.samples[rows] >= source.crop][:MONITORED]
        if len(rows) < 4:  # nothing to watch there
            rows = source.rows[:MONITORED]
        raw = source.raw(rows, source.crop)
        values = source.preprocess.cpu()(raw, source.group[torch.from_numpy(rows)]).values
        device = self.tokenizer.preprocess.mean.device
        tokens = self.tokenizer.tokens(values.to(device))
        labels = self._monitor_labels(rows)
        return tokens, labels

    def _monitor_labels(self, rows: np.ndarray[Any, Any]) -> Tensor | None:
        from jepa_modalities.adapters.ecg.task import task_labels

        found = task_labels(self.source.records, self.config.evaluate.task)
        if found is None:
            return None
        sets = np.unique(found.labels[rows], axis=0, return_inverse=True)[1]
        return torch.from_numpy(sets.reshape(-1)).long()

    def evaluate(self, encoders: dict[str, list[nn.Module]], run: Path) -> dict[str, float]:
        """Score the encoders beside raw samples and random kernels."""
        from jepa_modalities.adapters.ecg.evaluator import evaluate

        return evaluate(self, encoders, run)

    def pictures(self, encoders: dict[str, list[nn.Module]]) -> dict[str, Any]:
        """Masked spans, attention over time, neighbours and ROC curves for the report."""
        from jepa_modalities.adapters.ecg.picture import pictures

        return pictures(self, encoders)
