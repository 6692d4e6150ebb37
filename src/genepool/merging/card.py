"""What goes beside a merged model: the recipe, a machine-readable record, and the model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import yaml

from genepool.merging.mixture.weights import ExpertMixture
from genepool.merging.nesting import inner_plans
from genepool.merging.plan import Plan
from genepool.weights import BaseWithHead

# Of the settings and files that a card names one by one; `genepool.json` has all.
_SHOWN = 20


def recipe_yaml(plan: Plan) -> str:
    """The recipe as genepool's own YAML, whichever dialect it was written in."""
    return yaml.safe_dump(plan.recipe.to_dict(), sort_keys=False, allow_unicode=True)


def record(plan: Plan, fingerprint: str | None = None, adapter: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`genepool.json`: what made this model, for programs.

    Args:
        plan: the merge.
        fingerprint: of the result as written, when it was computed.
        adapter: what a merge that was written as an adapter holds and loses.
    """
    answer = {
        "schema": 1,
        "genepool": version("genepool"),
        "method": plan.method.name,
        "recipe": plan.recipe.to_dict(),
        "base": plan.recipe.base,
        "models": [name for name in _models(plan) if name != plan.recipe.base],
        "leaf_models": _leaf_models(plan),
        "like": plan.layout.reference,
        "kept": plan.layout.kept,
        "left_out": plan.layout.left_out,
        "fingerprint": fingerprint,
    }
    if adapter is None:
        return {**answer, **plan.goes_along()}
    # An adapter carries the head that its base lacks, and PEFT keeps no names of classes.
    head = {"head": plan.reference.head.to_dict()} if isinstance(plan.reference, BaseWithHead) else {}
    return {**answer, **head, "adapter": adapter}


def model_card(plan: Plan, sections: Mapping[str, str] | None = None, *, adapter: bool = False) -> str:
    """README.md of a merged model, with the metadata the Hugging Face hub understands.

    Args:
        plan: the merge.
        sections: further sections, title -> Markdown, put before the recipe (scores, cost).
        adapter: whether it is the card of an adapter of the base.
    """
    names = _models(plan)
    front = {
        "base_model": plan.recipe.base if adapter else _leaf_models(plan),
        "base_model_relation": "adapter" if adapter else "merge",
        "library_name": "peft" if adapter else "transformers",
        "tags": [*(["lora"] if adapter else []), "merge", "genepool", plan.method.name],
    }
    base = [f"Base: `{plan.recipe.base}`{_made_of(plan, plan.recipe.base)}", ""] if plan.recipe.base else []
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# A {plan.method.name} merge",
        "",
        f"Made with genepool {version('genepool')} by `{plan.method.name}` ({plan.method.source}).",
        "",
        *base,
        "Merged from:",
        "",
        *(f"- `{name}`{_made_of(plan, name)}" for name in names if name != plan.recipe.base),
        "",
        *_renamed(plan),
    ]
    if remarks := plan.layout.remarks():
        lines += ["Not merged:", "", *(f"- {line}" for line in remarks), ""]
    for title, text in {**(sections or {}), **({} if adapter else _goes_along(plan))}.items():
        lines += [f"## {title}", "", text.strip(), ""]
    lines += ["## Recipe", "", "```yaml", recipe_yaml(plan).strip(), "```", ""]
    return "\n".join(lines)


def _models(plan: Plan) -> list[str]:
    """The models that the recipe names; of a mixture those that its experts and its base are of."""
    mixture = plan.reference
    if isinstance(mixture, ExpertMixture):
        return list(dict.fromkeys(weights.name for weights in (mixture.base, *mixture.experts)))
    return list(plan.recipe.model_names())


def _leaf_models(plan: Plan) -> list[str]:
    return _models(plan) if isinstance(plan.reference, ExpertMixture) else plan.recipe.leaf_models()


def _renamed(plan: Plan) -> list[str]:
    """What to say of models whose files have another layout than the result."""
    renamings = plan.renamings()
    if not renamings:
        return []
    return [
        f"Names and shapes of tensors are those of `{plan.reference.name}`; in other files they differ:",
        "",
        *(f"- `{name}`: {renaming.text('`')}" for name, renaming in renamings.items()),
        "",
    ]


def _goes_along(plan: Plan) -> dict[str, str]:
    """The sections on quantised models, on the configs' differences, and on the files that went along or stayed."""
    said, sections = plan.goes_along(), {}
    if dequantised := said["dequantised"]:
        sections["Quantised models"] = "\n".join(f"- `{name}` is {what}" for name, what in dequantised.items())
    if differing := plan.config_differences:
        rows = "\n".join(f"- `{one.key}`{str(one).removeprefix(one.key)}" for one in differing[:_SHOWN])
        more = f"\n- and {len(differing) - _SHOWN} more, in `genepool.json`" if len(differing) > _SHOWN else ""
        whose = f"the result has that of `{said['config_of']}`, and the tokenizer of `{said['tokenizer_of']}`"
        sections["Config"] = f"The models' configs differ; {whose}.\n\n{rows}{more}"
    if joined := said.get("vocabulary"):
        rows = "\n".join(
            f"- `{name}` has {one['has']:,} of them; {one['filled']:,} rows are filled in"
            for name, one in joined["models"].items()
        )
        sections["Vocabulary"] = (
            f"The models were brought into one vocabulary of {joined['tokens']:,} tokens.\n\n{rows}"
        )
    if said["carried"] or said["left"]:
        files = ", ".join(f"`{name}`" for name in said["carried"]) or "none"
        left = "".join(f"\n- `{name}` stayed behind: {why}" for name, why in list(said["left"].items())[:_SHOWN])
        sections["Files"] = f"Beside the weights: {files}.\n{left}"
    return sections


def _made_of(plan: Plan, name: str) -> str:
    """What to say behind a model that is itself a merge."""
    inner = inner_plans(plan).get(name)
    if inner is None:
        return ""
    models = ", ".join(f"`{model}`" for model in inner.recipe.model_names())
    return f", a {inner.method.name} merge of {models} made in passing"


def extra_files(
    plan: Plan,
    *,
    fingerprint: str | None = None,
    sections: Mapping[str, str] | None = None,
    adapter: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """The three files, name -> text; and settings of writing, where those that go along would have wrong ids."""
    written = plan.generation_config() if adapter is None else None
    return {
        **({"generation_config.json": json.dumps(written, indent=2) + "\n"} if written is not None else {}),
        "recipe.yaml": recipe_yaml(plan),
        "genepool.json": json.dumps(record(plan, fingerprint, adapter), indent=2, ensure_ascii=False) + "\n",
        "README.md": model_card(plan, sections, adapter=adapter is not None),
    }
