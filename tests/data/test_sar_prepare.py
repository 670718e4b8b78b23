"""`jm prepare sar` and `jm prepare mstar`: what is packed is what is read."""

from __future__ import annotations

import csv
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from jepa_modalities.cli.main import main
from jepa_modalities.data.prepare.sar import prepare_chips, prepare_mstar
from jepa_modalities.data.sar import read_chips, splits, write_phoenix
from jepa_modalities.data.sar.mstar import SOC, index_mstar

RNG = np.random.default_rng(0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Class folders in two splits, chips of several sizes."""
    for number, name in enumerate(("train/b/1", "train/a/2", "test/b/3", "train/b/4")):
        path = tmp_path / "chips" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        side = (8 + 3 * number, 14 - 2 * number)
        Image.fromarray(RNG.integers(1, 256, side, dtype=np.uint8)).save(path)
    return tmp_path / "chips"


@pytest.mark.parametrize("size", [None, 6, 10, 25])
@pytest.mark.parametrize("split", [None, "test", "all"])
def test_prepared_chips_are_read_like_the_source(
    source: Path, size: int | None, split: str | None
) -> None:
    out = source.parent / "out.h5"
    done = prepare_chips(source, out)
    assert done.written == 4 and not done.skipped and list(done.files) == [out]
    assert set(splits(out)) == set(splits(source)) == {"train", "test"}
    packed, read = read_chips(out, size, split=split), read_chips(source, size, split=split)
    order = torch.tensor([packed.names.index(name) for name in read.names])
    packed = packed.subset(order)
    assert packed.names == read.names and packed.classes == read.classes == ("a", "b")
    assert torch.equal(packed.sizes, read.sizes)
    assert packed.labels is not None and read.labels is not None
    assert torch.equal(packed.labels, read.labels)
    if size is not None:  # without, the canvas is that of the largest chip of all splits
        assert torch.equal(packed.values, read.values)
        assert (packed.valid is None) == (read.valid is None)
        if packed.valid is not None and read.valid is not None:
            assert torch.equal(packed.valid, read.valid)


def test_a_cropped_file_knows_what_it_has(source: Path) -> None:
    out = source.parent / "out.h5"
    prepare_chips(source, out, size=9)
    found = read_chips(out, 12, split="all")
    rows = {name: row for row, name in enumerate(found.names)}
    row = rows["train/b/4.png"]  # 17 x 8 pixels, of which 9 x 8 were kept
    assert found.sizes[row].tolist() == [17, 8] and found.valid is not None
    assert int(found.valid[row].sum()) == 72
    assert torch.equal(found.values[row, 0] > 0, found.valid[row])


def test_the_command(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = source.parent / "out.h5"
    (source / "train" / "a" / "bad.png").write_text("no picture")
    assert main(["prepare", "sar", str(source), str(out)]) == 2
    assert "bad.png: is no JPEG" in capsys.readouterr().err and not out.exists()
    assert (
        main(["prepare", "sar", str(source), str(out), "--on-error", "skip", "--size", "12"]) == 0
    )
    assert "4 written, 1 skipped" in capsys.readouterr().out
    with h5py.File(out) as file:
        assert file["chips"].shape == (4, 12, 12)
    assert sorted(path.name for path in source.parent.iterdir()) == ["chips", "out.h5"]


def test_what_cannot_be_packed(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="native pixels are stored; give fit when reading"):
        prepare_chips(f"{source}?fit=resize", tmp_path / "out.h5")
    with pytest.raises(ValueError, match="the sources have different classes"):
        prepare_chips(f"{source}/train,{source}/test", tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_broken_prepared_files(tmp_path: Path) -> None:
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"cut\.h5 is not a complete HDF5 file"):
        read_chips(tmp_path / "cut.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["images"] = np.zeros((2, 4, 4), np.uint8)
    with pytest.raises(ValueError, match=r"holds \['images'\]; expected 'chips', 'sizes'"):
        read_chips(tmp_path / "other.h5")


def raw(path: Path, serial: str, depression: str, side: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"TargetType": "x_y", "TargetSerNum": serial, "DesiredDepression": depression}
    write_phoenix(path, *RNG.rayleigh(1, (2, side, side)), header | {"TargetAz": "12.5"})


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A tree of raw files as the release has it, with files that are not of the task."""
    top = tmp_path / "release"
    raw(top / "TRAIN" / "17_DEG" / "T72" / "SN_132" / "HB1.015", "132", "17")
    raw(top / "TEST" / "15_DEG" / "T72" / "SN_132" / "HB2.015", "132", "15", 12)
    raw(top / "TRAIN" / "17_DEG" / "BMP2" / "SN_C21" / "HB1.002", "c21", "17")
    raw(top / "MIXED" / "15_DEG" / "BRDM_2" / "E_71" / "HB3.001", "e-71", "15")
    raw(top / "MIXED" / "30_DEG" / "BRDM_2" / "E_71" / "HB4.001", "e-71", "30")
    (top / "MIXED" / "readme.001").write_text("no raw file")
    (top / "HB1.JPG").write_bytes(b"a rendering")
    return top


def test_the_mstar_index(release: Path) -> None:
    found = index_mstar(release)
    assert found.path == release / "index.csv" and found.other == 2
    assert found.counts == {("T72", "train"): 1, ("T72", "test"): 1, ("BRDM2", "test"): 1}
    assert found.missing["T72", "train"] == 231 and found.missing["BRDM2", "test"] == 273
    assert sum(found.missing.values()) == 2747 + 2425 - 3
    with found.path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"].rsplit("/", 1)[1] for row in rows] == ["HB3.001", "HB2.015", "HB1.015"]
    assert rows[0]["class"] == "BRDM2" and rows[0]["azimuth_deg"] == "12.5"
    train = read_chips(release)
    assert train.classes == ("BRDM2", "T72") and train.labels is not None
    assert len(train) == 1 and train.labels.tolist() == [1]
    assert len(read_chips(release, split="test")) == 2


def test_prepared_mstar(release: Path, tmp_path: Path) -> None:
    done = prepare_mstar(release, tmp_path / "soc.h5", size=10)
    assert done.written == 3
    test = read_chips(tmp_path / "soc.h5", split="test")
    assert test.values.shape == (2, 1, 10, 10) and test.sizes.tolist() == [[8, 8], [12, 12]]
    assert (tmp_path / "soc_index.csv").exists()
    (release / "TRAIN" / "17_DEG" / "T72" / "SN_132" / "HB1.015").unlink()
    with pytest.raises(ValueError, match=r"no raw file of the ten-class task \(1 other raw"):
        index_mstar(release / "TRAIN")


def test_the_table_of_the_task() -> None:
    assert sum(train for _, train, _ in SOC.values()) == 2747
    assert sum(test for _, _, test in SOC.values()) == 2425
    assert list(SOC) == sorted(SOC) and len(SOC) == 10
