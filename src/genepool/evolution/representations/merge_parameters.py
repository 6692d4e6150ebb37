"""The parameters of a merge method: a genome is named numbers, and with them a recipe.

Uses merging and the search space of `genepool.evolution.genome`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import Field, field_validator

from genepool import progress
from genepool.checked import is_number
from genepool.evolution import older_keys
from genepool.evolution.candidates import Candidate
from genepool.evolution.genome import SearchRange, Space
from genepool.evolution.representations import register
from genepool.evolution.representations.base import FinishedRun, Held, Ingredients, PointRepresentation, Vary

if TYPE_CHECKING:
    import numpy as np

    from genepool.evolution.study import Study
    from genepool.merging import Method, Plan, Recipe
    from genepool.weights import Weights


class MergeOptions(Vary, ABC):
    """Options that stand for a search over the parameters of a merge."""

    @abstractmethod
    def as_merge(self) -> MergeParametersOptions:
        """That search."""

    @property
    def searched(self) -> Mapping[str, SearchRange]:
        return self.as_merge().search

    def settings(self) -> dict[str, Any]:
        return older_keys.recorded(**self.as_merge().model_dump(mode="json", exclude={"kind"}))


class MergeParametersOptions(MergeOptions):
    """The parameters of a merge method: one value for all skills, or one for each skill, layer group or role."""

    method: str = Field(description="One of `genepool methods`.")
    parameters: dict[str, Any] = Field(default={}, description="Global merge parameters that stay fixed.")
    search: dict[str, SearchRange] = Field(description="The merge parameters to search, by name.")

    @field_validator("search")
    @classmethod
    def _something(cls, search: dict[str, SearchRange]) -> dict[str, SearchRange]:
        if not search:
            raise ValueError("name at least one parameter to search")
        return search

    @property
    def how(self) -> str:
        return self.method

    def as_merge(self) -> MergeParametersOptions:
        return self

    def tried(self, skills: str) -> str:
        return f"ways to merge {skills} with {self.method}"


AnyMerge = TypeVar("AnyMerge", bound=MergeOptions)


class MergeRepresentation(PointRepresentation[AnyMerge]):
    """What kinds that are merges at heart have in common.

    Attributes:
        space: the genes.
        plan: the merge at the start point; every candidate is planned like it.
    """

    merges = True

    def __init__(self, found: Ingredients) -> None:
        from genepool.merging import find_method, plan_merge
        from genepool.weights import infer_roles

        super().__init__(found)
        base, options = found.base, self.options
        # What differs from the base in shape is no change of it that could be held; it is read for every candidate.
        held = found.in_memory or found.study.merges_a_part
        sources = self.sources if held else _resident(found)
        merge = options.as_merge()
        method = find_method(merge.method, f"{self.where}:{options.place('method')}")
        roles = infer_roles({name: base.info(name) for name in base.names()})
        place = f"{self.where}:{options.place('search')}"
        self.space = Space(found.study, merge, roles, method.parameters, where=place)
        recipe = self._recipe(self.space.genome(self.space.start), found.study.seed)
        self.plan: Plan = plan_merge(recipe, sources)
        self.sources = self.plan.sources

    @classmethod
    def check(cls, study: Study) -> None:
        if len(study.skills) < 2:
            raise ValueError(f"merging needs two skills or more, got {len(study.skills)}")
        merge = _merge(study)
        fixed = set(merge.parameters).union(*(skill.parameters for skill in study.skills))
        both = sorted(fixed & set(merge.search))
        if both:
            raise ValueError(f"'{both[0]}' is both fixed and searched; leave one out")

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

    def write(self, candidate: Candidate, folder: Path, sections: Mapping[str, str]) -> None:
        from genepool.merging import run_plan

        run_plan(self.plan_of(candidate), folder, overwrite=True, sections=dict(sections))

    def card(self, candidate: Candidate, sections: Mapping[str, str]) -> str:
        from genepool.merging.card import model_card

        return model_card(self.plan_of(candidate), dict(sections))

    def record(self, candidate: Candidate) -> dict[str, Any]:
        return {"recipe": self.plan_of(candidate).recipe.to_dict()}

    def held(self, room: float) -> Held:
        study = self.study
        base = self.sources[study.base]
        need = _stored(base)
        if need > room or study.merges_a_part:
            return Held(streamed=("base", *(skill.name for skill in study.skills)))
        room -= need
        skills: dict[str, int] = {}
        streamed: list[str] = []
        for skill in study.skills:
            weights = self.sources[skill.model]
            # Both the sums as stored and the changes in float32 (`load_resident`).
            size = _stored(weights) + 4 * sum(
                weights.info(name).numel for name in weights.names() if weights.moves(name, base)
            )
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


@register("merge_parameters", noun="parameters")
class MergeParameters(MergeRepresentation[MergeParametersOptions]):
    """A genome is a recipe: the winner's is an ordinary `recipe.yaml`."""

    @classmethod
    def forked(cls, study: Study, run: FinishedRun) -> Study:
        """The search begins at the winner's value wherever a parameter that is not split has one within its range.

        That is the mean over skills, layer groups and roles where the old run had it split.
        """
        if not issubclass(run.kind, MergeParameters):
            # Numbers can only begin at numbers.
            return super().forked(study, run)
        merge = _merge(study)
        search = {name: _begun(name, wanted, run.genome) for name, wanted in merge.search.items()}
        if search == merge.search:
            progress.message(
                f"{run.folder} searched no parameter of this study, so this study begins at its own start values"
            )
        return study.model_copy(update={"vary": merge.model_copy(update={"search": search})})


def _merge(study: Study) -> MergeParametersOptions:
    return cast("MergeOptions", study.vary).as_merge()


def _begun(parameter: str, wanted: SearchRange, genome: Mapping[str, Any]) -> SearchRange:
    """A range that begins at the mean of what a winner had of a parameter; as it was where it had none."""
    values = [value for gene, value in genome.items() if _parameter(gene) == parameter]
    if not values or not all(map(is_number, values)):
        return wanted
    start = min(max(sum(values) / len(values), wanted.low), wanted.high)
    return wanted.model_copy(update={"start": start})


def _parameter(gene: str) -> str:
    """The parameter of a gene's name: "skill.weight[layers 0-1]" is of "weight"."""
    return gene.partition("[")[0].rpartition(".")[2]


def _resident(found: Ingredients) -> Mapping[str, Weights]:
    """Base and skills by their model strings, as many in memory as asked for."""
    from genepool.weights import load_resident, open_weights, stack_changes

    study, base = found.study, found.base
    if "base" not in found.resident:
        return {study.base: base, **found.skills}
    held = load_resident(base)
    chosen = {skill.model for skill in study.skills if skill.name in found.resident}
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
