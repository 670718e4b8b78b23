"""The chips of a run: unlabelled pool, labelled training part, test part."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from jepa_modalities.adapters.sar.config import SarData
from jepa_modalities.adapters.sar.model import canvas, scaling
from jepa_modalities.adapters.sar.target import RADII
from jepa_modalities.adapters.sar.tokenizer import pad_canvas
from jepa_modalities.core.draw import seeded
from jepa_modalities.data.sar.chip import Chips, read_chips
from jepa_modalities.data.sar.source import splits

SYNTHETIC = "synthetic"
# The test has other draws at another depression angle, as MSTAR's has.
SYNTHETIC_CHIPS = {"train": 1200, "test": 800}


@dataclass(frozen=True, eq=False)
class Labelled:
    """Chips with their classes.

    Attributes:
        images: amplitude, negative on padding, (chips, 1, height, width).
        labels: class numbers, int64, (chips,).
        sizes: native height and width, pixels, (chips, 2).
        classes: names.
    """

    images: Tensor
    labels: Tensor
    sizes: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, rows: Tensor) -> Labelled:
        """The chips `rows`, in that order."""
        return Labelled(self.images[rows], self.labels[rows], self.sizes[rows], self.classes)


class SarSource:
    """Opens the pretraining pool; labelled chips when they are asked for.

    Padded chips with sides under half of what the encoder sees are left out of the pool; `dropped`
    counts them.

    Args:
        data: paths and sizes.

    Raises:
        ValueError: no usable chips.
    """

    def __init__(self, data: SarData) -> None:
        if not 0 <= data.holdout < 1 or (data.limit is not None and data.limit < 1):
            raise ValueError(
                f"data.holdout = {data.holdout}, data.limit = {data.limit}: give a share of at "
                f"least 0 and below 1, and a limit of at least 1"
            )
        if not data.path:
            raise ValueError(
                "data.path is not given: name folders, .zip, .h5 or .npy files of chips, or "
                f"'{SYNTHETIC}'"
            )
        self.data = data
        pool = self._read(data.path, "train", canvas(data))
        smallest = torch.tensor(data.size) // 2
        box = real_box(pool.valid, len(pool), canvas(data))
        large = (box[..., 1] - box[..., 0] >= smallest).all(1)
        self.dropped = int((~large).sum())
        if not bool(large.any()):
            raise ValueError(
                f"{data.path}: no chip of {len(pool)} has sides of at least {smallest.tolist()} "
                f"pixels, half of data.size = {data.size}; lower data.size or use fit 'resize'"
            )
        rows = large.nonzero().squeeze(1)
        if data.limit is not None:
            order = torch.randperm(len(rows), generator=seeded(0, 3, 0))[: data.limit]
            rows = rows[order.sort().values]
        pool = pool.subset(rows)
        self.images = pad_canvas(pool.values, pool.valid)
        self.padded = bool((self.images < 0).any())
        self.sizes = pool.sizes
        self.box = box[rows]
        self.room = crop_room(self.box, canvas(data), data.size)
        self._labelled: dict[str, Labelled] = {}

    def __len__(self) -> int:
        return len(self.images)

    def _read(self, path: str, split: str, size: tuple[int, int]) -> Chips:
        data = self.data
        if path == SYNTHETIC:
            from jepa_modalities.data.sar.synthetic import synthetic_chips

            if size[0] != size[1]:
                raise ValueError(f"data.path = '{SYNTHETIC}' makes square chips, not {data.size}")
            test = split == "test"
            chips = synthetic_chips(
                SYNTHETIC_CHIPS[split], size[0], int(test), 15.0 if test else 17.0
            )
            return replace(chips, values=scaling(data)(chips.values))
        there = splits(path)
        part = split if split in there else None
        if split == "test" and part is None and there:
            part = "val" if "val" in there else "all"
        return read_chips(
            path,
            size,
            fit=data.fit,
            scaling=scaling(data),
            split=part,
            unique=True,
            on_error=data.on_error,
        )

    def labelled(self, split: str) -> Labelled:
        """Labelled chips on a canvas that is large enough for the bar's widest windows.

        Args:
            split: "train" or "test".

        Raises:
            ValueError: no labels, no test chips, or a class of the test that training lacks.
        """
        if split not in self._labelled:
            data = self.data
            train = data.train_path or data.path
            path = train if split == "train" else data.test_path or train
            own = split == "test" and not data.test_path and path != SYNTHETIC
            if own and not {"test", "val"} & set(splits(path)):
                raise ValueError(
                    f"{path} has no split 'test' or 'val': name labelled test chips as "
                    f"data.test_path, or set evaluate.enabled to False"
                )
            chips = self._read(path, split, canvas(data, max(data.margin, max(RADII))))
            if chips.labels is None:
                raise ValueError(
                    f"{path}: probes need labels (class folders or an index); name them as "
                    f"data.train_path, or set evaluate.enabled to False to pretrain only"
                )
            images = pad_canvas(chips.values, chips.valid)
            found = Labelled(images, chips.labels, chips.sizes, chips.classes)
            if data.limit is not None and data.limit < len(found):
                rows = torch.randperm(len(found), generator=seeded(0, 3, 1))[: data.limit]
                found = found.subset(rows.sort().values)
            if split == "test" and found.classes != self.labelled("train").classes:
                raise ValueError(
                    f"{path} has the classes {found.classes}, training has "
                    f"{self.labelled('train').classes}; they must be the same"
                )
            self._labelled[split] = found
        return self._labelled[split]

    def held_out(self) -> tuple[Tensor, Tensor]:
        """Row numbers of the labelled training chips: (kept, held out), the share per class alike.

        The split is fixed: it does not depend on the run's seed.
        """
        labels = self.labelled("train").labels.numpy()
        generator = np.random.default_rng(123)
        order = np.lexsort((generator.random(len(labels)), labels))
        share = self.data.holdout
        held = np.floor(np.arange(1, len(order) + 1) * share) > np.floor(
            np.arange(len(order)) * share
        )
        rows = torch.from_numpy(order)
        mask = torch.from_numpy(held)
        return rows[~mask].sort().values, rows[mask].sort().values

    def sample(self, count: int) -> Tensor:
        """Up to `count` random chips of the pool."""
        rows = torch.randperm(len(self), generator=seeded(0, 4, 0))[:count]
        return self.images[rows]


def real_box(valid: Tensor | None, chips: int, canvas: tuple[int, int]) -> Tensor:
    """Where each chip begins and ends on its canvas, long, (chips, axes, 2).

    Native sizes do not tell: an enlarged chip covers its canvas.

    Args:
        valid: False on padding, bool, (chips, height, width), one rectangle each; None for none.
        chips: how many.
        canvas: height and width.
    """
    if valid is None:
        return torch.tensor([[0, side] for side in canvas]).expand(chips, 2, 2).clone()
    edges = []
    for axis, side in ((2, canvas[0]), (1, canvas[1])):
        inside = valid.any(axis).byte()
        edges.append(torch.stack([inside.argmax(1), side - inside.flip(1).argmax(1)], dim=-1))
    return torch.stack(edges, dim=1)


def crop_room(box: Tensor, canvas: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Where a crop may begin so that it leaves no chip that is large enough.

    A chip that is smaller than the crop stays in its middle: it must not wander to the border,
    where a window could miss it.

    Args:
        box: from `real_box`.
        canvas: height and width of the stored chips.
        size: height and width of the crop.

    Returns:
        First and last offset along each axis, long, (chips, axes, 2).
    """
    whole, crop = torch.tensor(canvas), torch.tensor(size)
    begin, end = box.unbind(-1)
    fits = end - begin >= crop
    middle = (whole - crop).div(2, rounding_mode="floor").expand_as(begin)
    first = torch.where(fits, begin, middle)
    last = torch.where(fits, end - crop, middle)
    return torch.stack([first, last], dim=-1)
