"""Encoder files for other people: the same weights, without this machine's folders."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from jepa_modalities.export.encoder import load_encoder, save_encoder
from jepa_modalities.export.place import HasPath, encoder_file

LOCATIONS = ("path", "test_path")


def portable(config: Any) -> Any:
    """A copy of a configuration whose data paths keep their last parts only.

    Folders tell user names and are worth nothing elsewhere; the name of the file is kept, because
    it tells what the encoder has seen.
    """
    data = config.data
    names = {field.name for field in fields(data)} & set(LOCATIONS)
    return replace(
        config, data=replace(data, **{name: _last(getattr(data, name)) for name in names})
    )


def _last(value: Any) -> Any:
    """Last part of each path in a list joined by commas."""
    if not isinstance(value, str):
        return value
    kind = PureWindowsPath if "\\" in value else PurePosixPath
    return ",".join(kind(part.strip()).name for part in value.split(","))


def export_safetensors(run: str | Path | HasPath, out: str | Path) -> Path:
    """Write a run's encoder file without local folders; `load` reads it.

    Args:
        run: a `Run`, its folder, or an encoder file.
        out: path of the new .safetensors file.

    Returns:
        The path.

    Raises:
        FileExistsError: `out` is there already.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists already; remove it or choose another name")
    pretrained = load_encoder(encoder_file(run))
    os.makedirs(out.parent, exist_ok=True)
    save_encoder(
        out,
        pretrained.encoder.state_dict(),
        pretrained.tokenizer.state_dict(),
        portable(pretrained.config),
        pretrained.note,
    )
    return out
