"""Pack the JPEG chips: `python datasets/mstar_soc/build.py SOURCE OUT`."""

from __future__ import annotations

import csv
import hashlib
import sys
import zipfile
from pathlib import Path

CLASSES = ("2S1", "BMP2", "BRDM2", "BTR60", "BTR70", "D7", "T62", "T72", "ZIL131", "ZSU234")
TRAIN = (299, 233, 298, 256, 233, 299, 299, 232, 299, 299)
TEST = (274, 195, 274, 195, 196, 274, 273, 196, 274, 274)
# Folder of the source, name of the split, depression, chips per class.
SPLITS = (("train", "train", 17, TRAIN), ("val", "test", 15, TEST))
COLUMNS = ("split", "class", "label", "depression_deg", "file", "source_file", "sha1")
DATE = (2018, 3, 14, 0, 0, 0)  # of all members, so that the archive's bytes are always the same


def build(source: Path, out: Path) -> Path:
    """Write `OUT/mstar_soc_jpeg.zip` and `OUT/mstar_soc_index.csv`; returns the archive.

    Args:
        source: with `train/0..9` and `val/0..9`, as in the repository.
        out: folder.

    Raises:
        ValueError: another number of chips than the task has.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    with zipfile.ZipFile(out / "mstar_soc_jpeg.zip", "w", zipfile.ZIP_STORED) as archive:
        for folder, split, depression, counts in SPLITS:
            for label, (name, count) in enumerate(zip(CLASSES, counts, strict=True)):
                files = sorted((source / folder / str(label)).glob("*.jpeg"))
                if len(files) != count:
                    raise ValueError(
                        f"{source / folder / str(label)} holds {len(files)} .jpeg files, expected "
                        f"{count} of {name}"
                    )
                for file in files:
                    content = file.read_bytes()
                    member = zipfile.ZipInfo(f"{split}/{name}/{file.name}", DATE)
                    member.external_attr = 0o644 << 16
                    archive.writestr(member, content)
                    place = f"{folder}/{label}/{file.name}"
                    sha1 = hashlib.sha1(content).hexdigest()
                    rows.append([split, name, label, depression, member.filename, place, sha1])
    with (out / "mstar_soc_index.csv").open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *rows])
    return out / "mstar_soc_jpeg.zip"


if __name__ == "__main__":
    print(hashlib.sha256(build(Path(sys.argv[1]), Path(sys.argv[2])).read_bytes()).hexdigest())
