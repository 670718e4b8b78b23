"""Tables and the features of every arm of `tabular_suite.py`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_modalities.adapters.tabular.bar import (
    choose,
    fit_nystroem,
    fit_trees,
    piecewise_map,
    piecewise_maps,
    raw_map,
)
from jepa_modalities.adapters.tabular.evaluator import CHOICE_ROWS, GAMMAS, LEAVES
from jepa_modalities.adapters.tabular.preprocess import TableArrays, TablePreprocess
from jepa_modalities.data.table import Table, open_table
from jepa_modalities.estimator.transformer import TabularJEPA
from jepa_modalities.export.encoder import load_encoder

Array = NDArray[Any]
Triple = tuple[Array, Array, Array]  # training, validation, scored rows
TABLES = (
    "adult",
    "california",
    "jannis_part",
    "higgs_small_part",
    "electricity",
    "bank",
    "credit_default",
    "diamonds",
    "abalone",
)
# Their test rows were seen while the method was developed; the others confirm.
SEEN = ("adult", "california", "jannis_part", "higgs_small_part", "electricity")


def data_root() -> Path:
    """Folder of the stored tables: $JEPA_DATA, or ../shared/data beside a clone."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("JEPA_DATA", beside)) / "tabular"


@dataclass(frozen=True)
class Variant:
    """A learned arm.

    Attributes:
        name: of the arm.
        steps: of the pretraining.
        settings: dotted settings of the recipe `tabular`.
        arguments: of `TabularJEPA`.
    """

    name: str
    steps: int
    settings: Mapping[str, Any]
    arguments: Mapping[str, Any]


class Data:
    """One table, its labelled splits, and the features of any arm, each made when it is asked for.

    Args:
        name: of a stored table.
        score: split whose rows are scored: "val" to develop, "test" once.
        limit: rows per split, for quick checks; None for all.
    """

    def __init__(self, name: str, score: str, limit: int | None = None) -> None:
        self.name, self.score = name, score
        self.table: Table = open_table(str(data_root() / f"{name}.csv.gz"))
        assert self.table.target is not None
        self.regression = self.table.task == "regression"
        draw = np.random.default_rng(0)
        found = [self.table.rows(split, True) for split in ("train", "val", score)]
        self.rows = [np.sort(draw.permutation(r)[:limit]) for r in found]
        if score == "val":
            self.rows[2] = self.rows[1]
        self.y, self.val_y, self.truth = (self.table.target[r] for r in self.rows)

    def frame(self, part: int) -> Any:
        """Columns of the training (0), validation (1) or scored (2) rows."""
        return self.table.frame.iloc[self.rows[part]]

    def preprocess(self, method: str) -> TablePreprocess:
        """Fitted on the training rows."""
        return TablePreprocess.fit(self.frame(0), method, self.table.categorical)

    def arrays(self, process: TablePreprocess) -> tuple[TableArrays, TableArrays, TableArrays]:
        """Preprocessed rows of the three parts."""
        return tuple(process.transform(self.frame(part)) for part in range(3))  # type: ignore[return-value]

    def outputs(self, y: Array) -> Array:
        """Targets for ridge regression: (rows, 1), or one-hot (rows, classes)."""
        if self.regression:
            return y[:, None].astype(np.float64)
        return (y[:, None] == np.unique(self.y)).astype(np.float64)

    def raw(self, method: str) -> Triple:
        """Scaled numbers, indicators of gaps, one-hot categories."""
        process = self.preprocess(method)
        parts = self.arrays(process)
        apply = raw_map(parts[0], process.cardinalities)
        return apply(parts[0]), apply(parts[1]), apply(parts[2])

    def columns(self) -> tuple[Triple, list[int]]:
        """For trees: numbers (gaps below all of them), category codes; which columns are codes."""
        process = self.preprocess("standard")
        made = []
        for part in self.arrays(process):
            numbers = np.nan_to_num(part.numeric, nan=-1e6)
            made.append(np.concatenate([numbers, part.category.astype(np.float32)], axis=1))
        first = len(process.numeric_names)
        codes = [
            first + n for n, count in enumerate(process.cardinalities) if count <= 255
        ]  # more levels than histogram bins: as numbers
        return (made[0], made[1], made[2]), codes

    @cached_property
    def piecewise(self) -> Triple:
        """Piecewise-linear inputs of 16 bins, which kernels and trees see."""
        parts, cardinalities = self.quantiles
        apply = piecewise_map(parts[0], cardinalities)
        return apply(parts[0]), apply(parts[1]), apply(parts[2])

    @cached_property
    def quantiles(self) -> tuple[tuple[TableArrays, TableArrays, TableArrays], tuple[int, ...]]:
        """Quantile-normal numbers and codes of the three parts, and the codes of each category."""
        process = self.preprocess("quantile")
        return self.arrays(process), process.cardinalities

    @cache  # noqa: B019 - lives as long as the table
    def finest(self, widest: int) -> Triple:
        """Piecewise-linear inputs with as many bins as the validation rows choose."""
        parts, cardinalities = self.quantiles
        maps = piecewise_maps(parts[0], cardinalities, widest)
        made = {str(bins): tuple(apply(part) for part in parts) for bins, apply in maps.items()}
        tried = {name: (part[0], part[1]) for name, part in made.items()}
        return made[choose(tried, self.outputs(self.y), self.outputs(self.val_y))[0]]  # type: ignore[return-value]

    def _chosen(self, values: Sequence[float], fit: Callable[[Array, float], Any]) -> float:
        """The value whose features, few of them, tell the validation rows best."""
        x, v, _ = self.piecewise
        rows = np.random.default_rng(0).permutation(len(x))[:CHOICE_ROWS]
        tried = {}
        for value in values:
            apply = fit(x[rows], value)
            tried[str(value)] = (apply(x[rows]), apply(v))
        y = self.outputs(self.y)
        return float(choose(tried, y[rows], self.outputs(self.val_y))[0])

    @cached_property
    def gamma(self) -> float:
        """Of the Nystroem kernel, chosen on validation rows."""
        return self._chosen(GAMMAS, lambda x, value: fit_nystroem(x, 256, value, 0))

    @cached_property
    def leaves(self) -> int:
        """Per random tree, chosen on validation rows."""
        return int(
            self._chosen(LEAVES, lambda x, value: fit_trees(x, 256, seed=0, leaves=int(value)))
        )

    def bar(self, kind: str, width: int, seed: int) -> Triple:
        """`ple`, at most twice as wide as the encoder; `nystroem` or `trees`, as wide."""
        if kind == "ple":
            return self.finest(2 * width)
        x = self.piecewise[0]
        fit: Callable[[Array], Array]
        fit = (
            fit_nystroem(x, width, self.gamma, seed)
            if kind == "nystroem"
            else fit_trees(x, width, seed=seed, leaves=self.leaves)
        )
        return fit(x), fit(self.piecewise[1]), fit(self.piecewise[2])

    def encoder(self, variant: Variant, seed: int, device: str, keep: Path) -> tuple[Triple, Any]:
        """Features of a pretrained (or untrained) encoder, and facts about it; both are kept.

        Weights do not depend on what is scored: what validation rows have chosen among is not
        trained again for the test rows.

        Args:
            variant: what is trained.
            seed: of the pretraining.
            device: where.
            keep: file without ending; `.safetensors` holds the encoder, `.json` the facts,
                `--val.npz` and `--test.npz` the features.
        """
        if variant.arguments.get("include_inputs"):
            raise SystemExit("include_inputs: read the arm NAME+ple instead, it is the same")
        # Not `with_suffix`: a variant may be called vicreg_0.1.
        weights, about = (keep.with_name(keep.name + end) for end in (".safetensors", ".json"))
        place = keep.with_name(f"{keep.name}--{self.score}.npz")
        if not about.exists():
            model = TabularJEPA(
                variant.steps,
                settings=dict(variant.settings),
                random_state=seed,
                device=device,
                **variant.arguments,
            ).fit(self.frame(0))
            keep.parent.mkdir(parents=True, exist_ok=True)
            model.save(weights)
            facts = {"verdict": model.verdict_, "steps": model.n_steps_, **model.monitor_}
            about.write_text(json.dumps(facts, default=str))
        if not place.exists():
            made = load_encoder(weights)
            parts = [made.embed(self.frame(part), batch_size=2048) for part in range(3)]
            keep_features(place, parts)
        return kept_features(place), json.loads(about.read_text())


