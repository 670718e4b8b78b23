"""HDF5 files of images, recordings and SAR chips: other shapes, types, values, sizes, and bytes."""

from __future__ import annotations

import io
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from jepa_modalities.data import heap
from jepa_modalities.data.container import open_container, write_text
from jepa_modalities.data.ecg.file import open_records
from jepa_modalities.data.image import open_images
from jepa_modalities.data.prepare.ecg_array import prepare_arrays
from jepa_modalities.data.prepare.sar import prepare_chips
from jepa_modalities.data.sar import read_chips

HUGE = 10**12


def damaged(mutation: ModuleType) -> Any:
    """A part of an HDF5 file replaced by something else, or its bytes changed."""

    def damage(content: bytes, draw: random.Random) -> bytes:
        if draw.random() < 0.3:
            return bytes(mutation.binary(content, draw))
        stream = io.BytesIO(content)
        with h5py.File(stream, "r+", libver=("v110", "v110")) as file:
            name = draw.choice([*file, *file.attrs])
            if name in file:
                _change(file, name, draw)
            elif draw.random() < 0.3:
                del file.attrs[name]
            else:
                scalars = [v for v in mutation.VALUES if isinstance(v, str | float | list) and v]
                value: Any = draw.choice([*scalars, -1, np.bytes_(b"\xff")])
                if isinstance(value, str) and draw.random() < 0.9:  # the others cost a process
                    value = np.bytes_(value.encode())
                file.attrs[name] = value
        return stream.getvalue()

    return damage


def _change(file: h5py.File, name: str, draw: random.Random) -> None:
    whole = file[name][()]
    kind = draw.randrange(9)
    if kind == 0 and whole.size:
        whole = whole.copy()
        wild: Any = draw.choice([-1, 0, 2**31 - 1, 2**15, -(2**15), 127])
        if whole.dtype.kind == "f":
            wild = draw.choice([np.nan, np.inf, -1.0, 0.0, 1e30])
        elif whole.dtype.kind == "S":
            wild = draw.choice([b"", b"\xff\xfe", b"../../x"])
        flat = whole.reshape(-1)
        flat[draw.randrange(flat.size)] = (
            wild if whole.dtype.kind in "fS" else np.array(wild).astype(whole.dtype)
        )
        file[name][...] = whole
        return
    del file[name]
    if kind == 1:
        return
    if kind == 2:
        file.create_group(name)
    elif kind == 3:  # a size that is claimed but not there
        shape = (HUGE, *whole.shape[1:])
        chunks = (1, *whole.shape[1:]) if draw.random() < 0.5 else None
        file.create_dataset(name, shape, whole.dtype, chunks=chunks)
    elif kind == 4:
        file.create_dataset(name, data=draw.choice([7, "text", np.float32(1)]))
    elif kind == 5:
        other: Any = draw.choice(["f8", "c8", "i1", "u8", "S3", "O", "?"])
        if other == "O":
            file.create_dataset(name, data=["ä" for _ in range(len(whole))])
        else:
            numeric = whole.dtype.kind not in "SO"
            values = whole.astype(other) if numeric else np.zeros(whole.shape, other)
            file.create_dataset(name, data=values)
    else:
        parts = [whole[:-1], whole[None], whole.reshape(-1), whole[:0], whole[..., None]]
        parts += [np.concatenate([whole, whole]), whole[:, None]]
        file.create_dataset(name, data=draw.choice(parts))


