"""The documentation builds without a warning (where the extra `docs` is installed)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_site_builds(tmp_path: Path) -> None:
    for name in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(name)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir"]
    done = subprocess.run([*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "modality" / "index.html").read_text()
    assert "WaveAdapter" in page and "--8" not in page  # the file itself, not its name
    assert "check_adapter" in (tmp_path / "api" / "index.html").read_text()


def test_readme_begins_with_the_two_commands() -> None:
    first, second = "pip install . && jm pretrain image_digits", 'pip install ".[dev]" && pytest'
    lines = (ROOT / "README.md").read_text().splitlines()
    assert {first, second} <= set(lines[:15])
    script = (ROOT / ".ci" / "run").read_text()
    for part in ('".[dev]"', "jm pretrain image_digits", "pytest"):
        assert part in script


def test_the_result_block_can_be_found() -> None:
    text = (ROOT / "README.md").read_text()
    assert text.count("<!-- results:begin -->") == text.count("<!-- results:end -->") == 1
    assert text.index("<!-- results:begin -->") < text.index("<!-- results:end -->")


def test_pictures_are_there_and_small() -> None:
    for path in (ROOT / "docs" / "images").iterdir():
        assert path.stat().st_size < 300_000, path.name
    assert (ROOT / "docs" / "images" / "report.png").is_file()
