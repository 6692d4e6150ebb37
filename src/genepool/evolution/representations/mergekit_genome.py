"""The genome of `mergekit-evolve`: numbers in its coordinates, and the merge that it makes of them.

A point is what its CMA-ES moves: for every group of layers, model and filter a weight and, for some methods, a density,
in that order. The merge of a point is written as mergekit would write it and read as genepool reads mergekit's recipes,
so both make the same model. Uses merging; `genepool.evolution.mergekit_evolve` makes studies of this kind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field, field_validator, model_validator

from genepool.errors import InputError
from genepool.evolution.candidates import Candidate
from genepool.evolution.genome import Gene, SearchRange
from genepool.evolution.representations import register
from genepool.evolution.representations.base import Ingredients, Vary
from genepool.evolution.representations.recipes import RecipeRepresentation, needs_no_base

if TYPE_CHECKING:
    import numpy as np

    from genepool.evolution.study import Study
    from genepool.merging import Plan
    from genepool.weights.roles import Role

#: What each of its methods searches; the first of them is a weight.
SEARCHED: dict[str, tuple[str, ...]] = {
    "linear": ("weight",),
    "task_arithmetic": ("weight",),
    "ties": ("weight", "density"),
    "dare_ties": ("weight", "density"),
    "slerp": ("preference",),
}
# The methods that it normalises by default.
_NORMALISED = ("ties", "dare_ties", "linear")


class MergekitGenomeOptions(Vary):
    """What `mergekit-evolve` searches, by the keys of its `genome`; the defaults are those of mergekit 0.1.5."""

    method: Literal["linear", "task_arithmetic", "ties", "dare_ties", "slerp"] = Field(
        description="The merge method (`merge_method` there). Of slerp, each group of layers merges the two models "
        "with the largest values."
    )
    layer_granularity: int = Field(
        default=0, ge=0, description="Layers that share their values; must divide the number of layers. 0: all."
    )
    normalize: bool | None = Field(
        default=None,
        description="Divide by the sum of the weights; null: yes for linear, ties and dare_ties. Not for slerp.",
    )
    allow_negative_weights: bool = Field(
        default=False, description="A negative value is a negative weight; otherwise its sign is dropped."
    )
    smooth: bool = Field(
        default=False, description="Interpolate between the groups of layers, instead of a step from one to the next."
    )
    filters: tuple[str, ...] = Field(
        default=(),
        description="Texts in the names of tensors that get values of their own; the first that matches counts.",
    )
    tokenizer_source: str | None = Field(default=None, description="As in mergekit's recipes.")
    random_init: bool = Field(
        default=False, description="Begin at random values from 0 to 1; otherwise at equal weights and density 1."
    )
    reach: float = Field(
        default=4.0, gt=1, le=1e6, description="Values lie between -reach and reach. In mergekit they have no limits."
    )

    @field_validator("filters", mode="before")
    @classmethod
    def _none_is_empty(cls, filters: Any) -> Any:
        return () if filters is None else filters

    @field_validator("filters")
    @classmethod
    def _told_apart(cls, filters: tuple[str, ...]) -> tuple[str, ...]:
        if "" in filters or "*" in filters or len(set(filters)) < len(filters):
            raise ValueError("filters must be different texts; what none of them matches has values of its own anyway")
        return filters

    @model_validator(mode="after")
    def _one_value_of_slerp(self) -> MergekitGenomeOptions:
        if self.method == "slerp" and (self.smooth or self.filters):
            raise ValueError(f"slerp has one value for each group of layers: leave `{self._first_idle()}` out")
        return self

    def _first_idle(self) -> str:
        return "smooth" if self.smooth else "filters"

    @property
    def how(self) -> str:
        return self.method

    @property
    def searched(self) -> Mapping[str, SearchRange]:
        ranges = {
            "weight": SearchRange(low=-self.reach if self.allow_negative_weights else 0.0, high=self.reach),
            "density": SearchRange(low=0.0, high=1.0),
            "preference": SearchRange(low=-self.reach, high=self.reach),
        }
        return {parameter: ranges[parameter] for parameter in SEARCHED[self.method]}

    def tried(self, skills: str) -> str:
        return f"ways to merge {skills} with {self.method}"


class MergekitSpace:
    """The genes of a study, and the merges they stand for.

    Args:
        study: the study; its kind of genome is this one.
        layers: the number of layers of its models.
        where: the study file and the place of the options in it, for errors.

    Attributes:
        genes: every gene, in the order of mergekit's genotype: layer group, model, filter, parameter.
    """

    def __init__(self, study: Study, layers: int, *, where: str = "study:vary") -> None:
        self._study, self._layers = study, layers
        self._options = options = cast("MergekitGenomeOptions", study.vary)
        step = options.layer_granularity or layers
        if layers % step:
            raise InputError(
                f"must divide the {layers} layers of the models, got {step}",
                where=f"{where}.layer_granularity",
                fix="Take a divisor, or 0 for one group",
            )
        self._groups = [(first, first + step) for first in range(0, layers, step)]
        self.genes: tuple[Gene, ...] = tuple(self._all_genes())

    def _all_genes(self) -> Iterator[Gene]:
        options, reach = self._options, self._options.reach
        for group in self._groups:
            for skill in self._study.skills:
                for text in (*options.filters, None):
                    for parameter in SEARCHED[options.method]:
                        start = 1.0 if parameter == "density" else 1 / len(self._study.skills)
                        layers = (group[0], group[1] - 1) if len(self._groups) > 1 else None
                        name = self._name(skill.name, parameter, group, text)
                        yield Gene(name, parameter, skill.name, layers, text, -reach, reach, start)

    def _name(self, skill: str, parameter: str, group: tuple[int, int], text: str | None) -> str:
        layers = f"layers {group[0]}-{group[1] - 1}" if len(self._groups) > 1 else ""
        inside = ", ".join(word for word in (layers, text or "") if word)
        return f"{skill}.{parameter}" + (f"[{inside}]" if inside else "")

    @property
    def start(self) -> np.ndarray:
        """Where the search begins, shape (d,), in the unit cube."""
        import numpy as np

        from genepool.seeding import numpy_generator

        values = np.array([gene.start for gene in self.genes])
        if self._options.random_init:
            values = numpy_generator(self._study.seed, "mergekit_genome").uniform(size=len(values))
        reach = self._options.reach
        return (values + reach) / (2 * reach)

    def genome(self, x: np.ndarray) -> dict[str, float]:
        """The genome at a point of the unit cube, shape (d,): the numbers that the merge is made with."""
        if x.shape != (len(self.genes),):
            raise ValueError(f"a point of this space has shape ({len(self.genes)},), got {x.shape}")
        return {gene.name: self._value(gene, float(u)) for gene, u in zip(self.genes, x, strict=True)}

    def _value(self, gene: Gene, u: float) -> float:
        value = round(gene.low + u * (gene.high - gene.low), 6)
        if gene.parameter == "density":
            return min(abs(value), 1.0)
        return abs(value) if gene.parameter == "weight" and not self._options.allow_negative_weights else value

    def as_mergekit(self, genome: Mapping[str, float]) -> dict[str, Any]:
        """The recipe of a genome as `mergekit-evolve` writes it, but for the type, which is the models' here."""
        options, study = self._options, self._study
        recipe: dict[str, Any] = {"merge_method": options.method, "base_model": study.base}
        if options.method == "slerp":
            recipe["slices"] = [self._arc(group, genome) for group in self._groups]
        elif options.smooth:
            recipe["models"] = [
                {"model": skill.model, "parameters": self._parameters(skill.name, self._groups, genome)}
                for skill in study.skills
            ] + self._unlisted_base()
        else:
            recipe["slices"] = [{"sources": self._sources(group, genome)} for group in self._groups]
        if options.method != "slerp":
            normalize = options.method in _NORMALISED if options.normalize is None else options.normalize
            recipe["parameters"] = {"normalize": normalize}
        recipe |= {"tokenizer_source": options.tokenizer_source, "dtype": study.dtype}
        return {key: value for key, value in recipe.items() if value is not None}

    def _sources(self, group: tuple[int, int], genome: Mapping[str, float]) -> list[dict[str, Any]]:
        """The models of one group of layers, and the base where it is none of them."""
        sources = [
            {"model": one.model, "parameters": self._parameters(one.name, [group], genome)}
            for one in self._study.skills
        ]
        return [{**source, "layer_range": list(group)} for source in sources + self._unlisted_base()]

    def _unlisted_base(self) -> list[dict[str, Any]]:
        study = self._study
        listed = study.base is None or study.base in [skill.model for skill in study.skills]
        return [] if listed else [{"model": study.base}]

    def _parameters(self, skill: str, groups: Sequence[tuple[int, int]], genome: Mapping[str, float]) -> dict[str, Any]:
        filters = self._options.filters
        found: dict[str, Any] = {}
        for parameter in SEARCHED[self._options.method]:
            by_filter = []
            for text in (*filters, None):
                values = [genome[self._name(skill, parameter, group, text)] for group in groups]
                value = values[0] if len(values) == 1 else values
                by_filter.append({"value": value} if text is None else {"filter": text, "value": value})
            found[parameter] = by_filter if filters else by_filter[0]["value"]
        return found

    def _arc(self, group: tuple[int, int], genome: Mapping[str, float]) -> dict[str, Any]:
        """One group of layers under slerp: from the model with the largest value towards that with the second."""
        skills = self._study.skills
        values = [genome[self._name(skill.name, "preference", group, None)] for skill in skills]
        first, second = sorted(range(len(skills)), key=lambda i: (-values[i], i))[:2]
        # The softmax of the two values.
        t = 1 / (1 + math.exp(values[first] - values[second]))
        return {
            "base_model": skills[first].model,
            "sources": [{"model": skills[i].model, "layer_range": list(group)} for i in (first, second)],
            "parameters": {"t": t},
        }

    def recipe(self, genome: Mapping[str, float], seed: int) -> dict[str, Any]:
        """The recipe of a genome, as plain data that `genepool.merging.Recipe` and a YAML file accept."""
        from genepool.merging import parse_recipe

        recipe = parse_recipe(self.as_mergekit(genome), where="study").to_dict()
        return {**recipe, "seed": seed, **self._study.recipe_parts()}


