"""A genome of merge parameters: named numbers, as a point of the unit cube and as an ordinary recipe.

Turns the searched ranges of a study into genes for one base model, and a candidate into the recipe whose condition
lists give every tensor its own gene's value. Uses tensor roles from `genepool.weights`; touches no tensor.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import Field, model_validator

from genepool.errors import InputError, nearest
from genepool.schema import Strict

if TYPE_CHECKING:
    import numpy as np

    from genepool.evolution.study import Study
    from genepool.merging.parameters import Parameter
    from genepool.weights.roles import Role


Part = Literal["attention", "mlp", "norm", "embedding", "head", "other"]


class Split(Strict):
    """Between what a parameter differs."""

    skill: bool | None = Field(
        default=None,
        description="One value for each skill; null: yes for parameters of the models, no for parameters of the merge.",
    )
    layer_groups: int = Field(
        default=1,
        ge=1,
        description="One value for each of N groups of consecutive layers; embeddings belong to the first.",
    )
    roles: tuple[Part, ...] = Field(
        default=(), description="One value for each role in the list; all other roles share one."
    )


class SearchRange(Strict):
    """The range of one merge parameter."""

    low: float = Field(ge=-1e6, le=1e6, description="Smallest value.")
    high: float = Field(ge=-1e6, le=1e6, description="Largest value.")
    start: float | None = Field(
        default=None, description="Where the search begins; by default the middle of the range."
    )
    sum: float | None = Field(
        default=None,
        description="Shift the values of all skills by the same amount, so that they sum to this in every layer "
        "group and role. A shifted value may leave the range. null: do not shift.",
    )
    per: Split = Field(default=Split(), description="Whether it differs between skills, layer groups and tensor roles.")

    @model_validator(mode="after")
    def _ordered(self) -> SearchRange:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        if self.start is not None and not self.low <= self.start <= self.high:
            raise ValueError(f"start ({self.start:g}) must lie between low ({self.low:g}) and high ({self.high:g})")
        return self


class MergeSearch(Protocol):
    """What of a merge is fixed and what is searched.

    Attributes:
        method: the merge method.
        parameters: its global parameters that stay fixed.
        search: the ranges of those that are searched, by name.
    """

    method: str
    parameters: dict[str, Any]
    search: dict[str, SearchRange]


@dataclass(frozen=True)
class Gene:
    """One number of a genome.

    Attributes:
        name: what history and reports call it, "reverse.weight[layers 0-1, attention]".
        parameter: the merge parameter it sets.
        skill: the skill it belongs to; None when all share it.
        layers: first and last layer it covers; None when layers are not split.
        part: the tensor role it covers; None when roles are not split, or for those the study does not list.
        low, high, start: its range and where the search begins, in the parameter's own units.
    """

    name: str
    parameter: str
    skill: str | None
    layers: tuple[int, int] | None
    part: str | None
    low: float
    high: float
    start: float

    def to_dict(self) -> dict[str, Any]:
        """Its name and what the name is made of, as plain data for a study's record."""
        layers = None if self.layers is None else list(self.layers)
        return {
            "name": self.name,
            "parameter": self.parameter,
            "skill": self.skill,
            "layers": layers,
            "role": self.part,
        }


@dataclass(frozen=True)
class GeneScope:
    """The tensors that share one gene: a group of layers and a role, either of which may be all."""

    layers: tuple[int, int] | None
    part: str | None

    def label(self) -> str:
        """The bracket behind a gene's name; empty when the gene covers every tensor."""
        layers = f"layers {self.layers[0]}-{self.layers[1]}" if self.layers else ""
        inside = ", ".join(word for word in (layers, self.part or "") if word)
        return f"[{inside}]" if inside else ""


