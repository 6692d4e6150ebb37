"""Digits specialists trained anew without replay, so that there is something to forget, with SeleKT or without.

SeleKT (NextCoder) cuts the change from the base back to its largest 5% at every save, here every ten steps.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch

from benchmarks.claims.stamp import stamp
from benchmarks.claims.worlds import Scores, World
from genepool.merging import plan_merge
from genepool.tasks.models.digits import DigitsModel
from genepool.testbed.digits.builder import train
from genepool.testbed.digits.images import TrainingImages
from genepool.testbed.digits.rearranging import choose
from genepool.testbed.schedule import Phase
from genepool.threads import torch_threads
from genepool.weights import TensorWeights, Weights

# As the testbed's own specialists, three times as long and of the task alone.
PHASE = Phase(180, 64, 7e-4)
STEPS_BETWEEN_SAVES = 10


def with_selekt(world: World, skill: str, tasks: Sequence[str]) -> Scores:
    """Test scores of the specialist that is cut back at every save."""
    return _scores(world, skill, tasks, selekt=True)


def without_selekt(world: World, skill: str, tasks: Sequence[str]) -> Scores:
    """Test scores of the specialist that is left alone."""
    return _scores(world, skill, tasks, selekt=False)


def _scores(world: World, skill: str, tasks: Sequence[str], *, selekt: bool) -> Scores:
    code = stamp("genepool.testbed.digits.builder", *(["genepool.merging.methods.selekt"] if selekt else []))
    base = world.sources["base"].fingerprint()
    phase = [PHASE.steps, PHASE.batch, PHASE.learning_rate, STEPS_BETWEEN_SAVES, world.seed, *world.skills]
    told_by = json.dumps(["keeping", skill, selekt, base, code, phase])
    return world.scores_of(lambda: _trained(world, skill, selekt), told_by, tasks, "test")


def _trained(world: World, skill: str, selekt: bool) -> Weights:
    base = world.sources["base"]
    model = DigitsModel.load(base)
    steps = 0

    def after_step() -> None:
        nonlocal steps
        steps += 1
        if selekt and steps % STEPS_BETWEEN_SAVES == 0:
            model.assign(_cut_back(world, model.model))

    batches = TrainingImages(choose(world.skills), world.seed).specialist_batches(skill, PHASE.replay)
    with torch_threads(1):
        train(model.model, batches, PHASE, after_step)
    return TensorWeights(_copy(model.model), "trained", config=base.config)


def _cut_back(world: World, model: torch.nn.Module) -> Weights:
    recipe = world.recipe("selekt", ["now"], {})
    now = TensorWeights(_copy(model), "now", config=world.sources["base"].config)
    weights = plan_merge(recipe, {"base": world.sources["base"], "now": now}).weights()
    return TensorWeights({name: weights.read(name) for name in weights.names()}, config=weights.config)


def _copy(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
