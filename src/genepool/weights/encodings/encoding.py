"""What every encoding declares, and the stored change of one tensor as an encoding sees it."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from genepool.errors import InputError
from genepool.weights.tensor_info import TensorInfo

if TYPE_CHECKING:
    import torch

# The setting that a whole change is multiplied by; 1 when absent.
FACTOR = "factor"
SkillForm = Literal["dense", "sparse", "low-rank", "packed"]


class EncodedPart(Protocol):
    """One stored tensor of an encoded change."""

    @property
    def info(self) -> TensorInfo:
        """Shape and stored type."""
        ...

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows of it as a matrix, in its stored type. Never write into them."""
        ...

    def entries(self, start: int, stop: int) -> torch.Tensor:
        """A run of its entries, `(stop - start,)`, in its stored type. Never write into them."""
        ...


class Recent:
    """The last few tensors that were computed, by key; used by several threads."""

    def __init__(self, most: int = 16) -> None:
        self._most = most
        self._held: OrderedDict[Hashable, torch.Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What is held under `key`; computed when it is not there (by two threads at once, perhaps, and alike)."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        value = compute()
        with self._lock:
            self._held[key] = value
            while len(self._held) > self._most:
                self._held.popitem(last=False)
        return value


@dataclass(frozen=True)
class Entry:
    """The stored change of one tensor.

    Attributes:
        name: the tensor's, for errors.
        shape: the tensor's.
        settings: what the encoding noted beside the parts.
        parts: what is stored.
        recent: what was decoded lately and is wanted again for the next rows; shared by the entries of a file.
    """

    name: str
    shape: tuple[int, ...]
    settings: Mapping[str, Any]
    parts: Mapping[str, EncodedPart]
    recent: Recent | None = None

    @property
    def matrix(self) -> tuple[int, int]:
        """(rows, columns) of the change as a matrix."""
        return TensorInfo(self.shape, "F32").matrix

    def whole(self, part: str) -> torch.Tensor:
        """All of one part."""
        found = self.parts[part]
        return found.rows(0, found.info.matrix[0]).reshape(found.info.shape)

    def kept(self, what: str, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """`compute()`, or what it gave a moment ago: decoding goes block by block, and a factor serves every block."""
        return compute() if self.recent is None else self.recent.get((self.name, what), compute)

    def expect(self, part: str, shape: tuple[int | None, ...], *dtypes: str) -> TensorInfo:
        """The info of a part that must be there.

        Args:
            part: its name.
            shape: its shape; None stands for any length.
            dtypes: stored types it may have.

        Raises:
            InputError: it is missing, or is something else.
        """
        if part not in self.parts:
            raise self.broken(f"its {part} is missing")
        info = self.parts[part].info
        right = len(info.shape) == len(shape) and all(n in (None, m) for n, m in zip(shape, info.shape, strict=True))
        if not right or info.dtype not in dtypes:
            raise self.broken(f"its {part} is {info.dtype} of shape {list(info.shape)}")
        return info

    def whole_number(self, setting: str, low: int, high: int) -> int:
        """A setting that must be a whole number in a range.

        Raises:
            InputError: it is not.
        """
        value = self.settings.get(setting)
        if type(value) is not int or not low <= value <= high:
            raise self.broken(f"{setting} is {value!r}, not a whole number from {low} to {high}")
        return value

    def broken(self, what: str) -> InputError:
        """What is raised when parts and settings contradict each other."""
        return InputError(what, where=self.name, fix="The skill file is damaged: make or fetch it again")


@dataclass(frozen=True)
class EncodedChange:
    """A change as an encoding stores it: tensors by name of part ("" stands for the tensor itself), and settings."""

    parts: Mapping[str, torch.Tensor]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.numel() * part.element_size() for part in self.parts.values())


class Encoding(ABC):
    """One way to store the change of a tensor.

    Class attributes:
        kind: its name in the file.
        form: the form of a skill whose weight matrices are stored so.
        by_rows: whether the parts of some rows, put below each other, are the parts of all rows.
    """

    kind: ClassVar[str]
    form: ClassVar[SkillForm]
    by_rows: ClassVar[bool] = True

    @abstractmethod
    def encode(self, change: torch.Tensor, **settings: Any) -> EncodedChange:
        """Stores a change.

        Args:
            change: `(rows, columns)` float32; not kept and not written into.
            settings: the encoding's own, each with a default.
        """

    def join(self, blocks: Sequence[EncodedChange], columns: int) -> EncodedChange:
        """Puts encoded blocks of rows below each other.

        Args:
            blocks: of one tensor, from the first row on; at least one.
            columns: of the tensor as a matrix.
        """
        import torch

        parts = {part: torch.cat([block.parts[part] for block in blocks]) for part in blocks[0].parts}
        return EncodedChange(parts, blocks[0].settings)

    def decode(self, entry: Entry, start: int, stop: int) -> torch.Tensor:
        """Rows of the change, `(stop - start, columns)` float32; the caller may write into them."""
        rows, factor = self.rows(entry, start, stop), entry.settings.get(FACTOR, 1.0)
        return rows if factor == 1 else rows.mul_(factor)

    def restore(self, encoded: EncodedChange, shape: tuple[int, ...]) -> torch.Tensor:
        """What comes back of a change that was encoded, `(rows, columns)` float32; the caller may write into it."""
        entry = in_memory("", shape, encoded)
        return self.decode(entry, 0, entry.matrix[0])

    @abstractmethod
    def rows(self, entry: Entry, start: int, stop: int) -> torch.Tensor:
        """What `decode` multiplies by the entry's factor."""

    def check(self, entry: Entry) -> None:
        """Refuses parts that contradict each other, from their shapes and types alone.

        Raises:
            InputError: they do.
        """
        factor = entry.settings.get(FACTOR, 1.0)
        if type(factor) not in (int, float) or not math.isfinite(factor):
            raise entry.broken(f"its factor is {factor!r}")
        self.check_parts(entry)

    @abstractmethod
    def check_parts(self, entry: Entry) -> None:
        """What `check` asks of the encoding."""

    def scaled(self, entry: Entry, factor: float) -> Entry:
        """The same change times a factor: stored beside the parts, which stay as they are to the last bit."""
        return replace(entry, settings={**entry.settings, FACTOR: factor * entry.settings.get(FACTOR, 1.0)})

    def layout(self, shape: tuple[int, ...], settings: Mapping[str, Any]) -> dict[str, TensorInfo] | None:
        """Shape and type of every part where they are known before the change is; None where they are not."""
        return None


@dataclass(frozen=True)
class TensorPart(EncodedPart):
    """A part in memory."""

    tensor: torch.Tensor

    @property
    def info(self) -> TensorInfo:
        from genepool.weights.tensor_info import dtype_code

        return TensorInfo(tuple(self.tensor.shape), dtype_code(self.tensor.dtype))

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return self.tensor.reshape(self.info.matrix)[start:stop]

    def entries(self, start: int, stop: int) -> torch.Tensor:
        return self.tensor.reshape(-1)[start:stop]


def in_memory(name: str, shape: tuple[int, ...], encoded: EncodedChange) -> Entry:
    """An entry that reads what has just been encoded."""
    parts = {part: TensorPart(tensor) for part, tensor in encoded.parts.items()}
    return Entry(name, shape, encoded.settings, parts)
