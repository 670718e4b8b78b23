"""TabularJEPAClassifier and TabularJEPARegressor: pretrain on all rows, then learn from labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    RegressorMixin,
    is_classifier,
    is_regressor,
)
from sklearn.utils import assert_all_finite, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _num_samples,
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
)

from jepa_modalities.adapters.tabular.column import as_frame, is_duration, kind_of
from jepa_modalities.adapters.tabular.tokenizer import pack
from jepa_modalities.estimator.given import checked
from jepa_modalities.estimator.head import HEADS, Labels, fine_tuned, fit_on_features
from jepa_modalities.estimator.transformer import POOLINGS, TabularJEPA
from jepa_modalities.train.distributed import pick_device


class _Supervised(BaseEstimator):  # type: ignore[misc]
    """What classifier and regressor share."""

    def __init__(
        self,
        steps: int = 10_000,
        *,
        head: Any = "linear",
        pooling: str = "all_blocks",
        include_inputs: bool = True,
        dim: int = 32,
        depth: int = 2,
        heads: int = 2,
        batch_size: int = 256,
        learning_rate: float = 3e-3,
        categorical: Sequence[str | int] | None = None,
        settings: Mapping[str, Any] | None = None,
        random_state: Any = None,
        device: str = "auto",
        time_limit: float | None = None,
        verbose: bool = False,
    ) -> None:
        self.steps = steps
        self.head = head
        self.pooling = pooling
        self.include_inputs = include_inputs
        self.dim = dim
        self.depth = depth
        self.heads = heads
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.categorical = categorical
        self.settings = settings
        self.random_state = random_state
        self.device = device
        self.time_limit = time_limit
        self.verbose = verbose

    def _labels(self, y: Any) -> Labels:
        raise TypeError("use TabularJEPAClassifier or TabularJEPARegressor")

    def fit(self, X: Any, y: Any, unlabeled: Any = None) -> Self:
        """Pretrain on the rows of `X` and `unlabeled`, then fit the head on `X` and `y`.

        Args:
            X: DataFrame, or array (rows, columns); gaps are NaN or None.
            y: target of the rows of X, (rows,).
            unlabeled: further rows with the same columns.

        Raises:
            ValueError: settings or data that cannot work.
        """
        X = checked(self, X, reset=True)
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None"
            )
        labels = self._labels(y)
        check_consistent_length(X, labels.values)
        random = check_random_state(self.random_state)
        own = {k: v for k, v in self.get_params(deep=False).items() if k != "head"}
        self.transformer_ = TabularJEPA(**{**own, "random_state": random})
        self._check_head()
        if len(labels.values) < 2:
            raise ValueError(
                f"found {len(labels.values)} labelled sample(s) "
                f"(n_samples={len(labels.values)}), at least 2 are needed"
            )
        if labels.classes == 1:
            raise ValueError(f"{type(self).__name__} needs at least 2 classes, y holds one class")
        self.transformer_.fit(X if unlabeled is None else stacked(X, unlabeled))
        seed = int(random.randint(np.iinfo(np.int32).max))
        device = str(pick_device(self.device))
        if self.head == "finetune":
            encoder = self.transformer_.encoder_
            self.head_: Any = fine_tuned(
                encoder.encoder,
                encoder.tokenizer,
                self._packed(X),
                POOLINGS[self.pooling],
                labels,
                seed,
                device,
            )
        else:
            features = self.transformer_.transform(X)
            self.head_ = fit_on_features(self.head, features, labels, seed, device)
        return self

    def _check_head(self) -> None:
        """Complain before the pretraining, not after it."""
        kind, other = "regressor", is_classifier
        if is_classifier(self):
            kind, other = "classifier", is_regressor
        named = isinstance(self.head, str) and self.head in HEADS
        model = hasattr(self.head, "fit") and not isinstance(self.head, type)
        if not named and not (model and not other(self.head)):
            raise ValueError(
                f"head = {self.head!r}: choose from {', '.join(HEADS)}, or give a scikit-learn "
                f"{kind}"
            )

    def _packed(self, X: Any) -> Any:
        preprocess: Any = self.transformer_.encoder_.tokenizer.preprocess
        return pack(preprocess.transform(X))

    def _outputs(self, X: Any) -> NDArray[np.float64]:
        """The head's outputs for new rows, (rows, outputs)."""
        check_is_fitted(self)
        X = checked(self, X, reset=False)
        rows = self._packed(X) if self.head == "finetune" else self.transformer_.transform(X)
        found: NDArray[np.float64] = self.head_(rows)
        return found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        tags.target_tags.required = True
        return tags


