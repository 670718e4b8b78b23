"""The house keeps its shape: import arrows, cheap import, sizes and names of files."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jepa_modalities"
FILES = sorted(PACKAGE.rglob("*.py"))
RECIPES = sorted((ROOT / "recipes").rglob("*.py"))

# Room -> the rooms of ours that its files may import. The package's own name stands for
# `jepa_modalities/__init__.py`, which names what `api` holds.
ARROWS: dict[str, set[str]] = {
    "core": {"core"},
    "config": set(),
    "settings": set(),
    "data": {"data"},
    "eval": {"core", "eval"},
    "adapters": {"core", "data", "eval", "config", "adapters"},
    "export": {"core", "eval", "adapters", "config", "settings", "export"},
    "train": {"core", "eval", "adapters", "export", "config", "train"},
    "testing": {"core", "adapters", "config"},
    "estimator": {
        "core",
        "data",
        "eval",
        "adapters",
        "export",
        "train",
        "config",
        "settings",
        "api",
        "estimator",
    },
    "jepa_modalities": {"api", "estimator"},
}
FREE = {"api", "cli"}  # may import everything, recipes too
HEAVY = {"torchvision", "timm", "pandas", "wfdb"}  # only on use, inside functions


def room(path: Path) -> str:
    """Folder or module of the package that a file belongs to."""
    first = path.relative_to(PACKAGE).parts[0]
    return "jepa_modalities" if first == "__init__.py" else first.removesuffix(".py")


def imported(node: ast.AST, package: str = "") -> list[str]:
    """Dotted names of one import statement; relative ones are completed from `package`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parents = package.split(".")
            parents = parents[: len(parents) - node.level + 1]
            base = ".".join([*parents, *([base] if base else [])])
        return [f"{base}.{alias.name}" for alias in node.names]
    return []


def all_imports(tree: ast.AST, package: str = "") -> Iterator[str]:
    """Every imported name, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(tree):
        yield from imported(node, package)


def run_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Statements that importing the module runs: no function bodies, nothing for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from (n for part in node.orelse for n in [part, *run_at_import(part)])
            continue
        yield node
        yield from run_at_import(node)


def ours(name: str) -> str | None:
    """The room of an imported name of ours, or None for other people's modules."""
    parts = name.split(".")
    if parts[0] == "recipes":
        return "recipes"
    if parts[0] != "jepa_modalities" or parts[1:] == ["__version__"]:
        return None
    known = {*ARROWS, *FREE, "recipes"}
    return parts[1] if len(parts) > 1 and parts[1] in known else "jepa_modalities"


def forbidden(where: str, source: str, package: str = "") -> list[str]:
    """Imports that a file of room `where` may not make."""
    if where in FREE:
        return []
    names = all_imports(ast.parse(source), package)
    return [n for n in names if ours(n) is not None and ours(n) not in ARROWS[where]]


def dotted(path: Path) -> str:
    """Package that a file's relative imports start from."""
    return ".".join(path.relative_to(ROOT).parts[:-1])


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=named)
def test_arrows_point_one_way(path: Path) -> None:
    where = room(path)
    assert where in ARROWS or where in FREE, f"{where} is no room of the house; give it arrows"
    assert not forbidden(where, path.read_text(), dotted(path))


def test_the_check_sees_every_kind_of_import() -> None:
    bad = {
        "core": "from jepa_modalities.eval import probes",
        "data": "import jepa_modalities.adapters.image",
        "eval": "def f():\n    from jepa_modalities.train.log import read",
        "adapters": "if TYPE_CHECKING:\n    from ..train import log",
        "train": "from recipes.image import digits",
        "export": "from jepa_modalities import api",
        "config": "import jepa_modalities",
    }
    for where, source in bad.items():
        assert len(forbidden(where, source, "jepa_modalities.adapters")) == 1, where
    for good in (
        "from .base import Plan",
        "import torch",
        "from jepa_modalities import __version__",
    ):
        assert not forbidden("adapters", good, "jepa_modalities.adapters")
    assert not forbidden("api", "from jepa_modalities.recipes import image")


