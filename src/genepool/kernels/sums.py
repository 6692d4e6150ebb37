"""Weighted sums and dot products of vectors, and of the stored bits of vectors."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from genepool.kernels.buffers import empty

if TYPE_CHECKING:
    import numpy as np
    import torch

    Bits = np.ndarray[Any, Any]

# Entries that numpy goes through at once: few enough for the cache, enough that its calls cost little.
_RUN = 1 << 17
# Entries of a tensor in memory from which on the compiled loop is taken: small models never wait for its loading.
_COMPILED = 1 << 15
# Bits without the sign: from here on a float32 is infinite or NaN, or rounds to a bfloat16 that is.
_MAGNITUDE, _TOO_LARGE, _TOO_LARGE_NARROW = 0x7FFFFFFF, 0x7F800000, 0x7F7F8000
_local = threading.local()
# Terms of a dot product that are added up in float32 before the sums go on in float64.
_GRAM_RUN = 4096


def weighted_sum(
    vectors: torch.Tensor, factors: Sequence[float], divisor: float = 1.0, base: torch.Tensor | None = None
) -> torch.Tensor:
    """`(sum_k f_k v_k) / divisor`, plus `base`, added up in float32 in the order given.

    Args:
        vectors: `(k, ...)` float32, contiguous.
        factors: one for each.
        divisor: of the sum.
        base: of the shape of one vector.
    """

    if vectors.device.type != "cpu":
        return _formula(vectors, factors, divisor, base)
    merged = empty(vectors.shape[1:])
    rows = _bits(vectors).reshape(vectors.shape[0], -1)
    under = rows[0, :0] if base is None else _bits(base.contiguous()).reshape(-1)
    compiled = merged.numel() >= _COMPILED
    sum_bits(rows, under, factors, divisor, subtract=False, out=_bits(merged).reshape(-1), compiled=compiled)
    return merged


def _formula(
    vectors: torch.Tensor, factors: Sequence[float], divisor: float, base: torch.Tensor | None
) -> torch.Tensor:
    total = vectors[0] * factors[0]
    for vector, factor in zip(vectors[1:], factors[1:], strict=True):
        total.add_(vector, alpha=factor)
    if divisor != 1:
        total /= divisor
    return total if base is None else total.add_(base)


def sum_bits(
    rows: Bits,
    base: Bits,
    factors: Sequence[float],
    divisor: float,
    *,
    subtract: bool,
    out: Bits,
    compiled: bool = True,
) -> bool:
    """The same of stored bits, uint32 for float32 and uint16 for bfloat16, without torch.

    Args:
        rows: `(k, n)`.
        base: `(n,)` of that type; empty when there is none. It is added to the sum.
        factors: one for each row.
        divisor: of the sum.
        subtract: sum `row - base` instead of the rows.
        out: `(n,)`, of either type; written into.
        compiled: by the compiled loop, which takes a third of the time; it takes a second to load. The other way is in
            numpy. Both give the same bits.

    Returns:
        Whether every result is finite.
    """
    import numpy as np

    with np.errstate(over="ignore"):
        of_rows = np.asarray(factors, dtype=np.float32)
    if compiled:
        from genepool.kernels import compiled_sums

        return bool(compiled_sums.weighted_sum(rows, base, of_rows, float(divisor), subtract, out))
    with np.errstate(all="ignore"):
        finite = True
        for start in range(0, out.size, _RUN):
            part = slice(start, start + _RUN)
            finite &= _sum_run(rows[:, part], base[part], of_rows, np.float32(divisor), subtract, out[part])
        return finite


def _sum_run(
    rows: Bits, base: Bits, factors: np.ndarray[Any, Any], divisor: np.float32, subtract: bool, out: Bits
) -> bool:
    import numpy as np

    sums, scaled, held = _scratch(out.size)
    below = _float32(base, held)
    for i, (row, factor) in enumerate(zip(rows, factors, strict=True)):
        vector = _float32(row, scaled)
        if subtract:
            vector = np.subtract(vector, below, out=scaled)
        np.multiply(vector, factor, out=scaled if i else sums)
        if i:
            sums += scaled
    if divisor != 1:
        sums /= divisor
    if base.size:
        sums += below
    bits, spare = sums.view(np.uint32), scaled.view(np.uint32)
    limit = _TOO_LARGE if out.dtype == np.uint32 else _TOO_LARGE_NARROW
    finite = bool((np.bitwise_and(bits, _MAGNITUDE, out=spare) < limit).all())
    if out.dtype == np.uint32:
        out[:] = bits
    else:
        # To the nearest, halves to the even one.
        np.right_shift(bits, 16, out=spare)
        np.bitwise_and(spare, 1, out=spare)
        spare += np.uint32(0x7FFF)
        spare += bits
        np.right_shift(spare, 16, out=out, casting="unsafe")
    return finite


def _scratch(entries: int) -> np.ndarray[Any, Any]:
    """Three float32 vectors of this thread's own: fresh ones for every run would cost more than the sums."""
    import numpy as np

    if getattr(_local, "vectors", None) is None:
        _local.vectors = np.empty((3, _RUN), np.float32)
    vectors: np.ndarray[Any, Any] = _local.vectors[:, :entries]
    return vectors


