"""What a run's choices say about a table's encoder, without opening any data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jepa_modalities.adapters.base import Geometry
from jepa_modalities.adapters.outline import Outline
from jepa_modalities.adapters.tabular.config import TabularConfig
from jepa_modalities.adapters.tabular.embedding import FeatureEmbedding
from jepa_modalities.adapters.tabular.masker import FeatureMasker
from jepa_modalities.adapters.tabular.tokenizer import TableTokenizer
from jepa_modalities.core.masking import Masker
from jepa_modalities.core.registry import modalities
from jepa_modalities.data.table import parsed
from jepa_modalities.data.table_file import read_frame, stored

MOST_BINS = 10_000  # of a column; far above any use


def geometry(config: TabularConfig) -> Geometry:
    """Two numbers per token (value and gap), one token per feature."""
    return Geometry(2, (config.shape.numeric + len(config.shape.cardinalities),))


def embedding(config: TabularConfig, edges: Sequence[Tensor] | None = None) -> nn.Module:
    """Weights for every feature.

    Args:
        config: with `shape` filled.
        edges: of piecewise-linear bins; blank ones of the right number where weights are loaded.
    """
    shape = config.shape
    if edges is None and shape.bins:
        if max(shape.bins) > MOST_BINS:
            raise ValueError(f"shape.bins = {shape.bins}: expected at most {MOST_BINS:,} each")
        # On the CPU always: the embedding looks at them, also where only shapes are asked for.
        edges = [torch.arange(count + 1.0, device="cpu") for count in shape.bins]
    return FeatureEmbedding(
        shape.numeric, shape.cardinalities, config.encoder.dim, config.tokens, edges
    )


@modalities.register("tabular")
class TabularModality:
    """Tables without data: what loading and embedding need (see `adapters.base.Modality`)."""

    Config = TabularConfig

    @staticmethod
    def geometry(config: TabularConfig) -> Geometry:
        """Token width and number of features."""
        return geometry(config)

    @staticmethod
    def embedding(config: TabularConfig) -> nn.Module:
        """The first learned layer."""
        return embedding(config)

    @staticmethod
    def outline(config: TabularConfig) -> Outline:
        """Networks and batch of a run, for estimates."""
        from jepa_modalities.adapters.tabular.outline import outline

        return outline(config)

    @staticmethod
    def numbers(config: TabularConfig) -> int:
        """How many the first layer's weights are at least, without building it."""
        bins = config.shape.bins  # every feature's weights are padded to the most
        return len(bins) * max(bins, default=0) * config.encoder.dim

    @staticmethod
    def tokenizer(config: TabularConfig) -> nn.Module:
        """A tokenizer whose preprocessing is filled from the encoder file."""
        return TableTokenizer()

    @staticmethod
    def masker(config: TabularConfig, geometry: Geometry) -> Masker | None:
        """Random subsets of the features; None for the kinds of all modalities."""
        mask = config.mask
        if mask.kind != "feature":
            return None
        return FeatureMasker(
            geometry.num_tokens, mask.context_scale, mask.target_scale, mask.num_targets
        )

    @staticmethod
    def read(config: TabularConfig, raw: Any) -> Any:
        """A user's table as a DataFrame or array of feature columns.

        Args:
            config: of the encoder.
            raw: a path (.csv, .csv.gz, .parquet), a DataFrame or a 2-D array. Target, split and
                dropped columns of the run may be there; they are left out.

        Raises:
            ValueError: a file of another kind.
        """
        import pandas as pd

        data = config.data
        about: dict[str, Any] = {}
        if isinstance(raw, str | Path):
            about, raw = stored(raw), read_frame(raw, config.shape.text)
        if not isinstance(raw, pd.DataFrame):
            return raw
        roles = {data.target or about.get("target"), *data.drop}
        roles.add(data.split or ("split" if about else None))
        frame = raw.drop(columns=[name for name in raw.columns if name in roles])
        return parsed(frame, data.dates).reset_index(drop=True)
