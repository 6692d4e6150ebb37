"""General knowledge subtraction: LoRA skills less what general adapters have in common.

Every skill's factors lose the mean of the general adapters' factors, each of the two apart, as PEFT's Arrow does it
(`use_gks`): `s (B - mean B_g) (A - mean A_g)`. Used by `arrow`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from genepool.composition.skill_set import SkillSet
from genepool.composition.vectors import TaskVectors
from genepool.errors import InputError, nearest
from genepool.weights import Change, Weights
from genepool.weights.encodings.low_rank import Product

if TYPE_CHECKING:
    import torch


class LessenedSkill(Change):
    """A skill whose factors have lost what is general.

    Args:
        base: in the layout of memory.
        name: of the skill.
        products: what is left of its change of every tensor.
    """

    base: Weights

    def __init__(self, base: Weights, name: str, products: dict[str, Product]) -> None:
        self.base, self.name, self._products = base, name, products

    def names(self) -> tuple[str, ...]:
        return tuple(self._products)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.base.info(name).shape

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        left, right, factor = self._products[name]
        return (left[start:stop] @ right) * factor

    def factors(self, name: str) -> Product:
        return self._products[name]


def without_general(skills: SkillSet, general: Sequence[str], where: str) -> tuple[list[str], list[LessenedSkill]]:
    """The skills that are left to answer, without what is general: their names and their changes.

    Args:
        skills: LoRA skills, the general ones among them.
        general: names of these.
        where: for errors.

    Raises:
        InputError: a name is none of a skill, all are general, or their factors have other shapes.
    """
    import torch

    for name in general:
        if name not in skills.names:
            raise InputError(f"no skill is called '{name}'", where=where, fix=nearest(name, skills.names))
    names = [name for name in skills.names if name not in general]
    if not names:
        raise InputError("all skills are general, so none is left to answer", where=where, fix="Name others too")
    vectors = skills.vectors()
    found: list[dict[str, Product]] = [{} for _ in names]
    for tensor in vectors.names:
        products = dict(zip(skills.names, _products(skills, vectors, tensor, where), strict=True))
        taken = [products[name] for name in dict.fromkeys(general)]
        left_mean = torch.stack([one.left.float() for one in taken]).mean(0)
        right_mean = torch.stack([one.right.float() for one in taken]).mean(0)
        for own, name in zip(found, names, strict=True):
            left, right, factor = products[name]
            own[tensor] = Product(left.float() - left_mean, right.float() - right_mean, factor)
    return names, [LessenedSkill(skills.memory_base, name, own) for name, own in zip(names, found, strict=True)]


def _products(skills: SkillSet, vectors: TaskVectors, tensor: str, where: str) -> list[Product]:
    """The factors of all skills of one tensor, which have to be of one rank."""
    found = []
    for skill, name in enumerate(skills.names):
        product = vectors.factors(skill, tensor) if skill in vectors.holders(tensor) else None
        if product is None:
            raise InputError(
                f"{name} has no factors of {tensor}, which others have, so nothing can be subtracted",
                where=where,
                fix="Name adapters of the same layers",
            )
        found.append(product)
    if len(ranks := sorted({product.left.shape[1] for product in found})) > 1:
        raise InputError(
            f"the factors of {tensor} have ranks {ranks}, and only factors of one rank can be subtracted",
            where=where,
            fix="Name adapters of one rank",
        )
    return found
