"""Folders of images -> one HDF5 file per split, checksummed and resumable."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import re
import shutil
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from jepa_modalities.data.decode import Channels, to_pixels
from jepa_modalities.data.folder import images_below, split_folders
from jepa_modalities.data.prepare.part import (
    Entry,
    Part,
    Prepared,
    Progress,
    open_part,
    part_folder,
)
from jepa_modalities.data.prepare.record import made_before, write_hdf5

COMMIT = 128  # images between two log entries: what a kill may cost
# A JPEG is decoded at least so many times larger than needed: the resize then hides its scaling.
MARGIN = 2
SHOWN = 10


@dataclass(frozen=True)
class Job:
    """One output file: the images below `top`, whose names are relative to `source`."""

    source: Path
    top: Path
    split: str
    out: Path
    files: tuple[Path, ...]
    classes: tuple[str, ...]
    size: tuple[int, int] | None
    channels: Channels

    def name(self, row: int) -> str:
        """Path of an image below the source."""
        return self.files[row].relative_to(self.source).as_posix()

    def label(self, row: int) -> int | None:
        """Number of an image's class; None without classes."""
        folder = self.files[row].relative_to(self.top).parts[0]
        return bisect_left(self.classes, folder) if self.classes else None

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the file's content beside the images."""
        size = None if self.size is None else list(self.size)
        channels = None if self.size is None else self.channels
        kinds = {"size": size, "channels": channels, "split": self.split}
        return {**kinds, "classes": list(self.classes), "layout": 1}

    def fingerprint(self) -> str:
        """sha256 of the settings and of the names and lengths of all images."""
        digest = hashlib.sha256(json.dumps(self.settings).encode())
        for row, file in enumerate(self.files):
            state = _state(file)
            digest.update(json.dumps([self.name(row), state and state[0]]).encode())
        return digest.hexdigest()


