"""Arms of compositions with modules beside frozen models: two parents of one pair, and tasks that are told.

`calm` and `x_cross` are given the two specialists that a pair of skills is made of, and examples of the pair. Tasks
that are told are asked of a classifier with a part for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks.claims.worlds import Scores
from benchmarks.composition.bed import PAIR_TASKS, Bed, timed
from benchmarks.composition.cells import Cell
from genepool.composition import Composition, make_composer, open_skills
from genepool.composition import World as Given
from genepool.composition.module_fit import ModuleFitOptions, fit_modules
from genepool.tasks.models import LoadedSource
from genepool.training.fit import drawing


def composed(
    bed: Bed, method: str, skills: Sequence[str], tasks: Sequence[str], examples: int, base: str
) -> Composition:
    """What a composer makes of some models.

    Args:
        bed: the testbed.
        method: the composer, with its defaults.
        skills: paths of models.
        tasks: what it is given.
        examples: of each.
        base: the path of the base.
    """
    composer = make_composer(method, {})
    opened = open_skills(base, list(skills), members=composer.members)
    return composer.fit(Given(opened, [bed.tasks[task] for task in tasks], examples=examples, seed=bed.seed))


def each_pair(bed: Bed, examples: int, method: str) -> Cell:
    """One composition for each pair of skills, of its two specialists, and asked about the pair alone.

    With CALM the specialist of the second skill attends to that of the first, whose work comes before its own.
    """
    scores: Scores = {}
    total = 0.0
    for pair in bed.pairs:
        first, second = (str(bed.bed.full[part]) for part in PAIR_TASKS[pair])
        parents = ([first], second) if method == "calm" else ([first, second], str(bed.bed.base))
        fit = partial(composed, bed, method, parents[0], [pair], examples, parents[1])
        made, seconds = timed(fit)
        scores |= bed.ask(made.source(), (pair,))
        total += seconds
    return Cell(scores, total)


def lora_of_each_pair(bed: Bed, examples: int) -> Cell:
    """What CALM has to be seen beside: the second specialist of each pair with a LoRA of about as many trained numbers.

    It is trained as CALM's connections are, on the same examples, and needs no other model.
    """
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    scores: Scores = {}
    total, rank = 0.0, 0
    for pair in bed.pairs:
        first, second = (str(bed.bed.full[part]) for part in PAIR_TASKS[pair])
        opened = open_skills(second, [first], members="models")
        world = Given(opened, [bed.tasks[pair]], examples=examples, seed=bed.seed)
        network: Any = world.network
        layers = {name: one for name, one in network.model.named_modules() if "layers." in name}
        linear = {name: one for name, one in layers.items() if isinstance(one, torch.nn.Linear)}
        width = network.model.config.hidden_size
        wanted = make_composer("calm", {}).options.connections * (5 * width**2 + 5 * width)
        rank = max(1, round(wanted / sum(sum(one.weight.shape) for one in linear.values())))
        with drawing(bed.seed, 0, "lora"):
            inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(linear)), network.model)
        trained = {name: one for name, one in network.model.named_parameters() if "lora_" in name}
        _, seconds = timed(partial(fit_modules, world, network, trained, ModuleFitOptions(), {}))
        scores |= bed.ask(LoadedSource(network), (pair,))
        total += seconds
    return Cell(scores, total, {"rank": rank})


def told_tasks(bed: Bed, examples: int, method: str, frozen: bool) -> Cell:
    """One composition for all skills' tasks, each asked of its own part.

    Args:
        bed: the testbed.
        examples: of each task.
        method: the composer.
        frozen: it is given the base alone, instead of all specialists.
    """
    base = str(bed.bed.base)
    skills = [base] if frozen else [str(bed.bed.full[skill]) for skill in bed.skills]
    tasks = bed.skills
    made, seconds = timed(partial(composed, bed, method, skills, tasks, examples, base))
    scores: Scores = {}
    for task in tasks:
        scores |= bed.ask(made.for_task(task).source(), (task,))
    return Cell(scores, seconds)
