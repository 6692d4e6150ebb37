"""The recipe as a table of numbers to colour: skills down, layer groups and tensor roles across.

One panel per merge parameter, in the order the recipe names them. Uses nothing but the standard library; the section of
recipes uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: The order of roles from the input of a model to its output; what a study did not list comes last.
_ROLES = ("embedding", "attention", "mlp", "norm", "head", "other")


@dataclass(frozen=True)
class GeneValue:
    """One number of a recipe.

    Attributes:
        parameter: the merge parameter it sets ("weight").
        skill: whose parameter it is; None when all share it.
        layers: first and last layer it covers; None for all.
        role: the tensor role it covers; None for all, or for those without a number of their own.
        value: the number.
        low, high: the range it was searched in.
        spread: where the same number lay in the better candidates of the search; None when unknown.
    """

    parameter: str
    skill: str | None
    layers: tuple[int, int] | None
    role: str | None
    value: float
    low: float
    high: float
    spread: tuple[float, float] | None = None


@dataclass(frozen=True)
class RecipePicture:
    """A recipe: its numbers to draw, and the text that reproduces the model.

    Attributes:
        name: the model it makes.
        method: the merge method.
        genes: its numbers; empty draws nothing and shows the text alone.
        text: the recipe file (YAML).
        spread_of: what the genes' `spread` describes ("the best tenth, 20 candidates"); empty when there is none.
    """

    name: str
    method: str
    genes: tuple[GeneValue, ...] = ()
    text: str = ""
    spread_of: str = ""


Column = tuple[tuple[int, int] | None, str | None]


@dataclass(frozen=True)
class ParameterPanel:
    """One parameter.

    Attributes:
        parameter: its name.
        low, high: the range it was searched in, over all its genes.
        groups: (heading, number of columns) of the upper header line; empty when layers are not split.
        columns: (heading, name in files) of the lower header line.
        rows: (skill, cells); a cell is None where the recipe has no such number.
    """

    parameter: str
    low: float
    high: float
    groups: tuple[tuple[str, int], ...]
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, tuple[GeneValue | None, ...]], ...]


def panels(recipe: RecipePicture) -> list[ParameterPanel]:
    """One panel per parameter of the recipe."""
    names = dict.fromkeys(gene.parameter for gene in recipe.genes)
    return [_panel(name, [gene for gene in recipe.genes if gene.parameter == name]) for name in names]


def shade(gene: GeneValue) -> float:
    """How far along its range a gene's value lies, in [0, 1], for the colour scale."""
    return (gene.value - gene.low) / (gene.high - gene.low) if gene.high > gene.low else 0.5


def _panel(parameter: str, genes: Sequence[GeneValue]) -> ParameterPanel:
    columns = sorted({(gene.layers, gene.role) for gene in genes}, key=_place)
    groups: list[tuple[str, int]] = []
    if any(layers for layers, _ in columns):
        for layers, _ in columns:
            heading = _layers(layers)
            if groups and groups[-1][0] == heading:
                groups[-1] = (heading, groups[-1][1] + 1)
            else:
                groups.append((heading, 1))
    split = any(role for _, role in columns)
    headings = [(role or "other") if split else "all tensors" for _, role in columns]
    keys = [
        ", ".join(word for word in (_layers(layers) if groups else "", heading) if word)
        for (layers, _), heading in zip(columns, headings, strict=True)
    ]
    by_place = {(gene.skill, (gene.layers, gene.role)): gene for gene in genes}
    skills = list(dict.fromkeys(gene.skill for gene in genes))
    return ParameterPanel(
        parameter,
        min(gene.low for gene in genes),
        max(gene.high for gene in genes),
        tuple(groups),
        tuple(zip(headings, keys, strict=True)),
        tuple((skill or "all skills", tuple(by_place.get((skill, column)) for column in columns)) for skill in skills),
    )


def _place(column: Column) -> tuple[tuple[int, int], int]:
    layers, role = column
    return layers or (-1, -1), _ROLES.index(role) if role in _ROLES else len(_ROLES)


def _layers(layers: tuple[int, int] | None) -> str:
    if layers is None:
        return "all layers"
    return f"layer {layers[0]}" if layers[0] == layers[1] else f"layers {layers[0]}–{layers[1]}"
