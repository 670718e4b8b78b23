"""Recordings of any source -> one HDF5 file: parallel, checked, resumable."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from jepa_modalities.data.ecg.annotation import AnnotationFile
from jepa_modalities.data.ecg.layout import INVALID
from jepa_modalities.data.ecg.wfdb import Recording
from jepa_modalities.data.prepare.part import (
    Entry,
    Part,
    Prepared,
    Progress,
    open_part,
    part_folder,
)
from jepa_modalities.data.prepare.pool import worker_pool
from jepa_modalities.data.prepare.record import made_before
from jepa_modalities.data.prepare.recording import write_recordings

COMMIT = 64  # recordings between two log entries: what a kill may cost
SHOWN = 10
SMALL = 4  # commits up to which one process does it all
# For tests of what a kill leaves: the process kills itself behind this many recordings.
FAULT = "JM_KILL_BEHIND_RECORD"
OnError = Literal["skip", "raise"]


@dataclass(frozen=True, slots=True)
class Item:
    """One recording that a source names.

    Attributes:
        record_id: unique name below the source.
        files: what it is read from; `reader` knows how.
        source: data set.
        row: number inside of the first file, where a file holds several.
        patient_id: empty if unknown.
        fold: official fold; -1 if none.
        labels: names of the classes that apply.
        age: years.
        sex: 0 male, 1 female, -1 unknown.
    """

    record_id: str
    files: tuple[Path, ...]
    source: str
    row: int = 0
    patient_id: str = ""
    fold: int = -1
    labels: tuple[str, ...] = ()
    age: float | None = None
    sex: int = -1


@dataclass(frozen=True)
class Read:
    """What a reader finds in the files of an item; what it knows replaces what the item says."""

    recording: Recording
    annotations: AnnotationFile | None = None
    labels: tuple[str, ...] | None = None
    age: float | None = None
    sex: int | None = None


Reader = Callable[[Item], Read]


@dataclass(frozen=True)
class Source:
    """All of a data set that is known before signals are read.

    Attributes:
        dataset: name, as `jm prepare` knows it.
        items: the recordings, in order.
        reader: a function of a module: it runs in worker processes.
        labels: names of all classes in order; None for those that occur.
        tables: files that items come from; their sha256 is stored.
        settings: what else decides the content; JSON.
        missing: name and reason of what is left out before anything is read.
        about: further text attributes of the file.
    """

    dataset: str
    items: Sequence[Item]
    reader: Reader
    labels: tuple[str, ...] | None = None
    tables: tuple[Path, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    missing: tuple[tuple[str, str], ...] = ()
    about: Mapping[str, str] = field(default_factory=dict)


def prepare_recordings(
    source: Source,
    out: str | Path,
    on_error: OnError = "skip",
    workers: int = 1,
    resume: bool = True,
    *,
    compress: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Write all recordings of a source into one file, as `open_records` reads it.

    The same call goes on after a kill, and the file then equals that of an undisturbed call byte
    for byte; a finished file is kept.

    Args:
        source: what to read.
        out: path of the .h5 file.
        on_error: bad recordings are left out and listed, or stop with a list of their names.
        workers: processes that read; small sources need only one.
        resume: go on with a part from an interrupted call and keep a finished file, or begin anew.
        compress: shuffle and gzip: about half the size, a quarter of the reading speed.
        progress: called with (name of the file, recordings done, recordings in all).

    Raises:
        FileExistsError: `out` was made from something else, or from files that changed since.
        ValueError: nothing to read, bad recordings, or a source that changed since the part began.
    """
    out = Path(out)
    if out.suffix not in (".h5", ".hdf5"):
        raise ValueError(f"out = {out}; expected a name that ends in .h5")
    if workers < 1:
        raise ValueError(f"workers = {workers}; expected at least 1")
    if on_error == "raise":
        _report(source.missing, "leave out --strict to go on without them")
    if not source.items:
        first = f" ({source.missing[0][0]}: {source.missing[0][1]})" if source.missing else ""
        raise ValueError(f"{source.dataset}: there is no recording to read{first}")
    _unique(source.items)
    tables = {path.name: _digest(path) for path in source.tables}
    settings = {
        "dataset": source.dataset,
        "layout": 1,
        "compress": compress,
        "labels": None if source.labels is None else list(source.labels),
        "tables": tables,
        **source.settings,
    }
    fingerprint = _fingerprint(source, settings)
    if out.exists():
        known = made_before(out, fingerprint, "record_id")
        if known is None:
            raise FileExistsError(
                f"{out} exists already and was not made from these recordings with these settings; "
                f"remove it or choose another name"
            )
        newer = _changed_since(source, out.stat().st_mtime_ns)
        if newer is not None and resume:
            raise FileExistsError(
                f"{newer} changed after {out} was made from it; make it again (--anew, "
                f"resume=False), or remove {out.name}"
            )
        if resume:
            # What a kill between the last two steps left behind is of no use.
            shutil.rmtree(part_folder(out), ignore_errors=True)
            return Prepared({out: _digest(out)}, known[0], known[1], known[0])
    out.parent.mkdir(parents=True, exist_ok=True)
    if len(source.items) <= SMALL * COMMIT:
        workers = 1  # starting processes would cost more than they save
    # Workers start before the part is opened: they must not inherit its lock.
    with worker_pool(workers) as pool, open_part(out, settings, resume) as part:
        resumed = len(part.entries)
        _check_part(source, part, on_error)
        for results in _read_all(source, resumed, pool, workers):
            _add(source, part, results, on_error)
            if progress is not None:
                progress(out.name, len(part.entries), len(source.items))
        kept = [entry for entry in part.entries if entry["reason"] is None]
        skipped = source.missing + tuple(
            (entry["record_id"], entry["reason"])
            for entry in part.entries
            if entry["reason"] is not None
        )
        if kept:
            write_recordings(
                out, part.payload, kept, skipped, settings, _about(source, settings, fingerprint)
            )
    if not kept:  # behind the block: a part without anything good in it is of no use
        raise ValueError(
            f"none of the {len(skipped):,} recordings can be used; {skipped[0][0]}: {skipped[0][1]}"
        )
    old = sum(entry["reason"] is None for entry in part.entries[:resumed])
    return Prepared({out: _digest(out)}, len(kept), skipped, old, _notes(kept))


