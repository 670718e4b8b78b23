"""The tabular benchmarks on a few rows: cells, resuming, summaries, maskers."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from jepa_modalities.adapters.tabular.masker import FeatureMasker

HOME = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def load() -> Any:
    """Import a file of the benchmarks folder as its scripts do."""
    sys.path.insert(0, str(HOME))
    yield importlib.import_module
    sys.path.remove(str(HOME))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two stored tables like the real ones."""
    import pandas as pd

    rng = np.random.default_rng(0)
    folder = tmp_path / "tabular"
    folder.mkdir()
    about = {}
    split = np.repeat(["train", "val", "test"], [80, 40, 40])
    for name, task in (("abalone", "regression"), ("bank", "binclass")):
        x = rng.normal(size=(160, 3))
        level = rng.choice(["a", "b"], 160)
        value = x[:, 0] * x[:, 1] + (level == "a")
        target = value if task == "regression" else np.where(value > 0.4, "yes", "no")
        frame = pd.DataFrame({"u": x[:, 0], "v": x[:, 1], "w": x[:, 2], "level": level})
        frame.assign(target=target, split=split).to_csv(folder / f"{name}.csv.gz", index=False)
        file = f"{name}.csv.gz"
        entry = {"file": file, "task": task, "target": "target", "categorical": ["level"]}
        about[name] = entry
    (folder / "datasets.json").write_text(json.dumps(about))
    monkeypatch.setenv("JEPA_DATA", str(tmp_path))
    return tmp_path


def arguments(root: Path, *more: str) -> list[str]:
    variant = "jepa:dim=8;heads=1;depth=1;train.batch_size=16"
    own = ["--tables", "abalone", "bank", "--steps", "2", "--seeds", "2", "--quick"]
    own += ["--heads", "linear", "finetune", "--variant", variant, "--work", str(root / "work")]
    return [*own, *more]


def undated(content: Any) -> Any:
    """The same without dates: two summaries may lie on both sides of a second."""
    if isinstance(content, dict):
        return {name: undated(part) for name, part in content.items() if name != "date"}
    return content


