"""Ways to estimate the rows of tokens that a model lacks: one file of this folder each, found by being there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from genepool.errors import InputError, nearest
from genepool.folder_classes import classes_of

if TYPE_CHECKING:
    import torch

    from genepool.weights.vocabulary.transplant.matching import Meaning


@dataclass(frozen=True)
class MissingRows:
    """The rows of one tensor that are to be estimated, and all that is known of them.

    Attributes:
        name: the tensor.
        rows: all rows of the model, (tokens, d), float32.
        meanings: what the missing tokens stand for.
        shared_rows: the model's rows of the tokens that both have, (n, d), float32.
        donor_shared_rows: the donor's rows of the same tokens, (n, e); None where only a tokenizer was given.
        donor_rows: the donor's rows of the missing tokens, (len(meanings), e); None as before.
        split: a text as ids of the model's tokens.
        k: how many common tokens a row may be made of.
        seed: of estimators that draw.
    """

    name: str
    rows: torch.Tensor
    meanings: Sequence[Meaning]
    shared_rows: torch.Tensor
    donor_shared_rows: torch.Tensor | None
    donor_rows: torch.Tensor | None
    split: Callable[[str], Sequence[int]]
    k: int
    seed: int


class RowEstimator(ABC):
    """A way to estimate rows.

    Attributes:
        name: what the command line calls it.
        source: where it comes from.
        when: one sentence on what it is for.
        needs_donor: whether it needs the donor's rows, not only its tokenizer.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    when: ClassVar[str]
    needs_donor: ClassVar[bool] = False

    @abstractmethod
    def estimate(self, missing: MissingRows) -> torch.Tensor:
        """The missing rows, (len(missing.meanings), d), float32."""


@cache
def row_estimators() -> dict[str, RowEstimator]:
    """Every estimator by name."""
    return dict(sorted((kind.name, kind()) for kind in classes_of(__name__, RowEstimator)))


def find_estimator(name: str, where: str = "--method") -> RowEstimator:
    """The estimator of this name.

    Raises:
        InputError: there is none; the nearest name is suggested.
    """
    known = row_estimators()
    if name not in known:
        raise InputError(f"unknown method '{name}'", where=where, fix=nearest(name, known))
    return known[name]
