"""Flags of a recipe: every field of its configuration, typed, through tyro."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, TypeVar

import tyro

from jepa_modalities.settings import changed, overruled

C = TypeVar("C")


def own_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `jm pretrain` that belong to the command and not to the recipe."""
    parser.add_argument("--out", help="run folder (default: runs/<recipe>-<time>)")
    parser.add_argument("--seed", type=int, help="fixes everything")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--resume-step", type=int, help="go on from the checkpoint of this step")
    parser.add_argument("--quiet", action="store_true", help="no display")


def merge(config: C, flags: Sequence[str], program: str) -> C:
    """The configuration with flags such as `--train.epochs 5 --data.path photos` applied.

    Raises:
        SystemExit: an unknown flag or a wrong type, with tyro's explanation; or after --help.
    """
    merged = tyro.cli(
        type(config),
        default=config,
        args=list(flags),
        prog=program,
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
    )
    # tyro does not tell a value that was given from a default.
    given = {flag.split("=")[0][2:].replace("-", "_") for flag in flags if flag.startswith("--")}
    return changed(merged, dict.fromkeys(overruled(given)))


def lines(config: Any) -> list[str]:
    """One "name = value" line per setting."""
    found: list[str] = []

    def walk(part: Any, path: str) -> None:
        for name, value in part.items():
            inner = f"{path}.{name}" if path else name
            if isinstance(value, dict):
                walk(value, inner)
            else:
                found.append(f"{inner} = {value!r}")

    walk(asdict(config) if is_dataclass(config) and not isinstance(config, type) else config, "")
    return found
