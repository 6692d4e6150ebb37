"""The models that stand before a task, among which a learner may choose what the task begins with. Uses sessions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from genepool.tasks import open_model
from genepool.tasks.network import Network
from genepool.training.continual.compute import ComputeMeter
from genepool.training.continual.folder import LearnedTask
from genepool.training.continual.session import EarlierModel
from genepool.training.opened_training import OpenedTraining
from genepool.training.states import States
from genepool.weights import open_weights

if TYPE_CHECKING:
    import torch


def earlier_models(opened: OpenedTraining, done: Sequence[LearnedTask], device: str) -> list[EarlierModel]:
    """The base and what every task so far trained: what the next one may begin with.

    Args:
        opened: the recipe, opened.
        done: the tasks so far.
        device: torch's name of the device.
    """

    def embedding(part: Path | None) -> Callable[[ComputeMeter, Sequence[str]], torch.Tensor]:
        def embed(meter: ComputeMeter, prompts: Sequence[str]) -> torch.Tensor:
            weights = opened.base if part is None else open_weights(str(part), base=opened.base)
            model = open_model(weights).load(device, opened.recipe.dtype)
            if isinstance(model, Network):
                meter.watch(model.model)
            return model.embeddings(prompts)

        return embed

    def values(one: LearnedTask) -> dict[str, torch.Tensor]:
        states = States(one.folder)
        state = states.load(states.kept()[-1])
        return {key: tensor for key, tensor in state.items() if key.startswith("value:")}

    earlier = [EarlierModel(embedding(one.trained), partial(values, one)) for one in done]
    return [EarlierModel(embedding(None)), *earlier]
