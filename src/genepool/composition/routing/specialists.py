"""Whole specialists, one for each input: what the composers share whose router is made of means of the base's features.

Nothing of a specialist is merged: what answers is the base with one skill, or the base itself. Torch is imported once
models are loaded. Uses `nearest_means`, `specialists_model` and composition.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from pydantic import Field

from genepool.composition.composer import Composer, ComposerOptions
from genepool.composition.composition import Saved
from genepool.composition.known_task import KnownTaskComposition
from genepool.composition.residence import Residence, plan_kept
from genepool.composition.skill_set import SkillSet
from genepool.composition.world import World
from genepool.errors import InputError
from genepool.saved_models import TASK_MARK
from genepool.tasks.models import Model, open_model
from genepool.tasks.network import Network
from genepool.weights import Change

if TYPE_CHECKING:
    import numpy as np
    import torch

    from genepool.composition.routing.nearest_means import NearestMeans


class SpecialistRoutingOptions(ComposerOptions):
    """Options of routers that are made of means."""

    abstain: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Share of the inputs of the skills' own tasks that the base may answer because they look unlike "
        "the others; it decides what is far from all. 0: the base answers nothing for that reason (ours).",
    )


class SpecialistRouting(Composer[SpecialistRoutingOptions]):
    """The base and one whole skill, the one whose inputs' mean is nearest to the base's features of an input.

    An input that is far from all of them is answered by the base, and so is one that looks like the inputs of tasks
    that belong to no skill. `FOLDER#TASK` is the skill of one task, without the router.

    Class attributes:
        whitened: whether the router has coordinates of its own.
    """

    whitened: ClassVar[bool]

    @abstractmethod
    def means(self, features: np.ndarray, classes: np.ndarray) -> NearestMeans:
        """The router without a limit.

        Args:
            features: shape (inputs, width), float64.
            classes: from 0 on, shape (inputs,).
        """

    def plan(self, skills: SkillSet, dtype: str) -> Residence:
        return plan_kept(skills, 0, dtype=dtype)

    def fit(self, world: World) -> SpecialistsComposition:
        from genepool.composition.routing.nearest_means import check_routable, judged_means, told_of
        from genepool.composition.routing.task_inputs import seen_inputs, warn_of_chance, warn_of_one_way

        seen = seen_inputs(world)
        check_routable(seen.features, seen.names, seen.owners, self.name)
        judged = judged_means(self.means, seen.features, seen.owners, self.options.abstain)
        limit = judged.means.limit
        declined = judged.distances > (float("inf") if limit is None else limit)
        record = told_of(judged.chosen, seen.owners, seen.names, declined)
        # A router that always answers by one tells none from another, and says the first alone.
        warnings = warn_of_one_way(record["sent_to"], record["declined"])
        warnings = warnings or warn_of_chance(judged.chosen, seen.owners, seen.names)
        record |= {"inputs": dict(seen.counts), "seed": world.seed, **({"warnings": warnings} if warnings else {})}
        return SpecialistsComposition(self, world.skills, record, judged.means)

    def restore(self, saved: Saved) -> SpecialistsComposition:
        from genepool.composition.routing.nearest_means import NearestMeans

        skills, classes = len(saved.skills.skills), len(saved.labels.get("answered_by", ()))
        if classes not in (skills, skills + 1):
            raise InputError(
                f"names {classes} choices, and there are {skills} skills and the base",
                where=saved.where,
                fix="Compose it again",
            )
        means = NearestMeans.restored(saved, classes, whitened=self.whitened)
        return SpecialistsComposition(self, saved.skills, saved.record, means)


class SpecialistsComposition(KnownTaskComposition):
    """Skills and a router.

    Args:
        composer, skills, record: as for `Composition`.
        means: the router: a mean for each skill, and perhaps one for the base behind them.
    """

    def __init__(
        self, composer: SpecialistRouting, skills: SkillSet, record: Mapping[str, Any], means: NearestMeans
    ) -> None:
        super().__init__(composer, skills, record)
        self.router = means

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        return self.router.tensors()

    @property
    def labels(self) -> Mapping[str, Sequence[str]]:
        from genepool.composition.routing.task_inputs import BASE

        return {"answered_by": [*self.skills.names, BASE][: len(self.router.means)]}

    @property
    def kind(self) -> type[Model]:
        from genepool.composition.routing.specialists_model import specialists_kind

        return specialists_kind(open_model(self.skills.base).kind)

    def apply(self, network: Network) -> Model:
        from genepool.composition.routing.specialists_model import specialists_kind

        sources = [skill.source for skill in self.skills.skills]
        kind = specialists_kind(type(network))
        return kind(network, sources, self.router, self.skills.names, self.name, self.fingerprint, resident=True)

    def fold(self) -> NoReturn:
        """Refused: it chooses by input."""
        raise InputError(
            "chooses by input, and no weights do the same",
            where=self.name,
            fix=f"Name a task, as in {self.name}{TASK_MARK}{self.skills.names[0]}, or use the folder as it is",
        )

    def change_of(self, number: int) -> Change:
        return self.skills.memory_changes[number]
