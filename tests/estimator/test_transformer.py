"""TabularJEPA: scikit-learn's contract, any table, determinism, limits."""

from __future__ import annotations

import pickle
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import jepa_modalities as jm
from jepa_modalities.adapters.tabular.adapter import TabularAdapter
from jepa_modalities.estimator import transformer as module
from jepa_modalities.estimator.pretraining import configuration, in_memory
from jepa_modalities.estimator.transformer import TabularJEPA
from jepa_modalities.train.distributed import Processes
from jepa_modalities.train.engine import Trainer

SMALL: dict[str, Any] = {"steps": 3, "dim": 8, "heads": 1, "depth": 2, "batch_size": 16}


def people(rows: int = 60, seed: int = 0) -> pd.DataFrame:
    """A table with a bit of everything, and gaps."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "age": rng.integers(18, 90, rows).astype(float),
            "income": rng.lognormal(3, 1, rows).astype(np.float32),
            "town": rng.choice(["Ulm", "Bonn", "Kiel"], rows),
            "grade": pd.Categorical(rng.choice(["a", "b"], rows)),
            "member": rng.integers(0, 2, rows).astype(bool),
            "since": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 999, rows), "D"),
            "visits": pd.array(rng.integers(0, 5, rows), dtype="Int64"),
            "same": 7,
        }
    )
    frame.loc[:3, "age"] = np.nan
    frame.loc[2:5, "town"] = None
    frame.loc[4:6, "visits"] = pd.NA
    return frame


@parametrize_with_checks([TabularJEPA(steps=2, dim=8, heads=1, depth=1, batch_size=16)])
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize(
    "pooling", ["all_blocks", "all_blocks_hidden", "last_block", "mean_std_max", "mean"]
)
@pytest.mark.parametrize("include_inputs", [False, True])
def test_poolings_have_names_and_widths(pooling: str, include_inputs: bool) -> None:
    frame = people()
    model = TabularJEPA(pooling=pooling, include_inputs=include_inputs, random_state=0, **SMALL)
    out = model.set_output(transform="pandas").fit_transform(frame)
    tokens = len(model.feature_names_)
    width = {"all_blocks": 16 * tokens, "all_blocks_hidden": 48 * tokens, "last_block": 8 * tokens}
    width |= {"mean_std_max": 24, "mean": 8}
    assert out.shape == (60, width[pooling] + include_inputs * len(model.inputs_.names))
    assert (out.dtypes == np.float32).all() and out.index.equals(frame.index)
    names = list(model.get_feature_names_out())
    assert list(out.columns) == names and len(set(names)) == len(names)
    if pooling == "all_blocks":
        assert names[0] == f"{model.feature_names_[0]}:block0:0"
        # Block 1, last column, last channel: the end of the tokens.
        assert names[width[pooling] - 1] == f"{model.feature_names_[-1]}:block1:7"
    if pooling == "all_blocks_hidden":
        assert names[16 * tokens - 1] == f"{model.feature_names_[-1]}:block1:7"
        assert names[16 * tokens] == f"{model.feature_names_[0]}:hidden0:0"
        assert names[width[pooling] - 1] == f"{model.feature_names_[-1]}:hidden1:15"
    if include_inputs:
        column = out["town=Bonn"].to_numpy()
        assert column.tolist() == (frame["town"] == "Bonn").astype(float).tolist()
        assert out["age:missing"].tolist() == frame["age"].isna().astype(float).tolist()


def test_features_are_the_encoders_on_whole_rows() -> None:
    frame = people()
    model = TabularJEPA(random_state=0, **SMALL).fit(frame)
    with torch.no_grad():
        latents = model.encoder_.encoder(model.encoder_.tokenizer(frame), blocks=True)
    expected = torch.cat(
        [torch.nn.functional.layer_norm(b, (8,)).flatten(1) for b in latents.blocks], dim=1
    )
    assert model.transform(frame) == pytest.approx(expected.numpy(), abs=1e-5)
    assert model.encoder_.embed(frame, "all_tokens") == pytest.approx(expected.numpy(), abs=1e-5)


def test_hidden_features_are_what_the_mlps_compute() -> None:
    frame = people()
    model = TabularJEPA(pooling="all_blocks_hidden", random_state=0, **SMALL).fit(frame)
    seen: list[torch.Tensor] = []
    for block in model.encoder_.encoder.blocks:
        block.mlp.fc2.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    found = model.transform(frame)
    expected = torch.cat([part.flatten(1) for part in seen], dim=1).numpy()
    assert found[:, -expected.shape[1] :] == pytest.approx(expected, abs=1e-5)
    blocks = TabularJEPA(random_state=0, **SMALL).fit_transform(frame)
    assert found[:, : -expected.shape[1]] == pytest.approx(blocks, abs=1e-5)


def test_it_is_the_librarys_own_training() -> None:
    """The same seed and choices through the engine give the same weights."""
    frame = people()
    model = TabularJEPA(random_state=5, **SMALL).fit(frame)
    seed = int(np.random.RandomState(5).randint(np.iinfo(np.int32).max))
    sizes = {"encoder.dim": 8, "encoder.heads": 1, "predictor.width": 8, "predictor.heads": 1}
    loop = {"train.steps": 3, "train.batch_size": 16, "train.seed": seed, "train.device": "cpu"}
    config = configuration({**sizes, **loop}, None)
    adapter = TabularAdapter(config, None, in_memory(frame, ()))
    with tempfile.TemporaryDirectory() as folder:
        peers = Processes(0, 1, torch.device("cpu"))
        jepa = Trainer(adapter, adapter.config, Path(folder), peers).run(None).jepa
    for (name, ours), theirs in zip(
        model.encoder_.encoder.named_parameters(), jepa.teacher.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    untrained = TabularJEPA(random_state=5, **{**SMALL, "steps": 0}).fit(frame)
    pairs = zip(
        untrained.encoder_.encoder.parameters(), model.encoder_.encoder.parameters(), strict=True
    )
    assert any(not torch.equal(a, b) for a, b in pairs) and untrained.n_steps_ == 0


def test_columns_are_matched_by_name() -> None:
    frame = people()
    model = TabularJEPA(random_state=0, **SMALL).fit(frame)
    assert np.array_equal(model.transform(frame[frame.columns[::-1]]), model.transform(frame))
    with pytest.raises(ValueError, match=r"columns \['town'\] are missing"):
        model.transform(frame.drop(columns="town"))
    with pytest.raises(ValueError, match=r"columns \['shoe'\] are unexpected"):
        model.transform(frame.assign(shoe=42))
    strange = frame.assign(town="Jena")  # never seen: all rows are "unknown" there
    assert np.isfinite(model.transform(strange)).all()


def test_seeds_clones_and_pickles() -> None:
    frame = people()
    model = TabularJEPA(random_state=3, **SMALL).fit(frame)
    out = model.transform(frame)
    assert np.array_equal(clone(model).fit(frame).transform(frame), out)
    assert not np.array_equal(clone(model).set_params(random_state=4).fit_transform(frame), out)
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.transform(frame), out)
    state = torch.get_rng_state()
    clone(model).fit(frame)
    assert torch.equal(state, torch.get_rng_state())  # the caller's random numbers are left alone


def test_inside_scikit_learns_tools() -> None:
    frame = people()
    y = (frame["income"] > frame["income"].median()).to_numpy()
    columns = ColumnTransformer(
        [
            ("jepa", TabularJEPA(random_state=0, **SMALL), ["age", "income", "town"]),
            ("rest", StandardScaler(), ["visits"]),
        ]
    )
    filled = frame.assign(visits=frame["visits"].fillna(0).astype(float))
    assert columns.fit_transform(filled).shape == (60, 3 * 16 + 1)
    pipe = make_pipeline(TabularJEPA(random_state=0, **SMALL), LogisticRegression(max_iter=200))
    grid = GridSearchCV(pipe, {"tabularjepa__pooling": ["mean", "all_blocks"]}, cv=2)
    assert grid.fit(frame, y).best_score_ > 0.6


def test_few_rows_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = people()
    model = TabularJEPA(random_state=0, **SMALL).fit(frame)
    whole = model.transform(frame)
    seen: list[int] = []
    real = model._features
    monkeypatch.setattr(model, "_features", lambda part: seen.append(len(part)) or real(part))
    monkeypatch.setattr(module, "MOST_ROWS", 7)
    assert model.transform(frame) == pytest.approx(whole, abs=1e-6)
    assert max(seen) == 7 and sum(seen) == 60


def peak_growth(action: Any) -> float:
    """Bytes by which the process grows at most while something runs (Linux)."""
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew

    def read(name: str) -> float:
        lines = status.read_text().splitlines()
        return 1024 * next(float(x.split()[1]) for x in lines if x.startswith(name))

    before = read("VmRSS")
    action()
    return read("VmHWM") - before


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux' /proc")
def test_working_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.random.default_rng(0).normal(size=(12_000, 40)).astype(np.float32)
    model = TabularJEPA(steps=0, pooling="mean", dim=8, heads=1, random_state=0).fit(X[:50])
    model.transform(X[:200])
    monkeypatch.setattr(module, "WORKING", 8e6)
    assert model._rows_at_once() < 1000
    few = peak_growth(lambda: model.transform(X))
    # The same rows at once: so much would be needed without chunks.
    monkeypatch.setattr(module, "WORKING", 1e12)
    monkeypatch.setattr(module, "MOST_ROWS", 10**6)
    many = peak_growth(lambda: model.transform(X))
    assert few < 60e6 and many > 2 * few, (few, many)


def test_too_large_an_output_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TabularJEPA(random_state=0, **SMALL).fit(people())
    monkeypatch.setattr(module, "MOST_OUTPUT", 1e3)
    monkeypatch.setattr(model, "_features", lambda part: pytest.fail("it has begun"))
    with pytest.raises(ValueError, match=r"jm embed .* --out features\.parquet"):
        model.transform(people())


def quickest(function: Callable[[], object]) -> float:
    """CPU seconds of the quickest of many calls."""
    spent = []
    for _ in range(100):
        start = time.process_time()
        function()
        spent.append(time.process_time() - start)
    return min(spent)


def test_one_row_is_quick() -> None:
    model = TabularJEPA(steps=0, random_state=0).fit(people())
    row, layer, x = people().iloc[:1], torch.nn.Linear(32, 32), torch.randn(1, 32)

    @torch.inference_mode()
    def layers() -> None:
        for _ in range(100):
            layer(x)

    # Under 5 ms where a small layer takes 5 us; on slow or busy machines both take longer.
    assert quickest(lambda: model.transform(row)) < 10 * quickest(layers)


def test_time_limit_shortens_the_run() -> None:
    X = np.random.default_rng(0).normal(size=(80, 4))
    with pytest.warns(UserWarning, match="of 1000000 steps"):
        model = TabularJEPA(random_state=0, time_limit=0.5, **{**SMALL, "steps": 10**6}).fit(X)
    assert 1 <= model.n_steps_ < 10**5
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert TabularJEPA(random_state=0, time_limit=60, **SMALL).fit(X).n_steps_ == 3


def test_the_encoder_file_goes_on_without_the_estimator(tmp_path: Path) -> None:
    frame = people()
    model = TabularJEPA(random_state=0, **SMALL).fit(frame)
    model.save(tmp_path / "people.safetensors")
    loaded = jm.load(tmp_path / "people.safetensors")
    assert loaded.embed(frame) == pytest.approx(model.transform(frame), abs=1e-6)


def test_settings_reach_the_recipe() -> None:
    X = np.random.default_rng(0).normal(size=(40, 5))
    wanted = {"objective.detection": 1.0, "loss.weight": 0.0, "mask.kind": "none"}
    model = TabularJEPA(random_state=0, settings=wanted, **SMALL).fit(X)
    assert model.encoder_.config.objective.detection == 1.0
    assert model.n_steps_ == 3 and "healthy" in model.verdict_
    with pytest.raises(ValueError, match=r"no setting 'objective\.nonsense'"):
        TabularJEPA(settings={"objective.nonsense": 1}).fit(X)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": -1}, "steps = -1"),
        ({"pooling": "max"}, "choose from all_blocks"),
        ({"time_limit": 0}, "time_limit = 0"),
        ({"heads": 3}, "heads = 3 must divide"),
        ({"categorical": ["shoe"]}, "shoe"),
    ],
)
def test_complaints(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TabularJEPA(**{**SMALL, **change}).fit(people())


def test_what_does_not_vary_is_left_out() -> None:
    model = TabularJEPA(random_state=0, **SMALL).fit(people())
    assert "same" not in model.feature_names_ and "age" in model.feature_names_
    with pytest.raises(ValueError, match=r"1 feature\(s\) that vary"):
        TabularJEPA(**SMALL).fit(people()[["age", "same"]])
