"""Low-rank skills merged in a space that all of them share, by any merge method, and brought back as an adapter.

A composer says how the changes of one matrix are written in common coordinates: `t_i = left @ block_i @ right`. The
blocks of all matrices and skills are then merged as if they were models, with surveys over the whole vector where the
merge method wants them, and `left @ merged @ right` is the merged change. Nothing is ever as large as the matrix.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from pydantic import Field

from genepool.composition.composer import Composer, ComposerOptions
from genepool.composition.composition import Composition, Saved
from genepool.composition.linear_layers import outlined_layers
from genepool.composition.residence import Residence, plan_kept
from genepool.composition.skill_set import SkillSet
from genepool.composition.vectors import TaskVectors
from genepool.composition.world import World
from genepool.errors import InputError
from genepool.merging import Recipe, plan_merge
from genepool.tasks.models import Model
from genepool.tasks.network import Network
from genepool.weights import Change, Weights
from genepool.weights.encodings.low_rank import Product
from genepool.weights.in_memory import TensorWeights

if TYPE_CHECKING:
    import torch

# What the zeros that blocks are changes of are called in the merge of the blocks; skills are called by their number.
_ORIGIN = "zeros"


class SubspaceOptions(ComposerOptions):
    """What every merge in a common space can be told."""

    merge: str = Field(default="ties", description="The merge method that the blocks are merged by.")
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="Its parameters, such as {density: 0.1}; `genepool methods` lists them."
    )
    scale: float = Field(
        default=1.0, ge=-10, le=10, description="Factor of the merged change; worth tuning on validation data."
    )


class Coordinates(NamedTuple):
    """The changes of one matrix in common coordinates: `t_i = left @ blocks[i] @ right`.

    Attributes:
        left: `(rows, p)`.
        blocks: of every skill, two factors of its `(p, q)` block: `(p, rank_i)` and `(rank_i, q)`.
        right: `(q, columns)`; None for the identity.
    """

    left: torch.Tensor
    blocks: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    right: torch.Tensor | None


_Options = TypeVar("_Options", bound=SubspaceOptions)


class SubspaceMerge(Composer[_Options]):
    """A composer that merges low-rank skills in common coordinates; it learns nothing."""

    @abstractmethod
    def coordinates(self, lefts: Sequence[torch.Tensor], rights: Sequence[torch.Tensor]) -> Coordinates:
        """Common coordinates of the changes `lefts[i] @ rights[i]` of one matrix `(outputs, inputs)`.

        Args:
            lefts: `(outputs, rank_i)` float64, the scale of the adapter in it.
            rights: `(rank_i, inputs)` float64.
        """

    def fit(self, world: World) -> Composition:
        return MergedInSubspace(self, world.skills, {})

    def plan(self, skills: SkillSet, dtype: str) -> Residence:
        vectors, kept = skills.vectors(), 0
        for name in vectors.names:
            _check_products(vectors, skills, name, self.name)
            rows, columns = vectors.matrix(name)
            factors = [vectors.factors(skill, name) for skill in vectors.holders(name)]
            rank = sum(one.left.shape[1] for one in factors if one is not None)
            # Common bases of both sides, and what each skill is between them: at most this, float32.
            kept += 4 * (rank * (rows + columns) + 2 * rank * rank)
        return plan_kept(skills, kept, network=False, dtype=dtype)

    def restore(self, saved: Saved) -> Composition:
        return MergedInSubspace(self, saved.skills, saved.record)


class MergedInSubspace(Composition):
    """Low-rank skills, merged in common coordinates. There is nothing to save: it is computed from the skills.

    Raises:
        InputError: a skill changes a tensor otherwise than by a product of two factors, or the merge method or its
            parameters are wrong.
    """

    composer: SubspaceMerge[Any]

    def __init__(self, composer: SubspaceMerge[Any], skills: SkillSet, record: Mapping[str, Any]) -> None:
        super().__init__(composer, skills, record)
        self._change = SubspaceChange(composer, skills, self.name)

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {}

    def apply(self, network: Network) -> Model:
        network.assign(self.fold().applied(self.name))
        return network

    def fold(self) -> Change:
        return self.skills.on_base(self._change)


class SubspaceChange(Change):
    """The merged change, matrix by matrix, as products.

    Args:
        composer: what it is composed by.
        skills: the base and the skills.
        name: what the user calls it.

    Raises:
        InputError: as `MergedInSubspace`.
    """

    kind: ClassVar[str] = "subspace"
    base: Weights

    def __init__(self, composer: SubspaceMerge[Any], skills: SkillSet, name: str) -> None:
        self._composer, self._skills, self.name = composer, skills, name
        self._vectors = skills.vectors()
        self.base = self._vectors.base
        self._transposed = _transposed(self.base)
        self._spaces: dict[str, Coordinates] = {}
        # A matrix is asked for block by block, and its blocks need one merge.
        self._last: tuple[str, Product] | None = None
        for tensor in self._vectors.names:
            _check_products(self._vectors, skills, tensor, composer.name)
        self._merged = self._planned()

    def names(self) -> tuple[str, ...]:
        return self._vectors.names

    def shape(self, name: str) -> tuple[int, ...]:
        return self.base.info(name).shape

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        left, right, factor = self.factors(name)
        return (left[start:stop] @ right) * factor

    def factors(self, name: str) -> Product:
        if self._last is None or self._last[0] != name:
            self._last = (name, self._product(name))
        return self._last[1]

    def _product(self, name: str) -> Product:
        space = self.space(name)
        merged = self._merged.read(name)
        scale = self._composer.options.scale
        if space.right is None:
            left, right = space.left, merged
        else:
            left, right = space.left @ merged, space.right
        if left.shape[1] == 0:
            # Skills of zeros span nothing, and no adapter holds factors of rank 0.
            left, right = left.new_zeros(left.shape[0], 1), right.new_zeros(1, right.shape[1])
        return Product(right.T, left.T, scale) if name in self._transposed else Product(left, right, scale)

    def digest(self) -> str:
        options = self._composer.options.model_dump(mode="json")
        skills = [skill.fingerprint for skill in self._skills.skills]
        text = json.dumps([self._composer.name, options, skills], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def identity(self) -> dict[str, Any]:
        found: dict[str, list[Any]] = {}
        for change in self._vectors.changes:
            for key, values in change.identity().items():
                found.setdefault(key, []).extend(values)
        return found

    def space(self, name: str) -> Coordinates:
        """The common coordinates of a matrix, float32; computed once."""
        if name not in self._spaces:
            self._spaces[name] = self._computed(name)
        return self._spaces[name]

    def _computed(self, name: str) -> Coordinates:
        import torch

        products = {skill: self._vectors.factors(skill, name) for skill in self._vectors.holders(name)}
        lefts, rights = [], []
        for product in products.values():
            assert product is not None
            left, right = product.left.double() * product.factor, product.right.double()
            if name in self._transposed:
                left, right = right.T, left.T
            lefts.append(left)
            rights.append(right)
        space = self._composer.coordinates(lefts, rights)
        held = [(one.float(), other.float()) for one, other in space.blocks]
        # A skill that leaves this matrix alone changes nothing in the common coordinates either.
        numbers = {skill: place for place, skill in enumerate(products)}
        nothing = (torch.zeros(held[0][0].shape[0], 0), torch.zeros(0, held[0][1].shape[1]))
        every = tuple(held[numbers[i]] if i in numbers else nothing for i in range(len(self._vectors.changes)))
        return Coordinates(space.left.float(), every, None if space.right is None else space.right.float())

    def _planned(self) -> Weights:
        import torch

        options = self._composer.options
        shapes = {name: _block_shape(self.space(name)) for name in self.names()}
        zeros = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
        origin = TensorWeights(zeros, _ORIGIN, fingerprint=_ORIGIN)
        skills = {str(i): SkillBlocks(self, i, origin).applied() for i in range(len(self._vectors.changes))}
        recipe = Recipe(method=options.merge, base=_ORIGIN, models=list(skills), parameters=options.parameters).located(
            "options", None
        )
        try:
            return plan_merge(recipe, {_ORIGIN: origin, **skills}).weights()
        except InputError as error:
            where = error.where.replace("options:method", "merge").replace("options:", "")
            raise InputError(error.what, where=where, fix=error.fix) from None


class SkillBlocks(Change):
    """One skill in common coordinates.

    Args:
        merged: whose coordinates.
        skill: its number.
        base: the zeros it is a change of.
    """

    kind: ClassVar[str] = "blocks"
    base: Weights

    def __init__(self, merged: SubspaceChange, skill: int, base: Weights) -> None:
        self._merged, self._skill, self.base = merged, skill, base
        self.name = str(skill)

    def names(self) -> tuple[str, ...]:
        return self._merged.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.base.info(name).shape

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        left, right = self._merged.space(name).blocks[self._skill]
        return left[start:stop] @ right

    def digest(self) -> str:
        return self.name


def orthonormal_basis(matrix: torch.Tensor) -> torch.Tensor:
    """Orthonormal columns that span those of a matrix, `(rows, rank)` float64, of a matrix in float64."""
    import torch

    left, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    # Below this the rounding of float64 decides, not the matrix.
    floor = max(matrix.shape) * torch.finfo(torch.float64).eps
    kept: torch.Tensor = left[:, values > floor * values.max()] if values.numel() else left
    return kept


def _block_shape(space: Coordinates) -> tuple[int, int]:
    return space.blocks[0][0].shape[0], space.blocks[0][1].shape[1]


def _check_products(vectors: TaskVectors, skills: SkillSet, name: str, method: str) -> None:
    """Refuses a change of a tensor that is no product.

    Raises:
        InputError: naming the skill.
    """
    for number in vectors.holders(name):
        if vectors.factors(number, name) is None:
            raise InputError(
                f"changes {name} otherwise than by a product of two factors, and {method} composes adapters of low "
                "rank",
                where=skills.skills[number].reference,
                fix="Run `genepool skill convert --to peft --rank N --factors-only` on it first, or compose by another "
                "method",
            )


def _transposed(base: Weights) -> frozenset[str]:
    """The matrices that are `(inputs, outputs)`, as the base's class says; none where it is not known."""
    return frozenset(name for name, layer in outlined_layers(base).items() if layer.transposed)
