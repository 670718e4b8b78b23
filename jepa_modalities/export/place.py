"""Where a run's encoder lies, folders that appear whole or not at all, and optional packages."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

ENCODER = "encoder.safetensors"


class HasPath(Protocol):
    """Anything with a folder, such as a `Run`."""

    @property
    def path(self) -> Path: ...


def encoder_file(run: str | Path | HasPath) -> Path:
    """The encoder file of a run.

    Args:
        run: a `Run`, its folder, or the file itself.

    Raises:
        FileNotFoundError: nothing there.
    """
    place = Path(run) if isinstance(run, str | Path) else run.path
    file = place / ENCODER if place.is_dir() else place
    if not file.is_file():
        raise FileNotFoundError(
            f"no encoder file at {file}; give a run folder that holds {ENCODER}, or such a file"
        )
    return file


@contextmanager
def fresh_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its name when the block ends without an error.

    Raises:
        FileExistsError: `out` is a file, or holds something already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists already; remove it or choose another folder")
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def optional(module: str, extra: str) -> Any:
    """Import a package that only an extra installs.

    Args:
        module: name of the module.
        extra: name of our extra that brings it.

    Raises:
        ImportError: it is not installed; says how to get it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"this needs the package {module}, which cannot be imported ({error}); install it with "
            f'pip install "jepa_modalities[{extra}]"'
        ) from error
