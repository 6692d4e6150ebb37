"""`genepool library search`: find skills by words, by likeness, or by what they do for a task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genepool.cli import options
from genepool.cli.library.common import LibraryOption, open_library, print_skills, say

if TYPE_CHECKING:
    from genepool.skills.library import Library
    from genepool.skills.library_search import Hit
    from genepool.skills.transfer import Ranking


def search(
    context: typer.Context,
    text: Annotated[str | None, typer.Option(help="Words of its name, description, tags, scores or base.")] = None,
    like: Annotated[
        str | None, typer.Option(metavar="SKILL", help="What changes weights as this skill, or skill file, does.")
    ] = None,
    task: Annotated[
        Path | None, typer.Option(help="What helps a task most, told from its examples: a file or folder. With --base.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="With --task: the model the skills are put on.")] = None,
    cheap: Annotated[bool, typer.Option("--cheap", help="With --task: by the base's gradient alone.")] = False,
    examples: Annotated[int, typer.Option(min=2, help="With --task: how many examples are read.")] = 100,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    library: LibraryOption = None,
    trust_tasks: options.TrustTasksOption = None,
    allow_pickle: options.AllowPickleOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Find skills, the best first: by words, by likeness to another skill, or by what they do for a task.

    Only --task reads skill files: it puts each on the base and asks the examples. With --cheap nothing but the base is
    asked, and the skills are only read.

    [bold]Examples[/bold]

        genepool library search --text "reverse strings"

        genepool library search --like reverse

        genepool library search --task examples.jsonl --base base/
    """
    options.begin(quiet)
    options.only_with(context, task is not None, "--task", "base", "cheap", "examples")
    from genepool.errors import InputError
    from genepool.skills.library_search import by_likeness, by_task, by_words

    ways = {"--text": text, "--like": like, "--task": task}
    given = {option: wanted for option, wanted in ways.items() if wanted is not None}
    if len(given) != 1:
        raise InputError("one thing to search by is needed", fix="Give one of " + ", ".join(ways))
    ((option, wanted),) = given.items()
    if task is not None:
        if base is None:
            raise InputError("the examples are asked of a model", where="--base", fix="Name the base of the skills")
        with open_library(library) as opened:
            hits, ranking = by_task(
                opened,
                task,
                base,
                limit,
                cheap=cheap,
                examples=examples,
                trusted=trust_tasks or (),
                allow_pickle=allow_pickle,
            )
            _say_ranking(opened, hits, ranking, json_output)
        return
    with open_library(library) as opened:
        hits = {"--text": by_words, "--like": by_likeness}[option](opened, str(wanted), limit)
        if json_output:
            found = [{"score": hit.score, **hit.kept.as_dict()} for hit in hits]
            options.print_json({"library": str(opened.folder), "by": option[2:], "hits": found})
        elif not hits:
            print(f"{opened.folder}: nothing found")
        else:
            # BM25 says nothing by itself: the order is all of it.
            scores = ("cosine, about", [f"{hit.score:.3f}" for hit in hits]) if option == "--like" else None
            print_skills([hit.kept for hit in hits], scores)


def _say_ranking(library: Library, hits: Sequence[Hit], ranking: Ranking, json_output: bool) -> None:
    if json_output:
        found = [{"score": hit.score, **hit.kept.as_dict()} for hit in hits]
        told = {key: value for key, value in ranking.as_json().items() if key != "skills"}
        parts = {skill["name"]: skill["parts"] for skill in ranking.as_json()["skills"]}
        hits_with_parts = [{**hit, "parts": parts[hit["name"]]} for hit in found]
        options.print_json({"library": str(library.folder), "by": "task", "hits": hits_with_parts, **told})
        return
    # One component alone says more than the ranks made of it.
    (name, *more) = ranking.components
    values = {skill.name: skill.score if more else skill.parts[name] for skill in ranking.skills}
    title = "rank" if more else name
    print_skills([hit.kept for hit in hits], (title, [f"{values[hit.kept.name]:.3f}" for hit in hits]))
    if not more and name in ranking.base:
        say(f"The base alone: {ranking.base[name]:.3f}. Asked {ranking.examples} examples.")
    for skill, why in ranking.skipped.items():
        say(f"left out: {skill}: {why}")
