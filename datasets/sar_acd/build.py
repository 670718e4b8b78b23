"""Pack the chips: `python datasets/sar_acd/build.py SOURCE OUT`."""

from __future__ import annotations

import csv
import hashlib
import sys
import zipfile
from pathlib import Path

from PIL import Image

CLASSES = {
    "A220": 464,
    "A320321": 510,
    "A330": 512,
    "ARJ21": 514,
    "Boeing737": 528,
    "Boeing787": 504,
}
COLUMNS = ("class", "label", "width", "height", "file", "sha1")
DATE = (2018, 3, 14, 0, 0, 0)  # of all members, so that the archive's bytes are always the same


def build(source: Path, out: Path) -> Path:
    """Write `OUT/sar_acd_jpg.zip` and `OUT/sar_acd_index.csv`; returns the archive.

    Args:
        source: the repository's `images`, one folder per class.
        out: folder.

    Raises:
        ValueError: another number of chips than published.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    with zipfile.ZipFile(out / "sar_acd_jpg.zip", "w", zipfile.ZIP_STORED) as archive:
        for label, (name, count) in enumerate(CLASSES.items()):
            files = sorted((source / name).glob("*.jpg"))
            if len(files) != count:
                raise ValueError(f"{source / name} holds {len(files)} .jpg files, expected {count}")
            for file in files:
                content = file.read_bytes()
                with Image.open(file) as image:
                    width, height = image.size
                member = zipfile.ZipInfo(f"{name}/{file.name}", DATE)
                member.external_attr = 0o644 << 16
                archive.writestr(member, content)
                sha1 = hashlib.sha1(content).hexdigest()
                rows.append([name, label, width, height, member.filename, sha1])
    with (out / "sar_acd_index.csv").open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *rows])
    return out / "sar_acd_jpg.zip"


if __name__ == "__main__":
    print(hashlib.sha256(build(Path(sys.argv[1]), Path(sys.argv[2])).read_bytes()).hexdigest())
