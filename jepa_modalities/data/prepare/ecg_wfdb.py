"""Any folder of WFDB records -> HDF5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from jepa_modalities.data.ecg.annotation import read_annotations
from jepa_modalities.data.ecg.wfdb import read_record
from jepa_modalities.data.prepare.ecg import (
    Item,
    OnError,
    Read,
    Source,
    prepare_recordings,
)
from jepa_modalities.data.prepare.part import Prepared, Progress

DEFAULT_ANNOTATOR = "atr"


def prepare_wfdb(
    source: str | Path,
    out: str | Path,
    on_error: OnError = "skip",
    workers: int = 1,
    resume: bool = True,
    *,
    annotator: str | None = None,
    name: str | None = None,
    compress: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Pack a folder of WFDB records, below any folders, into HDF5.

    Args:
        source: folder with .hea files.
        out: path of the .h5 file.
        on_error: see `prepare_recordings`.
        workers: processes.
        resume: see `prepare_recordings`.
        annotator: extension of annotation files, which then every record needs; if not given,
            .atr files are read where they are.
        name: of the source; that of the folder if not given.
        compress: see `prepare_recordings`.
        progress: see `prepare_recordings`.
    """
    folder = Path(source)
    reader = partial(read_wfdb, annotator=annotator)
    title = name or folder.resolve().name
    items = [
        Item(record_name(folder, file), with_payload(file, annotator), title)
        for file in headers_below(folder)
    ]
    given = Source("wfdb", items, reader, settings={"annotator": annotator})
    return prepare_recordings(
        given, out, on_error, workers, resume, compress=compress, progress=progress
    )


def headers_below(folder: Path) -> Sequence[Path]:
    """All .hea files, sorted.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: none in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; give a folder of WFDB records")
    found = sorted(folder.rglob("*.hea"))
    if not found:
        raise ValueError(f"{folder} holds no WFDB headers (.hea)")
    return found


def with_payload(header: Path, annotator: str | None = None) -> tuple[Path, ...]:
    """A header, and samples and annotations of the usual names: changes of all are noticed."""
    usual = (".dat", ".mat", f".{annotator or DEFAULT_ANNOTATOR}")
    beside = (header.with_suffix(suffix) for suffix in usual)
    return (header, *(path for path in beside if path.is_file()))


def record_name(folder: Path, header: Path) -> str:
    """Name of a record: the path below the folder, without extension."""
    return header.relative_to(folder).with_suffix("").as_posix()


def read_wfdb(item: Item, annotator: str | None = None) -> Read:
    """Samples, annotations where there are any, and what the comments say."""
    path = item.files[0]
    beside = annotator_file(path, annotator)
    recording = read_record(path, () if beside is None else (beside,))
    about = demographics(recording.comments)
    if beside is None:
        recording = replace(recording, notes=(*recording.notes, "no annotations"))
        return Read(recording, None, about.labels, about.age, about.sex)
    notes = read_annotations(beside)
    if notes.fs is not None and abs(notes.fs - recording.fs) > 1e-6 * recording.fs:
        raise ValueError(
            f"{beside.name} counts at {notes.fs} Hz, the signal has {recording.fs} Hz; the two do "
            f"not belong together"
        )
    if len(notes.sample) and notes.sample.max() >= len(recording.signal):
        raise ValueError(
            f"the last annotation in {beside.name} is at sample {notes.sample.max():,}, the signal "
            f"has {len(recording.signal):,}; the two do not belong together"
        )
    return Read(recording, notes, about.labels, about.age, about.sex)


def annotator_file(header: Path, annotator: str | None) -> Path | None:
    """The annotation file of a record; None if there is none and none was asked for.

    Raises:
        FileNotFoundError: no file of the annotator that was asked for.
    """
    path = header.with_suffix(f".{annotator or DEFAULT_ANNOTATOR}")
    if path.is_file():
        return path
    if annotator is None:
        return None
    known = (".hea", ".dat", ".mat")
    beside = sorted(header.parent.glob(f"{header.stem}.*"))
    others = [other.suffix[1:] for other in beside if other.suffix not in known]
    hint = f"there is {', '.join(others)}: give --annotator {others[0]}" if others else "copy it"
    raise FileNotFoundError(f"annotation file {path.name} is missing; {hint}")


@dataclass(frozen=True)
class Demographics:
    """What header comments say; None where they do not."""

    labels: tuple[str, ...] | None = None
    age: float | None = None
    sex: int | None = None


def demographics(comments: Sequence[str]) -> Demographics:
    """Labels, age and sex from comments such as `Dx: 426783006,39732003`, `Age: 72`, `Sex: F`."""
    found = Demographics()
    for line in comments:
        key, colon, value = line.partition(":")
        value = value.strip()
        if colon and key.strip().lower() == "dx":
            codes = (code.strip() for code in value.split(","))
            kept = dict.fromkeys(code for code in codes if code and code.lower() != "unknown")
            found = replace(found, labels=tuple(kept))
        elif colon and key.strip().lower() == "age":
            found = replace(found, age=years(value))
        elif colon and key.strip().lower() == "sex":
            found = replace(found, sex={"m": 0, "f": 1}.get(value[:1].lower(), -1))
    return found


def years(text: str) -> float | None:
    """An age; None for what is no number."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None
