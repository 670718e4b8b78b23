"""The stored sets: counts, sizes and levels that their cards state."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from jepa_modalities.data.sar import Chips, read_chips
from jepa_modalities.data.sar.mstar import SOC, index_mstar
from jepa_modalities.data.sar.speckle import equivalent_looks

ROOT = Path(__file__).parents[2]
SAR = Path(os.environ.get("JEPA_DATA", ROOT.parent / "shared" / "data")) / "sar"
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not SAR.is_dir(), reason=f"no data at {SAR}"),
]
MSTAR = SAR / "mstar_soc_jpeg.zip"


def counts(chips: Chips) -> list[int]:
    assert chips.labels is not None
    return torch.bincount(chips.labels).tolist()


def test_mstar() -> None:
    train, test = read_chips(MSTAR, 64), read_chips(MSTAR, 64, split="test")
    assert train.classes == test.classes == tuple(SOC)
    assert counts(train) == [number for _, number, _ in SOC.values()]
    assert counts(test) == [number for _, _, number in SOC.values()]
    assert train.valid is None and train.values.shape == (2747, 1, 64, 64)
    assert (train.sizes == 128).all() and 0 <= train.values.min() <= train.values.max() == 1


@pytest.mark.parametrize(
    ("raw", "member"),
    [
        ("BMP2_HB03787.000", "train/BMP2/10220.jpeg"),
        ("BTR70_HB03787.004", "train/BTR70/40221.jpeg"),
        ("T72_HB03787.015", "train/T72/70219.jpeg"),
    ],
)
def test_raw_files_match_their_jpegs(raw: str, member: str) -> None:
    target = member.split("/")[1]
    stored = read_chips(MSTAR, where={"class": target, "file": member}).values.flatten()
    own = read_chips(f"{SAR}/mstar_raw_samples/{raw}?gain={505 / 255}").values.flatten()
    residual = 255 * (stored - own.clamp(max=1))
    assert 5 < float(residual.std()) < 6.5  # JPEG loss, by the card
    assert np.corrcoef(stored.numpy(), own.clamp(max=1).numpy())[0, 1] > 0.94


def test_mstar_raw_samples(tmp_path: Path) -> None:
    found = read_chips(SAR / "mstar_raw_samples", 64)
    assert found.classes == ("BMP2", "BTR70", "T72") and counts(found) == [3, 1, 1]
    manifest = index_mstar(SAR / "mstar_raw_samples", tmp_path / "index.csv")
    assert manifest.counts == {(name, "train"): 1 for name in ("BMP2", "BTR70", "T72")}
    assert manifest.other == 2  # serials 9566 and c21
    chosen = read_chips(SAR / "mstar_raw_samples", index=manifest.path)
    assert chosen.names == ("BMP2_HB03787.000", "BTR70_HB03787.004", "T72_HB03787.015")


def test_sar_acd() -> None:
    everything = read_chips(SAR / "sar_acd_jpg.zip", 80)
    assert counts(everything) == [464, 510, 512, 514, 528, 504]
    unique = read_chips(f"{SAR}/sar_acd_jpg.zip?unique=true", 80)
    assert len(unique) == 3010 and counts(unique) == [464, 506, 509, 513, 528, 490]
    assert int(everything.sizes.min()) == 32 and int(everything.sizes.max()) == 200
    assert everything.valid is not None
    assert (everything.values[:, 0][~everything.valid] == 0).all()


def test_opensarship() -> None:
    path = f"{SAR}/opensarship_subset.zip?kind=Patch_Cal&quantity=intensity"
    found = read_chips(f"{path}&channel=-1")
    assert len(found) == 351 and counts(found) == [194, 1, 39, 2, 1, 112, 2]
    # Calibrated values are intensities: sea in ground-range products has about 4.4 looks.
    ground = read_chips(f"{path}&channel=-1&product=GRD")
    assert found.values.shape[-2:] == (185, 185) == tuple(found.sizes.amax(0).tolist())
    corner = [
        equivalent_looks(chip[..., top : top + 12, left : left + 12])
        for chip, (top, left) in zip(ground.values, _corners(ground), strict=True)
    ]
    assert 3.5 < float(torch.stack(corner).median()) < 5.5
    slant = read_chips(f"{SAR}/opensarship_subset.zip?kind=Patch&quantity=real_imaginary")
    assert len(slant) == 65 and slant.classes == ("Cargo", "Other Type", "Tanker")
    # The absolute value of the same chips' complex pixels: calibration is a factor.
    again = read_chips(f"{path}&product=SLC")
    assert [n.rsplit("/", 1)[1] for n in slant.names] == [n.rsplit("/", 1)[1] for n in again.names]


def _corners(chips: Chips) -> list[tuple[int, int]]:
    """Upper left corner of each chip on the canvas."""
    side = chips.values.shape[-1]
    return [((side - height) // 2, (side - width) // 2) for height, width in chips.sizes.tolist()]