def keep_features(place: Path, parts: Sequence[Array]) -> None:
    """Write the features of the three parts, atomically."""
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_suffix(".writing.npz")
    np.savez(temporary, *parts)
    os.replace(temporary, place)


def kept_features(place: Path) -> Triple:
    """What `keep_features` wrote."""
    with np.load(place) as file:
        return file["arr_0"], file["arr_1"], file["arr_2"]


def side_by_side(first: Triple, second: Triple) -> Triple:
    """Both blocks of columns; heads standardise every column."""
    a, b, c = (np.concatenate(pair, axis=1) for pair in zip(first, second, strict=True))
    return a, b, c


def parse_variant(text: str, steps: int) -> Variant:
    """`NAME`, or `NAME:key=value;key=value`, values as Python literals.

    A key with a dot is a setting of the recipe, one without an argument of `TabularJEPA`; `steps`
    is the number of steps of this variant.

    Raises:
        SystemExit: a name that files and arms side by side cannot have.
    """
    import ast

    name, _, rest = text.partition(":")
    if not name or set(name) & set("+/") or "--" in name:
        raise SystemExit(f"--variant {text!r}: give a name without '+', '/' and '--' before ':'")
    settings: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    for item in filter(None, rest.split(";")):
        key, _, value = item.partition("=")
        try:
            found = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found = value
        (settings if "." in key else arguments)[key.strip()] = found
    return Variant(name, int(arguments.pop("steps", steps)), settings, arguments)


def untrained(variant: Variant) -> Variant:
    """The control of a variant: the same encoder before its first step."""
    return Variant("untrained", 0, variant.settings, variant.arguments)