def _about(source: Source, settings: Mapping[str, Any], fingerprint: str) -> dict[str, str]:
    from jepa_modalities import __version__

    return {
        "dataset": source.dataset,
        "software": f"jepa_modalities {__version__}",
        "source_sha256": json.dumps(settings["tables"], sort_keys=True),
        "settings": json.dumps(settings, sort_keys=True),
        "fingerprint": fingerprint,
        **source.about,
    }


def _unique(items: Sequence[Item]) -> None:
    seen: set[str] = set()
    for item in items:
        if item.record_id in seen:
            raise ValueError(
                f"the record {item.record_id} occurs twice; names must be unique below the source"
            )
        seen.add(item.record_id)


def _fingerprint(source: Source, settings: Mapping[str, Any]) -> str:
    """sha256 of the settings and of what is known of all items, sizes of their files included."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for item in source.items:
        sizes = [state and state[0] for state in _states(item)]
        known = [item.record_id, item.source, item.row, item.patient_id, item.fold, item.labels]
        digest.update(json.dumps([*known, item.age, item.sex, sizes]).encode())
    digest.update(json.dumps([source.missing, dict(source.about)]).encode())
    return digest.hexdigest()


def _changed_since(source: Source, made: int) -> Path | None:
    """A file of the source that is newer than this time in ns."""
    for item in source.items:
        for file, state in zip(item.files, _states(item), strict=True):
            if state is not None and state[1] > made:
                return file
    return None


def _states(item: Item) -> list[list[int] | None]:
    return [_state(file) for file in item.files]


def _state(file: Path) -> list[int] | None:
    """Length and time of change, to notice another content without reading it; None if missing."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _check_part(source: Source, part: Part, on_error: OnError) -> None:
    """What an interrupted call has done must still be so."""
    again = "begin anew (--anew, resume=False)"
    for row, entry in enumerate(part.entries):
        if row >= len(source.items) or source.items[row].record_id != entry["record_id"]:
            raise ValueError(
                f"the source changed since {part.folder} was begun ({entry['record_id']} is no "
                f"longer recording {row}); {again}"
            )
        if _states(source.items[row]) != entry["state"]:
            raise ValueError(f"{entry['record_id']} changed since {part.folder} was begun; {again}")
    if on_error == "raise":
        failed = [(e["record_id"], e["reason"]) for e in part.entries if e["reason"] is not None]
        _report(failed, f"leave out --strict to go on without them, or {again}")


def _report(failed: Sequence[tuple[str, str]], remedy: str) -> None:
    if not failed:
        return
    shown = [f"  {name}: {reason}" for name, reason in failed[:SHOWN]]
    more = [f"  and {len(failed) - SHOWN:,} more"] if len(failed) > SHOWN else []
    raise ValueError("\n".join(["recordings that cannot be used:", *shown, *more, remedy]))


