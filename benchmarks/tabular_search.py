"""Search settings for a table with Optuna: one search sees no label, one sees validation labels.

    python benchmarks/tabular_search.py label_free --table california --trials 20
    python benchmarks/tabular_search.py validation_labels --table california --trials 20

`label_free` maximises how much of a hidden column the features of the OTHER columns tell a ridge
regression on held-out rows, averaged over columns: neither the loss nor RankMe orders settings by
their use (see docs/tabular.md). `validation_labels` maximises a linear head's score on the
validation rows. Test rows are never read.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabular_arm import TABLES, Data
from tabular_summary import score_cell

from jepa_modalities.estimator.transformer import TabularJEPA
from jepa_modalities.eval.head.linear import fit_ridge, linear
from jepa_modalities.eval.head.task import Task

MOST_COLUMNS = 8  # hidden one after the other


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


def search(own: argparse.Namespace) -> dict[str, Any]:
    """Run the trials.

    Raises:
        SystemExit: optuna is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise SystemExit("pip install optuna (extra `search`)") from None
    data = Data(own.table, "val", own.limit)
    score = OBJECTIVES[own.objective]

    def trial_value(trial: Any) -> float:
        return score(suggest(trial, own.steps, own.device).fit(data.frame(0)), data)

    sampler = optuna.samplers.TPESampler(seed=own.seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(trial_value, n_trials=own.trials)
    return {
        "objective": own.objective,
        "labels_used": own.objective == "validation_labels",
        "best": study.best_params,
        "value": study.best_value,
        "trials": [{"value": t.value, **t.params} for t in study.trials],
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Search and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("objective", choices=tuple(OBJECTIVES))
    parser.add_argument("--table", default="california", choices=TABLES)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, help="rows per split, for quick checks")
    parser.add_argument("--out", type=Path)
    own = parser.parse_args(argv)
    torch.set_num_threads(own.threads)
    found = search(own)
    print(json.dumps({k: found[k] for k in ("objective", "value", "best")}, indent=1))
    if own.out is not None:
        own.out.parent.mkdir(parents=True, exist_ok=True)
        own.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
