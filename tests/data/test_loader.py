"""Crops on demand: equal to Pillow, in request order, the same for any number of workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from jepa_modalities.data.image import ImageSet, digits, open_images
from jepa_modalities.data.loader import decode_resized, loader

SIZES = [(40, 30), (25, 60), (33, 33), (50, 21), (300, 420)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth photographs of mixed sizes: the last one large enough for reduced decoding."""
    top, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number, (height, width) in enumerate(SIZES):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        (top / "ab"[number % 2]).mkdir(exist_ok=True)
        smooth = coarse.resize((width, height), Image.Resampling.BICUBIC)
        smooth.save(top / "ab"[number % 2] / f"{number}.jpg", quality=95)
    return top


def requests() -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    for _ in range(4):
        ids = torch.randint(5, (6,), generator=generator)
        size = 0.3 + 0.7 * torch.rand(6, 2, generator=generator)
        corner = torch.rand(6, 2, generator=generator) * (1 - size)
        yield ids, torch.cat([corner, size], 1)


def test_crops_equal_a_plain_loop_in_order(folder: Path) -> None:
    images = open_images(folder)
    assert images.images is None and images.labels is not None
    batches = list(loader(images, requests(), (16, 12), workers=0))
    assert len(batches) == 4
    for (ids, boxes), (found, labels, given) in zip(requests(), batches, strict=True):
        assert torch.equal(given, ids) and labels is not None
        assert labels.tolist() == [images.labels[row].item() for row in ids]
        assert found.shape == (6, 3, 16, 12) and found.dtype == torch.uint8
        for place, (row, box) in enumerate(zip(ids.tolist(), boxes.double().tolist(), strict=True)):
            image = images.open(row)
            top, left, height, width = box
            area = (
                left * image.width,
                top * image.height,
                min(left + width, 1) * image.width,
                min(top + height, 1) * image.height,
            )
            wanted = np.asarray(image.resize((12, 16), Image.Resampling.BICUBIC, box=area))
            crop = found[place].permute(1, 2, 0).numpy()
            if images.names[row] == "a/4.jpg":  # decoded at a reduced size: close, not equal
                assert np.abs(crop.astype(int) - wanted).mean() < 2
            else:
                np.testing.assert_array_equal(crop, wanted)


def test_the_number_of_workers_changes_nothing(folder: Path) -> None:
    images = open_images(folder)
    alone = list(loader(images, requests(), 10, workers=0))
    shared = list(loader(images, requests(), 10, workers=2))
    assert len(alone) == len(shared) == 4
    for one, other in zip(alone, shared, strict=True):
        for first, second in zip(one, other, strict=True):
            assert torch.equal(first, second)


def test_resident_images_and_no_labels() -> None:
    development, _ = digits()
    few = development.subset(range(5))
    bare = ImageSet(few.images, None, (), few.names, 1)
    whole = (torch.tensor([4, 0]), torch.tensor([[0.0, 0, 1, 1]] * 2))
    ((found, labels, _),) = loader(bare, [whole], 8, workers=0)
    assert labels is None and few.images is not None
    assert torch.equal(found, few.images[[4, 0]])


def test_evaluation_cuts_the_centre(folder: Path) -> None:
    images = open_images(folder)
    found = decode_resized(images, torch.arange(5), 21)
    assert found.shape == (5, 3, 21, 21) and found.dtype == torch.uint8
    for row, (height, width) in enumerate(sorted(SIZES, key=lambda s: _rank(images, s))):
        scale = 24 / min(height, width)  # 21 * 256 / 224
        large = images.open(row).resize((round(width * scale), round(height * scale)), 3)
        top, left = (large.height - 21) / 2, (large.width - 21) / 2
        wanted = large.transform((21, 21), Image.Transform.AFFINE, (1, 0, left, 0, 1, top), 2)
        difference = found[row].permute(1, 2, 0).numpy().astype(int) - np.asarray(wanted)
        assert np.abs(difference).mean() < 3  # one resize against two
    tall = decode_resized(images, [0, 2], (14, 28))
    assert tall.shape == (2, 3, 14, 28)
    assert torch.equal(tall[1], decode_resized(images, [2], (14, 28))[0])
    assert decode_resized(images, [], 7).shape == (0, 3, 7, 7)


def _rank(images: ImageSet, size: tuple[int, int]) -> int:
    return [images.open(row).size for row in range(5)].index(size[::-1])


def test_a_vanished_file_is_named(folder: Path, tmp_path: Path) -> None:
    for name in ("1.jpg", "2.jpg"):
        source = next(folder.rglob(name))
        (tmp_path / name).write_bytes(source.read_bytes())
    images = open_images(tmp_path)
    (tmp_path / "2.jpg").unlink()
    request = (torch.tensor([1]), torch.tensor([[0.0, 0, 1, 1]]))
    with pytest.raises(OSError, match=r"2\.jpg can no longer be read"):
        list(loader(images, [request], 8, workers=0))
