"""Which chips a folder, an archive or a single file holds, before any is decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jepa_modalities.data.archive import open_archive
from jepa_modalities.data.folder import SPLITS, walk
from jepa_modalities.data.sar.index import SHOWN, Entry, beside, read_index

PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".pgm")
LARGEST = 1 << 28  # bytes of one chip in an archive; full scenes are no chips
Read = Callable[[str], bytes]


@dataclass(frozen=True)
class Listing:
    """The chips of one source.

    Attributes:
        path: folder, archive or file.
        entries: what is to be read, in order.
        classes: names in the order of their numbers; empty where neither index nor folders tell.
        named_by: "index", "folder" or "": where the classes come from.
        others: names of the other splits' chips.
    """

    path: Path
    entries: tuple[Entry, ...]
    classes: tuple[str, ...]
    named_by: str
    others: tuple[str, ...]


def list_chips(
    path: Path, split: str | None, index: Path | None, where: Mapping[str, str]
) -> Listing:
    """The chips of a folder, a .zip or a single file; see `read_chips` for the arguments.

    Raises:
        FileNotFoundError: no such index.
        ValueError: no chips, a damaged archive, or an index that does not fit.
    """
    files = _files(path)
    place = index or beside(path)
    if place is None:
        if where:
            raise ValueError(
                f"{path} has no index whose columns {', '.join(where)} could be asked for; name it "
                f"with index, or leave the selectors out"
            )
        entries, classes = _by_folder([name for name in files if is_chip(name)], path)
        named_by = "folder" if classes else ""
    else:
        entries, classes = read_index(place, where)
        named_by = "index" if classes else ""
        missing = sorted({entry.name for entry in entries} - set(files))
        if missing:
            raise ValueError(
                f"{place} names {len(missing):,} of {len(entries):,} files that are not in {path}, "
                f"such as {', '.join(missing[:SHOWN])}; give the index of these data"
            )
    if not entries:
        raise ValueError(_nothing(path, files))
    chosen = _of_split(entries, split, place or path)
    names = {entry.name for entry in chosen}
    others = tuple(entry.name for entry in entries if entry.name not in names)
    return Listing(path, chosen, classes, named_by, others)


def is_chip(name: str) -> bool:
    """Whether a file is one by its suffix: pictures, and .000 to .999 of MSTAR."""
    suffix = PurePosixPath(name).suffix.lower()
    hidden = any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)
    return not hidden and (suffix in PICTURES or (len(suffix) == 4 and suffix[1:].isdigit()))


def splits_of(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Names of the splits, in order of appearance."""
    return tuple(dict.fromkeys(entry.split for entry in entries if entry.split))


@contextmanager
def opened(path: Path) -> Iterator[Read]:
    """A function from an entry's name to its bytes, safe to call from threads."""
    if path.is_dir():
        yield lambda name: (path / name).read_bytes()
    elif path.suffix.lower() == ".zip":
        with open_archive(path) as archive:
            yield lambda name: archive.read(name, LARGEST)
    else:
        yield lambda name: path.read_bytes()


def _files(path: Path) -> list[str]:
    """Names of all files, sorted."""
    if path.is_dir():
        return sorted(
            Path(here, name).relative_to(path).as_posix()
            for here, names in walk(path)
            for name in names
        )
    if path.suffix.lower() == ".zip":
        with open_archive(path) as archive:
            return archive.names()
    return [path.name]


def _by_folder(names: Sequence[str], path: Path) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """Splits and classes from the folders' names; no classes where chips lie in no folder."""
    parts = {name: PurePosixPath(name).parts for name in names}
    tops = {found[0] for found in parts.values() if len(found) > 1}
    known = {SPLITS[top.lower()] for top in tops if top.lower() in SPLITS}
    named = sum(top.lower() in SPLITS for top in tops)
    nested = bool(names) and all(len(found) > 1 for found in parts.values())
    has_splits = (
        nested and bool(known) and (named == len(tops) or ("train" in known and len(known) > 1))
    )
    entries = []
    for name, found in parts.items():
        split = SPLITS.get(found[0].lower(), found[0]) if has_splits else ""
        below = found[1:] if has_splits else found
        entries.append(Entry(name, below[0] if len(below) > 1 else None, split))
    classes = sorted({entry.label for entry in entries if entry.label is not None})
    loose = [entry.name for entry in entries if entry.label is None]
    if classes and loose:
        raise ValueError(
            f"{path} holds both class folders ({', '.join(classes[:3])}, ...) and {len(loose):,} "
            f"loose chips (such as {loose[0]}); move the loose ones into a class folder or away, "
            f"or give an index"
        )
    return tuple(entries), tuple(classes)


def _of_split(entries: tuple[Entry, ...], split: str | None, path: Path) -> tuple[Entry, ...]:
    found = splits_of(entries)
    if split == "all" or (split is None and "train" not in found):
        return entries
    if not found and split == "train":
        return entries
    wanted = "train" if split is None else split
    if wanted not in found:
        raise ValueError(
            f"{path} has no split {wanted!r}; it has {', '.join(found) or 'none'}; give one of "
            f"them, or 'all'"
        )
    return tuple(entry for entry in entries if entry.split == wanted)


def _nothing(path: Path, files: Sequence[str]) -> str:
    kinds = Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in files)
    found = ", ".join(f"{count:,} x {kind}" for kind, count in kinds.most_common(5))
    return (
        f"{path} holds no chips ({f'found {found}' if found else 'it is empty'}); give a folder or "
        f".zip with files such as .jpg, .png, .tif or MSTAR's .000 to .999"
    )
