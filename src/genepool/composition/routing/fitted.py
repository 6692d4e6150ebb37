"""Training the router of a composition of experts: its tensors move, and everything else stays as it is.

Uses `module_fit`, `shares` and `adapter_composition`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from genepool.composition.branches import check_branches
from genepool.composition.inputs import TaskInputs, labelled_inputs, own_answers
from genepool.composition.module_fit import fit_modules
from genepool.composition.routing.adapter_composition import AdapterComposer, AdapterComposition
from genepool.composition.routing.router_options import RouterFitOptions
from genepool.composition.routing.shares import shares_of_tasks
from genepool.composition.skill_set import SkillSet
from genepool.composition.world import World
from genepool.tasks.network import Network
from genepool.threads import torch_threads
from genepool.training.run import sensible_threads


def zeros(network: Network, *shape: int) -> torch.nn.Parameter:
    """A parameter that starts at 0, beside a network, float32."""
    return torch.nn.Parameter(torch.zeros(shape, device=network.device))


def learned_from(world: World, options: RouterFitOptions) -> list[TaskInputs]:
    """The inputs of a fit: with right answers, or with those of each skill where no labels are asked for."""
    if options.objective == "likelihood":
        return labelled_inputs(world)
    world.check_owned()
    return own_answers(world, check=options.check_inputs)


def fit_router(
    composer: AdapterComposer[Any],
    world: World,
    start: Mapping[str, torch.nn.Parameter],
    *,
    kind: type[AdapterComposition] = AdapterComposition,
    skills: SkillSet | None = None,
    record: Mapping[str, Any] | None = None,
) -> AdapterComposition:
    """Trains the tensors of a router, or goes on with a training that was stopped.

    Args:
        composer: whose router it is; its options are those of a fit.
        world: the skills and the tasks.
        start: what is trained, by name.
        kind: of the composition.
        skills: the experts; the world's when None.
        record: what is told beside the fit.

    Raises:
        InputError: a skill is no LoRA of linear layers, or nothing can be learned from the examples.
    """
    experts = world.skills if skills is None else skills
    check_branches(experts)
    options: RouterFitOptions = composer.options
    with torch_threads(sensible_threads(world.skills.base)):
        inputs = learned_from(world, options)
        model: Any = kind(composer, experts, {}, start).apply(world.network)
        try:
            named = {"composer": composer.name, "options": options.model_dump(mode="json")}
            named["experts"] = [one.fingerprint for one in experts.skills]
            told = fit_modules(world, model, start, options, named, inputs=inputs)
            told |= {**(record or {}), **shares_of_tasks(model, world)}
        finally:
            model.remove()
    world.network.assign(world.skills.base)
    return kind(composer, experts, told, {name: one.detach().cpu() for name, one in start.items()})
