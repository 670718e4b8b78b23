"""The bar of `jm prepare`."""

from __future__ import annotations

import io

from rich.console import Console

from jepa_modalities.cli.progress import progress_bar


def test_one_bar_on_a_terminal() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    with progress_bar(False, console) as report:
        assert report is not None
        for done in (64, 128, 200):
            report("own.h5", done, 200)
    shown = screen.getvalue()
    assert "own.h5" in shown and "200/200" in shown


def test_nothing_where_nobody_looks() -> None:
    with progress_bar(False, Console(file=io.StringIO())) as report:
        assert report is None
    with progress_bar(True, Console(file=io.StringIO(), force_terminal=True)) as report:
        assert report is None
