"""Annotation files in MIT format: beats and rhythm changes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Codes of WFDB's ecgcodes.h: number -> symbol. 15 and 17 mean nothing.
SYMBOLS = {
    **dict(zip(range(1, 17), "NLRaVFJASEj/Q~ |", strict=True)),
    **dict(zip(range(18, 42), 'sT*D"=pB^t+u?![]en@xf()r', strict=True)),
}
del SYMBOLS[15]
SKIP, NUMBER, SUBTYPE, CHANNEL, AUX = 59, 60, 61, 62, 63
NO_BEAT = 0  # a place holder that only moves the time
# Symbols that stand for a beat; + is a change of rhythm, ~ of signal quality.
BEATS = frozenset("NLRBAaJSVrFejnE/fQ?")


@dataclass(frozen=True)
class AnnotationFile:
    """What an annotation file says.

    Attributes:
        sample: int64 (annotations,).
        symbol: such as N and V.
        aux: notes, such as (AFIB.
        fs: Hz in which samples are counted, where the file says so.
    """

    sample: NDArray[np.int64]
    symbol: tuple[str, ...]
    aux: tuple[str, ...]
    fs: float | None


def read_annotations(path: Path) -> AnnotationFile:
    """Read an annotation file (annot(5) of the WFDB manual).

    Args:
        path: such as 100.atr.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it ends in the middle of an annotation, has a code without a meaning, or says
            of itself what makes no sense.
    """
    symbols = dict(SYMBOLS)
    fs: float | None = None
    kept: list[tuple[int, str, str]] = []
    defining = False
    for sample, code, note in _words(path):
        about = code == 22 and sample == 0  # a comment on the file itself
        if about and note.startswith("## time resolution:"):
            fs = _rate(note, path)
        elif about and note.startswith("## annotation type definitions"):
            defining = True
        elif about and note.startswith("## end of definitions"):
            defining = False
        elif about and defining:  # `42 x what it means`
            number, symbol, *_ = (*note.split(maxsplit=2), "", "")
            if not (number.isdecimal() and len(number) < 3 and symbol):
                raise ValueError(
                    f"{path.name} defines {note!r}; expected `NUMBER SYMBOL DESCRIPTION`; copy it "
                    f"again"
                )
            symbols[int(number)] = symbol
        elif code != NO_BEAT:
            if code not in symbols:
                raise ValueError(
                    f"{path.name} has the code {code} at sample {sample}; it is not "
                    f"among WFDB's and not defined in the file"
                )
            if sample < 0:
                raise ValueError(
                    f"{path.name} has an annotation at sample {sample}, before the first; copy it "
                    f"again"
                )
            kept.append((sample, symbols[code], note))
    samples, names, notes = zip(*kept, strict=True) if kept else ((), (), ())
    return AnnotationFile(np.array(samples, np.int64), names, notes, fs)


def _rate(note: str, path: Path) -> float:
    """Hz, of `## time resolution: 360`."""
    try:
        found = float(note.partition(":")[2])
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise ValueError(f"{path.name} says {note!r}; expected a rate in Hz; copy it again")
    return found


def _words(path: Path) -> Iterator[tuple[int, int, str]]:
    """Sample, code and note of every annotation."""
    content = path.read_bytes()
    at = now = 0
    waiting: tuple[int, int, str] | None = None
    while at + 2 <= len(content):
        word = content[at] | content[at + 1] << 8
        code, interval = word >> 10, word & 0x3FF
        at += 2
        if word == 0:  # the end; what follows is padding
            if waiting is not None:
                yield waiting
            return
        if code == SKIP:  # a long interval, high half first, each half little-endian
            high, low = content[at : at + 2], content[at + 2 : at + 4]
            if len(low) < 2:
                break
            now += int.from_bytes(low + high, "little", signed=True)
            at += 4
        elif code == AUX:  # belongs to the annotation before it
            text = content[at : at + interval]
            if len(text) < interval or waiting is None:
                break
            waiting = (*waiting[:2], text.rstrip(b"\0").decode("latin-1"))
            at += interval + interval % 2
        elif code not in (NUMBER, SUBTYPE, CHANNEL):
            if waiting is not None:
                yield waiting
            now += interval
            waiting = (now, code, "")
    raise ValueError(f"{path.name} ends in the middle of an annotation; copy it again")
