"""Scores of PCB-Merging (Du et al., arXiv:2410.02396, section 3.2): how an entry competes within and between vectors.

The score of entry a of vector i is `exp(n (m^2 - 1)) tanh(t_i sum_j t_j)`, m being |t_i| clamped and scaled to 0..1.
The paper writes `exp(n m^2)`; a constant factor leaves its ranks and its scaling to 0..1 as they are and keeps any
number of models from overflowing. Exponential and tangent are written out in float32 (both within 5e-7), so that the
compiled loop and the formula give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from genepool.kernels.buffers import as_array, float32_array, of_kind
from genepool.kernels.stored import NotFinite

if TYPE_CHECKING:
    import numpy as np
    import torch

    from genepool.kernels.brackets import BracketCounts, Brackets
    from genepool.kernels.stored import StoredVectors


_LOG2_E = 1.4426950408889634
# Taylor's series of 2^f for |f| <= 1/2: ln(2)^j / j!, from the highest power down; the next term is below 2e-8.
_POWERS_OF_TWO = (1.5403530e-4, 1.3333558e-3, 9.6181291e-3, 5.5504109e-2, 2.4022651e-1, 6.9314718e-1, 1.0)
# Adding and subtracting 1.5 * 2^23 rounds a float32 to a whole number.
_ROUND = 12582912.0


def scores(vectors: Any, low: Sequence[float], high: Sequence[float]) -> Any:
    """The score of every entry.

    Args:
        vectors: n task vectors, `(n, ...)` float32, an array or a tensor.
        low, high: what the magnitudes of each are clamped to.

    Returns:
        float32, of the shape of `vectors`, in [-1, 1]; 0 where a vector or the sum of all is 0.
    """
    arrays = as_array(vectors)
    if arrays is None:
        return _scores_formula(vectors, low, high)
    import numpy as np

    from genepool.kernels import compiled_vectors

    found = np.empty(arrays.shape, np.float32)
    compiled_vectors.scores(
        arrays.reshape(len(arrays), -1),
        float32_array(low),
        float32_array(_scales(low, high)),
        float32_array(high),
        found.reshape(len(arrays), -1),
    )
    return of_kind(found, vectors)


def _scores_formula(vectors: torch.Tensor, low: Sequence[float], high: Sequence[float]) -> torch.Tensor:
    import torch

    total = torch.zeros_like(vectors[0])
    for vector in vectors:
        total += vector
    steepness = len(vectors) * _LOG2_E
    result = torch.empty_like(vectors)
    for i, (vector, bottom, scale, top) in enumerate(zip(vectors, low, _scales(low, high), high, strict=True)):
        share = (vector.abs().clamp(bottom, top) - bottom) * scale
        exponent = ((share * share - 1) * steepness).clamp_min(-126)
        whole = (exponent + _ROUND) - _ROUND
        rest = exponent - whole
        power = torch.full_like(rest, _POWERS_OF_TWO[0])
        for coefficient in _POWERS_OF_TWO[1:]:
            power = power * rest + coefficient
        intra = power * ((whole.to(torch.int32) + 127) << 23).view(torch.float32)
        # Lambert's fraction for tanh(x / 4), then tanh(2y) = 2 tanh(y) / (1 + tanh(y)^2) twice; 1 beyond 9.
        x = (vector * total).clamp(-9, 9) * 0.25
        square = x * x
        above = x * (135135 + square * (17325 + square * (378 + square)))
        below = 135135 + square * (62370 + square * (3150 + 28 * square))
        for _ in range(2):
            product = above * below
            above, below = product + product, above * above + below * below
        result[i] = intra * (above / below)
    return result


def count_scores(
    vectors: Any,
    low: Sequence[float],
    high: Sequence[float],
    counts: Sequence[np.ndarray[Any, Any]],
    buckets: Sequence[Sequence[int]] | None = None,
) -> None:
    """Adds histograms over the bits of the scores to `counts`, as `genepool.kernels.selection.Selection` reads them.

    Args:
        vectors, low, high: as for `scores`; contiguous.
        counts: one for each vector, int64: `(1, 2^16)` over the upper 16 bits, or
            `(number of buckets, 2^16)` over the lower 16 bits of scores whose upper bits are one of the buckets.
        buckets: for each vector; None for the upper bits.
    """
    import numpy as np

    arrays = as_array(vectors)
    if arrays is not None:
        from genepool.kernels import compiled_vectors

        wanted = [list(own) for own in buckets] if buckets else [[]] * len(arrays)
        compiled_vectors.count_scores(
            arrays.reshape(len(arrays), -1),
            float32_array(low),
            float32_array(_scales(low, high)),
            float32_array(high),
            np.array(wanted, dtype=np.int64).reshape(len(arrays), -1),
            tuple(counts),
        )
        return
    import torch

    for i, own in enumerate(scores(vectors, low, high)):
        bits = own.reshape(-1).view(torch.int32)
        upper = (bits >> 16) & 0xFFFF
        if buckets is None:
            counts[i][0] += torch.bincount(upper, minlength=1 << 16).cpu().numpy()
            continue
        for row, bucket in zip(counts[i], buckets[i], strict=True):
            row += torch.bincount(bits[upper == bucket] & 0xFFFF, minlength=1 << 16).cpu().numpy()


def balance(
    vectors: Any,
    low: Sequence[float],
    high: Sequence[float],
    lowest: Sequence[float],
    highest: Sequence[float],
) -> Any:
    """The mean of the clamped vectors, weighted by their scores above `lowest` as shares of the way to `highest`.

    Args:
        vectors, low, high: as for `scores`; contiguous.
        lowest, highest: of each vector, the score that weighs 0 and the one that weighs 1. Where they are equal nothing
            tells its entries apart, and none of them counts.

    Returns:
        float32, of the shape of one vector; 0 where every weight is 0.
    """

    arrays = as_array(vectors)
    if arrays is None:
        return _balance_formula(vectors, low, high, lowest, highest)
    import numpy as np

    from genepool.kernels import compiled_vectors

    merged = np.empty(arrays.shape[1:], np.float32)
    compiled_vectors.balance(
        arrays.reshape(len(arrays), -1),
        float32_array(low),
        float32_array(_scales(low, high)),
        float32_array(high),
        float32_array(lowest),
        float32_array(_scales(lowest, highest)),
        merged.reshape(-1),
    )
    return of_kind(merged, vectors)


def count_stored_scores(
    vectors: StoredVectors,
    low: Sequence[float],
    high: Sequence[float],
    brackets: Sequence[Brackets],
    parts: Sequence[BracketCounts],
) -> None:
    """Counts the scores of vectors that are given as bits around brackets, one `Brackets` for each vector.

    Raises:
        NotFinite: a difference is not.
    """
    from genepool.kernels import compiled_competition
    from genepool.kernels.brackets import observe_together

    observe_together(
        brackets,
        parts,
        vectors.base.size,
        partial(
            compiled_competition.count,
            vectors.rows,
            vectors.base,
            float32_array(low),
            float32_array(_scales(low, high)),
            float32_array(high),
        ),
    )


def merge_stored(
    vectors: StoredVectors,
    low: Sequence[float],
    high: Sequence[float],
    lowest: Sequence[float],
    highest: Sequence[float],
    factor: float,
    out: np.ndarray[Any, Any],
) -> None:
    """The base plus `factor` times the `balance` of vectors that are given as bits, as it is stored.

    Args:
        vectors: as files store them.
        low, high, lowest, highest: as for `balance`.
        factor: of the merged vector.
        out: `(n,)` uint16 for bfloat16 or uint32 for float32, written into.

    Raises:
        NotFinite: a difference is not, or a result is too large for its type.
    """
    from genepool.kernels import compiled_competition

    if not compiled_competition.merge(
        vectors.rows,
        vectors.base,
        float32_array(low),
        float32_array(_scales(low, high)),
        float32_array(high),
        float32_array(lowest),
        float32_array(_scales(lowest, highest)),
        factor,
        out,
    ):
        raise NotFinite


def _balance_formula(
    vectors: torch.Tensor,
    low: Sequence[float],
    high: Sequence[float],
    lowest: Sequence[float],
    highest: Sequence[float],
) -> torch.Tensor:
    import torch

    total, weights = torch.zeros_like(vectors[0]), torch.zeros_like(vectors[0])
    own = _scores_formula(vectors, low, high)
    for i, (bottom, scale) in enumerate(zip(lowest, _scales(lowest, highest), strict=True)):
        weight = (own[i] - bottom).clamp_min(0) * scale
        total += torch.sign(vectors[i]) * vectors[i].abs().clamp(low[i], high[i]) * weight
        weights += weight
    return torch.where(weights > 0, total / weights, 0.0)


def _scales(low: Sequence[float], high: Sequence[float]) -> list[float]:
    """What stretches each range to 0..1, as float32; 0 for a range of one value, of none, or too narrow to stretch."""
    import numpy as np

    with np.errstate(all="ignore"):
        spans = float32_array(high) - float32_array(low)
        scales = np.float32(1) / spans
    # Of a span that is not a normal number the inverse is infinite, and zero times it is NaN.
    found: list[float] = np.where(np.isfinite(spans) & (spans > 0) & np.isfinite(scales), scales, 0).tolist()
    return found
