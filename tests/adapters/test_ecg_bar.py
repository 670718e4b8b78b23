"""Random kernels: responses, levels and pooling by plain loops; whitening; determinism."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from jepa_modalities.adapters.ecg.bar import (
    KernelBank,
    LocalTargets,
    default_dilations,
    fixed_weights,
)


def signals(records: int = 6, leads: int = 3, samples: int = 60) -> torch.Tensor:
    return torch.randn(records, leads, samples, generator=torch.Generator().manual_seed(3))


def response(bank: KernelBank, x: np.ndarray, kernel: int) -> np.ndarray:
    """One kernel on one record, tap by tap, zeros outside."""
    weight, step = bank.weight[kernel].numpy(), int(bank.dilation[kernel])
    out = np.zeros(x.shape[1])
    for at in range(x.shape[1]):
        for lead in range(x.shape[0]):
            for tap in range(9):
                place = at + (tap - 4) * step
                if 0 <= place < x.shape[1]:
                    out[at] += weight[lead, tap] * x[lead, place]
    return out


def test_fixed_weights() -> None:
    weight = fixed_weights()
    assert weight.shape == (84, 9)
    assert (weight.sum(1) == 0).all()
    places = {tuple(np.flatnonzero(row.numpy() == 2)) for row in weight}
    assert places == set(itertools.combinations(range(9), 3))
    assert ((weight == 2) | (weight == -1)).all()


def test_default_dilations() -> None:
    assert default_dilations(1000) == (1, 2, 4, 8, 16, 32)
    assert default_dilations(40) == (1, 2, 4)
    assert default_dilations(5) == (1,)


@pytest.mark.parametrize("kind", ["rocket", "minirocket"])
def test_features_by_loops(kind: str) -> None:
    x = signals()
    bank = KernelBank.fit(x, 12, levels=2, kind=kind, seed=1)
    assert sorted(bank.dilation.unique().tolist()) == [1, 2, 4]
    found = bank.features(x).numpy()
    assert found.shape == (6, 12 * 2 + 12)
    for record, kernel in ((0, 0), (3, 5), (5, 11)):
        out = response(bank, x[record].numpy(), kernel)
        for level in range(2):
            above = np.mean(out > float(bank.level[kernel, level]))
            assert found[record, 2 * kernel + level] == pytest.approx(above, abs=1 / 60 + 1e-6)
        assert found[record, 24 + kernel] == pytest.approx(out.max(), abs=1e-4)


def test_local_by_loops() -> None:
    x = signals()
    bank = KernelBank.fit(x, 8, levels=2, kind="rocket")
    local = bank.local(x, 10, responses=True).numpy()
    assert local.shape == (6, 6, 8 * 2 + 8)
    out = response(bank, x[2].numpy(), 5)
    for token in range(6):
        part = out[10 * token : 10 * token + 10]
        for level in range(2):
            above = np.mean(part > float(bank.level[5, level]))
            assert local[2, token, 10 + level] == pytest.approx(above, abs=0.1 + 1e-6)
        assert local[2, token, 16 + 5] == pytest.approx(part.mean(), abs=1e-4)


def test_levels_are_quantiles_and_leads_are_few() -> None:
    x = signals(40)
    bank = KernelBank.fit(x, 30, levels=1, kind="rocket")
    shares = bank.features(x)[:, :30].mean(0)
    # Random quantiles: the mean share above them is uniform in 0..1.
    assert 0.3 < float(shares.mean()) < 0.7 and float(shares.std()) > 0.15
    used = (bank.weight != 0).any(2).sum(1)
    assert used.min() == 1 and used.max() <= 3 and len(used.unique()) > 1


def test_chunks_and_seeds() -> None:
    x = signals(9)
    one, same, other = (KernelBank.fit(x, 10, kind="rocket", seed=s) for s in (0, 0, 1))
    assert torch.equal(one.features(x), same.features(x))
    assert not torch.equal(one.weight, other.weight)
    torch.testing.assert_close(one.features(x)[4:5], one.features(x[4:5]))
    blank = KernelBank(10, 3, 1, default_dilations(60))
    blank.load_state_dict(one.state_dict())
    assert torch.equal(blank.features(x), one.features(x))


def test_targets_are_white() -> None:
    x = signals(50)
    bank = KernelBank.fit(x, 20, kind="rocket")
    targets = LocalTargets.fit(bank, x, 10, 6)
    made = targets(x).flatten(0, 1).double()
    assert made.shape == (300, 6)
    assert torch.allclose(made.mean(0), torch.zeros(6, dtype=torch.float64), atol=1e-3)
    cov = made.T @ made / len(made)
    assert torch.allclose(cov, torch.eye(6, dtype=torch.float64), atol=1e-2)
    raw = bank.local(x, 10).flatten(0, 1).double()
    values = torch.linalg.eigvalsh(torch.cov(raw.T, correction=0))
    assert float(targets.explained) == pytest.approx(float(values[-6:].sum() / values.sum()), 1e-3)


def test_complaints() -> None:
    x = signals()
    with pytest.raises(ValueError, match=r"expected \(records, leads, samples\)"):
        KernelBank.fit(x[0], 4)
    with pytest.raises(ValueError, match="'rocket'"):
        KernelBank.fit(x, 4, kind="hydra")
    bank = KernelBank.fit(x, 4)
    with pytest.raises(ValueError, match=r"\(records, 3, samples\)"):
        bank.features(x[:, :2])
    with pytest.raises(ValueError, match="60 samples cannot be cut into tokens of 7"):
        bank.local(x, 7)
    with pytest.raises(ValueError, match=r"target\.dim = 9 is more than the 4"):
        LocalTargets.fit(bank, x, 10, 9)
