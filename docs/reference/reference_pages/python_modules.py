"""Writes the pages of the Python reference: what each package names in `__all__`, with its signature and docstring.

Used by `generate.py`. The site shows the same docstrings through mkdocstrings (see `docs/site_hooks.py`); these pages
are for those who read the folder.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import textwrap
import types
from collections.abc import Iterator
from typing import Any

# Which packages a user may import from, and what each is for.
PACKAGES = {
    "genepool": "One function per thing that the command line does. Everything else is reached through the packages.",
    "genepool.weights": "Read models, adapters and skills; write checkpoints and skill files.",
    "genepool.merging": "Plan and run merges; write merge methods of your own.",
    "genepool.tasks": "Load tasks, ask models, keep outcomes.",
    "genepool.measure": "Compute intervals, comparisons, transfer and forgetting from outcomes.",
    "genepool.training": "Fine-tune models; write objectives of your own.",
    "genepool.skills": "Extract, compress, localise and apply skills.",
    "genepool.composition": "Compose frozen skills; write composers of your own.",
    "genepool.adaptation": "Let a model adapt while it is used.",
    "genepool.evolution": "Run studies; write strategies of your own.",
    "genepool.projects": "Write the files to start from for models that are there.",
    "genepool.report": "Write the pages that show a study or a comparison.",
    "genepool.testbed": "Train small models with known skills on the spot.",
}
_SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Example", "Examples", "Note")


def python_pages(note: str) -> dict[str, str]:
    """File name -> text of every page of the Python reference, and of its list of pages."""
    found = [name for name in PACKAGES if importlib.util.find_spec(name) is not None]
    texts = {f"python/{name}.md": _page(note, name) for name in found}
    rows = [f"| [`{name}`]({name}.md) | {PACKAGES[name]} |" for name in found]
    intro = (
        "The names on these pages are public: [what a version promises](../../versions.md) holds for them. Other names "
        "may change at any time. `import genepool` is fast, because torch is imported at first use."
    )
    lines = [note, "", "# Python", "", intro, "", "| package | what for |", "|---|---|", *rows, ""]
    return {"python/index.md": "\n".join(lines), **texts}


def _page(note: str, package: str) -> str:
    module = importlib.import_module(package)
    lines = [note, "", f"# {package}", "", PACKAGES[package], "", f"<!-- mkdocstrings: {package} -->", ""]
    lines += _doc(module)
    for name in sorted(module.__all__, key=str.lower):
        lines += _entry(name, getattr(module, name))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _entry(name: str, what: Any) -> Iterator[str]:
    yield from (f"## {name}", "")
    if inspect.isclass(what) and not isinstance(what, types.GenericAlias):
        yield from (*_signature(name, what, "class "), *_doc(what))
        for member, method in _methods(what):
            yield from (f"### {name}.{member}", "", *_signature(member, method), *_doc(method))
    elif callable(what) and getattr(what, "__name__", ""):
        yield from (*_signature(name, what), *_doc(what))
    else:
        yield from ("```text", f"{name} = {_plain(what)}", "```", "")


def _methods(kind: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class itself defines and documents, in the order of the source."""
    for name, value in vars(kind).items():
        inner = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if isinstance(inner, property | types.FunctionType) and not name.startswith("_") and inner.__doc__:
            yield name, inner


def _signature(name: str, what: Any, before: str = "") -> list[str]:
    if isinstance(what, property):
        said = what.fget.__annotations__.get("return", "Any") if what.fget else "Any"
        return ["```python", f"{name}: {said}", "```", ""]
    try:
        signature = inspect.signature(what)
    except (TypeError, ValueError):
        return ["```python", f"{before}{name}", "```", ""]
    if before:
        signature = signature.replace(return_annotation=inspect.Signature.empty)
    parts = [_parameter(one) for one in signature.parameters.values() if one.name not in ("self", "cls")]
    kinds = [one.kind for one in signature.parameters.values() if one.name not in ("self", "cls")]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        parts.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    end = "" if signature.return_annotation is inspect.Signature.empty else f" -> {_type(signature.return_annotation)}"
    line = f"{before}{name}({', '.join(parts)}){end}"
    if len(line) > 100:
        inner = "".join(f"    {part},\n" for part in parts)
        line = f"{before}{name}(\n{inner}){end}"
    return ["```python", line, "```", ""]


def _parameter(one: inspect.Parameter) -> str:
    star = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(one.kind, "")
    said = "" if one.annotation is inspect.Parameter.empty else f": {_type(one.annotation)}"
    if one.default is inspect.Parameter.empty:
        return f"{star}{one.name}{said}"
    return f"{star}{one.name}{said}{' = ' if said else '='}{_plain(one.default)}"


def _type(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _plain(value: Any) -> str:
    """A value as one would write it; what is no literal stands as `...`, since its text may differ between runs."""
    if value is None or isinstance(value, str | int | float | bytes):
        return repr(value)
    if isinstance(value, tuple | list):
        inner = ", ".join(_plain(one) for one in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_plain(key)}: {_plain(one)}" for key, one in value.items()) + "}"
    name = getattr(value, "__name__", "...")
    return "..." if name == "<lambda>" else name


def _doc(what: Any) -> list[str]:
    """A docstring as Markdown: sections become lists, indented examples become blocks."""
    own = inspect.cleandoc(what.__doc__ or "")
    lines: list[str] = []
    for part in re.split(r"\n\s*\n", own):
        first, _, rest = part.partition("\n")
        if first.rstrip(":") in _SECTIONS and first.endswith(":") and rest:
            lines += [f"**{first.rstrip(':')}**", "", *_items(textwrap.dedent(rest)), ""]
        elif part.startswith("    ") or (rest and all(line.startswith("    ") for line in part.splitlines())):
            lines += ["```python", textwrap.dedent(part), "```", ""]
        else:
            lines += [_text(part), ""]
    # A blank line within an example does not end it.
    return "\n".join(lines).replace("\n```\n\n```python\n", "\n\n").split("\n")


def _text(prose: str) -> str:
    """Prose of a docstring as Markdown: a placeholder such as `full/<skill>` is no HTML."""
    return re.sub(r"(`[^`]*`)|<", lambda found: found[1] or "&lt;", prose)


def _items(text: str) -> Iterator[str]:
    """`name: meaning`, with the lines that go on with it indented, as a list."""
    for item in re.split(r"\n(?=\S)", text):
        name, colon, meaning = item.partition(": ")
        meaning = " ".join(meaning.split())
        plain = colon and re.fullmatch(r"[\w.*, `]+", name)
        yield f"- `{name}`: {_text(meaning)}" if plain else f"- {_text(' '.join(item.split()))}"
