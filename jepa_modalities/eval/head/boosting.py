"""Gradient-boosted trees from scikit-learn, with its defaults."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from jepa_modalities.eval.head.task import Predictions, Task


def boosting(
    task: Task,
    seeds: Sequence[int] = (0,),
    categorical: Sequence[int] = (),
    iterations: Sequence[int] = (100,),
) -> Predictions:
    """HistGradientBoosting on the features as they are.

    Args:
        task: features and labels.
        seeds: of the binning's subsample.
        categorical: columns that hold category codes, below 255 each.
        iterations: numbers of trees among which the validation rows choose; 100 is the default.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    start = time.perf_counter()
    kind: Any = HistGradientBoostingRegressor if task.regression else HistGradientBoostingClassifier
    val, test, chosen = [], [], []
    for seed in seeds:
        tried = []
        for count in iterations:
            model = kind(
                max_iter=count,
                random_state=seed,
                early_stopping=False,
                categorical_features=list(categorical) or None,
            )
            model.fit(task.train_x, task.train_y)
            outputs = predicted(model, task.val_x, task.regression)
            tried.append((_loss(outputs, task), count, model, outputs))
        _, count, model, outputs = min(tried, key=lambda item: item[:2])
        val.append(outputs)
        test.append(predicted(model, task.test_x, task.regression))
        chosen.append(count)
    seconds = time.perf_counter() - start
    return Predictions(np.stack(val), np.stack(test), {"iterations": chosen}, seconds)


def predicted(model: Any, x: Any, regression: bool) -> Any:
    """Numbers (rows,), or probabilities (rows, classes)."""
    return model.predict(x) if regression else model.predict_proba(x)


def _loss(outputs: Any, task: Task) -> float:
    if task.regression:
        return float(np.square(outputs - task.val_y).mean())
    own = outputs[np.arange(len(outputs)), task.codes(task.val_y)]
    return float(-np.log(np.maximum(own, 1e-12)).mean())
