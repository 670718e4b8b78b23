"""Evidence files keep what their numbers depend on; the plain step computes the same loss."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jepa_modalities.eval.macro_auc import macro_auc

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def scripts() -> Iterator[None]:
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def test_bits_come_back(tmp_path: Path) -> None:
    evidence = importlib.import_module("evidence")
    right = {"a": np.arange(13) % 3 == 0, "b": np.ones(13, bool)}
    evidence.write_evidence(tmp_path / "x-3-0.json", right, {"steps": 7})
    facts, again = evidence.read_evidence(tmp_path / "x-3-0.json")
    assert facts["steps"] == 7 and facts["accuracy"]["a"] == round(5 / 13, 5)
    assert all((again[name] == right[name]).all() for name in right)
    assert [path.name for path in tmp_path.iterdir()] == ["x-3-0.json"]


def test_ranks_give_the_same_auc(tmp_path: Path) -> None:
    ecg = importlib.import_module("ecg_compare")
    generator = np.random.default_rng(0)
    truth = generator.random((40, 3)) > 0.6
    scores = np.round(generator.normal(size=(40, 3)) + truth, 1)  # with ties
    few = {"50": [0.6, 0.7]}
    for seed in range(2):
        for arm in ("bar-0", "vicreg-1"):
            path = tmp_path / f"{arm}-{seed}.json"
            ecg.write(path, {"linear@": scores}, truth, {"few": few})
    ranks, labels, counts = ecg.read(tmp_path / "bar-0-0.json")
    assert (labels == truth).all() and counts == few
    assert macro_auc(labels, ranks["linear@"]) == macro_auc(truth, scores)
    assert json.loads(path.read_text())["auc"]["linear@"] == round(macro_auc(truth, scores), 5)
    assert f"| {macro_auc(truth, scores):.3f} (" in ecg.summary(tmp_path)


def test_draws_are_averaged_over_seeds_and_paired(tmp_path: Path) -> None:
    evidence = importlib.import_module("evidence")
    sar = importlib.import_module("sar_compare_summary")
    generator = np.random.default_rng(0)
    for arm, share in (("bar-0", 0.5), ("untrained-0", 0.4), ("vicreg-9", 0.8)):
        for seed in range(2):
            right = {
                f"{kind}@{'' if arm == 'bar-0' else sar.WIDEST}": generator.random(400) < share
                for kind in ("ridge", *(f"ridge_10shot{n}" for n in range(sar.DRAWS)))
            }
            evidence.write_evidence(tmp_path / f"{arm}-{seed}.json", right, {})
    table = sar.summary(evidence.collect(tmp_path), sar.WIDEST)
    row = table["vicreg 9"]
    assert row["seeds"] == 2 and row["20"] is None
    for labels in ("10", "all"):
        assert row[labels]["mean"] == pytest.approx(0.8, abs=0.04)
        difference = row[labels]["mean"] - table["bar 0"][labels]["mean"]
        assert row[f"{labels} - bar"]["mean"] == pytest.approx(difference)
        assert row[f"{labels} - untrained"]["low"] > 0.3
    assert "| vicreg | 9 | 2 |" in sar.markdown(table, sar.WIDEST)
    other = sar.summary(evidence.collect(tmp_path), "mean")  # nobody scored it but the bar
    assert other["vicreg 9"]["10"] is None and other["bar 0"]["10"] == table["bar 0"]["10"]
    assert "| vicreg |" not in sar.markdown(other, "mean")


def test_the_plain_formulation_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    step, plain = (importlib.import_module(name) for name in ("step", "plain"))
    own = argparse.Namespace(batch=16, data=None, each=True, compile=False)
    place: Any = torch.device("cpu")
    both = step.systems(own, "tabular_breast_cancer", place, torch.float32)
    assert set(both) == {"ours", "plain", *plain.PARTS}
    assert step.same_loss(both) < 1e-4
    for _ in range(2):  # with the same masks, and moving alike
        for name, system in both.items():
            if name not in ("plain", "masks"):
                system.step()
    first, *others = [system for name, system in both.items() if name not in ("plain", "masks")]
    for other in others:
        for mine, theirs in zip(first.parameters, other.parameters, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-3)
    both["plain"].step()
    # The looped masker's masks have the shapes of the vectorised one's.
    _, drawn = both["plain"].batch()
    like = both["ours"].masker.last
    assert drawn.context.shape == like.context.shape and drawn.targets.shape == like.targets.shape
    shares = both["ours"].phases(2)
    assert set(shares) == set(step.PHASES) and 0.5 < sum(shares.values()) <= 1.01
    monkeypatch.setattr(plain, "plain_attend", lambda q, k, v, bias: q)
    with pytest.raises(RuntimeError, match="losses differ"):
        step.same_loss(both)