def gram(vectors: torch.Tensor) -> np.ndarray[Any, Any]:
    """All dot products between vectors.

    Args:
        vectors: `(k, ...)` float32.

    Returns:
        `(k, k)` float64; the error is that of float32 sums of a few thousand terms.
    """
    if vectors.device.type != "cpu":
        products: np.ndarray[Any, Any] = _gram_formula(vectors).cpu().numpy()
        return products
    rows = _bits(vectors.contiguous()).reshape(vectors.shape[0], -1)
    return gram_bits(rows, rows[0, :0], compiled=rows.shape[1] >= _COMPILED)


def _gram_formula(vectors: torch.Tensor) -> torch.Tensor:
    import torch

    flat = vectors.reshape(vectors.shape[0], -1)
    whole = flat.shape[1] // _GRAM_RUN * _GRAM_RUN
    runs = flat[:, :whole].reshape(flat.shape[0], -1, _GRAM_RUN).transpose(0, 1)
    rest = flat[:, whole:].double()
    return torch.bmm(runs, runs.transpose(1, 2)).double().sum(0) + rest @ rest.T


def gram_bits(rows: Bits, base: Bits, *, compiled: bool = True) -> np.ndarray[Any, Any]:
    """The same of stored bits, without torch.

    Args:
        rows: `(k, n)`.
        base: `(n,)`, subtracted from every row; empty when there is none.
        compiled: by the compiled loop; the other way is in numpy.
    """
    import numpy as np

    products = np.zeros((len(rows), len(rows)))
    if compiled:
        from genepool.kernels import compiled_sums

        compiled_sums.gram(rows, base, products)
        return products
    with np.errstate(all="ignore"):
        for start in range(0, rows.shape[1], _RUN):
            part = slice(start, start + _RUN)
            vectors = np.empty((len(rows), rows[0, part].size), np.float32)
            for row, vector in zip(rows, vectors, strict=True):
                np.copyto(vector, _float32(row[part], vector))
            if base.size:
                vectors -= _float32(base[part], _scratch(vectors.shape[1])[0])
            for i, a in enumerate(vectors):
                for j, b in enumerate(vectors[: i + 1]):
                    products[i, j] += _dot(a, b)
    return np.tril(products) + np.tril(products, -1).T


def _dot(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    import numpy as np

    whole = a.size // _GRAM_RUN * _GRAM_RUN
    runs = np.einsum("ij,ij->i", a[:whole].reshape(-1, _GRAM_RUN), b[:whole].reshape(-1, _GRAM_RUN))
    rest = a[whole:].astype(np.float64) @ b[whole:].astype(np.float64)
    return float(runs.sum(dtype=np.float64) + rest)


def _float32(bits: Bits, into: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The values of stored bits: a view of float32, or bfloat16 widened `into` a vector."""
    import numpy as np

    if bits.dtype == np.uint32:
        return bits.view(np.float32)
    # A bfloat16 is the upper half of a float32.
    into = into[: bits.size]
    np.left_shift(bits, 16, out=into.view(np.uint32), dtype=np.uint32)
    return into


def _bits(tensor: torch.Tensor) -> Bits:
    import torch

    bits: Bits = tensor.view(torch.int32).numpy().view("uint32")
    return bits
