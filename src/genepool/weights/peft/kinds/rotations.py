"""What kinds that turn weights share: rotations by Cayley's transform, and the weight times block-diagonal matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# PEFT's default is 5; every term is a product of matrices.
MOST_TERMS = 1000


def skew(vectors: torch.Tensor, size: int) -> torch.Tensor:
    """Skew-symmetric matrices `(n, size, size)` out of their upper triangles `(n, size (size - 1) / 2)`."""
    import torch

    matrices = vectors.new_zeros(len(vectors), size, size)
    rows, columns = torch.triu_indices(size, size, 1)
    matrices[:, rows, columns] = vectors
    return matrices - matrices.mT


def cayley(matrices: torch.Tensor) -> torch.Tensor:
    """`(I - Q)(I + Q)^-1` of skew-symmetric matrices Q."""
    import torch

    identity = torch.eye(matrices.shape[-1]).expand_as(matrices)
    turned: torch.Tensor = torch.linalg.solve(identity + matrices, identity - matrices, left=False)
    return turned


def cayley_neumann(matrices: torch.Tensor, terms: int) -> torch.Tensor:
    """PEFT's series `I + 2Q + 2Q^2 + ... + Q^(terms - 1)` for the inverse in Cayley's transform of -Q.

    From three terms on, the last is counted once. Of a length of three, the second power is counted three times, as
    PEFT's loop does.
    """
    import torch

    total = torch.eye(matrices.shape[-1]).expand_as(matrices).clone()
    if terms <= 1:
        return total
    total += 2 * matrices
    if terms == 2:
        return total
    power = matrices @ matrices
    total += 2 * power
    for _ in range(3, terms - 1):
        power = power @ matrices
        total += 2 * power
    return total + power @ matrices


def times_blocks(weight: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """`weight @ block_diag(blocks)`, without forming the matrix; weight `(out, n size)`, blocks `(n, size, size)`."""
    rows = weight.shape[0]
    count, size, _ = blocks.shape
    parts = weight.reshape(rows, count, size).transpose(0, 1)
    return (parts @ blocks).transpose(0, 1).reshape(rows, count * size)
