"""Make the subset: `python datasets/imagenette128/build.py SOURCE OUT`."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

COUNTS = {"train": 200, "val": 60}  # images per class


def chosen(names: Sequence[str], split: str, wordnet: str) -> list[str]:
    """The files of one class, in the order drawn."""
    drawn = sorted(names)
    random.Random(f"0-{split}-{wordnet}").shuffle(drawn)
    return drawn[: COUNTS[split]]


def build(source: Path, out: Path) -> None:
    """Write `OUT/<split>/<class>/<file>` at 128 x 128 pixels.

    Raises:
        ValueError: a class with too few images.
    """
    for split, count in COUNTS.items():
        for folder in sorted(path for path in (source / split).iterdir() if path.is_dir()):
            names = chosen([path.name for path in folder.iterdir()], split, folder.name)
            if len(names) < count:
                raise ValueError(f"{folder} holds {len(names)} images, expected at least {count}")
            place = out / split / folder.name
            place.mkdir(parents=True, exist_ok=True)
            for name in names:
                with Image.open(folder / name) as image:
                    small = image.convert("RGB").resize((128, 128), Image.Resampling.LANCZOS)
                small.save(place / name, "JPEG", quality=85)


def checksum(folder: Path) -> str:
    """sha256 of the list of all files' sha256, as the card has it."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*/*.JPEG"))
    lines = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  imagenette128/{name}\n"
        for name in names
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
    print(checksum(Path(sys.argv[2])))