class Partition:
    """How one parameter's split divides the tensors of a model into cells.

    Groups are of the main stack's layers; a layer of another stack (a vision tower's) belongs where its number does, as
    a recipe's `layers` would have it. Tensors outside the layers go with the nearest end: embeddings with the first
    group, the final norm and the head with the last, as a gradient over the layers would treat them.

    Args:
        roles: the role of every tensor of the base.
        groups: number of layer groups, near-equal and in order.
        parts: roles that get cells of their own.
        where: file and key for errors.
    """

    def __init__(self, roles: Mapping[str, Role], groups: int, parts: Sequence[str], *, where: str = "") -> None:
        from genepool.weights.roles import layer_counts
        from genepool.weights.stacks import main_stack

        self._parts = tuple(dict.fromkeys(parts))
        self._depth = count = layer_counts(roles).get(main_stack(roles), 0)
        if groups > 1 and groups > count:
            raise InputError(
                f"got {groups} layer groups, and the base has {count} layers",
                where=f"{where}.layer_groups",
                fix=f"Ask for {max(count, 1)} groups or fewer",
            )
        bounds = [round(i * count / groups) for i in range(groups + 1)]
        self._groups = [(a, b - 1) for a, b in itertools.pairwise(bounds)] if groups > 1 else [None]
        present = {role.part for role in roles.values()}
        for part in self._parts:
            if part not in present:
                raise InputError(
                    f"the base has no tensor with the role '{part}'",
                    where=f"{where}.roles",
                    fix="Leave it out",
                )
        used = {self.cell(role) for role in roles.values()}
        order = [GeneScope(layers, part) for layers in self._groups for part in (*self._parts, None)]
        self.cells = [cell for cell in order if cell in used]
        self._inside = {self.cell(role) for role in roles.values() if self._in_layers(role)}
        self._outside = list(dict.fromkeys(r.part for _, r in sorted(roles.items()) if not self._in_layers(r)))

    def cell(self, role: Role) -> GeneScope:
        """The cell a tensor with this role belongs to."""
        part = role.part if role.part in self._parts else None
        if self._in_layers(role):
            for group in self._groups:
                if group is None or group[0] <= (role.layer or 0) <= group[1]:
                    return GeneScope(group, part)
        return GeneScope(self._groups[0 if role.part == "embedding" else -1], part)

    def conditions(self, values: Mapping[GeneScope, float]) -> float | list[dict[str, Any]]:
        """The parameter as a recipe writes it: one number, or conditions of which the first that fits counts."""
        if len(self.cells) == 1:
            return values[self.cells[0]]
        lines: list[dict[str, Any]] = []
        if len(self._groups) == 1:
            lines = [{**({"role": cell.part} if cell.part else {}), "value": values[cell]} for cell in self.cells]
        else:
            for cell in self.cells:
                if cell in self._inside:
                    line: dict[str, Any] = {"layers": list(cell.layers or ())}
                    lines.append({**line, **({"role": cell.part} if cell.part else {}), "value": values[cell]})
            for part in self._outside:
                end = self._groups[0 if part == "embedding" else -1]
                lines.append({"role": part, "value": values[GeneScope(end, part if part in self._parts else None)]})
        # The last line catches all that is left, so that no tensor falls back to a method's default unseen.
        return [*lines[:-1], {"value": lines[-1]["value"]}]

    def _in_layers(self, role: Role) -> bool:
        return role.layer is not None and role.layer < self._depth


