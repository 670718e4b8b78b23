"""What people see when something is wrong: exit code 2, one readable message, no traceback."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from jepa_modalities.cli.main import main
from jepa_modalities.train import checkpoint
from jepa_modalities.train.log import read

Told = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """Run a command; its exit code and what it wrote to the error stream."""

    def run(*args: str) -> tuple[int, str]:
        capsys.readouterr()
        try:
            code = main(args)
        except SystemExit as error:  # the parsers' way to end
            code = error.code if isinstance(error.code, int) else 1
        message = capsys.readouterr().err
        assert "Traceback" not in message
        return code, message

    return run


@pytest.fixture(scope="module")
def run(digits: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 6 steps with checkpoints of steps 5 and 6."""
    folder = tmp_path_factory.mktemp("run") / "run"
    assert main(["pretrain", *digits, "--out", str(folder), "--quiet"]) == 0
    return folder


def copied(run: Path, to: Path) -> Path:
    return Path(shutil.copytree(run, to / "copy"))


@pytest.fixture(scope="module")
def bad_data(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("bad")
    (top / "empty").mkdir()
    shutil.copytree(photos, top / "corrupt")
    file = top / "corrupt" / "a" / "04.png"
    file.write_bytes(file.read_bytes()[:90])
    (top / "table.csv").write_text("a,b\n")
    pixels = np.zeros((9, 8, 8), np.float32)
    np.save(top / "flat.npy", pixels[0, 0])
    pixels[3, 2, 1] = np.nan
    np.save(top / "nan.npy", pixels)
    np.save(top / "channels.npy", np.zeros((9, 8, 8, 5), np.uint8))
    return top


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("nowhere/at/all", ["nowhere/at/all", "does not exist", "folder of images"]),
        ("empty", ["empty holds no images", "it is empty"]),
        ("corrupt", ["1 of 40 images", "a/04.png", "--data.on-error skip"]),
        ("table.csv", ["table.csv", "'.csv'", ".npy"]),
        ("nan.npy", ["nan.npy", "NaN"]),
        ("flat.npy", ["flat.npy", "(8,)"]),
        ("channels.npy", ["channels.npy", "(9, 8, 8, 5)"]),
        ("", ["data.path is not given"]),
    ],
)
def test_bad_data(
    path: str, parts: list[str], bad_data: Path, digits: list[str], told: Told, tmp_path: Path
) -> None:
    place = str(bad_data / path) if path and not path.startswith("nowhere") else path
    out = tmp_path / "run"
    code, message = told("pretrain", *digits, "--data.path", place, "--out", str(out))
    assert code == 2 and message.startswith("error: ")
    for part in parts:
        assert part in message
    assert not (out / "config.json").exists()  # the folder is still free for a second try


def test_unreadable_images_are_left_out_if_asked(
    bad_data: Path, digits: list[str], told: Told, tmp_path: Path
) -> None:
    flags = ["--data.path", str(bad_data / "corrupt"), "--data.on-error", "skip"]
    flags += ["--train.workers", "0", "--train.steps", "1"]
    code, message = told("pretrain", *digits, *flags, "--out", str(tmp_path / "run"), "--quiet")
    assert code == 0, message


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--data.patch", "3"], ["(8, 8)", "data.patch = 3"]),
        (["--train.lrr", "1"], ["--train.lrr"]),
        (["--train.epochs", "many"], ["--train.epochs"]),
        (["--train.batch-size", "0"], ["train.batch_size = 0", "at least 1"]),
        (["--train.accumulate", "2"], ["train.accumulate = 2", "whole batch"]),
        (["--encoder.heads", "3"], ["heads = 3", "16"]),
        (["--mask.kind", "random"], ["encoder.stem = 'conv'", "'linear'"]),
        (["--regulariser.kind", "none"], ["leave nothing to learn from"]),
        (["--train.device", "cuda:7"], ["train.device = 'cuda:7'"]),
        (
            ["--target.kind", "pixel", "--encoder.stem", "linear", "--mask.kind", "random"],
            ["'pixels'"],
        ),
        (["--resume"], ["no ", "config.json", "run folder"]),
        (["--resume-step", "four"], ["--resume-step", "four"]),
    ],
)
def test_impossible_settings(
    flags: list[str], parts: list[str], digits: list[str], told: Told, tmp_path: Path
) -> None:
    if flags == ["--train.device", "cuda:7"] and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    code, message = told("pretrain", *digits, *flags, "--out", str(tmp_path / "run"))
    assert code == 2
    for part in parts:
        assert part in message


