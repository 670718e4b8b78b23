"""Folders of images: layouts, conversions of every kind of file, and what is wrong with a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jepa_modalities.data.image import open_images, splits

RNG = np.random.default_rng(0)


def noise(height: int = 12, width: int = 10, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, pixels: np.ndarray | None = None, **options: Any) -> np.ndarray:
    pixels = noise() if pixels is None else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def pixels_of(images: torch.Tensor, row: int = 0) -> np.ndarray:
    return images[row].permute(1, 2, 0).numpy()


def test_class_folders_are_labelled_by_name(tmp_path: Path) -> None:
    wanted = {name: save(tmp_path / name) for name in ("b/1.png", "a/2.png", "a/deep/3.PNG")}
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / "._2.png").write_text("no image either")
    found = open_images(tmp_path)
    assert found.names == ("a/2.png", "a/deep/3.PNG", "b/1.png")
    assert found.classes == ("a", "b") and found.labels is not None and found.images is not None
    assert found.labels.tolist() == [0, 0, 1] and found.labels.dtype == torch.int64
    assert found.images.shape == (3, 3, 12, 10) and found.images.dtype == torch.uint8
    for row, name in enumerate(found.names):
        np.testing.assert_array_equal(pixels_of(found.images, row), wanted[name])


def test_flat_folder_has_no_labels_and_subset_keeps_order(tmp_path: Path) -> None:
    pixels = [save(tmp_path / f"{n}.png") for n in range(4)]
    found = open_images(tmp_path)
    assert found.labels is None and found.classes == ()
    some = found.subset(torch.tensor([3, 1]))
    assert some.names == ("3.png", "1.png") and len(some) == 2 and some.images is not None
    np.testing.assert_array_equal(pixels_of(some.images, 1), pixels[1])


def test_splits_share_their_class_numbers(tmp_path: Path) -> None:
    for name in ("train/a/1.png", "train/b/2.png", "train/c/3.png", "validation/c/4.png"):
        save(tmp_path / name)
    assert set(splits(tmp_path)) == {"train", "val"}
    assert open_images(tmp_path).names == ("train/a/1.png", "train/b/2.png", "train/c/3.png")
    for split in ("val", "test"):  # val stands in for a test that is not there
        held = open_images(tmp_path, split)
        assert held.names == ("validation/c/4.png",) and held.classes == ("a", "b", "c")
        assert held.labels is not None and held.labels.tolist() == [2]


def test_a_lone_train_is_a_class(tmp_path: Path) -> None:
    for name in ("bus/1.png", "car/2.png", "train/3.png"):
        save(tmp_path / name)
    assert splits(tmp_path) == ()
    assert open_images(tmp_path, "train").classes == ("bus", "car", "train")
    with pytest.raises(ValueError, match=r"split\(s\) train, not 'test'; .*--data.test-path"):
        open_images(tmp_path, "test")


def test_greyscale_and_channels(tmp_path: Path) -> None:
    grey = save(tmp_path / "grey" / "a.png", noise(channels=1))
    colour = save(tmp_path / "mixed" / "b.png")
    save(tmp_path / "mixed" / "a.png", grey)
    assert open_images(tmp_path / "grey", channels=None).channels == 1
    as_rgb = open_images(tmp_path / "grey").images
    assert as_rgb is not None
    np.testing.assert_array_equal(pixels_of(as_rgb), np.stack([grey] * 3, -1))
    both = open_images(tmp_path / "mixed", channels=None)
    assert both.channels == 3
    luma = open_images(tmp_path / "mixed", channels=1).images
    assert luma is not None and luma.shape == (2, 1, 12, 10)
    np.testing.assert_array_equal(luma[0, 0].numpy(), grey)
    wanted = np.asarray(Image.fromarray(colour).convert("L"))
    np.testing.assert_array_equal(luma[1, 0].numpy(), wanted)


def test_sixteen_bits_are_scaled_not_cut(tmp_path: Path) -> None:
    deep = RNG.integers(0, 65536, (12, 10)).astype(np.uint16)
    deep[0, :2] = 0, 65535
    for name in ("a.png", "b.tif"):
        save(tmp_path / name, deep)
    found = open_images(tmp_path, channels=None)
    assert found.channels == 1 and found.images is not None
    wanted = np.array([[round(int(v) * 255 / 65535) for v in line] for line in deep])
    for row in range(2):
        np.testing.assert_array_equal(found.images[row, 0].numpy(), wanted)


def test_float_tiff(tmp_path: Path) -> None:
    values = RNG.random((12, 10)).astype(np.float32)
    save(tmp_path / "a.tif", values)
    found = open_images(tmp_path, channels=1)
    assert found.images is not None
    np.testing.assert_array_equal(found.images[0, 0].numpy(), np.rint(values * 255))
    values[3, 3] = np.nan
    save(tmp_path / "b.tif", values)
    with pytest.raises(ValueError, match=r"b\.tif: NaN"):
        open_images(tmp_path)


def test_transparent_parts_lie_on_white(tmp_path: Path) -> None:
    rgba = noise(channels=4)
    rgba[0, :3, 3] = 0, 255, 128
    save(tmp_path / "rgba" / "a.png", rgba)
    found = open_images(tmp_path / "rgba")
    assert found.images is not None
    alpha = rgba[..., 3:] / 255
    wanted = rgba[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(pixels_of(found.images) - wanted).max() <= 1
    palette = Image.fromarray(noise()).convert("P", palette=Image.Palette.ADAPTIVE)
    (tmp_path / "p").mkdir()
    palette.save(tmp_path / "p" / "a.png", transparency=int(np.asarray(palette)[2, 2]))
    found = open_images(tmp_path / "p")
    assert found.images is not None and found.images[0, :, 2, 2].tolist() == [255, 255, 255]


def test_cmyk_and_bilevel(tmp_path: Path) -> None:
    flat = np.full((16, 16, 3), (200, 40, 90), np.uint8)
    Image.fromarray(flat).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    Image.fromarray(noise(16, 16, 1) > 127).save(tmp_path / "b.png")
    found = open_images(tmp_path)
    assert found.images is not None
    assert np.abs(pixels_of(found.images).astype(int) - flat).max() <= 4
    assert set(found.images[1].flatten().tolist()) == {0, 255}


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it turned by 90 degrees clockwise
    pixels = save(tmp_path / "a.png", exif=exif)
    found = open_images(tmp_path)
    assert found.images is not None
    np.testing.assert_array_equal(pixels_of(found.images), np.rot90(pixels, -1))


def test_mixed_sizes_stay_on_disk(tmp_path: Path) -> None:
    save(tmp_path / "a.png", noise(8, 9))
    save(tmp_path / "b.png", noise(20, 11))
    found = open_images(tmp_path)
    assert found.images is None and found.encoded is not None and len(found) == 2
    assert found.open(1).size == (11, 20)
    with pytest.raises(ValueError, match=r"different sizes \(8 x 9, 20 x 11.*resident='auto'"):
        open_images(tmp_path, resident=True)
    (tmp_path / "b.png").unlink()
    assert open_images(tmp_path, resident=False).images is None
    with pytest.raises(OSError, match=r"b\.png can no longer be read"):
        found.open(1)


@pytest.mark.parametrize("resident", ["auto", False])
def test_unreadable_files_are_listed_or_skipped(tmp_path: Path, resident: bool) -> None:
    good = [save(tmp_path / "x" / f"good{n}.jpg", noise(64, 64)) for n in range(3)]
    whole = (tmp_path / "x" / "good0.jpg").read_bytes()
    for n in range(11):
        (tmp_path / "x" / f"bad{n:02}.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "x" / "zero.png").write_bytes(b"")
    with pytest.raises(ValueError) as caught:
        open_images(tmp_path, resident=resident)
    message = str(caught.value)
    assert "12 of 15 images" in message and "--data.on-error skip" in message
    assert "x/bad00.jpg: image file is truncated" in message
    assert "x/bad09.jpg" in message and "x/bad10.jpg" not in message and "and 2 more" in message
    found = open_images(tmp_path, on_error="skip", resident=resident)
    assert len(found) == len(good) == 3 and len(found.skipped) == 12
    assert found.names == ("x/good0.jpg", "x/good1.jpg", "x/good2.jpg")
    assert found.labels is not None and len(found.labels) == 3 and "x/zero.png" in found.skipped
    with Image.open(tmp_path / "x" / "good2.jpg") as plain:
        np.testing.assert_array_equal(np.asarray(found.open(2)), np.asarray(plain))


def test_nothing_left_after_skipping(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1 of 1 images.*\n.*a\.png.*\nnone is left"):
        open_images(tmp_path, on_error="skip")


def test_wrong_paths(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it is empty"):
        open_images(tmp_path)
    (tmp_path / "a.csv").write_text("1")
    with pytest.raises(ValueError, match=r"holds no images \(found 1 x \.csv\).*\.jpg"):
        open_images(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere.*does not exist \(there is .*\.h5"):
        open_images(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="empty part"):
        open_images("")
    save(tmp_path / "one.png")
    with pytest.raises(ValueError, match=r"one\.png is a file of kind '\.png'; give a folder"):
        open_images(tmp_path / "one.png")
    save(tmp_path / "cat" / "two.png")
    with pytest.raises(ValueError, match=r"class folders \(cat.*1 loose images \(such as one\.png"):
        open_images(tmp_path)
