"""Uniform random numbers by place: entry i of a stream is a function of (key, i), whatever is drawn before it.

Philox4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011). A block of a tensor gets the draws
of its own place, so masks do not depend on blocks, threads, passes or devices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genepool.kernels.buffers import as_array, empty

if TYPE_CHECKING:
    import torch

_MASK = 0xFFFFFFFF


def uniform(count: int, key: int, offset: int = 0, device: torch.device | str = "cpu") -> torch.Tensor:
    """Entries `offset` to `offset + count` of the stream `key`.

    Args:
        count: how many.
        key: 0 to 2^63 - 1; streams of different keys are unrelated.
        offset: place of the first.
        device: where to draw; the values are the same everywhere.

    Returns:
        `(count,)` float32, multiples of 2^-24 in [0, 1).
    """
    import torch

    first = offset // 4
    quads = (offset + count + 3) // 4 - first
    if torch.device(device).type == "cpu":
        from genepool.kernels import compiled

        draws = empty((4 * quads,))
        compiled.philox(key, first, draws.numpy())
    else:
        draws = _formula(quads, key, first, device)
    begin = offset - 4 * first
    return draws[begin : begin + count]


def drop(vector: Any, density: float, key: int, offset: int = 0) -> None:
    """Sets to zero, in place, the entries whose number in a stream is not below `density`.

    Args:
        vector: float32, contiguous; an array or a tensor.
        density: probability that an entry stays.
        key, offset: as for `uniform`; the vector's first entry has the stream's number `offset`.
    """
    array = as_array(vector)
    if array is not None:
        from genepool.kernels import compiled

        compiled.drop(array.reshape(-1), key, offset, density)
    else:
        draws = uniform(vector.numel(), key, offset, vector.device)
        vector.masked_fill_(draws.reshape(vector.shape) >= density, 0.0)


def _formula(quads: int, key: int, first: int, device: torch.device | str) -> torch.Tensor:
    import torch

    counter = torch.arange(first, first + quads, dtype=torch.int64, device=device)
    c0, c1 = counter & _MASK, (counter >> 32) & _MASK
    c2, c3 = torch.zeros_like(c0), torch.zeros_like(c0)
    k0, k1 = key & _MASK, key >> 32
    for _ in range(10):
        # Products of two 32-bit numbers wrap in int64, and the wrapped bits are the right ones.
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = ((p1 >> 32) & _MASK) ^ c1 ^ k0, p1 & _MASK, ((p0 >> 32) & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    draws = torch.stack([c0, c1, c2, c3], dim=1).reshape(-1)
    return (draws >> 8).to(torch.float32) * 2.0**-24
