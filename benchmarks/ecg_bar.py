"""Our random kernels against aeon's MiniRocket and ROCKET, same records, same probe, same run.

`python benchmarks/ecg_bar.py FILE.h5 [--fold 9]` prints macro AUC and seconds of each. FILE is made
by `jm prepare ptbxl`; C is chosen on the fold before the scored one. aeon is optional.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from jepa_modalities.adapters.ecg.bar import KernelBank
from jepa_modalities.adapters.ecg.preprocess import PreprocessConfig, crops
from jepa_modalities.adapters.ecg.task import task_labels
from jepa_modalities.data.ecg.file import open_records
from jepa_modalities.eval.macro_auc import macro_auc
from jepa_modalities.eval.multilabel import linear_multilabel

Features = Callable[[NDArray[Any], NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]]


def ours(kind: str, kernels: int, levels: int = 1) -> Features:
    """Kernels of this library."""

    def make(train: NDArray[Any], held: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        x, t = torch.from_numpy(train), torch.from_numpy(held)
        bank = KernelBank.fit(x, kernels, levels, kind=kind)
        return bank.features(x).numpy(), bank.features(t).numpy()

    return make


def theirs(name: str, kernels: int) -> Features | None:
    """A transformer of aeon, or None where aeon is not installed."""
    try:
        from aeon.transformations.collection import convolution_based
    except ImportError:
        return None

    def make(train: NDArray[Any], held: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        maker = getattr(convolution_based, name)(n_kernels=kernels, random_state=0)
        return np.asarray(maker.fit_transform(train)), np.asarray(maker.transform(held))

    return make


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--fold", type=int, default=9, help="scored; C is chosen on the one before")
    parser.add_argument("--unit", default="NU", help="of the signals: mV or NU")
    own = parser.parse_args()
    records = open_records(own.file)
    task = task_labels(records, "superdiagnostic")
    if task is None:
        raise SystemExit(f"{own.file} holds no SCP statements")
    config = PreprocessConfig(fs=100.0, unit=own.unit, normalise="record")
    signals = crops(records, np.arange(len(records)), 0, 1000, config)
    signals = np.nan_to_num(signals).clip(-5, 5).astype(np.float32)
    fold = records.fold
    train, valid, test = fold < own.fold - 1, fold == own.fold - 1, fold == own.fold
    train, valid, test = (part & task.rows for part in (train, valid, test))
    held = np.r_[np.flatnonzero(valid), np.flatnonzero(test)]
    rows: list[tuple[str, Features | None]] = [
        ("ours rocket 1008", ours("rocket", 1008)),
        ("ours minirocket 1008", ours("minirocket", 1008)),
        ("aeon MiniRocket 1008", theirs("MiniRocket", 1008)),
        ("aeon MiniRocket 9996", theirs("MiniRocket", 9996)),
        ("aeon Rocket 1000", theirs("Rocket", 1000)),
    ]
    print(f"{train.sum()} records to learn from, {valid.sum()} for C, {test.sum()} scored")
    for name, make in rows:
        if make is None:
            print(f"{name:<22} aeon is not installed")
            continue
        start = time.perf_counter()
        x, t = make(signals[train], signals[held])
        seconds = time.perf_counter() - start
        others = [t[: valid.sum()], t[valid.sum() :]]
        scores, c = linear_multilabel(x, task.labels[train], others, task.labels[valid])
        area = macro_auc(task.labels[test], scores[1])
        print(f"{name:<22} macro AUC {area:.4f}  C {c:g}  width {x.shape[1]}  {seconds:.1f} s")


if __name__ == "__main__":
    main()
