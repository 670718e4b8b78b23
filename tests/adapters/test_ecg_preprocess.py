"""Any recording becomes what the encoder expects, the same way in training and at inference."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_modalities.adapters.ecg.preprocess import (
    ECGPreprocess,
    PreprocessConfig,
    conform,
    crops,
    group_of,
    missing_leads,
    num_samples,
)
from jepa_modalities.adapters.ecg.signal import fill_gaps, filtered, ratio
from jepa_modalities.data.ecg.file import ECGRecords, memory_records, open_records
from jepa_modalities.data.ecg.layout import INVALID
from jepa_modalities.data.prepare.ecg_array import prepare_arrays

NAN = float("nan")
STANDARD = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]


def plain(lead: Sequence[float]) -> list[float]:
    """Linear interpolation by hand."""
    known = [n for n, value in enumerate(lead) if value == value]
    out = list(lead)
    for n, value in enumerate(lead):
        if value == value or not known:
            continue
        below, above = [k for k in known if k < n], [k for k in known if k > n]
        if below and above:
            a, b = below[-1], above[0]
            out[n] = lead[a] + (lead[b] - lead[a]) * (n - a) / (b - a)
        else:
            out[n] = lead[below[-1] if below else above[0]]
    return out


@given(st.lists(st.one_of(st.floats(-9, 9), st.just(NAN)), min_size=1, max_size=12))
def test_gaps(lead: list[float]) -> None:
    signal = np.array([lead, lead[::-1]]).T
    found = fill_gaps(signal)
    np.testing.assert_allclose(found[:, 0], plain(lead), atol=1e-12)
    np.testing.assert_allclose(found[:, 1], plain(lead[::-1]), atol=1e-12)


@pytest.mark.parametrize(
    ("fs", "new", "expected"),
    [(500, 100, (1, 5)), (257, 500, (500, 257)), (360, 250, (25, 36)), (100.0, 100, (1, 1)),
     (128, 500, (125, 32)), (249.99, 500, (2, 1))],
)  # fmt: skip
def test_ratios(fs: float, new: float, expected: tuple[int, int]) -> None:
    assert ratio(fs, new) == expected


def test_rates_that_make_no_sense() -> None:
    for fs in (0.0, -1.0, NAN):
        with pytest.raises(ValueError, match="must be above 0 Hz"):
            ratio(fs, 100)
    with pytest.raises(ValueError, match="no ratio of small whole numbers"):
        ratio(1e7, 1)


@pytest.mark.parametrize("fs", [257, 500, 1000, 250, 128])
def test_resampling_keeps_a_slow_wave(fs: int) -> None:
    config = PreprocessConfig(leads=("I", "II"), fs=250, normalise="none")
    time, new_time = np.arange(4 * fs) / fs, np.arange(1000) / 250
    wave = np.stack([np.sin(2 * np.pi * 7 * time), 3 + np.cos(2 * np.pi * time)], 1)
    found = conform(wave, fs, ["I", "II"], config)
    assert found.shape == (2, 1000) and found.dtype == np.float32
    expected = np.stack([np.sin(2 * np.pi * 7 * new_time), 3 + np.cos(2 * np.pi * new_time)])
    inside = slice(40, -40)
    np.testing.assert_allclose(found[:, inside], expected[:, inside], atol=5e-3)
    # No ringing at the ends, though the second lead is far from 0 there.
    np.testing.assert_allclose(found[1], expected[1], atol=0.05)


def test_resampling_equals_scipy_inside() -> None:
    from scipy.signal import resample_poly

    x = np.random.default_rng(0).normal(size=(900, 1))
    found = conform(x, 360, ["I"], PreprocessConfig(leads=("I",), fs=100, normalise="none"))[0]
    np.testing.assert_allclose(found[20:-20], resample_poly(x[:, 0], 5, 18)[20:-20], atol=1e-6)
    assert len(found) == 250


def test_filters() -> None:
    time = np.arange(5000) / 500
    slow, heart, mains = 0.1, 8.0, 50.0
    waves = [np.sin(2 * np.pi * f * time) for f in (slow, heart, mains)]
    x = (sum(waves) + 5)[:, None]
    out = filtered(x, 500, 0.5, (50.0, 600.0))[:, 0]
    inside = slice(1000, -1000)
    for wave, kept in zip(waves, (0, 1, 0), strict=True):
        share = 2 * (out * wave)[inside].mean()
        assert abs(share - kept) < 0.05
    assert abs(out[inside].mean()) < 0.01
    np.testing.assert_array_equal(filtered(x, 500, 0, ()), x)
    with pytest.raises(ValueError, match="highpass = 60 Hz; a signal of 100 Hz needs less than 50"):
        filtered(x, 100, 60, ())
    assert filtered(x[:5], 500, 0.5, (50.0,)).shape == (5, 1)  # shorter than scipy's own padding


def test_leads_by_name_order_and_unit() -> None:
    config = PreprocessConfig(leads=("V1", "II", "aVR"), fs=100, normalise="none")
    x = np.arange(20.0).reshape(5, 4)
    found = conform(x * 1000, 100, ["avr", "RESP", "DII", "mlii"], config, "µV")
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1], x[:, 2])
    np.testing.assert_allclose(found[2], x[:, 0])
    assert missing_leads(["avr", "DII"], config) == ("V1",)
    mapped = PreprocessConfig(("II",), 100, normalise="none", aliases=(("MLII", "II"),))
    np.testing.assert_allclose(conform(x[:, :1], 100, ["mlii"], mapped)[0], x[:, 0])
    assert missing_leads(["ML2"], mapped) == ()


def test_signals_that_do_not_fit() -> None:
    config = PreprocessConfig()
    x = np.zeros((9, 2))
    with pytest.raises(ValueError, match="none of the leads ch1, RESP is known to the encoder"):
        conform(x, 500, ["ch1", "RESP"], config)
    with pytest.raises(ValueError, match=r"shape \(9, 2\) with 3 lead names"):
        conform(x, 500, ["I", "II", "V1"], config)
    with pytest.raises(ValueError, match="is in NU, the encoder expects mV; scale"):
        conform(x, 500, ["I", "II"], config, "nu")
    with pytest.raises(ValueError, match="must be above 0 Hz"):
        conform(x, 0, ["I", "II"], config)
    for choice in ({"leads": ("I", "DI")}, {"fs": 0}, {"clip": -1}, {"groups": ()}):
        with pytest.raises(ValueError):
            PreprocessConfig(**choice)  # type: ignore[arg-type]


def many_records(folder: Path) -> ECGRecords:
    """Records of other rates, leads, lengths and units; one with gaps, one with an empty lead."""
    rng = np.random.default_rng(4)
    kinds: list[tuple[float, list[str], int, str, float]] = [
        (100, ["V1", "II", "aVR"], 90, "mV", 200), (250, ["DII"], 230, "uV", 1),
        (128, ["I", "II", "V1"], 140, "mV", 1000), (100, ["aVR", "V1"], 60, "mV", 500),
    ]  # fmt: skip
    for number, (fs, leads, length, unit, gain) in enumerate(kinds):
        x = rng.integers(-900, 900, (3, length, len(leads))).astype(np.int16)
        x[0, 30:34, 0] = INVALID
        x[1, :, -1] = INVALID if number == 3 else x[1, :, -1]
        choice: dict[str, Any] = {"fs": fs, "leads": leads, "unit": unit, "gain": gain}
        prepare_arrays(x, folder / f"{number}.h5", name=f"set{number}", **choice)
    return open_records(folder / "*.h5")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> ECGRecords:
    return many_records(tmp_path_factory.mktemp("records"))


CONFIGS = [
    PreprocessConfig(("II", "V1", "V6", "aVR"), fs=100),
    PreprocessConfig(("V1", "I", "II"), fs=125, normalise="record"),
    PreprocessConfig(("II", "V1"), fs=200, highpass=0.5, notch=(50.0,)),
    PreprocessConfig(("aVR", "V1", "II"), fs=50, aliases=(("I", "X1"),)),
]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(CONFIGS), st.data())
def test_crops_equal_crops_of_the_whole(
    records: ECGRecords, config: PreprocessConfig, data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.integers(0, len(records) - 1), min_size=1, max_size=5))
    samples = data.draw(st.integers(1, 60))
    starts = [data.draw(st.integers(0, 120)) for _ in rows]
    found = crops(records, rows, starts, samples, config)
    assert found.shape == (len(rows), len(config.leads), samples) and found.dtype == np.float32
    for crop, row, start in zip(found, rows, starts, strict=True):
        expected = np.full((len(config.leads), samples), np.nan)
        if missing_leads(records.leads(row), config) != config.leads:
            unit = str(records.unit[row, 0])
            whole = conform(
                records.physical(row), records.fs[row], records.leads(row), config, unit
            )
            assert whole.shape[1] == num_samples(records, config)[row]
            part = whole[:, start : start + samples]
            expected[:, : part.shape[1]] = part
        np.testing.assert_allclose(crop, expected, rtol=2e-6, atol=2e-5)


def test_gaps_are_filled_from_beyond_the_crop(records: ECGRecords) -> None:
    config = PreprocessConfig(("V1",), fs=100)
    whole = plain([*records.physical(0)[:, 0]])
    found = crops(records, [0, 0], [31, 33], 2, config)[:, 0]
    np.testing.assert_allclose(found, [whole[31:33], whole[33:35]], rtol=1e-6)


def test_units_that_do_not_fit_name_the_record(tmp_path: Path) -> None:
    x = np.ones((2, 9, 1), np.int16)
    records = memory_records(x, 100, ["I"], 1, unit="NU", source="zscored")
    with pytest.raises(ValueError, match="record zscored-000000 is in NU, the encoder expects mV"):
        crops(records, [0], 0, 5, PreprocessConfig(("I",), 100))
    found = crops(records, [0], 0, 5, PreprocessConfig(("I",), 100, unit="nu"))
    assert (found == 1).all()


def test_constants_of_the_training_rows() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-300, 500, (7, 40, 2)).astype(np.int16)
    records = memory_records(x, 100, ["I", "V2"], 100)
    config = PreprocessConfig(("V2", "III", "I"), 100)
    rows = [0, 2, 3]
    made = ECGPreprocess.fitted(config, records, rows)
    for place, column in ((0, 1), (2, 0)):
        values = [float(v) / 100 for row in rows for v in x[row, :, column]]
        mean = sum(values) / len(values)
        std = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
        assert float(made.mean[0, place]) == pytest.approx(mean, rel=1e-5)
        assert float(made.std[0, place]) == pytest.approx(std, rel=1e-5)
    assert made.mean[0, 1] == 0 and made.std[0, 1] == 1  # no record has lead III
    x[:, :, 1] = 7
    flat = memory_records(x, 100, ["I", "V2"], 100)
    with pytest.raises(ValueError, match="lead V2 never changes in the 7 training records"):
        ECGPreprocess.fitted(config, flat)


def test_normalised_clipped_and_masked() -> None:
    config = PreprocessConfig(("I", "II"), 100, clip=2.0, groups=("", "other"))
    made = ECGPreprocess(config, [[1.0, 0.0], [0.0, 0.0]], [[2.0, 1.0], [1.0, 4.0]])
    raw = torch.tensor([[[1.0, 3.0, 99.0, NAN], [NAN] * 4], [[0.5] * 4, [8.0, -8.0, 2.0, 0.0]]])
    out = made(raw, torch.tensor([0, 1]))
    assert out.values.tolist() == [
        [[0, 1, 2, 0], [0, 0, 0, 0]],
        [[0.5, 0.5, 0.5, 0.5], [2, -2, 0.5, 0]],
    ]
    assert out.lead.tolist() == [[True, False], [True, True]]
    assert out.time.tolist() == [[True, True, True, False], [True] * 4]
    assert made(raw).values[1, 0, 0] == -0.25  # without groups it is the first
    off = ECGPreprocess(PreprocessConfig(("I", "II"), 100, normalise="none", clip=0))
    assert off(raw).values[0, 0].tolist() == [1, 3, 99, 0]
    with pytest.raises(ValueError, match=r"expected \(batch, 2 leads, samples\)"):
        made(raw[:, :1])
    with pytest.raises(ValueError, match="std must be above 0"):
        ECGPreprocess(config, None, [[1.0, 0.0], [1.0, 1.0]])
    with pytest.raises(ValueError, match=r"expected \(groups, leads\) = \(2, 2\)"):
        ECGPreprocess(config, [1.0, 2.0])


def test_published_constants() -> None:
    config = PreprocessConfig(("aVF", "aVL", "V6"), groups=("mimic_iv_ecg", "ptbxl", "ptb"))
    made = ECGPreprocess.published(config)
    # Weimann & Conrad: MIMIC-IV-ECG's table lists aVF before aVL.
    expected = torch.tensor([[0.143, 0.141, 0.197], [0.147, 0.149, 0.242], [0.909, 0.651, 0.622]])
    torch.testing.assert_close(made.std, expected)
    assert (made.mean == 0).all()
    with pytest.raises(ValueError, match="published constants are in mV, the signals in NU"):
        ECGPreprocess.published(PreprocessConfig(groups=("ptbxl",), unit="NU"))
    with pytest.raises(ValueError, match="no published constants for mine, V9"):
        ECGPreprocess.published(PreprocessConfig(("I", "V9"), groups=("mine",)))


def test_groups(records: ECGRecords) -> None:
    config = PreprocessConfig(("II",), groups=("set1", "set3"))
    assert group_of(records, config).tolist() == [0] * 9 + [1] * 3


def test_state_is_tensors_and_json(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    config = PreprocessConfig(
        ("II", "V1"), 250, highpass=0.5, notch=(50.0, 60.0), aliases=(("MLII", "II"),),
        groups=("a", "b"), clip=4.0, normalise="constants", unit="uv",
    )  # fmt: skip
    made = ECGPreprocess(config, [[1.0, 2], [3, 4]], [[5.0, 6], [7, 8]])
    save_file(made.state_dict(), tmp_path / "x.safetensors", {"config": config.to_json()})
    again = ECGPreprocess(PreprocessConfig.from_json(config.to_json()))
    again.load_state_dict(load_file(tmp_path / "x.safetensors"))
    assert again.config == config and config.unit == "uV"
    raw = torch.randn(3, 2, 50)
    torch.testing.assert_close(made(raw).values, again(raw).values, rtol=0, atol=0)


def test_two_leads_and_short_recordings() -> None:
    config = PreprocessConfig(fs=100)
    assert config.leads == tuple(STANDARD)
    x = np.random.default_rng(0).normal(size=(800, 2))  # 8 s at 100 Hz
    raw = np.full((12, 1000), np.nan, np.float32)
    raw[:, :800] = conform(x, 100, ["II", "V5"], config)
    out = ECGPreprocess(config)(torch.from_numpy(raw)[None])
    assert out.lead[0].nonzero()[:, 0].tolist() == [1, 10]
    assert int(out.time.sum()) == 800 and out.values.isfinite().all()
    assert (out.values[0, 0] == 0).all() and (out.values[0, :, 800:] == 0).all()
    assert missing_leads(["II", "V5"], config) == tuple(
        s for s in STANDARD if s not in ("II", "V5")
    )


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "number"), [("HR06005", 6005), ("HR19293", 19293)])
def test_native_records_become_the_stored_subset(name: str, number: int) -> None:
    """Its README: band-pass 0.5 to 40 Hz, z-score, 500 -> 100 Hz, rounded to 0.01."""
    from scipy.signal import butter, filtfilt

    from jepa_modalities.data.ecg.wfdb import read_record

    top = Path(os.environ.get("JEPA_DATA", Path(__file__).parents[3] / "shared" / "data")) / "ecg"
    if not top.is_dir():
        pytest.skip("no real recordings: set JEPA_DATA")
    native = read_record(top / "cinc2021" / f"{name}.hea")
    physical = native.signal / np.array(native.gain)
    band = filtfilt(*butter(4, [0.5, 40], "bandpass", fs=500), physical, axis=0)
    scored = (band - band.mean(0)) / band.std(0)
    config = PreprocessConfig(fs=100, unit="NU", normalise="none")
    found = conform(scored, 500, native.leads, config, "NU")
    folder = top / "ptbxl_sub100" / "records100" / f"{number // 1000 * 1000:05d}"
    stored = read_record(folder / f"{number:05d}_lr.hea")
    difference = np.abs(found * 100 - stored.signal.T)
    assert difference[:, 15:-15].max() <= 1.01  # the ends are continued in another way
