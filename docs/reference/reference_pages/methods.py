"""Pages of what was held against other code: merge methods, search strategies, measures."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from genepool import measure
from genepool.evolution.representations import kind_for, kinds_for
from genepool.evolution.strategies import strategies
from genepool.faithful import HeldAgainst, recorded
from genepool.faithful import table as comparison_table
from genepool.merging import all_methods
from reference_pages import NOTE
from reference_pages.words import plain

FAITHFUL = """\
*Faithful to* says whom each was held against, and the largest difference between two numbers.

| how | meaning |
|---|---|
| run | the other code was run on the same models or numbers, in the type that the table names |
| formula | the formula was written a second time, in numpy and float64 |
| read, not run | somebody read that commit; nothing was computed |
| is what runs | the library does this part of the work |

genepool computes merges in float32. The weights of the models are about 0.3 in size and their changes about 0.015, so
differences up to 5e-7 are rounding. `python -m benchmarks.faithful --update` measures all of it again.
"""


def methods_page() -> str:
    parts = [
        NOTE, "", "# Merge methods", "",
        "In the formulas `th0` is the base, `x_i` is model i, and `t_i = x_i - th0` is its task vector. Defaults come "
        "from the papers. Recipes in mergekit's format get mergekit's defaults. `genepool methods NAME` prints "
        "the same.",
        "",
        FAITHFUL,
    ]  # fmt: skip
    for method in all_methods().values():
        shown = method.to_dict()
        doc = " ".join((type(method).__doc__ or "").split())
        parts += [f"## {method.name}", "", doc, "", f"    {method.formula}", "", f"*When:* {method.when}", ""]
        passes = f"{shown['passes']} pass{'es' if shown['passes'] > 1 else ''}"
        parts += [f"*Source:* {method.source}. *Takes* {method.needs()}; {passes} over the inputs.", ""]
        if method.parameters:
            parts += ["| parameter | for | default | meaning | source of the default |", "|---|---|---|---|---|"]
        for parameter in shown["parameters"]:
            default = "required" if parameter["required"] else f"`{plain(parameter['default'])}`"
            scope = "each model" if parameter["per_model"] else "the merge"
            choices = f" One of {', '.join(parameter['choices'])}." if parameter["choices"] else ""
            parts.append(
                f"| `{parameter['name']}` | {scope} | {default} | {parameter['doc']}{choices} | {parameter['source']} |"
            )
        parts += ["", *held_against(method.comparisons)] if method.parameters else held_against(method.comparisons)
    return "\n".join(parts).rstrip() + "\n"


def strategies_page() -> str:
    parts = [
        NOTE, "", "# Search strategies", "",
        "The key `strategy` of a [study](study.md) names one of these. `genepool strategies NAME` prints the same. "
        "[Breed models](../how-to/breed-models.md) explains how to choose one, and "
        "[Run studies](../how-to/run-studies.md) how to run it.", "", FAITHFUL,
    ]  # fmt: skip
    for entry in strategies().values():
        passes = f"{entry.passes} time{'s' if entry.passes > 1 else ''}"
        others = [f"`{kind}`" for kind in kinds_for(entry) if kind != kind_for(entry)]
        varied = f"`{kind_for(entry)}` (or {' or '.join(others)}, if `vary` says so)"
        facts = f"It varies {varied}, scores each candidate {passes}, and uses {' and '.join(entry.needs)}."
        steady = " It can be `steady`." if entry.build.steady else ""
        parts += [f"## {entry.name}", "", entry.when, "", f"*Source:* {entry.source}. {facts}{steady}", ""]
        parameters = entry.parameters()
        if parameters:
            parts += ["| option | value | default | meaning |", "|---|---|---|---|"]
        for parameter in parameters:
            kind = parameter["type"].replace("|", "or")
            default = plain(parameter["default"])
            parts.append(f"| `{parameter['name']}` | {kind} | `{default}` | {parameter['description']} |")
        parts += [""] if parameters else []
        parts += held_against(entry.comparisons)
    return "\n".join(parts).rstrip() + "\n"


def measures_page() -> str:
    held = recorded("genepool.measure")
    parts = [
        NOTE, "", "# Measures", "",
        "These functions of [`genepool.measure`](python/genepool.measure.md) were held against other implementations. "
        "The functions of the module that are not named here were not.", "",
        "| how | meaning |", "|---|---|",
        "| run | the library was run on the same numbers |",
        "| formula | the definition was written a second time |", "",
        "`python -m benchmarks.faithful --update` measures all of it again.", "",
    ]  # fmt: skip
    for name, comparisons in held.items():
        doc = (inspect.getdoc(getattr(measure, name)) or "").split("\n\n")[0]
        parts += [f"## {name}", "", " ".join(doc.split()), "", *comparison_table(comparisons), ""]
    return "\n".join(parts).rstrip() + "\n"


def held_against(comparisons: Sequence[HeldAgainst]) -> list[str]:
    if not comparisons:
        return ["*Faithful to:* held against nobody.", ""]
    return ["*Faithful to*", "", *comparison_table(comparisons), ""]
