"""The bars of tables, features without gradient learning, and the raw columns.

Piecewise-linear inputs, Nystroem features and random-tree leaves on them, at the encoder's width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import RandomTreesEmbedding
from sklearn.kernel_approximation import Nystroem

from jepa_modalities.adapters.tabular.bin import bin_edges, piecewise_linear
from jepa_modalities.adapters.tabular.preprocess import TableArrays
from jepa_modalities.eval.least_squares import ridge_outputs
from jepa_modalities.eval.probes import floats, standardise

Array = NDArray[np.float32]
Map = Callable[[TableArrays], Array]
LEAVES = 8  # per random tree
BINS = (16, 32, 64, 128)  # of piecewise-linear inputs, chosen on validation rows


def one_hot(arrays: TableArrays, cardinalities: tuple[int, ...]) -> Array:
    """Categories as indicator columns, (rows, sum of codes); "unknown" and "missing" have one."""
    out = np.zeros((len(arrays), sum(cardinalities)), dtype=np.float32)
    first = 0
    for codes, count in zip(arrays.category.T, cardinalities, strict=True):
        out[np.arange(len(codes)), first + codes] = 1
        first += count
    return out


def raw_map(train: TableArrays, cardinalities: tuple[int, ...]) -> Map:
    """Scaled numbers with 0 for gaps, one indicator per column that has gaps, one-hot categories.

    Args:
        train: scaled as wanted ("standard", "quantile").
        cardinalities: codes per categorical feature.
    """
    gappy = np.isnan(train.numeric).any(axis=0)

    def apply(arrays: TableArrays) -> Array:
        gaps = np.isnan(arrays.numeric)
        numbers = np.where(gaps, np.float32(0), arrays.numeric)
        parts = [numbers, gaps[:, gappy].astype(np.float32), one_hot(arrays, cardinalities)]
        return np.concatenate(parts, axis=1)

    return apply


def piecewise_map(train: TableArrays, cardinalities: tuple[int, ...], bins: int = 16) -> Map:
    """Piecewise-linear code of each number, indicators for gaps, one-hot categories."""
    edges = bin_edges(train.numeric, bins)
    gappy = np.isnan(train.numeric).any(axis=0)

    def apply(arrays: TableArrays) -> Array:
        gaps = np.isnan(arrays.numeric[:, gappy]).astype(np.float32)
        parts = [piecewise_linear(arrays.numeric, edges), gaps, one_hot(arrays, cardinalities)]
        return np.concatenate(parts, axis=1)

    return apply


def piecewise_maps(
    train: TableArrays, cardinalities: tuple[int, ...], widest: int
) -> dict[int, Map]:
    """`piecewise_map` with 16 bins, and with more as long as it is at most `widest` wide.

    Where a column counts time or place, many bins may tell far more than 16 (electricity:
    benchmarks/README.md).
    """
    first, width = TableArrays(train.numeric[:1], train.category[:1]), 0
    found: dict[int, Map] = {}
    for bins in BINS:
        apply = piecewise_map(train, cardinalities, bins)
        before, width = width, apply(first).shape[1]
        if found and not before < width <= widest:
            break
        found[bins] = apply
    return found


def fit_nystroem(x: Array, width: int, gamma: float, seed: int = 0) -> Callable[[Array], Array]:
    """Nystroem features of a Gaussian kernel on `width` landmark rows (Williams & Seeger 2001).

    Args:
        x: training rows of the input, (rows, columns).
        width: features; the rows where there are fewer.
        gamma: of the kernel, relative to 1 / (twice the total variance of the input).
        seed: of the landmarks.
    """
    scale = gamma / max(2 * float(x.var(axis=0).sum()), 1e-6)
    map_ = Nystroem(gamma=scale, n_components=min(width, len(x)), random_state=seed).fit(x)
    return lambda rows: map_.transform(rows).astype(np.float32)


def fit_trees(
    x: Array, width: int, seed: int = 0, leaves: int = LEAVES
) -> Callable[[Array], Array]:
    """Leaf indicators of totally random trees, about `width` of them (Geurts et al. 2006).

    Args:
        x: training rows of the input, (rows, columns).
        width: features over all trees.
        seed: of the trees.
        leaves: per tree: few make many nearly additive trees, many make few deep ones.
    """
    forest = RandomTreesEmbedding(
        n_estimators=max(round(width / leaves), 1),
        max_depth=None,
        max_leaf_nodes=leaves,
        random_state=seed,
    ).fit(x)
    return lambda rows: forest.transform(rows).astype(np.float32).toarray()


def held_out_error(train: Array, train_y: Array, val: Array, val_y: Array) -> float:
    """Smallest error of a ridge fit over a few penalties: of numbers, or of one-hot classes.

    Args:
        train: (rows, width).
        train_y: (rows, outputs), float.
        val: (validation rows, width).
        val_y: (validation rows, outputs).

    Returns:
        Share of wrong classes with several outputs, else mean squared error.
    """
    x, t = floats(train), floats(val)
    mean, std = standardise(x)
    x, t = (part.sub_(mean).div_(std).float() for part in (x, t))
    guesses = ridge_outputs(x, torch.from_numpy(train_y).double(), t, (1e-3, 1e-2, 1e-1))
    truth = torch.from_numpy(val_y).double()
    if train_y.shape[1] == 1:
        return min(float((guess - truth).square().mean()) for guess in guesses)
    return min(float((g.argmax(1) != truth.argmax(1)).double().mean()) for g in guesses)


def choose(
    candidates: Mapping[str, tuple[Array, Array]], train_y: Array, val_y: Array
) -> tuple[str, dict[str, float]]:
    """The candidate with the smallest `held_out_error` on validation rows, and all errors.

    Args:
        candidates: name -> (training features, validation features).
        train_y: (rows, outputs).
        val_y: (validation rows, outputs).
    """
    errors = {name: held_out_error(x, train_y, v, val_y) for name, (x, v) in candidates.items()}
    return min(errors, key=lambda name: errors[name]), errors