def test_resume_without_a_folder(told: Told) -> None:
    code, message = told("pretrain", "image_digits", "--resume")
    assert code == 2 and "--resume needs --out DIR" in message


def test_unknown_names(told: Told, tmp_path: Path) -> None:
    code, message = told("pretrain", "image_digit")
    assert code == 2 and "'image_digit'" in message and "image_digits" in message
    code, message = told("pretrian", "image_digits")
    assert code == 2 and "'pretrian'" in message and "pretrain" in message
    code, message = told("evaluate", str(tmp_path / "nothing"))
    assert code == 2 and "is this a run folder?" in message
    code, message = told("embed", str(tmp_path), "digits", "--out", "x.npy")
    assert code == 2 and "no encoder file" in message
    code, message = told("embed", str(tmp_path), "digits", "--out", "x.txt")
    assert code == 2 and ".parquet" in message
    (tmp_path / "other.json").write_text('{"train": {}}')
    code, message = told("pretrain", str(tmp_path / "other.json"))
    assert code == 2 and "names no 'modality'" in message
    (tmp_path / "other.json").write_text("{")
    code, message = told("pretrain", str(tmp_path / "other.json"))
    assert code == 2 and "is no JSON file" in message


def test_a_used_folder_is_not_begun_again(run: Path, digits: list[str], told: Told) -> None:
    before = (run / "log.jsonl").read_bytes()
    code, message = told("pretrain", *digits, "--out", str(run))
    assert code == 2 and "holds a run already" in message and "--resume" in message
    assert (run / "log.jsonl").read_bytes() == before


