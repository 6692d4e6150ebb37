"""`genepool generate`: try a model by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genepool.cli import options, tables

if TYPE_CHECKING:
    from genepool.composition.mixing.requests import SkillRequest

PANEL = options.Panel.models


def generate(
    model: options.ModelArgument,
    prompt: Annotated[list[str] | None, typer.Option(help="Use this text as a prompt; repeatable.")] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="Use the whole text of this file as a prompt.")] = None,
    requests: Annotated[
        Path | None,
        typer.Option(help="Read prompts, each with the skill that answers it, from this JSONL file; one batch."),
    ] = None,
    show_skills: Annotated[
        bool, typer.Option("--show-skills", help="Print the skills that answered each prompt, with their weights.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Stop after N tokens.")] = 64,
    temperature: Annotated[
        float, typer.Option(min=0, help="Sample at this temperature; 0 takes the most likely token.")
    ] = 0,
    top_p: Annotated[
        float,
        typer.Option(min=0, max=1, help="Sample from the most likely tokens with this total probability (top-p)."),
    ] = 1,
    stop: Annotated[list[str] | None, typer.Option(help="End the answer at this text; repeatable.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put each prompt into the model's chat template.")] = False,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = "float32",
    allow_pickle: options.AllowPickleOption = False,
    seed: options.SeedOption = 0,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Generate a model's answers to one or more prompts and print them.

    [bold]Examples[/bold]

        genepool generate merged/ --prompt "R:hello="

        genepool generate chat-model/ --chat --prompt "Name three rivers." --temperature 0.7 --seed 1

        genepool generate base/ --requests requests.jsonl --show-skills
    """
    options.begin(quiet)
    from genepool import progress
    from genepool.checked import is_text
    from genepool.errors import InputError

    if not all(map(is_text, stop or ())):
        raise InputError("is not text", where="--stop", fix="Write it as UTF-8")
    prompts, asked = _prompts(prompt or [], prompt_file, requests)
    if "" in (stop or ()):
        raise InputError("an empty text would end every answer at once", where="--stop", fix="Leave it out")
    if top_p <= 0:
        raise InputError("must be above 0, got 0", where="--top-p", fix="Give a value of at most 1")
    with progress.bar(f"loading {model}"):
        from genepool.composition.mixing.requested_model import RequestedModel, RequestedSource
        from genepool.tasks import Decoding, Source, open_model
        from genepool.tasks.decoding import PromptTooLong
        from genepool.tasks.evaluate import tell_spoiled, warn_of_spoiled

        source: Source
        if asked is None:
            source = open_model(model, allow_pickle=allow_pickle)
        else:
            source = RequestedSource(model, asked, allow_pickle=allow_pickle)
        if "text" not in source.kind.can:
            raise InputError(
                f"{source.kind.kind} cannot generate text", where=model, fix=f"Use it for {source.kind.offers()}"
            )
        loaded = source.load(device, dtype)
    tell_spoiled(loaded, model)
    if isinstance(loaded, RequestedModel):
        for name, tensor in loaded.spoiled():
            warn_of_spoiled(name, tensor)
    texts = [loaded.chat_text([{"role": "user", "content": text}]) for text in prompts] if chat else prompts
    decoding = Decoding(max_new_tokens, tuple(stop or ()), temperature, top_p, seed)
    with progress.bar("writing"):
        try:
            written = loaded.write(texts, [f"{i}:{text}" for i, text in enumerate(texts)], decoding, len(texts))
        except PromptTooLong as error:
            raise InputError(error.what, where=model, fix="Shorten the prompt") from None
    outputs = [one.text for one in written]
    used = loaded.skills_used(texts, outputs) if show_skills else ()
    if json_output:
        pairs: list[dict[str, Any]] = [
            {"prompt": text, "output": output} for text, output in zip(prompts, outputs, strict=True)
        ]
        for pair, request in zip(pairs, asked or (), strict=False):
            pair["skill"] = request.skill or None
        for pair, one in zip(pairs, used, strict=False):
            pair.update(one.to_dict())
        options.print_json({"model": model, "fingerprint": loaded.fingerprint, "results": pairs})
        return
    for number, output in enumerate(outputs):
        tables.print_text(output)
        for line in used[number].lines() if used else ():
            tables.print_text(f"  {line}")


def _prompts(texts: list[str], file: Path | None, requests: Path | None) -> tuple[list[str], list[SkillRequest] | None]:
    """All prompts, and the requests that they are of where these are asked for."""
    from genepool.bounded import read_text
    from genepool.checked import is_text
    from genepool.composition.mixing.requests import read_requests
    from genepool.errors import InputError

    if not all(map(is_text, texts)):
        raise InputError("is not text", where="--prompt", fix="Write it as UTF-8")
    prompts = [*texts] if file is None else [*texts, read_text(file, fix="Name a text file")]
    if requests is not None and prompts:
        raise InputError("stands beside other prompts", where="--requests", fix="Leave --prompt and --prompt-file out")
    asked = None if requests is None else read_requests(requests)
    prompts += [one.prompt for one in asked or ()]
    if not prompts:
        raise InputError("no prompt is given", where="--prompt", fix="Give --prompt TEXT or --prompt-file FILE")
    return prompts, asked
