"""Small whole numbers that were packed into words of 32 bits or into bytes, unpacked.

The schemes beside this file use it. Words and bytes are little-endian, as safetensors stores them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

WORD = 32
# The values of the four bits of E2M1, OCP Microscaling Formats 1.0, section 5.3.3.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
# Of E2M3, section 5.3.2: without an exponent, eighths; else 8 steps between two powers of two.
_E2M3 = (*(m / 8 for m in range(8)), *((1 + m / 8) * 2.0**e for e in range(3) for m in range(8)))
E2M3 = (*_E2M3, *(-one for one in _E2M3))


def words_of(count: int, bits: int) -> int:
    """Words that `count` numbers take when no bit is left over."""
    return -(-count * bits // WORD)


def unpack_words(words: torch.Tensor, bits: int, start: int, stop: int) -> torch.Tensor:
    """Some of the numbers of each row, which are packed densely: number i begins at bit `i * bits` of its row.

    Args:
        words: `(rows, words)` int32, of which only what is needed is read.
        bits: of a number, 1 to 8.
        start, stop: which of them.

    Returns:
        `(rows, stop - start)` uint8.
    """
    import torch

    # Every 32 numbers begin at a word of their own.
    first = start // WORD * WORD
    taken = words[:, first * bits // WORD : words_of(stop, bits)]
    if 8 % bits == 0:
        # A single column counts as contiguous, and its numbers lie apart all the same.
        octets = taken.clone(memory_format=torch.contiguous_format).view(torch.uint8)
        places = torch.arange(0, 8, bits, dtype=torch.uint8)
        codes = ((octets.unsqueeze(-1) >> places) & (2**bits - 1)).flatten(1)
    else:
        begins = torch.arange(stop - first) * bits
        wide = taken.to(torch.int64) & 0xFFFFFFFF
        wide = wide | (torch.nn.functional.pad(wide[:, 1:], (0, 1)) << WORD)
        codes = ((wide[:, begins // WORD] >> (begins % WORD)) & (2**bits - 1)).to(torch.uint8)
    found: torch.Tensor = codes[:, start - first : stop - first]
    return found


def unpack_nibbles(octets: torch.Tensor, values: torch.Tensor, *, low_first: bool) -> torch.Tensor:
    """Two numbers of each byte, as the values they stand for.

    Args:
        octets: `(..., n)` uint8.
        values: the 16 values, float32.
        low_first: whether the lower four bits come first.

    Returns:
        `(..., 2 n)` float32.
    """
    import torch

    # One lookup gives both numbers of a byte.
    high, low = values.repeat_interleave(16), values.repeat(16)
    pairs = torch.stack((low, high) if low_first else (high, low), dim=-1)
    found: torch.Tensor = pairs[octets.to(torch.int32)].flatten(-2)
    return found


def unpack_e2m1(octets: torch.Tensor) -> torch.Tensor:
    """Two E2M1 numbers of each byte, the lower four bits first: `(..., n)` uint8 to `(..., 2 n)` float32."""
    import torch

    return unpack_nibbles(octets, torch.tensor(E2M1), low_first=True)


def unpack_spaced(words: torch.Tensor, bits: int, start: int, stop: int) -> torch.Tensor:
    """As `unpack_words`, where a word holds whole numbers only and its last bits may be unused."""
    import torch

    per_word = WORD // bits
    number = torch.arange(start, stop)
    first = start // per_word
    taken = words[:, first : -(-stop // per_word)].to(torch.int64) & 0xFFFFFFFF
    places = number % per_word * bits
    found: torch.Tensor = ((taken[:, number // per_word - first] >> places) & (2**bits - 1)).to(torch.uint8)
    return found


def unpack_e2m3(octets: torch.Tensor) -> torch.Tensor:
    """Four E2M3 numbers of each three bytes: `(rows, 3 n)` uint8 to `(rows, 4 n)` float32."""
    import torch

    triples = octets.reshape(*octets.shape[:-1], -1, 3).to(torch.int32)
    word = triples[..., 0] | triples[..., 1] << 8 | triples[..., 2] << 16
    codes = (word.unsqueeze(-1) >> torch.arange(0, 24, 6, dtype=torch.int32)).flatten(-2) & 63
    return torch.tensor(E2M3)[codes]
