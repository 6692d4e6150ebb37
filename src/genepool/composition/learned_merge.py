"""What composers that learn the coefficients of a merge by gradient share: a file of one says what differs.

A composer says what its coefficients are made of, and perhaps what becomes of the skills' changes before they are added
up, how a step is taken and which losses count. `fitting` does the rest.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from genepool.composition.coefficients import CoefficientLayout, Parametrisation
from genepool.composition.composer import Composer
from genepool.composition.composition import Composition, MergedComposition, Saved
from genepool.composition.fitting import CoefficientFit, FitOptions, plan_fit
from genepool.composition.residence import Residence
from genepool.composition.skill_set import SkillSet
from genepool.composition.world import World
from genepool.training import Optimisation
from genepool.weights import Change

if TYPE_CHECKING:
    import torch

MergeOptions = TypeVar("MergeOptions", bound=FitOptions)


class LearnedMerge(Composer[MergeOptions]):
    """A composer whose composition is a merge with learned coefficients."""

    #: Whether each row of a tensor has coefficients of its own.
    by_rows: bool = False

    @abstractmethod
    def parametrised(self, skills: SkillSet, layout: CoefficientLayout, seed: int) -> Parametrisation:
        """What the coefficients are made of.

        Args:
            skills: the base and the skills.
            layout: the coefficients.
            seed: of every draw.
        """

    def parts(self) -> int:
        """How many parts, drawn at random, a tensor is divided into."""
        return 1

    def parts_seed(self) -> int:
        """What decides which entries belong to which part."""
        return 0

    def made_of(self, skills: SkillSet) -> Sequence[Change] | None:
        """What becomes of the skills' changes before they are added up; None for the changes themselves."""
        return None

    def optimisation(self) -> Optimisation:
        """How steps are taken: Adam at a constant rate, without decay and clipping."""
        return Optimisation(self.options.steps, self.options.learning_rate, shape="constant", clip=0.0)

    def project(self, learned: Mapping[str, torch.Tensor]) -> None:
        """Changes what is learned in place after every step, entry by entry: it may be given one tensor's alone."""
        return None

    def signs(self, world: World) -> dict[str, float]:
        """What the loss of a task is multiplied by; 1 for tasks that are not there.

        Raises:
            InputError: an option names a task that is not there.
        """
        return {}

    def least_control(self) -> float:
        """What a state must keep of what tasks with a sign above 0 had right at the start; 0 for nothing."""
        return 0.0

    def fit(self, world: World) -> Composition:
        changes = self.made_of(world.skills)
        layout = self._layout(world.skills, changes)
        fitted = CoefficientFit(
            world,
            self.parametrised(world.skills, layout, world.seed),
            layout,
            self.options,
            {"composer": self.name, "options": self.options.model_dump(mode="json")},
            optimisation=self.optimisation(),
            project=self.project,
            signs=self.signs(world),
            least=self.least_control(),
            changes=changes,
        ).run()
        return MergedComposition(
            self,
            world.skills,
            fitted.record,
            fitted.coefficients,
            parts_seed=self.parts_seed(),
            by_rows=self.by_rows,
            changes=changes,
        )

    def plan(self, skills: SkillSet, dtype: str) -> Residence:
        layout = self._layout(skills, None)
        # What other changes are made of the skills' is known after passes over all of them.
        products = type(self).made_of is LearnedMerge.made_of
        made_of = self.parametrised(skills, layout, 0)
        return plan_fit(skills, made_of, layout, self.optimisation(), dtype=dtype, products=products)

    def _layout(self, skills: SkillSet, changes: Sequence[Change] | None) -> CoefficientLayout:
        vectors = skills.vectors(changes=changes)
        parts = max(vectors.matrix(name)[0] for name in vectors.names) if self.by_rows else self.parts()
        return CoefficientLayout(len(skills.skills), vectors.names, parts, self.parts_seed(), self.by_rows)

    def restore(self, saved: Saved) -> Composition:
        return MergedComposition.restored(
            self,
            saved,
            parts=None if self.by_rows else self.parts(),
            parts_seed=self.parts_seed(),
            by_rows=self.by_rows,
            changes=self.made_of(saved.skills),
        )
