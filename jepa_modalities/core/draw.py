"""Random numbers of one optimiser step, drawn for the global batch: the same on any split of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import RLock

import torch
from torch import Generator, Tensor

from jepa_modalities.core.masking import Masker, Masks

_GLOBAL = RLock()


def seeded(seed: int, stream: int, number: int) -> Generator:
    """A CPU generator that is a function of (seed, stream, number) alone; integers of any size."""
    # Hashed into 32 bits: torch's CPU generator ignores all higher bits of its seed.
    name = f"{seed},{stream},{number}".encode()
    digest = hashlib.blake2b(name, digest_size=4).digest()
    return Generator().manual_seed(int.from_bytes(digest, "little"))


@contextmanager
def fixed_random(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Torch's global generators seeded, for weights and dropout, and as they were afterwards.

    They are one for all threads, so threads wait for each other.

    Args:
        seed: of the block.
        device: whose generator is seeded beside the CPU's.
    """
    cuda = device is not None and device.type == "cuda"
    with _GLOBAL, torch.random.fork_rng(devices=[device] if cuda else []):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True)
class Draw:
    """The random numbers of rows start..stop-1 of one step's global batch.

    Every number is drawn for the whole batch and then cut, so one process with 64 rows and two with
    32 each see the same masks and crops.

    Attributes:
        batch_size: rows of the global batch.
        start: first row of this part.
        stop: row after the last of this part.
        generator: at the state that belongs to (seed, step).
        drawn: masks of the global batch, each as (masker, state before, masks, state after); the
            micro-batches of a step share this list.
    """

    batch_size: int
    start: int
    stop: int
    generator: Generator
    drawn: list[tuple[Masker, Tensor, Masks, Tensor]] = field(default_factory=list)

    @classmethod
    def of_step(cls, seed: int, step: int, batch_size: int, start: int, stop: int) -> Draw:
        """The draw that belongs to a step."""
        return cls(batch_size, start, stop, seeded(seed, 1, step))

    @classmethod
    def parts(
        cls, seed: int, step: int, batch_size: int, rows: Iterable[tuple[int, int]]
    ) -> Iterator[Draw]:
        """The draws of several parts (start, stop) of one step; its masks are made only once."""
        drawn: list[tuple[Masker, Tensor, Masks, Tensor]] = []
        for start, stop in rows:
            yield cls(batch_size, start, stop, seeded(seed, 1, step), drawn)

    @property
    def rows(self) -> int:
        """Rows of this part."""
        return self.stop - self.start

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform numbers, (rows, *shape)."""
        numbers = torch.rand(self.batch_size, *shape, generator=self.generator)
        return low + (high - low) * numbers[self.start : self.stop]

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, (rows, *shape)."""
        numbers = torch.randn(self.batch_size, *shape, generator=self.generator)
        return numbers[self.start : self.stop]

    def masks(self, masker: Masker) -> Masks:
        """This part's rows of the global batch's masks, so trimmed lengths are global too.

        A masker is a pure function of the generator's state, so what another part of the step has
        drawn from the same state is taken over.
        """
        before = self.generator.get_state()
        for known, state, whole, after in self.drawn:
            if known is masker and torch.equal(state, before):
                self.generator.set_state(after)
                return whole.rows(self.start, self.stop)
        whole = masker(self.batch_size, self.generator)
        self.drawn.append((masker, before, whole, self.generator.get_state()))
        return whole.rows(self.start, self.stop)


def order(seed: int, epoch: int, count: int) -> Tensor:
    """The order of the data in one epoch, long, (count,)."""
    return torch.randperm(count, generator=seeded(seed, 2, epoch))


@dataclass(frozen=True)
class Window:
    """Rows first..last-1 of an epoch's order."""

    first: int
    last: int
    rows: Tensor


