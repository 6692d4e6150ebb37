"""KnOTS: adapters are merged in the singular directions of all of them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from genepool.composition.composer import register
from genepool.composition.subspace import Coordinates, SubspaceMerge, SubspaceOptions

if TYPE_CHECKING:
    import torch

# The authors' code: a smaller singular value is none.
_FLOOR = 1e-5


class KnotsOptions(SubspaceOptions):
    """Options of KnOTS."""


@register(
    "knots",
    source="Stoica et al., KnOTS, arXiv:2410.19735: singular values above 1e-5, blocks merged by TIES at density 0.2; "
    "the authors tune the scale (0.6 for 8 tasks on ViT-B/32)",
    when="Several LoRA adapters, of any ranks, and no data.",
    needs="nothing",
    out="adapter",
    cost="for each matrix a singular value decomposition as large as the sum of the ranks",
)
class Knots(SubspaceMerge[KnotsOptions]):
    """`[t_1 .. t_k] = U S [V_1 .. V_k]^T`; the blocks `S V_i^T` are merged, and `U` times the result is added.

    The products are put side by side along the inputs. The decomposition is computed in float64 from the factors, so
    it costs no more than the sum of the ranks, cubed.
    """

    def coordinates(self, lefts: Sequence[torch.Tensor], rights: Sequence[torch.Tensor]) -> Coordinates:
        import torch

        outputs = torch.linalg.qr(torch.cat(list(lefts), 1))
        # t_i = B_i A_i, so U and S are those of the small matrix [R_i T_i^T], where A_i^T = Q_i T_i.
        small, start = [], 0
        for right in rights:
            rank = right.shape[0]
            small.append(outputs.R[:, start : start + rank] @ torch.linalg.qr(right.T).R.T)
            start += rank
        left, values, _ = torch.linalg.svd(torch.cat(small, 1), full_matrices=False)
        directions = outputs.Q @ left[:, values > _FLOOR]
        # S V_i^T = U^T t_i.
        return Coordinates(
            directions, tuple((directions.T @ one, two) for one, two in zip(lefts, rights, strict=True)), None
        )
