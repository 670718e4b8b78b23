"""Random numbers of one optimiser step, drawn for the global batch: the same on any split of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from jepa_modalities.core.masking import Masker, Masks


def seeded(seed: int, stream: int, number: int) -> Generator:
    """A CPU generator that is a function of (seed, stream, number) alone; integers of any size."""
    # Hashed into 32 bits: torch's CPU generator ignores all higher bits of its seed.
    name = f"{seed},{stream},{number}".encode()
    digest = hashlib.blake2b(name, digest_size=4).digest()
    return Generator().manual_seed(int.from_bytes(digest, "little"))


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


class Schedule:
    """Which rows belong to which step: a function of (seed, step), so resuming needs no state.

    Epochs follow each other without a gap: a batch may end one epoch and begin the next.

    Args:
        count: rows of the data.
        batch_size: rows of a global batch.
        seed: of the run.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self._orders: dict[int, Tensor] = {}

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            self._orders = {e: o for e, o in self._orders.items() if e >= epoch - 1}
            self._orders[epoch] = order(self.seed, epoch, self.count)
        return self._orders[epoch]

    def rows(self, step: int) -> Tensor:
        """Row numbers of step 1, 2, ...; long, (batch_size,)."""
        first = (step - 1) * self.batch_size
        parts = []
        while first < step * self.batch_size:
            epoch, offset = divmod(first, self.count)
            take = min(self.count - offset, step * self.batch_size - first)
            parts.append(self._order(epoch)[offset : offset + take])
            first += take
        return torch.cat(parts)
