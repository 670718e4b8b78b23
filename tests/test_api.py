"""The public Python names on a tiny run: what the folder holds, what can be done with it."""

from __future__ import annotations

import json
import math
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import jepa_modalities as jm
from jepa_modalities.api import begun, read_config, recipe
from jepa_modalities.cli.main import main
from jepa_modalities.data.image import digits
from jepa_modalities.settings import changed
from jepa_modalities.train import environment
from jepa_modalities.train.log import read

SETTINGS: dict[str, Any] = {
    "data.limit": 200,
    "encoder.dim": 16,
    "encoder.depth": 1,
    "encoder.heads": 2,
    "regulariser.widths": (8, 8),
    "evaluate.poolings": ("mean", "tokens"),
    "evaluate.pooling": "mean",
    "evaluate.probes": ("ridge", "knn"),
    "evaluate.shots": (3,),
    "evaluate.draws": 2,
    "evaluate.untrained": 1,
    "target.centroids": 40,
}
TRAIN: dict[str, Any] = {"steps": 12, "batch_size": 16, "log_every": 3, "device": "cpu"}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> jm.Run:
    """Pretrained and probed on digits that lie in files of the user's."""
    top = tmp_path_factory.mktemp("work")
    for name, part in zip(("train", "test"), digits(), strict=True):
        assert part.images is not None and part.labels is not None
        np.save(top / f"{name}.npy", part.images[:, 0].numpy())
        np.save(top / f"{name}_labels.npy", part.labels.numpy())
    paths = {"data.path": str(top / "train.npy"), "data.test_path": str(top / "test.npy")}
    settings = {**SETTINGS, **paths}
    return jm.pretrain("image_digits", top / "run", seed=3, settings=settings, quiet=True, **TRAIN)


def test_the_run_folder_is_whole(run: jm.Run) -> None:
    names = {path.name for path in run.path.iterdir()}
    assert names >= {
        "config.json",
        "log.jsonl",
        "log.csv",
        "metrics.json",
        "encoder.safetensors",
        "student.safetensors",
        "checkpoint",
        "env.json",
        "report.html",
    }
    assert not [name for name in names if name.startswith(".")], "temporary files are left"
    config = run.config
    assert (config.recipe, config.train.seed, config.train.steps) == ("image_digits", 3, 12)
    assert config.encoder.dim == 16 and config == read_config(run.path / "config.json")
    env = json.loads((run.path / "env.json").read_text())
    assert env["processes"] == 1 and env["torch"] == torch.__version__
    assert [record["step"] for record in read(run.path)] == list(range(1, 13))


def test_files_get_the_mode_that_the_umask_gives(run: jm.Run) -> None:
    os.umask(mask := os.umask(0))
    for path in run.path.rglob("*"):
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask, path


def test_metrics_are_flat_floats_beside_their_controls(run: jm.Run) -> None:
    metrics = run.metrics
    assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
    for probe in ("ridge", "knn", "linear_3shot"):
        for arm in ("encoder", "student", "untrained", "raw", "bar", "encoder+bar"):
            key = f"{arm}/{probe}/accuracy"
            low, value, high = metrics[f"{key}_low"], metrics[key], metrics[f"{key}_high"]
            assert low <= value <= high and 0 <= value <= 1, key
            assert metrics[f"{key}_seeds"] >= 1
        assert f"encoder/{probe}@tokens/accuracy" in metrics
    for name in ("rankme", "effective_rank", "std", "spread", "cosine"):
        assert {f"collapse/{name}", f"collapse/{name}_start"} <= metrics.keys()
    assert metrics["train/steps"] == 12 and metrics["train/samples_seen"] == 12 * 16
    assert metrics["speed/samples_per_second"] > 0


