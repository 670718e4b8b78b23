"""Fixed ECG targets: local responses of random kernels, or the samples; computed or looked up."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jepa_modalities.adapters.ecg.bar import KernelBank, LocalTargets, default_dilations
from jepa_modalities.adapters.ecg.model import by_lead, in_samples
from jepa_modalities.adapters.ecg.source import ECGSource
from jepa_modalities.adapters.ecg.tokenizer import cut
from jepa_modalities.adapters.stamped import read_stamped, write_stamped
from jepa_modalities.core.draw import seeded

FIT_RECORDS = 1000  # recordings that set levels and whitening


class SampleTarget(nn.Module):
    """The samples of each token, normalised per token (masked reconstruction; a control)."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, signals: Tensor) -> Tensor:
        """(batch, leads, samples) -> (batch, tokens, leads * patch)."""
        x = cut(signals, self.patch, by_lead=False)
        return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-2)


class Table(nn.Module):
    """Targets of all training records, computed once; crops begin at token boundaries.

    Args:
        values: of the records one after the other, (tokens of all, dim), half precision.
        time: tokens per crop.
    """

    values: Tensor

    def __init__(self, values: Tensor, time: int) -> None:
        super().__init__()
        self.register_buffer("values", values, persistent=False)
        self.time = time

    def forward(self, first: Tensor) -> Tensor:
        """Number of each crop's first token, (batch,) -> (batch, tokens, dim)."""
        span = torch.arange(self.time, device=first.device)
        return self.values[first[:, None] + span].float()


def sampled_crops(source: ECGSource, count: int, seed: int) -> Tensor:
    """The first crop of up to `count` random training records, normalised."""
    ids = torch.randperm(len(source), generator=seeded(seed, 4, 0))[:count]
    return source.cropped(ids, torch.zeros_like(ids))


def fit_targets(source: ECGSource, folder: Path | None) -> LocalTargets:
    """Kernels and whitening of the target, from the run folder if they were fitted before."""
    choice = source.config.target
    path = None if folder is None else folder / "target.safetensors"
    return fit_local(source, choice.centroids, choice.dim, path, asdict(choice))


def fit_stem(source: ECGSource, folder: Path | None) -> LocalTargets:
    """Kernels and whitening of `encoder.stem = "kernels"`, likewise."""
    choice = source.config.encoder
    path = None if folder is None else folder / "stem.safetensors"
    return fit_local(source, choice.stem_kernels, choice.stem_dim, path, {})


def fit_local(
    source: ECGSource, kernels: int, dim: int, path: Path | None, choice: dict[str, Any]
) -> LocalTargets:
    """Random kernels with levels and whitening of their local responses in training crops."""
    config, dilations = source.config, default_dilations(source.crop)
    patch, seed = in_samples(config, "data.patch", config.data.patch), config.train.seed
    parts = [choice, asdict(config.data), asdict(config.preprocess), seed, kernels, dim]
    settings = json.dumps(parts)
    if (state := read_stamped(path, settings)) is not None:
        bank = KernelBank(kernels, len(config.preprocess.leads), 1, dilations)
        local = LocalTargets(bank, patch, dim)
        local.load_state_dict(state)
        return local
    signals = sampled_crops(source, FIT_RECORDS, seed)
    bank = KernelBank.fit(signals, kernels, dilations=dilations, kind="rocket", seed=seed)
    local = LocalTargets.fit(bank, signals, patch, dim)
    write_stamped(path, local.state_dict(), settings)
    return local


def fixed_target(source: ECGSource, cache: bool, folder: Path | None) -> tuple[nn.Module, int]:
    """The function that `target.kind` names, and its width.

    Raises:
        ValueError: unknown kind, or tokens per lead, for which there is no fixed target.
    """
    config = source.config
    patch = in_samples(config, "data.patch", config.data.patch)
    if by_lead(config):
        raise ValueError(
            f"target.kind = {config.target.kind!r} describes all leads at a time: it needs "
            f"data.tokens = 'joint'"
        )
    function: nn.Module
    if config.target.kind == "kernels":
        function = fit_targets(source, folder)
        width = config.target.dim
    elif config.target.kind == "samples":
        function, width = SampleTarget(patch), len(config.preprocess.leads) * patch
    else:
        raise ValueError(
            f"target.kind = {config.target.kind!r} is not known for ECG; choose 'ema', 'kernels' "
            f"or 'samples'"
        )
    if cache:
        return Table(table(source, function, width, patch), source.crop // patch), width
    return function, width


def table(source: ECGSource, function: nn.Module, width: int, patch: int) -> Tensor:
    """Targets of every whole token of the training records, half precision.

    Returns:
        (tokens of all, width); record n begins at token `token_starts(source, patch)[n]`.
    """
    values = source.values()
    first, last = token_starts(source, patch), int((source.length // patch).sum())
    out = torch.empty(last, width, dtype=torch.float16)
    lengths = source.length.numpy()
    for length in np.unique(lengths):
        for part in torch.from_numpy(np.flatnonzero(lengths == length)).split(64):
            begin = source.ends[part] - source.length[part]
            whole = int(length) // patch * patch
            signals = values[begin[:, None] + torch.arange(whole)].transpose(1, 2)
            place = first[part][:, None] + torch.arange(whole // patch)
            out[place.flatten()] = function(signals).flatten(0, 1).half()
    return out


def token_starts(source: ECGSource, patch: int) -> Tensor:
    """Number of each training record's first token in the table, long, (records,)."""
    counts = source.length // patch
    return counts.cumsum(0) - counts
