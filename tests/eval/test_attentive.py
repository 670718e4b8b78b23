"""The attentive head's formula, and a probe that must find what mean pooling cannot see."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from jepa_modalities.eval import attentive
from jepa_modalities.eval.attentive import AttentiveHead, attentive_probe
from jepa_modalities.eval.probes import linear_probe


def hidden_token(rows: int, seed: int = 0, tokens: int = 6, dim: int = 8):
    """One marked token (channel 0 high) carries the class; the others drown it in the mean."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, tokens, dim))
    x[..., 1] *= 6
    x[..., 0] = 0
    y, place = generator.integers(0, 2, rows), generator.integers(0, tokens, rows)
    x[np.arange(rows), place, 0] = 4
    x[np.arange(rows), place, 1] = np.where(y, 2.0, -2.0)
    return x.astype(np.float32), y


def test_head_equals_separate_query_and_key_in_plain_loops() -> None:
    torch.manual_seed(0)
    dim, heads = 6, 2
    head = AttentiveHead(dim, 3, heads).double()
    key, query = torch.randn(heads, 3, dim).double(), torch.randn(heads, 3).double()
    with torch.no_grad():
        head.query.copy_(torch.einsum("hed,he->hd", key, query))
    x = torch.randn(1, 4, dim).double()
    read = []
    for h in range(heads):
        logits = [float(query[h] @ (key[h] @ token)) / math.sqrt(dim) for token in x[0]]
        weights = [math.exp(v) / sum(map(math.exp, logits)) for v in logits]
        torch.testing.assert_close(head.attention(x)[0, h], torch.tensor(weights).double())
        looked = sum(w * (token @ head.value[h]) for w, token in zip(weights, x[0], strict=True))
        read.append(looked)
    expected = head.head(head.norm(torch.cat(read)))
    torch.testing.assert_close(head(x)[0], expected)


def test_probe_finds_the_token_that_the_mean_hides() -> None:
    (x, y), (t, truth) = hidden_token(400), hidden_token(200, seed=1)
    settings = {
        "heads": 2,
        "epochs": 30,
        "batch_size": 64,
        "lrs": (3e-2,),
        "weight_decays": (1e-2,),
    }
    fit = attentive_probe(x, y, t, **settings)
    mean = linear_probe(x.mean(1), y, t.mean(1))
    assert (fit.predictions == truth).mean() > 0.9
    assert (mean.predictions == truth).mean() < 0.8
    assert fit.scores.shape == (200, 2) and "held_out" not in fit.chosen


def test_choice_is_by_held_out_rows_repeatable_and_blind_to_the_test() -> None:
    (x, y), (t, _) = hidden_token(120), hidden_token(30, seed=1)
    names = np.array(["no", "yes"])[y]
    settings = {"heads": 2, "epochs": 6, "lrs": (1e-6, 1e-2), "weight_decays": (0.0, 0.1)}
    before = torch.random.get_rng_state()
    first = attentive_probe(x, names, t, seed=3, **settings)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(123)
    again = attentive_probe(x, names, np.concatenate([t[:5], 100 * t]), seed=3, **settings)
    assert first.chosen == again.chosen and first.chosen["lr"] in (1e-6, 1e-2)
    np.testing.assert_allclose(first.scores[:5], again.scores[:5], rtol=1e-4, atol=1e-5)
    assert set(first.predictions) <= {"no", "yes"}
    other = attentive_probe(x, names, t, seed=4, **settings)
    assert not np.allclose(first.scores, other.scores)


def test_memory_map_in_half_precision_and_small_chunks(tmp_path, monkeypatch) -> None:
    (x, y), (t, _) = hidden_token(60), hidden_token(20, seed=1)
    half = x.astype(np.float16)
    np.save(tmp_path / "tokens.npy", half)
    mapped = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    settings = {"heads": 2, "epochs": 2, "lrs": (1e-2,), "weight_decays": (0.0,)}
    whole = attentive_probe(half.astype(np.float32), y, t, **settings)
    monkeypatch.setattr(attentive, "CHUNK", 6 * 8 * 7)  # seven rows at a time
    parts = attentive_probe(mapped, y, t, **settings)
    np.testing.assert_allclose(whole.scores, parts.scores, rtol=1e-3, atol=1e-4)


def test_errors() -> None:
    x, y = hidden_token(20)
    broken = x.copy()
    broken[3, 2, 5] = np.inf
    cases = [
        ((x[:, 0], y, x), r"train_tokens have shape \(20, 8\)"),
        ((x, y[:-1], x), r"shape \(19,\)"),
        ((x, np.ones(20), x), "1 classes"),
        ((x, y, x[:, :2]), "differ"),
        ((broken, y, x), "train_tokens: 1 of 8 channels"),
        ((x, y, broken), "test_tokens: 1 of 8 channels"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            attentive_probe(*arguments)
    with pytest.raises(ValueError, match="heads = 3 must divide"):
        attentive_probe(x, y, x, heads=3)


def test_the_better_learning_rate_wins() -> None:
    generator = np.random.default_rng(0)
    y = np.arange(100) % 5
    x = (generator.normal(size=(100, 3, 8)) + 3 * np.eye(8)[y][:, None]).astype(np.float32)
    for lrs in ((1e-7, 3e-2), (3e-2, 1e-7)):
        fit = attentive_probe(x, y, x, heads=1, epochs=10, batch_size=20, lrs=lrs)
        assert fit.chosen["lr"] == 3e-2 and fit.chosen["held_out"] > 0.85
