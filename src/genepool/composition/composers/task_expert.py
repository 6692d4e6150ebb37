"""TaskExpert: a decoder of the hidden states of several classifiers, with a token, memory and head for each task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from genepool.composition.composer import Composer, register
from genepool.composition.composition import Composition, Saved
from genepool.composition.module_fit import ModuleFitOptions, fit_modules
from genepool.composition.per_task.told_task import ToldTaskComposition, kind_of_base
from genepool.composition.world import World
from genepool.errors import InputError
from genepool.tasks.models import Model, check_kind
from genepool.tasks.network import Network

if TYPE_CHECKING:
    from genepool.composition.per_task.memorial_experts import MemorialExperts
    from genepool.composition.skill_set import SkillSet

# More numbers of an expert than any classifier of today has in a hidden state.
_LARGEST = 16384


class TaskExpertOptions(ModuleFitOptions):
    """Options of TaskExpert."""

    size: int = Field(
        default=64, ge=1, le=_LARGEST, description="Numbers that an expert gives for a place, and those of the memory."
    )


@register(
    "task_expert",
    source="Ye and Xu, TaskExpert, arXiv:2307.15324: experts that project features, gates from task tokens, a memory "
    "that every layer reads and writes; that each skill's features have an expert of their own, and the defaults, are "
    "ours",
    when="Classifiers of one architecture, tasks that are told and need what several of them see, and labels.",
    needs="answers",
    gradients=True,
    out="module",
    cost="one pass of all models over the examples, then steps of the decoder alone; when asked, all models read",
    skills=(1, None),
    members="models",
)
class TaskExpert(Composer[TaskExpertOptions]):
    """Experts are projections of the hidden states of the base and of every skill, layer by layer.

    `FOLDER#TASK` is the model of one task; each task of --tasks has a token, a memory and a head.
    """

    def fit(self, world: World) -> Composition:
        from genepool.composition.per_task.memorial_experts import MemorialExperts
        from genepool.training.fit import drawing

        if not world.tasks:
            raise InputError("there is no task to learn", where="--tasks", fix="Name tasks")
        kind_of_base(world.skills, self.name)
        models = [world.network, *self._others(world.skills, type(world.network), world.device, world.dtype)]
        tasks = [one.task.name for one in world.tasks]
        first = world.tasks[0]
        prompt = first.task.prompt_for(first.examples[0], world.network)
        states = [model.hidden_states([prompt])[0] for model in models]
        with drawing(world.seed, 0, "experts"):
            decoder = MemorialExperts(
                [one[-1].shape[1] for one in states],
                len(states[0]) - 1,
                len(tasks),
                self.options.size,
                len(world.network.labels),
            )
        found = ExpertComposition(self, world.skills, {}, decoder, tasks)
        model = found.around(models, 0)

        def asked(task: str) -> None:
            model.task = tasks.index(task)

        named = {"composer": self.name, "options": self.options.model_dump(mode="json")}
        record = fit_modules(world, model, dict(decoder.named_parameters()), self.options, named, asked=asked)
        return ExpertComposition(self, world.skills, record, decoder.cpu().eval(), tasks)

    def restore(self, saved: Saved) -> Composition:
        import torch

        from genepool.composition.per_task.memorial_experts import MemorialExperts

        tasks, size = list(saved.labels.get("tasks", ())), self.options.size
        layers = sum(name.startswith("gates.") and name.endswith(".weight") for name in saved.tensors)
        models = len(saved.skills.skills) + 1
        # Every number of a size is read off a tensor of that size, so nothing grows beyond the file.
        saved.tensor("tokens", (len(tasks), size))
        widths = [saved.tensor(f"experts.0.{one}.weight", (size, None)).shape[1] for one in range(models)]
        classes = len(saved.tensor("heads.0.bias", (None,)))
        for task in range(len(tasks)):
            saved.tensor(f"heads.{task}.weight", (classes, size))
        for layer in range(layers):
            saved.tensor(f"writes.{layer}.weight", (size, size))
            for one, width in enumerate(widths):
                saved.tensor(f"experts.{layer}.{one}.weight", (size, width))
        decoder = MemorialExperts(widths, layers, len(tasks), size, classes).eval()
        with torch.no_grad():
            for name, own in decoder.named_parameters():
                own.copy_(saved.tensor(name, tuple(own.shape)))
        decoder.requires_grad_(False)
        return ExpertComposition(self, saved.skills, saved.record, decoder, tasks)

    def _others(self, skills: SkillSet, kind: type[Network], device: str, dtype: str) -> list[Network]:
        """The skills, loaded.

        Raises:
            InputError: one is of another kind than the base.
        """
        for skill in skills.skills:
            check_kind(kind, skill.source, self.name)
        found = []
        for skill in skills.skills:
            loaded = skill.source.load(device, dtype)
            assert isinstance(loaded, Network)
            found.append(loaded)
        return found


class ExpertComposition(ToldTaskComposition):
    """See `ToldTaskComposition`; the module is the decoder."""

    composer: TaskExpert
    module: MemorialExperts

    @property
    def kind(self) -> type[Model]:
        from genepool.composition.per_task.expert_model import expert_kind

        return expert_kind(kind_of_base(self.skills, self.composer.name))

    def asked(self, network: Network, number: int) -> Model:
        dtype = str(next(network.model.parameters()).dtype).removeprefix("torch.")
        others = self.composer._others(self.skills, type(network), str(network.device), dtype)
        model: Model = self.around([network, *others], number)
        return model

    def around(self, models: Sequence[Network], number: int) -> Any:
        """The decoder around models in memory, the base first.

        Raises:
            InputError: the decoder was trained for other models.
        """
        from genepool.composition.per_task.expert_model import expert_kind

        classes = len(models[0].labels)
        if self.module.heads[0].out_features != classes:
            raise InputError(
                f"its heads tell {self.module.heads[0].out_features} classes apart, and the base has {classes}",
                where=self.name,
                fix="Compose it again",
            )
        kind = expert_kind(type(models[0]))
        fingerprint = self.fingerprint
        return kind(models, self.module.to(models[0].device), number, self.name, fingerprint)
