"""TabularJEPA: unlabelled rows in, features out, with scikit-learn's contract."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from jepa_modalities.adapters.tabular.column import as_frame
from jepa_modalities.adapters.tabular.tokenizer import pack
from jepa_modalities.estimator.given import check_settings, checked, columns_named
from jepa_modalities.estimator.pretraining import (
    Pretraining,
    configuration,
    in_memory,
    pretrain_table,
)
from jepa_modalities.eval.features import encode, pool
from jepa_modalities.export.encoder import save_encoder
from jepa_modalities.settings import changed

POOLINGS = {
    "all_blocks": "all_tokens",
    "all_blocks_hidden": "all_tokens+all_hidden_tokens",
    "last_block": "tokens",
    "mean_std_max": "mean_std_max",
    "mean": "mean",
}
MOST_OUTPUT = 8e9  # bytes
WORKING = 256e6  # bytes for the rows that are under way
MOST_ROWS = 8192
FEWEST_ROWS = 16  # small products go other ways: one row alone would be rounded otherwise


class TabularJEPA(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Features of table rows, learned without labels by masked latent prediction (T-JEPA).

    `fit` takes rows without a target and predicts, in latent space, some columns of a row from
    others. `transform` gives one vector per row, float32.

    DataFrames may hold numbers, text, categories, booleans, dates and gaps; columns are matched by
    name. Arrays hold numbers (or objects), matched by position.

    Args:
        steps: optimiser steps. The number of steps matters more than any other setting: give at
            least 5,000 (the experiments improve up to 10,000). 0 is the untrained control.
        pooling: "all_blocks" (every token of every block), "all_blocks_hidden" (also what each
            block's MLP computes inside: three times as wide, better under linear heads on the four
            tables tried), "last_block", or the short "mean_std_max" and "mean", for retrieval.
        include_inputs: put the columns' piecewise-linear codes and one-hot levels beside the
            features; a linear head gains from them.
        dim: width of a token.
        depth: blocks of the encoder.
        heads: attention heads.
        batch_size: rows per step.
        learning_rate: highest; 1e-3 is safer for `dim` above 64.
        categorical: columns (names, or numbers for arrays) that are categories whatever their type.
        settings: any setting of the recipe `tabular` by its dotted name, such as
            `{"objective.detection": 0.0}`; wins over the arguments above.
        random_state: fixes everything.
        device: "auto", "cpu" or "cuda".
        time_limit: seconds for pretraining; fewer steps are made where they would take longer.
        verbose: show progress.

    Attributes:
        n_features_in_: columns seen in `fit`.
        feature_names_in_: their names, where they are text.
        encoder_: the pretrained encoder; `save` writes it for `jm embed` and `jm.load`.
        n_steps_: optimiser steps done.
        verdict_: what the collapse monitor said at the end.
        monitor_: its statistics.
    """

    def __init__(
        self,
        steps: int = 10_000,
        *,
        pooling: str = "all_blocks",
        include_inputs: bool = False,
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

    def fit(self, X: Any, y: Any = None) -> Self:
        """Pretrain on rows.

        Args:
            X: DataFrame, or array (rows, columns); gaps are NaN or None.
            y: ignored.

        Raises:
            ValueError: settings or data that cannot work, before anything is trained.
        """
        self._check()
        X = checked(self, X, reset=True)
        frame, named = as_frame(X)
        names = columns_named(self.categorical, list(frame.columns), named)
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        config = configuration(
            {
                "encoder.dim": self.dim,
                "encoder.depth": self.depth,
                "encoder.heads": self.heads,
                "predictor.width": self.dim,
                "predictor.heads": self.heads,
                "target.layers": min(2, max(self.depth, 1)),
                "train.steps": self.steps,
                "train.batch_size": self.batch_size,
                "train.lr": self.learning_rate,
                "train.device": self.device,
                "train.seed": int(seed),
                "data.categorical": names,
            },
            self.settings,
        )
        console = Console() if self.verbose else None
        table = in_memory(frame, names)
        self._keep(pretrain_table(config, table, self.time_limit, console))
        return self

    def _check(self) -> None:
        if not isinstance(self.steps, (int, np.integer)) or self.steps < 0:
            raise ValueError(f"steps = {self.steps!r}: give 0 (untrained) or more")
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling = {self.pooling!r}: choose from {', '.join(POOLINGS)}")
        limit = self.time_limit
        if limit is not None and not (isinstance(limit, Real) and 0 < limit < np.inf):
            raise ValueError(f"time_limit = {limit!r}: give seconds above 0, or None")
        sizes = {name: getattr(self, name) for name in ("dim", "depth", "heads", "batch_size")}
        for name, value in sizes.items():
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name} = {value!r}: give a whole number from 1 on")
        if not isinstance(self.learning_rate, Real) or not 0 < self.learning_rate < np.inf:
            raise ValueError(f"learning_rate = {self.learning_rate!r}: give a number above 0")
        if not str(self.device).startswith(("auto", "cpu", "cuda")):
            raise ValueError(f"device = {self.device!r}: choose from auto, cpu, cuda")
        check_settings(self.settings)

    def _keep(self, found: Pretraining) -> None:
        self.encoder_, self.inputs_ = found.encoder, found.inputs
        self.n_steps_, self.verdict_, self.monitor_ = found.steps, found.verdict, found.monitor

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Features, (rows, width), float32.

        Needs at most 2 GB beside its output, for any number of rows.

        Args:
            X: the columns of `fit`, DataFrames in any order.

        Raises:
            ValueError: columns that are missing or unexpected, or an output above 8 GB.
        """
        check_is_fitted(self)
        X = checked(self, X, reset=False)
        rows, width = len(X), self._n_features_out
        self._check()  # `set_params` may have changed the pooling
        if 4 * rows * width > MOST_OUTPUT:
            raise ValueError(
                f"{rows} rows x {width} features are {4e-9 * rows * width:.1f} GB, more than "
                f"{MOST_OUTPUT / 1e9:.0f} GB. Write the encoder with .save('encoder.safetensors') "
                f"and stream: jm embed encoder.safetensors TABLE --out features.parquet; or choose "
                f"pooling='mean_std_max', or transform fewer rows at a time"
            )
        out = np.empty((rows, width), dtype=np.float32)
        step = self._rows_at_once()
        for start in range(0, rows, step):
            part = X.iloc[start : start + step] if hasattr(X, "iloc") else X[start : start + step]
            try:
                out[start : start + step] = self._features(part)
            except ValueError as error:
                if rows <= step:
                    raise
                stop = min(start + step, rows)
                raise ValueError(f"rows {start} to {stop - 1} of {rows}: {error}") from error
        return out

    @property
    def _n_features_out(self) -> int:
        config, tokens = self.encoder_.config.encoder, len(self.feature_names_)
        every = tokens * config.dim
        width: int = {
            "all_blocks": config.depth * every,
            "all_blocks_hidden": config.depth * (every + tokens * self._hidden),
            "last_block": every,
            "mean_std_max": 3 * config.dim,
            "mean": config.dim,
        }[self.pooling]
        return width + (len(self.inputs_.names) if self.include_inputs else 0)

    @property
    def _hidden(self) -> int:
        """Width inside an MLP."""
        config = self.encoder_.config.encoder
        return round(config.dim * config.mlp_ratio)

    def _rows_at_once(self) -> int:
        """Rows whose activations fit into `WORKING`."""
        config, tokens = self.encoder_.config.encoder, len(self.feature_names_)
        prefixed = tokens + config.num_prefix
        wide = 4 * prefixed * config.dim * (8 + config.depth + 2 * config.mlp_ratio)
        attention = 4 * config.heads * prefixed**2
        shape = self.encoder_.config.shape
        codes = 16 * len(shape.bins) * max(shape.bins, default=0)  # padded to the most bins
        needed = wide + attention + codes + 8 * self._n_features_out
        return int(np.clip(WORKING / needed, 1, MOST_ROWS))

    @torch.inference_mode()
    def _features(self, part: Any) -> NDArray[np.float32]:
        tokenizer: Any = self.encoder_.tokenizer
        arrays = tokenizer.preprocess.transform(part)
        packed = pack(arrays).to(tokenizer.about.device)
        rows = len(packed)
        least = min(FEWEST_ROWS, self._rows_at_once())
        if rows < least:
            packed = packed[torch.arange(least, device=packed.device) % rows]
        name = POOLINGS[self.pooling]
        latents = encode(self.encoder_.encoder, tokenizer(packed), (name,))
        found: NDArray[np.float32] = pool(latents, name)[:rows].float().cpu().numpy()
        if self.include_inputs:
            return np.concatenate([found, self.inputs_(arrays)], axis=1)
        return found

    @property
    def feature_names_(self) -> tuple[str, ...]:
        """The encoder's tokens: columns that vary, parts of dates among them."""
        tokenizer: Any = self.encoder_.tokenizer
        names: tuple[str, ...] = tokenizer.preprocess.feature_names
        return names

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names of the features: `<column>:block<number>:<channel>`, or `mean:<channel>`.

        Activations inside the MLPs are `<column>:hidden<number>:<channel>`.

        Args:
            input_features: for scikit-learn's sake; must be the names of `fit`, or None.
        """
        check_is_fitted(self)
        known = getattr(self, "feature_names_in_", None)
        if input_features is not None:
            given = list(np.asarray(input_features, dtype=object))
            if known is not None and given != list(known):
                raise ValueError("input_features is not equal to feature_names_in_")
            if len(given) != self.n_features_in_:
                raise ValueError(
                    f"input_features should have length equal to number of features "
                    f"({self.n_features_in_}), got {len(given)}"
                )
        return np.asarray(self._names(), dtype=object)

    def _names(self) -> list[str]:
        config = self.encoder_.config.encoder

        def tokens(part: str, width: int) -> list[str]:
            every = [f"{column}:{part}" for column in self.feature_names_]
            return channels(every, width)

        if self.pooling.startswith("all_blocks"):
            blocks = range(config.depth)
            names = [name for n in blocks for name in tokens(f"block{n}", config.dim)]
            if self.pooling.endswith("hidden"):
                names += [n for b in blocks for n in tokens(f"hidden{b}", self._hidden)]
        elif self.pooling == "last_block":
            names = tokens("last", config.dim)
        else:
            names = channels(self.pooling.split("_"), config.dim)
        return names + list(self.inputs_.names if self.include_inputs else ())

    def save(self, path: str | Path) -> None:
        """Write the encoder file that `jm embed` and `jepa_modalities.load` read; no pickle.

        Args:
            path: of a .safetensors file.
        """
        check_is_fitted(self)
        if self.include_inputs:
            warnings.warn(
                f"{path} holds the encoder, not the inputs beside its features: from there they "
                f"are {self._n_features_out - len(self.inputs_.names)} columns wide, not "
                f"{self._n_features_out}",
                stacklevel=2,
            )
        pretrained = self.encoder_
        states = [
            {name: value.cpu() for name, value in part.state_dict().items()}
            for part in (pretrained.encoder, pretrained.tokenizer)
        ]
        config = changed(pretrained.config, {"evaluate.pooling": POOLINGS[self.pooling]})
        save_encoder(Path(path), states[0], states[1], config, "TabularJEPA")

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        if "encoder_" in state:  # a pickle made beside a GPU opens without one
            state["encoder_"] = on_cpu(state["encoder_"])
        return state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        tags.transformer_tags.preserves_dtype = []  # always float32
        return tags


def channels(parts: Sequence[str], width: int) -> list[str]:
    """`<part>:<channel>`, parts slowest."""
    return [f"{part}:{channel}" for part in parts for channel in range(width)]


def on_cpu(module: torch.nn.Module) -> torch.nn.Module:
    """The module itself where it is on the CPU, else a copy there."""
    first = next(module.parameters(), None)
    if first is None or first.device.type == "cpu":
        return module
    return copy.deepcopy(module).cpu()
