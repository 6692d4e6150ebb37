"""The files of a project, as text: a recipe, a study and a training for a family of models, every key explained.

Each value stands beside what to change it for; other ways stand there as comments. Uses nothing but the family.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from genepool.projects.family import Family

# Up to this many models, halves of all changes add up to a model that still answers as the base does; of more, what
# they disagree about has to be settled. Measured on the testbed: four skills gain nothing by TIES, six do.
_FEW = 4
_GROUPS = 4
EVALUATIONS = 200


@dataclass(frozen=True)
class Chosen:
    """How a family is merged, unless the user says otherwise.

    Attributes:
        method: the merge method.
        parameters: its parameters, each with what to change it for.
        why: the reason for the method, as a sentence.
        others: other methods worth trying, each with its parameters in a line, and a word on when.
    """

    method: str
    parameters: tuple[tuple[str, str, str], ...]
    why: str
    others: tuple[tuple[str, str, str], ...]


def choose(family: Family) -> Chosen:
    """The method for the number of models."""
    few = ("task_arithmetic", "{lambda: 0.5}", "adds the changes up: a good start for two to four models")
    ties = (
        "ties",
        "{density: 0.5, lambda: 1.0}",
        "settles signs that disagree: for more models, or when they conflict",
    )
    dare = ("dare_ties", "{density: 0.5, lambda: 0.7}", "drops entries at random: for many full fine-tunes")
    strength = ("lambda", "0.5", "how much of the changes; more: stronger skills, and more is forgotten")
    if len(family.members) == 1:
        why = "One model: the recipe sets how much of its change is kept (0 is the base, 1 the model itself)."
        return Chosen("task_arithmetic", (strength,), why, ())
    if len(family.members) <= _FEW:
        return Chosen("task_arithmetic", (strength,), f"{few[0]} {few[2]}.", (ties, dare))
    density = ("density", "0.5", "share of each change's entries that is kept, the largest; less where models conflict")
    scale = ("lambda", "1.0", strength[2])
    return Chosen("ties", (density, scale), f"{ties[0]} {ties[2]}.", (few, dare))


def recipe_text(family: Family, place: Callable[[str], str]) -> str:
    """recipe.yaml.

    Args:
        family: the models.
        place: a model's name as it is found from the file's folder.
    """
    chosen = choose(family)
    lines = [
        "# A merge: `genepool plan` checks this file, `genepool merge` carries it out.",
        "# All keys: docs/reference/recipe.md; all methods: genepool methods.",
        "genepool: 1          # the version of this format",
        f"# {chosen.why}",
        f"method: {chosen.method}",
        f"base: {_text(place(family.base))}   # what the models were made from",
        "models:              # one with less say: {model: NAME, parameters: {weight: 0.5}}",
        *(f"  - model: {_text(place(one.model))}" for one in family.members),
        "parameters:",
        *(f"  {name}: {value}   # {change}" for name, value, change in chosen.parameters),
    ]
    if chosen.others:
        lines += ["#", "# Instead of the method and its parameters above:"]
        for method, parameters, when in chosen.others:
            lines += [f"#   {method} {when}", f"# method: {method}", f"# parameters: {parameters}"]
    lines += ["#", "# dtype: bfloat16      # what the result is stored as; as the models are when left out"]
    return "\n".join(lines) + "\n"


def study_text(family: Family, place: Callable[[str], str]) -> str:
    """study.yaml."""
    chosen = choose(family)
    groups = min(family.layers, _GROUPS)
    per = f"per: {{layer_groups: {groups}}}"
    lines = [
        "# A search for a better merge: `genepool plan` checks this file, `genepool evolve` carries it out.",
        "# All keys: docs/reference/study.md; all strategies: genepool strategies.",
        "study: 1             # the version of this format",
        f"base: {_text(place(family.base))}",
        "skills:              # the names are those of tables and of the numbers found",
    ]
    if len(family.members) == 1:
        (one,) = family.members
        lines += [
            f"  - {{name: base, model: {_text(place(family.base))}}}",
            f"  - {{name: {_text(_apart(one.name))}, model: {_text(place(one.model))}}}",
            "vary:",
            "  kind: merge_parameters",
            "  # How far from the base to the model, for each group of layers: the two weights sum to 1.",
            "  method: linear",
            "  search:",
            f"    weight: {{low: 0.0, high: 1.2, start: 0.5, sum: 1, {per}}}",
        ]
    else:
        ties = chosen.method == "ties"
        start, high = ("1.0", "2.0") if ties else ("0.5", "1.2")
        fixed = "{density: 0.5, lambda: 1.0, scope: tensor}" if ties else "{lambda: 1.0}"
        lines += [
            *(f"  - {{name: {_text(_apart(one.name))}, model: {_text(place(one.model))}}}" for one in family.members),
            "vary:",
            "  kind: merge_parameters",
            f"  method: {chosen.method}   # the recipe's; any that takes a weight for each model will do",
            f"  parameters: {fixed}   # what stays as it is",
            "  search:            # a weight for each model and group of layers; fewer groups: a coarser search",
            f"    weight: {{low: 0.0, high: {high}, start: {start}, {per}}}",
        ]
    lines += [
        "tasks:",
        "  dir: tasks         # your tasks; the example there is to be replaced",
        "  valid: 64          # validation examples of each task that score a candidate; more: surer, and slower",
        "  # weights: {generic: 2}   # a task that counts twice, such as one for what must not be forgotten",
        "strategy:            # name: random_search shows what luck alone would find; it has no options",
        "  name: cma_es",
        "  options: {population: 4}   # candidates of a generation; more: steadier, for budgets of a thousand",
        "budget:",
        f"  evaluations: {EVALUATIONS}   # candidates in all; some ten for each number that is searched, at least",
        "  # minutes: 60      # or an hour, whichever comes first",
        "finalists: 5         # the best five are judged again on every validation example",
        "seed: 0              # the same seed gives the same winner",
    ]
    return "\n".join(lines) + "\n"


def training_text(family: Family, place: Callable[[str], str], task: str) -> str:
    """training.yaml."""
    lines = [
        "# Teaching the base one ability more: `genepool plan` checks this file, `genepool train` carries it out.",
        "# All keys: docs/reference/training.md.",
        "train: 1             # the version of this format",
        f"base: {_text(place(family.base))}",
        f"tasks: [tasks/{task}]   # what is taught, by its train.jsonl",
        "form: lora           # or full: every tensor",
        "lora: {rank: 8}      # more: room for more, and a larger adapter",
        "steps: 200           # at most; it stops earlier when the validation loss no longer falls",
        "batch: 8             # examples in a step",
        "seed: 0",
    ]
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    """A name as YAML takes it, whatever it holds."""
    return json.dumps(value, ensure_ascii=False)


def _apart(name: str) -> str:
    """A member's name in a study, where "base" is taken."""
    return f"{name}-tuned" if name == "base" else name