def test_a_file_as_folder(digits: list[str], told: Told, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, message = told("pretrain", *digits, "--out", str(tmp_path / "file"))
    assert code == 2 and "is a file; name a folder" in message


@pytest.mark.parametrize("command", ["pretrain", "resume", "evaluate"])
def test_a_folder_in_use(
    command: str, run: Path, digits: list[str], told: Told, tmp_path: Path
) -> None:
    folder = copied(run, tmp_path)
    hold = (
        "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.lockf(file, fcntl.LOCK_EX);"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(folder / "run.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        if command == "evaluate":
            code, message = told("evaluate", str(folder))
        else:
            extra = ["--resume"] if command == "resume" else []
            code, message = told("pretrain", *digits, "--out", str(folder), *extra)
        holder.communicate("")
    assert code == 2 and f"{folder} is in use by another process" in message


def test_other_settings_do_not_go_on(run: Path, digits: list[str], told: Told) -> None:
    flags = ["--out", str(run), "--resume"]
    code, message = told("pretrain", *digits, "--train.lr", "0.5", "--encoder.depth", "2", *flags)
    assert code == 2 and "begun with other settings" in message
    assert "train.lr: 0.003 -> 0.5" in message and "encoder.depth: 1 -> 2" in message
    assert message.count("->") == 2
    code, message = told("pretrain", "image_digits", "--seed", "5", *flags)
    assert code == 2 and "train.seed: 0 -> 5" in message and message.count("->") == 1
    code, message = told("pretrain", "image_ijepa_cifar10_tiny_cpu", *flags)
    assert code == 2 and "'image_digits', not 'image_ijepa_cifar10_tiny_cpu'" in message


def test_a_damaged_checkpoint_offers_the_one_before(
    run: Path, digits: list[str], told: Told, tmp_path: Path
) -> None:
    folder = copied(run, tmp_path)
    assert checkpoint.steps(folder) == [5, 6]
    losses = [record["loss"] for record in read(folder)]
    weights = folder / "checkpoint" / "step-000000006" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    code, message = told("pretrain", "image_digits", "--out", str(folder), "--resume")
    assert code == 2 and "is damaged" in message and "--resume-step 5" in message
    assert [record["step"] for record in read(folder)] == [1, 2, 3, 4, 5, 6]  # nothing was redone
    flags = ["--out", str(folder), "--resume-step", "5", "--quiet"]
    code, message = told("pretrain", "image_digits", *flags)
    assert code == 0, message
    assert [record["loss"] for record in read(folder)] == losses
    assert checkpoint.load(folder)[0] == 6


def test_no_checkpoint_is_no_silent_start_at_zero(run: Path, told: Told, tmp_path: Path) -> None:
    folder = copied(run, tmp_path)
    shutil.rmtree(folder / "checkpoint")
    code, message = told("pretrain", "image_digits", "--out", str(folder), "--resume")
    assert code == 2 and "no checkpoint in" in message and "remove" in message


def test_a_finished_run_goes_on_to_its_evaluation_only(
    run: Path, told: Told, tmp_path: Path
) -> None:
    folder = copied(run, tmp_path)
    old = json.loads((folder / "metrics.json").read_text())
    log = (folder / "log.jsonl").read_text()
    for name in ("metrics.json", "report.html", "encoder.safetensors"):
        (folder / name).unlink()
    code, message = told("pretrain", "image_digits", "--out", str(folder), "--resume", "--quiet")
    assert code == 0, message
    assert (folder / "log.jsonl").read_text() == log
    new_weights, weights = (load_file(path / "encoder.safetensors") for path in (folder, run))
    assert new_weights.keys() == weights.keys()
    assert all(torch.equal(new_weights[name], value) for name, value in weights.items())
    new = json.loads((folder / "metrics.json").read_text())
    assert (folder / "report.html").exists() and new.keys() == old.keys()
    assert new["speed/samples_per_second"] > 0
    assert all(new[key] == value for key, value in old.items() if not key.startswith("speed/"))


def test_an_unfinished_run_has_no_metrics_to_evaluate(
    run: Path, told: Told, tmp_path: Path
) -> None:
    folder = copied(run, tmp_path)
    (folder / "encoder.safetensors").unlink()
    code, message = told("evaluate", str(folder))
    assert code == 2 and "not come to an end" in message and "--resume" in message


@contextmanager
def full_disk(folder: Path, free: int) -> Iterator[None]:
    """A file system of `free` KiB where one may be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={free}k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root on Linux")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(digits: list[str], told: Told, tmp_path: Path) -> None:
    with full_disk(tmp_path / "disk", 260):
        folder = tmp_path / "disk" / "run"
        code, message = told("pretrain", *digits, "--out", str(folder), "--quiet")
        assert code == 2 and "No space left" in message and "the disk is full" in message
        there = checkpoint.steps(folder)
        assert there, "the first checkpoint fits"
        assert checkpoint.load(folder)[0] == there[-1]


def test_a_read_only_run_folder(digits: list[str], told: Told, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with full_disk(disk, 4_000):
        assert told("pretrain", *digits, "--out", str(disk / "run"), "--quiet")[0] == 0
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for out, more in (("run", ["--resume"]), ("other", [])):
            code, message = told("pretrain", *digits, "--out", str(disk / out), "--quiet", *more)
            assert code == 2 and "Read-only file system" in message and str(disk / out) in message
        (code, message), folder = told("evaluate", str(disk / "run")), tmp_path / "features.npy"
        assert code == 2 and "Read-only file system" in message
        # Using the encoder writes nothing beside it.
        np.save(tmp_path / "digits.npy", np.zeros((3, 8, 8), np.uint8))
        command = ["embed", str(disk / "run"), str(tmp_path / "digits.npy"), "--out", str(folder)]
        assert told(*command)[0] == 0 and len(np.load(folder)) == 3


def test_a_file_size_limit(digits: list[str], told: Told, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 10, before[1]))
    try:
        code, message = told("pretrain", *digits, "--out", str(tmp_path / "run"), "--quiet")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert code == 2 and "File too large" in message


def test_a_diverged_run_says_so_and_its_folder_stays_free(
    digits: list[str], told: Told, tmp_path: Path
) -> None:
    out = ["--out", str(tmp_path / "run"), "--quiet"]
    wild = ["--train.lr", "1e30", "--train.lr-start", "1e30", "--train.clip", "1e30"]
    code, message = told("pretrain", *digits, *wild, *out)
    assert code == 2 and "lower train.lr" in message
    code, message = told("pretrain", *digits, "--train.steps", "1", *out)
    assert code == 0, message  # nothing was lost by beginning again


def test_settings_that_change_no_result_are_free_on_resume(
    run: Path, told: Told, tmp_path: Path
) -> None:
    folder = copied(run, tmp_path)
    flags = ["--train.workers", "0", "--train.log-every", "3", "--out", str(folder), "--resume"]
    code, message = told("pretrain", "image_digits", *flags, "--quiet")
    assert code == 0, message