def images(path: Path, layout: str = "pixels", heaps: bool = False) -> Path:
    """Six images of two classes; with `heaps`, text of variable length."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), np.uint8)
    with h5py.File(path, "w") as file:
        if layout == "pixels":
            file["images"], file["labels"] = pixels, np.arange(6) % 2
        else:
            encoded = []
            for image in pixels:
                stream = io.BytesIO()
                Image.fromarray(image).save(stream, "PNG")
                encoded.append(stream.getvalue())
            file["webp"] = np.frombuffer(b"".join(encoded), np.uint8)
            file["offset"] = np.cumsum([0, *map(len, encoded)])
            file["label"], file["name"] = np.arange(6) % 2, np.array([b"a"] * 6)
        for name, text in (("classes", "cat,dog"), ("split", "train")):
            if heaps:
                file.attrs[name] = text
            else:
                write_text(file, name, text)
    return path


def recordings(path: Path, compress: bool = False) -> Path:
    """Four recordings of 30 samples and 2 leads."""
    signals = np.random.default_rng(0).integers(-99, 99, (4, 30, 2)).astype(np.int16)
    prepare_arrays(signals, path, fs=100, leads="I,V6", gain=200, compress=compress)
    return path


def chips(path: Path) -> Path:
    """Six chips of two classes."""
    values = np.random.default_rng(0).random((6, 9, 8)).astype(np.float32)
    np.savez(path.with_name("chips.npz"), chips=values, labels=np.array(["a", "b"] * 3))
    prepare_chips(path.with_name("chips.npz"), path)
    return path


@pytest.mark.parametrize(("layout", "part"), [("pixels", 2), ("encoded", 2), ("heaps", 40)])
def test_images(
    mutation: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, layout: str, part: int
) -> None:
    monkeypatch.setattr(heap, "PATIENCE", 5.0)
    path = images(tmp_path / "case.h5", layout.replace("heaps", "pixels"), layout == "heaps")

    def read() -> None:
        found = open_images(path)
        assert found.images is not None or found.encoded is not None
        assert len(found) > 0
        assert found.images is None or len(found.images) == len(found)
        assert found.encoded is None or len(found.encoded) == len(found)
        if found.labels is not None:
            assert found.labels.shape == (len(found),)
            assert int(found.labels.min()) >= 0 and int(found.labels.max()) < len(found.classes)
        assert found.open(0).size[0] > 0

    mutation.attack(read, {path: damaged(mutation)}, count=mutation.COUNT // part)


@pytest.mark.parametrize("compress", [False, True])
def test_recordings(mutation: ModuleType, tmp_path: Path, compress: bool) -> None:
    path = recordings(tmp_path / "case.h5", compress)

    def read() -> None:
        found = open_records(path)
        count, width = found.lead_index.shape
        assert count == len(found) and (found.length >= 0).all()
        for row in range(count):
            assert found.record(row).shape == (found.length[row], width)
            assert found.physical(row).shape == (found.length[row], len(found.leads(row)))
            assert len(found.annotations(row).sample) == found.ann_length[row]
        assert np.isfinite(found.fs).all() and (found.fs > 0).all()
        assert found.gain.shape == found.baseline.shape == found.unit.shape == (count, width)
        assert np.isfinite(found.gain).all() and (found.gain != 0).all()
        assert found.labels is None or found.labels.shape == (count, len(found.label_names))
        for name in ("source", "patient_id", "fold", "fs", "age", "sex", "comments", "start"):
            assert getattr(found, name).shape == (count,), name

    mutation.attack(read, {path: damaged(mutation)}, count=mutation.COUNT // 2)


def test_chips(mutation: ModuleType, tmp_path: Path) -> None:
    path = chips(tmp_path / "case.h5")

    def read() -> None:
        found = read_chips(path, split="all")
        assert found.values.shape[:2] == (len(found), 1) and len(found) > 0
        assert found.sizes.shape == (len(found), 2) and int(found.sizes.min()) > 0
        assert bool(found.values.isfinite().all()) and float(found.values.min()) >= 0
        if found.labels is not None:
            assert found.labels.shape == (len(found),)
            assert int(found.labels.min()) >= 0 and int(found.labels.max()) < len(found.classes)

    mutation.attack(read, {path: damaged(mutation)})


OPEN: dict[str, Any] = {
    "images": (images, open_images),
    "encoded": (lambda path: images(path, "encoded"), open_images),
    "recordings": (recordings, open_records),
    "chips": (chips, lambda path: read_chips(path, split="all")),
}


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        ("images", "images", 7, "expected integers or real numbers with 3 or 4 axes"),
        ("images", "images", None, "has no dataset 'images'"),
        ("images", "labels", np.array([b"\xff"] * 6), "labels"),
        ("images", "labels", np.arange(6) * 10**9, "is no class number"),
        ("encoded", "offset", 7, "expected integers"),
        ("encoded", "webp", None, "has no dataset 'webp'"),
        ("encoded", "webp", 7, "with 1 axes"),
        ("encoded", "name", np.array([b"\xff"] * 6), "UnicodeDecodeError"),
        ("encoded", "name", np.array([b"a"] * 7), "7 entries for 6 images"),
        ("recordings", "fs", np.full(5, 100.0), "'fs' has shape"),
        ("recordings", "fs", np.full(4, np.nan), "fs hold values"),
        ("recordings", "gain", np.zeros((4, 2)), "gain hold values"),
        ("recordings", "gain", np.ones((4, 2), "c8"), "expected real numbers"),
        ("recordings", "lead_index", np.full((4, 2), 9), "lead_index hold values"),
        ("recordings", "record_id", np.array([b"\xff"] * 4), "UnicodeDecodeError"),
        ("recordings", "record_id", np.array([b"a"] * 3), "holds 4 recordings"),
        ("recordings", "signals", np.zeros((4, 30, 2), "i4"), "expected int16"),
        ("recordings", "ann_lengths", np.full(4, 9), "ann_starts and ann_lengths hold"),
        ("recordings", "patient_id", None, "has no dataset 'patient_id'"),
        ("chips", "labels", np.full(6, 9), "'labels' goes from 9 to 9"),
        ("chips", "labels", np.full(6, -1), "'labels' goes from -1"),
        ("chips", "sizes", np.zeros((6, 2), "i8"), "do not fit each other"),
        ("chips", "sizes", np.ones((6, 3), "i8"), "do not fit each other"),
        ("chips", "names", np.arange(6), "expected text"),
        ("chips", "chips", np.ones((5, 9, 8)), "do not fit each other"),
    ],
)
def test_parts_that_do_not_fit(
    tmp_path: Path, kind: str, name: str, value: Any, message: str
) -> None:
    make, read = OPEN[kind]
    path = make(tmp_path / "case.h5")
    with h5py.File(path, "r+") as file:
        del file[name]
        if value is None:
            file.create_group(name)
        else:
            file[name] = value
    with pytest.raises(ValueError, match=rf"case\.h5.*{message}"):
        read(path)


@pytest.mark.parametrize("kind", OPEN)
def test_sizes_are_held_against_the_file(tmp_path: Path, kind: str) -> None:
    """A terabyte that is claimed, stored nowhere, and would be filled with zeros."""
    make, read = OPEN[kind]
    name = {"images": "images", "encoded": "webp", "recordings": "signals"}.get(kind, kind)
    for options in ({}, {"chunks": True}, {"compression": "gzip"}):
        path = make(tmp_path / "case.h5")
        with h5py.File(path, "r+") as file:
            shape, dtype = (HUGE, *file[name].shape[1:]), file[name].dtype
            del file[name]
            file.create_dataset(name, shape, dtype, **options)
        with pytest.raises(ValueError, match=rf"case\.h5: '{name}' claims"):
            read(path)
        path.unlink()


@pytest.mark.parametrize("kind", OPEN)
@pytest.mark.parametrize("way", ["link", "soft", "storage", "virtual"])
def test_no_way_out_of_the_file(tmp_path: Path, kind: str, way: str) -> None:
    """A file that someone sends must not read others of this machine into a training set."""
    make, read = OPEN[kind]
    path, secret = make(tmp_path / "case.h5"), make(tmp_path / "secret.h5")
    name = {"images": "images", "encoded": "webp", "recordings": "signals"}.get(kind, kind)
    with h5py.File(path, "r+") as file, h5py.File(secret) as other:
        shape, dtype, values = other[name].shape, other[name].dtype, other[name][()]
        del file[name]
        if way == "link":
            file[name] = h5py.ExternalLink(str(secret), name)
        elif way == "soft":
            file["x"] = h5py.ExternalLink(str(secret), "/")
            file[name] = h5py.SoftLink(f"/x/{name}")
        elif way == "storage":
            raw = tmp_path / "raw"
            raw.write_bytes(values.tobytes())
            file.create_dataset(name, shape, dtype, external=[(str(raw), 0, values.nbytes)])
        else:
            layout = h5py.VirtualLayout(shape, dtype)
            layout[...] = h5py.VirtualSource(str(secret), name, shape)
            file.create_virtual_dataset(name, layout)
    told = "is a link to" if way in ("link", "soft") else "lies in another file"
    with pytest.raises(ValueError, match=rf"case\.h5: '{name}' {told}"):
        read(path)


def test_damaged_chunks_of_recordings_name_the_file(tmp_path: Path) -> None:
    path = recordings(tmp_path / "case.h5", compress=True)
    with h5py.File(path) as file:
        place = file["signals"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[place.byte_offset : place.byte_offset + place.size] = bytes(place.size)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"case\.h5 cannot be read as recordings"):
        open_records(path).record(0)


@pytest.fixture
def heap_in_circles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Text of variable length in a heap of zeros, in which HDF5 2.0 never comes to an end."""
    monkeypatch.setattr(heap, "PATIENCE", 3.0)
    path = images(tmp_path / "circles.h5", heaps=True)
    content = path.read_bytes()
    at = content.index(b"GCOL") + 16
    path.write_bytes(content[:at] + bytes(4096 - 16) + content[at + 4096 - 16 :])
    return path


