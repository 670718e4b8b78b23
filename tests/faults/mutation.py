"""Hostile copies of valid files, and the one rule for what a reader may do with them.

A reader answers with a value or with one of our errors that names the file. It never hangs, never
takes memory that the file does not hold, and never lets an error of a library through.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import struct
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jepa_modalities.train.checkpoint import CheckpointError

COUNT = int(os.environ.get("JEPA_FAULTS", "200"))
TALLIES = os.environ.get("JEPA_FAULTS_LOG")  # a file; every attack adds a line to it
SECONDS = 20.0  # for one input of a few kilobytes
MEMORY = 1 << 30  # bytes that a test may take beyond what it has
OURS = (ValueError, FileNotFoundError, CheckpointError)

Damage = Callable[[bytes, random.Random], bytes]
NUMBERS = [b"0", b"-1", b"1", b"7", b"nan", b"inf", b"-inf", b"1e999", b"1e-320", b"", b"0x10"]
NUMBERS += [b"9" * 20, b"9" * 400, b"1000000000000", b"2147483648", b"-32769", b"65536", b"0.5"]
NUMBERS += ["٣".encode(), b"1_0", b"+5", b"../x", b"/etc/passwd", b"\0"]
WHOLE = [0, 1, -1, 255, 1 << 15, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1]
REAL = [float("nan"), float("inf"), -float("inf"), -1.0, 1e300, 1e-310]
VALUES = [None, True, 0, -1, 3, 10**6, 10**12, 10**30, 0.5, -0.5, float("nan"), float("inf")]
VALUES += ["", "x", "../../etc/passwd", [], [1], [0, 0, 0], ["x"], {}, {"x": 1}]


def truncated(content: bytes, draw: random.Random) -> bytes:
    """The first part."""
    return content[: draw.randrange(len(content) + 1)]


def flipped(content: bytes, draw: random.Random) -> bytes:
    """One to four bytes with one bit of each changed."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4) if content else 0):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def overwritten(content: bytes, draw: random.Random) -> bytes:
    """A binary number replaced by a huge, negative or undefined one."""
    kind = draw.choice("bhiqfd")
    number: Any = draw.choice(REAL if kind in "fd" else WHOLE)
    if kind == "f":
        number = number if abs(number) < 1e38 or not abs(number) < 1e301 else 3e38
    elif kind != "d":
        half = 1 << 8 * struct.calcsize(kind) - 1
        number = (number + half) % (2 * half) - half
    word = struct.pack(draw.choice("<>") + kind, number)
    at = draw.randrange(max(len(content) - len(word), 0) + 1)
    return content[:at] + word + content[at + len(word) :]


def cut(content: bytes, draw: random.Random) -> bytes:
    """A stretch left out, doubled or zeroed."""
    low, high = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    high = min(high, low + 64)
    middle = draw.choice([b"", 2 * content[low:high], bytes(high - low)])
    return content[:low] + middle + content[high:]


