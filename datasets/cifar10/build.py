"""Pack CIFAR-10 into four HDF5 files: `python datasets/cifar10/build.py SOURCE OUT`."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

FIRST = {"train": 2000, "test": 500}  # images per class in part a
COMMIT = "a828d74fc38cd82a82ecfdeca6522873baf96efa"


def arrange(files: Mapping[str, Sequence[str]], first: int) -> dict[str, list[str]]:
    """The order of the images in the parts a and b.

    Args:
        files: class -> names of its files, `class/file.png`.
        first: images per class in part a.
    """
    generator = np.random.default_rng(0)
    parts: dict[str, list[str]] = {"a": [], "b": []}
    for name in sorted(files):
        ordered = sorted(files[name])
        drawn = [ordered[row] for row in generator.permutation(len(ordered))]
        parts["a"] += drawn[:first]
        parts["b"] += drawn[first:]
    for part, names in parts.items():
        parts[part] = [names[row] for row in generator.permutation(len(names))]
    return parts


def lossless(path: Path) -> bytes:
    """An image file as lossless WebP.

    Raises:
        ValueError: not 32 x 32 RGB.
    """
    with Image.open(path) as image:
        if image.size != (32, 32) or image.mode != "RGB":
            raise ValueError(f"{path} is {image.size} {image.mode}, expected (32, 32) RGB")
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", lossless=True, quality=100, method=6)
    return buffer.getvalue()


def build(source: Path, out: Path) -> list[Path]:
    """Write `cifar10_<split>_<part>.h5`.

    Raises:
        ValueError: a folder with another number of classes or images.
    """
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for split, first in FIRST.items():
        folders = sorted(path for path in (source / split).iterdir() if path.is_dir())
        files = {f.name: [f"{f.name}/{p.name}" for p in f.glob("*.png")] for f in folders}
        counts = {name: len(found) for name, found in files.items()}
        expected = 5000 if split == "train" else 1000
        if len(counts) != 10 or set(counts.values()) != {expected}:
            raise ValueError(f"{source / split}: {counts}, expected 10 classes of {expected}")
        for part, names in arrange(files, first).items():
            encoded = [lossless(source / split / name) for name in names]
            paths.append(out / f"cifar10_{split}_{part}.h5")
            with h5py.File(paths[-1], "w") as file:
                file["webp"] = np.frombuffer(b"".join(encoded), np.uint8)
                file["offset"] = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
                classes = sorted(files)
                labels = [classes.index(name.split("/")[0]) for name in names]
                file["label"] = np.array(labels, np.uint8)
                file["name"] = np.array([name.encode() for name in names], "S64")
                file.attrs["classes"] = ",".join(classes)
                file.attrs["split"], file.attrs["shard"] = split, part
                file.attrs["encoding"] = "lossless WebP, 32x32x3 RGB"
                file.attrs["source"] = f"cyizhuo/CIFAR-10-dataset {COMMIT}"
    return paths


if __name__ == "__main__":
    print(*build(Path(sys.argv[1]), Path(sys.argv[2])), sep="\n")
