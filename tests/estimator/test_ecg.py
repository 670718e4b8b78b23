"""ECGJEPA: arrays in, features out, at other rates and with fewer leads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import jepa_modalities as jm
from jepa_modalities.data.ecg.synthetic import synthetic_ecg
from jepa_modalities.estimator.ecg import ECGJEPA, in_memory

LEADS = ("I", "II", "V1")


def arrays(records: int = 12, fs: float = 100.0, seconds: float = 5.0) -> np.ndarray:
    made = synthetic_ecg(records, fs=fs, seconds=seconds)
    return made.signals[:, :, [0, 1, 6]].transpose(0, 2, 1).astype(np.float32) / 1000


def tiny(**changes: object) -> ECGJEPA:
    small = {
        "predictor.width": 16,
        "predictor.depth": 1,
        "target.centroids": 12,
        "target.dim": 4,
        "train.monitor_every": 4,
    }
    choice = {"rate": 50.0, "steps": 4, "crop": 4.0, "patch": 0.2, "dim": 16, "depth": 1}
    choice |= {"heads": 2, "batch_size": 6, "random_state": 0, "settings": small, "device": "cpu"}
    return ECGJEPA(100.0, LEADS, **{**choice, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fitted() -> ECGJEPA:
    return tiny().fit(arrays())


def test_features(fitted: ECGJEPA, tmp_path: Path) -> None:
    x = arrays()
    found = fitted.transform(x)
    assert found.shape == (12, 48) and found.dtype == np.float32
    assert len(fitted.get_feature_names_out()) == 48
    again = clone(fitted).fit(x).transform(x)
    assert np.array_equal(found, again)
    untrained = tiny(steps=0).fit(x)
    assert untrained.verdict_ == "untrained"
    assert not np.array_equal(untrained.transform(x), found)
    fitted.save(tmp_path / "encoder.safetensors")
    stored = jm.load(tmp_path / "encoder.safetensors")
    assert np.allclose(stored.embed((x, 100.0, LEADS)), found, atol=1e-5)


def test_other_rates_orders_and_lengths(fitted: ECGJEPA) -> None:
    x = arrays(3)
    found = fitted.transform(x)
    turned = fitted.transform(x[:, [2, 0, 1]], leads=("v1", "LEAD I", "ii"))
    assert np.allclose(found, turned, atol=1e-5)
    uv = fitted.transform(1000 * x, unit="uV")
    assert np.allclose(found, uv, atol=1e-4)
    faster = fitted.transform(np.repeat(x, 2, axis=2), fs=200.0)
    similarity = [np.corrcoef(a, b)[0, 1] for a, b in zip(found, faster, strict=True)]
    assert min(similarity) > 0.95
    mixed = fitted.transform([x[0], x[1, :, :450]])
    assert np.allclose(mixed[0], found[0], atol=1e-4) and np.isfinite(mixed).all()


def test_missing_leads_are_named(fitted: ECGJEPA) -> None:
    with pytest.warns(UserWarning, match="lack the leads I, V1; they are masked"):
        found = fitted.transform(arrays(3)[:, 1:2], leads=("II",))
    assert np.isfinite(found).all()


def test_complaints() -> None:
    x = arrays(4)
    with pytest.raises(NotFittedError):
        tiny().transform(x)
    with pytest.raises(ValueError, match=r"\(4, 2, 500\), expected \(records, 3 leads, samples\)"):
        tiny().fit(x[:, :2])
    with pytest.raises(ValueError, match="infinite"):
        tiny().fit(np.where(x > 0.5, np.inf, x))
    with pytest.raises(ValueError, match="steps = -1"):
        tiny(steps=-1).fit(x)
    for wrong, message in (
        ({"steps": 2.5}, "steps = 2.5"),
        ({"pooling": "max"}, "pooling = 'max': choose from"),
        ({"unit": "furlong"}, "unit = 'furlong': choose from mV"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny(**wrong).fit(x)
    with pytest.raises(ValueError, match="fs = inf: give the sampling rate"):
        ECGJEPA(float("inf"), LEADS).fit(x)
    with pytest.raises(ValueError, match="leads = 'I, II': give a list of names"):
        ECGJEPA(100.0, "I, II").fit(x)
    with pytest.raises(ValueError, match="no valid sample of the leads I, II, V1"):
        tiny().fit(np.full_like(x, np.nan))
    with pytest.raises(ValueError, match="none of the 4 training records"):
        tiny(crop=8.0).fit(x)


def test_arrays_in_memory() -> None:
    x = arrays(2)
    x[0, 1, 10:20] = np.nan
    records = in_memory(x, 100.0, LEADS, "mV")
    for row in range(2):
        back = records.physical(row).T
        assert np.array_equal(np.isnan(back), np.isnan(x[row]))
        assert np.nanmax(np.abs(back - x[row])) < np.nanmax(np.abs(x)) / 32_000
    wild = x.copy()
    wild[1, 2, 7] = 1e4  # one broken sample costs the other leads and records nothing
    with pytest.warns(UserWarning, match="1 recordings reach more than 50 times.*number 1"):
        records = in_memory(wild, 100.0, LEADS, "mV")
    assert np.nanmax(np.abs(records.physical(0).T - x[0])) < np.nanmax(np.abs(x)) / 32_000
    assert np.max(np.abs(records.physical(1).T[:2] - x[1, :2])) < np.nanmax(np.abs(x)) / 32_000


def test_public_name() -> None:
    assert jm.ECGJEPA is ECGJEPA and "ECGJEPA" in jm.__all__
