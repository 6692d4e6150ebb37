"""Core Space: adapters are merged as the small matrices that they are between common bases of both sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from genepool.composition.composer import register
from genepool.composition.subspace import Coordinates, SubspaceMerge, SubspaceOptions, orthonormal_basis

if TYPE_CHECKING:
    import torch


class CoreSpaceOptions(SubspaceOptions):
    """Options of Core Space."""

    merge: str = Field(default="tsv_m", description="The merge method that the blocks are merged by.")


@register(
    "core_space",
    source="Panariello et al., Core Space, arXiv:2509.17786: blocks merged by TSV in the authors' configuration; they "
    "tune the scale (0.2 for 8 tasks on ViT-B/32)",
    when="Several LoRA adapters, of any ranks, and no data; methods that factorise matrices are fast there.",
    needs="nothing",
    out="adapter",
    cost="for each matrix two singular value decompositions as wide as the sum of the ranks",
)
class CoreSpace(SubspaceMerge[CoreSpaceOptions]):
    """`M_i = U^T B_i A_i V` is merged, and `U M V^T` is added. U and V span the stacked factors of all skills.

    Nothing is lost on the way: `U M_i V^T = B_i A_i`, so a merge that is linear gives the same as in full.
    """

    def coordinates(self, lefts: Sequence[torch.Tensor], rights: Sequence[torch.Tensor]) -> Coordinates:
        import torch

        left = orthonormal_basis(torch.cat(list(lefts), 1))
        right = orthonormal_basis(torch.cat(list(rights)).T)
        blocks = tuple((left.T @ one, two @ right) for one, two in zip(lefts, rights, strict=True))
        return Coordinates(left, blocks, right.T)