def test_a_heap_without_end_is_refused(heap_in_circles: Path) -> None:
    with pytest.raises(ValueError, match=r"circles.h5 is damaged: HDF5 finds no end in 3 s"):
        open_images(heap_in_circles)


def test_text_of_variable_length_is_read(tmp_path: Path) -> None:
    path = tmp_path / "case.h5"
    with h5py.File(path, "w") as file:
        file.attrs["one"], file.attrs["more"] = "Grüße", ["a", "ä"]
        file["texts"] = [["x", "é"], ["", "y"], ["z", "z"]]
    with open_container(path) as found:
        assert found.text("one") == "Grüße" and found.attribute("more") == ["a", "ä"]
        assert found.texts("texts", (2,)).tolist() == [["x", "é"], ["", "y"], ["z", "z"]]
        assert found.texts("texts", (2,), slice(1, 2)).tolist() == [["", "y"]]


def test_prepared_files_hold_no_text_of_variable_length(tmp_path: Path) -> None:
    """So that nothing sends HDF5 in circles, and no process is started to read them."""
    for make in (recordings, chips):
        path = make(tmp_path / "case.h5")
        with h5py.File(path) as file:
            assert all(file.attrs.get_id(name).dtype.kind != "O" for name in file.attrs)
            assert all(item.dtype.kind != "O" for item in file.values())
            assert len(file.attrs) > 0
