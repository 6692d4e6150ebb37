"""Capability routing: each input is answered by the model that is expected to do best, or by the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import Field

from genepool import progress
from genepool.composition.composer import Composer, ComposerOptions, register
from genepool.composition.composition import Composition, Saved
from genepool.composition.world import World
from genepool.errors import InputError
from genepool.tasks import DEFAULT_BATCH
from genepool.tasks.answering import answer
from genepool.tasks.models import Model, check_kind, open_model
from genepool.tasks.network import Network

if TYPE_CHECKING:
    import numpy as np
    import torch

    from genepool.composition.routing.capability_ranker import CapabilityRanker
    from genepool.composition.skill_set import SkillSet


class ModelSatOptions(ComposerOptions):
    """Options of capability routing."""

    questions: int = Field(
        default=20,
        ge=1,
        le=10**5,
        description="Examples of each task, at most, that a model's accuracy is measured on (the paper's).",
    )
    abstain: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Share of inputs like the examples that may be declined because no model is expected to do well, "
        "and the same share again because they look unlike the others; the base answers them. 0: none (ours).",
    )
    temperature: float = Field(
        default=0.1, gt=0, le=100, description="Of the softmax over the accuracies that are expected of models (ours)."
    )
    steps: int = Field(default=100, ge=1, le=10**6, description="Steps of Adam, on all inputs (ours).")
    learning_rate: float = Field(
        default=0.01, gt=0, le=10, description="Its first step size, which falls to 0 along a line (ours)."
    )
    decay: float = Field(default=0.01, ge=0, le=10, description="AdamW's weight decay (ours).")


@register(
    "model_sat",
    source="Zhang et al., Capability instruction tuning (Model-SAT), arXiv:2502.17282: a vector of accuracies from 20 "
    "questions a task, listwise cross-entropy; a linear ranker of the base's features, which begins as discriminant "
    "analysis of the tasks, in place of a language model, and the abstention, are ours",
    when="Several whole models, perhaps of different sizes or families, each good at some tasks; more than one may be "
    "right for a task.",
    needs="answers",
    out="module",
    cost="every model answers every example once; when asked, one pass of the base more, and each prompt is "
    "answered by one model",
    skills=(1, None),
    members="models",
)
class ModelSat(Composer[ModelSatOptions]):
    """`argmax_m a(x) . c_m`, where c_m are the accuracies of a model by task, and a(x) says which tasks x is like."""

    def fit(self, world: World) -> Composition:
        import numpy as np

        from genepool.composition.routing.capability_ranker import RankerFit, judged_ranker
        from genepool.composition.routing.nearest_means import check_routable, judged_means, linear_discriminant
        from genepool.composition.routing.task_inputs import BASE, seen_inputs, warn_of_one_way

        options, names = self.options, [*world.skills.names, BASE]
        seen = seen_inputs(world, owned=False)
        tasks = list(seen.counts)
        check_routable(seen.features, dict(enumerate(tasks)), seen.tasks, self.name)
        right = self._scores(world)
        asked = np.concatenate([np.arange(count) < options.questions for count in seen.counts.values()])
        capabilities = np.stack([right[asked & (seen.tasks == task)].mean(0) for task in range(len(tasks))], 1)
        known = judged_means(linear_discriminant, seen.features, seen.tasks, options.abstain).means
        how = RankerFit(options.steps, options.learning_rate, options.decay, options.temperature)
        ranker, told = judged_ranker(seen.features, seen.tasks, right, capabilities, known, how, options.abstain)
        sent = dict(zip(names, told.pop("chosen"), strict=True))
        warnings = warn_of_one_way(sent, 0)
        record = {
            **told,
            "sent_to": sent,
            "capabilities": {
                name: {task: round(float(value), 6) for task, value in zip(tasks, row, strict=True)}
                for name, row in zip(names, capabilities, strict=True)
            },
            "inputs": dict(seen.counts),
            "seed": world.seed,
            **({"warnings": warnings} if warnings else {}),
        }
        return CapabilityRouted(self, world.skills, record, ranker, tasks)

    def restore(self, saved: Saved) -> Composition:
        from genepool.composition.routing.capability_ranker import CapabilityRanker

        tasks = list(saved.labels.get("tasks", ()))
        ranker = CapabilityRanker.restored(saved, len(saved.skills.skills) + 1, len(tasks))
        return CapabilityRouted(self, saved.skills, saved.record, ranker, tasks)

    def _scores(self, world: World) -> np.ndarray:
        """The score of every model on every example, the base last: shape (examples, models)."""
        import numpy as np

        sources = [*(skill.source for skill in world.skills.skills), None]
        for source in sources[:-1]:
            assert source is not None
            check_kind(type(world.network), source, self.name)
        columns = []
        with progress.bar("asking every model", len(sources) * len(world.tasks), "tasks") as bar:
            for source in sources:
                model = world.network if source is None else source.load(world.device, world.dtype)
                bar.note(model.name)
                column: list[float] = []
                for composed in world.tasks:
                    told = answer(model, composed.task, composed.examples, DEFAULT_BATCH, False)
                    column += [one.score for one in told]
                    bar.advance()
                columns.append(column)
        return np.array(columns).T


class CapabilityRouted(Composition):
    """Models and the ranker that chooses among them.

    Args:
        composer, skills, record: as for `Composition`.
        ranker: the base is its last model.
        tasks: what the models' accuracies were measured on.
    """

    def __init__(
        self,
        composer: ModelSat,
        skills: SkillSet,
        record: Mapping[str, Any],
        ranker: CapabilityRanker,
        tasks: Sequence[str],
    ) -> None:
        super().__init__(composer, skills, record)
        self.router, self._tasks = ranker, list(tasks)

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        return self.router.tensors()

    @property
    def labels(self) -> Mapping[str, Sequence[str]]:
        return {"tasks": self._tasks}

    @property
    def kind(self) -> type[Model]:
        from genepool.composition.routing.specialists_model import specialists_kind

        return specialists_kind(open_model(self.skills.base).kind)

    def apply(self, network: Network) -> Model:
        from genepool.composition.routing.specialists_model import specialists_kind

        sources = [skill.source for skill in self.skills.skills]
        kind = specialists_kind(type(network))
        return kind(network, sources, self.router, self.skills.names, self.name, self.fingerprint, resident=False)

    def fold(self) -> NoReturn:
        """Refused: it chooses by input."""
        raise InputError(
            "chooses one of several models by input, and no weights do the same",
            where=self.name,
            fix="Use the folder of the composition as it is",
        )
