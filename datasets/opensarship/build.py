"""Pack the chips: `python datasets/opensarship/build.py SOURCE OUT`."""

from __future__ import annotations

import csv
import hashlib
import io
import sys
import zipfile
from pathlib import Path

import tifffile

COLUMNS = (
    "version",
    "scene",
    "product",
    "kind",
    "ship_type",
    "shape",
    "dtype",
    "min",
    "max",
    "file",
    "sha1",
)
DATE = (2026, 5, 15, 0, 0, 0)


def build(source: Path, out: Path) -> Path:
    """Write `OUT/opensarship_subset.zip` and its index; returns the archive.

    Calibrated chips (`Patch_Cal`) of all products, complex ones (`Patch`) of SLC products, and the
    XML files; renderings are left out. The first word of a chip's name is its ship's type.

    Args:
        source: unpacked scenes, `<version>/<scene>/{Patch,Patch_Cal,*.xml}`.
        out: folder.

    Raises:
        ValueError: no chips.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    with zipfile.ZipFile(out / "opensarship_subset.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            name = file.relative_to(source).as_posix()
            parts = name.split("/")
            if not wanted(parts):
                continue
            content = file.read_bytes()
            member = zipfile.ZipInfo(name, DATE)
            member.compress_type, member.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(member, content)
            if file.suffix == ".tif":
                rows.append(_row(parts, content))
    if not rows:
        raise ValueError(f"{source} holds no <version>/<scene>/Patch_Cal/*.tif")
    with (out / "opensarship_subset_index.csv").open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *rows])
    return out / "opensarship_subset.zip"


def wanted(parts: list[str]) -> bool:
    """Whether a file of a scene is kept."""
    if len(parts) == 3:
        return parts[2].endswith(".xml")
    if len(parts) != 4 or not parts[3].endswith(".tif"):
        return False
    return parts[2] == "Patch_Cal" or (parts[2] == "Patch" and _product(parts[1]) == "SLC")


def _product(scene: str) -> str:
    return scene.split("_")[2][:3]  # GRDH or SLC


def _row(parts: list[str], content: bytes) -> list[object]:
    version, scene, kind, name = parts
    pixels = tifffile.imread(io.BytesIO(content))
    shape = "x".join(map(str, pixels.shape))
    numbers = [shape, pixels.dtype, float(pixels.min()), float(pixels.max())]
    ship = name.split("_x")[0]
    sha1 = hashlib.sha1(content).hexdigest()
    return [version, scene, _product(scene), kind, ship, *numbers, "/".join(parts), sha1]


if __name__ == "__main__":
    print(hashlib.sha256(build(Path(sys.argv[1]), Path(sys.argv[2])).read_bytes()).hexdigest())
