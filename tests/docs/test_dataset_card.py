"""The cards under datasets/ tell the truth about the data that they describe."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
CARDS = ROOT / "datasets"
IMAGES = Path(os.environ.get("JEPA_DATA", ROOT.parent / "shared" / "data")) / "images"
needs_images = pytest.mark.skipif(not IMAGES.is_dir(), reason=f"no data at {IMAGES}")


def script(name: str) -> ModuleType:
    path = CARDS / name / "build.py"
    spec = importlib.util.spec_from_file_location(f"build_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("card", sorted(CARDS.glob("*/README.md")), ids=lambda p: p.parent.name)
def test_a_card_names_what_users_must_know(card: Path) -> None:
    text = card.read_text()
    for word in (
        "| Source |",
        "| Licence |",
        "| Citation |",
        "## Splits",
        "sha256",
        "build.py",
    ):
        assert word in text, word
    assert re.search(r"\b[0-9a-f]{64}\b", text)


def test_digits(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    development, test = script("digits").build(tmp_path)
    bunch, order = load_digits(), np.random.RandomState(0).permutation(1797)
    for path, rows in ((development, order[:1200]), (test, order[1200:])):
        with np.load(path) as file:
            assert np.array_equal(file["images"], np.rint(bunch.images[rows] * 255 / 16))
            assert np.array_equal(file["labels"], bunch.target[rows])
    text = (CARDS / "digits" / "README.md").read_text()
    for pair in script("digits").EXPECTED.values():
        assert all(number in text for number in pair)


@needs_images
@pytest.mark.realdata
@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar10_is_arranged_as_the_card_says(split: str) -> None:
    stored, files = {}, defaultdict(list)
    for part in "ab":
        with h5py.File(IMAGES / f"cifar10_{split}_{part}.h5") as file:
            stored[part] = [name.decode() for name in file["name"][:]]
            classes = file.attrs["classes"].split(",")
            expected = [classes.index(name.split("/")[0]) for name in stored[part]]
            assert file["label"][:].tolist() == expected
        for name in stored[part]:
            files[name.split("/")[0]].append(name)
    build = script("cifar10")
    assert build.arrange(files, build.FIRST[split]) == stored


@needs_images
@pytest.mark.realdata
def test_checksums_of_the_cards() -> None:
    text = (CARDS / "cifar10" / "README.md").read_text()
    for path in sorted(IMAGES.glob("cifar10_*.h5")):
        with path.open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() in text, path.name
    text = (CARDS / "imagenette128" / "README.md").read_text()
    assert script("imagenette128").checksum(IMAGES / "imagenette128") in text


def test_imagenette_files_are_drawn_by_name_only() -> None:
    build = script("imagenette128")
    names = [f"{number}.JPEG" for number in range(300)]
    drawn = build.chosen(names, "train", "n01440764")
    assert drawn == build.chosen(names[::-1], "train", "n01440764")
    assert len(drawn) == len(set(drawn)) == 200
    assert drawn != build.chosen(names, "train", "n02102040")


def test_cifar10_build_writes_what_it_reads(tmp_path: Path) -> None:
    from PIL import Image

    build, generator = script("cifar10"), np.random.default_rng(0)
    pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    (tmp_path / "x.webp").write_bytes(build.lossless(tmp_path / "x.png"))
    assert np.array_equal(np.array(Image.open(tmp_path / "x.webp")), pixels)
    Image.fromarray(pixels[:16]).save(tmp_path / "y.png")
    with pytest.raises(ValueError, match="expected \\(32, 32\\)"):
        build.lossless(tmp_path / "y.png")
