"""One progress bar for preparing data; nothing but the summary where there is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

Report = Callable[[str, int, int], None]


@contextmanager
def progress_bar(quiet: bool, console: Console | None = None) -> Iterator[Report | None]:
    """A function that is told (name, done, all), and draws; None where nothing is to be drawn.

    Args:
        quiet: draw nothing.
        console: where to draw; the standard error if not given.
    """
    console = console or Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, TaskID] = {}

        def report(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total, rate="")
            task = progress.tasks[progress.task_ids.index(tasks[name])]
            rate = "" if not task.speed else f"{task.speed:,.0f}/s"
            progress.update(tasks[name], completed=done, rate=rate)

        yield report
