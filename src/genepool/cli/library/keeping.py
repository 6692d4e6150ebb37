"""The commands that keep skills: init, add, list, show, rm, check, export, import."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genepool.cli import options
from genepool.cli.library.common import LibraryOption, SkillArgument, open_library, print_skills, say

if TYPE_CHECKING:
    from genepool.skills.kept import Kept
    from genepool.skills.library import Library
    from genepool.skills.similarity import Similarity


_JSON = ("lineage", "training", "scores")


def init(library: LibraryOption = None, json_output: options.JsonOption = False) -> None:
    """Make an empty library. One that is there stays as it is.

    [bold]Example[/bold]

        genepool library init --library skills/
    """
    options.begin()
    from genepool.skills.library import Library, default_folder

    folder = library or default_folder()
    created = Library.create(folder)
    if json_output:
        options.print_json({"library": str(folder), "created": created})
    else:
        print(f"{folder}: {'an empty library' if created else 'a library is here already'}")


def add(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A skill file.")],
    name: Annotated[str | None, typer.Option(help="What to call it; as its header or file does when absent.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="A word to find it by; may be repeated.")] = None,
    description: Annotated[str | None, typer.Option(help="What it can do, instead of the header's sentence.")] = None,
    score: Annotated[
        list[str] | None, typer.Option("--score", metavar="TASK=NUMBER", help="How good it is; may be repeated.")
    ] = None,
    library: LibraryOption = None,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Copy a skill file into the library. Adding the same file again changes nothing.

    [bold]Example[/bold]

        genepool library add reverse.safetensors --tag strings --score reverse=0.93
    """
    options.begin(quiet)
    with open_library(library) as opened:
        kept, added = opened.add(
            file, name=name, tags=tag or [], description=description, scores=_scores(score or [])
        )  # fmt: skip
        _say_added(opened, kept, added, json_output)


def list_skills(
    base: Annotated[
        str | None, typer.Option(help="Only those of a base: its name, or its fingerprint's start.")
    ] = None,
    tag: Annotated[str | None, typer.Option(help="Only those with this tag.")] = None,
    library: LibraryOption = None,
    json_output: options.JsonOption = False,
) -> None:
    """List what the library holds.

    [bold]Example[/bold]

        genepool library list --tag strings
    """
    options.begin()
    from genepool.skills.library_search import filtered

    with open_library(library) as opened:
        skills = filtered(opened.catalogue.all(), base, tag)
        if json_output:
            options.print_json({"library": str(opened.folder), "skills": [kept.as_dict() for kept in skills]})
        elif not skills:
            print(f"{opened.folder}: no skill{' like that' if base or tag else ''}")
        else:
            print_skills(skills)


