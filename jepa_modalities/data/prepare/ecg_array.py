"""Arrays and tables in memory or in files -> HDF5."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from jepa_modalities.data.container import open_container
from jepa_modalities.data.ecg.lead import UNITS, unit_name
from jepa_modalities.data.ecg.quantise import quantised
from jepa_modalities.data.ecg.wfdb import Recording, sample_notes, unique_leads
from jepa_modalities.data.prepare.ecg import (
    Item,
    OnError,
    Read,
    Source,
    prepare_recordings,
)
from jepa_modalities.data.prepare.part import Prepared, Progress
from jepa_modalities.data.refusal import refusing

TABLES = (".csv", ".parquet")
INVALID_INT16 = -32768


@dataclass(frozen=True)
class _Meaning:
    """What numbers mean; `leads` is None where the columns of tables name them."""

    leads: tuple[str, ...] | None
    fs: float
    unit: str
    gain: float


def prepare_arrays(
    source: Any,
    out: str | Path,
    on_error: OnError = "skip",
    workers: int = 1,
    resume: bool = True,
    *,
    fs: float | None = None,
    leads: str | Sequence[str] | None = None,
    unit: str = "mV",
    gain: float = 1.0,
    key: str | None = None,
    name: str | None = None,
    compress: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Pack arrays or tables of recordings into HDF5.

    Real numbers become 16-bit integers with a gain per lead (`data.ecg.quantise`); integers are
    kept as they are.

    Args:
        source: one of
            a .npy file or an array, (records, samples, leads) or (records, leads, samples);
            a .h5 file with such a dataset;
            a folder of .npy (samples, leads), .csv or .parquet files, one per recording;
            a list of data frames, or a dict of them by name: one column per lead.
        out: path of the .h5 file.
        on_error: see `prepare_recordings`.
        workers: processes; what is in memory already is not sent to others.
        resume: see `prepare_recordings`.
        fs: sampling rate, Hz; arrays do not know it.
        leads: names in order, also as one text with commas; not needed for tables, whose columns
            are chosen with it.
        unit: of the values.
        gain: of integer arrays, integers per unit.
        key: name of the dataset in a .h5 file, where it holds several.
        name: of the source; that of the file or folder if not given.
        compress: see `prepare_recordings`.
        progress: see `prepare_recordings`.

    Raises:
        ValueError: no rate, an unknown unit, or leads that do not fit the arrays.
        FileNotFoundError: no such file or folder.
    """
    if fs is None or not 0 < fs < float("inf"):
        raise ValueError(f"fs = {fs}; arrays do not know their sampling rate: give it in Hz (--fs)")
    if not gain > 0:
        raise ValueError(f"gain = {gain}; expected integers per unit, above 0")
    names = [text.strip() for text in leads.split(",")] if isinstance(leads, str) else leads
    if names is not None and not all(names):
        raise ValueError(f"leads = {', '.join(names)!r}: one of the names is empty")
    if unit_name(unit) not in UNITS:
        raise ValueError(f"unit = {unit!r} is not one of {', '.join(UNITS)}")
    known = None if names is None else unique_leads(list(names), "leads")
    meaning = _Meaning(known, float(fs), unit_name(unit), float(gain))
    settings: dict[str, Any] = {
        "leads": None if known is None else list(known),
        "fs": meaning.fs,
        "unit": meaning.unit,
        "gain": meaning.gain,
        "key": key,
    }
    if isinstance(source, str | Path):
        items, reader = _in_files(Path(source), meaning, key, name)
    else:
        items, reader, digest = _in_memory(source, meaning, name)
        settings["sha256"], workers = digest, 1
    given = Source("arrays", items, reader, settings=settings)
    return prepare_recordings(
        given, out, on_error, workers, resume, compress=compress, progress=progress
    )


def _in_files(
    path: Path, meaning: _Meaning, key: str | None, name: str | None
) -> tuple[list[Item], partial[Read]]:
    title = name or path.resolve().stem
    if path.is_dir():
        known = (".npy", *TABLES)
        files = sorted(file for file in path.rglob("*") if file.suffix in known)
        if not files:
            raise ValueError(f"{path} holds no {', '.join(known)} files, one per recording")
        items = [
            Item(file.relative_to(path).with_suffix("").as_posix(), (file,), title)
            for file in files
        ]
        return items, partial(_read_file, meaning=meaning)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is neither a file nor a folder")
    if path.suffix == ".npy":
        with refusing(path, "a .npy array of numbers", "save numbers with numpy.save"):
            shape = np.load(path, "r").shape
    elif path.suffix in (".h5", ".hdf5"):
        key = key or _only_dataset(path)
        with open_container(path) as container:
            shape = container.dataset(key, axes=(3,)).shape
    else:
        raise ValueError(f"{path}: expected .npy, .h5, or a folder of .npy, .csv or .parquet files")
    axis = _lead_axis(shape, meaning, path.name)
    items = [Item(f"{title}-{row:06d}", (path,), title, row) for row in range(shape[0])]
    return items, partial(_read_row, meaning=meaning, axis=axis, key=key)


