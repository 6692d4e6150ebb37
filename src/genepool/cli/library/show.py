"""`genepool library show`: what is known of a skill, where it comes from, and how near another one is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genepool.cli import options, tables
from genepool.cli.library.common import LibraryOption, SkillArgument, open_library

if TYPE_CHECKING:
    from genepool.skills.similarity import Similarity


_JSON = ("lineage", "training", "scores")


def show(
    skill: SkillArgument,
    tree: Annotated[
        bool, typer.Option("--tree", help="Show what the skill was made from, and what was made from it.")
    ] = False,
    against: Annotated[
        str | None, typer.Option(metavar="OTHER", help="Compare the skill exactly with another skill or skill file.")
    ] = None,
    library: LibraryOption = None,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Show what the library knows about a skill.

    [bold]Examples[/bold]

        genepool library show reverse --tree

        genepool library show reverse --against sort
    """
    options.begin(quiet)
    from genepool.skills.library_search import changes_of
    from genepool.skills.library_tree import ancestors, descendants, tree_lines

    with open_library(library) as opened:
        kept = opened.find(skill)
        answer: dict[str, Any] = {**kept.to_dict(), "file": str(opened.path(kept.digest))}
        up, down = (ancestors(opened, kept), descendants(opened, kept)) if tree else ([], [])
        found = None
        if against is not None:
            from genepool.skills.similarity import compare

            found = compare(changes_of(opened, skill), changes_of(opened, against))
        if json_output:
            if tree:
                answer |= {"ancestors": [r.to_dict() for r in up], "descendants": [r.to_dict() for r in down]}
            if found is not None:
                answer["against"] = {"skill": against, **found.to_dict()}
            options.print_json(answer)
            return
        if found is not None:
            _print_similarity(found, kept.name, against or "")
            return
        _print_facts(answer, kept.name)
        if tree:
            _print_lines("made of", tree_lines(up) or ["no other skill"])
            _print_lines("made of it", tree_lines(down) or ["nothing here"])


def _print_facts(answer: dict[str, Any], name: str) -> None:
    table = tables.TextTable("", [name], prose=[name])
    for key, value in answer.items():
        if key != "name":
            table.add_row(key.replace("_", " "), _fact(key, value))
    tables.show(table)


def _fact(key: str, value: Any) -> str:
    import json

    if key == "bytes":
        return options.size_text(value)
    return ", ".join(value) if key == "tags" else json.dumps(value, ensure_ascii=False) if key in _JSON else str(value)


def _print_lines(head: str, lines: Sequence[str]) -> None:
    tables.print_text(head)
    for line in lines:
        tables.print_text(f"  {line}")
    tables.print_text("")


def _print_similarity(found: Similarity, name: str, other: str) -> None:
    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    table = tables.TextTable("", ["cosine", "sign agreement"])
    table.add_row("whole", number(found.whole.cosine), number(found.whole.signs))
    for layer, each in found.layers.items():
        table.add_row(f"  {layer}", number(each.cosine), number(each.signs))
    tables.print_text(f"{name} and {other}")
    tables.show(table)
    tables.print_text(f"overlap of the 1% largest changes (Jaccard): {number(found.region)}")
    if found.subspaces:
        left, right = number(found.subspaces[0]), number(found.subspaces[1])
        tables.print_text(
            f"overlap of the directions of {found.matrices} low-rank matrices: left {left}, right {right}"
        )
