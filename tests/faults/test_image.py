"""Encoded images in folders, and images in NumPy files."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from jepa_modalities.data.image import ImageSet, open_images

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 9, 8, 3), np.uint8)


def checked(path: Path) -> ImageSet:
    """Open, decode, and hold what came to itself."""
    found = open_images(path)
    assert len(found) > 0 and found.images is not None
    assert found.images.shape[:2] == (len(found), found.channels) and 0 not in found.images.shape
    if found.labels is not None:
        assert found.labels.shape == (len(found),)
        assert int(found.labels.min()) >= 0 and int(found.labels.max()) < len(found.classes)
    return found


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "webp", "gif", "bmp", "jp2", "ppm"])
def test_folders(mutation: ModuleType, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"case.{kind}"
    Image.fromarray(PIXELS[0]).save(path)
    mutation.attack(lambda: checked(tmp_path), {path: mutation.binary}, count=mutation.COUNT // 8)


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_arrays(mutation: ModuleType, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"case.{kind}"
    labels = np.array([0, 1, 1, 0])
    if kind == "npz":
        np.savez_compressed(path, images=PIXELS, labels=labels)
        files = {path: mutation.both}
    else:
        np.save(path, PIXELS / 255)
        beside = tmp_path / "case_labels.npy"
        np.save(beside, labels)
        files = {path: mutation.both, beside: mutation.both}
    mutation.attack(lambda: checked(path), files, count=mutation.COUNT // 2)


def test_a_claim_of_pixels_is_refused_before_they_are_made(tmp_path: Path) -> None:
    """A PNG of 100 bytes that says it has 10^10 pixels."""
    path = tmp_path / "case.png"
    Image.fromarray(PIXELS[0]).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 100_000, 100_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"case\.png: .*decompression bomb"):
        open_images(tmp_path)


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    """Two of them would be 2^40 folders; links to folders elsewhere are followed."""
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    for number, folder in enumerate(("data/a", "b")):
        Image.fromarray(PIXELS[number]).save(tmp_path / folder / "case.png")
    os.symlink(tmp_path / "b", tmp_path / "data" / "b")
    assert open_images(tmp_path / "data").classes == ("a", "b")
    for name in ("x", "y"):
        os.symlink(tmp_path / "data", tmp_path / "data" / "a" / name)
    with pytest.raises(ValueError, match=r"a/x is a link to .*data, a folder above it"):
        open_images(tmp_path / "data")


@pytest.mark.parametrize("old", ["'shape': (4, 9, 8, 3)", "'shape': (4, 9, 8, 3), }"])
@pytest.mark.parametrize(
    "new", ["'shape': (10**9,", "'shape': (10000000000,", "(((", f"({99 * '9'},"]
)
def test_headers_of_arrays(tmp_path: Path, old: str, new: str) -> None:
    """Claimed sizes, and text that NumPy's own parser stumbles over."""
    path = tmp_path / "case.npy"
    np.save(path, PIXELS)
    content = path.read_bytes()
    text = new + " 9, 8, 3)" if new.startswith("'") and "}" not in old else new
    path.write_bytes(content.replace(old.encode(), text.ljust(len(old))[: len(old)].encode()))
    with pytest.raises(ValueError, match=r"case\.npy cannot be read as a NumPy file"):
        open_images(path)
    np.savez(tmp_path / "whole.npz", images=PIXELS)
    with zipfile.ZipFile(tmp_path / "case.npz", "w") as archive:
        archive.writestr("images.npy", path.read_bytes())
    with pytest.raises(ValueError, match=r"case\.npz cannot be read as a NumPy file"):
        open_images(tmp_path / "case.npz")


def test_damaged_members_of_npz_name_the_file(tmp_path: Path) -> None:
    """zlib.error, BadZipFile, NotImplementedError and RuntimeError of the archive's parts."""
    path = tmp_path / "case.npz"
    np.savez_compressed(path, images=PIXELS)
    intact = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        length = archive.infolist()[0].compress_size
    central = intact.rindex(b"PK\1\2")
    changes = {central - length: 4 * b"\xff", 0: b"XX", central + 16: b"\0\0"}
    for place, value in [*changes.items(), (central + 8, b"\x01\0"), (central + 8, b"\x20\0")]:
        content = bytearray(intact)
        content[place : place + len(value)] = value
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"case\.npz cannot be read as a NumPy file"):
            open_images(path)


def test_arrays_with_pickles_are_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    for name in ("case.npy", "case.npz"):
        objects = np.array([Trap()], object)
        if name.endswith("npy"):
            np.save(tmp_path / name, objects)
        else:
            np.savez(tmp_path / name, images=objects)
        with pytest.raises(ValueError, match=f"{name} cannot be read as a NumPy file"):
            open_images(tmp_path / name)
    (tmp_path / "case_labels.npy").write_bytes((tmp_path / "case.npy").read_bytes())
    np.save(tmp_path / "case.npy", PIXELS)
    with pytest.raises(ValueError, match=r"case_labels\.npy"):
        open_images(tmp_path / "case.npy")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("labels", [np.array([b"\xff"] * 4), np.arange(4) * 10**12])
def test_labels_that_are_none(tmp_path: Path, labels: np.ndarray) -> None:
    """10^12 classes would each get a name."""
    np.savez(tmp_path / "case.npz", images=PIXELS, labels=labels)
    with pytest.raises(ValueError, match=r"case\.npz.*(UTF-8|no class number)"):
        open_images(tmp_path / "case.npz")
