"""Folders become HDF5 files that read back equal, also after a kill."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from jepa_modalities.data.image import open_images
from jepa_modalities.data.prepare import PREPARERS
from jepa_modalities.data.prepare import image as module
from jepa_modalities.data.prepare.image import covered, prepare_images
from jepa_modalities.data.prepare.part import open_part, part_folder


def write(path: Path, height: int, width: int, seed: int, **options: Any) -> np.ndarray[Any, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    folder = tmp_path / "pets"
    for number, name in enumerate(["dog/a.png", "cat/b.png", "cat/a.jpg", "dog/c.webp"]):
        write(folder / name, 8 + 2 * number, 13 - number, number)
    return folder


NAMES = ["cat/a.jpg", "cat/b.png", "dog/a.png", "dog/c.webp"]


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_pixels_of_one_size(pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "pets.h5"
    seen: list[tuple[str, int, int]] = []
    done = prepare_images(pets, out, (8, 6), progress=lambda *told: seen.append(told))
    assert done.files == {out: sha(out)} and done.written == 4
    assert done.skipped == () and done.resumed == 0
    assert seen[-1] == ("pets.h5", 4, 4)
    with h5py.File(out) as file:
        assert file["images"].shape == (4, 8, 6, 3) and file["images"].dtype == np.uint8
        assert [name.decode() for name in file["names"]] == NAMES
        assert [text.decode() for text in file["sha256"]] == [sha(pets / name) for name in NAMES]
        for name, found in zip(NAMES, file["images"], strict=True):
            image = Image.open(pets / name).convert("RGB")
            scale = max(8 / image.height, 6 / image.width)
            cut = ((image.width - 6 / scale) / 2, (image.height - 8 / scale) / 2)
            box = (cut[0], cut[1], image.width - cut[0], image.height - cut[1])
            expected = image.resize((6, 8), Image.Resampling.BICUBIC, box=box)
            np.testing.assert_array_equal(found, np.asarray(expected))
    images = open_images(out)
    assert images.classes == ("cat", "dog") and images.images is not None
    assert images.labels is not None and images.labels.tolist() == [0, 0, 1, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pets", "pets.h5"]


def test_an_image_of_the_right_size_is_not_changed(tmp_path: Path) -> None:
    pixels = write(tmp_path / "in" / "a.png", 9, 7, 0)
    prepare_images(tmp_path / "in", tmp_path / "a.h5", (9, 7))
    grey = prepare_images(tmp_path / "in", tmp_path / "g.h5", (9, 7), channels=1)
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["images"][0], pixels)
        assert "labels" not in file and "classes" not in file.attrs
    with h5py.File(tmp_path / "g.h5") as file:
        expected = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
        np.testing.assert_array_equal(file["images"][0], expected)
    assert grey.written == 1


def test_cover_is_shorter_side_then_centre() -> None:
    # Sizes that divide: scaling the whole image and then cutting needs no fractions of pixels.
    pixels = np.random.default_rng(0).integers(0, 256, (8, 24), dtype=np.uint8)
    for image in (Image.fromarray(pixels), Image.fromarray(pixels.T.copy())):
        wide = image.width > image.height
        whole = np.asarray(image.resize((12, 4) if wide else (4, 12), Image.Resampling.BICUBIC))
        expected = whole[:, 4:8] if wide else whole[4:8]
        np.testing.assert_array_equal(np.asarray(covered(image, (4, 4))), expected)


def test_files_of_mixed_sizes_stay_as_they_are(pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "pets.h5"
    prepare_images(pets, out)
    with h5py.File(out) as file:
        offset, content = file["offset"][:], file["webp"][:].tobytes()
    for number, name in enumerate(NAMES):
        assert content[offset[number] : offset[number + 1]] == (pets / name).read_bytes()
    found, expected = open_images(out), open_images(pets)
    assert found.images is None and found.classes == expected.classes
    assert found.labels is not None and expected.labels is not None
    assert found.labels.tolist() == expected.labels.tolist()
    for row in range(4):
        np.testing.assert_array_equal(np.asarray(found.open(row)), np.asarray(expected.open(row)))


def test_splits_give_a_file_each_that_open_as_one(tmp_path: Path) -> None:
    for number, name in enumerate(["train/x/1.png", "train/y/2.png", "val/y/3.png"]):
        write(tmp_path / "in" / name, 5, 5, number)
    out = tmp_path / "out" / "set.h5"
    done = prepare_images(tmp_path / "in", out, 5)
    names = [path.name for path in done.files]
    assert sorted(names) == ["set_train.h5", "set_val.h5"] and done.written == 3
    pattern = tmp_path / "out" / "set_*.h5"
    for split, labels in (("train", [0, 1]), ("test", [1])):  # val stands in for test
        images = open_images(pattern, split)
        assert images.classes == ("x", "y")
        assert images.labels is not None and images.labels.tolist() == labels
    only = prepare_images(tmp_path / "in", tmp_path / "one.h5", 5, split="val")
    assert list(only.files) == [tmp_path / "one.h5"] and only.written == 1
    with pytest.raises(ValueError, match="splits train, val, not 'test'"):
        prepare_images(tmp_path / "in", tmp_path / "two.h5", split="test")


@pytest.mark.parametrize("size", [None, 4])
def test_unreadable_images_are_skipped_and_told(
    size: int | None, pets: Path, tmp_path: Path
) -> None:
    (pets / "cat" / "b.png").write_bytes(b"no image")
    out = tmp_path / "pets.h5"
    done = prepare_images(pets, out, size, on_error="skip", workers=2)
    assert done.written == 3 and [name for name, _ in done.skipped] == ["cat/b.png"]
    assert "cannot identify" in done.skipped[0][1] and str(tmp_path) not in done.skipped[0][1]
    assert "0x" not in done.skipped[0][1]
    other = prepare_images(pets, tmp_path / "other.h5", size, on_error="skip")
    assert sha(tmp_path / "other.h5") == sha(out) and other.skipped == done.skipped
    images = open_images(out)
    assert images.labels is not None and images.labels.tolist() == [0, 1, 1]
    again = prepare_images(pets, out, size, on_error="skip")
    assert again.skipped == done.skipped and again.files == done.files and again.resumed == 3


def test_error_keeps_what_is_done_and_goes_on_after_a_repair(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMMIT", 2)
    good = (pets / "dog" / "a.png").read_bytes()
    (pets / "dog" / "a.png").write_bytes(good[:60])
    out = tmp_path / "pets.h5"
    with pytest.raises(ValueError, match=r"dog/a.png: .*\n.*on_error='skip'"):
        prepare_images(pets, out, 4)
    assert not out.exists()
    (pets / "dog" / "a.png").write_bytes(good)
    assert prepare_images(pets, out, 4).resumed == 2
    prepare_images(pets, tmp_path / "other.h5", 4)
    assert sha(out) == sha(tmp_path / "other.h5")
    assert not out.with_name("pets.h5.part").exists()


def test_changed_sources_and_settings_are_noticed(pets: Path, tmp_path: Path) -> None:
    (pets / "dog" / "c.webp").write_bytes(b"no image")
    out = tmp_path / "pets.h5"
    with pytest.raises(ValueError, match=r"dog/c.webp"):
        prepare_images(pets, out, 4)  # three images stay in the part
    with pytest.raises(ValueError, match="begun with another size; give the same"):
        prepare_images(pets, out, 5)
    write(pets / "cat" / "a.jpg", 20, 20, 9)
    with pytest.raises(ValueError, match=r"a.jpg changed since .*resume=False"):
        prepare_images(pets, out, 4, on_error="skip")
    (pets / "cat" / "a.jpg").unlink()
    with pytest.raises(ValueError, match=r"cat/a.jpg is no longer image 0"):
        prepare_images(pets, out, 4, on_error="skip")
    done = prepare_images(pets, out, 5, on_error="skip", resume=False)
    assert (done.written, done.resumed, len(done.skipped)) == (2, 0, 1)
    with pytest.raises(FileExistsError, match="was not made from these images"):
        prepare_images(pets, out, 6, on_error="skip")


def test_wrong_arguments_are_told_before_any_work(pets: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no folder"):
        prepare_images(tmp_path / "nowhere", tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"ends in \.h5"):
        prepare_images(pets, tmp_path / "a.npz")
    with pytest.raises(ValueError, match="at least 1 pixel"):
        prepare_images(pets, tmp_path / "a.h5", 0)
    write(pets / "loose.png", 4, 4, 0)
    with pytest.raises(ValueError, match=r"1 loose images \(such as loose.png\)"):
        prepare_images(pets, tmp_path / "a.h5")
    (pets / "loose.png").unlink()
    write(pets / "a,b" / "a.png", 4, 4, 0)
    with pytest.raises(ValueError, match="must not hold commas"):
        prepare_images(pets, tmp_path / "a.h5")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        prepare_images(tmp_path / "empty", tmp_path / "a.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "pets"]


SLOW = """
import sys, time
from jepa_modalities.data.prepare import image
image.COMMIT = 4
read = image.read_image
image.read_image = lambda job, row: (time.sleep(0.02), read(job, row))[1]
image.prepare_images(sys.argv[1], sys.argv[2], 6, workers=1)
"""


def test_killed_and_resumed_file_equals_the_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "in", tmp_path / "killed.h5"
    for number in range(60):
        write(source / f"c{number % 3}" / f"{number:03}.png", 7, 9, number)
    log = tmp_path / "killed.h5.part" / "log.jsonl"
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(source), str(out)])
    try:
        limit = time.monotonic() + 60
        while not log.exists() or log.read_bytes().count(b"\n") < 9:
            assert process.poll() is None and time.monotonic() < limit
            time.sleep(0.005)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not out.exists()
    done = log.read_bytes().count(b"\n") - 1
    # The worst moment: bytes without their entry, and half an entry.
    with log.open("ab") as file:
        file.write(b'{"name": "c0/')
    with (log.parent / "payload").open("ab") as file:
        file.write(b"torn")
    monkeypatch.setattr(module, "COMMIT", 4)
    resumed = prepare_images(source, out, 6)
    assert 8 <= done < 60 and resumed.resumed == done and resumed.written == 60
    straight = prepare_images(source, tmp_path / "straight.h5", 6, workers=3)
    assert sha(out) == sha(tmp_path / "straight.h5") == straight.files[tmp_path / "straight.h5"]
    assert not log.parent.exists()


def test_torn_ends_are_cut_at_every_start(tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    folder = part_folder(out)
    for turn in range(3):
        with (
            pytest.raises(KeyboardInterrupt),
            open_part(out, {"size": 1}, resume=True) as part,
        ):
            assert [entry["name"] for entry in part.entries] == list(range(turn))
            part.add([bytes([turn] * 3)], [{"name": turn}])
            raise KeyboardInterrupt
        with (folder / "log.jsonl").open("ab") as log, (folder / "payload").open("ab") as payload:
            log.write(b'{"name": 9')
            payload.write(b"torn")
    with open_part(out, {"size": 1}, resume=True) as part:
        assert part.payload.read_bytes() == bytes([0, 0, 0, 1, 1, 1, 2, 2, 2])
        assert [entry["end"] for entry in part.entries] == [3, 6, 9]
    assert not folder.exists()


def test_two_processes_do_not_mix(pets: Path, tmp_path: Path) -> None:
    with (
        open_part(tmp_path / "a.h5", {"size": 1}, True),
        pytest.raises(RuntimeError, match="another process is making"),
        open_part(tmp_path / "a.h5", {"size": 1}, True),
    ):
        pass
    assert PREPARERS["images"] is prepare_images


def test_photographs_are_decoded_small_but_close(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 256).astype(np.uint8)
    pixels = np.stack([np.tile(ramp, (256, 1)), np.tile(ramp[:, None], (1, 256))] * 2, -1)[..., :3]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=98)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(buffer.getvalue())
    prepare_images(tmp_path / "in", tmp_path / "a.h5", 16)
    expected = pixels.reshape(16, 16, 16, 16, 3).mean((1, 3))
    with h5py.File(tmp_path / "a.h5") as file:
        assert np.abs(file["images"][0] - expected)[1:-1, 1:-1].max() < 3