def renumbered(content: bytes, draw: random.Random) -> bytes:
    """A number in text replaced."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", content[: 1 << 16]))
    if not found:
        return flipped(content, draw)
    place = draw.choice(found)
    return content[: place.start()] + draw.choice(NUMBERS) + content[place.end() :]


def refielded(content: bytes, draw: random.Random) -> bytes:
    """A field or line left out, doubled or moved."""
    mark = draw.choice([b" ", b",", b"\n", b"\n", b"=", b"/", b'"'])
    fields = content.split(mark)
    place, other = draw.randrange(len(fields)), draw.randrange(len(fields))
    kind = draw.randrange(3)
    if kind == 0:
        del fields[place]
    elif kind == 1:
        fields.insert(place, fields[place])
    else:
        fields[place], fields[other] = fields[other], fields[place]
    return mark.join(fields)


def recoded(content: bytes, draw: random.Random) -> bytes:
    """Text in another encoding, or with line ends and marks of another system."""
    text = content.decode("latin-1")
    kind = draw.randrange(5)
    if kind == 0:
        return text.encode(draw.choice(["utf-16", "utf-8-sig", "utf-32"]))
    if kind == 1:
        return content.replace(b"\n", draw.choice([b"\r\n", b"\r", b"\n\n", b"\0", b"\x85"]))
    at = draw.randrange(len(content) + 1)
    odd = draw.choice([b"\0", b"\xff", b"\xed\xa0\x80", "é".encode(), b'"', b"\x1b[31m", b"{"])
    return content[:at] + odd + content[at:]


BINARY: Sequence[Damage] = (truncated, flipped, overwritten, cut)
TEXT: Sequence[Damage] = (
    renumbered,
    renumbered,
    renumbered,
    refielded,
    recoded,
    truncated,
    flipped,
)


def mixed(*kinds: Damage) -> Damage:
    """One to three kinds of damage, mostly one."""

    def damage(content: bytes, draw: random.Random) -> bytes:
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            content = draw.choice(kinds)(content, draw)
        return content

    return damage


binary, text, both = mixed(*BINARY), mixed(*TEXT), mixed(*BINARY, *TEXT)


def json_damage(content: bytes, draw: random.Random) -> bytes:
    """A value of a JSON object replaced, left out, renamed or put in; sometimes damaged text."""
    if draw.random() < 0.2:
        return text(content, draw)
    tree = json.loads(content)
    nodes = list(_nodes(tree))
    node, key = draw.choice(nodes)
    kind = draw.randrange(5)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[draw.choice(["x", "", "__class__"])] = node.pop(key)
    else:
        node[key] = draw.choice(VALUES)
    return json.dumps(tree).encode()


def _nodes(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with every key or index in it."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _nodes(tree[key])


class Hang(BaseException):
    """An input that takes too long; no reader catches it."""


@contextmanager
def bounded() -> Iterator[None]:
    """No more than `MEMORY` bytes beyond what the process has now."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def timed() -> Iterator[None]:
    """No more than `SECONDS`."""

    def stop(number: int, frame: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def answer(read: Callable[[], object], names: Sequence[str]) -> tuple[str, str]:
    """How a reader takes a damaged file.

    Args:
        read: reads it, and checks what it got with `assert`.
        names: one of which a refusal must mention.

    Returns:
        "value", "refused", or where the rule was broken; and the message.
    """
    try:
        with timed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
        return "value", ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        told = f"{type(error).__name__}: {error}"
        if type(error) in OURS and any(name in told for name in names):
            return "refused", told
        frames = traceback.extract_tb(error.__traceback__)[1:]
        where = [f"{Path(frame.filename).name}:{frame.name}" for frame in frames[-4:]]
        return f"{type(error).__name__} in {' > '.join(where)}", told[:300]


def attack(
    read: Callable[[], object],
    files: Mapping[Path, Damage],
    names: Sequence[str] = (),
    count: int = COUNT,
) -> Counter[str]:
    """Damage files in turn, and hold the reader to the rule; the files are put back.

    Args:
        read: see `answer`; it must take the files as they are.
        files: what is damaged, and how.
        names: that a refusal may mention; those of the files if not given.
        count: damaged inputs.

    Returns:
        How many gave a `value`, and how many were `refused`.

    Raises:
        AssertionError: with every distinct breach of the rule, and the input's number.
    """
    intact = {path: path.read_bytes() for path in files}
    known = names or [path.name for path in files]
    read()
    tally: Counter[str] = Counter()
    breaches: dict[str, tuple[int, str]] = {}
    with bounded():
        for number in range(count):
            draw = random.Random(number)
            path = draw.choice(list(files))
            path.write_bytes(files[path](intact[path], draw))
            outcome, told = answer(read, known)
            tally[outcome] += 1
            if outcome not in ("value", "refused"):
                breaches.setdefault(outcome, (number, told))
            path.write_bytes(intact[path])
    if TALLIES is not None:
        test = os.environ["PYTEST_CURRENT_TEST"].removesuffix(" (call)")
        with Path(TALLIES).open("a") as log:
            log.write(json.dumps({"test": test, "files": list(map(str, known)), **tally}) + "\n")
    shown = [f"{tally[k]} x {k}; input {n}: {told}" for k, (n, told) in breaches.items()]
    assert not breaches, "\n".join([f"{dict(tally)}", *shown])
    return tally
