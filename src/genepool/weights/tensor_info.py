"""What is known of a tensor before any of it is read: shape and stored type, in safetensors' own words.

Imports neither torch nor numpy, so that plans and inspections can be made from headers alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch

# Bytes per element of every dtype the safetensors format defines at byte granularity.
DTYPE_BYTES: Final = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
FLOAT_DTYPES: Final = frozenset({"F64", "F32", "F16", "BF16"})
DTYPE_NAMES: Final = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_CODES: Final = {name: code for code, name in DTYPE_NAMES.items()}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Shape and stored type of one tensor; `dtype` is safetensors' name of it ("F32", "BF16")."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def numel(self) -> int:
        """Number of elements; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def matrix(self) -> tuple[int, int]:
        """(rows, columns) of the tensor as a matrix: rows run along the last axis; a scalar or vector is one row."""
        columns = self.shape[-1] if self.shape else 1
        return math.prod(self.shape[:-1]) if columns else 0, columns

    @property
    def nbytes(self) -> int:
        """Bytes the tensor takes in a file."""
        return self.numel * DTYPE_BYTES[self.dtype]

    @property
    def is_float(self) -> bool:
        """Whether arithmetic on it makes sense: an ordinary float type, neither integer nor quantised."""
        return self.dtype in FLOAT_DTYPES

    def with_dtype(self, dtype: str) -> TensorInfo:
        """The same shape stored as another type."""
        return TensorInfo(self.shape, dtype)


def torch_dtype(code: str) -> torch.dtype:
    """torch's type for a safetensors dtype name."""
    import torch

    kind = getattr(torch, DTYPE_NAMES[code])
    assert isinstance(kind, torch.dtype)
    return kind


def dtype_code(kind: torch.dtype | str) -> str:
    """The safetensors name ("BF16") of a torch dtype or of its name ("bfloat16")."""
    return _CODES[str(kind).removeprefix("torch.")]


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape as people write it: [4, 3]."""
    return "[" + ", ".join(map(str, shape)) + "]"


def widest_dtype(codes: Sequence[str]) -> str:
    """The type that holds every value of all `codes`, as torch promotes: BF16 and F16 together need F32."""
    kinds = set(codes)
    if len(kinds) == 1:
        return codes[0]
    if kinds == {"BF16", "F16"}:
        return "F32"
    floats = [code for code in codes if code in FLOAT_DTYPES]
    return max(floats or codes, key=lambda code: DTYPE_BYTES[code])


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """A tensor's bytes in row-major order, without a copy when it is contiguous."""
    import torch

    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
