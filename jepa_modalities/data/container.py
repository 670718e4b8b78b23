"""HDF5 files that may come from anyone: what they claim is held against what is there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from jepa_modalities.data.heap import ATTRIBUTE, read_apart
from jepa_modalities.data.refusal import MOST_PER_BYTE, refusing

HEADER = 60_000  # bytes that an attribute may have inside an object header (64 KiB)
KINDS = {"b": "truth values", "i": "integers", "u": "integers", "f": "real numbers", "S": "text"}


class Container:
    """An open HDF5 file; use `open_container`.

    Datasets must lie in the file itself: links, virtual datasets and storage in other files are
    refused, for they would let a file read whatever its author names on this machine.

    Args:
        file: open for reading.
        path: of it.
    """

    def __init__(self, file: h5py.File, path: Path) -> None:
        self._file, self.path = file, path

    def __contains__(self, name: str) -> bool:
        with _reading(self.path):
            return name in self._file

    def names(self) -> list[str]:
        """What the file holds at its top."""
        with _reading(self.path):
            return sorted(self._file)

    def attribute(self, name: str) -> Any:
        """An attribute, or None.

        Raises:
            ValueError: it cannot be read, or is neither numbers nor text.
        """
        with _reading(self.path):
            if name not in self._file.attrs:
                return None
            dtype = self._file.attrs.get_id(name).dtype
            if dtype.kind != "O":
                return self._file.attrs[name]
        if h5py.check_string_dtype(dtype) is None:
            raise ValueError(f"{self.path}: attribute {name!r} is no text; make the file again")
        return read_apart(self.path, ATTRIBUTE + name)

    def text(self, name: str) -> str | None:
        """An attribute as text, or None."""
        value = self.attribute(name)
        if value is None:
            return None
        with _reading(self.path):
            return value.decode() if isinstance(value, bytes) else str(value)

    def dataset(self, name: str, kinds: str = "iuf", axes: Sequence[int] = (1,)) -> h5py.Dataset:
        """A dataset whose type, axes and size make sense.

        Args:
            name: path in the file.
            kinds: NumPy's letters of the types that may be.
            axes: numbers of axes that may be.

        Raises:
            ValueError: none there, a link, another type or shape, or more bytes than the file has.
        """
        self._check_links(name)
        with _reading(self.path):
            found = self._file.get(name)
        if not isinstance(found, h5py.Dataset):
            raise ValueError(f"{self.path} has no dataset {name!r}; make the file again")
        with _reading(self.path):
            shape, dtype = found.shape, found.dtype
            outside = found.external or found.is_virtual
            stored = int(found.id.get_storage_size())
            filters = found.id.get_create_plist().get_nfilters()
        if outside:
            raise ValueError(
                f"{self.path}: {name!r} lies in another file; copy its values into this one"
            )
        if shape is None or len(shape) not in axes or dtype.kind not in kinds:
            wanted = " or ".join(dict.fromkeys(KINDS.get(kind, "text") for kind in kinds))
            raise ValueError(
                f"{self.path}: {name!r} is {dtype} of shape {shape}, expected {wanted} with "
                f"{' or '.join(map(str, axes))} axes; make the file again"
            )
        claimed = math.prod(shape) * dtype.itemsize
        there = self.path.stat().st_size
        if stored > there or claimed > stored * (MOST_PER_BYTE if filters else 1):
            raise ValueError(
                f"{self.path}: {name!r} claims {claimed:,} bytes (shape {shape}), but the file has "
                f"{min(stored, there):,} for it; copy the file again"
            )
        return found

    def read(self, name: str, kinds: str = "iuf", axes: Sequence[int] = (1,)) -> NDArray[Any]:
        """All values of a dataset; see `dataset`."""
        return self.part(name, slice(None), kinds, axes)

    def part(
        self, name: str, rows: slice, kinds: str = "iuf", axes: Sequence[int] = (1,)
    ) -> NDArray[Any]:
        """Some rows of a dataset; see `dataset`."""
        found = self.dataset(name, kinds, axes)
        with _reading(self.path):
            return np.asarray(found[rows])

    def texts(self, name: str, axes: Sequence[int] = (1,), rows: slice | None = None) -> Any:
        """Values of a dataset of text, `np.str_`; see `dataset`."""
        rows = slice(None) if rows is None else rows
        dtype = self.dataset(name, "SO", axes).dtype
        if dtype.kind == "O":
            if h5py.check_string_dtype(dtype) is None:
                raise ValueError(f"{self.path}: {name!r} is no text; make the file again")
            return np.array(read_apart(self.path, name, rows), np.str_)
        values = self.part(name, rows, "S", axes)
        with _reading(self.path):
            return to_text(values)

    def _check_links(self, name: str) -> None:
        """Refuse a path that leaves the file at any of its parts."""
        parts = name.split("/")
        for stop in range(1, len(parts) + 1):
            piece = "/".join(parts[:stop])
            if piece in ("", "."):
                continue
            with _reading(self.path):
                link = self._file.get(piece, getlink=True)
            if not (link is None or isinstance(link, h5py.HardLink)):
                where = getattr(link, "filename", None) or self.path.name
                raise ValueError(
                    f"{self.path}: {piece!r} is a link to {link.path!r} in {where!r}; links are "
                    f"not followed, copy the values into the file"
                )


def _reading(path: Path) -> Any:
    return refusing(path, "an HDF5 file", "copy or make it again")


@contextmanager
def open_container(path: Path) -> Iterator[Container]:
    """Open an HDF5 file for reading.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no complete HDF5 file.
    """
    try:
        file = h5py.File(path)
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a complete HDF5 file ({error}); copy it again") from error
    with file:
        yield Container(file, path)


def write_text(file: h5py.File, name: str, text: str) -> None:
    """Write an attribute as UTF-8 of fixed width, which no damage sends HDF5 in circles (`heap`).

    Longer than a header may be, it becomes text of variable length.
    """
    encoded = text.encode(errors="replace")
    file.attrs[name] = np.bytes_(encoded) if len(encoded) < HEADER else text


def to_text(values: NDArray[Any]) -> NDArray[np.str_]:
    """Text of UTF-8 bytes of fixed width, as the files hold it, or of `str`."""
    return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values.astype(np.str_)
