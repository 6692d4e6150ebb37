"""L2M: tasks are learned one after the other into a pool of modulators, and each prompt takes the nearest one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import Field

from genepool import progress
from genepool.composition.composer import Composer, register
from genepool.composition.composition import Composition, Saved
from genepool.composition.linear_layers import outlined_layers
from genepool.composition.module_fit import ModuleFitOptions, fit_modules
from genepool.composition.residence import Residence, plan_kept
from genepool.composition.skill_set import SkillSet
from genepool.composition.world import World
from genepool.errors import InputError
from genepool.tasks.models import Model, open_model
from genepool.tasks.network import Network

if TYPE_CHECKING:
    import torch

    from genepool.composition.context.modulators import AttachedPool
    from genepool.composition.context.weighed_model import WeighedModel
    from genepool.tasks.answers import AnswerBatch


class L2mOptions(ModuleFitOptions):
    """Options of L2M."""

    modulators: int = Field(default=30, ge=1, le=1000, description="Modulators in the pool (the authors' code).")
    rank: int = Field(default=8, ge=1, le=1024, description="Rank of each (their configuration; the class has 4).")
    match: float = Field(
        default=1.0, ge=0, le=1e6, description="Weight of minus the cosine of a prompt's state and its modulator's key."
    )
    learning_rate: float = Field(
        default=3e-3, gt=0, le=10, description="The first step size of Adam in a task, which falls to 0 (ours)."
    )
    steps: int = Field(default=300, ge=1, le=10**6, description="Steps for each task, at most.")


@register(
    "l2m",
    source="Schmied et al., L2M, arXiv:2306.14884: 30 LoRA modulators of rank 8, alpha twice the rank, keys from U(-1, "
    "1), the nearest one by cosine; steps and their size are ours",
    when="Tasks come one after the other, and none is to be forgotten or named when it is asked.",
    needs="answers",
    gradients=True,
    out="module",
    cost="a backward pass of the network for each step of each task, beside factors of all modulators",
    skills=(1, None),
)
class L2m(Composer[L2mOptions]):
    """`h = W0 x + 2 B_m A_m x`, where m is the modulator whose key is nearest to the prompt's state.

    Tasks are learned in the order of the skills, whose tasks they are: a skill shows what is right in its episodes, a
    task with answers says it itself. The skills themselves are not used after that.
    """

    def plan(self, skills: SkillSet, dtype: str) -> Residence:
        widths = sum(layer.inputs + layer.outputs for layer in outlined_layers(skills.base).values())
        pool = widths * self.options.modulators * self.options.rank
        # Each number with its gradient and Adam's two moments, and once more as the best state.
        return plan_kept(skills, 5 * 4 * pool, gradient=True, dtype=dtype)

    def fit(self, world: World) -> Composition:
        import torch

        from genepool.composition.context.modulators import new_pool
        from genepool.composition.context.states import PromptStates
        from genepool.composition.inputs import inputs_in_order

        options, skills = self.options, world.skills
        inputs = inputs_in_order(world)
        states = PromptStates(world.network, hidden=True)
        width = states.of([inputs[0].questions[0].prompt]).shape[1]
        pool = new_pool(world.network, width, options.modulators, options.rank, world.seed)
        model = L2mComposition(self, skills, {}, pool).apply(world.network)
        taken = torch.zeros(options.modulators, device=world.network.device)
        told: dict[str, Any] = {}
        try:
            for number, task in enumerate(inputs):
                progress.message(f"{self.name}: task {number + 1} of {len(inputs)}, {task.name}")
                model.counts = taken.clone() if number else None
                part = copy.copy(world)
                part.work = None if world.work is None else world.work / str(number)
                named = {"composer": self.name, "options": options.model_dump(mode="json"), "before": list(told)}
                record = fit_modules(
                    part, model, pool, options, named, inputs=[task], penalty=_distance(model, options.match)
                )
                prompts = [task.questions[at].prompt for at in task.learn]
                with torch.no_grad():
                    own = model.pool.one_hot(states.of(prompts), model.counts)
                taken += own.sum(0)
                told[task.name] = {**record, "modulators": {str(at): int(n) for at, n in enumerate(own.sum(0)) if n}}
        finally:
            model.remove()
        world.network.assign(skills.base)
        record = {"tasks": told, "seed": world.seed}
        return L2mComposition(self, skills, record, {name: one.detach().cpu() for name, one in pool.items()})

    def restore(self, saved: Saved) -> Composition:
        options = self.options
        tensors = {"keys": saved.tensor("keys", (options.modulators, None))}
        for name in saved.labels.get("layers", ()):
            tensors[f"down/{name}"] = saved.tensor(f"down/{name}", (options.modulators, options.rank, None))
            tensors[f"up/{name}"] = saved.tensor(f"up/{name}", (options.modulators, options.rank, None))
        return L2mComposition(self, saved.skills, saved.record, tensors)


class L2mComposition(Composition):
    """A pool beside the base.

    Args:
        composer, skills, record: as for `Composition`.
        tensors: of the pool.
    """

    composer: L2m

    def __init__(
        self, composer: L2m, skills: SkillSet, record: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
    ) -> None:
        super().__init__(composer, skills, record)
        self._tensors = dict(tensors)

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {name: tensor.detach() for name, tensor in self._tensors.items()}

    @property
    def labels(self) -> Mapping[str, list[str]]:
        layers = [name.removeprefix("up/") for name in self._tensors if name.startswith("up/")]
        return {"layers": layers, "modulators": [str(at) for at in range(len(self._tensors["keys"]))]}

    @property
    def kind(self) -> type[Model]:
        from genepool.composition.context.modulated_model import modulated_kind

        return modulated_kind(open_model(self.skills.base).kind)

    def apply(self, network: Network) -> Any:
        from genepool.composition.context.modulated_model import modulated_kind
        from genepool.composition.context.modulators import AttachedPool, modulated_layers
        from genepool.composition.context.states import PromptStates

        layers = modulated_layers(network)
        for name, layer in layers.items():
            found = [self._tensors.get(f"{side}/{name}") for side in ("down", "up")]
            if [None if one is None else one.shape[2] for one in found] != [layer.inputs, layer.outputs]:
                raise InputError("its pool is of other layers than the base", where=self.name, fix="Compose it again")
        scale = 2.0
        held = {name: one.to(network.device) for name, one in self._tensors.items()}
        pool: AttachedPool = AttachedPool(network, held, scale)
        kind = modulated_kind(type(network))
        return kind(network, pool, PromptStates(network, hidden=True), self.name, self.fingerprint)

    def fold(self) -> NoReturn:
        """Refused: it chooses by what it reads."""
        raise InputError(
            "chooses by what it reads, and no weights of a model do the same",
            where=self.name,
            fix="Use the folder as it is",
        )


def _distance(model: WeighedModel, weight: float) -> Any:
    """Minus the cosine of each prompt's state and the key of its modulator, which draws the key there."""
    if not weight:
        return None

    def penalty(batch: AnswerBatch) -> torch.Tensor:
        return -weight * model.cosines(batch).mean()  # type: ignore[attr-defined, no-any-return]

    return penalty