class TabularJEPAClassifier(ClassifierMixin, _Supervised):  # type: ignore[misc]
    """Pretrains on all rows, labelled or not, and learns classes from the labelled ones.

    Args:
        steps: optimiser steps of the pretraining; 0 is the untrained control.
        head: "linear" (logistic regression, its penalty by cross-validation), "mlp", "boosting"
            (HistGradientBoosting), "finetune" (the whole encoder learns on), or a scikit-learn
            classifier that gets the features.
        pooling: see `TabularJEPA`, as all that follows.
        include_inputs: on by default here, because heads gain from it; "finetune" does not use it.
        dim: width of a token.
        depth: blocks of the encoder.
        heads: attention heads.
        batch_size: rows per step.
        learning_rate: highest, of the pretraining.
        categorical: columns that are categories whatever their type.
        settings: dotted settings of the recipe `tabular`.
        random_state: fixes everything.
        device: "auto", "cpu" or "cuda".
        time_limit: seconds for the pretraining.
        verbose: show progress.

    Attributes:
        classes_: class labels, ascending.
        transformer_: the fitted `TabularJEPA`.
        head_: the fitted head.
    """

    def _labels(self, y: Any) -> Labels:
        y = known(column_or_1d(y, warn=True))
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        return Labels(codes, len(self.classes_))

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probabilities, (rows, classes), columns as in `classes_`."""
        logits = self._outputs(X)
        share: NDArray[np.float64] = np.exp(logits - logits.max(axis=1, keepdims=True))
        return share / share.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable class of each row, (rows,)."""
        check_is_fitted(self)
        found: NDArray[Any] = self.classes_[self._outputs(X).argmax(axis=1)]
        return found


class TabularJEPARegressor(RegressorMixin, _Supervised):  # type: ignore[misc]
    """Pretrains on all rows, labelled or not, and learns numbers from the labelled ones.

    Args:
        steps: optimiser steps of the pretraining; 0 is the untrained control.
        head: "linear" (ridge, its penalty by leave-one-out), "mlp", "boosting", "finetune", or a
            scikit-learn regressor that gets the features.
        pooling: see `TabularJEPA` and `TabularJEPAClassifier`, as all that follows.
        include_inputs: put piecewise-linear inputs beside the features.
        dim: width of a token.
        depth: blocks of the encoder.
        heads: attention heads.
        batch_size: rows per step.
        learning_rate: highest, of the pretraining.
        categorical: columns that are categories whatever their type.
        settings: dotted settings of the recipe `tabular`.
        random_state: fixes everything.
        device: "auto", "cpu" or "cuda".
        time_limit: seconds for the pretraining.
        verbose: show progress.

    Attributes:
        transformer_: the fitted `TabularJEPA`.
        head_: the fitted head.
    """

    def _labels(self, y: Any) -> Labels:
        y = known(column_or_1d(y, warn=True))
        if y.dtype.kind in "mM":
            raise ValueError(f"y holds {y.dtype}, expected numbers; give seconds or days")
        return Labels(y.astype(np.float64), 0)

    def predict(self, X: Any) -> NDArray[np.float64]:
        """A number for each row, (rows,)."""
        return self._outputs(X)[:, 0]


def known(y: NDArray[Any]) -> NDArray[Any]:
    """Targets, none of them missing or infinite.

    Raises:
        ValueError: some are.
    """
    import pandas as pd

    if y.dtype.kind not in "fc" and (gaps := int(np.sum(pd.isna(y)))):
        raise ValueError(f"y has {gaps} missing values (NaN); give them as `unlabeled` rows")
    assert_all_finite(y, input_name="y")
    kinds = {type(value).__name__ for value in y} if y.dtype == object else set()
    if "str" in kinds and len(kinds) > 1:
        raise ValueError(f"y mixes {', '.join(sorted(kinds))}: give labels of one kind")
    return y


def stacked(first: Any, second: Any) -> Any:
    """Rows of two tables with the same columns, those of the first in front.

    Raises:
        ValueError: columns that differ, or hold another kind of value; names them.
    """
    import pandas as pd

    (a, named), (b, also) = as_frame(first), as_frame(second)
    if named != also or set(a.columns) != set(b.columns):
        lacking, extra = sorted(set(a) - set(b)), sorted(set(b) - set(a))
        raise ValueError(
            f"unlabeled has other columns than X: {lacking} are missing, {extra} are unexpected; "
            f"give both as DataFrames, or both as arrays, with the same columns"
        )
    if not _num_samples(second):
        return first
    for name in a.columns:
        known = [part[name] for part in (a, b) if part[name].notna().any()]
        kinds = ["duration" if is_duration(part) else kind_of(part) for part in known]
        if len(set(kinds)) > 1:
            raise ValueError(
                f"column {name!r} holds {a[name].dtype} ({kinds[0]}) in X and {b[name].dtype} "
                f"({kinds[1]}) in unlabeled; give both as the same kind"
            )
    both = pd.concat([a, b[a.columns]], ignore_index=True)
    return both if named else both.to_numpy()
