"""CoTASP: tasks are learned one after the other into one network, each in neurons that its sparse code switches on."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import Field

from genepool import progress
from genepool.composition.composer import Composer, register
from genepool.composition.composition import Composition, Saved
from genepool.composition.known_task import KnownTaskComposition
from genepool.composition.module_fit import ModuleFitOptions, fit_modules
from genepool.composition.residence import Residence, plan_kept
from genepool.composition.skill_set import SkillSet
from genepool.composition.world import World
from genepool.errors import InputError
from genepool.tasks.models import check_kind, open_model
from genepool.tasks.models.policy import Policy
from genepool.tasks.network import Network
from genepool.weights import Change
from genepool.weights.in_memory import ResidentChange

if TYPE_CHECKING:
    import torch

_ALPHA = "alpha/"


class CotaspOptions(ModuleFitOptions):
    """Options of CoTASP."""

    sparsity: float = Field(
        default=1e-3,
        gt=0,
        le=1e3,
        description="Strength of the LASSO that a task's first code minimises (the authors').",
    )
    learning_rate: float = Field(
        default=3e-3, gt=0, le=10, description="The first step size of Adam in a task, which falls to 0 (ours)."
    )
    steps: int = Field(default=600, ge=1, le=10**6, description="Steps for each task, at most (ours).")
    batch: int = Field(default=64, ge=1, le=10**5, description="Inputs in a step, at most (ours).")


@register(
    "cotasp",
    source="Yang et al., CoTASP, arXiv:2305.18444: LASSO 1e-3 on a dictionary for each layer, a straight-through step, "
    "gradients times `1 - min(pre, post)`, the dictionary updated after each task; a task's name is hashed here to a "
    "vector, where they use a sentence encoder, and what they learn by rewards is shown by skills",
    when="Policies of many tasks are to live in one network, and learning one must not change another at all.",
    needs="answers",
    gradients=True,
    out="module",
    cost="a backward pass of the network for each step of each task",
    skills=(1, None),
)
class Cotasp(Composer[CotaspOptions]):
    """In each hidden layer `x *= step(alpha)`, one alpha for each task and layer; `FOLDER#TASK` is a task's policy.

    What earlier tasks use of the weights gets no gradient, so their policies stay as they are, to the bit.
    """

    def plan(self, skills: SkillSet, dtype: str) -> Residence:
        return plan_kept(skills, 0, gradient=True, dtype=dtype)

    def fit(self, world: World) -> Composition:
        import torch

        from genepool.composition.context.sparse_codes import (
            OnlineDictionary,
            new_dictionary,
            sparse_code,
            text_vector,
        )
        from genepool.composition.inputs import inputs_in_order

        options, skills = self.options, world.skills
        check_kind(Policy, open_model(skills.base), self.name)  # type: ignore[type-abstract]
        inputs = inputs_in_order(world)
        network = world.network
        layers = [f"layers.{number}" for number in range(len(network.model.layers))]
        width = network.model.shape.hidden
        dictionaries = {one: OnlineDictionary(new_dictionary(width, world.seed, one)) for one in layers}
        masks: dict[str, list[torch.Tensor]] = {one: [] for one in layers}
        told: dict[str, Any] = {}
        own = dict(network.model.named_parameters())
        for number, task in enumerate(inputs):
            progress.message(f"{self.name}: task {number + 1} of {len(inputs)}, {task.name}")
            vector = text_vector(task.name)
            codes = {one: sparse_code(vector, dictionaries[one].columns, options.sparsity) for one in layers}
            alphas = {
                one: torch.nn.Parameter(torch.tensor(code, dtype=torch.float32, device=network.device))
                for one, code in codes.items()
            }
            part = copy.copy(world)
            part.work = None if world.work is None else world.work / str(number)
            named = {"composer": self.name, "options": options.model_dump(mode="json"), "before": list(told)}
            used = {one: _used(masks[one], width) for one in layers}
            with switched(network, alphas), keeping(own, used, first=number == 0):
                parameters = {**own, **{f"{_ALPHA}{one}": alpha for one, alpha in alphas.items()}}
                record = fit_modules(part, network, parameters, options, named, inputs=[task])
            for one in layers:
                masks[one].append(switches(alphas[one].detach()))
                dictionaries[one].learn(vector, alphas[one].detach().double().cpu().numpy())
            told[task.name] = {**record, "neurons": {one: int(masks[one][-1].sum()) for one in layers}}
        weights = {name: parameter.detach().cpu().clone() for name, parameter in own.items()}
        network.assign(skills.base)
        found = {one: torch.stack(rows).cpu() for one, rows in masks.items()}
        record = {"tasks": told, "seed": world.seed}
        return CotaspComposition(self, skills, record, weights, found)

    def restore(self, saved: Saved) -> Composition:
        base = saved.skills.memory_base
        weights = {name: saved.tensor(f"weights/{name}", base.info(name).shape) for name in base.names()}
        masks = {}
        layers = [f"layers.{number}" for number in range(sum(name.startswith("layers.") for name in base.names()) // 2)]
        # Each mask is also that of what reads the layer, so one left out would be taken for another's.
        if list(saved.labels.get("layers", ())) != layers:
            raise InputError("its layers are not those of the base", where=saved.where, fix="Compose it again")
        for name in layers:
            width = base.info(f"{name}.weight").shape[0]
            masks[name] = saved.tensor(f"masks/{name}", (len(saved.skills.skills), width))
        return CotaspComposition(self, saved.skills, saved.record, weights, masks)


class CotaspComposition(KnownTaskComposition):
    """One network's weights, and which neurons of each hidden layer each task has.

    Args:
        composer, skills, record: as for `Composition`.
        weights: of the network, by name.
        masks: of each hidden layer, shape (tasks, width).
    """

    def __init__(
        self,
        composer: Cotasp,
        skills: SkillSet,
        record: Mapping[str, Any],
        weights: Mapping[str, torch.Tensor],
        masks: Mapping[str, torch.Tensor],
    ) -> None:
        super().__init__(composer, skills, record)
        self._weights, self._masks = dict(weights), dict(masks)

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        found = {f"weights/{name}": tensor for name, tensor in self._weights.items()}
        return found | {f"masks/{name}": tensor for name, tensor in self._masks.items()}

    @property
    def labels(self) -> Mapping[str, list[str]]:
        return {"skills": self.skills.names, "layers": list(self._masks)}

    def change_of(self, number: int) -> Change:
        base = self.skills.memory_base
        rows = {name: tensor[number] for name, tensor in self._masks.items()}
        found = task_weights(self._weights, rows)
        deltas = {name: tensor - base.read(name).float() for name, tensor in found.items()}
        return ResidentChange(deltas, base, f"{self.name}: {self.skills.names[number]}")


def task_weights(weights: Mapping[str, torch.Tensor], masks: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of the policy of one task: the rows of neurons that are off, and what reads them, are zero.

    Args:
        weights: of the network, by name.
        masks: which neurons of each hidden layer are on, in the order of the layers, shape (width,).
    """
    found = {name: tensor.clone() for name, tensor in weights.items()}
    readers = [*list(masks)[1:], "head"]
    for (layer, mask), reader in zip(masks.items(), readers, strict=True):
        found[f"{layer}.weight"] *= mask[:, None]
        found[f"{layer}.bias"] *= mask
        found[f"{reader}.weight"] *= mask
    return found


