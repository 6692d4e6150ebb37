"""`genepool library search`: find skills by words, by likeness, or by what they do for a task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genepool.cli import options, tables
from genepool.cli.library.common import LibraryOption, open_library, print_skills

if TYPE_CHECKING:
    from genepool.skills.library import Library
    from genepool.skills.library_search import Hit
    from genepool.skills.transfer import Ranking

OLD_SPELLINGS = {"--limit": "--hits", "--task": "--tasks"}


def search(
    context: typer.Context,
    text: Annotated[
        str | None, typer.Option(help="Find skills with these words in name, description, tags, scores or base.")
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(metavar="SKILL", help="Find skills that change weights as this skill or skill file does."),
    ] = None,
    tasks: Annotated[
        Path | None,
        typer.Option("--tasks", help="Find the skills that help the task in this folder or file; needs --base."),
    ] = None,
    base: Annotated[str | None, typer.Option(help="Apply the skills to this model; only with --tasks.")] = None,
    cheap: Annotated[
        bool, typer.Option("--cheap", help="Rank by the gradient of the base alone; only with --tasks.")
    ] = False,
    examples: Annotated[
        int, typer.Option(min=2, help="Use the first N examples of the task; only with --tasks.")
    ] = 100,
    hits: Annotated[int, typer.Option("--hits", min=1, help="Show at most N skills.")] = 20,
    library: LibraryOption = None,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = "float32",
    trust_tasks: options.TrustTasksOption = None,
    plugin: options.PluginOption = None,
    allow_pickle: options.AllowPickleOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Find skills by words, by similarity to another skill, or by how much they help a task; best first.

    Only --tasks reads skill files: it adds each skill to the base and asks the examples. With --cheap it asks the base
    alone, and only reads the skills.

    [bold]Examples[/bold]

        genepool library search --text "reverse strings"

        genepool library search --like reverse

        genepool library search --tasks examples.jsonl --base base/
    """
    options.begin(quiet)
    options.load_plugins(plugin)
    options.only_with(context, tasks is not None, "--tasks", "base", "cheap", "examples", "device", "dtype")
    from genepool.errors import InputError
    from genepool.skills.library_search import by_task, search_similar, search_text

    ways = {"--text": text, "--like": like, "--tasks": tasks}
    given = {option: wanted for option, wanted in ways.items() if wanted is not None}
    if len(given) != 1:
        raise InputError("expected exactly one thing to search by", fix="Give one of " + ", ".join(ways))
    ((option, wanted),) = given.items()
    if tasks is not None:
        if base is None:
            raise InputError(
                "is required with --task, to run the examples", where="--base", fix="Name the base of the skills"
            )
        with open_library(library) as opened:
            found, ranking = by_task(
                opened,
                tasks,
                base,
                hits,
                cheap=cheap,
                examples=examples,
                device=device,
                dtype=dtype,
                trusted=trust_tasks or (),
                allow_pickle=allow_pickle,
            )
            _say_ranking(opened, found, ranking, json_output)
        return
    with open_library(library) as opened:
        ranked = {"--text": search_text, "--like": search_similar}[option](opened, str(wanted), hits)
        if json_output:
            told = [{"score": hit.score, **hit.kept.to_dict()} for hit in ranked]
            options.print_json({"library": str(opened.folder), "by": option[2:], "hits": told})
        elif not ranked:
            tables.print_text(f"{opened.folder}: nothing found")
        else:
            # BM25 says nothing by itself: the order is all of it.
            scores = ("cosine, about", [f"{hit.score:.3f}" for hit in ranked]) if option == "--like" else None
            print_skills([hit.kept for hit in ranked], scores)


def _say_ranking(library: Library, hits: Sequence[Hit], ranking: Ranking, json_output: bool) -> None:
    if json_output:
        found = [{"score": hit.score, **hit.kept.to_dict()} for hit in hits]
        told = {key: value for key, value in ranking.to_dict().items() if key != "skills"}
        parts = {skill["name"]: skill["parts"] for skill in ranking.to_dict()["skills"]}
        hits_with_parts = [{**hit, "parts": parts[hit["name"]]} for hit in found]
        options.print_json({"library": str(library.folder), "by": "task", "hits": hits_with_parts, **told})
        return
    # One component alone says more than the ranks made of it.
    (name, *more) = ranking.components
    values = {skill.name: skill.score if more else skill.parts[name] for skill in ranking.skills}
    title = "rank" if more else name
    print_skills([hit.kept for hit in hits], (title, [f"{values[hit.kept.name]:.3f}" for hit in hits]))
    if not more and name in ranking.base:
        tables.print_text(f"The base alone: {ranking.base[name]:.3f}. Asked {ranking.examples} examples.")
    for skill, why in ranking.skipped.items():
        tables.print_text(f"left out: {skill}: {why}")
