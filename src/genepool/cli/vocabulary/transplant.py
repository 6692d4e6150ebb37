"""`genepool vocabulary transplant`: a model with the tokenizer of another one."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from genepool.cli import options, tables


def transplant(
    model: options.ModelArgument,
    tokenizer: Annotated[
        str, typer.Option("--tokenizer", metavar="DONOR", help="Take the tokenizer of this model or folder.")
    ],
    out: options.OutFolderOption,
    method: Annotated[
        str,
        typer.Option(
            "--method", help="Compute new rows by omp, neighbours, subword, mean, gaussian or zero.", metavar="METHOD"
        ),
    ] = "omp",
    k: Annotated[
        int, typer.Option("--k", help="Use at most this many common tokens for a new row (omp, neighbours).")
    ] = 64,
    byte_match: Annotated[
        bool, typer.Option("--byte-match", help="Allow a token of one byte to match the character of that byte.")
    ] = False,
    prefix_match: Annotated[
        bool, typer.Option("--prefix-match", help="Allow a new token to match the longest token that it begins with.")
    ] = False,
    seed: options.SeedOption = 0,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Give a model the tokenizer of another one. Rows of common tokens move along, rows of new ones are estimated.

    [bold]Examples[/bold]

        genepool vocabulary transplant tuned/ --tokenizer donor/ --out transplanted/

        genepool vocabulary transplant tuned/ --tokenizer tokenizer/ --method subword --out transplanted/
    """
    options.begin(quiet)
    options.refuse_own_input(out, model, tokenizer)
    from genepool import staging
    from genepool.weights import open_weights, write_checkpoint
    from genepool.weights.quantised import refuse_quantised
    from genepool.weights.vocabulary.transplant.donor import open_donor
    from genepool.weights.vocabulary.transplant.estimators import find_estimator
    from genepool.weights.vocabulary.transplant.transplanting import Transplantation, TransplantSettings

    settings = TransplantSettings(find_estimator(method), k, byte_match, prefix_match, seed)
    staging.check_free(out, overwrite=overwrite)
    weights = open_weights(model, allow_pickle=allow_pickle)
    refuse_quantised(weights, model, "Name the unquantised checkpoint")
    donor = open_donor(tokenizer, allow_pickle=allow_pickle)
    transplantation = Transplantation(weights, donor, settings)
    said = transplantation.to_dict()
    record = {"schema": 1, "transplant": {"model": model, "tokenizer": tokenizer, "seed": seed, **said}}
    made = transplantation.weights()
    contents = {"genepool.json": record, "generation_config.json": made.generation_config()}
    files = {name: json.dumps(content, indent=2) + "\n" for name, content in contents.items() if content is not None}
    write_checkpoint(made, out, overwrite=overwrite, extra_files=files)
    if json_output:
        options.print_json({"out": str(out), **said})
        return
    common = ", ".join(f"{count:,} {kind}" for kind, count in said["common"].items())
    tables.print_text(
        f"{out}: {said['tokens']:,} tokens, before {said['rows_before']:,}; in common: {common}; estimated by "
        f"{method}: {said['estimated']:,}"
    )
