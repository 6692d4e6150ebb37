"""Values that are well-formed and cannot be meant.

Layers that no model has, gradients finer than the layers, densities that keep nothing. Checked when a recipe is
planned, because only then the depth of the models is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from genepool.errors import InputError
from genepool.merging.plan import Plan
from genepool.merging.recipe import Recipe
from genepool.merging.recipe_parts import Parameters
from genepool.weights import Role
from genepool.weights.roles import layer_counts
from genepool.weights.stacks import main_stack

Roles = Mapping[str, Mapping[str, Role]]


def check_layers(recipe: Recipe, roles: Roles) -> None:
    """Refuses conditions on layers that do not exist.

    Raises:
        InputError: naming the condition and the number of layers.
    """
    # Each part of a model has a depth of its own; here the deepest says what there is.
    every = (lambda of: max(layer_counts(of).values(), default=0)) if recipe.modules else _depth
    depths = {model: every(of) for model, of in roles.items()}
    output = sum(part.length for part in recipe.parts()) or max(depths.values())
    deepest = max(output, *depths.values())
    for place, parameters, model, _ in _levels(recipe, deepest):
        count = deepest if model is None else depths[model]
        for where, condition in _conditions(parameters, f"{recipe.where}:{place}"):
            if "layers" in condition and condition["layers"][1] >= max(count, 1):
                raise InputError(
                    f"layers {condition['layers']}, where there are {count}: 0 to {count - 1}"
                    if count
                    else f"layers {condition['layers']}, where the models have no numbered layers",
                    where=f"{where}.layers",
                    fix=f"End at {count - 1} or before" if count else "Leave `layers` out",
                )


def check_gradients(recipe: Recipe, roles: Roles) -> None:
    """Refuses gradients with more anchors than there are layers to spread them over.

    Two anchors are always allowed: the first is what tensors outside the layers get.

    Raises:
        InputError: naming the parameter and both numbers.
    """
    whole = max(part.length for part in recipe.parts())
    depth = whole or max(_depth(of) for of in roles.values())
    for place, parameters, _, layers in _levels(recipe, depth):
        for name, value in parameters.items():
            branches = [value] if not _is_conditional(value) else [condition["value"] for condition in value]
            for branch in branches:
                if isinstance(branch, list) and len(branch) > max(layers, 2):
                    raise InputError(
                        f"a gradient has {len(branch)} anchors over {layers} layer{'s' if layers != 1 else ''}",
                        where=f"{recipe.where}:{place}.{name}",
                        fix=f"Give at most {max(layers, 2)}, or say `lenient: true`",
                    )


def check_densities(plan: Plan) -> None:
    """Refuses a merge whose densities keep nothing of any model, which would be the base under another name.

    Raises:
        InputError: every model's density is 0 for every tensor.
    """
    if not any(parameter.name == "density" for parameter in plan.method.parameters):
        return
    for out in plan.layout.merged:
        settings = plan.settings(out)
        values = [settings.shared.get("density"), *(own.get("density") for own in settings.per_model)]
        if any(value != 0 for value in values if value is not None):
            return
    raise InputError(
        "a density of 0 for every model keeps no entry",
        where=f"{plan.recipe.where}:parameters.density",
        fix="Give a share above 0, or say `lenient: true`",
    )


def _levels(recipe: Recipe, depth: int) -> Iterator[tuple[str, Parameters, str | None, int]]:
    """Every map of parameters: its place, itself, the model it is for (None for all), and how many layers it spans."""
    yield "parameters", recipe.parameters, None, depth
    for name, module in (recipe.modules or {}).items():
        yield f"modules.{name}.parameters", module.parameters, None, depth
    for part in recipe.parts():
        if part.ranges:
            yield f"{part.place.removesuffix('.sources')}.parameters", part.levels[0], None, part.length
        for i, entry in enumerate(part.entries):
            yield f"{part.place}[{i}].parameters", entry.parameters, entry.model, part.length or depth


def _depth(roles: Mapping[str, Role]) -> int:
    return layer_counts(roles).get(main_stack(roles), 0)


def _is_conditional(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _conditions(parameters: Parameters, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, value in parameters.items():
        for i, condition in enumerate(value if _is_conditional(value) else []):
            yield f"{place}.{name}[{i}]", condition
