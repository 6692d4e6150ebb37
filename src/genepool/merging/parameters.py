"""Values that vary over a model: scalars, gradients over the layers, and lists of conditions; and how they resolve.

A recipe's parameter may be one number, a gradient `[0.2, 0.8]` interpolated over the layers, or a list of
conditions of which the first that matches the tensor wins. Both dialects resolve here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from genepool.errors import InputError, nearest
from genepool.weights.roles import PARTS

Scalar = bool | int | float | str
REQUIRED: Final = object()
_CONDITION_KEYS = ("filter", "role", "layers", "value")


@dataclass(frozen=True)
class Parameter:
    """One parameter a merge method takes.

    Attributes:
        name: as written in recipes.
        default: its value when the recipe is silent; `REQUIRED` when it must be given.
        doc: what it does, in one sentence.
        kind: float, int, bool or str.
        per_model: whether every model has its own; otherwise one value serves the whole merge.
        low, high: inclusive limits of a number.
        choices: allowed words of a str.
        whole: must be the same for every tensor (set for parameters of a whole-vector scope by the method).
        source: paper, section or table that the default comes from.
    """

    name: str
    default: Any
    doc: str
    kind: type = float
    per_model: bool = False
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    source: str = ""

    def check(self, value: object, where: str) -> Scalar:
        """`value` as this parameter's kind.

        Raises:
            InputError: it is of another kind or outside the limits.
        """
        if self.kind is bool:
            if isinstance(value, bool):
                return value
            if value in (0, 1):
                return bool(value)
            raise InputError(
                f"{self.name} must be true or false, got {value!r}", where=where, fix="Write true or false"
            )
        if self.kind is str:
            if isinstance(value, str) and value in self.choices:
                return value
            raise InputError(
                f"{self.name} cannot be {value!r}",
                where=where,
                fix=nearest(str(value), self.choices),
            )
        number = _number(value)
        if number is None:
            raise InputError(f"{self.name} must be a number, got {value!r}", where=where, fix="Write a number")
        if not self.low <= number <= self.high:
            limits = f"from {self.low:g} to {self.high:g}" if self.high < math.inf else f"of at least {self.low:g}"
            raise InputError(f"{self.name} is out of range, got {number:g}", where=where, fix=f"Give a value {limits}")
        if self.kind is int:
            if number != int(number):
                raise InputError(f"{self.name} must be a whole number, got {number:g}", where=where, fix="Round it")
            return int(number)
        return number

    def to_dict(self) -> dict[str, Any]:
        """What `genepool methods --json` prints of it."""
        limits = [None if math.isinf(x) else x for x in (self.low, self.high)]
        return {
            "name": self.name,
            "kind": self.kind.__name__,
            "required": self.default is REQUIRED,
            "default": None if self.default is REQUIRED else self.default,
            "per_model": self.per_model,
            "limits": limits,
            "choices": list(self.choices),
            "doc": self.doc,
            "source": self.source,
        }


@dataclass(frozen=True)
class Site:
    """Where a value is asked for: one tensor of one model.

    Attributes:
        name: full name of the tensor.
        part: its role (attention, mlp, norm, embedding, head, other).
        layer: its layer; None outside the layers.
        position: how far through the slice it is, 0 at the first layer, 1 at the last; 0 outside the layers.
        depth: number of layers of the output; None when it has none.
        filters: texts of conditions that mean the tensor by another name that it has.
    """

    name: str
    part: str
    layer: int | None
    position: float
    depth: int | None = None
    filters: frozenset[str] = frozenset()


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        # YAML 1.1 reads 1e-3 as a string; recipes written by hand are full of it.
        try:
            value = float(value)
        except ValueError:
            return None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def check_value(parameter: Parameter, value: object, where: str) -> Any:
    """A parameter's value as a recipe wrote it, checked in all its branches.

    Returns:
        The value in normal form: a scalar, a list of scalars, or a list of condition mappings.

    Raises:
        InputError: a branch is of the wrong kind, outside its limits, or a condition has an unknown key.
    """
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence) or isinstance(value, str):
        return parameter.check(value, where)
    if not value:
        raise InputError(f"{parameter.name} is an empty list", where=where, fix="Give a number or remove the key")
    if isinstance(value[0], Mapping):
        return [_check_condition(parameter, condition, f"{where}[{i}]") for i, condition in enumerate(value)]
    return [parameter.check(anchor, f"{where}[{i}]") for i, anchor in enumerate(value)]


def _check_condition(parameter: Parameter, condition: object, where: str) -> dict[str, Any]:
    if not isinstance(condition, Mapping):
        raise InputError(
            "the list mixes conditions and plain values", where=where, fix="Write {value: ...} for the rest"
        )
    for key in condition:
        if key not in _CONDITION_KEYS:
            raise InputError(f"unknown key '{key}'", where=f"{where}.{key}", fix=nearest(str(key), _CONDITION_KEYS))
    if "value" not in condition:
        raise InputError("the condition has no value", where=where, fix="Add `value:`")
    result: dict[str, Any] = {}
    text = condition.get("filter")
    if text is not None and text != "*":
        result["filter"] = str(text)
    if (role := condition.get("role")) is not None:
        roles = [role] if isinstance(role, str) else list(role)
        for word in roles:
            if word not in PARTS:
                raise InputError(f"unknown role {word!r}", where=f"{where}.role", fix=nearest(str(word), PARTS))
        result["role"] = roles
    if (layers := condition.get("layers")) is not None:
        if (
            not (isinstance(layers, Sequence) and len(layers) == 2 and all(type(n) is int for n in layers))
            or not 0 <= layers[0] <= layers[1]
        ):
            raise InputError(
                f"layers must be [first, last], both included, got {layers!r}",
                where=f"{where}.layers",
                fix="Write [0, 3]",
            )
        result["layers"] = list(layers)
    inner = condition["value"]
    if isinstance(inner, Mapping) or (isinstance(inner, list) and inner and isinstance(inner[0], Mapping)):
        raise InputError("conditions cannot be nested", where=f"{where}.value", fix="Write them one after another")
    result["value"] = check_value(parameter, inner, f"{where}.value")
    return result


def resolve(levels: Sequence[Mapping[str, Any]], parameter: Parameter, site: Site) -> Any:
    """The value of `parameter` at one tensor.

    Args:
        levels: parameter maps, the most specific first (model, slice, whole recipe), values in normal form.
        parameter: what is asked for.
        site: the tensor.

    Returns:
        The scalar of the first level that speaks for this tensor, else the default (possibly `REQUIRED`).
    """
    for level in levels:
        if parameter.name not in level:
            continue
        value = level[parameter.name]
        if isinstance(value, list) and value and isinstance(value[0], dict):
            matching = next((c for c in value if _matches(c, site)), None)
            if matching is None:
                continue
            value = matching["value"]
        return interpolate(value, site.position) if isinstance(value, list) else value
    return parameter.default


def _matches(condition: Mapping[str, Any], site: Site) -> bool:
    if "filter" in condition and condition["filter"] not in site.name and condition["filter"] not in site.filters:
        return False
    if "role" in condition and site.part not in condition["role"]:
        return False
    if "layers" in condition:
        first, last = condition["layers"]
        return site.layer is not None and first <= site.layer <= last
    return True


def interpolate(anchors: Sequence[Scalar], position: float) -> Scalar:
    """A gradient's value at `position` in [0, 1]: linear between anchors; words and flags take the one before."""
    scaled = position * (len(anchors) - 1)
    i = int(scaled)
    if isinstance(anchors[0], bool | str):
        return anchors[i]
    after = anchors[min(i + 1, len(anchors) - 1)]
    share = scaled - i
    return (1 - share) * float(anchors[i]) + share * float(after)


def constant_value(levels: Sequence[Mapping[str, Any]], parameter: Parameter) -> bool:
    """Whether the parameter is one scalar for the whole model, as whole-vector methods need."""
    for level in levels:
        if parameter.name in level:
            return not isinstance(level[parameter.name], list)
    return True