def prepare_images(
    source: str | Path,
    out: str | Path,
    size: int | tuple[int, int] | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    workers: int | None = None,
    resume: bool = True,
    *,
    channels: Channels = 3,
    split: str | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Pack a folder of images into HDF5, as `open_images` reads it.

    With `size`, dataset `images` holds pixels, uint8 (images, height, width, channels): the image
    is scaled until it covers `size` (bicubic, antialiased) and its centre is cut out. Without, the
    files' own bytes (of any format that Pillow reads) lie one after the other in `webp`, with
    `offset`: no pixel changes, sizes may differ. Beside them lie labels, names and the sha256 of
    each source file; `classes` and `split` are attributes.

    The same call goes on after a kill, and the file then equals that of an undisturbed call byte
    for byte; finished files are kept.

    Args:
        source: a folder: flat or with class folders, with or without split folders above.
        out: path of the .h5 file. A source with several splits gives `<stem>_<split>.h5` each,
            which `open_images("<stem>_*.h5", split)` reads as one, unless `split` picks one.
        size: height and width in pixels; one number for squares; None keeps the files as they are.
        on_error: unreadable images stop with a list of their names, or are left out and listed.
        workers: threads that decode; the number of cores if not given.
        resume: go on with a part from an interrupted call, or begin anew.
        channels: 1 for grey, 3 for RGB; only with `size`.
        split: the only split to pack.
        progress: called with (name of the file, images done, images in all).

    Returns:
        The files with their sha256, and what was left out.

    Raises:
        FileNotFoundError: no such folder.
        FileExistsError: `out` was made from something else.
        ValueError: no images, unreadable images, or impossible arguments.
    """
    jobs = _plan(Path(source), Path(out), _pair(size), channels, split)
    prints = [job.fingerprint() for job in jobs]
    for job, fingerprint in zip(jobs, prints, strict=True):
        if job.out.exists() and made_before(job.out, fingerprint, "sha256") is None:
            raise FileExistsError(
                f"{job.out} exists already and was not made from these images with these settings; "
                f"remove it or choose another name"
            )
    threads = workers or os.cpu_count() or 1
    done = [
        _make(job, fingerprint, on_error, threads, resume, progress)
        for job, fingerprint in zip(jobs, prints, strict=True)
    ]
    return Prepared(
        {job.out: _digest(job.out) for job in jobs},
        sum(part.written for part in done),
        tuple(item for part in done for item in part.skipped),
        sum(part.resumed for part in done),
    )


def _pair(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size = {size}; expected height and width of at least 1 pixel")
    return height, width


def _plan(
    source: Path,
    out: Path,
    size: tuple[int, int] | None,
    channels: Channels,
    split: str | None,
) -> list[Job]:
    """One job per split; everything that can be wrong with the folder is found here."""
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is no folder; give a folder of images")
    if out.suffix not in (".h5", ".hdf5"):
        raise ValueError(f"out = {out}; expected a name that ends in .h5")
    tops = split_folders(source)
    if split is not None and split not in tops:
        raise ValueError(f"{source} has the splits {', '.join(tops) or 'none'}, not {split!r}")
    found = {name: (top, tuple(images_below(top))) for name, top in (tops or {"": source}).items()}
    classes = sorted(
        {
            file.relative_to(top).parts[0]
            for top, files in found.values()
            for file in files
            if file.parent != top
        }
    )
    if bad := [name for name in classes if "," in name]:
        raise ValueError(f"{source}: class names must not hold commas, found {bad[0]!r}; rename it")
    jobs = []
    for name, (top, files) in found.items():
        if split not in (None, name):
            continue
        if not files:
            raise ValueError(f"{top} holds no images (.jpg, .png, .webp, .tif, ...)")
        loose = [file for file in files if file.parent == top]
        if classes and loose:
            raise ValueError(
                f"{top} holds class folders and {len(loose):,} loose images (such as "
                f"{loose[0].name}); move the loose ones into a class folder or away"
            )
        many = len(tops) > 1 and split is None
        path = out.with_name(f"{out.stem}_{name}{out.suffix}") if many else out
        jobs.append(Job(source, top, name, path, files, tuple(classes), size, channels))
    return jobs


def _make(
    job: Job,
    fingerprint: str,
    on_error: str,
    workers: int,
    resume: bool,
    progress: Progress | None,
) -> Prepared:
    """Make one file, or find it finished."""
    known = made_before(job.out, fingerprint, "sha256") if job.out.exists() else None
    if known is not None:  # what a kill between the last two steps left behind is of no use
        shutil.rmtree(part_folder(job.out), ignore_errors=True)
        written, skipped = known
        return Prepared({}, written, skipped, written)
    with open_part(job.out, job.settings, resume) as part:
        _check_part(job, part, on_error)
        resumed = len(part.entries)
        for rows, results in _decoded(job, resumed, workers):
            if on_error == "raise":
                _add_until_error(job, part, rows, results)
            else:
                part.add([payload for payload, _ in results], [entry for _, entry in results])
            if progress is not None:
                progress(job.out.name, len(part.entries), len(job.files))
        kept = [entry for entry in part.entries if entry["reason"] is None]
        skipped = tuple((e["name"], e["reason"]) for e in part.entries if e["reason"] is not None)
        if not kept:
            raise ValueError(f"none of the {len(job.files):,} images in {job.top} can be read")
        write_hdf5(job.out, part.payload, kept, skipped, job.settings, fingerprint)
    old = sum(entry["reason"] is None for entry in part.entries[:resumed])
    return Prepared({}, len(kept), skipped, old)


def _check_part(job: Job, part: Part, on_error: str) -> None:
    """What an interrupted call has done must still be so.

    Raises:
        ValueError: files were changed, removed or added before the place where it stopped.
    """
    again = f"remove {part.folder} or begin anew with resume=False"
    for row, entry in enumerate(part.entries):
        if row >= len(job.files) or job.name(row) != entry["name"]:
            raise ValueError(
                f"{job.top} changed since {part.folder} was begun ({entry['name']} is no longer "
                f"image {row}); {again}"
            )
        if _state(job.files[row]) != entry["state"]:
            raise ValueError(f"{job.files[row]} changed since {part.folder} was begun; {again}")
    if on_error == "raise":
        _report(job, [e for e in part.entries if e["reason"] is not None], again)


def _report(job: Job, failed: Sequence[Entry], remedy: str) -> None:
    if not failed:
        return
    shown = [f"  {entry['name']}: {entry['reason']}" for entry in failed[:SHOWN]]
    more = [f"  and {len(failed) - SHOWN:,} more"] if len(failed) > SHOWN else []
    head = f"images in {job.top} that cannot be read:"
    raise ValueError(
        "\n".join([head, *shown, *more, f"leave them out with on_error='skip', or {remedy}"])
    )


def _add_until_error(
    job: Job, part: Part, rows: range, results: Sequence[tuple[bytes, Entry]]
) -> None:
    """Keep what comes before the first unreadable image, so that a repair needs no new start."""
    good = list(itertools.takewhile(lambda result: result[1]["reason"] is None, results))
    part.add([payload for payload, _ in good], [entry for _, entry in good])
    failed = [entry for _, entry in results if entry["reason"] is not None]
    _report(job, failed, f"repair them and call again (stopped at image {rows[0] + len(good):,})")


def _decoded(
    job: Job, first: int, workers: int
) -> Iterator[tuple[range, list[tuple[bytes, Entry]]]]:
    """Results in order, a commit at a time; the next commit is decoded meanwhile."""
    waiting: deque[tuple[range, list[Future[tuple[bytes, Entry]]]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for low in range(first, len(job.files), COMMIT):
            rows = range(low, min(low + COMMIT, len(job.files)))
            waiting.append((rows, [pool.submit(read_image, job, row) for row in rows]))
            if len(waiting) > 1:
                before, futures = waiting.popleft()
                yield before, [future.result() for future in futures]
        while waiting:
            before, futures = waiting.popleft()
            yield before, [future.result() for future in futures]


def read_image(job: Job, row: int) -> tuple[bytes, Entry]:
    """What is stored of one image, and its entry; a failed one stores nothing and has a reason."""
    file = job.files[row]
    entry: Entry = {"name": job.name(row), "label": job.label(row), "reason": None}
    entry |= {"state": _state(file), "sha256": ""}
    try:
        content = file.read_bytes()
        entry["sha256"] = hashlib.sha256(content).hexdigest()
        payload = _payload(content, job)
    except Exception as error:  # decoders fail in many ways: each is a reason to list
        # Without paths and memory addresses, so that every call gives the same file.
        reason = re.sub(r"<_io\.BytesIO[^>]*>", entry["name"], str(error))
        reason = reason.replace(str(file), entry["name"]) or type(error).__name__
        return b"", {**entry, "reason": reason}
    return payload, entry


def _payload(content: bytes, job: Job) -> bytes:
    image = Image.open(io.BytesIO(content))
    if job.size is None:
        if image.format == "JPEG":  # every byte is still read, but less is computed
            image.draft(None, (1, 1))
        to_pixels(image, 3)
        return content
    side = MARGIN * max(job.size)
    image.draft(None, (side, side))
    return covered(to_pixels(image, job.channels), job.size).tobytes()


def covered(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale until the image covers (height, width) and cut its centre, in one resampling."""
    scale = max(size[0] / image.height, size[1] / image.width)
    height, width = size[0] / scale, size[1] / scale
    left, top = (image.width - width) / 2, (image.height - height) / 2
    box = (
        max(left, 0),
        max(top, 0),
        min(left + width, image.width),
        min(top + height, image.height),
    )
    return image.resize(size[::-1], Image.Resampling.BICUBIC, box=box)


def _state(file: Path) -> list[int] | None:
    """Length and time of change, to notice another content without reading it; None if missing."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