def test_suite(load: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite: ModuleType = load("tabular_suite")
    suite.main(arguments(root, "--few"))
    content = json.loads((root / "work" / "summary_val.json").read_text())
    assert list(content["tables"]) == ["bank", "abalone"]
    bank = content["tables"]["bank"]["heads"]["linear"]
    assert set(bank["arms"]["jepa"]) == {"width", "accuracy", "auc"}
    assert bank["arms"]["jepa"]["width"] == bank["arms"]["untrained"]["width"] == 4 * 8
    assert bank["arms"]["nystroem"]["width"] == 4 * 8
    assert len(bank["arms"]["jepa"]["accuracy"]) == 2
    assert bank["paired"]["jepa-raw"]["accuracy"]["outcome"] in ("beats", "tie", "falls below")
    assert bank["arms"]["raw"] == bank["arms"][bank["raw"]]
    counted = content["beats"]["linear"]
    assert counted["tables"] == ["bank", "abalone"]
    tuned = content["tables"]["abalone"]["heads"]["finetune"]
    assert set(tuned["arms"]) == {"jepa", "untrained"} and list(tuned["paired"]) == [
        "jepa-untrained"
    ]
    assert set(content["beats"]["finetune"]) == {"tables", "jepa-untrained"}
    few = content["tables"]["abalone"]["few"]["jepa"]
    assert [part["rows"] for part in few.values()] == [50, 80]
    page = (root / "work" / "summary_val.md").read_text()
    assert "| jepa |" in page and "50 labels" in page and "bank AUC" in page

    # Again: nothing is computed, everything is read.
    monkeypatch.setattr(suite.Suite, "_predictions", lambda *a: pytest.fail("computed again"))
    suite.main(arguments(root, "--few"))
    again = json.loads((root / "work" / "summary_val.json").read_text())["tables"]
    assert undated(again) == undated(content["tables"])
    with pytest.raises(SystemExit, match="give another --work"):
        suite.main([*arguments(root), "--seeds", "3"])

    # A table of another day stays in the file.
    kept, out = root / "work" / "summary_val.json", root / "all"
    earlier = content | {"tables": {"california": content["tables"].pop("abalone")}}
    Path(f"{out}.json").write_text(json.dumps(earlier))
    suite.main([*arguments(root), "--out", str(out)])
    joined = json.loads(Path(f"{out}.json").read_text())["tables"]
    assert list(joined) == ["california", "bank", "abalone"]
    assert joined["california"] == earlier["tables"]["california"]
    assert joined["bank"]["made"]["seeds"] == 2 and kept.exists()
    earlier["score"] = "test"
    Path(f"{out}.json").write_text(json.dumps(earlier))
    with pytest.raises(SystemExit, match="scores on test rows; give another --out"):
        suite.main([*arguments(root), "--out", str(out)])


def test_development_never_reads_test_rows(load: Any, root: Path) -> None:
    arm = load("tabular_arm")
    data = arm.Data("abalone", "val")
    assert (data.rows[2] == data.rows[1]).all()
    assert {data.table.split[r] for r in data.rows[2]} == {"val"}
    opened = arm.Data("abalone", "test")
    assert {opened.table.split[r] for r in opened.rows[2]} == {"test"}


def test_variants_are_parsed(load: Any) -> None:
    arm = load("tabular_arm")
    found = arm.parse_variant("both:objective.detection=1.0;dim=64;tokens.numeric=ple;steps=7", 99)
    assert (found.name, found.steps) == ("both", 7)
    assert dict(found.settings) == {"objective.detection": 1.0, "tokens.numeric": "ple"}
    assert dict(found.arguments) == {"dim": 64}
    control = arm.untrained(found)
    assert control.steps == 0 and control.arguments == found.arguments
    assert arm.parse_variant("jepa", 99).steps == 99
    for name in ("jepa+more", "a/b", "a--b", ""):
        with pytest.raises(SystemExit, match="give a name without"):
            arm.parse_variant(f"{name}:dim=8", 99)


def test_a_dot_in_a_name_keeps_encoders_apart(load: Any, root: Path) -> None:
    arm = load("tabular_arm")
    data = arm.Data("abalone", "val")
    for weight in ("0.1", "0.2"):
        one = arm.Variant(f"w_{weight}", 0, {}, {"dim": 8, "heads": 1})
        for seed in range(2):
            data.encoder(one, seed, "cpu", root / f"{one.name}_{seed}")
    assert len(list(root.glob("w_*.safetensors"))) == len(list(root.glob("w_*.json"))) == 4


def test_verdicts_count_a_win_over_every_control_only(load: Any) -> None:
    summary = load("tabular_summary")

    def entry(*words: str) -> dict[str, Any]:
        names = [f"jepa-{n}" for n in ("raw", "untrained", "ple", "nystroem", "trees")]
        pairs = dict(zip([*names, "jepa+bar-ple"], words, strict=True))
        heads = {k: {"accuracy": {"outcome": word}} for k, word in pairs.items()}
        return {"metric": "accuracy", "heads": {"linear": {"paired": heads}}}

    tables = {
        "all": entry(*["beats"] * 6),
        "one tie": entry("beats", "tie", "beats", "beats", "beats", "beats"),
        "none": entry(*["falls below"] * 6),
    }
    found = summary.verdicts(tables, "jepa")["linear"]
    assert found["beats all controls"] == ["all"]
    assert found["jepa+bar beats bar"] == ["all", "one tie"]
    assert found["jepa-untrained"] == ["all"]
    # One more untrained encoder is one more control.
    more = tables["all"]["heads"]["linear"]["paired"]
    more["jepa-untrained_linear"] = {"accuracy": {"outcome": "tie"}}
    assert summary.verdicts(tables, "jepa")["linear"]["beats all controls"] == []


def test_a_table_keeps_the_heads_of_another_day(load: Any) -> None:
    joined = load("tabular_summary").joined
    made = {"seeds": 3, "steps": 9}
    old = {"made": made, "heads": {"mlp": 1, "linear": 1}, "few": {"jepa": 1}, "rows": 5}
    new = {"made": made, "heads": {"linear": 2, "dcn": 2}, "few": {}, "rows": 6}
    found = joined(old, new)
    assert list(found["heads"].items()) == [("linear", 2), ("mlp", 1), ("dcn", 2)]
    assert found["few"] == {"jepa": 1} and found["rows"] == 6
    assert joined(None, new) is new
    with pytest.raises(SystemExit, match="a table of 3 seeds, this one has 2"):
        joined(old, new | {"made": {"seeds": 2, "steps": 9}})


def test_the_looped_masker_draws_the_same_distribution(load: Any) -> None:
    step = load("tabular_step")
    fast = FeatureMasker(6, (0.2, 0.8), (0.2, 0.5), 2)
    slow = step.looped(fast)
    shares = []
    for masker in (fast, slow):
        counts = torch.zeros(2, 6)
        lengths = []
        generator = torch.Generator().manual_seed(0)
        for _ in range(800):
            masks = masker(4, generator)
            lengths.append((masks.context.shape[-1], masks.targets.shape[-1]))
            for part, index in enumerate((masks.context, masks.targets)):
                counts[part] += torch.bincount(index.flatten(), minlength=6)
            seen = torch.zeros(4, 6, dtype=torch.bool).scatter_(1, masks.context[:, 0], True)
            assert not seen.gather(1, masks.targets.flatten(1)).any()
        shares.append((counts / counts.sum(1, keepdim=True), np.mean(lengths, axis=0)))
    assert shares[0][0].numpy() == pytest.approx(shares[1][0].numpy(), abs=0.02)
    assert shares[0][1] == pytest.approx(shares[1][1], abs=0.3)


def test_reg_study(load: Any, root: Path) -> None:
    study = load("tabular_reg_study")
    small = ["--tables", "abalone", "--steps", "4", "--seeds", "1", "--tokens", "0", "1"]
    study.main([*small, "--work", str(root / "study")])
    content = json.loads((root / "study" / "summary.json").read_text())
    cases = content["results"]["abalone"]
    assert list(cases) == [
        f"{norm}norm_reg{tokens}{reg}"
        for tokens in (0, 1)
        for norm in ("pre", "post")
        for reg in ("", "_vicreg")
    ]
    first = cases["prenorm_reg1_vicreg"][0]
    assert first["curve"][0]["step"] == 0 and first["curve"][-1]["step"] == 4
    assert {"rankme", "std", "spread"} <= first["curve"][0].keys()
    with pytest.raises(SystemExit, match="other settings"):
        study.main([*small, "--weight", "1.0", "--work", str(root / "study")])
    # Another case is another network, and VICReg another training.
    ends = {name: runs[0]["curve"][-1]["rankme"] for name, runs in cases.items()}
    assert len(set(ends.values())) == len(ends)


def test_reg_study_with_the_network_of_the_paper(load: Any, root: Path) -> None:
    study = load("tabular_reg_study")
    small = ["--tables", "abalone", "--steps", "2", "--seeds", "1", "--limit", "64"]
    paper = ["--paper", "--tokens", "1", "--norms", "post", "--no-vicreg"]
    study.main([*small, *paper, "--work", str(root / "paper")])
    content = json.loads((root / "paper" / "summary.json").read_text())
    assert content["paper"] and list(content["results"]["abalone"]) == ["postnorm_reg1"]
    (case,) = content["results"]["abalone"]["postnorm_reg1"]
    assert case["curve"][-1]["step"] == 2
    default = study.configuration({"encoder.num_prefix": 4, "train.steps": 2}, None)
    config = study.as_published(default)
    assert (config.encoder.depth, config.encoder.num_prefix, config.train.steps) == (16, 4, 2)
    assert config.train.lr == 3.66e-4


def test_one_encoder_over_many_tables(load: Any, root: Path) -> None:
    many, pretraining = load("tabular_many"), load("jepa_modalities.estimator.pretraining")
    own = ["--steps", "3", "--work", str(root / "many"), "--tables", "abalone"]

    def weights(table: str) -> Any:
        file = root / "many" / table / "many_0.safetensors"
        return load("jepa_modalities.export.encoder").load_encoder(file).encoder.state_dict()

    # Alone, a table gets the very encoder that the library trains.
    many.main(own)
    data = load("tabular_arm").Data("abalone", "val")
    config = pretraining.configuration({"train.steps": 3, "train.device": "cpu"}, None)
    table = pretraining.in_memory(data.frame(0).reset_index(drop=True), ("level",))
    alone = pretraining.pretrain_table(config, table).encoder.encoder.state_dict()
    assert {k: v.tolist() for k, v in weights("abalone").items()} == {
        k: v.tolist() for k, v in alone.items()
    }

    # Together, tables share blocks and nothing else, and both have moved them.
    many.main([*own, "bank"])
    first, second = weights("abalone"), weights("bank")
    common = [k for k in first if k.startswith(("blocks", "norm"))]
    assert common and all(torch.equal(first[k], second[k]) for k in common)
    own_weights = "embed.number.linear.weight"
    assert not torch.equal(first[own_weights], second[own_weights])
    assert not torch.equal(first["blocks.0.mlp.fc1.weight"], alone["blocks.0.mlp.fc1.weight"])


def test_step_times(load: Any, root: Path) -> None:
    step = load("tabular_step")
    own = ["--tables", "abalone", "--batch", "16", "--targets", "2", "--rounds", "1"]
    step.main([*own, "--out", str(root / "step")])
    found = json.loads((root / "step.json").read_text())["results"][0]
    seconds = found["masker_seconds"]
    assert found["masker_ratio"] == pytest.approx(seconds["per sample"] / seconds["vectorised"])
    assert found["epoch_seconds"] == pytest.approx(
        found["step_seconds"]["vectorised"] * found["rows"] / 16
    )


@pytest.mark.parametrize("objective", ["label_free", "validation_labels"])
def test_search(load: Any, root: Path, objective: str) -> None:
    pytest.importorskip("optuna")
    search = load("tabular_search")
    own = [objective, "--table", "abalone", "--steps", "1", "--trials", "2"]
    search.main([*own, "--out", str(root / "search.json")])
    found = json.loads((root / "search.json").read_text())
    assert len(found["trials"]) == 2 and found["labels_used"] == (objective != "label_free")
    assert found["value"] == max(trial["value"] for trial in found["trials"])
    assert found["made"]["command"].startswith("python benchmarks/") and found["steps"] == 1


def test_a_search_that_broke_off_goes_on(
    load: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    search = load("tabular_search")
    scored: list[float] = []
    most = [13]  # trials until somebody stops it

    def score(model: Any, data: Any) -> float:
        if len(scored) == most[0]:
            raise KeyboardInterrupt
        scored.append(float(model.learning_rate))
        return -abs(np.log(scored[-1] / 1e-3))

    monkeypatch.setitem(search.OBJECTIVES, "label_free", score)
    monkeypatch.setattr(search.TabularJEPA, "fit", lambda self, frame: self)
    own = ["label_free", "--table", "abalone", "--trials", "15", "--out"]
    with pytest.raises(KeyboardInterrupt):
        search.main([*own, str(root / "search.json")])
    kept = json.loads((root / "search.json").read_text())["trials"]
    assert len(kept) == 13
    scored.clear()
    search.main([*own, str(root / "search.json")])
    assert len(scored) == 2  # the rest, the thirteen are not run again
    most[0] = 15
    scored.clear()
    search.main([*own, str(root / "whole.json")])
    parts = [json.loads((root / n).read_text()) for n in ("search.json", "whole.json")]
    assert undated(parts[0]) == undated(parts[1]) and parts[0]["trials"][:13] == kept
    with pytest.raises(SystemExit, match=r"holds a search with steps 2000, this one has 5"):
        search.main([*own, str(root / "search.json"), "--steps", "5"])
    broken = parts[0] | {"trials": [{**kept[0], "dim": 7}]}
    (root / "search.json").write_text(json.dumps(broken))
    with pytest.raises(SystemExit, match=r"trial 0 in .* the sampler now draws"):
        search.main([*own, str(root / "search.json")])


def test_the_label_free_objective_sees_no_label(
    load: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm, search = load("tabular_arm"), load("tabular_search")
    data = arm.Data("abalone", "val")
    model = arm.TabularJEPA(steps=0, dim=8, heads=1, random_state=0).fit(data.frame(0))
    value = search.label_free(model, data)
    for name in ("y", "val_y", "truth"):
        monkeypatch.setattr(data, name, None)
    assert search.label_free(model, data) == value


def test_the_contrastive_loss_is_the_librarys(load: Any) -> None:
    loss = pytest.importorskip("ts3l.models.scarf.loss").NTXentLoss(0.5)
    first, second = torch.nn.functional.normalize(torch.randn(2, 6, 4), dim=-1)
    expected = loss(first, second)
    assert load("tabular_peer").contrast(first, second, 0.5) == pytest.approx(float(expected))


@pytest.mark.parametrize("name", ["scarf", "vime"])
def test_peers(load: Any, root: Path, name: str) -> None:
    pytest.importorskip("ts3l")
    peer = load("tabular_peer")
    data = load("tabular_arm").Data("bank", "val")
    first, again = (peer.peer_features(data, name, 2, 0) for _ in range(2))
    assert first[0].shape == (80, peer.WIDTH) and first[1].shape == (40, peer.WIDTH)
    assert np.array_equal(first[0], again[0]) and np.isfinite(first[0]).all()
    assert not np.array_equal(first[0], peer.peer_features(data, name, 4, 0)[0])


def test_a_peer_is_trained_once_for_all_heads(
    load: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ts3l")
    suite = load("tabular_suite")
    own = [*arguments(root), "--tables", "bank", "--peers", "vime", "--heads"]
    suite.main([*own, "linear"])
    peer = load("tabular_peer")
    monkeypatch.setattr(peer, "peer_features", lambda *a: pytest.fail("trained again"))
    suite.main([*own, "linear", "boosting"])
    heads = json.loads((root / "work" / "summary_val.json").read_text())["tables"]["bank"]["heads"]
    for head in ("linear", "boosting"):
        assert len(heads[head]["arms"]["peer_vime"]["accuracy"]) == 2
        assert "jepa-peer_vime" in heads[head]["paired"]
