"""Which code a result depends on: a hash over a module and all of genepool that it imports, directly or not."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

import genepool

_SOURCE = Path(genepool.__file__).parent


def stamp(*modules: str) -> str:
    """SHA-256, hex, of the source of `modules` ("genepool.merging.methods.ties") and of what they import."""
    seen: set[Path] = set()
    waiting = [path for module in modules for path in _files(module)]
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += _imported(path)
    total = hashlib.sha256()
    for path in sorted(seen):
        total.update(path.read_bytes())
    return total.hexdigest()


@cache
def _imported(path: Path) -> tuple[Path, ...]:
    found: list[Path] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "genepool":
            # `from package import name` may name a module of the package.
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            found += [file for name in names for file in _files(name or "")]
    return tuple(found)


def _files(module: str) -> list[Path]:
    place = _SOURCE.joinpath(*module.split(".")[1:])
    return [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()]
