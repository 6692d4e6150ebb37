"""The house as documented: packages import only from those before them, and the command line starts light."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "genepool"
ORDER = [
    "kernels",
    "weights",
    "merging",
    "tasks",
    "measure",
    "training",
    "skills",
    "composition",
    "adaptation",
    "evolution",
    "projects",
    "report",
    "testbed",
    "demo",
    "cli",
]


@cache
def _named(path: Path) -> list[ast.ClassDef | ast.Import | ast.ImportFrom]:
    """The imports and the classes of a file: of its tree, all that is asked here."""
    wanted = (ast.ClassDef, ast.Import, ast.ImportFrom)
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, wanted)]


def _imports(path: Path) -> set[str]:
    found = set()
    for node in _named(path):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("genepool."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "genepool":
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("genepool."))
    return found


@pytest.mark.parametrize("room", ORDER)
def test_a_room_imports_only_from_those_before_it(room: str) -> None:
    later = set(ORDER[ORDER.index(room) + 1 :])
    for path in (SOURCE / room).rglob("*.py"):
        assert not _imports(path) & later, f"{path.relative_to(SOURCE)} imports {_imports(path) & later}"


def test_every_room_is_in_the_order() -> None:
    assert {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(ORDER)


@pytest.mark.parametrize("arguments", [["--help"], ["merge", "--help"], ["evolve", "--help"]])
def test_help_needs_neither_torch_nor_transformers(arguments: list[str]) -> None:
    code = (
        "import sys; from genepool.cli.main import run; code = run(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'cma'} & set(sys.modules);"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


@pytest.mark.slow
def test_a_class_name_has_one_meaning() -> None:
    """Private classes and pydantic sections of files count too: whoever searches for a name finds one thing."""
    places: dict[str, list[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for node in _named(path):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(f"{path.relative_to(SOURCE)}:{node.lineno}")
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_every_public_method_is_described() -> None:
    """By itself or by what it overrides: ruff's D102 cannot see the latter."""
    import genepool

    undescribed = set()
    for found in pkgutil.walk_packages(genepool.__path__, "genepool."):
        if found.name == "genepool.__main__":
            continue
        module = importlib.import_module(found.name)
        for one in vars(module).values():
            if not inspect.isclass(one) or one.__module__ != found.name or one.__name__.startswith("_"):
                continue
            for name, member in vars(one).items():
                function = getattr(member, "fget", None) or getattr(member, "__func__", member)
                if name.startswith("_") or not inspect.isfunction(function) or function.__name__ == "<lambda>":
                    continue
                if not any(inspect.getdoc(vars(base)[name]) for base in one.__mro__ if name in vars(base)):
                    undescribed.add(f"{found.name}.{one.__name__}.{name}")
    assert not undescribed


def test_no_module_outgrows_its_room() -> None:
    long = {path.name: n for path in SOURCE.rglob("*.py") if (n := len(path.read_text().splitlines())) > 450}
    assert not long


def test_a_test_file_has_a_name_of_its_own() -> None:
    """The test folders are no packages: of two files of one name, pytest collects the first and refuses the other."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert not [name for name, files in names.items() if files > 1]


def test_a_command_is_a_file_of_its_name() -> None:
    """A group's folder holds the files of its commands; `options`, `tables` and each group's `common` are shared."""
    import typer

    from genepool.cli.main import build_app

    def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        below = getattr(command, "commands", None)
        if below is None:
            yield words
        for name, inner in (below or {}).items():
            yield from commands(inner, (*words, name))

    shared = {"__init__", "main", "options", "tables", "common"}
    files = {path.relative_to(SOURCE / "cli").with_suffix("") for path in (SOURCE / "cli").rglob("*.py")}
    named = {path for path in files if path.name not in shared}
    typed = {tuple(part.rstrip("_").replace("_", "-") for part in path.parts) for path in named}
    assert typed == set(commands(typer.main.get_command(build_app())))
    for path in named:
        functions = [
            node.name
            for node in ast.parse((SOURCE / "cli" / path).with_suffix(".py").read_text()).body
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        ]
        assert path.name in functions, f"cli/{path}.py has no function {path.name}"
