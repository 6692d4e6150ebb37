"""SLM: tasks are learned one after the other, each into adapters of its own, which are retrieved by each prompt."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn

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

    from genepool.composition.context.weighed_model import WeighedModel


class SlmOptions(ModuleFitOptions):
    """Options of SLM."""

    deltas: int = Field(default=4, ge=1, le=1000, description="Adapters of each task (the authors' code).")
    rank: int = Field(default=8, ge=1, le=1024, description="Rank of each (the authors' code).")
    chosen: int = Field(default=2, ge=1, le=1000, description="Adapters that answer a prompt (the authors' code).")
    groups: int = Field(
        default=6, ge=1, le=4096, description="Parts of a state that are compared with keys (the authors' code)."
    )
    keys: Literal["means", "orthogonal"] = Field(
        default="means",
        description="means: the means of clusters of a task's states; orthogonal: drawn at right angles, as the "
        "authors' code begins. Both stand still.",
    )
    learning_rate: float = Field(
        default=3e-3, gt=0, le=10, description="The first step size of Adam in a task, which falls to 0 (ours)."
    )
    steps: int = Field(default=300, ge=1, le=10**6, description="Steps for each task, at most.")


@register(
    "slm",
    source="Peng et al., Scalable Language Model with Generalized Continual Learning, ICLR 2024: 4 adapters of rank 8 "
    "for each task, the nearest 2 by cosine over 6 groups; keys by k-means, steps and their size are ours",
    when="Tasks come one after the other, none is to be forgotten, and no task is named when a prompt is asked.",
    needs="answers",
    gradients=True,
    out="module",
    cost="a backward pass of the network for each step of each task, beside the adapters of the tasks so far",
    skills=(1, None),
)
class Slm(Composer[SlmOptions]):
    """`W x + sum_i w_i B_i A_i x`, the adapters i being those whose keys are nearest to the prompt's state.

    The state is the mean of the base's last hidden states of the prompt, without any adapter; its cosine with a key is
    the mean over groups of its numbers, and w are the shares of the nearest ones. Every prompt retrieves by itself; the
    authors average over a batch, so that an answer there depends on its neighbours. While a task is learned, its own
    adapters move and those of earlier tasks stand still, but answer where they are nearer; the authors also leave out
    keys at random then, which is not done here. Tasks are learned in the order of the skills, whose tasks they are. The
    skills themselves are not used after that. `genepool train --learner slm` learns the same without skills.
    """

    def plan(self, skills: SkillSet, dtype: str) -> Residence:
        widths = sum(layer.inputs + layer.outputs for layer in outlined_layers(skills.base).values())
        pool = widths * self.options.deltas * self.options.rank
        # Of the task that is learned each number with its gradient, Adam's two moments and the best state.
        return plan_kept(skills, 4 * pool * (4 + len(skills.skills)), gradient=True, dtype=dtype)

    def fit(self, world: World) -> Composition:
        import torch

        from genepool.composition.context.modulators import new_pool
        from genepool.composition.context.states import PromptStates
        from genepool.composition.inputs import inputs_in_order
        from genepool.seeding import derive
        from genepool.training.retrieval import GrownPool, means_of_clusters, orthogonal_keys

        options, skills = self.options, world.skills
        inputs = inputs_in_order(world)
        states = PromptStates(world.network, hidden=True)
        before: dict[str, torch.Tensor] = {}
        told: dict[str, Any] = {}
        for number, task in enumerate(inputs):
            progress.message(f"{self.name}: task {number + 1} of {len(inputs)}, {task.name}")
            with torch.no_grad():
                own = states.of([task.questions[at].prompt for at in task.learn])
            if options.keys == "means" and len(own) < options.deltas:
                raise InputError(
                    f"has {len(own)} examples to learn from, fewer than it has adapters ({options.deltas})",
                    where=task.name,
                    fix="Give more --examples, or set a smaller `deltas`",
                )
            width = own.shape[1]
            drawn = new_pool(world.network, width, options.deltas, options.rank, derive(world.seed, "slm", number))
            with torch.no_grad():
                drawn["keys"].copy_(
                    means_of_clusters(own, options.deltas)
                    if options.keys == "means"
                    else orthogonal_keys(options.deltas, width, options.groups, world.seed, number)
                )
            pool = GrownPool(before, drawn)
            part = copy.copy(world)
            part.work = None if world.work is None else world.work / str(number)
            named = {"composer": self.name, "options": options.model_dump(mode="json"), "before": list(told)}
            trained = {name: one for name, one in drawn.items() if name != "keys"}
            model = SlmComposition(self, skills, {}, pool).apply(world.network)
            try:
                record = fit_modules(part, model, trained, options, named, inputs=[task])
                with torch.no_grad():
                    used = model.weights([task.questions[at].prompt for at in task.learn]).mean(0)
            finally:
                model.remove()
            before = {name: pool[name].detach().clone() for name in pool}
            told[task.name] = {**record, "weights": [round(float(one), 6) for one in used]}
        world.network.assign(skills.base)
        tensors = {name: one.detach().cpu() for name, one in before.items()}
        return SlmComposition(self, skills, {"tasks": told, "seed": world.seed}, tensors)

    @classmethod
    def check_saved(cls, skills: int, labels: Mapping[str, Sequence[str]], where: str) -> None:
        """See `Composer.check_saved`; where `genepool train` learned the adapters there are no skills."""
        if not labels.get("tasks"):
            cls.check_count(skills, where)

    def restore(self, saved: Saved) -> Composition:
        tasks = tuple(saved.labels.get("tasks", ())) or tuple(saved.skills.names)
        count, rank = self.options.deltas * len(tasks), self.options.rank
        tensors = {"keys": saved.tensor("keys", (count, None))}
        for name in saved.labels.get("layers", ()):
            tensors[f"down/{name}"] = saved.tensor(f"down/{name}", (count, rank, None))
            tensors[f"up/{name}"] = saved.tensor(f"up/{name}", (count, rank, None))
        if unknown := next((name for name in sorted(saved.tensors) if name not in tensors), None):
            raise InputError(
                "is of a layer that is not named", where=f"{saved.where}:{unknown}", fix="Compose it again"
            )
        return SlmComposition(self, saved.skills, saved.record, tensors, tasks)


class SlmComposition(Composition):
    """Adapters beside the base, and the keys that they are retrieved by.

    Args:
        composer, skills, record: as for `Composition`.
        tensors: of the pool: the very tensors, so that what moves them moves it.
        tasks: whose adapters these are, in the order in which they were learned; the skills' where none are named.
    """

    composer: Slm

    def __init__(
        self,
        composer: Slm,
        skills: SkillSet,
        record: Mapping[str, Any],
        tensors: Mapping[str, torch.Tensor],
        tasks: Sequence[str] = (),
    ) -> None:
        self.tasks = tuple(tasks or skills.names)
        super().__init__(composer, skills, record, f"{composer.name}({', '.join(self.tasks)})")
        self._tensors = tensors

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {name: self._tensors[name].detach() for name in self._tensors}

    @property
    def labels(self) -> Mapping[str, Sequence[str]]:
        layers = [name.removeprefix("up/") for name in self._tensors if name.startswith("up/")]
        return {"layers": layers, "adapters": self.adapters(len(self._tensors["keys"])), "tasks": self.tasks}

    def adapters(self, count: int) -> list[str]:
        """The names of the first adapters: each task's are numbered from 1 on."""
        own = self.composer.options.deltas
        return [f"{self.tasks[at // own]} {at % own + 1}" for at in range(count)]

    @property
    def kind(self) -> type[Model]:
        from genepool.composition.context.weighed_model import weighed_kind

        return weighed_kind(open_model(self.skills.base).kind)

    def apply(self, network: Network) -> WeighedModel:
        from genepool.composition.context.modulators import AttachedPool, modulated_layers
        from genepool.composition.context.states import PromptStates
        from genepool.composition.context.weighed_model import weighed_kind
        from genepool.training.retrieval import GroupedKeys

        layers = modulated_layers(network)
        for name in (name.removeprefix("up/") for name in self._tensors if name.startswith("up/")):
            found = [self._tensors[f"{side}/{name}"].shape[2] for side in ("down", "up")]
            if name not in layers or found != [layers[name].inputs, layers[name].outputs]:
                raise InputError(
                    "its adapters are of other layers than the base", where=self.name, fix="Compose it again"
                )
        options = self.composer.options
        keys = GroupedKeys(self._tensors["keys"].detach().to(network.device), options.groups, options.chosen)
        pool = AttachedPool(network, self._placed(network), 1.0)
        kind = weighed_kind(type(network))
        names = self.adapters(pool.skills)
        states = PromptStates(network, hidden=True)
        return kind(network, pool, keys.weights, states, "parameter", names, self.name, self.fingerprint)

    def _placed(self, network: Network) -> Mapping[str, torch.Tensor]:
        """The tensors where the network is; those that are trained are there already."""
        if isinstance(self._tensors, dict):
            return {name: one.to(network.device) for name, one in self._tensors.items()}
        return self._tensors

    def fold(self) -> NoReturn:
        """Refused: it chooses by what it reads."""
        raise InputError(
            "chooses by what it reads, and no weights of a model do the same",
            where=self.name,
            fix="Use the folder as it is",
        )
