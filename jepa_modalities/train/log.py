"""log.jsonl: one record per logged step, cut back on resume; log.csv at the end."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any


def read(folder: Path) -> list[dict[str, Any]]:
    """All complete records of a run, up to the first line that is none or has no whole `step`."""
    path = folder / "log.jsonl"
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(record, dict) or type(record.get("step")) is not int:
            break
        records.append(record)
    return records


def cut(folder: Path, step: int) -> None:
    """Forget what was logged after `step`, atomically."""
    kept = [record for record in read(folder) if record["step"] <= step]
    path = folder / "log.jsonl"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))
    os.replace(temporary, path)


class Log:
    """Appends records to log.jsonl, and to TensorBoard if asked (extra `track`).

    Args:
        folder: run folder.
        tensorboard: also write event files into `folder/tensorboard`.
    """

    def __init__(self, folder: Path, tensorboard: bool = False) -> None:
        self.folder = folder
        self._file = (folder / "log.jsonl").open("a")
        self._board: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError(
                    f"train.tensorboard cannot work ({error}); install it with pip install "
                    f'"jepa_modalities[track]"'
                ) from error
            self._board = SummaryWriter(str(folder / "tensorboard"))

    def write(self, record: dict[str, Any]) -> None:
        """Append one record and hand it to the operating system."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in record.items():
                if isinstance(value, float):
                    self._board.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Close, and write log.csv with one column per name."""
        self._file.close()
        if self._board is not None:
            self._board.close()
        records = read(self.folder)
        names = list(dict.fromkeys(name for record in records for name in record))
        with (self.folder / "log.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(records)
