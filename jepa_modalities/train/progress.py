"""What people see while a run goes on: a rich bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Display:
    """Shows rate, time left, loss, RankMe and the latest probe.

    Args:
        total: steps of the run.
        done: steps done before (a resumed run).
        console: where to; None shows nothing.
    """

    def __init__(self, total: int, done: int, console: Console | None) -> None:
        self.total, self.console = total, console
        self._facts: dict[str, str] = {}
        self._bar: Progress | None = None
        if console is not None and console.is_terminal:
            self._bar = Progress(
                TextColumn("pretrain"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
                console=console,
            )
            self._task = self._bar.add_task("", total=total, completed=done)

    def __enter__(self) -> Display:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, step: int) -> None:
        """One more step is done; nothing is read from the device."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def record(self, record: dict[str, Any]) -> None:
        """Show the numbers of a log record."""
        formats = {
            "loss": "loss {:.4f}",
            "samples_per_second": "{:,.0f} samples/s",
            "mfu": "MFU {:.0%}",
            "collapse/rankme": "RankMe {:.0f}",
            "probe/knn": "kNN {:.1%}",
        }
        for name, form in formats.items():
            if name in record:
                self._facts[name] = form.format(record[name])
        line = ", ".join(self._facts.values())
        if self._bar is not None:
            self._bar.update(self._task, description=line)
        elif self.console is not None and "verdict" in record:
            self.console.print(
                f"step {record['step']}/{self.total}: {line}; {record['verdict']}", soft_wrap=True
            )
