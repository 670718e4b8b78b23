"""Search settings for a table with Optuna: one search sees no label, one sees validation labels.

    python benchmarks/tabular_search.py label_free --table california --trials 20
    python benchmarks/tabular_search.py validation_labels --table california --trials 20

`label_free` maximises how much of a hidden column the features of the OTHER columns tell a ridge
regression on held-out rows, averaged over columns: neither the loss nor RankMe orders settings by
their use (see docs/tabular.md). `validation_labels` maximises a linear head's score on the
validation rows. Test rows are never read. `--out` is written after each trial, and a search that
broke off goes on from it with the same draws.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evidence import about
from tabular_arm import TABLES, Data
from tabular_summary import score_cell

from jepa_modalities.estimator.transformer import TabularJEPA
from jepa_modalities.eval.head.linear import fit_ridge, linear
from jepa_modalities.eval.head.task import Task
from jepa_modalities.train.checkpoint import write_json

MOST_COLUMNS = 8  # hidden one after the other
ASKED = ("objective", "table", "steps", "seed", "limit", "device")


def suggest(trial: Any, steps: int, device: str) -> TabularJEPA:
    """An estimator with the trial's settings."""
    low = trial.suggest_float("context_low", 0.1, 0.5)
    high = trial.suggest_float("context_high", 0.5, 0.95)
    dim = trial.suggest_categorical("dim", [16, 32, 64])
    settings = {
        "mask.context_scale": (low, high),
        "mask.target_scale": (0.2, trial.suggest_float("target_high", 0.2, 0.6)),
        "objective.detection": trial.suggest_categorical("detection", [0.0, 0.5, 1.0]),
        "objective.reconstruction": trial.suggest_categorical("reconstruction", [0.0, 0.5]),
        "tokens.numeric": trial.suggest_categorical("tokens", ["linear", "ple"]),
    }
    return TabularJEPA(
        steps,
        dim=dim,
        depth=trial.suggest_int("depth", 1, 4),
        learning_rate=trial.suggest_float("learning_rate", 3e-4, 6e-3, log=True),
        settings=settings,
        random_state=0,
        device=device,
    )


def label_free(model: TabularJEPA, data: Data) -> float:
    """Explained share of hidden columns on validation rows, mean over columns; higher is better.

    A column is hidden by giving every row its median or most frequent level, so what the features
    know of it comes from the others.
    """
    frame, val = data.frame(0), data.frame(1)
    numeric = [n for n in frame.columns if frame[n].dtype.kind == "f"][:MOST_COLUMNS]
    shares = []
    for name in numeric:
        middle = frame[name].median()
        x, v = (model.transform(part.assign(**{name: middle})) for part in (frame, val))
        known, there = frame[name].notna().to_numpy(), val[name].notna().to_numpy()
        y, truth = (
            frame[name].rank().to_numpy(),
            np.searchsorted(np.sort(frame[name].dropna()), val[name]),
        )
        guess = fit_ridge(x[known], y[known])(v[there])[:, 0]
        error = np.square(guess - truth[there]).mean() / max(float(truth[there].var()), 1e-9)
        shares.append(1 - error)
    if not shares:
        raise SystemExit(f"{data.name} has no numeric column to hide")
    return float(np.mean(shares))


def validation_labels(model: TabularJEPA, data: Data) -> float:
    """Score of a linear head on validation rows, higher is better."""
    x, v = (model.transform(data.frame(part)) for part in (0, 1))
    found = linear(Task(x, data.y, v, data.val_y, v, data.regression))
    value = float(score_cell(data, found.val, val=True).mean())
    return -value if data.regression else value


OBJECTIVES: dict[str, Callable[[TabularJEPA, Data], float]] = {
    "label_free": label_free,
    "validation_labels": validation_labels,
}


class Record:
    """The trials of a search, in its file after each one; what the file holds is not run again.

    Args:
        own: the command's arguments.

    Raises:
        SystemExit: the file is of another search.
    """

    def __init__(self, own: argparse.Namespace) -> None:
        self.place: Path | None = own.out
        self.asked = {name: getattr(own, name) for name in ASKED}
        self.made = about(own.threads)
        self.trials: list[dict[str, Any]] = []
        self._kept: list[dict[str, Any]] = []
        if self.place is not None and self.place.exists():
            content = json.loads(self.place.read_text())
            for name, value in self.asked.items():
                if content.get(name) != value:
                    raise SystemExit(
                        f"{self.place} holds a search with {name} {content.get(name)}, this one "
                        f"has {value}; give another --out"
                    )
            self._kept = content["trials"]

    def kept(self, params: dict[str, Any]) -> float | None:
        """The value an earlier run found for its trial of this number, if it came so far.

        Raises:
            SystemExit: its settings were others: another version of optuna or of the space.
        """
        if len(self.trials) >= len(self._kept):
            return None
        found = dict(self._kept[len(self.trials)])
        value: float = found.pop("value")
        if found != params:
            raise SystemExit(
                f"trial {len(self.trials)} in {self.place} has settings {found}, the sampler now "
                f"draws {params}; give another --out"
            )
        return value

    def add(self, value: float, params: dict[str, Any]) -> None:
        """A trial is done; the file is replaced as a whole."""
        self.trials.append({"value": value, **params})
        if self.place is not None and len(self.trials) > len(self._kept):
            self.place.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.place, self.content())

    def content(self) -> dict[str, Any]:
        """What the file says."""
        best = dict(max(self.trials, key=lambda trial: trial["value"]))
        value = best.pop("value")
        labels = self.asked["objective"] == "validation_labels"
        found = {"labels_used": labels, "value": value, "best": best, "trials": self.trials}
        return self.asked | found | {"made": self.made}


def search(own: argparse.Namespace) -> dict[str, Any]:
    """Run the trials.

    Raises:
        SystemExit: optuna is not installed, or `--out` holds another search.
    """
    try:
        import optuna
    except ImportError:
        raise SystemExit("pip install optuna (extra `search`)") from None
    record = Record(own)
    data = Data(own.table, "val", own.limit)
    score = OBJECTIVES[own.objective]

    def trial_value(trial: Any) -> float:
        model = suggest(trial, own.steps, own.device)
        value = record.kept(trial.params)
        if value is None:
            value = score(model.fit(data.frame(0)), data)
        record.add(value, trial.params)
        return value

    sampler = optuna.samplers.TPESampler(seed=own.seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(trial_value, n_trials=own.trials)
    return record.content()


def main(argv: Sequence[str] | None = None) -> None:
    """Search; the file grows with the trials."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("objective", choices=tuple(OBJECTIVES))
    parser.add_argument("--table", default="california", choices=TABLES)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, help="rows per split, for quick checks")
    parser.add_argument("--out", type=Path, help="JSON file; a search that broke off goes on")
    own = parser.parse_args(argv)
    torch.set_num_threads(own.threads)
    found = search(own)
    print(json.dumps({k: found[k] for k in ("objective", "value", "best")}, indent=1))


if __name__ == "__main__":
    main()
