"""Weighted sums of tensors in float64, which the ordinary path would round to float32 first.

Few tensors are stored so (a logit scale that began as a Python number), and the merge of one model must be that model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from genepool.merging.outputs import OutputTensor
from genepool.merging.weighted_sum import SumFactors
from genepool.weights import Weights

if TYPE_CHECKING:
    import torch


def all_doubles(sources: Mapping[str, Weights], out: OutputTensor) -> bool:
    """Whether every tensor it is made from is stored in float64."""
    return all(sources[given.model].info(given.tensor).dtype == "F64" for given in out.reads)


def summed_doubles(
    sources: Mapping[str, Weights], out: OutputTensor, factors: SumFactors, start: int, stop: int, deltas: bool
) -> torch.Tensor:
    """Rows of the sum in float64.

    Args:
        sources: the models by name.
        out: the tensor of the result, all of whose inputs are float64.
        factors: of the vectors.
        start, stop: rows.
        deltas: whether the vectors are differences from the base, which the sum is then added to; else they are the
            models' tensors, the base's first where there is one.
    """
    rows = [sources[given.model].read_rows(given.tensor, start, stop).double() for given in out.inputs]
    base = None if out.base is None else sources[out.base.model].read_rows(out.base.tensor, start, stop).double()
    if base is not None:
        rows = [one - base for one in rows] if deltas else [base, *rows]
    total = rows[0] * factors.of_vectors[0]
    for one, factor in zip(rows[1:], factors.of_vectors[1:], strict=True):
        total = total + one * factor
    total = total / factors.divisor
    return total if base is None or not deltas else base + total
