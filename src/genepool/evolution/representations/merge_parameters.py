"""The parameters of a merge method: a genome is named numbers, and with them a recipe.

Uses merging and the search space of `genepool.evolution.genome`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import Field, field_validator

from genepool import progress
from genepool.checked import is_number
from genepool.evolution import older_keys
from genepool.evolution.genome import SearchRange, Space
from genepool.evolution.representations import register
from genepool.evolution.representations.base import FinishedRun, Ingredients, Vary
from genepool.evolution.representations.recipes import RecipeRepresentation, needs_no_base

if TYPE_CHECKING:
    from genepool.evolution.study import Study
    from genepool.weights.roles import Role


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


class MergeRepresentation(RecipeRepresentation[AnyMerge]):
    """What kinds that search parameters within ranges have in common."""

    def _opened_space(self, found: Ingredients, roles: Mapping[str, Role]) -> Space:
        from genepool.merging import find_method

        merge = self.options.as_merge()
        method = find_method(merge.method, f"{self.where}:{self.options.place('method')}")
        place = f"{self.where}:{self.options.place('search')}"
        return Space(found.study, merge, roles, method.parameters, where=place)

    @classmethod
    def check(cls, study: Study) -> None:
        if len(study.skills) < 2:
            raise ValueError(f"merging needs two skills or more, got {len(study.skills)}")
        merge = _merge(study)
        fixed = set(merge.parameters).union(*(skill.parameters for skill in study.skills))
        both = sorted(fixed & set(merge.search))
        if both:
            raise ValueError(f"'{both[0]}' is both fixed and searched; leave one out")

    @classmethod
    def works_without_base(cls, study: Study) -> bool:
        return needs_no_base(_merge(study).method)


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
