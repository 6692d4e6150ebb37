"""`genepool merge`: write the model a recipe describes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genepool.cli import options, tables

PANEL = options.Panel.models


def merge(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="The recipe file: genepool's own (`genepool: 1`) or mergekit's.")],
    out: Annotated[Path | None, typer.Argument(help="The folder to write; it appears whole or not at all.")] = None,
    out_instead: options.OutInsteadOption = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read the result back and compare every tensor.")] = False,
    as_lora: options.AsLoraOption = None,
    factors_only: options.FactorsOnlyOption = False,
    out_shard_size: Annotated[
        str, typer.Option(help="Split the weights into files of at most this size, such as 500MB or 5GB.")
    ] = "5GB",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Compute N tensors at once; by default one for each core, at most 8.")
    ] = None,
    unchecked_vocabulary: Annotated[
        bool, typer.Option("--unchecked-vocabulary", help="Merge models whose tokenizers give a token different ids.")
    ] = False,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Compute with NaN and infinity instead of stopping there.")
    ] = False,
    rest: options.RestOption = None,
    device: options.DeviceOption = "cpu",
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", callback=options.checked_seed, help="Set the seed of random methods; by default the recipe's."
        ),
    ] = None,
    allow_pickle: options.AllowPickleOption = False,
    plugin: options.PluginOption = None,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Merge models as a recipe defines and write the result as a Hugging Face folder.

    [bold]Examples[/bold]

        genepool merge recipe.yaml merged/

        genepool merge mergekit-config.yml merged/ --out-shard-size 2GB --verify

        genepool merge recipe.yaml adapter/ --as-lora 32

        genepool merge mergekit-moe-config.yml mixture/

    After a kill, the same command continues where the merge stopped. An adapter holds merged minus base up to its rank;
    the command prints what that loses, and the adapter's genepool.json says it for each tensor.
    """
    options.begin(quiet)
    options.only_with(context, as_lora is not None, "--as-lora", "factors_only")
    out = options.place(out, out_instead, "OUT")
    options.refuse_own_input(out, recipe, rest, plugin)
    size = options.parse_size(out_shard_size, "--out-shard-size")
    from genepool import progress

    with progress.bar("loading"):
        from genepool.merging import load_recipe, plan_merge, run_plan, write_adapter
        from genepool.merging.mixture import is_mixture_file
        from genepool.merging.nesting import describe

    options.load_plugins(plugin)
    changes: dict[str, object] = {} if seed is None else {"seed": seed}
    if unchecked_vocabulary:
        changes["vocabulary"] = "unchecked"
    if allow_nonfinite:
        changes["nonfinite"] = "allow"
    if rest is not None:
        changes["rest"] = rest
    if is_mixture_file(recipe):
        options.only_with(
            context, False, "a merge recipe", "as_lora", "unchecked_vocabulary", "allow_nonfinite", "rest"
        )
        _mixture(recipe, out, seed, size, threads, device, verify, allow_pickle, overwrite, json_output)
        return
    loaded = load_recipe(recipe)
    plan = plan_merge(loaded.model_copy(update=changes).located(loaded.where, loaded.folder), allow_pickle=allow_pickle)
    if as_lora is not None:
        report = write_adapter(
            plan,
            out,
            as_lora,
            overwrite=overwrite,
            max_bytes=size,
            threads=threads,
            device=device,
            verify=verify,
            factors_only=factors_only,
        )
        if json_output:
            held = {"tensors": len(report.tensors), "bytes_written": report.nbytes, **report.summary()}
            options.print_json({"out": str(out), "method": plan.method.name, "verified": verify, **held})
        else:
            size_text = options.size_text(report.nbytes)
            kept = f"{100 * (1 - report.relative_error**2):.4g}% of the change kept"
            error = f"relative error {report.relative_error:.3g}"
            tables.print_text(
                f"{out}: {plan.method.name} as a LoRA of rank {report.rank}, {size_text}, {kept} ({error})"
            )
        return
    run_plan(plan, out, overwrite=overwrite, shard_bytes=size, threads=threads, device=device, verify=verify)
    shown = describe(plan)
    if json_output:
        keys = ("method", "passes", "bytes_read", "bytes_written", "like", "kept", "left_out")
        answer = {key: shown[key] for key in keys}
        options.print_json({"out": str(out), "tensors": len(shown["steps"]), "verified": verify, **answer})
    else:
        count = len(set(plan.recipe.model_names()) - {plan.recipe.base})
        models = f"{count} model{'s' * (count != 1)}"
        tables.print_text(f"{out}: {shown['method']} of {models}, {options.size_text(shown['bytes_written'])}")


def _mixture(
    file: Path,
    out: Path,
    seed: int | None,
    shard_bytes: int,
    threads: int | None,
    device: str,
    verify: bool,
    allow_pickle: bool,
    overwrite: bool,
    json_output: bool,
) -> None:
    """Writes the mixture of experts that a file of `mergekit-moe` describes."""
    from genepool.merging import run_plan
    from genepool.merging.mixture import load_mixture, plan_mixture
    from genepool.tasks.prompt_states import PromptReader

    recipe = load_mixture(file)
    if seed is not None:
        recipe = recipe.model_copy(update={"seed": seed})
    reader = PromptReader(device)
    plan = plan_mixture(
        recipe, str(file), file.resolve().parent, hidden=reader.hidden_states, tokens=reader.token_numbers,
        allow_pickle=allow_pickle,
    )  # fmt: skip
    text = file.read_text(encoding="utf-8")
    run_plan(
        plan, out, overwrite=overwrite, shard_bytes=shard_bytes, threads=threads, device=device, verify=verify,
        sections={"Mixture": f"```yaml\n{text.strip()}\n```"}, files={"mixture.yaml": text},
    )  # fmt: skip
    written = sum(info.nbytes for info in plan.stored.values())
    kind = (plan.reference.config or {}).get("model_type")
    if json_output:
        answer = {"out": str(out), "architecture": kind, "experts": len(recipe.experts), "tensors": len(plan.stored)}
        options.print_json({**answer, "shared_experts": len(recipe.shared_experts), "bytes_written": written})
    else:
        tables.print_text(f"{out}: a mixture of {len(recipe.experts)} experts ({kind}), {options.size_text(written)}")
