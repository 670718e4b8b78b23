"""One source of chips, decoded: a folder, an archive, a file, prepared HDF5 or an array."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jepa_modalities.data.sar.canvas import Fit, place
from jepa_modalities.data.sar.decode import Quantity, decode
from jepa_modalities.data.sar.index import Entry
from jepa_modalities.data.sar.listing import Listing, Read, list_chips, opened, splits_of
from jepa_modalities.data.sar.phoenix import header_target

OnError = Literal["raise", "skip"]
Size = tuple[int, int]
ARRAYS = (".npy", ".npz")
PREPARED = (".h5", ".hdf5")
SHOWN = 10  # names in a message


@dataclass(frozen=True)
class Options:
    """How one source is read; see `read_chips`."""

    fit: Fit = "pad"
    split: str | None = None
    index: Path | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    quantity: Quantity = "amplitude"
    channel: int = 0
    unique: bool = False
    on_error: OnError = "raise"
    gain: float = 1.0

    def __post_init__(self) -> None:
        known: dict[str, tuple[str, ...]] = {
            "fit": ("pad", "crop", "resize"),
            "quantity": ("amplitude", "intensity", "db", "real_imaginary"),
            "on_error": ("raise", "skip"),
        }
        for name, allowed in known.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} = {getattr(self, name)!r}; give one of {', '.join(allowed)}"
                )
        if not self.gain > 0:
            raise ValueError(f"gain = {self.gain}; give a positive number")


@dataclass(frozen=True, eq=False)
class Decoded:
    """The readable chips of one source.

    Attributes:
        images: magnitudes, each (height, width): native, or on the canvas where it was known.
        sizes: native height and width, int64, (chips, 2).
        extents: height and width that were at hand, int64, (chips, 2): the native size, or less in
            a prepared file that was cropped.
        labels: class name of each, or None without classes.
        classes: all names, in the order of their numbers.
        names: for messages.
        skipped: name and reason of what was left out.
    """

    images: Sequence[NDArray[np.float32]]
    sizes: NDArray[np.int64]
    extents: NDArray[np.int64]
    labels: tuple[str, ...] | None
    classes: tuple[str, ...]
    names: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] = ()


def expand(path: str | Path, options: Options) -> list[tuple[Path, Options]]:
    """The sources that `path` names: one or several by commas, each with its selectors.

    Raises:
        FileNotFoundError: one is not there.
        ValueError: a selector without value, or with one that is not allowed.
    """
    if str(path) and Path(path).expanduser().exists():
        return [(Path(path).expanduser(), options)]
    found = []
    for piece in (text.strip() for text in str(path).split(",")):
        name, *selectors = piece.split("?", 1)
        given = Path(name).expanduser()
        places = [given] if name and given.exists() else [Path(p) for p in sorted(glob.glob(name))]
        if not places:
            above = next(parent for parent in given.absolute().parents if parent.exists())
            raise FileNotFoundError(
                f"{piece!r} does not exist (there is {above}); give a folder, .zip, .h5, .npy or "
                f"MSTAR file of SAR chips"
            )
        own = _selected(options, selectors[0], piece) if selectors else options
        found += [(place, own) for place in places]
    return found


def _selected(options: Options, selectors: str, piece: str) -> Options:
    """Options with `name=value&name=value` put in."""
    changes: dict[str, Any] = {"where": dict(options.where)}
    own = {f.name for f in fields(Options)} - {"where", "index"}
    casts: dict[str, Any] = {"channel": int, "gain": float, "unique": lambda text: text == "true"}
    for selector in selectors.split("&"):
        name, equals, value = selector.partition("=")
        if not (name and equals and value):
            raise ValueError(f"{piece!r}: {selector!r} is no selector; give name=value")
        try:
            if name in own:
                changes[name] = casts.get(name, str)(value)
            else:
                changes["where"][name] = value
        except ValueError:
            raise ValueError(f"{piece!r}: {name} = {value!r} is no number") from None
    return replace(options, **changes)


def read_source(path: Path, options: Options, canvas: Size | None) -> Decoded:
    """Decode one source.

    Args:
        path: an existing folder or file.
        options: how.
        canvas: chips are put on it at once; None keeps their native sizes.

    Raises:
        ValueError: unreadable or no chips; the message names them.
    """
    if path.suffix.lower() in (*ARRAYS, *PREPARED) and not path.is_dir():
        from jepa_modalities.data.sar.array import read_array

        return read_array(path, options, canvas)
    listing = list_chips(path, options.split, options.index, options.where)
    with opened(path) as read:
        return decode_all(listing, read, options, canvas)


def decode_all(listing: Listing, read: Read, options: Options, canvas: Size | None) -> Decoded:
    """Decode, check and place every chip of a listing, in threads."""
    count = len(listing.entries)
    kept: list[NDArray[np.float32] | None] = [None] * count
    sizes = np.zeros((count, 2), np.int64)
    targets, digests, failed = [""] * count, [""] * count, dict[int, str]()

    def one(row: int) -> None:
        entry = listing.entries[row]
        try:
            content = read(entry.name)
            digests[row] = hashlib.sha1(content, usedforsecurity=False).hexdigest()
            if entry.sha1 and digests[row] != entry.sha1:
                raise ValueError("is not the file that the index lists: its sha1 differs")
            pixels, targets[row] = decode(content, entry.name, options.quantity, options.channel)
            sizes[row] = pixels.shape
            kept[row] = checked(pixels, options, canvas)
        except MemoryError:
            raise
        except Exception as error:  # decoders fail in many ways: each is a reason to list
            failed[row] = _reason(error, entry)

    workers = min(16, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, range(count), chunksize=64))
    rows = [row for row in range(count) if row not in failed]
    if options.unique:
        rows = list({digests[row]: row for row in reversed(rows)}.values())[::-1]
    names = tuple(entry.name for entry in listing.entries)
    skipped = tuple((names[row], failed[row]) for row in sorted(failed))
    report(skipped, len(rows), listing.path, options.on_error)
    labels, classes = _labels(listing, rows, targets, read)
    images = [image for row in rows if (image := kept[row]) is not None]
    kept_names = tuple(names[row] for row in rows)
    return Decoded(images, sizes[rows], sizes[rows], labels, classes, kept_names, skipped)


def checked(
    pixels: NDArray[np.float32], options: Options, canvas: Size | None
) -> NDArray[np.float32]:
    """Magnitudes times gain, on the canvas where one is given.

    Raises:
        ValueError: nothing but zeros.
    """
    if options.gain != 1:
        pixels = pixels * np.float32(options.gain)
    placed = pixels if canvas is None else place(pixels, canvas, options.fit)
    if not placed.any():
        where = "" if not pixels.any() else f" of the centre {placed.shape[0]} x {placed.shape[1]}"
        raise ValueError(f"is empty: every pixel{where} is 0")
    return placed


def report(skipped: Sequence[tuple[str, str]], kept: int, path: Path, on_error: OnError) -> None:
    """Complain about unreadable chips, unless they are to be skipped and others are left.

    Raises:
        ValueError: with their names and reasons.
    """
    if not skipped or (on_error == "skip" and kept):
        return
    shown = [f"  {name}: {reason}" for name, reason in skipped[:SHOWN]]
    more = [f"  and {len(skipped) - SHOWN:,} more"] if len(skipped) > SHOWN else []
    remedy = (
        "repair or remove them, or leave them out with on_error='skip'"
        if kept
        else "no chip is left; give other data or repair these"
    )
    head = f"{len(skipped):,} of {len(skipped) + kept:,} chips in {path} cannot be used:"
    raise ValueError("\n".join([head, *shown, *more, remedy]))


def _reason(error: Exception, entry: Entry) -> str:
    text = str(error) or type(error).__name__
    return text.removeprefix(entry.name).lstrip(": ")


def _labels(
    listing: Listing, rows: Sequence[int], targets: Sequence[str], read: Read
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Class names of the chips `rows`: an index first, then MSTAR headers, then folders.

    Classes are numbered over all splits, so that each split has the same numbers.
    """
    if listing.named_by != "index" and rows and all(targets[row] for row in rows):
        found = tuple(targets[row] for row in rows)
        try:
            others = {header_target(read(name)) for name in listing.others} - {""}
        except ValueError as error:
            raise ValueError(f"{listing.path}: {error}") from error
        return found, tuple(sorted(others | set(found)))
    if not listing.classes:
        return None, ()
    return tuple(str(listing.entries[row].label) for row in rows), listing.classes


def splits(path: str | Path, index: str | Path | None = None) -> tuple[str, ...]:
    """Names of the splits of all sources of `path`; empty where they have none."""
    place = None if index is None else Path(index).expanduser()
    names: list[str] = []
    for part, options in expand(path, Options(index=place)):
        if part.suffix.lower() in PREPARED:
            from jepa_modalities.data.sar.array import prepared_splits

            names += prepared_splits(part)
        elif part.suffix.lower() not in ARRAYS:
            names += splits_of(list_chips(part, "all", options.index, options.where).entries)
    return tuple(dict.fromkeys(names))
