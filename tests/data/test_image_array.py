"""NumPy files of images, their checks, and the bundled digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from jepa_modalities.data.image import digits, open_images

RNG = np.random.default_rng(0)


def test_npy_with_labels_beside_it(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", images)
    assert open_images(tmp_path / "x.npy").labels is None
    np.save(tmp_path / "x_labels.npy", np.array(["dog", "cat", "dog", "ant", "cat"]))
    found = open_images(tmp_path / "x.npy", "train")
    assert found.images is not None and found.labels is not None
    np.testing.assert_array_equal(found.images.numpy(), images.transpose(0, 3, 1, 2))
    assert found.classes == ("ant", "cat", "dog") and found.labels.tolist() == [2, 1, 2, 0, 1]
    grey = open_images(tmp_path / "x.npy", channels=1).images
    assert grey is not None
    for row in range(5):
        wanted = Image.fromarray(images[row]).convert("L")
        np.testing.assert_array_equal(grey[row, 0].numpy(), np.asarray(wanted))


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_npz_of_floats_in_either_scale(tmp_path: Path, scale: float) -> None:
    values = RNG.random((300, 4, 5)).astype(np.float32)
    values[0, 0, 0] = 1.0
    np.savez(tmp_path / "x.npz", images=values * scale, labels=np.zeros(300))
    found = open_images(tmp_path / "x.npz", channels=None)
    assert found.images is not None and found.classes == ("0",)
    np.testing.assert_array_equal(found.images[:, 0].numpy(), np.rint(values * scale * 255 / scale))


def test_channels_second_and_transparency(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (3, 4, 7, 6), dtype=np.uint8)  # RGBA, channels second
    np.save(tmp_path / "x.npy", images)
    found = open_images(tmp_path / "x.npy").images
    assert found is not None and found.shape == (3, 3, 7, 6)
    alpha = images[:, 3:] / 255
    wanted = images[:, :3] * alpha + 255 * (1 - alpha)
    assert np.abs(found.numpy() - wanted).max() <= 0.5 + 1e-9


def test_bad_arrays_name_file_and_row(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"

    def fails(images: np.ndarray, message: str) -> None:
        np.save(path, images)
        with pytest.raises(ValueError, match=message):
            open_images(path)

    bad = np.ones((600, 4, 4))
    bad[511, 1, 2] = np.nan
    fails(bad, r"x\.npy: row 511 of images holds NaN.*remove it")
    bad[511, 1, 2] = np.inf
    fails(bad, r"x\.npy: row 511 of images holds NaN or infinite")
    fails(
        np.ones((3, 4, 4)) * -1, r"x\.npy: float images span -1 to -1; expected 0 to 1 or 0 to 255"
    )
    fails(np.zeros((3, 4), np.uint8), r"x\.npy: images have shape \(3, 4\); expected \(images,")
    fails(np.zeros((3, 5, 4, 7), np.uint8), r"x\.npy: images have shape \(3, 5, 4, 7\)")
    fails(np.zeros((0, 4, 4), np.uint8), r"x\.npy holds no images")
    fails(np.zeros((3, 4, 4), np.int32), r"x\.npy: images are int32; expected uint8")
    np.save(path, np.zeros((3, 4, 4), np.uint8))
    for labels, message in (
        ([0, 1], r"x\.npy: labels have shape \(2,\) for 3 images"),
        ([0, -1, 2], r"x\.npy: labels must be whole numbers"),
        ([0, 0.5, 2], r"x\.npy: labels must be whole numbers"),
    ):
        np.save(tmp_path / "x_labels.npy", np.array(labels))
        with pytest.raises(ValueError, match=message):
            open_images(path)


def test_bad_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", data=np.zeros(3))
    with pytest.raises(ValueError, match=r"x\.npz holds data; expected 'images'"):
        open_images(tmp_path / "x.npz")
    for name in ("y.npy", "y.npz"):
        (tmp_path / name).write_bytes(b"nonsense")
        with pytest.raises(ValueError, match=rf"{name} cannot be read as a NumPy file"):
            open_images(tmp_path / name)


def test_digits_are_split_always_the_same() -> None:
    development, test = digits()
    assert development.images is not None and test.images is not None
    assert development.images.shape == (1200, 1, 8, 8) and test.images.shape == (597, 1, 8, 8)
    bunch, order = load_digits(), np.random.RandomState(0).permutation(1797)
    for found, rows in ((development, order[:1200]), (test, order[1200:])):
        assert found.images is not None and found.labels is not None
        wanted = np.round(bunch.images[rows] * 255 / 16)
        np.testing.assert_array_equal(found.images[:, 0].numpy(), wanted)
        np.testing.assert_array_equal(found.labels.numpy(), bunch.target[rows])
    assert len({*development.names, *test.names}) == 1797
    assert torch.equal(digits()[0].images, development.images)  # type: ignore[arg-type]