Result = tuple[bytes, Entry]


def _add(source: Source, part: Part, results: Sequence[Result], on_error: OnError) -> None:
    """Keep a commit's results; in strict mode those before the first bad one."""
    bad = next((n for n, (_, entry) in enumerate(results) if entry["reason"] is not None), None)
    stop = len(results) if bad is None or on_error == "skip" else bad
    fault = os.environ.get(FAULT)
    if fault is not None and len(part.entries) + stop >= int(fault):
        stop = min(stop, int(fault) - len(part.entries))
        part.add([payload for payload, _ in results[:stop]], [entry for _, entry in results[:stop]])
        _kill(part)
    part.add([payload for payload, _ in results[:stop]], [entry for _, entry in results[:stop]])
    if stop < len(results):
        failed = [(e["record_id"], e["reason"]) for _, e in results if e["reason"] is not None]
        _report(
            failed,
            f"stopped at recording {len(part.entries):,}; repair it and call again, or "
            f"leave out --strict to go on without",
        )


def _kill(part: Part) -> None:
    """End as a power cut would, at the worst moment: bytes without their entry, half an entry."""
    for name in ("payload", "log.jsonl"):
        with (part.folder / name).open("ab") as file:
            file.write(b'{"torn')
    os.kill(os.getpid(), signal.SIGKILL)


def _read_all(
    source: Source, first: int, pool: ProcessPoolExecutor | None, workers: int
) -> Iterator[list[Result]]:
    """Results in order, a commit at a time; further commits are read meanwhile."""
    batches = (
        list(source.items[low : low + COMMIT]) for low in range(first, len(source.items), COMMIT)
    )
    if pool is None:
        for batch in batches:
            yield _read_batch(source.reader, batch)
        return
    waiting: deque[Future[list[Result]]] = deque()
    for batch in batches:
        waiting.append(pool.submit(_read_batch, source.reader, batch))
        if len(waiting) > 2 * workers:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _read_batch(reader: Reader, items: Sequence[Item]) -> list[Result]:
    return [read_item(reader, item) for item in items]


def read_item(reader: Reader, item: Item) -> Result:
    """What is stored of one recording; a bad one stores nothing and has a reason."""
    entry: Entry = {"record_id": item.record_id, "reason": None, "state": _states(item)}
    try:
        found = reader(item)
        if found.recording.signal.size == 0:
            raise ValueError("it has no samples")
        if (found.recording.signal == INVALID).all():
            raise ValueError("it has no valid sample in any lead")
    except Exception as error:  # files break in many ways: each is a reason to list
        # Without folders, so that every call gives the same file.
        reason = str(error) or type(error).__name__
        for file in item.files:
            reason = reason.replace(f"{file.parent}/", "")
        return b"", {**entry, "reason": reason}
    return found.recording.signal.tobytes(), {**entry, **entry_of(item, found)}


def entry_of(item: Item, found: Read) -> Entry:
    """All that the file says of a recording beside its samples."""
    recording, notes = found.recording, found.annotations
    return {
        "length": len(recording.signal),
        "fs": recording.fs,
        "leads": list(recording.leads),
        "gain": list(recording.gain),
        "baseline": list(recording.baseline),
        "unit": list(recording.unit),
        "comments": "\n".join(recording.comments),
        "sha256": recording.sha256,
        "notes": list(recording.notes),
        "annotations": None
        if notes is None
        else [notes.sample.tolist(), list(notes.symbol), list(notes.aux)],
        "source": item.source,
        "patient_id": item.patient_id,
        "fold": item.fold,
        "labels": list(item.labels if found.labels is None else found.labels),
        "age": item.age if found.age is None else found.age,
        "sex": item.sex if found.sex is None else found.sex,
    }


def _notes(kept: Sequence[Entry]) -> tuple[str, ...]:
    """Notes on recordings, counted by kind: `NAME: no checksum ...` of 3 recordings is one line."""
    kinds: dict[str, list[str]] = {}
    for entry in kept:
        for note in entry["notes"]:
            kinds.setdefault(note, []).append(entry["record_id"])
    return tuple(
        f"{len(names):,} recording{'s' if len(names) > 1 else ''}, such as {names[0]}: {kind}"
        for kind, names in kinds.items()
    )


@lru_cache(maxsize=64)
def _digest_of(path: Path, state: tuple[int, int]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(path: Path) -> str:
    stat = path.stat()
    return _digest_of(path, (stat.st_size, stat.st_mtime_ns))