def test_core_needs_torch_and_the_standard_library_only() -> None:
    known = {*sys.stdlib_module_names, "torch", "jepa_modalities"}
    for path in (PACKAGE / "core").rglob("*.py"):
        for name in all_imports(ast.parse(path.read_text()), dotted(path)):
            assert name.split(".")[0] in known, f"{named(path)} imports {name}"


def test_config_and_the_package_are_leaves() -> None:
    for name in ("config.py", "settings.py", "__init__.py"):
        tree = ast.parse((PACKAGE / name).read_text())
        for node in run_at_import(tree):
            for module in imported(node):
                assert module.split(".")[0] in sys.stdlib_module_names, f"{name} imports {module}"


def test_train_finds_adapters_through_the_registry() -> None:
    for path in [*(PACKAGE / "train").rglob("*.py"), *(PACKAGE / "export").rglob("*.py")]:
        for name in all_imports(ast.parse(path.read_text()), dotted(path)):
            if name.startswith("jepa_modalities.adapters"):
                assert name.split(".")[2] in {"base", "outline"}, f"{named(path)}: {name}"


def test_modalities_do_not_know_each_other() -> None:
    home = "jepa_modalities.adapters."
    shared = {path.stem for path in (PACKAGE / "adapters").glob("*.py")}
    for path in (PACKAGE / "adapters").rglob("*.py"):
        own = path.relative_to(PACKAGE / "adapters").parts[0]
        for name in all_imports(ast.parse(path.read_text()), dotted(path)):
            if name.startswith(home):
                other = name.removeprefix(home).split(".")[0]
                assert other in {*shared, own}, f"{named(path)} imports {name}"


@pytest.mark.parametrize("path", [*FILES, *RECIPES], ids=named)
def test_heavy_modules_are_imported_on_use(path: Path) -> None:
    for node in run_at_import(ast.parse(path.read_text())):
        for name in imported(node):
            assert name.split(".")[0] not in HEAVY, f"line {node.lineno}: {name}"  # type: ignore[attr-defined]


def test_statements_run_at_import_are_told_from_the_others() -> None:
    source = (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import a\nelse:\n    import b\n"
        "try:\n    import c\nexcept ImportError:\n    import d\n"
        "class C:\n    import e\n    def f(self):\n        import g\n"
    )
    found = [name for node in run_at_import(ast.parse(source)) for name in imported(node)]
    assert found == ["typing.TYPE_CHECKING", "b", "c", "d", "e"]


def loaded_by(statement: str) -> set[str]:
    """Modules in memory after a statement in a fresh interpreter."""
    program = f"import sys\n{statement}\nprint(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(done.stdout.split())


def test_import_is_cheap() -> None:
    # Counted in modules, not in seconds: what is not loaded costs nothing.
    modules = loaded_by("import jepa_modalities")
    assert "jepa_modalities" in modules
    for name in ("torch", "numpy", "sklearn", "matplotlib", "rich", "tyro", *HEAVY):
        assert name not in modules, f"`import jepa_modalities` loads {name}"
    assert not any(name.startswith("jepa_modalities.") for name in modules)


def test_core_loads_nothing_heavy() -> None:
    names = [f"jepa_modalities.core.{path.stem}" for path in (PACKAGE / "core").glob("[a-z]*.py")]
    modules = loaded_by("import " + ", ".join(names))
    assert set(names) <= modules
    for name in ("sklearn", "matplotlib", "rich", "h5py", *HEAVY):
        assert name not in modules, f"the core loads {name}"


def test_datasets_is_no_python_package() -> None:
    # It would shadow the Hugging Face library of that name.
    assert not list((ROOT / "datasets").rglob("__init__.py"))


@pytest.mark.parametrize("path", FILES, ids=named)
def test_the_library_does_not_print(path: Path) -> None:
    if room(path) == "cli":
        return
    calls = (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call))
    lines = [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
    assert not lines


@pytest.mark.parametrize("path", [*FILES, *RECIPES], ids=named)
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 420


def test_files_are_named_for_what_they_hold() -> None:
    vague = {"utils.py", "util.py", "helpers.py", "helper.py", "misc.py", "common.py"}
    assert not [named(path) for path in FILES if path.name in vague]


def test_core_never_waits_for_the_device() -> None:
    for path in (PACKAGE / "core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                assert node.func.attr != "item", f"{named(path)}, line {node.lineno}"
