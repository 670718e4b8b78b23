"""`read_chips`: folders, zips, raw files and arrays of SAR chips as one array of magnitudes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jepa_modalities.data.sar.canvas import Fit, place, validity
from jepa_modalities.data.sar.decode import Quantity
from jepa_modalities.data.sar.scaling import Scaling
from jepa_modalities.data.sar.source import Decoded, OnError, Options, expand, read_source


@dataclass(frozen=True, eq=False)
class Chips:
    """SAR chips on one canvas.

    Attributes:
        values: magnitudes after scaling, at least 0, float32, (chips, 1, height, width); padding
            is 0.
        valid: False on padding, bool, (chips, height, width); None where nothing is padded.
        labels: class numbers, int64, (chips,), or None where there are none.
        classes: names of the classes; empty without labels.
        names: file or member of each chip, for messages.
        sizes: native height and width, pixels, int64, (chips, 2). They may tell the class: a
            control, never an input.
        skipped: name and reason of each file that was left out.
    """

    values: Tensor
    valid: Tensor | None
    labels: Tensor | None
    classes: tuple[str, ...]
    names: tuple[str, ...]
    sizes: Tensor
    skipped: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, rows: Tensor | Sequence[int]) -> Chips:
        """The chips `rows` (numbers, not a mask), in that order."""
        index = torch.as_tensor(rows, dtype=torch.long)
        return replace(
            self,
            values=self.values[index],
            valid=None if self.valid is None else self.valid[index],
            labels=None if self.labels is None else self.labels[index],
            names=tuple(self.names[row] for row in index.tolist()),
            sizes=self.sizes[index],
        )


def read_chips(
    path: str | Path,
    size: int | tuple[int, int] | None = None,
    *,
    fit: Fit = "pad",
    scaling: Scaling | None = None,
    split: str | None = None,
    index: str | Path | None = None,
    where: Mapping[str, str] | None = None,
    quantity: Quantity = "amplitude",
    channel: int = 0,
    unique: bool = False,
    on_error: OnError = "raise",
) -> Chips:
    """Read SAR chips of any supported kind; everything unreadable is reported here.

    What files hold becomes magnitudes: 8-bit pixels / 255, 16-bit / 65535, float as stored, complex
    by its absolute value, MSTAR by its magnitude block.

    Args:
        path: a folder or .zip of chips (JPEG, PNG, TIFF, MSTAR Phoenix files), one such file, an
            .h5 file of `jm prepare sar`, or an .npy / .npz array (chips, height, width), real or
            complex. Several, joined by commas, are put one after the other; they keep labels where
            all have the same classes. Each may end in selectors: `ships.zip?quantity=intensity`
            sets `quantity`, `channel`, `split`, `fit` or `gain` (a linear factor on magnitudes) for
            this part, any other name is a column of its index.
        size: height and width of the canvas, pixels; one number for squares; None: the largest
            chip's.
        fit: larger chips are cut to their centre. Smaller ones are centred on zeros ("pad"), or
            refused ("crop"). "resize" scales until the chip covers the canvas, then cuts.
        scaling: of the magnitudes; None leaves them as they are.
        split: which part, where an index or the folders have splits. None: `train` where it is
            there, else everything; "all": everything.
        index: CSV with a column `file`, and perhaps `class` (or `ship_type`), `label`, `split`,
            `sha1` and others; relative names are looked up as given. None: an index beside the data
            (`<stem>_index.csv`, `<stem>.csv`, or `index.csv` inside), if there is one; else MSTAR
            headers name the class, of other files the folder.
        where: columns of the index and the value that they must have.
        quantity: what stored numbers are: amplitude, intensity (its square), decibels, or pairs of
            channels with real and imaginary part.
        channel: which one, of files with several (polarisations); -1 is the last. Colour JPEG and
            PNG count as one grey channel.
        unique: leave out chips whose file has the same bytes as an earlier one's.
        on_error: unreadable or empty chips stop with a list of their names, or are left out.

    Raises:
        FileNotFoundError: nothing there, or no such index.
        ValueError: no usable chips; the message names the file and the remedy.
    """
    canvas = (size, size) if isinstance(size, int) else size
    if canvas is not None and min(canvas) < 1:
        raise ValueError(f"size = {size}; give at least 1 pixel")
    given = None if index is None else Path(index).expanduser()
    options = Options(fit, split, given, dict(where or {}), quantity, channel, unique, on_error)
    parts = [(read_source(part, own, canvas), own.fit) for part, own in expand(path, options)]
    if canvas is None:
        sizes = np.concatenate([part.extents for part, _ in parts])
        canvas = (int(sizes[:, 0].max()), int(sizes[:, 1].max()))
    chips = join_chips([_on_canvas(part, canvas, own) for part, own in parts])
    return chips if scaling is None else replace(chips, values=scaling(chips.values))


def _on_canvas(part: Decoded, canvas: tuple[int, int], fit: Fit) -> Chips:
    values = torch.empty(len(part.names), 1, *canvas)
    for row, image in enumerate(part.images):
        try:
            values[row, 0] = torch.from_numpy(place(image, canvas, fit))
        except ValueError as error:
            raise ValueError(f"{part.names[row]}: {error}") from None
    labels = None
    if part.labels is not None:
        number = {name: label for label, name in enumerate(part.classes)}
        labels = torch.tensor([number[name] for name in part.labels])
    sizes = torch.from_numpy(part.sizes)
    valid = None if fit == "resize" else validity(torch.from_numpy(part.extents), canvas)
    return Chips(values, valid, labels, part.classes, part.names, sizes, part.skipped)


def join_chips(sets: Sequence[Chips]) -> Chips:
    """Several sets as one, in order; labels stay where all have the same classes.

    Raises:
        ValueError: their canvases differ.
    """
    first = sets[0]
    if len(sets) == 1:
        return first
    canvases = {tuple(chips.values.shape[-2:]) for chips in sets}
    if len(canvases) > 1:
        raise ValueError(f"chips lie on canvases of {sorted(canvases)}; read all with one size")
    labelled = [chips.labels for chips in sets if chips.labels is not None]
    same = len(labelled) == len(sets) and all(c.classes == first.classes for c in sets)
    valid = None
    if any(chips.valid is not None for chips in sets):
        valid = torch.cat(
            [
                torch.ones_like(chips.values[:, 0], dtype=torch.bool)
                if chips.valid is None
                else chips.valid
                for chips in sets
            ]
        )
    return Chips(
        torch.cat([chips.values for chips in sets]),
        valid,
        torch.cat(labelled) if same else None,
        first.classes if same else (),
        tuple(name for chips in sets for name in chips.names),
        torch.cat([chips.sizes for chips in sets]),
        tuple(pair for chips in sets for pair in chips.skipped),
    )
