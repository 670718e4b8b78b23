"""MSTAR Phoenix files, pictures and TIFFs of chips, archives, their indexes, and NumPy files."""

from __future__ import annotations

import io
import os
import stat
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from jepa_modalities.data.sar import Chips, listing, read_chips, read_phoenix, write_phoenix
from jepa_modalities.data.sar.decode import decode
from jepa_modalities.data.sar.mstar import index_mstar

DRAW = np.random.default_rng(0)
MAGNITUDE = DRAW.random((6, 5)).astype(np.float32)


def checked(path: Path) -> Chips:
    """Read, and hold what came to itself."""
    found = read_chips(path, split="all")
    assert found.values.shape[:2] == (len(found), 1) and len(found) > 0
    assert found.sizes.shape == (len(found), 2) and int(found.sizes.min()) > 0
    assert bool(found.values.isfinite().all()) and float(found.values.min()) >= 0
    if found.labels is not None:
        assert found.labels.shape == (len(found),)
        assert int(found.labels.min()) >= 0 and int(found.labels.max()) < len(found.classes)
    return found


def test_phoenix(mutation: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "case.015"
    known = {"TargetType": "t72_tank", "TargetSerNum": "132", "DesiredDepression": "15"}
    write_phoenix(path, MAGNITUDE, 6 * MAGNITUDE, known)

    def read() -> None:
        chip = read_phoenix(path)
        rows, columns = (int(chip.header[f"NumberOf{side}"]) for side in ("Rows", "Columns"))
        assert chip.magnitude.shape == chip.phase.shape == (rows, columns)
        assert np.isfinite(chip.complex).all() and chip.magnitude.min() >= 0

    mutation.attack(read, {path: mutation.both})
    mutation.attack(lambda: index_mstar(tmp_path), {path: mutation.text}, [tmp_path.name])


@pytest.mark.parametrize("kind", ["float32", "uint16", "complex64", "deflate"])
def test_tiffs(mutation: ModuleType, tmp_path: Path, kind: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "case.tif"
    packed = "zlib" if kind == "deflate" else None
    pixels = (MAGNITUDE * 1000).astype("uint16" if packed else kind)
    tifffile.imwrite(path, pixels, compression=packed)
    mutation.attack(lambda: checked(path), {path: mutation.binary}, count=mutation.COUNT // 4)


def test_archives(mutation: ModuleType, tmp_path: Path) -> None:
    path, index = tmp_path / "case.zip", tmp_path / "case_index.csv"
    Image.fromarray((MAGNITUDE * 255).astype(np.uint8)).save(tmp_path / "a.png")
    write_phoenix(tmp_path / "b.015", MAGNITUDE, MAGNITUDE)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "a.png", "one/a.png")
        archive.write(tmp_path / "b.015", "two/b.015", zipfile.ZIP_STORED)
    index.write_text("file,class,label,split\none/a.png,x,0,train\ntwo/b.015,y,1,test\n")
    mutation.attack(lambda: checked(path), {path: mutation.binary, index: mutation.text})


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_arrays(mutation: ModuleType, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"case.{kind}"
    chips = (MAGNITUDE[None] * np.arange(1, 5)[:, None, None]).astype(np.complex64)
    if kind == "npz":
        np.savez(path, chips=chips, labels=np.array(["a", "b"] * 2))
    else:
        np.save(path, chips)
    mutation.attack(lambda: checked(path), {path: mutation.both}, count=mutation.COUNT // 2)


@pytest.mark.parametrize("angle", ["nan", "inf", "x"])
def test_angles_that_are_none(tmp_path: Path, angle: str) -> None:
    known = {"TargetSerNum": "132", "DesiredDepression": angle}
    write_phoenix(tmp_path / "case.015", MAGNITUDE, MAGNITUDE, known)
    with pytest.raises(ValueError, match=rf"case\.015: DesiredDepression = '{angle}'"):
        index_mstar(tmp_path)


def test_pixels_do_not_begin_in_the_header(tmp_path: Path) -> None:
    """A shorter header and one more row give the same length, but rows of header text."""
    path = tmp_path / "case.015"
    write_phoenix(path, np.zeros((2, 2)), np.zeros((2, 2)))
    content = path.read_bytes()
    length = len(content) - 32
    for wrong, rows in ((length - 16, 3), (length - 16 * (length // 16 + 1), 3 + length // 16)):
        changed = content.replace(f"{length:05d}".encode(), f"{wrong:05d}".encode(), 1)
        path.write_bytes(changed.replace(b"Rows= 2", f"Rows= {rows}".encode()))
        with pytest.raises(ValueError, match=r"case\.015.*(header says that it has|expected)"):
            read_phoenix(path)


def zipped(path: Path, members: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def chip(tmp_path: Path) -> bytes:
    """A PNG."""
    Image.fromarray((MAGNITUDE * 255).astype(np.uint8)).save(tmp_path / "a.png")
    return (tmp_path / "a.png").read_bytes()


@pytest.mark.parametrize(
    "name", ["../x.png", "/etc/x.png", "a/../../x.png", "..\\x.png", "\\x.png"]
)
def test_members_that_lead_out(tmp_path: Path, chip: bytes, name: str) -> None:
    (tmp_path / "in").mkdir()
    path = zipped(tmp_path / "in" / "case.zip", {name: chip, "b.png": chip})
    with pytest.raises(ValueError, match=r"case\.zip has a member named .*out of the archive"):
        read_chips(path)
    assert [file.name for file in tmp_path.rglob("x.png")] == []


def test_links_in_archives_are_not_followed(tmp_path: Path, chip: bytes) -> None:
    path = zipped(tmp_path / "case.zip", {"b.png": chip})
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("c.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, str(tmp_path / "a.png"))
    with pytest.raises(ValueError, match=r"(?s)1 of 2 chips in .*case\.zip.*c\.png: is a link"):
        read_chips(path)


def test_bombs_are_not_unpacked(
    tmp_path: Path, chip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their ratio (bzip2 makes millions of one byte) and by their size."""
    path = zipped(tmp_path / "case.zip", {"b.png": bytes(1 << 22)}, zipfile.ZIP_BZIP2)
    with pytest.raises(ValueError, match=r"(?s)case\.zip.*b\.png: would unpack to 4,194,304 bytes"):
        read_chips(path)
    monkeypatch.setattr(listing, "LARGEST", 2000)
    with pytest.raises(ValueError, match=r"(?s)case\.zip.*b\.png: would unpack to 4,000 bytes"):
        read_chips(zipped(path, {"b.png": np.arange(2000).astype("<i2").tobytes()}))
    zipped(path, {"images.npy": bytes(1 << 22)}, zipfile.ZIP_BZIP2).rename(tmp_path / "chips.npz")
    zipped(tmp_path / "chips.npz", {"chips.npy": bytes(1 << 22)}, zipfile.ZIP_BZIP2)
    with pytest.raises(ValueError, match=r"chips\.npz.*would unpack to 4,194,304"):
        read_chips(tmp_path / "chips.npz")


def test_members_without_a_name_are_left_out(tmp_path: Path, chip: bytes) -> None:
    path = zipped(tmp_path / "case.zip", {"b.png": chip, "c.png": chip})
    path.write_bytes(path.read_bytes().replace(b"c.png", b"\0.png"))
    assert read_chips(path).names == ("b.png",)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"file,class\n../../etc/passwd,x\n", "names 1 of 1 files that are not in"),
        (b"file,class\n/etc/passwd,x\n", "names 1 of 1 files that are not in"),
        (b"file,class\nb.png,\xff\n", "case_index.csv cannot be read as a CSV table"),
        (b"file,class\nb.png,x,y\n", "case_index.csv: row 1 has more fields"),
        (b"class,file,label\nx,b.png\n", "contradict each other"),
        ("file,label\nb.png,²\n".encode(), None),
        (b"file,class\nb.png," + 200_000 * b"x", "case_index.csv cannot be read as a CSV table"),
    ],
)
def test_indexes(tmp_path: Path, chip: bytes, table: bytes, message: str | None) -> None:
    path = zipped(tmp_path / "case.zip", {"b.png": chip})
    (tmp_path / "case_index.csv").write_bytes(table)
    if message is None:
        assert read_chips(path).classes == ("²",)
        return
    with pytest.raises(ValueError, match=message):
        read_chips(path)


def test_indexes_do_not_leave_a_folder(tmp_path: Path, chip: bytes) -> None:
    (tmp_path / "in").mkdir()
    for name in ("in/b.png", "secret.png"):
        (tmp_path / name).write_bytes(chip)
    for name in ("../secret.png", str(tmp_path / "secret.png"), "./../in/../secret.png"):
        (tmp_path / "in" / "index.csv").write_text(f"file,class\nb.png,x\n{name},x\n")
        with pytest.raises(ValueError, match="names 1 of 2 files that are not in"):
            read_chips(tmp_path / "in")
    os.symlink(tmp_path / "in", tmp_path / "in" / "loop")
    with pytest.raises(ValueError, match="loop is a link to"):
        read_chips(tmp_path / "in")


def test_tiffs_that_claim_too_much(tmp_path: Path) -> None:
    """Deflated pixels of 8 x 8, with 100,000 rows and columns in the header."""
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "case.tif"
    tifffile.imwrite(path, np.ones((8, 8), np.float32), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as file:
        for tag in ("ImageWidth", "ImageLength"):
            file.pages[0].tags[tag].overwrite(100_000)
    with pytest.raises(ValueError, match=r"(?s)case\.tif.*claims \d0,000,000,000 bytes"):
        read_chips(path)


def test_pixels_of_more_than_16_bits_do_not_wrap() -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4), 65_541, np.int32)).save(stream, "IM")
    with pytest.raises(ValueError, match="65541, expected 16 bits"):
        decode(stream.getvalue(), "case.im", "amplitude", 0)
