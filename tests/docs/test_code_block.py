"""Every python block and every `jm` command of README and docs runs, on less of everything."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import jepa_modalities as jm
from jepa_modalities import api
from jepa_modalities.adapters.ecg.adapter import ECGAdapter
from jepa_modalities.adapters.image.adapter import ImageAdapter
from jepa_modalities.adapters.sar.adapter import SarAdapter
from jepa_modalities.adapters.tabular.adapter import TabularAdapter
from jepa_modalities.cli.main import main
from jepa_modalities.settings import changed

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(
    r"^(?P<skip><!-- not executed: [^\n]+ -->\n)?^```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
# What a block may call beside `jm`; the continuous-integration script runs these for real.
OTHER_COMMANDS = {"pip", "pytest", "ruff", "mypy", "mkdocs", "git", "cd", "python", "export"}
# The documented commands run with these added: the same code on less of everything.
SMALL: dict[str, Any] = {
    "data.limit": 60,
    "train.steps": 2,
    "train.batch_size": 8,
    "train.warmup_steps": 0,
    "train.workers": 0,
    "evaluate.untrained": 1,
    "evaluate.draws": 2,
    "evaluate.pooling": "mean",
    "evaluate.poolings": ("mean",),
    "evaluate.probes": ("knn",),
    "evaluate.shots": (),
    "target.centroids": 64,
}
# Modalities with other probes.
SMALL_OF: dict[str, dict[str, Any]] = {
    "ecg": {"data.records": 60, "evaluate.kernels": 84, "target.dim": 8},
    "sar": {"evaluate.probes": ("ridge",), "evaluate.svm": False, "evaluate.looks": ()},
}


def small(config: Any) -> dict[str, Any]:
    """The small settings that this kind of run has."""

    def has(part: Any, path: str) -> bool:
        first, _, rest = path.partition(".")
        return hasattr(part, first) and (not rest or has(getattr(part, first), rest))

    wanted = {**SMALL, **SMALL_OF.get(config.modality, {})}
    return {name: value for name, value in wanted.items() if has(config, name)}


@dataclass(frozen=True)
class Block:
    """One fenced code block.

    Attributes:
        page: its file.
        line: of the opening fence.
        language: of the fence.
        code: between the fences.
        executed: False after a comment `not executed: <reason>`.
    """

    page: Path
    line: int
    language: str
    code: str
    executed: bool


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text[: found.start("language")].count("\n") + 1,
            found["language"],
            found["code"],
            found["skip"] is None,
        )
        for found in _BLOCK.finditer(text)
    ]


def commands(code: str) -> Iterator[list[str]]:
    """The commands of a bash block, split at line ends and `&&`; comments left out."""
    for line in code.replace("\\\n", " ").splitlines():
        part: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word != "&&":
                part.append(word)
            elif part:
                yield part
                part = []


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as command-line flags."""
    found = []
    for name, value in settings.items():
        values = value if isinstance(value, tuple) else (value,)
        found += [f"--{name.replace('_', '-')}", *map(str, values)]
    return found


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a reader, with the data that the pages speak of."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for name in ("cats", "dogs"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (66 + number, 70, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.jpg")
    _make_chips(tmp_path, generator)
    for name, side in (("scans", 32), ("digits", 8)):
        pixels = generator.integers(0, 256, (24, side, side), dtype=np.uint8)
        np.save(tmp_path / f"{name}.npy", pixels)
        np.save(tmp_path / f"{name}_labels.npy", np.arange(24) % 2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JEPA_DATA", os.environ.get("JEPA_DATA", str(tmp_path)))
    return tmp_path


def _make_chips(folder: Path, generator: np.random.Generator) -> None:
    """SAR chips in class folders, and a tree of raw MSTAR files."""
    from jepa_modalities.data.sar import write_phoenix

    for split, count in (("train", 30), ("test", 4)):
        for name in ("tank", "truck"):
            place = folder / "chips" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(1, 256, (70 + number, 80), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    for name, serial in (("T72", "132"), ("BMP2", "9563")):
        place = folder / "release" / name
        place.mkdir(parents=True)
        for number in range(40):
            header = {"TargetSerNum": serial, "DesiredDepression": "17" if number < 30 else "15"}
            header |= {"TargetType": f"{name.lower()}_tank", "TargetAz": f"{9 * number}"}
            blocks = generator.rayleigh(0.05, (2, 72, 72))
            write_phoenix(place / f"HB{number:05d}.015", *blocks, header)


def run_command(words: list[str]) -> None:
    """`jm ...` in this process, `jm pretrain` with small settings; fails unless it ends well."""
    if words[0] != "jm":
        assert words[0] in OTHER_COMMANDS, f"{words[0]!r} is no command that the pages may use"
        return
    args = words[1:]
    asks = "--help" in args
    if args[0] == "pretrain" and "--resume" not in args and not asks:
        own = {word.lstrip("-").replace("-", "_") for word in args if word.startswith("--")}
        settings = small(api.recipe(args[1]))
        args += flags({name: value for name, value in settings.items() if name not in own})
    try:
        code = main(args)
    except SystemExit as end:  # the parsers end so after --help
        code = int(end.code or 0)
    assert code == 0, " ".join(words)


def small_pretrain(recipe: Any, *args: Any, **options: Any) -> api.Run:
    """`jm.pretrain` with small settings, whatever the block asks for."""
    config = api.recipe(recipe) if isinstance(recipe, str) else recipe
    for name in ("steps", "epochs", "batch_size"):
        options.pop(name, None)
    own = options.pop("settings", None) or {}
    settings = {name: value for name, value in small(config).items() if name not in own}
    settings["evaluate.probes"] = ("linear",)  # whose numbers the blocks print
    return api.pretrain(changed(config, {**own, **settings}), *args, quiet=True, **options)


def small_estimators(monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimators with two steps and narrow tokens, whatever the block asks for."""
    ecg, kernels = jm.ECGJEPA, {"target.centroids": 24, "target.dim": 4}

    def made_ecg(*args: Any, steps: int = 3000, **own: Any) -> Any:
        small = {"dim": 8, "heads": 1, "depth": 1, "batch_size": 8, "settings": kernels}
        return ecg(*args, steps=min(steps, 2), **{**own, **small})

    monkeypatch.setattr(jm, "ECGJEPA", made_ecg, raising=False)
    for name in ("TabularJEPA", "TabularJEPAClassifier", "TabularJEPARegressor"):
        kind = getattr(jm, name)

        def made(steps: int = 10_000, *, kind: Any = kind, **own: Any) -> Any:
            small = {"dim": 4, "heads": 1, "depth": 1, "batch_size": 8}
            return kind(min(steps, 2), **{**own, **small})

        monkeypatch.setattr(jm, name, made, raising=False)


def run_block(block: Block, names: dict[str, Any]) -> None:
    """One block; a traceback shows the page and the line."""
    if block.language == "bash":
        for words in commands(block.code):
            run_command(words)
    elif block.language == "python":
        source = "\n" * block.line + block.code
        exec(compile(source, str(block.page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run(page: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jm, "pretrain", small_pretrain, raising=False)
    small_estimators(monkeypatch)
    # Drawing costs more than such a small run; the report's own tests look at the pictures.
    for adapter in (ImageAdapter, ECGAdapter, SarAdapter, TabularAdapter):
        monkeypatch.setattr(adapter, "pictures", lambda self, encoders: {})
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if block.executed:
            run_block(block, names)


def test_only_known_languages() -> None:
    # Another spelling (`sh`, `py`) would escape the test above.
    known = {"python", "bash", "text", "json", "toml", "yaml", "bibtex"}
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for block in blocks(page):
            assert block.language in known, f"{page.name}, line {block.line}"


def test_most_blocks_are_executed() -> None:
    code = [b for page in PAGES for b in blocks(page) if b.language in ("python", "bash")]
    assert len(code) > 10
    assert sum(not b.executed for b in code) <= len(code) // 4


def test_a_failing_command_fails(data: Path) -> None:
    with pytest.raises(AssertionError):
        run_command(["jm", "embed", "no_such_run", "photos", "--out", "x.npy"])
    with pytest.raises(AssertionError):
        run_command(["rm", "photos"])
