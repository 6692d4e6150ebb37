"""Orthogonal matching pursuit over the common tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.vocabulary.transplant.estimators import MissingRows, RowEstimator

if TYPE_CHECKING:
    import torch

# Tokens that are worked on at once: mergekit-tokensurgeon's batch, and no more entries than this in their bases.
_TOKENS_AT_ONCE, _ENTRIES_AT_ONCE = 512, 1 << 26
# An atom with less than this share of it outside the atoms before adds nothing but rounding.
_SPENT = 1e-5


class OrthogonalMatchingPursuit(RowEstimator):
    """Each missing row of the donor as a sum of k common rows of the donor; the same sum of the model's rows.

    The atoms are chosen greedily, the one that is most parallel to what is left first, and the coefficients are the
    least-squares ones (Pati et al. 1993).

    >>> import torch
    >>> atoms = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    >>> chosen, coefficients = pursue(torch.tensor([[3.0, 4.0]]), atoms, 2)
    >>> chosen.tolist()
    [[1, 0]]
    >>> coefficients.tolist()
    [[2.0, 3.0]]
    """

    name = "omp"
    source = "Training-free tokenizer transplantation, Goddard and Fernandes Neto 2025, arXiv:2506.06607"
    when = "the donor is a model with trained embeddings, and far more tokens are common than rows have entries"
    needs_donor = True

    def estimate(self, missing: MissingRows) -> torch.Tensor:
        import torch

        from genepool import progress

        assert missing.donor_rows is not None
        assert missing.donor_shared_rows is not None
        targets, atoms = missing.donor_rows, missing.donor_shared_rows
        k = min(missing.k, *atoms.shape)
        step = max(1, min(_TOKENS_AT_ONCE, _ENTRIES_AT_ONCE // max(1, k * atoms.shape[1])))
        parts = [missing.rows.new_zeros((0, missing.rows.shape[1]))]
        with progress.bar(f"estimating {missing.name}", len(targets), "tokens") as bar:
            for start in range(0, len(targets), step):
                chosen, coefficients = pursue(targets[start : start + step], atoms, k)
                parts.append(torch.einsum("bk,bkd->bd", coefficients, missing.shared_rows[chosen]))
                bar.advance(len(chosen))
        return torch.cat(parts)


def pursue(targets: torch.Tensor, atoms: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k atoms that approximate each target, and their coefficients.

    Args:
        targets: (b, d), float.
        atoms: (n, d), of the same type.
        k: at most n.

    Returns:
        The numbers of the atoms, (b, k), in the order of choice, and the coefficients, (b, k).
    """
    import torch

    count, width = targets.shape
    basis = targets.new_zeros((count, k, width))
    triangle = torch.eye(k, dtype=targets.dtype).repeat(count, 1, 1)
    chosen = torch.zeros((count, k), dtype=torch.int64)
    along = targets.new_zeros((count, k))
    left = targets.clone()
    for step in range(k):
        parallel = (left @ atoms.T).abs()
        parallel.scatter_(1, chosen[:, :step], -1.0)
        picked = parallel.argmax(1)
        atom, before = atoms[picked], basis[:, :step]
        inside = torch.einsum("bsd,bd->bs", before, atom)
        outside = atom - torch.einsum("bs,bsd->bd", inside, before)
        # Once more: one pass of Gram-Schmidt loses orthogonality to rounding, two do not (Giraud and Langou 2005).
        again = torch.einsum("bsd,bd->bs", before, outside)
        outside -= torch.einsum("bs,bsd->bd", again, before)
        size = outside.norm(dim=1)
        spent = size <= _SPENT * atom.norm(dim=1)
        # An atom that the others make up gets the coefficient 0.
        basis[:, step] = torch.where(spent[:, None], 0.0, outside / size.clamp_min(1e-30)[:, None])
        triangle[:, :step, step] = torch.where(spent[:, None], 0.0, inside + again)
        triangle[:, step, step] = torch.where(spent, 1.0, size)
        along[:, step] = torch.einsum("bd,bd->b", basis[:, step], left)
        left -= along[:, step, None] * basis[:, step]
        chosen[:, step] = picked
    return chosen, torch.linalg.solve_triangular(triangle, along[..., None], upper=True)[..., 0]