def test_the_encoder_embeds_what_users_have(run: jm.Run) -> None:
    encoder = jm.load(run.path)
    assert isinstance(encoder, jm.PretrainedEncoder) and not encoder.training
    images = digits()[1].images
    assert images is not None
    images = images[:7]
    array = images[:, 0].numpy()
    features = encoder.embed(array)
    assert features.shape == (7, 16) and features.dtype == np.float32
    with torch.no_grad():
        expected = encoder(images).tokens.mean(1).numpy()
    np.testing.assert_allclose(features, expected, atol=1e-5)
    for same in (images, array[..., None], list(array), run.path.parent / "test.npy"):
        np.testing.assert_allclose(encoder.embed(same)[:7], features, atol=1e-5)
    assert encoder.embed(array, pooling="tokens").shape == (7, 16 * 16)
    np.testing.assert_allclose(encoder.embed(array, batch_size=2), features, atol=1e-5)
    from_file = jm.load(run.path / "encoder.safetensors").embed(array)
    assert np.array_equal(from_file, run.encoder.embed(array))
    # Other sizes are resized to the encoder's.
    assert encoder.embed(np.zeros((2, 20, 30), np.uint8)).shape == (2, 16)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (np.zeros((8, 8), np.uint8), r"shape \(8, 8, 1\)|\(samples, height, width"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"shape \(2, 3, 8, 8\).*\(samples, 1"),
        (np.zeros((2, 8, 8), np.float32), r"float32.*expected uint8"),
        (torch.zeros(2, 5, 8, 8, dtype=torch.uint8), r"\(2, 5, 8, 8\)"),
        (torch.zeros(8, 8, dtype=torch.uint8), r"\(8, 8\)"),
    ],
)
def test_wrong_input_is_named(run: jm.Run, raw: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jm.load(run.path).embed(raw)


def test_unknown_pooling_and_damaged_files(run: jm.Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'max'.*mean_std_max"):
        jm.load(run.path).embed(np.zeros((2, 8, 8), np.uint8), pooling="max")
    content = (run.path / "encoder.safetensors").read_bytes()
    broken = tmp_path / "encoder.safetensors"
    broken.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="is damaged or no safetensors file"):
        jm.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no encoder file at"):
        jm.load(tmp_path / "nothing.safetensors")


def test_probes_that_fail_do_not_lose_the_encoder(
    run: jm.Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("one class only")

    copy = shutil.copytree(run.path, tmp_path / "copy")
    before = (copy / "metrics.json").read_text()
    with monkeypatch.context() as patched:
        patched.setattr("jepa_modalities.adapters.image.adapter.ImageAdapter.evaluate", broken)
        assert main(["evaluate", str(copy)]) == 2
    said = capsys.readouterr().err
    assert "error: one class only" in said and f"jm evaluate {copy}" in said
    assert (copy / "metrics.json").read_text() == before
    assert main(["evaluate", str(copy)]) == 0


def test_a_run_without_metrics_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no metrics\.json in .*--resume"):
        _ = jm.Run(tmp_path).metrics
    with pytest.raises(FileNotFoundError, match="is this a run folder"):
        _ = jm.Run(tmp_path).config


def test_a_moved_run_is_evaluated_where_its_data_are(
    run: jm.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder and the data went to another place; the old place is gone."""
    moved = Path(shutil.copytree(run.path, tmp_path / "moved"))
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train", "train_labels", "test", "test_labels"):
        shutil.copy(run.path.parent / f"{name}.npy", data)
    content = (moved / "config.json").read_text()
    (moved / "config.json").write_text(content.replace(str(run.path.parent), "/nowhere"))
    before = run.metrics
    assert main(["evaluate", str(moved)]) == 2
    assert "'/nowhere/train.npy' does not exist" in capsys.readouterr().err
    flags = ["--data.path", str(data / "train.npy"), "--data.test-path", str(data / "test.npy")]
    assert main(["evaluate", str(moved), *flags, "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics == jm.Run(moved).metrics
    assert metrics.keys() == before.keys()
    for key, value in before.items():
        assert metrics[key] == pytest.approx(value, abs=1e-9), key
    assert np.array_equal(
        jm.load(moved).embed(np.zeros((2, 8, 8), np.uint8)),
        run.encoder.embed(np.zeros((2, 8, 8), np.uint8)),
    )


def test_other_poolings_without_training_again(run: jm.Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.path, tmp_path / "copy"))
    weights = (copy / "encoder.safetensors").read_bytes()
    settings = {"evaluate.poolings": ("mean_std_max",), "evaluate.pooling": "mean_std_max"}
    fewer = {"evaluate.shots": (), "evaluate.probes": ("knn",)}
    metrics = jm.evaluate(copy, {**settings, **fewer})
    assert metrics["encoder/width"] == 3 * 16
    assert "encoder/knn/accuracy" in metrics and "encoder/linear_3shot/accuracy" not in metrics
    assert metrics["speed/samples_per_second"] == run.metrics["speed/samples_per_second"]
    assert (copy / "encoder.safetensors").read_bytes() == weights


@pytest.fixture
def from_gpu(run: jm.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was trained on a GPU and came to a machine without one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    folder = Path(shutil.copytree(run.path, tmp_path / "from_gpu"))
    content = json.dumps(asdict(changed(run.config, {"train.device": "cuda"})))
    (folder / "config.json").write_text(content)
    for file in (folder / "encoder.safetensors", folder / "student.safetensors"):
        with safe_open(file, "pt") as opened:
            about = opened.metadata()
        save_file(load_file(file), file, {**about, "config": content})
    return folder


def test_a_run_from_a_gpu_is_evaluated_without_one(
    run: jm.Run, from_gpu: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = ["--evaluate.probes", "knn", "--evaluate.shots", "--evaluate.poolings", "mean"]
    assert main(["evaluate", str(from_gpu), *fewer]) == 2
    message = capsys.readouterr().err
    assert "train.device = 'cuda', but PyTorch" in message
    assert "--device cpu for jm evaluate" in message
    assert main(["evaluate", str(from_gpu), *fewer, "--device", "cpu", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    for key in ("encoder/knn/accuracy", "untrained/knn/accuracy", "raw/knn/accuracy"):
        assert metrics[key] == pytest.approx(run.metrics[key], abs=1e-9), key
    # The flag that pretraining knows means the same here; other flags are not swallowed.
    none = ["--evaluate.enabled", "False"]
    assert main(["evaluate", str(from_gpu), *none, "--train.device", "cpu"]) == 0
    assert jm.evaluate(from_gpu, {"evaluate.enabled": False}, device="auto")
    capsys.readouterr()
    assert main(["evaluate", str(from_gpu), "--device", "cpu", "--train.lr", "1.0"]) == 2
    assert "train.lr: 0.003 -> 1.0" in capsys.readouterr().err
    assert jm.Run(from_gpu).config.train.device == "cuda"


def test_an_encoder_from_a_gpu_embeds_without_one(
    run: jm.Run, from_gpu: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.zeros((2, 8, 8), np.uint8)
    expected = run.encoder.embed(images)
    for encoder in (jm.load(from_gpu), jm.load(from_gpu, "auto"), jm.Run(from_gpu).encoder):
        assert encoder.config.train.device == "cuda"
        assert np.array_equal(encoder.embed(images), expected)
    with pytest.raises(ValueError, match=r"^device = 'cuda'.*no CUDA device; use 'cpu'"):
        jm.load(from_gpu, "cuda")
    np.save(tmp_path / "images.npy", images)
    command = ["embed", str(from_gpu), str(tmp_path / "images.npy")]
    out = ["--out", str(tmp_path / "features.npy")]
    assert main([*command, *out]) == 0 and main([*command, *out, "--device", "auto"]) == 0
    assert np.array_equal(np.load(tmp_path / "features.npy"), expected)
    assert main([*command, *out, "--device", "cuda"]) == 2
    assert "device = 'cuda', but PyTorch finds no CUDA device" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_run(run: jm.Run, tmp_path: Path) -> None:
    config = run.config
    quick = {"evaluate.enabled": False}
    again = jm.pretrain(config, tmp_path / "again", settings=quick, quiet=True)
    other = jm.pretrain(config, tmp_path / "other", seed=4, settings=quick, quiet=True)
    losses = [[r["loss"] for r in read(path)] for path in (run.path, again.path, other.path)]
    assert losses[0] == losses[1] != losses[2]
    replayed = jm.pretrain(
        str(run.path / "config.json"), tmp_path / "json", settings=quick, quiet=True
    )
    assert [r["loss"] for r in read(replayed.path)] == losses[0]


def test_recipes_and_their_names() -> None:
    known = jm.recipes()
    assert "image_digits" in known and all(known.values())
    for name in known:
        assert recipe(name).recipe == name
    with pytest.raises(KeyError, match="image_digits"):
        recipe("image_digit")


def test_resume_in_python(run: jm.Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="resume needs out"):
        jm.pretrain("image_digits", resume=True)
    with pytest.raises(FileNotFoundError, match="is this a run folder"):
        jm.pretrain("image_digits", tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"train\.lr: 0\.003 -> 1\.0"):
        jm.pretrain("image_digits", run.path, resume=True, lr=1.0)
    assert begun(run.path, recipe("image_digits")) == run.config
    with pytest.raises(ValueError, match=r"no setting 'train\.lrr'; there are"):
        jm.pretrain("image_digits", tmp_path / "new", lrr=1.0)
    assert not (tmp_path / "new").exists()


def test_a_package_inside_another_repository_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installed below somebody's own repository, env.json must not name that one's commit."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.invalid", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    inside = tmp_path / "environment.py"
    inside.write_text("")
    monkeypatch.setattr(environment, "__file__", str(inside))
    assert environment.commit() is None
    subprocess.run([*git, "add", "environment.py"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "ours"], check=True)
    named = environment.commit()
    assert named is not None and len(named) == 12
    inside.write_text("changed")
    assert environment.commit() == f"{named}-changed"