def _in_memory(
    source: Any, meaning: _Meaning, name: str | None
) -> tuple[list[Item], partial[Read], str]:
    title = name or "arrays"
    if isinstance(source, np.ndarray):
        axis = _lead_axis(source.shape, meaning, "the array")
        tables: dict[str, Any] = {
            f"{title}-{row:06d}": values.T if axis == 1 else values
            for row, values in enumerate(source)
        }
    elif isinstance(source, Mapping):
        tables = {str(label): table for label, table in source.items()}
    else:
        tables = {f"{title}-{row:06d}": table for row, table in enumerate(source)}
    digest = hashlib.sha256()
    for label, table in tables.items():
        values, columns = _values(table, meaning)
        digest.update(json.dumps([label, columns, values.shape, str(values.dtype)]).encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    items = [Item(label, (), title) for label in tables]
    return items, partial(_read_memory, tables=tables, meaning=meaning), digest.hexdigest()


def _only_dataset(path: Path) -> str:
    found: list[str] = []
    with refusing(path, "an HDF5 file"), h5py.File(path) as file:
        file.visititems(
            lambda label, item: (
                found.append(label) if isinstance(item, h5py.Dataset) and item.ndim == 3 else None
            )
        )
    if len(found) != 1:
        raise ValueError(
            f"{path} holds {len(found)} datasets of 3 axes ({', '.join(found) or 'none'}); name "
            f"the one to use with key (--key)"
        )
    return found[0]


def _lead_axis(shape: tuple[int, ...], meaning: _Meaning, what: str) -> int:
    """Which axis counts leads: 1 or 2."""
    if meaning.leads is None:
        raise ValueError(f"{what} does not name its leads; give them in order (--leads I,II,V1)")
    fits = [axis for axis in (1, 2) if len(shape) == 3 and shape[axis] == len(meaning.leads)]
    if len(fits) != 1:
        raise ValueError(
            f"{what} has shape {shape}, expected (records, samples, {len(meaning.leads)}) or "
            f"(records, {len(meaning.leads)}, samples) for {len(meaning.leads)} leads"
        )
    return fits[0]


def _read_row(item: Item, meaning: _Meaning, axis: int, key: str | None) -> Read:
    file = item.files[0]
    if key is None:
        values = np.array(np.load(file, "r")[item.row])
    else:
        with h5py.File(file) as opened:
            values = opened[key][item.row]
    return _recording(values.T if axis == 1 else values, meaning)


def _read_file(item: Item, meaning: _Meaning) -> Read:
    file = item.files[0]
    if file.suffix == ".npy":
        return _recording(np.load(file), meaning)
    import pandas

    table = pandas.read_csv(file) if file.suffix == ".csv" else pandas.read_parquet(file)
    return _recording(table, meaning)


def _read_memory(item: Item, tables: Mapping[str, Any], meaning: _Meaning) -> Read:
    return _recording(tables[item.record_id], meaning)


def _values(table: Any, meaning: _Meaning) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Numbers (samples, leads) and names of an array or data frame."""
    if not hasattr(table, "columns"):
        values = np.asarray(table)
        wanted = meaning.leads
        if wanted is None or values.ndim != 2 or values.shape[1] != len(wanted):
            raise ValueError(
                f"an array of shape {values.shape}, expected (samples, leads) with as many lead "
                f"names (--leads); {len(wanted or ())} were given"
            )
        return values, wanted
    columns = [str(column) for column in table.columns]
    named = unique_leads(columns, "the table")
    if meaning.leads is None:
        return table.to_numpy(), named
    if lacking := [lead for lead in meaning.leads if lead not in named]:
        raise ValueError(f"the table has the columns {', '.join(columns)}, but no {lacking[0]}")
    chosen = [named.index(lead) for lead in meaning.leads]
    return table.iloc[:, chosen].to_numpy(), meaning.leads


def _recording(table: Any, meaning: _Meaning) -> Read:
    values, leads = _values(table, meaning)
    if values.dtype.kind not in "fiu":
        raise ValueError(
            f"its values are {values.dtype}, expected numbers; name the leads' columns"
        )
    gains: tuple[float, ...]
    if values.dtype.kind == "f":
        signal, gains = quantised(values)
    else:
        if values.size and (values.min() < INVALID_INT16 or values.max() > 32767):
            raise ValueError(
                f"its integers go from {values.min()} to {values.max()}, more than 16 bits; give "
                f"real numbers in {meaning.unit}"
            )
        signal, gains = values.astype(np.int16), (meaning.gain,) * len(leads)
    width = len(leads)
    digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    notes = list(sample_notes(signal, leads))
    if values.dtype.kind == "f" and np.isinf(values).any():
        notes.append("infinite samples are stored as missing")
    return Read(
        Recording(
            np.ascontiguousarray(signal),
            meaning.fs,
            leads,
            gains,
            (0,) * width,
            (meaning.unit,) * width,
            sha256=digest,
            notes=tuple(notes),
        )
    )
