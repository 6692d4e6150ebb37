"""Poly: an inventory of modules that many tasks share, of which each task learns its own mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import Field

from genepool.composition.composer import Composer, register
from genepool.composition.composition import Composition, Saved
from genepool.composition.known_task import KnownTaskComposition
from genepool.composition.linear_layers import outlined_layers
from genepool.composition.module_fit import ModuleFitOptions, fit_modules
from genepool.composition.residence import Residence, plan_kept
from genepool.composition.skill_set import SkillSet
from genepool.composition.world import World
from genepool.errors import InputError
from genepool.weights import Change

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import torch

    from genepool.composition.linear_layers import LinearLayer
    from genepool.composition.peft_export import PeftExport
    from genepool.composition.routing.inventory import LayerModules

_FOUR = (None, None, None, None)


class PolyOptions(ModuleFitOptions):
    """Options of Poly."""

    models: ClassVar[tuple[str, ...]] = ("inventory",)

    trains: Literal["all", "z", "mu"] = Field(
        default="all",
        description="What is learned: modules and shares (all), the shares of new tasks alone (z), or one module for "
        "all named tasks that starts at the mean of the known ones (mu).",
    )
    inventory: str | None = Field(
        default=None,
        description="A composition of poly or mhr whose modules are what is begun with; null: the named skills, or new "
        "modules.",
    )
    modules: int = Field(default=8, ge=1, le=4096, description="New modules (the authors').")
    rank: int = Field(default=1, ge=1, le=4096, description="Of new modules (the authors').")
    targets: tuple[str, ...] = Field(
        default=(), description="Linear layers that new modules are in, such as q_proj; all of them when empty."
    )
    steps: int = Field(default=1000, ge=1, le=10**6, description="Steps (the authors' for few examples).")
    learning_rate: float = Field(
        default=3e-3, gt=0, le=10, description="Of the modules at the first step (the authors' for few examples)."
    )
    logits_rate: float = Field(default=0.1, gt=0, le=10, description="Of the shares' logits (the authors').")
    every: int = Field(default=50, ge=1, description="Steps between two looks at the held-out inputs.")
    draws: bool = Field(
        default=False,
        description="Whether a step draws each input's shares from relaxed Bernoulli distributions of temperature 1, "
        "as the authors and PEFT do; answers are always given by their means.",
    )


AnyPolyOptions = TypeVar("AnyPolyOptions", bound=PolyOptions)


class ModuleInventory(Composer[AnyPolyOptions], Generic[AnyPolyOptions]):
    """What Poly and MHR have in common; they differ in how many heads the factors are cut into."""

    @property
    def heads(self) -> int:
        """Of new modules, and of skills as modules."""
        return 1

    def plan(self, skills: SkillSet, dtype: str) -> Residence:
        entries = 0
        for layer in outlined_layers(skills.base).values():
            rows, columns = layer.module.weight.shape  # type: ignore[misc]
            entries += (len(skills.skills) or self.options.modules) * self.options.rank * (rows + columns)
        # Values, gradients, both moments and the best state.
        return plan_kept(skills, 5 * 4 * entries, gradient=True, dtype=dtype)

    def fit(self, world: World) -> Composition:
        import torch

        from genepool.composition.linear_layers import linear_layers
        from genepool.composition.routing.inventory import InventoryHooks, LayerModules, mean_shares

        if not world.tasks:
            raise InputError("no tasks are named", where="--tasks", fix="Name the tasks that share the modules")
        if self.options.draws and self.options.trains == "mu":
            raise InputError("one module has no shares to draw", where="--set draws", fix="Leave it out")
        options, tasks = self.options, [one.task.name for one in world.tasks]
        record: dict[str, Any] = {"tasks": tasks}
        begun = self._begun(world, record)
        modules: dict[str, LayerModules] = {}
        parameters: dict[str, torch.nn.Parameter] = {}
        for name, one in begun.items():
            held = {"down": one.down, "up": one.up, "logits": self._logits(world, name, one)}
            parts = {key: torch.nn.Parameter(tensor.to(world.network.device)) for key, tensor in held.items()}
            modules[name] = LayerModules(**parts)
            trained = {"all": ("down", "up", "logits"), "z": ("logits",), "mu": ("down", "up")}[options.trains]
            parameters |= {f"{key}/{name}": parts[key] for key in trained}
            for key in {"down", "up", "logits"} - set(trained):
                parts[key].requires_grad_(False)
        rates = {name: options.logits_rate / options.learning_rate for name in parameters if name.startswith("logits")}
        hooks = InventoryHooks(modules, linear_layers(world.network.model))

        def asked(task: str) -> None:
            hooks.task = tasks.index(task)

        def at(step: int | None) -> None:
            hooks.draw((world.seed, step) if options.draws and step is not None else None)

        named = {"composer": self.name, "options": options.model_dump(mode="json", exclude={"inventory"}), **record}
        try:
            told = fit_modules(world, world.network, parameters, options, named, rates=rates, asked=asked, at=at)
        finally:
            hooks.remove()
        world.network.assign(world.skills.base)
        learned = {
            name: LayerModules(*(part.detach().cpu() for part in (one.down, one.up, one.logits)))
            for name, one in modules.items()
        }
        told |= {**record, "shares": mean_shares(learned, tasks)}
        # What was begun with is in the composition now; it need not be there any more.
        own = type(self)(options.model_copy(update={"inventory": None}))
        return InventoryComposition(own, world.skills, told, learned, tasks)

    def restore(self, saved: Saved) -> Composition:
        from genepool.composition.routing.inventory import LayerModules

        tasks = list(saved.labels.get("tasks", ()))
        known, modules = outlined_layers(saved.skills.base), {}
        shape: tuple[int, ...] | None = None
        for name in saved.labels.get("layers", ()):
            if name not in known:
                raise InputError(f"{name} is no linear layer of its base", where=saved.where, fix="Compose it again")
            inputs, outputs = _sizes(known[name])
            down = saved.tensor(f"down/{name}", _FOUR)
            heads, count, _, rank = down.shape
            # Modules of an inventory keep the heads that it has.
            if "inventory" not in saved.record and heads != self.heads:
                raise InputError(
                    f"has {heads} heads, and the options ask for {self.heads}",
                    where=f"{saved.where}:down/{name}",
                    fix="Compose it again",
                )
            shape = shape or (heads, count, rank)
            cut = 0 in down.shape or shape != (heads, count, rank) or inputs % heads or outputs % heads
            if cut or heads * down.shape[2] != inputs:
                raise InputError(
                    f"has shape {list(down.shape)}, which {inputs} inputs are not cut into",
                    where=f"{saved.where}:down/{name}",
                    fix="Compose it again",
                )
            up = saved.tensor(f"up/{name}", (heads, count, rank, outputs // heads))
            modules[name] = LayerModules(down, up, saved.tensor(f"logits/{name}", (len(tasks), heads * count)))
        if not modules or not tasks:
            raise InputError("has no modules or no tasks", where=saved.where, fix="Compose it again")
        return InventoryComposition(self, saved.skills, saved.record, modules, tasks)

    def _begun(self, world: World, record: dict[str, Any]) -> dict[str, LayerModules]:
        """The modules that the fit begins with, with logits of no tasks; what they are is put into the record."""
        import torch

        from genepool.composition.branches import check_branches
        from genepool.composition.linear_layers import linear_layers
        from genepool.composition.routing.inventory import LayerModules, modules_of_skills

        options, skills, none = self.options, world.skills, torch.zeros(0, 0)
        if options.inventory is not None:
            if skills.skills:
                raise InputError("skills are named beside an inventory", where="SKILL", fix="Name one of the two")
            begun = dict(self._known(world, record))
        elif skills.skills:
            check_branches(skills)
            layers = linear_layers(world.network.model)
            names = skills.vectors().names
            self._check_heads({name: layers[name] for name in names})
            begun = {
                name: LayerModules(*modules_of_skills(skills, name, layers[name], self.heads), none) for name in names
            }
            # Ranks are those of the largest skill in a layer, and one number for all layers is asked for elsewhere.
            begun = _alike(begun)
        elif options.trains != "all":
            raise InputError(
                f"there are no modules to begin with, and new ones are nothing that trains={options.trains} can use",
                where="--set trains",
                fix="Name LoRA skills, or --set inventory=FOLDER, a composition of poly or mhr",
            )
        else:
            begun = self._fresh(world)
        if options.trains == "mu":
            begun = {name: one.mean() for name, one in begun.items()}
        return begun

    def _known(self, world: World, record: dict[str, Any]) -> Iterable[tuple[str, LayerModules]]:
        """The modules of the inventory that is named."""
        from genepool.composition.saved_model import load_composition

        folder = str(self.options.inventory)
        known = load_composition(folder)
        if not isinstance(known, InventoryComposition):
            raise InputError(
                f"is a composition by {known.composer.name}", where=folder, fix="Name one by poly or mhr as inventory"
            )
        if known.skills.base.fingerprint() != world.skills.base.fingerprint():
            raise InputError("its modules are of another base", where=folder, fix=f"Name {known.skills.reference}")
        record["inventory"] = {"path": folder, "fingerprint": known.fingerprint}
        return known.modules.items()

    def _fresh(self, world: World) -> dict[str, LayerModules]:
        import torch

        from genepool.composition.linear_layers import linear_layers
        from genepool.composition.routing.inventory import LayerModules, fresh_modules, modules_generator
        from genepool.training.layers import trained_modules

        options, network = self.options, world.network
        known = linear_layers(network.model)
        heads = type(network).heads_of(network.model)
        where = "--set targets" if options.targets else world.skills.reference
        found = trained_modules(network.model, heads, (), options.targets, where)
        layers = {name: known[name] for name in (f"{module}.weight" for module in found.layers) if name in known}
        self._check_heads(layers)
        none = torch.zeros(0, 0)
        return {
            name: LayerModules(
                *fresh_modules(
                    *_sizes(layer), self.heads, options.modules, options.rank, modules_generator(world.seed, name)
                ),
                none,
            )
            for name, layer in layers.items()
        }

    def _check_heads(self, layers: Mapping[str, LinearLayer]) -> None:
        for name, layer in layers.items():
            for what, size in zip(("inputs", "outputs"), _sizes(layer), strict=True):
                if size % self.heads:
                    raise InputError(
                        f"{name} has {size} {what}, which {self.heads} heads do not divide",
                        where="--set heads",
                        fix="Give a number that divides all layers, or name layers by --set targets",
                    )

    def _logits(self, world: World, name: str, modules: LayerModules) -> torch.Tensor:
        import torch

        from genepool.composition.routing.inventory import first_logits, logits_generator

        heads, count = modules.down.shape[:2]
        if self.options.trains == "mu":
            return torch.zeros(len(world.tasks), 1)
        return first_logits(len(world.tasks), heads, count, logits_generator(world.seed, name))


@register(
    "poly",
    source="Ponti et al., Combining Modular Skills in Multitask Learning, arXiv:2202.13914: 8 modules of rank 1, "
    "logits between -0.001 and 0.001 at a rate of 0.1; the shares are PEFT's in evaluation, also while "
    "it is trained, where PEFT and the authors draw them (--set draws=true)",
    when="Many tasks are there that have something in common, each with few examples.",
    needs="answers",
    gradients=True,
    out="module",
    cost="a backward pass of the network for each task in each step; for a task it is one LoRA",
    skills=(0, None),
)
class Poly(ModuleInventory[PolyOptions]):
    """For task t `A = sum_i z_ti A_i`, `B = sum_i z_ti B_i` in every linear layer, `z_t = sigmoid(l_t) / sum`.

    Factors are mixed apart by design: a task is one LoRA of the modules' rank. `FOLDER#TASK` names its model. Without
    skills the modules are new; LoRA skills that are named are what they begin as.
    """


class InventoryComposition(KnownTaskComposition):
    """Modules, and the shares that each task has of them.

    Args:
        composer, skills, record: as for `Composition`.
        modules: of every layer, by the name of its matrix.
        task_names: in the order of the logits.
    """

    composer: ModuleInventory[Any]

    def __init__(
        self,
        composer: ModuleInventory[Any],
        skills: SkillSet,
        record: Mapping[str, Any],
        modules: Mapping[str, LayerModules],
        task_names: Sequence[str],
    ) -> None:
        super().__init__(composer, skills, record)
        self.modules, self._task_names = dict(modules), list(task_names)

    @property
    def tasks(self) -> Sequence[str]:
        return self._task_names

    def identity_of(self, number: int) -> str:
        return self._task_names[number]

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for name, one in self.modules.items():
            found |= {f"down/{name}": one.down, f"up/{name}": one.up, f"logits/{name}": one.logits}
        return found

    @property
    def labels(self) -> Mapping[str, Sequence[str]]:
        return {"tasks": self._task_names, "layers": list(self.modules)}

    def change_of(self, number: int) -> Change:
        from genepool.composition.routing.inventory import TaskModules

        layers = outlined_layers(self.skills.base)
        transposed = {name: layers[name].transposed for name in self.modules}
        name = f"{self.name}#{self._task_names[number]}"
        return TaskModules(self.modules, transposed, number, self.skills.memory_base, name, self.fingerprint)

    def write_peft(self, folder: Path) -> PeftExport:
        """PEFT's Poly: all modules and all tasks, whose numbers are those of the labels."""
        from peft import PolyConfig

        from genepool.composition.peft_export import (
            PREFIX,
            WEIGHTS_FILE,
            PeftExport,
            write_config,
            write_json,
            write_tensors,
        )

        layers = outlined_layers(self.skills.base)
        for name in self.modules:
            if layers[name].transposed:
                raise InputError(
                    f"PEFT's Poly has no layer like {name}, which is stored as (inputs, outputs)",
                    where=self.name,
                    fix=f"Export one task as a LoRA: {self.name}#{self._task_names[0]}",
                )
        heads, count, _, rank = next(iter(self.modules.values())).down.shape
        names = {name: name.removesuffix(".weight") for name in self.modules}
        config = PolyConfig(
            r=rank, target_modules=list(names.values()), n_tasks=len(self.tasks), n_skills=count, n_splits=heads
        )
        write_config(config, self.skills, folder)
        tensors: dict[str, torch.Tensor] = {}
        for name, one in self.modules.items():
            place = f"{PREFIX}{names[name]}.poly"
            # PEFT divides what the factors give by their rank.
            tensors |= {f"{place}_lora_A": one.down, f"{place}_lora_B": one.up * rank}
            tensors[f"{place}_router.module_logits"] = one.logits
        write_tensors(tensors, folder / WEIGHTS_FILE)
        write_json({"genepool": 1, "tasks": list(self.tasks)}, folder / "tasks.json")
        return PeftExport(folder, "an adapter of PEFT's Poly, whose task_ids are in tasks.json", 1)


def _alike(modules: Mapping[str, LayerModules]) -> dict[str, LayerModules]:
    """The same modules, of one rank in all layers."""
    from torch.nn.functional import pad

    from genepool.composition.routing.inventory import LayerModules

    rank = max(one.down.shape[-1] for one in modules.values())
    found = {}
    for name, one in modules.items():
        more = rank - one.down.shape[-1]
        found[name] = LayerModules(pad(one.down, (0, more)), pad(one.up, (0, 0, 0, more)), one.logits)
    return found


def _sizes(layer: LinearLayer) -> tuple[int, int]:
    """(inputs, outputs) of a layer."""
    rows, columns = layer.module.weight.shape  # type: ignore[misc]
    return (rows, columns) if layer.transposed else (columns, rows)
