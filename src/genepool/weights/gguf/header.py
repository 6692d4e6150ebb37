"""The header of a GGUF file, which is not trusted: keys with values, and where each tensor lies.

The format (ggml's docs/gguf.md): magic, version, two counts, the keys, the tensors' names, shapes, types and offsets,
and, aligned, their bytes. Every count and length is held against what the file has left before anything of that size is
made, so a hostile file costs work in proportion to its header. The `gguf` package's own reader is not used: it takes
the file's word for every count and makes several arrays for each string of a vocabulary.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from genepool.errors import InputError
from genepool.weights.file_bytes import DAMAGED, opened
from genepool.weights.gguf.ggml_types import Q8_0, Q8_ENTRIES, STORED_AS, row_bytes, unread_name

MAGIC = b"GGUF"
TITLE = "GGUF file"
_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# What ggml itself allows: the length of a key, and the axes of a tensor.
_MAX_KEY, _MAX_AXES = 65_535, 4
# Headers of the largest vocabularies take some 20 MB, their arrays half a million entries.
_MAX_HEADER, _MAX_ENTRIES = 200_000_000, 1 << 22
_MAX_ALIGNMENT = 1 << 16

Value = int | float | bool | str | list[Any]


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as the file has it.

    Attributes:
        name: llama.cpp's.
        shape: in torch's order, the last axis contiguous.
        kind: ggml's number of its type.
        offset: where its bytes begin in the file.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return prod(self.shape[:-1]) * row_bytes(self.kind, self.shape[-1])


@dataclass(frozen=True)
class GgufHeader:
    """A header, checked.

    Attributes:
        path: the file.
        values: key -> value, as ggml types them: numbers, truth values, text, lists of one of these.
        tensors: in the order of their bytes.
    """

    path: Path
    values: Mapping[str, Value]
    tensors: tuple[StoredTensor, ...]

    def where(self, key: str) -> str:
        """The file and a key or tensor of it, for errors."""
        return f"{self.path}:{key}"

    def natural(self, key: str, default: int | None = None, *, most: int = 2**31 - 1) -> int:
        """A whole number from 1 on.

        Raises:
            InputError: it is missing and has no default, or is something else.
        """
        value = self.values.get(key, default)
        if value is None:
            raise InputError("is missing", where=self.where(key), fix="Convert the model again with llama.cpp")
        if type(value) is not int or not 0 < value <= most:
            raise InputError(f"got {_shown(value)}, expected a number from 1 to {most}", where=self.where(key))
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """A positive, finite number.

        Raises:
            InputError: it is missing and has no default, or is something else.
        """
        value = self.values.get(key, default)
        if value is None:
            raise InputError("is missing", where=self.where(key), fix="Convert the model again with llama.cpp")
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e30:
            raise InputError(f"got {_shown(value)}, expected a positive number", where=self.where(key))
        return float(value)

    def text(self, key: str, default: str = "") -> str:
        """A text.

        Raises:
            InputError: it is something else.
        """
        value = self.values.get(key, default)
        if not isinstance(value, str):
            raise InputError(f"got {_shown(value)}, expected text", where=self.where(key))
        return value

    def flag(self, key: str, default: bool) -> bool:
        """A truth value.

        Raises:
            InputError: it is something else.
        """
        value = self.values.get(key, default)
        if type(value) is not bool:
            raise InputError(f"got {_shown(value)}, expected true or false", where=self.where(key))
        return value

    def entries(self, key: str, kind: type, count: int | None = None) -> list[Any]:
        """A list of values of one type, of `count` of them where that is given; empty when it is missing.

        Raises:
            InputError: it is something else.
        """
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(type(entry) is kind for entry in value):
            raise InputError(f"got {_shown(value)}, expected a list of {kind.__name__}", where=self.where(key))
        if count is not None and key in self.values and len(value) != count:
            raise InputError(f"got {len(value)} entries, expected {count}", where=self.where(key), fix=DAMAGED)
        return value


def read_header(path: Path) -> GgufHeader:
    """The header of a GGUF file.

    Raises:
        InputError: it is no GGUF file, one of another version or byte order, it contradicts itself or its size, or it
            stores a tensor in a type that is not read here.
    """
    with opened(path, TITLE) as file:
        return _Parser(path, file).header()


class _Parser:
    """Goes through a header once, never past what the file has."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.size = os.fstat(file.fileno()).st_size
        self.left = min(self.size, _MAX_HEADER)
        self.entries_left = _MAX_ENTRIES
        self.key = ""

    def header(self) -> GgufHeader:
        if self._take(min(4, self.size)) != MAGIC:
            raise InputError("does not begin as a GGUF file does", where=self.path, fix="Name a GGUF file")
        self._check_version(self._number("I"))
        tensor_count, key_count = self._number("Q"), self._number("Q")
        # The shortest entries: a name's length, and for a key its type and a byte, for a tensor its numbers.
        self._check_count(tensor_count, 24, "tensors")
        self._check_count(key_count, 13, "keys")
        values: dict[str, Value] = {}
        for _ in range(key_count):
            self._read_key(values)
        alignment = self._alignment(values)
        found = [self._tensor() for _ in range(tensor_count)]
        start = _aligned(self.file.tell(), alignment)
        return GgufHeader(self.path, values, self._placed(found, start, alignment))

    def _check_version(self, version: int) -> None:
        if version & 0xFFFF == 0:
            raise InputError(
                "is a big-endian GGUF file", where=self.path, fix="Convert it: gguf-convert-endian FILE little"
            )
        if version not in _VERSIONS:
            fix = "Use a newer genepool" if version > max(_VERSIONS) else "Convert the model again with llama.cpp"
            raise InputError(f"got GGUF version {version}, expected 2 or 3", where=self.path, fix=fix)

    def _check_count(self, count: int, nbytes: int, what: str) -> None:
        if count * nbytes > self.left:
            raise InputError(f"claims {count} {what} in {self.size} bytes", where=self._where(), fix=DAMAGED)

    def _read_key(self, values: dict[str, Value]) -> None:
        self.key = ""
        key = self._text(_MAX_KEY)
        if not key or not key.isprintable():
            raise InputError(f"the key {key!r} is not text", where=self.path, fix=DAMAGED)
        if key in values:
            raise InputError("the key appears twice", where=f"{self.path}:{key}", fix=DAMAGED)
        self.key = key
        values[key] = self._value(self._number("I"))

    def _value(self, kind: int) -> Value:
        if kind in _SCALARS:
            (value,) = self._scalars(kind, 1)
            return _shortest(value) if _SCALARS[kind] == "f" else value
        if kind == _STRING:
            return self._text(self.left)
        if kind != _ARRAY:
            raise InputError(f"the value has the unknown type {kind}", where=self._where(), fix="Use a newer genepool")
        inner, count = self._number("I"), self._number("Q")
        if inner == _ARRAY:
            raise InputError("the value is a list of lists, expected a flat list", where=self._where(), fix=DAMAGED)
        self._check_count(count, struct.calcsize(_SCALARS.get(inner, "Q")), "entries")
        self.entries_left -= count
        if self.entries_left < 0:
            raise InputError(f"lists hold more than {_MAX_ENTRIES} entries", where=self._where(), fix=DAMAGED)
        if inner in _SCALARS:
            return self._scalars(inner, count)
        if inner != _STRING:
            raise InputError(f"the list has the unknown type {inner}", where=self._where(), fix="Use a newer genepool")
        return [self._text(self.left) for _ in range(count)]

    def _scalars(self, kind: int, count: int) -> list[Any]:
        form = f"<{count}{'B' if kind == 7 else _SCALARS[kind]}"
        found = list(struct.unpack(form, self._take(struct.calcsize(form))))
        if kind == 7 and not set(found) <= {0, 1}:
            raise InputError("a truth value is neither 0 nor 1", where=self._where(), fix=DAMAGED)
        return [bool(value) for value in found] if kind == 7 else found

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        self.key = ""
        name = self._text(_MAX_KEY)
        if not name or not name.isprintable():
            raise InputError(f"the tensor name {name!r} is not text", where=self.path, fix=DAMAGED)
        self.key = name
        axes = self._number("I")
        if not 1 <= axes <= _MAX_AXES:
            raise InputError(f"got {axes} axes, expected 1 to {_MAX_AXES}", where=self._where(), fix=DAMAGED)
        shape = tuple(reversed(struct.unpack(f"<{axes}Q", self._take(8 * axes))))
        kind, offset = self._number("I"), self._number("Q")
        if kind not in STORED_AS:
            raise InputError(
                f"is stored as {unread_name(kind)}, expected F32, F16, BF16 or Q8_0",
                where=self._where(),
                fix="Use the unquantised model, or a GGUF file of one of these types",
            )
        if any(not 0 < n < 2**48 for n in shape) or prod(shape) > 8 * self.size:
            raise InputError(
                f"the shape {list(shape)} does not fit in {self.size} bytes", where=self._where(), fix=DAMAGED
            )
        if kind == Q8_0 and shape[-1] % Q8_ENTRIES:
            raise InputError(f"rows of {shape[-1]} entries are not whole Q8_0 blocks", where=self._where(), fix=DAMAGED)
        return name, shape, kind, offset

    def _placed(
        self, found: list[tuple[str, tuple[int, ...], int, int]], start: int, alignment: int
    ) -> tuple[StoredTensor, ...]:
        """The tensors with their places in the file, one after the other as ggml demands, none twice."""
        placed: dict[str, StoredTensor] = {}
        end = expected = start
        for name, shape, kind, offset in found:
            tensor = StoredTensor(name, shape, kind, start + offset)
            if name in placed:
                raise InputError("the tensor appears twice", where=f"{self.path}:{name}", fix=DAMAGED)
            if tensor.offset != expected:
                raise InputError(
                    f"its bytes begin at {offset}, expected {expected - start}",
                    where=f"{self.path}:{name}",
                    fix=DAMAGED,
                )
            placed[name] = tensor
            end = tensor.offset + tensor.nbytes
            expected = _aligned(end, alignment)
        if placed and not end <= self.size <= expected:
            raise InputError(
                f"the tensors end at byte {end}, and the file has {self.size}", where=self.path, fix=DAMAGED
            )
        return tuple(placed.values())

    def _alignment(self, values: Mapping[str, Value]) -> int:
        value = values.get("general.alignment", 32)
        if type(value) is not int or not 0 < value <= _MAX_ALIGNMENT or value & (value - 1):
            raise InputError(
                f"got {_shown(value)}, expected a power of two", where=f"{self.path}:general.alignment", fix=DAMAGED
            )
        return value

    def _number(self, form: str) -> int:
        (value,) = struct.unpack("<" + form, self._take(struct.calcsize("<" + form)))
        return int(value)

    def _text(self, most: int) -> str:
        length = self._number("Q")
        if length > min(most, self.left):
            raise InputError(
                f"a text claims {length} bytes, and the file has {self.size}", where=self._where(), fix=DAMAGED
            )
        try:
            return self._take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise InputError("a text is not UTF-8", where=self._where(), fix=DAMAGED) from None

    def _take(self, count: int) -> bytes:
        data = self.file.read(count) if count <= self.left else b""
        if len(data) < count:
            raise InputError("the header ends too early", where=self._where(), fix=DAMAGED)
        self.left -= count
        return data

    def _where(self) -> str:
        return f"{self.path}:{self.key}" if self.key else str(self.path)


def _aligned(offset: int, alignment: int) -> int:
    return offset + -offset % alignment


def _shortest(value: float) -> float:
    """The number with the fewest digits that float32 rounds to `value`, so that 1e-6 reads as 1e-6."""
    for digits in range(6, 9):
        short = float(f"{value:.{digits}g}")
        if math.isfinite(value) and struct.unpack("<f", struct.pack("<f", short))[0] == value:
            return short
    return value


def _shown(value: object) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
