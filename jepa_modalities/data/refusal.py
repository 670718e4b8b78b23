"""What a library says of a damaged file, as one error that names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Deflate makes at most 1,032 bytes of one (zlib's notes): who claims more does not tell the truth.
MOST_PER_BYTE = 1100


@contextmanager
def refusing(path: Path, kind: str, remedy: str = "copy it again") -> Iterator[None]:
    """Any error of a library inside the block becomes a ValueError.

    Libraries raise dozens of kinds on damaged files (struct.error, KeyError, zlib.error, ...). Wrap
    calls of them only, so that no mistake of ours is taken for damage.

    Args:
        path: of the file.
        kind: what it should be, such as "an HDF5 file".
        remedy: for the message.

    Raises:
        ValueError: names the file, the library's complaint and the remedy.
        FileNotFoundError, PermissionError, MemoryError: as they come.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} cannot be read as {kind} ({told}); {remedy}") from error