@register("mergekit_genome", noun="the weights and densities of mergekit-evolve")
class MergekitGenome(RecipeRepresentation[MergekitGenomeOptions]):
    """A genome is a merge as `mergekit-evolve` makes it: the winner's is an ordinary `recipe.yaml`."""

    def _opened_space(self, found: Ingredients, roles: Mapping[str, Role]) -> MergekitSpace:
        from genepool.weights.roles import layer_counts
        from genepool.weights.stacks import main_stack

        layers = layer_counts(roles).get(main_stack(roles), 0)
        if not layers:
            raise InputError("has no layers", where=found.study.reference, fix="Name a model with layers")
        return MergekitSpace(found.study, layers, where=f"{self.where}:{self.options.place('')}".rstrip("."))

    @classmethod
    def check(cls, study: Study) -> None:
        options = cast("MergekitGenomeOptions", study.vary)
        least = 2 if study.base is None or options.method in ("linear", "slerp") else 1
        if len(study.skills) < least:
            raise ValueError(f"{options.method} merges {least} models or more, got {len(study.skills)}")
        if any(skill.parameters for skill in study.skills):
            raise ValueError("`parameters` of a skill have no effect on this kind. Leave them out")
        unlisted = study.base is not None and study.base not in [skill.model for skill in study.skills]
        if options.method in ("linear", "slerp") and unlisted:
            raise ValueError(f"{options.method} would leave the base without a value: list it among the skills too")

    @classmethod
    def works_without_base(cls, study: Study) -> bool:
        return needs_no_base(cast("MergekitGenomeOptions", study.vary).method)

    def plan_of(self, candidate: Candidate) -> Plan:
        if self.options.method != "slerp":
            return super().plan_of(candidate)
        from genepool import progress
        from genepool.merging import plan_merge

        # Which two models a group of layers is made of is the candidate's own; what is worth saying was said of the
        # first.
        with progress.silenced():
            return plan_merge(self._recipe(candidate.genome, candidate.seed), self.sources)
