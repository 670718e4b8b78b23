"""`read_chips`: kinds of files, sources, canvases, labels; a clear message for every bad input."""

from __future__ import annotations

import csv
import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jepa_modalities.data.sar import Chips, Scaling, join_chips, read_chips, splits, write_phoenix
from jepa_modalities.data.sar.canvas import place, validity

RNG = np.random.default_rng(0)


def grey(height: int = 12, width: int = 10) -> np.ndarray:
    return RNG.integers(1, 256, (height, width), dtype=np.uint8)


def png(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def save(path: Path, pixels: np.ndarray | None = None) -> np.ndarray:
    pixels = grey() if pixels is None else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(pixels, "JPEG" if path.suffix == ".jpg" else "PNG"))
    return pixels


def pack(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_index(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def image(chips: Chips, row: int = 0) -> np.ndarray:
    return chips.values[row, 0].numpy()


# Sources and labels.


def test_class_folders(tmp_path: Path) -> None:
    wanted = {name: save(tmp_path / name) for name in ("b/1.png", "a/2.png", "a/deep/3.PNG")}
    (tmp_path / "a" / "notes.txt").write_text("no chip")
    (tmp_path / "a" / "._2.png").write_text("no chip either")
    found = read_chips(tmp_path)
    assert found.names == ("a/2.png", "a/deep/3.PNG", "b/1.png") and found.classes == ("a", "b")
    assert found.labels is not None and found.labels.tolist() == [0, 0, 1]
    assert found.values.shape == (3, 1, 12, 10) and found.values.dtype == torch.float32
    assert found.sizes.tolist() == [[12, 10]] * 3 and found.valid is None and not found.skipped
    for row, name in enumerate(found.names):
        np.testing.assert_array_equal(image(found, row), wanted[name] / np.float32(255))


def test_a_zip_is_read_as_the_folder_it_was(tmp_path: Path) -> None:
    members = {f"{c}/{n}.png": png(grey()) for c in "ab" for n in range(3)}
    packed = read_chips(pack(tmp_path / "x.zip", {**members, "readme.md": b"no chip"}))
    for name, content in members.items():
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(content)
    folder = read_chips(tmp_path / "x")
    assert packed.names == folder.names and packed.classes == folder.classes == ("a", "b")
    assert torch.equal(packed.values, folder.values)


def test_flat_folders_have_no_labels_and_subset_keeps_order(tmp_path: Path) -> None:
    pixels = [save(tmp_path / f"{number}.png", grey(9 + number)) for number in range(4)]
    found = read_chips(tmp_path, 12)
    assert found.labels is None and found.classes == () and found.valid is not None
    some = found.subset(torch.tensor([3, 1]))
    assert some.names == ("3.png", "1.png") and len(some) == 2 and some.valid is not None
    np.testing.assert_array_equal(image(some)[:, 1:11], pixels[3] / np.float32(255))
    assert some.sizes.tolist() == [[12, 10], [10, 10]]
    assert some.valid.sum((1, 2)).tolist() == [120, 100]


def test_split_folders(tmp_path: Path) -> None:
    for name in ("TRAIN/a/1.png", "TRAIN/c/2.png", "test/b/3.png"):
        save(tmp_path / name)
    assert splits(tmp_path) == ("train", "test")
    train, test = read_chips(tmp_path), read_chips(tmp_path, split="test")
    assert train.classes == test.classes == ("a", "b", "c")
    assert train.labels is not None and train.labels.tolist() == [0, 2]
    assert test.labels is not None and test.labels.tolist() == [1]
    assert len(read_chips(tmp_path, split="all")) == 3
    with pytest.raises(ValueError, match="no split 'val'; it has train, test"):
        read_chips(tmp_path, split="val")


def test_an_index_beside_the_data_names_classes_splits_and_order(tmp_path: Path) -> None:
    contents = [png(grey()) for _ in range(4)]
    pack(tmp_path / "set_png.zip", {f"p/{n}.png": c for n, c in enumerate(contents)})
    rows = [
        {
            "split": "test" if n == 1 else "train",
            "class": "zx" if n < 2 else "b",
            "label": 0 if n < 2 else 1,
            "kind": "k" if n < 3 else "other",
            "file": f"p/{n}.png",
            "sha1": hashlib.sha1(content).hexdigest(),
        }
        for n, content in enumerate(contents)
    ]
    index = write_index(tmp_path / "set_index.csv", rows[::-1])
    found = read_chips(tmp_path / "set_png.zip")
    assert found.names == ("p/3.png", "p/2.png", "p/0.png") and found.classes == ("zx", "b")
    assert found.labels is not None and found.labels.tolist() == [1, 1, 0]
    some = read_chips(f"{tmp_path / 'set_png.zip'}?kind=k&split=all")
    assert some.names == ("p/2.png", "p/1.png", "p/0.png")
    assert read_chips(tmp_path / "set_png.zip", where={"class": "zx|b", "kind": "other"}).names == (
        "p/3.png",
    )
    moved = index.rename(tmp_path / "elsewhere.csv")
    assert read_chips(tmp_path / "set_png.zip").classes == ("p",)  # the folder, without an index
    assert read_chips(tmp_path / "set_png.zip", index=moved).classes == ("zx", "b")
    (tmp_path / "set_png.csv").write_text("some,other,table\n1,2,3\n")
    assert read_chips(tmp_path / "set_png.zip").classes == ("p",)
    (tmp_path / "set_png.csv").write_text("file,class\np/2.png,only\n")
    assert read_chips(tmp_path / "set_png.zip").names == ("p/2.png",)


def test_indices_that_do_not_fit(tmp_path: Path) -> None:
    data = pack(tmp_path / "x.zip", {"1.png": png(grey())})
    with pytest.raises(FileNotFoundError, match=r"no index .*none\.csv; give a CSV with a column"):
        read_chips(data, index=tmp_path / "none.csv")
    cases: list[tuple[list[dict[str, Any]], dict[str, str], str]] = [
        ([{"name": "1.png"}], {}, "has no column 'file'; it has name"),
        (
            [{"file": "1.png"}, {"file": "2.png"}],
            {},
            r"names 1 of 2 files that are not in .*2\.png",
        ),
        ([{"file": "1.png", "sha1": "0" * 40}], {}, "sha1 differs"),
        ([{"file": "1.png"}], {"kind": "a"}, "has no column 'kind'"),
        (
            [{"file": "1.png", "kind": "b"}],
            {"kind": "a"},
            "no chip left with kind = 'a'; there is b",
        ),
        ([{"file": "1.png", "class": ""}], {}, "1 of 1 rows have no 'class'; fill them in"),
        (
            [{"file": "1.png", "class": c, "label": 0} for c in "ab"],
            {},
            "'label' and 'class' contradict",
        ),
    ]
    for rows, where, message in cases:
        index = write_index(tmp_path / "index.csv", rows)
        with pytest.raises(ValueError, match=message):
            read_chips(data, index=index, where=where)
    index.write_text("file,class\n")
    with pytest.raises(ValueError, match="no rows below its heading"):
        read_chips(data, index=index)
    with pytest.raises(ValueError, match="has no index whose columns kind"):
        read_chips(data, where={"kind": "a"})


def test_mstar_headers_name_the_class(tmp_path: Path) -> None:
    magnitude, phase = RNG.rayleigh(0.05, (2, 8, 8)).astype(np.float32)
    names = {"17_DEG/T72/HB1.015": "t72_tank", "17_DEG/BMP2/HB1.000": "bmp2_tank"}
    for name, target in names.items():
        (tmp_path / name).parent.mkdir(parents=True)
        write_phoenix(tmp_path / name, magnitude, phase, {"TargetType": target})
    found = read_chips(tmp_path)
    assert found.classes == ("BMP2", "T72")
    assert found.labels is not None and found.labels.tolist() == [0, 1]
    np.testing.assert_array_equal(image(found), magnitude)
    np.testing.assert_array_equal(image(read_chips(tmp_path / "17_DEG/T72/HB1.015")), magnitude)


def test_header_classes_are_numbered_over_all_splits(tmp_path: Path) -> None:
    for name, target in {
        "train/x/1.000": "a_tank",
        "train/x/2.000": "b_tank",
        "test/x/3.000": "b_tank",
        "test/x/4.000": "c_tank",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_phoenix(tmp_path / name, *RNG.rayleigh(0.05, (2, 4, 4)), {"TargetType": target})
    train, test = read_chips(tmp_path), read_chips(tmp_path, split="test")
    assert train.classes == test.classes == ("A", "B", "C")
    assert train.labels is not None and train.labels.tolist() == [0, 1]
    assert test.labels is not None and test.labels.tolist() == [1, 2]


def test_several_sources_with_their_own_selectors(tmp_path: Path) -> None:
    save(tmp_path / "a" / "one" / "1.png", np.full((6, 6), 255, np.uint8))
    save(tmp_path / "b" / "two" / "2.png", np.full((4, 4), 255, np.uint8))
    found = read_chips(f"{tmp_path}/a?gain=0.5, {tmp_path}/b?quantity=intensity&gain=0.25", 6)
    assert found.labels is None and found.classes == ()  # their classes differ
    assert found.names == ("one/1.png", "two/2.png") and found.sizes.tolist() == [[6, 6], [4, 4]]
    assert found.values.amax((1, 2, 3)).tolist() == [0.5, 0.25]
    assert found.valid is not None and found.valid.sum((1, 2)).tolist() == [36, 16]
    same = read_chips(f"{tmp_path}/a,{tmp_path}/a")
    assert same.labels is not None and same.labels.tolist() == [0, 0] and same.classes == ("one",)
    with pytest.raises(ValueError, match=r"canvases of \[\(4, 4\), \(6, 6\)\]"):
        join_chips([read_chips(f"{tmp_path}/a"), read_chips(f"{tmp_path}/b")])
    for wrong, message in {
        "gain": "'gain' is no selector",
        "gain=x": "gain = 'x' is no number",
        "quantity=power": "quantity = 'power'; give one of amplitude, intensity",
        "gain=-1": "gain = -1.0; give a positive",
    }.items():
        with pytest.raises(ValueError, match=message):
            read_chips(f"{tmp_path}/a?{wrong}")


def test_unique_keeps_the_first_of_equal_files(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/2.png", "b/3.png"):
        save(tmp_path / name, np.full((5, 5), 7 if name != "b/3.png" else 8, np.uint8))
    assert read_chips(tmp_path, unique=True).names == ("a/1.png", "b/3.png")
    assert len(read_chips(tmp_path)) == 3


# Kinds of files.


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_are_shares_of_their_largest_value(tmp_path: Path, dtype: Any) -> None:
    pixels = RNG.integers(1, np.iinfo(dtype).max, (6, 5)).astype(dtype)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    tifffile.imwrite(tmp_path / "y.tif", pixels)
    for row in range(2):
        found = image(read_chips(tmp_path), row)
        np.testing.assert_allclose(found, pixels / float(np.iinfo(dtype).max), rtol=1e-6)


def test_colour_is_one_grey_channel(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    save(tmp_path / "x.png", pixels)
    expected = pixels @ np.array([0.299, 0.587, 0.114]) / 255
    np.testing.assert_allclose(image(read_chips(tmp_path)), expected, atol=1 / 255)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_float_tiffs_with_channels(tmp_path: Path, channels: int) -> None:
    pixels = RNG.rayleigh(2.0, (7, 9, channels)).astype(np.float32)
    kinds: dict[str, dict[str, Any]] = {
        "plain": {},
        "contig": {"photometric": "minisblack"}
        | ({"planarconfig": "contig"} if channels > 1 else {}),
    }
    for name, options in kinds.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, **options)
    stacked = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    tifffile.imwrite(tmp_path / "pages.tif", stacked, photometric="minisblack")
    for channel in (*range(channels), -1):
        found = read_chips(tmp_path, channel=channel)
        for row in range(3):
            np.testing.assert_array_equal(image(found, row), pixels[..., channel])
    with pytest.raises(ValueError, match=rf"has {channels} channel\(s\), so there is no channel 4"):
        read_chips(tmp_path, channel=4)


def complex_chip() -> np.ndarray:
    parts = RNG.normal(0, 3, (2, 8, 6)).astype(np.float32)
    return parts[0] + 1j * parts[1]


def test_complex_tiffs(tmp_path: Path) -> None:
    chip = complex_chip()
    tifffile.imwrite(tmp_path / "a.tif", chip)
    pairs = np.stack([chip.real, chip.imag, 2 * chip.real, 2 * chip.imag], -1)
    tifffile.imwrite(tmp_path / "b.tif", pairs, photometric="minisblack", planarconfig="contig")
    expected = np.hypot(chip.real, chip.imag)
    np.testing.assert_allclose(image(read_chips(tmp_path / "a.tif")), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="no amplitude; name what is stored"):
        read_chips(tmp_path / "b.tif")
    for channel, factor in ((0, 1), (1, 2), (-1, 2)):
        found = read_chips(tmp_path / "b.tif", quantity="real_imaginary", channel=channel)
        np.testing.assert_allclose(image(found), factor * expected, rtol=1e-6)
    tifffile.imwrite(tmp_path / "c.tif", pairs[..., :3], photometric="rgb")
    with pytest.raises(ValueError, match="has 3 channels; quantity real_imaginary needs two"):
        read_chips(tmp_path / "c.tif", quantity="real_imaginary")


@pytest.mark.parametrize("dtype", ["complex64", "complex_int16"])
@pytest.mark.parametrize("fallback", [False, True])
def test_complex_geotiffs(
    tmp_path: Path, dtype: str, fallback: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rasterio = pytest.importorskip("rasterio")
    chip = np.round(100 * complex_chip()).astype(np.complex64)
    place = {"height": 8, "width": 6, "count": 1, "dtype": dtype}
    place["transform"] = rasterio.Affine.translation(1, 1)
    with rasterio.open(tmp_path / "x.tif", "w", driver="GTiff", **place) as file:
        file.write(chip[None])
    if fallback:  # tifffile does not know every compression

        def refuse(*args: object) -> None:
            raise ValueError("no codec")

        monkeypatch.setattr(tifffile, "TiffFile", refuse)
    np.testing.assert_allclose(image(read_chips(tmp_path)), np.abs(chip), rtol=1e-6)


def test_missing_readers_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    tifffile.imwrite(tmp_path / "x.tif", complex_chip())
    for name in ("tifffile", "rasterio"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"needs tifffile .*pip install 'jepa_modalities\[sar\]'"):
        read_chips(tmp_path)


def test_quantities(tmp_path: Path) -> None:
    values = RNG.rayleigh(0.3, (7, 9)).astype(np.float32) + np.float32(0.01)
    for name, stored in {"a": values, "i": values**2, "d": 20 * np.log10(values)}.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", stored)
    for name, quantity in {"a": "amplitude", "i": "intensity", "d": "db"}.items():
        found = read_chips(tmp_path / f"{name}.tif", quantity=quantity)  # type: ignore[arg-type]
        np.testing.assert_allclose(image(found), values, rtol=1e-5)
    with pytest.raises(
        ValueError, match=r"values down to -\d.*which are no amplitude.*quantity: db"
    ):
        read_chips(tmp_path / "d.tif")


def test_numpy_files(tmp_path: Path) -> None:
    chips = RNG.rayleigh(0.3, (3, 7, 9)).astype(np.float32)
    np.save(tmp_path / "x.npy", chips)
    np.save(tmp_path / "x_labels.npy", np.array([2, 0, 2]))
    found = read_chips(tmp_path / "x.npy")
    assert found.classes == ("0", "2") and found.names[1] == "x.npy[1]"
    assert found.labels is not None and found.labels.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(found.values[:, 0], chips)
    np.savez(tmp_path / "y.npz", chips=chips * np.exp(1j * chips), labels=["u", "v", "u"])
    packed = read_chips(tmp_path / "y.npz", 5)
    assert packed.classes == ("u", "v")
    np.testing.assert_allclose(packed.values[:, 0], chips[:, 1:6, 2:7], rtol=1e-5)
    np.savez(tmp_path / "z.npz", images=chips)
    (tmp_path / "w.npy").write_bytes(b"no array")
    np.save(tmp_path / "v.npy", chips[0])
    np.save(tmp_path / "v3.npy", chips)
    np.save(tmp_path / "v3_labels.npy", np.arange(4))
    for name, message in {
        "z.npz": "holds images; expected 'chips'",
        "w.npy": "cannot be read as a NumPy file",
        "v.npy": r"chips have shape \(7, 9\); expected \(chips, height, width",
        "v3.npy": r"labels have shape \(4,\) for 3 chips",
        "x.npy?kind=a": "has no index; leave",
    }.items():
        with pytest.raises(ValueError, match=message):
            read_chips(f"{tmp_path}/{name}")


# Canvas.

SIDES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(SIDES, SIDES)
def test_pad_and_crop_by_plain_loops(native: tuple[int, int], canvas: tuple[int, int]) -> None:
    chip = np.arange(1, native[0] * native[1] + 1, dtype=np.float32).reshape(native)
    found = place(chip, canvas, "pad")
    mask = validity(torch.tensor([native]), canvas)
    own = torch.ones(canvas, dtype=torch.bool) if mask is None else mask[0]
    shift = [
        (native[axis] - canvas[axis]) // 2
        if native[axis] >= canvas[axis]
        else -((canvas[axis] - native[axis]) // 2)
        for axis in (0, 1)
    ]
    for row in range(canvas[0]):
        for column in range(canvas[1]):
            from_row, from_column = row + shift[0], column + shift[1]
            inside = 0 <= from_row < native[0] and 0 <= from_column < native[1]
            assert bool(own[row, column]) == inside
            assert found[row, column] == (chip[from_row, from_column] if inside else 0)
    assert (mask is None) == (native[0] >= canvas[0] and native[1] >= canvas[1])


def test_chips_of_other_sizes(tmp_path: Path) -> None:
    large, small = (
        save(tmp_path / "large.png", grey(20, 16)),
        save(tmp_path / "small.png", grey(6, 8)),
    )
    largest = read_chips(tmp_path)
    assert largest.values.shape == (2, 1, 20, 16) and largest.valid is not None
    np.testing.assert_array_equal(image(largest, 1)[7:13, 4:12], small / np.float32(255))
    found = read_chips(tmp_path, 10)
    np.testing.assert_array_equal(image(found), large[5:15, 3:13] / np.float32(255))
    assert found.valid is not None and found.valid[0].all() and int(found.valid[1].sum()) == 48
    with pytest.raises(ValueError) as caught:
        read_chips(tmp_path, 10, fit="crop")
    assert "1 of 2 chips" in str(caught.value) and "large.png" not in str(caught.value)
    assert "small.png: 6 x 8 pixels are less than the canvas of 10 x 10" in str(caught.value)
    with pytest.raises(ValueError, match=r"^small\.png: 6 x 8 pixels are less than .* 20 x 16"):
        read_chips(tmp_path, fit="crop")
    assert read_chips(tmp_path, (6, 8), fit="crop").valid is None
    kept = read_chips(tmp_path, 10, fit="crop", on_error="skip")
    assert kept.names == ("large.png",) and kept.skipped[0][0] == "small.png"
    with pytest.raises(ValueError, match="size = 0; give at least 1"):
        read_chips(tmp_path, 0)


def test_resizing_covers_the_canvas_and_keeps_the_level(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.full((20, 40), 51, np.uint8))
    half = np.zeros((20, 40), np.uint8)
    half[:, 20:] = 255
    save(tmp_path / "b.png", half)
    found = read_chips(tmp_path, 10, fit="resize")
    assert found.valid is None and found.sizes.tolist() == [[20, 40]] * 2
    np.testing.assert_allclose(image(found), 0.2, rtol=1e-5)
    np.testing.assert_allclose(image(found, 1)[:, 6:], 1.0, atol=1e-6)  # the centre is kept
    np.testing.assert_allclose(image(found, 1)[:, :4], 0.0, atol=1e-6)
    assert read_chips(tmp_path, 33, fit="resize").values.shape == (2, 1, 33, 33)


def test_scaling_is_applied_to_the_canvas(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.full((4, 4), 51, np.uint8))
    found = read_chips(tmp_path, 6, scaling=Scaling("linear", gain=2))
    np.testing.assert_allclose(image(found)[1:5, 1:5], 0.4, rtol=1e-6)
    assert float(found.values[0, 0, 0, 0]) == 0


# Bad input.


def test_unusable_chips_are_listed_with_their_reasons(tmp_path: Path) -> None:
    save(tmp_path / "good.jpg")
    (tmp_path / "cut.jpg").write_bytes(png(grey(64, 64), "JPEG")[:-300])
    (tmp_path / "text.png").write_text("no picture")
    save(tmp_path / "zero.png", np.zeros((9, 9), np.uint8))
    frame = np.zeros((30, 30), np.uint8)
    frame[0] = 9
    save(tmp_path / "frame.png", frame)
    bad = np.ones((9, 9), np.float32)
    bad[0, :2] = np.nan
    tifffile.imwrite(tmp_path / "nan.tif", bad)
    with pytest.raises(ValueError) as caught:
        read_chips(tmp_path, 8)
    message = str(caught.value)
    assert f"5 of 6 chips in {tmp_path} cannot be used:" in message
    assert "cut.jpg: image file is truncated" in message
    assert (
        "text.png: is no JPEG, PNG, TIFF or MSTAR Phoenix file: it begins with b'no picture'"
        in message
    )
    assert "zero.png: is empty: every pixel is 0" in message
    assert "frame.png: is empty: every pixel of the centre 8 x 8 is 0" in message
    assert "nan.tif: has 2 NaN or infinite values; repair or remove it" in message
    assert "good.jpg" not in message and "on_error='skip'" in message
    kept = read_chips(tmp_path, 8, on_error="skip")
    assert kept.names == ("good.jpg",) and len(kept.skipped) == 5
    (tmp_path / "good.jpg").unlink()
    with pytest.raises(ValueError, match="no chip is left"):
        read_chips(tmp_path, 8, on_error="skip")


def test_damaged_archives(tmp_path: Path) -> None:
    member = png(grey())
    path = pack(tmp_path / "x.zip", {"a/1.png": member, "a/2.png": png(grey())})
    content = bytearray(path.read_bytes())
    content[content.index(member) + 60] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a/1\.png: is damaged inside the archive \(Bad CRC-32"):
        read_chips(path)
    assert read_chips(path, on_error="skip").names == ("a/2.png",)
    path.write_bytes(content[:-40])
    with pytest.raises(ValueError, match=r"x\.zip cannot be read as a zip file .*copy it again"):
        read_chips(path)


def test_a_truncated_raw_file_is_named(tmp_path: Path) -> None:
    write_phoenix(tmp_path / "HB1.000", *RNG.rayleigh(1, (2, 8, 8)))
    content = (tmp_path / "HB1.000").read_bytes()
    (tmp_path / "HB1.000").write_bytes(content[:-8])
    with pytest.raises(ValueError, match=r"HB1\.000: is truncated: [\d,]+ bytes, expected [\d,]+"):
        read_chips(tmp_path)
    numbers = np.frombuffer(content, ">f4", offset=len(content) - 512)
    (tmp_path / "HB1.000").write_bytes(content[:-512] + numbers.astype("<f4").tobytes())
    with pytest.raises(ValueError, match=r"HB1\.000: is little-endian"):
        read_chips(tmp_path)


def test_wrong_paths(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"none' does not exist \(there is {tmp_path}\)"):
        read_chips(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        read_chips("")
    with pytest.raises(ValueError, match=r"holds no chips \(it is empty\)"):
        read_chips(tmp_path)
    (tmp_path / "x.txt").write_text("no chip")
    with pytest.raises(ValueError, match=r"holds no chips \(found 1 x \.txt\)"):
        read_chips(tmp_path)
    with pytest.raises(ValueError, match=r"x\.txt holds no chips"):
        read_chips(tmp_path / "x.txt")
    save(tmp_path / "a" / "1.png")
    save(tmp_path / "2.png")
    with pytest.raises(ValueError, match=r"class folders \(a, \.\.\.\) and 1 loose chips"):
        read_chips(tmp_path)
    with pytest.raises(ValueError, match="fit = 'squeeze'; give one of pad, crop, resize"):
        read_chips(tmp_path / "a", fit="squeeze")  # type: ignore[arg-type]