class Space:
    """The search space of a study: genes in a fixed order, and the ways between vector, genome and recipe.

    Args:
        study: the study.
        merge: what of a merge is searched.
        roles: the role of every tensor of the base.
        declared: the method's parameters.
        where: the study file and the place of the ranges in it, for errors.

    Attributes:
        genes: every gene, in the order of the vector's coordinates.
    """

    def __init__(
        self,
        study: Study,
        merge: MergeSearch,
        roles: Mapping[str, Role],
        declared: Iterable[Parameter],
        *,
        where: str = "study:vary.search",
    ) -> None:
        self._study, self._merge = study, merge
        self._partitions: dict[str, Partition] = {}
        self._skills: dict[str, tuple[str | None, ...]] = {}
        genes: list[Gene] = []
        by_name = {parameter.name: parameter for parameter in declared}
        for parameter, wanted in merge.search.items():
            here = f"{where}.{parameter}"
            if parameter not in by_name:
                raise InputError(
                    f"{merge.method} has no parameter '{parameter}'", where=here, fix=nearest(parameter, by_name)
                )
            _check_range(by_name[parameter], wanted, here)
            split, own = wanted.per, by_name[parameter].per_model
            if wanted.sum is not None and not (own and split.skill is not False):
                raise InputError(
                    f"'{parameter}' is one number for all skills, so it cannot have a sum",
                    where=f"{here}.sum",
                    fix="Leave `sum` out",
                )
            if split.skill and not own:
                raise InputError(
                    f"'{parameter}' is one number for the whole merge, not one per skill",
                    where=f"{here}.per.skill",
                    fix="Leave `skill` out",
                )
            each = own if split.skill is None else split.skill
            self._skills[parameter] = tuple(skill.name for skill in study.skills) if each else (None,)
            partition = Partition(roles, split.layer_groups, split.roles, where=f"{here}.per")
            self._partitions[parameter] = partition
            genes += [
                _gene(parameter, skill, cell, wanted) for skill in self._skills[parameter] for cell in partition.cells
            ]
        self.genes = tuple(genes)

    @property
    def names(self) -> tuple[str, ...]:
        """The genes' names, in order."""
        return tuple(gene.name for gene in self.genes)

    @property
    def start(self) -> np.ndarray:
        """Where the search begins, shape (d,), in the unit cube."""
        return self.vector({gene.name: gene.start for gene in self.genes})

    def genome(self, x: np.ndarray) -> dict[str, float]:
        """The genome at a point of the unit cube, shape (d,).

        Values keep about six digits of their range: no merge feels the difference, and a recipe stays readable.
        """
        if x.shape != (len(self.genes),):
            raise ValueError(f"a point of this space has shape ({len(self.genes)},), got {x.shape}")
        genome = {gene.name: _value(gene, float(u)) for gene, u in zip(self.genes, x, strict=True)}
        for parameter, wanted in self._merge.search.items():
            if wanted.sum is not None:
                self._shift(genome, parameter, wanted.sum)
        return genome

    def _shift(self, genome: dict[str, float], parameter: str, total: float) -> None:
        """Makes the skills' values of a parameter sum to `total` in each cell."""
        for cell in self._partitions[parameter].cells:
            names = [_gene_name(parameter, skill, cell) for skill in self._skills[parameter]]
            by = (total - sum(genome[name] for name in names)) / len(names)
            genome.update({name: round(genome[name] + by, 6) for name in names})

    def vector(self, genome: Mapping[str, float]) -> np.ndarray:
        """The point of the unit cube, shape (d,), of a genome."""
        import numpy as np

        return np.array([(genome[g.name] - g.low) / (g.high - g.low) for g in self.genes], dtype=np.float64)

    def recipe(self, genome: Mapping[str, float], seed: int) -> dict[str, Any]:
        """The recipe of a genome, as plain data that `genepool.merging.Recipe` and a YAML file accept."""
        study = self._study
        models = [
            {"model": skill.model, "parameters": {**skill.parameters, **self._values(genome, skill.name)}}
            for skill in study.skills
        ]
        recipe: dict[str, Any] = {
            "genepool": 1,
            "method": self._merge.method,
            **({} if study.base is None else {"base": study.base}),
            "models": models,
            "parameters": {**self._merge.parameters, **self._values(genome, None)},
            "seed": seed,
            **study.recipe_parts(),
        }
        return recipe if study.dtype is None else {**recipe, "dtype": study.dtype}

    def _values(self, genome: Mapping[str, float], skill: str | None) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for parameter, partition in self._partitions.items():
            if skill in self._skills[parameter]:
                cells = {cell: genome[_gene_name(parameter, skill, cell)] for cell in partition.cells}
                values[parameter] = partition.conditions(cells)
        return values


def _check_range(parameter: Parameter, wanted: SearchRange, where: str) -> None:
    if parameter.kind is not float:
        raise InputError(
            f"'{parameter.name}' is not a number that can be searched",
            where=where,
            fix="Fix it under `parameters` instead",
        )
    for key, value in (("low", wanted.low), ("high", wanted.high)):
        parameter.check(value, f"{where}.{key}")


def _gene_name(parameter: str, skill: str | None, cell: GeneScope) -> str:
    return (f"{skill}." if skill is not None else "") + parameter + cell.label()


def _gene(parameter: str, skill: str | None, cell: GeneScope, wanted: SearchRange) -> Gene:
    # The middle of the range is the unit cube's 0.5, the start of evolutionary merging (Akiba et al. 2024).
    start = (wanted.low + wanted.high) / 2 if wanted.start is None else wanted.start
    name = _gene_name(parameter, skill, cell)
    return Gene(name, parameter, skill, cell.layers, cell.part, wanted.low, wanted.high, start)


def _value(gene: Gene, u: float) -> float:
    width = gene.high - gene.low
    value = round(gene.low + u * width, 6 - math.floor(math.log10(width)))
    return min(max(value, gene.low), gene.high)