def switches(alpha: torch.Tensor) -> torch.Tensor:
    """1 for each neuron that is on, whose code is above 0; the strongest one where no code is. Shape (width,)."""
    import torch

    on = (alpha > 0).float()
    return on if bool(on.any()) else torch.nn.functional.one_hot(alpha.argmax(), len(alpha)).float()


@contextmanager
def switched(network: Network, alphas: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Inside, hidden layers give 0 for neurons that are off, and codes get the gradient of their switch.

    The gradient goes straight through the step where a code lies within 0 and 1 (the authors' code).
    """

    def hook(alpha: torch.Tensor) -> Any:
        def masked(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
            within = alpha.clamp(0, 1)
            return output * (switches(alpha.detach()) + (within - within.detach()))

        return masked

    handles = [network.model.get_submodule(name).register_forward_hook(hook(alpha)) for name, alpha in alphas.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def keeping(
    parameters: Mapping[str, torch.nn.Parameter], used: Mapping[str, torch.Tensor], *, first: bool
) -> Iterator[None]:
    """Inside, the gradient of what earlier tasks use is 0: it is multiplied by `1 - min(pre, post)`.

    Args:
        parameters: of the network, by name.
        used: the neurons of each hidden layer that earlier tasks use, in the order of the layers, shape (width,).
        first: there is no earlier task.
    """
    import torch

    handles: list[Any] = []
    # What is observed and what is done is of all tasks, so once there is one it is used.
    share = 0.0 if first else 1.0
    pre: torch.Tensor | None = None
    for name in (*used, "head"):
        weight, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
        post = used[name].to(weight) if name in used else torch.full_like(bias, share)
        pre = weight.new_full((weight.shape[1],), share) if pre is None else pre
        kept = torch.minimum(pre[None], post[:, None]).detach()
        # Only what asks for a gradient takes a hook, which it keeps when it is asked to again.
        for one in (weight, bias):
            one.requires_grad_(True)
        masks = ((weight, 1 - kept), (bias, 1 - post.detach()))
        handles += [one.register_hook(_times(mask)) for one, mask in masks]  # type: ignore[no-untyped-call]
        pre = post
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _times(mask: torch.Tensor) -> Any:
    return lambda gradient: gradient * mask


def _used(masks: Sequence[torch.Tensor], width: int) -> torch.Tensor:
    """The neurons of a layer that some earlier task uses, shape (width,)."""
    import torch

    return torch.stack(list(masks)).amax(0) if masks else torch.zeros(width)
