"""Stored buffers that hold infinity by design: bounds of a clamp that nothing has narrowed yet, in some audio models.

NaN or infinity in a weight means that training diverged. In a buffer that every model agrees on it is part of the
architecture, and the merge of models that agree is what they agree on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from genepool.merging.outputs import OutputTensor
from genepool.weights import Weights
from genepool.weights.architecture import architecture_of

if TYPE_CHECKING:
    import torch


def agreed_buffer(sources: Mapping[str, Weights], out: OutputTensor, start: int, stop: int) -> torch.Tensor | None:
    """Rows of a tensor that is a buffer in all its models and the same there, bit for bit; None where it is not.

    Args:
        sources: the models by name.
        out: the tensor of the result.
        start, stop: rows of it.
    """
    import torch

    if not out.reads or not all(_is_buffer(sources[one.model], one.tensor) for one in out.reads):
        return None
    first, *others = (sources[one.model].read_rows(one.tensor, start, stop) for one in out.reads)
    bits = first.contiguous().view(torch.uint8)
    same = all(
        other.dtype == first.dtype and torch.equal(bits, other.contiguous().view(torch.uint8)) for other in others
    )
    return first if same else None


def _is_buffer(weights: Weights, stored: str) -> bool:
    architecture = architecture_of(weights.config)
    if architecture is None:
        return False
    inside = architecture.naming(weights.names()).in_memory(stored)
    return bool(inside) and architecture.buffers.issuperset(inside)
