"""Building blocks of the self-contained HTML pages: theme, elements, pictures, atomic saving."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# name -> (light, dark). Charts are drawn in the light colours, which then become CSS variables,
# so the same SVG follows the reader's theme. "paper" is off pure white so that a literal white in
# a picture stays white.
THEME: dict[str, tuple[str, str]] = {
    "ink": ("#1b1f24", "#e7eaee"),
    "muted": ("#59626e", "#9da7b3"),
    "line": ("#d8dde3", "#353c45"),
    "paper": ("#fefefe", "#181c21"),
    "wash": ("#f3f5f7", "#101317"),
    "accent": ("#e8f1fb", "#17304a"),
    "good": ("#0b7a4f", "#4fd39a"),
    "even": ("#5c6672", "#a3adb9"),
    "bad": ("#b42318", "#ff8f85"),
    "series-1": ("#0b66c3", "#62b0ff"),
    "series-2": ("#cf480c", "#ff9a66"),
    "series-3": ("#0a8464", "#3fd0a4"),
    "series-4": ("#a3418f", "#e79ad6"),
    "series-5": ("#8a6a01", "#e3bf47"),
    "series-6": ("#4a5561", "#aab4bf"),
    "series-7": ("#0b869b", "#55d3e6"),
    "series-8": ("#b3263e", "#ff8a9b"),
}

# Nothing outside the page may be asked for and no script may run, whatever a run's strings say.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Picture:
    """One picture of a report.

    Attributes:
        title: a short heading.
        caption: one or two sentences that say what to look for.
        image: a matplotlib figure (kept as SVG) or the bytes of a PNG file.
    """

    title: str
    caption: str
    image: Figure | bytes


def colour(name: str) -> str:
    """The light hex value of a theme colour; charts use it and it follows the theme on the page."""
    return THEME[name][0]


def text(value: object) -> str:
    """Any value as escaped text, safe in elements and in quoted attributes."""
    return escape(str(value), quote=True)


def section(title: str, *parts: str) -> str:
    """A titled section, or nothing when all parts are empty."""
    body = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{text(title)}</h2>\n{body}\n</section>" if body else ""


def details(title: str, *parts: str, opened: bool = False) -> str:
    """A block that the reader folds out, or nothing when all parts are empty."""
    body = "\n".join(part for part in parts if part)
    mark = " open" if opened else ""
    summary = f"<summary>{text(title)}</summary>"
    return f"<details{mark}>{summary}\n<div class='fold'>\n{body}\n</div></details>" if body else ""


def paragraph(value: object, kind: str = "") -> str:
    """An escaped paragraph with an optional CSS class, or nothing when it is empty."""
    mark = f" class='{kind}'" if kind else ""
    return f"<p{mark}>{text(value)}</p>" if value else ""


def table(head: Iterable[str], rows: Iterable[str], label: str) -> str:
    """A table in a box that scrolls on its own; `head` and `rows` are finished HTML."""
    return (
        f"<div class='scroll' role='region' tabindex='0' aria-label='{text(label)}'>\n<table>\n"
        f"<thead><tr>{''.join(head)}</tr></thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody>\n"
        "</table>\n</div>"
    )


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Coloured keys of a chart from (label, theme colour name)."""
    keys = "".join(
        f"<span class='key'><i style='background:var(--{name})'></i>{text(label)}</span>"
        for label, name in entries
    )
    return f"<span class='legend'>{keys}</span>" if keys else ""


def png(data: bytes, description: str) -> str:
    """A PNG as an inline image.

    Raises:
        ValueError: the bytes are not a PNG file.
    """
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError(
            f"picture {description!r}: expected the bytes of a PNG file or a matplotlib figure, "
            f"found {len(data)} bytes that start with {data[:8]!r}; save it with format='png'"
        )
    code = base64.b64encode(data).decode("ascii")
    return f"<img alt='{text(description)}' src='data:image/png;base64,{code}'>"


def document(title: str, *parts: str) -> str:
    """The whole page: inline style, light and dark, no script, no request."""
    themes = [
        "".join(f"--{name}:{pair[number]};" for name, pair in THEME.items()) for number in (0, 1)
    ]
    style = (
        f":root{{{themes[0]}}}\n@media(prefers-color-scheme:dark){{:root{{{themes[1]}}}}}\n"
        + files("jepa_modalities.eval").joinpath("page.css").read_text(encoding="utf-8")
    )
    body = "\n".join(part for part in parts if part)
    return (
        "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        f"<meta http-equiv='Content-Security-Policy' content=\"{POLICY}\">\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        "<meta name='color-scheme' content='light dark'>\n"
        f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def save(page: str, path: Path) -> Path:
    """Write a page so that a reader sees the old file or the new one, never half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", errors="replace") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
