"""What every head is given and what it returns; test labels are in neither."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_modalities.eval.probes import floats, standardise

Array = NDArray[Any]


@dataclass(frozen=True)
class Task:
    """Features and labels of one comparison.

    Attributes:
        train_x: (rows, width); heads are fitted on these rows only.
        train_y: (rows,), labels of any dtype, or numbers for regression.
        val_x: (validation rows, width), for every choice and for early stopping.
        val_y: (validation rows,).
        test_x: (test rows, width); enters the last prediction only.
        regression: numbers instead of classes.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, fewer than two classes, or
            validation labels that no training row has.
    """

    train_x: Array
    train_y: Array
    val_x: Array
    val_y: Array
    test_x: Array
    regression: bool = False

    def __post_init__(self) -> None:
        width = self.train_x.shape[-1]
        for name in ("train_x", "val_x", "test_x"):
            x = getattr(self, name)
            if x.ndim != 2 or not x.size or x.shape[1] != width:
                raise ValueError(f"{name} has shape {x.shape}; expected (rows, {width}), not empty")
            if not np.isfinite(x).all():
                raise ValueError(f"{name} holds NaN or infinite values; impute them before")
        for name, rows in (("train_y", len(self.train_x)), ("val_y", len(self.val_x))):
            y = getattr(self, name)
            if y.shape != (rows,):
                raise ValueError(f"{name} has shape {y.shape}; expected one per row, ({rows},)")
        if self.regression:
            if not (np.isfinite(self.train_y).all() and np.isfinite(self.val_y).all()):
                raise ValueError("train_y or val_y holds numbers that are not finite; drop them")
            return
        if len(self.classes) < 2:
            raise ValueError("train_y holds one class; a head needs at least 2")
        if unknown := set(np.unique(self.val_y).tolist()) - set(self.classes.tolist()):
            raise ValueError(f"val_y holds classes {sorted(unknown)} that train_y does not have")

    @property
    def classes(self) -> Array:
        """Class labels, ascending."""
        found: Array = np.unique(self.train_y)
        return found

    def codes(self, labels: Array) -> NDArray[np.int64]:
        """Class numbers, (rows,)."""
        return np.searchsorted(self.classes, labels).astype(np.int64)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Training, validation and test features standardised by the training rows, float32."""
        train = floats(self.train_x)
        mean, std = standardise(train)
        parts = [train, floats(self.val_x), floats(self.test_x)]
        made = [part.to(train.dtype).sub_(mean).div_(std).float() for part in parts]
        return made[0], made[1], made[2]

    def targets(self) -> tuple[Tensor, Tensor, float, float]:
        """Training and validation targets with their mean and spread.

        Class numbers (rows,) with 0 and 1; or numbers standardised by the training rows, float32.
        """
        if not self.regression:
            codes = [torch.from_numpy(self.codes(y)) for y in (self.train_y, self.val_y)]
            return codes[0], codes[1], 0.0, 1.0
        y = self.train_y.astype(np.float64)
        mean, std = float(y.mean()), float(y.std()) or 1.0
        scaled = [
            torch.from_numpy((part.astype(np.float64) - mean) / std).float()
            for part in (self.train_y, self.val_y)
        ]
        return scaled[0], scaled[1], mean, std


@dataclass(frozen=True)
class Predictions:
    """What a head returns.

    Attributes:
        val: (seeds, rows, classes) probabilities, or (seeds, rows) numbers in the target's unit.
        test: the same for the test rows.
        chosen: the settings that the validation rows have chosen.
        seconds: wall-clock time of all seeds.
    """

    val: NDArray[np.float64]
    test: NDArray[np.float64]
    chosen: dict[str, Any]
    seconds: float


Head = Callable[..., Predictions]
