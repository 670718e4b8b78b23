"""Batches that are read while the device works on another one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Result], ahead: int
) -> Iterator[Result]:
    """`read(item)` of all items, in their order, up to `ahead` of them early in a thread.

    An error of `read` comes up where its result would have.
    """
    with ThreadPoolExecutor(1) as reader:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(reader.submit(read, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
