"""Loops over small numbers, compiled for the processor by numba; they release the interpreter lock.

Imported only when one is called. Compiled code is kept in numba's cache, so each is compiled once after installation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

Array = np.ndarray[Any, Any]
Loop = TypeVar("Loop", bound=Callable[..., Any])


def _compiled(loop: Loop) -> Loop:
    ready: Loop = numba.njit(nogil=True, cache=True, error_model="numpy")(loop)
    return ready


@_compiled
def _bfloat16(value: np.float32) -> np.uint32:
    """Bits of the nearest bfloat16 of a number that is neither negative nor odd, ties to even."""
    bits = np.float32(value).view(np.uint32)
    return np.uint32((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@_compiled
def quantise(
    values: Array, bits: int, group: int, zero: float, largest: float, shares: Array, codes: Array, scales: Array
) -> None:
    """Packed codes and the bits of bfloat16 scales of `(rows, columns)` float32; `codes` holds zeros."""
    rows, columns = values.shape
    each = 8 // bits
    nothing, most, center = np.float32(0), np.float32(largest), np.float32(zero)
    found = np.empty(group, np.float32)
    for row in range(rows):
        for number in range(scales.shape[1]):
            begin = number * group
            part = values[row, begin : min(begin + group, columns)]
            reach = nothing
            for i in range(part.size):
                reach = max(reach, abs(part[i]))
            reach = np.float32(reach / center)
            best, chosen = np.float32(np.inf), np.uint32(0)
            for which in range(shares.size):
                rounded = _bfloat16(np.float32(shares[which] * reach))
                # Codes are chosen for the scale as it is stored.
                scale = np.uint32(rounded << np.uint32(16)).view(np.float32)
                divisor = scale if scale > nothing else np.float32(1)
                error = nothing
                for i in range(part.size):
                    code = min(max(np.float32(np.rint(part[i] / divisor + center)), nothing), most)
                    off = np.float32((code - center) * scale - part[i])
                    error += off * off
                if error < best:
                    best, chosen = error, rounded
            scales[row, number] = chosen
            scale = np.uint32(chosen << np.uint32(16)).view(np.float32)
            divisor = scale if scale > nothing else np.float32(1)
            for i in range(part.size):
                found[i] = min(max(np.float32(np.rint(part[i] / divisor + center)), nothing), most)
            for i in range(part.size):
                place = begin + i
                shift = np.uint8(8 - bits - bits * (place % each))
                codes[row, place // each] |= np.uint8(np.uint8(found[i]) << shift)


@_compiled
def dequantise(codes: Array, scales: Array, bits: int, group: int, zero: float, out: Array) -> None:
    """The values again, written over `out`, `(rows, columns)` float32."""
    rows, columns = out.shape
    each, mask = 8 // bits, np.uint8((1 << bits) - 1)
    center = np.float32(zero)
    for row in range(rows):
        for number in range(scales.shape[1]):
            scale = np.uint32(np.uint32(scales[row, number]) << np.uint32(16)).view(np.float32)
            begin = number * group
            for place in range(begin, min(begin + group, columns)):
                shift = np.uint8(8 - bits - bits * (place % each))
                code = np.uint8(codes[row, place // each] >> shift) & mask
                out[row, place] = (np.float32(code) - center) * scale