def show(
    skill: SkillArgument,
    tree: Annotated[bool, typer.Option("--tree", help="What it descends from, and what descends from it.")] = False,
    against: Annotated[
        str | None, typer.Option(metavar="OTHER", help="Compare it, exactly, with another skill or skill file.")
    ] = None,
    library: LibraryOption = None,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Say what is known of a skill.

    [bold]Examples[/bold]

        genepool library show reverse --tree

        genepool library show reverse --against sort
    """
    options.begin(quiet)
    from genepool.skills.library_search import changes_of
    from genepool.skills.library_tree import ancestors, descendants, tree_lines

    with open_library(library) as opened:
        kept = opened.find(skill)
        answer: dict[str, Any] = {**kept.as_dict(), "file": str(opened.path(kept.digest))}
        up, down = (ancestors(opened, kept), descendants(opened, kept)) if tree else ([], [])
        found = None
        if against is not None:
            from genepool.skills.similarity import compare

            found = compare(changes_of(opened, skill), changes_of(opened, against))
        if json_output:
            if tree:
                answer |= {"ancestors": [r.as_dict() for r in up], "descendants": [r.as_dict() for r in down]}
            if found is not None:
                answer["against"] = {"skill": against, **found.as_dict()}
            options.print_json(answer)
            return
        if found is not None:
            _print_similarity(found, kept.name, against or "")
            return
        _print_facts(answer, kept.name)
        if tree:
            _print_lines("made of", tree_lines(up) or ["no other skill"])
            _print_lines("made of it", tree_lines(down) or ["nothing here"])


def rm(skill: SkillArgument, library: LibraryOption = None, json_output: options.JsonOption = False) -> None:
    """Take a skill out of the library. One that others here descend from stays.

    [bold]Example[/bold]

        genepool library rm reverse-old
    """
    options.begin()
    with open_library(library) as opened:
        kept = opened.remove(skill)
        if json_output:
            options.print_json({"library": str(opened.folder), "removed": kept.name, "digest": kept.digest})
        else:
            say(f"{kept.name}: removed ({options.size_text(kept.bytes)})")


def check(
    repair: Annotated[
        bool, typer.Option("--repair", help="Clean up: see docs/how-to/keep-skills.md for what it does.")
    ] = False,
    library: LibraryOption = None,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Hash every file and look for what is missing, damaged or left over. The exit code is 1 when problems remain.

    [bold]Example[/bold]

        genepool library check --repair
    """
    options.begin(quiet)
    from genepool.errors import CheckFailed
    from genepool.skills.library_check import check as check_library

    with open_library(library) as opened:
        found = check_library(opened, repair=repair)
        left = [problem for problem in found if not problem.repaired]
        if json_output:
            options.print_json({"library": str(opened.folder), "problems": [problem.as_dict() for problem in found]})
        else:
            for problem in found:
                say(f"{problem.where}: {problem.text}" + (f": {problem.repaired}" if problem.repaired else ""))
            if not left:
                print(f"{opened.folder}: {len(opened.catalogue.all()):,} skills, all whole")
    if left:
        fix = "" if repair else " Mend what can be mended with --repair."
        raise CheckFailed(f"{len(left):,} problem{'s' if len(left) > 1 else ''} in {library or 'the library'}.{fix}")


def export(
    skill: SkillArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder to write the skill, its model card and lineage to.")],
    library: LibraryOption = None,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
) -> None:
    """Write a skill as a folder to pass on: the file, a model card, its lineage.

    [bold]Example[/bold]

        genepool library export reverse --out reverse-skill/
    """
    options.begin()
    from genepool.skills.library_export import export as export_skill

    with open_library(library) as opened:
        kept = export_skill(opened, skill, out, overwrite=overwrite)
        if json_output:
            options.print_json({"out": str(out), "name": kept.name, "digest": kept.digest})
        else:
            say(f"{out}: {kept.name}")


def bring_in(
    path: Annotated[Path, typer.Argument(metavar="FOLDER_OR_FILE", help="What export wrote, or a skill file.")],
    library: LibraryOption = None,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Add an exported skill, with its name, tags, description and scores.

    [bold]Example[/bold]

        genepool library import reverse-skill/
    """
    options.begin(quiet)
    from genepool.skills.library_export import bring_in as bring_in_skill

    with open_library(library) as opened:
        _say_added(opened, *bring_in_skill(opened, path), json_output)


def _scores(given: Sequence[str]) -> dict[str, float]:
    from genepool.errors import InputError

    found = {}
    for text in given:
        task, _, score = text.rpartition("=")
        try:
            found[task] = float(score)
        except ValueError:
            found[task] = float("nan")
        if not task or found[task] != found[task]:
            raise InputError(f"{text!r} is no score", where="--score", fix="Write it like --score reverse=0.93")
    return found


def _say_added(library: Library, kept: Kept, added: bool, json_output: bool) -> None:
    if json_output:
        options.print_json({"library": str(library.folder), "added": added, "skill": kept.as_dict()})
    elif added:
        say(f"{kept.name}: added ({kept.short}, {kept.form}, {options.size_text(kept.bytes)})")
    else:
        say(f"{kept.name}: there already ({kept.short}), nothing changed")


def _print_facts(answer: dict[str, Any], name: str) -> None:
    from rich.text import Text

    table = options.plain_table("", [name.replace("[", "\\[")])
    for key, value in answer.items():
        if key != "name":
            table.add_row(key.replace("_", " "), Text(_fact(key, value)))
    options.console().print(table)


def _fact(key: str, value: Any) -> str:
    import json

    if key == "bytes":
        return options.size_text(value)
    return ", ".join(value) if key == "tags" else json.dumps(value, ensure_ascii=False) if key in _JSON else str(value)


def _print_lines(head: str, lines: Sequence[str]) -> None:
    say(head)
    for line in lines:
        say(f"  {line}")
    say("")


def _print_similarity(found: Similarity, name: str, other: str) -> None:
    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    table = options.plain_table("", ["cosine", "sign agreement"])
    table.add_row("whole", number(found.whole.cosine), number(found.whole.signs))
    for layer, each in found.layers.items():
        table.add_row(f"  {layer}", number(each.cosine), number(each.signs))
    say(f"{name} and {other}")
    options.console().print(table)
    say(f"overlap of the 1% largest changes (Jaccard): {number(found.region)}")
    if found.subspaces:
        left, right = number(found.subspaces[0]), number(found.subspaces[1])
        say(f"overlap of the directions of {found.matrices} low-rank matrices: left {left}, right {right}")
