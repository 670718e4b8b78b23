"""Fitted tensors in a run folder, stamped with the settings they were fitted with."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor


def read_stamped(path: Path | None, settings: str) -> dict[str, Tensor] | None:
    """The tensors of a file that was written with the same settings, else None.

    A start that failed may have left a file of other settings.
    """
    if path is None or not path.exists():
        return None
    with safe_open(path, "pt") as file:
        if (file.metadata() or {}).get("settings") != settings:
            return None
    return load_file(path)


def write_stamped(path: Path | None, tensors: dict[str, Tensor], settings: str) -> None:
    """Write the file, atomically: each process of a run fits the same, one may read meanwhile."""
    if path is not None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(save(tensors, {"settings": settings}))
        os.replace(temporary, path)
