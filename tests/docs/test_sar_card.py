"""The cards of the SAR sets tell the truth: checksums, and archives that are built again."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import os
import re
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
CARDS = ROOT / "datasets"
SAR = Path(os.environ.get("JEPA_DATA", ROOT.parent / "shared" / "data")) / "sar"
needs_data = pytest.mark.skipif(not SAR.is_dir(), reason=f"no data at {SAR}")
# Card, archive, index.
SETS = (
    ("mstar_soc", "mstar_soc_jpeg.zip", "mstar_soc_index.csv"),
    ("sar_acd", "sar_acd_jpg.zip", "sar_acd_index.csv"),
    ("opensarship", "opensarship_subset.zip", "opensarship_subset_index.csv"),
)


def script(name: str) -> ModuleType:
    path = CARDS / name / "build.py"
    spec = importlib.util.spec_from_file_location(f"build_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(index: Path) -> list[dict[str, str]]:
    with index.open(newline="") as file:
        return list(csv.DictReader(file))


@needs_data
@pytest.mark.realdata
def test_checksums() -> None:
    count = 0
    for card, _, _ in SETS:
        lines = re.findall(
            r"^\| `([^`]+)`[^|]*\| `([0-9a-f]{64})` \|$",
            (CARDS / card / "README.md").read_text(),
            re.MULTILINE,
        )
        for name, digest in lines:
            assert hashlib.sha256((SAR / name).read_bytes()).hexdigest() == digest, name
        count += len(lines)
    assert count == 11


@needs_data
@pytest.mark.realdata
@pytest.mark.parametrize(("card", "archive", "index"), SETS)
def test_archives_are_built_again(card: str, archive: str, index: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    with zipfile.ZipFile(SAR / archive) as stored:
        names = {name: name for name in stored.namelist()}
        if card == "mstar_soc":  # renamed on the way
            names = {row["file"]: row["source_file"] for row in rows(SAR / index)}
        for member, name in names.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(stored.read(member))
        built = script(card).build(source, tmp_path / "out")
        assert built.name == archive
        with zipfile.ZipFile(built) as again:
            assert [(i.filename, i.CRC) for i in again.infolist()] == [
                (i.filename, i.CRC) for i in stored.infolist()
            ]
    assert rows(tmp_path / "out" / index) == rows(SAR / index)


def test_builders_miss_nothing_silently(tmp_path: Path) -> None:
    for card, message in (
        ("mstar_soc", "holds 0 .jpeg files, expected 299 of 2S1"),
        ("sar_acd", "holds 0 .jpg files, expected 464"),
        ("opensarship", "holds no <version>/<scene>/Patch_Cal"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            script(card).build(tmp_path / "none", tmp_path / card)
