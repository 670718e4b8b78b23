"""HDF5 files of images: encoded or plain, alone or several, real or damaged."""

from __future__ import annotations

import io
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from jepa_modalities.data.image import open_images, splits

RNG = np.random.default_rng(0)
DATA = Path(os.environ.get("JEPA_DATA", Path(__file__).parents[3] / "shared" / "data"))
CIFAR = DATA / "images" / "cifar10_test_a.h5"


def write(path: Path, count: int = 70, chunks: bool = False, **attributes: str) -> np.ndarray:
    images = RNG.integers(0, 256, (count, 6, 5, 3), dtype=np.uint8)
    files = []
    for image in images:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "WEBP", lossless=True)
        files.append(stream.getvalue())
    blob = np.frombuffer(b"".join(files), np.uint8)
    with h5py.File(path, "w") as file:
        file.create_dataset("webp", data=blob, **({"compression": "gzip"} if chunks else {}))
        file["offset"] = np.cumsum([0, *map(len, files)])
        file["label"] = (np.arange(count) % 2).astype(np.uint8)
        file.attrs["classes"] = "cat,dog"
        file.attrs.update(attributes)
    return images


@pytest.mark.parametrize("chunks", [False, True])
@pytest.mark.parametrize("resident", [True, False])
def test_webp_equals_what_was_written(tmp_path: Path, chunks: bool, resident: bool) -> None:
    images = write(tmp_path / "a.h5", chunks=chunks)
    found = open_images(tmp_path / "a.h5", resident=resident)
    assert found.classes == ("cat", "dog") and found.labels is not None
    assert found.labels.tolist() == [row % 2 for row in range(70)]
    assert (found.images is not None) == resident
    for row, image in enumerate(images):
        np.testing.assert_array_equal(np.asarray(found.open(row)), image)


def test_several_files_in_order(tmp_path: Path) -> None:
    first, second = write(tmp_path / "x_a.h5", 3), write(tmp_path / "x_b.h5", 2)
    wanted = np.concatenate([first, second]).transpose(0, 3, 1, 2)
    for path in (f"{tmp_path}/x_a.h5, {tmp_path}/x_b.h5", f"{tmp_path}/x_*.h5"):
        found = open_images(path)
        assert found.images is not None and found.labels is not None
        np.testing.assert_array_equal(found.images.numpy(), wanted)
        assert found.labels.tolist() == [0, 1, 0, 0, 1]
        streamed = open_images(path, resident=False)
        assert len(streamed) == 5
        np.testing.assert_array_equal(np.asarray(streamed.open(4)), second[1])
    with h5py.File(tmp_path / "x_b.h5", "a") as file:
        file.attrs["classes"] = "dog,cat"
    with pytest.raises(ValueError, match=r"x_a.h5\[0\] and x_b.h5\[0\].*cannot be joined: classes"):
        open_images(f"{tmp_path}/x_*.h5")


def test_the_split_attribute_selects_files(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", 3, split="train")
    write(tmp_path / "b.h5", 2, split="test")
    assert set(splits(f"{tmp_path}/*.h5")) == {"train", "test"}
    assert len(open_images(f"{tmp_path}/*.h5")) == 3
    assert len(open_images(f"{tmp_path}/*.h5", "test")) == 2
    assert len(open_images(tmp_path / "b.h5")) == 2
    with pytest.raises(ValueError, match=r"a\.h5 has the split\(s\) train, not 'test'"):
        open_images(tmp_path / "a.h5", "test")


@pytest.mark.parametrize("channels", [1, 3, None])
def test_plain_arrays(tmp_path: Path, channels: int | None) -> None:
    grey = RNG.integers(0, 256, (4, 6, 5), dtype=np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"], file["labels"] = grey, np.array([0, 2, 1, 0])
    found = open_images(tmp_path / "a.h5", channels=channels)  # type: ignore[arg-type]
    assert found.channels == (channels or 1) and found.images is not None
    assert found.images.shape == (4, channels or 1, 6, 5) and found.classes == ("0", "1", "2")
    for plane in found.images.unbind(1):
        np.testing.assert_array_equal(plane.numpy(), grey)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", 4)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        start = int(file["offset"][2])
        file["webp"][start : start + 16] = 0
    with pytest.raises(ValueError, match=r"1 of 4 images.*\n  a\.h5\[2\].*\n.*on-error skip"):
        open_images(tmp_path / "a.h5")
    found = open_images(tmp_path / "a.h5", on_error="skip")
    assert found.skipped == ("a.h5[2]",) and found.labels is not None
    assert found.labels.tolist() == [0, 1, 1]


def test_files_that_contradict_themselves(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match=r"a\.h5 is not a complete HDF5 file.*copy it again"):
        open_images(path)
    with h5py.File(path, "w") as file:
        file["pictures"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"a\.h5 holds \['pictures'\]; expected either 'webp'"):
        open_images(path)
    write(path, 3)
    with h5py.File(path, "a") as file:
        file["offset"][-1] += 7
    with pytest.raises(ValueError, match=r"a\.h5: 'offset' must rise from 0 to"):
        open_images(path)
    write(path, 3)
    with h5py.File(path, "a") as file:
        del file["label"]
        file["label"] = np.zeros(2, int)
    with pytest.raises(ValueError, match=r"a\.h5: labels have shape \(2,\) for 3 images"):
        open_images(path)


@pytest.mark.realdata
@pytest.mark.skipif(not CIFAR.exists(), reason="needs CIFAR-10 in the folder named by JEPA_DATA")
def test_cifar_equals_a_plain_loop() -> None:
    found = open_images(CIFAR)
    with h5py.File(CIFAR) as file:
        offset, names = file["offset"][:51], file["name"][:50]
        blob = file["webp"][: offset[-1]].tobytes()
    assert found.images is not None and found.labels is not None
    assert found.images.shape == (5000, 3, 32, 32) and found.classes[3] == "cat"
    for row in range(50):
        pixels = Image.open(io.BytesIO(blob[offset[row] : offset[row + 1]]))
        np.testing.assert_array_equal(found.images[row].permute(1, 2, 0).numpy(), pixels)
        assert names[row].decode().split("/")[0] == found.classes[found.labels[row]]
    assert torch.bincount(found.labels).tolist() == [500] * 10
