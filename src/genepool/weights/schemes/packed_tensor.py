"""`PackedTensor`: one tensor of a quantised checkpoint as the floats that it stands for, some rows at a time.

What it is made of are tensors of the checkpoint: codes, scales, zero points. Shapes are checked when it is made, from
headers; values when they are read. The schemes beside this file make them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.weights.checkpoint import Checkpoint
from genepool.weights.tensor_info import TensorInfo, shape_text

if TYPE_CHECKING:
    import torch

DAMAGED = "The files are of two saves or damaged: fetch or save the model again"


class PackedTensor(ABC):
    """Codes and scales that stand for one tensor of floats.

    Args:
        stored: the checkpoint.
        name: what the tensor is called in an unquantised checkpoint.
        parts: the stored tensors that it is made of, the codes first.
        shape: of the floats.
    """

    def __init__(self, stored: Checkpoint, name: str, parts: Collection[str], shape: tuple[int, ...]) -> None:
        self.stored, self.name, self.parts, self.shape = stored, name, tuple(parts), shape

    @abstractmethod
    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` of the tensor as a matrix (`TensorInfo.matrix`), `(stop - start, columns)` float32.

        Raises:
            InputError: scales that are NaN or infinite, or places that do not exist.
        """

    @property
    def matrix(self) -> tuple[int, int]:
        """(rows, columns) of the tensor as a matrix."""
        return TensorInfo(self.shape, "F32").matrix


def place(stored: Checkpoint, name: str) -> str:
    """Where a stored tensor lies, for errors."""
    return f"{stored.file_of(name).path}:{name}"


def need(stored: Checkpoint, name: str, codes: str) -> TensorInfo:
    """What is known of a tensor that packed codes need.

    Raises:
        InputError: there is none.
    """
    if name not in stored:
        raise InputError(
            f"is quantised and lacks {name}", where=place(stored, codes), fix="Fetch or save the model again"
        )
    return stored.info(name)


def expect(stored: Checkpoint, name: str, shape: tuple[int, ...], dtypes: Collection[str]) -> TensorInfo:
    """The same, of a tensor whose shape and type are known.

    Raises:
        InputError: it has another shape, or none of these types.
    """
    info = stored.info(name)
    if info.shape != shape:
        raise InputError(
            f"has shape {shape_text(info.shape)}, expected {shape_text(shape)}", where=place(stored, name), fix=DAMAGED
        )
    expect_dtype(stored, name, dtypes)
    return info


def expect_dtype(stored: Checkpoint, name: str, dtypes: Collection[str]) -> None:
    """Refuses a stored tensor of another type than these.

    Raises:
        InputError: it is of another.
    """
    if (dtype := stored.info(name).dtype) not in dtypes:
        raise InputError(
            f"is stored as {dtype}, expected {' or '.join(sorted(dtypes))}", where=place(stored, name), fix=DAMAGED
        )


def finite(stored: Checkpoint, name: str, values: torch.Tensor) -> torch.Tensor:
    """Values that were read from a tensor of scales.

    Raises:
        InputError: one of them is NaN or infinite.
    """
    import torch

    if not bool(torch.isfinite(values).all()):
        raise InputError("holds a scale that is NaN or infinite", where=place(stored, name), fix=DAMAGED)
    return values
