"""Zip archives and NumPy files that may come from anyone: read member by member, within bounds."""

from __future__ import annotations

import io
import math
import re
import stat
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from jepa_modalities.data.refusal import MOST_PER_BYTE, refusing

_NUMPY = "a NumPy file"
_SAVE = "save plain numbers with numpy.save or numpy.savez"


class Archive:
    """An open zip archive; use `open_archive`. Nothing is ever written to disk.

    Args:
        zipped: open for reading.
        path: of it.
    """

    def __init__(self, zipped: zipfile.ZipFile, path: Path) -> None:
        self._zipped, self.path = zipped, path

    def names(self) -> list[str]:
        """Members that are files, sorted.

        Raises:
            ValueError: a name that leads out of the archive.
        """
        found = [info.filename for info in self._zipped.infolist()]
        for name in found:
            if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name):
                raise ValueError(
                    f"{self.path} has a member named {name!r}, which leads out of the archive; "
                    f"pack it again with plain names"
                )
        return sorted(name for name in found if name and not name.endswith("/"))

    def read(self, name: str, most: float = math.inf) -> bytes:
        """A member's bytes; safe to call from threads.

        Args:
            name: one of `names`.
            most: bytes that it may have.

        Raises:
            ValueError: not there, damaged, a link, or larger than it can be; begins with the name.
        """
        try:
            info = self._zipped.getinfo(name)
        except KeyError:
            raise ValueError(f"{name} is not in the archive") from None
        if stat.S_ISLNK(info.external_attr >> 16):
            raise ValueError(f"{name} is a link; pack the file itself")
        most = min(most, MOST_PER_BYTE * info.compress_size)
        if info.file_size > most:
            raise ValueError(
                f"{name} would unpack to {info.file_size:,} bytes out of {info.compress_size:,}, "
                f"expected at most {most:,}; pack it again"
            )
        try:
            return self._zipped.read(name)
        except MemoryError:
            raise
        except Exception as error:  # zlib, struct and zipfile have kinds of their own
            raise ValueError(
                f"{name} is damaged inside the archive ({error}); copy it again"
            ) from error


@contextmanager
def open_archive(
    path: Path, kind: str = "a zip file", remedy: str = "copy it again"
) -> Iterator[Archive]:
    """Open a zip archive for reading.

    Args:
        path: of the file.
        kind: what it is to the user, for messages.
        remedy: for messages.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a complete archive.
    """
    with refusing(path, kind, remedy):
        zipped = zipfile.ZipFile(path)
    with zipped:
        yield Archive(zipped, path)


def load_npy(path: Path) -> NDArray[Any]:
    """The array of an .npy file, in memory.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, shorter than it says, or with Python objects.
    """
    with refusing(path, _NUMPY, _SAVE):
        # A map is never longer than its file, whatever shape the header claims.
        return np.array(npy.open_memmap(path, mode="r"))


def load_npz(path: Path, wanted: str, further: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Arrays of an .npz file.

    Args:
        path: of the file.
        wanted: name of one that must be there.
        further: names of others that are read where they are there.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, an array missing or shorter than it says, or with Python objects.
    """
    with open_archive(path, _NUMPY, _SAVE) as archive:
        there = [name.removesuffix(".npy") for name in archive.names()]
        if wanted not in there:
            raise ValueError(
                f"{path} holds {', '.join(there) or 'nothing'}; expected '{wanted}' and perhaps "
                f"'{further[0]}'"
            )
        chosen = [name for name in (wanted, *further) if name in there]
        with refusing(path, _NUMPY, _SAVE):
            return {name: _parsed(archive.read(f"{name}.npy")) for name in chosen}


def _parsed(content: bytes) -> NDArray[Any]:
    stream = io.BytesIO(content)
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} is for tables, not for plain numbers")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError(f"an array of {dtype} with shape {shape}")
    values = np.frombuffer(bytearray(content), dtype, math.prod(shape), stream.tell())
    return values.reshape(shape, order="F" if fortran else "C")
