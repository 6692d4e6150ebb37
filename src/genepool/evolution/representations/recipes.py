"""What kinds of genome have in common whose candidates are merges by a recipe.

A file of this folder says which genes there are and what recipe they make (`RecipeSpace`); planning, holding models in
memory, writing and the card are here. Uses merging.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from genepool.errors import InputError
from genepool.evolution.candidates import Candidate
from genepool.evolution.representations.base import AnyVary, Held, Ingredients, PointRepresentation

if TYPE_CHECKING:
    import numpy as np

    from genepool.evolution.genome import Gene
    from genepool.merging import Method, Plan, Recipe
    from genepool.weights import Weights
    from genepool.weights.roles import Role


class RecipeSpace(Protocol):
    """Genes, and the ways between a point, a genome and a recipe.

    Attributes:
        genes: every gene, in the order of a point's coordinates.
    """

    genes: tuple[Gene, ...]

    @property
    def start(self) -> np.ndarray:
        """Where the search begins, shape (d,), in the unit cube."""

    def genome(self, x: np.ndarray) -> dict[str, float]:
        """The genome at a point of the unit cube, shape (d,)."""

    def recipe(self, genome: Mapping[str, float], seed: int) -> dict[str, Any]:
        """The recipe of a genome, as plain data that `genepool.merging.Recipe` and a YAML file accept."""


def needs_no_base(method: str) -> bool:
    """Whether a merge method works without a base; of an unknown one another complaint is made."""
    from genepool.merging import find_method

    try:
        return find_method(method).base != "required"
    except InputError:
        return True


class RecipeRepresentation(PointRepresentation[AnyVary]):
    """What kinds whose candidates are recipes have in common.

    Attributes:
        space: the genes.
        plan: the merge at the start point; every candidate is planned like it.
    """

    merges = True

    def __init__(self, found: Ingredients) -> None:
        from genepool.merging import plan_merge
        from genepool.weights import infer_roles

        super().__init__(found)
        base = found.base
        # What differs from the base in shape is no change of it that could be held; it is read for every candidate.
        held = found.in_memory or found.study.merges_a_part
        sources = self.sources if held else _resident(found)
        roles = infer_roles({name: base.info(name) for name in base.names()})
        self.space = self._opened_space(found, roles)
        recipe = self._recipe(self.space.genome(self.space.start), found.study.seed)
        self.plan: Plan = plan_merge(recipe, sources)
        # A recipe may leave out models that another candidate is made of.
        self.sources = {**sources, **self.plan.sources}

    @abstractmethod
    def _opened_space(self, found: Ingredients, roles: Mapping[str, Role]) -> RecipeSpace:
        """The genes of the study for models whose tensors have these roles."""

    @property
    def start(self) -> np.ndarray:
        return self.space.start

    def genome(self, one: np.ndarray, /) -> dict[str, Any]:
        return self.space.genome(one)

    def genes(self) -> list[dict[str, Any]]:
        return [gene.to_dict() for gene in self.space.genes]

    def plan_of(self, candidate: Candidate) -> Plan:
        """The merge of one candidate, from the models already open."""
        from genepool.merging import plan_merge

        return plan_merge(self._recipe(candidate.genome, candidate.seed), self.plan.sources, like=self.plan)

    def source(self, candidate: Candidate) -> Weights:
        return self.plan_of(candidate).weights()

    def template(self) -> Weights:
        # From the merge, not from the base: a skill may bring a head of its own where the base ties it.
        return self.plan.weights()

    def write(self, candidate: Candidate, folder: Path, sections: Mapping[str, str], *, overwrite: bool = True) -> None:
        from genepool.merging import run_plan

        run_plan(self.plan_of(candidate), folder, overwrite=overwrite, sections=dict(sections))

    def card(self, candidate: Candidate, sections: Mapping[str, str]) -> str:
        from genepool.merging.card import model_card

        return model_card(self.plan_of(candidate), dict(sections))

    def record(self, candidate: Candidate) -> dict[str, Any]:
        return {"recipe": self.plan_of(candidate).recipe.to_dict()}

    def held(self, room: float) -> Held:
        study = self.study
        base = self.sources[study.reference]
        # Without a base there are no changes to hold beside the sums.
        need = 0 if study.base is None else _stored(base)
        if need > room or study.merges_a_part:
            return Held(streamed=(*(() if study.base is None else ("base",)), *(skill.name for skill in study.skills)))
        room -= need
        skills: dict[str, int] = {}
        streamed: list[str] = []
        for skill in study.skills:
            weights = self.sources[skill.model]
            size = _stored(weights)
            if study.base is not None:
                # Both the sums as stored and the changes in float32 (`load_resident`).
                size += 4 * sum(weights.info(name).numel for name in weights.names() if weights.moves(name, base))
            if size <= room:
                skills[skill.name], room = size, room - size
            else:
                streamed.append(skill.name)
        return Held(need, skills, tuple(streamed))

    def code(self) -> str:
        return self.plan.method.code or ""

    def method(self) -> Method:
        return self.plan.method

    def _recipe(self, genome: Mapping[str, float], seed: int) -> Recipe:
        from genepool.merging import parse_recipe

        return parse_recipe(self.space.recipe(genome, seed), where=self.where)


def _resident(found: Ingredients) -> Mapping[str, Weights]:
    """Base and skills by their model strings, as many in memory as asked for."""
    from genepool.weights import load_resident, open_weights, stack_changes

    study, base = found.study, found.base
    chosen = {skill.model for skill in study.skills if skill.name in found.resident}
    if study.base is None:
        return {name: load_resident(one) if name in chosen else one for name, one in found.skills.items()}
    if "base" not in found.resident:
        return {study.base: base, **found.skills}
    held = load_resident(base)
    sources: dict[str, Weights] = {study.base: held}
    for name, weights in found.skills.items():
        # What is streamed must be a change on the base that is held, or its deltas would not be exact.
        if name in chosen:
            sources[name] = load_resident(weights, base=(base, held))
        else:
            sources[name] = open_weights(name, base=held, allow_pickle=found.trust.pickles)
    stack_changes([sources[skill.model] for skill in study.skills])
    return sources


def _stored(weights: Weights) -> int:
    return sum(weights.info(name).nbytes for name in weights.names())
