"""How ggml stores tensors: which types are read and written here, and the names of those that are not.

Numbers are `enum ggml_type` of ggml.h; a Q8_0 block is one float16 scale and 32 signed bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np

F32, F16, Q8_0, BF16 = 0, 1, 8, 30
# Entries and bytes of a block.
Q8_ENTRIES, Q8_BYTES = 32, 34
# The safetensors name of what a tensor is given as: of Q8_0 float32 holds every value.
STORED_AS: Final = {F32: "F32", F16: "F16", Q8_0: "F32", BF16: "BF16"}
_UNREAD: Final = {
    2: "Q4_0", 3: "Q4_1", 4: "Q4_2", 5: "Q4_3", 6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K",
    13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL",
    21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M",
    34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip


def unread_name(kind: int) -> str:
    """What ggml calls a type that is not read here."""
    return _UNREAD.get(kind, f"the unknown type {kind}")


def row_bytes(kind: int, columns: int) -> int:
    """Bytes of a row of so many entries; whole blocks only, which the header's check sees to."""
    if kind == Q8_0:
        return columns // Q8_ENTRIES * Q8_BYTES
    return columns * (4 if kind == F32 else 2)


def q8_values(data: memoryview) -> np.ndarray[Any, Any]:
    """The values of Q8_0 blocks, `(entries,)` float32: each byte times its block's scale."""
    import numpy as np

    blocks = np.frombuffer(data, np.uint8).reshape(-1, Q8_BYTES)
    scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    values: np.ndarray[Any, Any] = (blocks[:, 2:].view(np.int8).astype(np.float32) * scales).reshape(-1)
    return values
