"""Read a run folder, whatever part of it is there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jepa_modalities.eval.score import Results, parse


@dataclass(frozen=True)
class Folder:
    """The readable parts of a run folder; a missing part is empty.

    Attributes:
        path: the folder.
        config: `config.json`.
        env: `env.json`.
        log: the records of `log.jsonl`, ascending in `step`.
        results: the scores of `metrics.json`.
        notes: what could not be read, in plain words.
    """

    path: Path
    config: Mapping[str, object] = field(default_factory=dict)
    env: Mapping[str, object] = field(default_factory=dict)
    log: list[dict[str, object]] = field(default_factory=list)
    results: Results = field(default_factory=Results)
    notes: list[str] = field(default_factory=list)

    @property
    def recipe(self) -> str:
        """The recipe's name, or the folder's."""
        return str(self.config.get("recipe") or self.path.name)


def read(path: Path) -> Folder:
    """Read a run folder; missing files are empty, broken ones are noted.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(
            f"run folder {path}: not found or not a folder; give the folder that `jm pretrain` "
            f"named in its last line (`run: DIR`)"
        )
    path = path.resolve()
    notes: list[str] = []
    config, env, metrics = (
        _object(path / name, notes) for name in ("config.json", "env.json", "metrics.json")
    )
    return Folder(path, config, env, _log(path / "log.jsonl", notes), parse(metrics), notes)


def _object(path: Path, notes: list[str]) -> dict[str, object]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        notes.append(f"{path.name} is not valid JSON ({error}), so its part is missing here.")
        return {}
    if not isinstance(content, dict):
        notes.append(
            f"{path.name} holds a {type(content).__name__}, not an object; its part is missing."
        )
        return {}
    return content


def _log(path: Path, notes: list[str]) -> list[dict[str, object]]:
    """Records by step; where a resumed run logged a step again, the later record counts."""
    if not path.is_file():
        return []
    records: dict[float, dict[str, object]] = {}
    broken = 0
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                records[float(record["step"])] = record
            except (ValueError, TypeError, KeyError):
                broken += 1  # a line torn by an interrupted run
    if broken:
        notes.append(f"{path.name}: {broken} unreadable line{'s' * (broken > 1)} left out.")
    return [records[step] for step in sorted(records)]
