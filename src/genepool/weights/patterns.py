"""Patterns that choose tensors of a model, in recipes and on command lines.

A pattern is a glob over names (`*.mlp.*`), a role (`head`), a part of a model with several (`vision`, `text`), or the
path of a module or tensor (`visual.merger`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import translate
from typing import Any

from genepool.errors import InputError, nearest
from genepool.weights.change import Change
from genepool.weights.derived_changes import OfSomeTensors
from genepool.weights.roles import PARTS, Role, infer_roles
from genepool.weights.stacks import KINDS, Stacks
from genepool.weights.tensor_info import TensorInfo

# Beyond this a pattern is no pattern anybody writes, and matching it would take long.
_LONGEST = 200


class Patterns:
    """What patterns choose among the tensors of one model.

    Args:
        roles: the part every tensor plays.
        config: the model's config.json.
    """

    def __init__(self, roles: Mapping[str, Role], config: Mapping[str, Any] | None = None) -> None:
        self._roles = roles
        self._stacks = Stacks(roles, config)

    def chosen(self, pattern: str, where: str) -> set[str]:
        """The tensors that a pattern stands for.

        Raises:
            InputError: it stands for none.
        """
        found = self._found(pattern)
        if not found:
            tops = {name.rpartition(".")[0] for name in self._roles}
            kinds = {stack.kind for stack in self._stacks.all if stack.kind}
            known = {role.part for role in self._roles.values()} | kinds | tops | set(self._roles)
            close = nearest(pattern, known)
            raise InputError(
                f"'{pattern}' matches no tensor",
                where=where,
                fix=close if close.startswith("Did") else "`genepool plan --all` lists the names; `*` matches any text",
            )
        return found

    def chosen_by_any(self, patterns: Iterable[str], where: str) -> set[str]:
        """The tensors that at least one of several patterns stands for.

        Raises:
            InputError: one of them stands for none.
        """
        return {name for pattern in patterns for name in self.chosen(pattern, where)}

    def _found(self, pattern: str) -> set[str]:
        if len(pattern) > _LONGEST or pattern.count("*") > 12:
            return set()
        if any(sign in pattern for sign in "*?["):
            matches = re.compile(translate(pattern)).match
            return {name for name in self._roles if matches(name)}
        if pattern in PARTS and (found := {name for name, role in self._roles.items() if role.part == pattern}):
            return found
        if pattern in KINDS and (found := {name for name in self._roles if self._stacks.kind_of(name) == pattern}):
            return found
        return {name for name in self._roles if name == pattern or name.startswith(pattern + ".")}


def some_of(change: Change, only: Sequence[str], exclude: Sequence[str]) -> Change:
    """A change in the tensors that patterns choose.

    Args:
        change: the change.
        only: patterns of the tensors that stay in it; all of them when empty.
        exclude: patterns of those that are left out of these.

    Raises:
        InputError: a pattern that matches none of its tensors, or none that are left.
    """
    base = change.base
    infos = {name: TensorInfo(change.shape(name), "F32") for name in change.names()}
    patterns = Patterns(infer_roles(infos), base.config if base is not None else None)
    chosen = patterns.chosen_by_any(only, "--only") if only else set(infos)
    left = patterns.chosen_by_any(exclude, "--exclude")
    if not chosen - left:
        raise InputError("every tensor is left out", where="--exclude", fix="Exclude fewer")
    return OfSomeTensors(change, chosen - left)
