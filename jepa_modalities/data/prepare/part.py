"""Half-made data on disk: a payload that only grows, and a log of what is in it for certain."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

Entry = dict[str, Any]
# Called with (name of the file, items done, items in all).
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Prepared:
    """What a call of `jm prepare` did.

    Attributes:
        files: sha256 of each file, by path.
        written: items in them.
        skipped: name and reason of each item left out.
        resumed: items that were there from an earlier, interrupted call.
        notes: what else a user may want to know.
    """

    files: dict[Path, str]
    written: int
    skipped: tuple[tuple[str, str], ...]
    resumed: int
    notes: tuple[str, ...] = ()


class Part:
    """The folder `<out>.part` of a file in the making; use `open_part`.

    Its `log.jsonl` begins with the settings; each further line is one entry per finished item with
    `end`, the length of the payload after it. A killed writer leaves at most bytes and half a line
    behind the last entry: both are cut off when work goes on.

    Attributes:
        entries: of all finished items, in order.
    """

    def __init__(
        self, folder: Path, payload: BinaryIO, log: BinaryIO, entries: list[Entry]
    ) -> None:
        self.folder, self.entries = folder, entries
        self._payload, self._log = payload, log

    @property
    def payload(self) -> Path:
        """The file with all payloads, one after the other."""
        return self.folder / "payload"

    def add(self, payloads: Sequence[bytes], entries: Sequence[Mapping[str, Any]]) -> None:
        """Append finished items; they count once their log lines are on the disk."""
        end = self._payload.tell()
        lines = []
        for content, entry in zip(payloads, entries, strict=True):
            self._payload.write(content)
            end += len(content)
            lines.append({**entry, "end": end})
        _sync(self._payload)
        self._log.write("".join(json.dumps(line) + "\n" for line in lines).encode())
        _sync(self._log)
        self.entries += lines


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def part_folder(out: Path) -> Path:
    """Where the half-made `out` lies."""
    return out.with_name(f"{out.name}.part")


@contextmanager
def open_part(out: Path, settings: Mapping[str, Any], resume: bool) -> Iterator[Part]:
    """Begin or go on with the making of `out`.

    The part stays behind after an error or a kill, and is removed when the block ends well.

    Args:
        out: the file that is made.
        settings: what decides the content; JSON.
        resume: go on where a part is there, or begin anew.

    Raises:
        ValueError: the part was begun with other settings.
        RuntimeError: another process works on it.
    """
    folder = part_folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "payload").open("ab") as payload, (folder / "log.jsonl").open("ab+") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"another process is making {out}; wait for it") from None
        if not resume:
            log.truncate(0)
        entries = _read(log, folder, json.loads(json.dumps(settings)))
        payload.truncate(entries[-1]["end"] if entries else 0)
        payload.seek(0, os.SEEK_END)
        yield Part(folder, payload, log, entries)
    shutil.rmtree(folder)


def _read(log: BinaryIO, folder: Path, settings: Any) -> list[Entry]:
    """The entries that the log holds whole; writes the settings into an empty log."""
    log.seek(0)
    content = log.read()
    whole = content[: content.rfind(b"\n") + 1]
    log.truncate(len(whole))
    log.seek(0, os.SEEK_END)
    if not whole:
        log.write(json.dumps(settings).encode() + b"\n")
        _sync(log)
        return []
    first, *lines = whole.splitlines()
    begun = json.loads(first)
    if begun != settings:
        changed = sorted(
            key for key in begun.keys() | settings.keys() if begun.get(key) != settings.get(key)
        )
        raise ValueError(
            f"{folder} was begun with another {' and '.join(changed)}; give the same, or begin "
            f"anew (--anew, resume=False)"
        )
    return [json.loads(line) for line in lines]
