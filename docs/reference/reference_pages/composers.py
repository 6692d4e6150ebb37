"""The page of composers, from what they declare."""

from __future__ import annotations

import inspect

from genepool.composition import all_composers
from reference_pages import NOTE
from reference_pages.words import plain

_GIVEN = {"weights": "a model folder", "adapter": "an adapter", "module": "a composition beside its skills"}


def composers_page() -> str:
    parts = [
        NOTE, "", "# Composers", "",
        "`genepool compose METHOD` takes one of these, and so does the key `method` of a [composition file]"
        "(compose.md). An option is set by `--set NAME=VALUE`. In the formulas `th0` is the base, `t_i` is the task "
        "vector of skill i and `b` is a tensor. [Compose skills](../how-to/compose-skills.md) explains how to choose "
        "one. "
        "`genepool compose METHOD --list` prints the same.", "",
    ]  # fmt: skip
    for composer in all_composers().values():
        parts += [f"## {composer.name}", "", inspect.getdoc(composer) or "", "", f"*When:* {composer.when}", ""]
        low, high = composer.skills
        count = f"{low} or more" if high is None else str(low) if low == high else f"{low} to {high}"
        parts += [
            f"*Source:* {composer.source}. *Takes* {count} skills; {composer.needs_in_words()}. *Gives* "
            f"{_GIVEN[composer.out]}. *Cost:* {composer.cost}.", "",
        ]  # fmt: skip
        parameters = composer.parameters()
        if parameters:
            parts += ["| option | value | default | meaning |", "|---|---|---|---|"]
        for parameter in parameters:
            kind, default = parameter["type"].replace("|", "or"), plain(parameter["default"])
            parts.append(f"| `{parameter['name']}` | {kind} | `{default}` | {parameter['description']} |")
        parts += [""] if parameters else []
    return "\n".join(parts).rstrip() + "\n"
