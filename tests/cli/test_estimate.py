"""`jm estimate`: a table and JSON for every modality, and complaints that name the remedy."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jepa_modalities.cli.main import main

# Small networks, and no hardware that is to be measured.
GPU = ["--hardware", "h100x1"]
RECIPES = {
    "image": ["image_ijepa_cifar10_tiny_cpu", "--encoder.depth", "1"],
    "tabular": ["tabular_breast_cancer"],
    "ecg": ["ecg_ptbxl_sub100_tiny", "--encoder.depth", "1"],
    "sar": ["sar_target_mstar_tiny_cpu", "--encoder.depth", "1"],
}


def report(args: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["estimate", *args, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("modality", RECIPES)
def test_every_modality_has_a_table(modality: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", *RECIPES[modality], *GPU]) == 0
    out = capsys.readouterr().out
    for word in ("parameters", "FLOP", "hours", "h100x1", "assumed: $3 per device", "predicted"):
        assert word in out
    assert "Not in it: reading data" in out


def test_json_says_what_the_table_says(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["image_digits", "--hardware", "h100x1", "a100x4", "--price", "2.5", "--mfu", "0.1"]
    found = report(args, capsys)
    assert (found["recipe"], found["modality"]) == ("image_digits", "image")
    assert (found["steps"], found["batch_size"]) == (1200, 64)
    assert (found["samples"], found["samples_from"][:6]) == (1080, "digits")
    assert found["flops_per_run"] == 1200 * found["flops_per_step"]
    one, four = found["hardware"]
    assert (one["hardware"], four["hardware"], four["devices"]) == ("h100x1", "a100x4", 4)
    for place in (one, four):
        assert (place["mfu"], place["price"], place["fits"]) == (0.1, 2.5, True)
        assert place["cost"] == pytest.approx(2.5 * place["devices"] * place["hours"])
        assert place["hours"] == pytest.approx(1200 * place["seconds"] / 3600)
    assert set(one["memory"]) == {"weights", "gradients", "optimiser", "teacher", "activations"}


def test_epochs_and_samples(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["image_digits", *GPU, "--train.epochs", "4"]
    assert report(args, capsys)["steps"] == 68  # 4 * 1,080 / 64, rounded up
    found = report([*args, "--samples", "640"], capsys)
    assert (found["steps"], found["samples_from"]) == (40, "--samples")
    small = ["sar_synthetic", *GPU, "--train.epochs", "4"]
    assert main(["estimate", *small]) == 2
    assert "give --samples N" in capsys.readouterr().err


def test_a_table_that_is_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["tabular_jannis", *GPU, "--data.path", "elsewhere.csv"]
    found = report(args, capsys)
    assert found["samples"] == 10_718
    assert "columns as documented" in found["notes"][0]
    wide = report([*args, "--shape.numeric", "100"], capsys)
    assert wide["flops_per_step"] > 1.5 * found["flops_per_step"]
    assumed = report(["tabular", *GPU], capsys)
    assert "8 numeric columns are assumed" in assumed["notes"][0]


def test_complaints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "image_digits", "--hardware", "tpu"]) == 2
    error = capsys.readouterr().err
    assert "'tpu' is not known" in error and "h100x8" in error and "cpu" in error
    assert main(["estimate", "image_digits", *GPU, "--mfu", "20"]) == 2
    assert "--mfu 20" in capsys.readouterr().err
    assert main(["estimate", "image_digits", "--hardware", "h100x3"]) == 2
    assert "cannot be split over 3 processes" in capsys.readouterr().err
    assert main(["estimate", "no_such_recipe"]) == 2
    assert "image_digits" in capsys.readouterr().err
    assert main(["estimate"]) == 2