@dataclass(frozen=True)
class Blocks:
    """How data that are not in memory are read.

    Attributes:
        sizes: rows of every block, long, (blocks,); blocks follow each other in the data.
        window: rows that are mixed at least, but those of four blocks in any case.
    """

    sizes: Tensor
    window: int

    @property
    def span(self) -> int:
        """Rows that are mixed, about."""
        return max(self.window, 4 * math.ceil(int(self.sizes.sum()) / len(self.sizes)))


class BlockOrder:
    """Orders of data that are read block by block: blocks shuffled, then rows inside of windows.

    A window is a few blocks that follow each other in the epoch's order of blocks. Row numbers of
    one window are held at a time, so memory does not grow with the data.

    Args:
        blocks: of the data.
        seed: of the run.

    Raises:
        ValueError: no block, or an empty one.
    """

    def __init__(self, blocks: Blocks, seed: int) -> None:
        if not len(blocks.sizes) or int(blocks.sizes.min()) < 1:
            raise ValueError("blocks: give at least one, each of at least one row")
        self.sizes, self.span, self.seed = blocks.sizes, blocks.span, seed
        self.starts = self.sizes.cumsum(0) - self.sizes
        self._blocks: tuple[int, Tensor, Tensor] | None = None

    def window(self, epoch: int, offset: int) -> Window:
        """The window in which row `offset` of an epoch lies."""
        if self._blocks is None or self._blocks[0] != epoch:
            blocks = order(self.seed, epoch, len(self.sizes))
            self._blocks = (epoch, blocks, self.sizes[blocks].cumsum(0))
        _, blocks, ends = self._blocks
        number = (ends - self.sizes[blocks]) // self.span
        mine = number == number[int(torch.searchsorted(ends, offset, right=True))]
        chosen, last = blocks[mine], int(ends[mine][-1])
        ranges = [
            torch.arange(start, start + size)
            for start, size in zip(
                self.starts[chosen].tolist(), self.sizes[chosen].tolist(), strict=True
            )
        ]
        rows = torch.cat(ranges)
        first = last - len(rows)
        mixed = torch.randperm(len(rows), generator=seeded(self.seed, 4, epoch * 2**40 + first))
        return Window(first, last, rows[mixed])


class Schedule:
    """Which rows belong to which step: a function of (seed, step), so resuming needs no state.

    Epochs follow each other without a gap: a batch may end one epoch and begin the next.

    Args:
        count: rows of the data.
        batch_size: rows of a global batch.
        seed: of the run.
        blocks: of data that are read block by block, see `BlockOrder`; None mixes all rows.

    Raises:
        ValueError: blocks that do not make up the data.
    """

    def __init__(
        self, count: int, batch_size: int, seed: int, blocks: Blocks | None = None
    ) -> None:
        if blocks is not None and int(blocks.sizes.sum()) != count:
            raise ValueError(f"blocks hold {int(blocks.sizes.sum())} rows, the data {count}")
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self._blocks = None if blocks is None else BlockOrder(blocks, seed)
        self._windows: dict[tuple[int, int], Window] = {}

    def _window(self, epoch: int, offset: int) -> Window:
        for (known, _), window in self._windows.items():
            if known == epoch and window.first <= offset < window.last:
                return window
        if self._blocks is None:
            window = Window(0, self.count, order(self.seed, epoch, self.count))
        else:
            window = self._blocks.window(epoch, offset)
        # The one before is kept too: a step may be asked for again where one follows another.
        self._windows = dict([*self._windows.items()][-1:])
        self._windows[epoch, window.first] = window
        return window

    def rows(self, step: int) -> Tensor:
        """Row numbers of step 1, 2, ...; long, (batch_size,)."""
        first = (step - 1) * self.batch_size
        parts = []
        while first < step * self.batch_size:
            epoch, offset = divmod(first, self.count)
            window = self._window(epoch, offset)
            take = min(window.last - offset, step * self.batch_size - first)
            begin = offset - window.first
            parts.append(window.rows[begin : begin + take])
            first += take
        return torch.cat(parts)
