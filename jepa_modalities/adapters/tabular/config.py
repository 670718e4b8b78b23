"""The choices that only tables have."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jepa_modalities.config import RunConfig


@dataclass(frozen=True)
class TableData:
    """Where the table comes from and what its columns mean."""

    path: str = ""
    """.csv, .csv.gz or .parquet; a folder of Parquet files, a pattern, or several joined by commas;
    'breast_cancer' for scikit-learn's bundled table"""
    target: str = ""
    """column that probes predict, no part of pretraining; empty: none, or a stored table's own"""
    split: str = ""
    """column with 'train', 'val' and 'test'; empty: a stored table's own, or drawn 64 / 16 / 20"""
    task: Literal["auto", "classification", "regression"] = "auto"
    """what the target is; auto: regression for more than 20 different numbers"""
    categorical: tuple[str, ...] = ()
    """columns that are categories whatever their type; text always is"""
    dates: tuple[str, ...] = ()
    """text columns that hold dates"""
    drop: tuple[str, ...] = ()
    """columns to leave out"""
    numeric: Literal["quantile", "standard", "robust"] = "quantile"
    """scale of numeric columns: quantile to normal, standard, or robust with soft clipping"""
    max_levels: int = 256
    """the most frequent levels of a category that are told apart"""
    resident: float = 2.0
    """GiB of memory; Parquet files that would need more are streamed, for pretraining only"""
    score: Literal["test", "val"] = "test"
    """rows that the probes are scored on; develop on val"""


@dataclass(frozen=True)
class TokenConfig:
    """How a column becomes a token."""

    numeric: Literal["linear", "ple", "periodic"] = "linear"
    """embedding of numbers; the recipes take 'ple' (piecewise-linear), `tabular_paper` 'linear'"""
    bins: int = 128
    """of piecewise-linear embeddings, at most; fewer where rows or different quantiles are fewer"""
    frequencies: int = 24
    """of periodic embeddings"""
    frequency_scale: float = 0.1
    """standard deviation of the frequencies at the start"""
    kind: bool = False
    """add a learned vector for numeric and one for categorical tokens, where both occur"""


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is learned beside (or instead of) latent prediction; weights, 0 = off.

    Latent prediction itself is switched off with loss.weight 0, the masks with mask.kind none.
    """

    detection: float = 0.0
    """tell which values were replaced by others of their column"""
    detection_rate: float = 0.5
    """share of the values that are replaced"""
    reconstruction: float = 0.0
    """tell the bin or the level of hidden values"""
    bins: int = 16
    """of that, of fixed targets, and of the inputs that may stand beside the features"""


@dataclass(frozen=True)
class TableShape:
    """What the data say about the encoder's size; filled when they are opened, not a choice."""

    numeric: int = 8
    """numeric features"""
    cardinalities: tuple[int, ...] = ()
    """codes of each categorical feature"""
    bins: tuple[int, ...] = ()
    """bins of each numeric feature, for piecewise-linear tokens"""
    text: tuple[str, ...] = ()
    """columns whose levels are read as they are spelled, whatever the rows of a file look like"""


@dataclass(frozen=True)
class TabularConfig(RunConfig):
    """A run on a table."""

    modality: str = "tabular"
    data: TableData = field(default_factory=TableData)
    tokens: TokenConfig = field(default_factory=TokenConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    shape: TableShape = field(default_factory=TableShape)
    """filled from the data"""
