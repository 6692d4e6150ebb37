"""Which part of a model a recipe trains: factors, every tensor, a form of adapter, or the members of a reward model.

`session` asks here; the parts themselves stand in `trained`, `form_training` and `reward_factors`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from genepool.training.form_training import TrainedForm
from genepool.training.fresh_head import draw_head
from genepool.training.objectives.reward_model import RewardModelObjective
from genepool.training.reward_factors import RewardFactors
from genepool.training.trained import FullFineTune, LoraFactors, Trained
from genepool.weights import BaseWithHead

if TYPE_CHECKING:
    from genepool.tasks.network import Network
    from genepool.training.recipe import Training
    from genepool.weights import Weights


def trained_part(
    model: Network, weights: Weights, recipe: Training, tasks: Sequence[str], ask: Callable[[int | None], float]
) -> Trained:
    """The part that a recipe trains.

    Args:
        model: the base, loaded.
        weights: what it was loaded from.
        recipe: the training.
        tasks: names of the tasks that it learns.
        ask: as for `TrainedForm`.

    Raises:
        InputError: the model has no such part.
    """
    if isinstance(weights, BaseWithHead):
        draw_head(model, weights, recipe.seed)
    objective = recipe.made_objective()
    if isinstance(objective, RewardModelObjective):
        return RewardFactors(model, recipe.lora, weights, recipe.seed, objective.sets_of_factors)
    if recipe.form == "lora":
        return LoraFactors(model, recipe.lora, weights, recipe.seed)
    if recipe.form == "full":
        return FullFineTune(model, weights)
    return TrainedForm(model, recipe.made_form(tasks), weights, recipe.seed, ask)
