"""Adapters that prompts retrieve by their states: beside a network in training, and what stands after some tasks.

The factors of the task that is learned are cut into adapters of equal rank; those of earlier tasks stand still beside
them. What comes out is no change of weights but a pool, which the composer `slm` answers with; compositions stand in a
later room, so whoever starts a run says how one is written. Uses torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError

if TYPE_CHECKING:
    import torch

    from genepool.training.continual.lesson_place import LessonPlace
    from genepool.training.opened_training import OpenedTraining
    from genepool.training.recipe import Training
    from genepool.weights import Weights


@dataclass(frozen=True)
class LearnedPool:
    """The adapters of some tasks, and the keys that prompts retrieve them by.

    Attributes:
        tensors: `keys`, (adapters, width of a state); of the matrix NAME of each linear layer `down/NAME`, (adapters,
            rank, inputs), and `up/NAME`, (adapters, rank, outputs).
        composer: the name of the composer that answers with them.
        options: of it, as plain data.
    """

    tensors: Mapping[str, torch.Tensor]
    composer: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class PoolOnBase:
    """A pool with the model that it stands beside.

    Attributes:
        pool: the adapters and their keys.
        base: the model.
        reference: what the user calls it.
        tasks: whose adapters these are, in the order in which they were learned.
        record: how it was made, as plain data.
    """

    pool: LearnedPool
    base: Weights
    reference: str
    tasks: tuple[str, ...]
    record: Mapping[str, Any]

    @classmethod
    def after(cls, opened: OpenedTraining, pool: LearnedPool, steps: Mapping[str, int]) -> PoolOnBase:
        """What stands after some tasks.

        Args:
            opened: the recipe, opened.
            pool: the adapters of these tasks.
            steps: of each task, in the order in which they were learned.
        """
        recipe = opened.recipe
        told = {"learner": recipe.learner, "tasks": {name: {"steps": one} for name, one in steps.items()}}
        return cls(pool, opened.base, recipe.base, tuple(steps), {**told, "seed": recipe.seed})


#: Writes a pool as a composition, a folder, replacing what is there.
WritePool = Callable[[PoolOnBase, Path], object]


def check_writer(recipe: Training, write_pool: WritePool | None) -> None:
    """Refuses a learner whose result is a composition where nobody writes one.

    Raises:
        InputError: so it is.
    """
    if write_pool is None and recipe.made_learner().retrieves:
        raise InputError(
            f"the result of the learner {recipe.learner} is a composition, and nobody is named who writes one",
            where="write_pool",
            fix="Call `genepool.train`, or pass `write_learned_pool` of genepool.composition.learned_pool",
        )


@dataclass(frozen=True)
class FactorLayer:
    """A linear layer with factors beside it, as PEFT has it.

    Attributes:
        matrix: the name of the layer's matrix in the network.
        module: the layer.
        down, up: names of A, (rank, inputs), and B, (outputs, rank), among what is trained.
        scale: what the product is multiplied by.
    """

    matrix: str
    module: Any
    down: str
    up: str
    scale: float


def factor_layers(place: LessonPlace) -> list[FactorLayer]:
    """The layers of a network in training that have factors.

    Args:
        place: the task.

    Raises:
        InputError: something else is trained too, such as a head.
    """
    names = {id(parameter): name for name, parameter in place.parameters.items()}
    found = []
    for path, module in place.model.model.named_modules():
        if "default" in getattr(module, "lora_A", {}):
            down, up = (names.pop(id(getattr(module, one)["default"].weight)) for one in ("lora_A", "lora_B"))
            found.append(FactorLayer(f"{path}.weight", module, down, up, float(module.scaling["default"])))
    if names:
        raise InputError(
            f"{next(iter(names.values()))} is trained too, and no prompt can retrieve it",
            where=place.model.title,
            fix="Name a base whose head is not trained, or another learner",
        )
    return found


class RetrievedFactors:
    """Factors in training, cut into adapters, beside those of earlier tasks; every line of a pass weighs them.

    Args:
        layers: of the network.
        adapters: how many the factors of a task are.
        before: `down/NAME` and `up/NAME` of earlier tasks' adapters, on the network's device; empty at the first task.

    Attributes:
        weights: of all adapters, earlier ones first, for each line of a pass, (lines, adapters); None: nothing is
            weighed, and earlier ones are not there.
    """

    weights: torch.Tensor | None

    def __init__(self, layers: Sequence[FactorLayer], adapters: int, before: Mapping[str, torch.Tensor]) -> None:
        self.weights, self._adapters, self._before = None, adapters, before
        for layer in layers:
            layer.module.lora_A["default"].register_forward_hook(self._gate(layer.matrix))
            if before:
                layer.module.register_forward_hook(self._add(layer.matrix))

    def _gate(self, name: str) -> Callable[..., torch.Tensor | None]:
        def gate(_module: Any, _inputs: Any, hidden: torch.Tensor) -> torch.Tensor | None:
            if self.weights is None:
                return None
            return _weighed(hidden, self.weights[:, -self._adapters :], name)

        return gate

    def _add(self, name: str) -> Callable[..., torch.Tensor | None]:
        down, up = self._before[f"down/{name}"].flatten(0, 1), self._before[f"up/{name}"].flatten(0, 1)

        def add(_module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
            if self.weights is None:
                return None
            hidden = inputs[0].to(down.dtype) @ down.T
            return output + (_weighed(hidden, self.weights[:, : -self._adapters], name) @ up).to(output.dtype)

        return add


def _weighed(hidden: torch.Tensor, weights: torch.Tensor, name: str) -> torch.Tensor:
    """What the A of several adapters give, each weighed by the line.

    Args:
        hidden: (lines, ..., adapters * rank), or (lines * tokens, adapters * rank).
        weights: (lines, adapters).
        name: of the layer's matrix, for errors.

    Raises:
        InputError: the layer is given other lines than the pass has.
    """
    lines, adapters = weights.shape
    if len(hidden) % lines or (len(hidden) != lines and hidden.dim() != 2):
        raise InputError(
            f"is given {len(hidden)} lines in a batch of {lines}, so it cannot be told which prompt each has",
            where=name,
            fix="Use another learner",
        )
    parts = hidden.reshape(lines, -1, adapters, hidden.shape[-1] // adapters)
    return (parts * weights.to(hidden)[:, None, :, None]).reshape(hidden.shape)


def cut(values: Mapping[str, torch.Tensor], layers: Sequence[FactorLayer], adapters: int) -> dict[str, torch.Tensor]:
    """Trained factors as the adapters of a pool, float32, on the processor.

    Args:
        values: of the factors, by name.
        layers: that they stand beside.
        adapters: how many they are cut into.

    Returns:
        `down/NAME`, (adapters, rank, inputs), and `up/NAME`, (adapters, rank, outputs), which has the scale in it.
    """
    found = {}
    for layer in layers:
        down, up = values[layer.down].float().cpu(), values[layer.up].float().cpu().T * layer.scale
        found[f"down/{layer.matrix}"] = down.reshape(adapters, -1, down.shape[1]).clone()
        found[f"up/{layer.matrix}"] = up.reshape(adapters, -1, up.shape[1]).clone()
    return found
