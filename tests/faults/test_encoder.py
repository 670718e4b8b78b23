"""Encoder files and the config.json of a run."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import jepa_modalities as jm
from jepa_modalities.adapters.base import build_encoder
from jepa_modalities.adapters.tabular.tokenizer import TableTokenizer
from jepa_modalities.api import read_config, recipe, recipes
from jepa_modalities.core.registry import modalities
from jepa_modalities.export.encoder import save_encoder

KINDS = ("image", "ecg", "sar", "tabular")


def tiny(kind: str) -> Any:
    """The configuration of the smallest encoder of a modality."""
    name = next(name for name in recipes() if recipe(name).modality == kind)
    config = recipe(name)
    small = replace(config.encoder, dim=16, depth=1, heads=2)
    return replace(config, encoder=small)


def written(kind: str, path: Path) -> Path:
    """An encoder file with drawn weights."""
    config = tiny(kind)
    modality = modalities[kind]
    encoder = build_encoder(config, modality.geometry(config), modality.embedding(config))
    save_encoder(path, encoder.state_dict(), modality.tokenizer(config).state_dict(), config)
    return path


def reheaded(mutation: ModuleType) -> Callable[[bytes, random.Random], bytes]:
    """The header of a safetensors file damaged, mostly the configuration in it."""

    def damage(content: bytes, draw: random.Random) -> bytes:
        if draw.random() < 0.2:
            return bytes(mutation.binary(content, draw))
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        if draw.random() < 0.7:
            about = header["__metadata__"]
            about["config"] = mutation.json_damage(about["config"].encode(), draw).decode("latin-1")
            text = json.dumps(header).encode()
        else:
            text = mutation.json_damage(content[8 : 8 + length], draw)
        return struct.pack("<Q", len(text)) + text + content[8 + length :]

    return damage


@pytest.mark.parametrize("kind", KINDS)
def test_encoder_files(mutation: ModuleType, tmp_path: Path, kind: str) -> None:
    path = written(kind, tmp_path / "case.safetensors")

    def read() -> None:
        found = jm.load(path)
        assert isinstance(found, torch.nn.Module) and found.dim > 0
        assert found.config.modality in KINDS

    mutation.attack(read, {path: reheaded(mutation)}, count=mutation.COUNT // 4)


def test_configurations(mutation: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(asdict(recipe("image_digits"))))
    known = read_config(path)

    def read() -> None:
        found = read_config(path)
        assert type(found) is type(known)
        for name, section in asdict(known).items():
            assert type(getattr(found, name)) is type(getattr(known, name)), section

    mutation.attack(read, {path: mutation.json_damage})


def test_every_recipe_is_its_own_json(tmp_path: Path) -> None:
    """The check of types takes what the recipes hold."""
    for name in recipes():
        known = recipe(name)
        (tmp_path / "config.json").write_text(json.dumps(asdict(known)))
        assert read_config(tmp_path / "config.json") == known, name


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("encoder.dim", "64", "encoder: dim = '64', expected int"),
        ("encoder.dim", True, "dim = True, expected int"),
        ("encoder.dim", 10**30, "expected int"),
        ("encoder.mlp_ratio", float("nan"), "mlp_ratio = nan, expected float"),
        ("encoder.norm", "middle", "norm = 'middle', expected typing.Literal"),
        ("encoder", 3, "encoder = 3, expected EncoderConfig"),
        ("mask.keep", [0.1], r"keep = \(0.1,\), expected tuple"),
        ("evaluate.shots", ["x"], r"shots = \('x',\), expected tuple"),
        ("train.steps", [], r"steps = \(\), expected int | None"),
        ("modality", ["image"], r"no modality named \['image'\]"),
        ("modality", "nowhere", "no modality named 'nowhere'; there are ecg"),
    ],
)
def test_settings_of_another_kind(
    tmp_path: Path, setting: str, value: object, message: str
) -> None:
    content: Any = asdict(recipe("image_digits"))
    section, _, name = setting.partition(".")
    if name:
        content[section][name] = value
    else:
        content[section] = value
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"config.json.*{message}"):
        read_config(path)


def test_settings_that_are_no_text(tmp_path: Path) -> None:
    for content in (b"\xff\xfe{", 99_999 * b"["):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"config\.json is no JSON file"):
            read_config(tmp_path / "config.json")


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """An encoder file with other settings beside the same weights."""
    with safe_open(path, "pt") as file:
        about = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    content = json.loads(about["config"])
    change(content)
    save_file(tensors, path, {**about, "config": json.dumps(content)})
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "claim", [{"dim": 10**6}, {"depth": 10**9}, {"mlp_ratio": 1e12}, {"num_prefix": 10**10}]
)
def test_sizes_are_held_against_the_weights(
    mutation: ModuleType, tmp_path: Path, kind: str, claim: dict[str, Any]
) -> None:
    """A file of 100 KiB that asks for terabytes gets none."""
    path = written(kind, tmp_path / "case.safetensors")
    rewritten(path, lambda content: content["encoder"].update(claim))
    with mutation.bounded(), pytest.raises(ValueError, match=r"case\.safetensors: .*no encoder"):
        jm.load(path)


def test_bins_of_tables_are_bounded(mutation: ModuleType, tmp_path: Path) -> None:
    path = written("tabular", tmp_path / "case.safetensors")
    bins = {"numeric": 1, "bins": [10**12]}
    rewritten(path, lambda content: content["shape"].update(bins))
    with mutation.bounded(), pytest.raises(ValueError, match=r"case\.safetensors"):
        jm.load(path)


def test_pickles_are_no_encoders(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = tmp_path / "case.safetensors"
    packed = io.BytesIO()
    torch.save({"config": Trap()}, packed)
    for content in (pickle.dumps(Trap()), packed.getvalue(), b"", bytes(8), b"\xff" * 16):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"case\.safetensors"):
            jm.load(path)
    assert not (tmp_path / "sprung").exists()


def test_damaged_preprocessing_of_tables_says_so(tmp_path: Path) -> None:
    for text in (b"{", b'{"columns": 3}', b'{"columns": [], "names": []}'):
        tokenizer = TableTokenizer()
        tokenizer.about = torch.frombuffer(bytearray(text), dtype=torch.uint8).clone()
        with pytest.raises(ValueError, match="preprocessing is damaged"):
            tokenizer.preprocess  # noqa: B018
