"""Writes GGUF files: header by the `gguf` package, tensors streamed by rows, published whole.

Uses `staging`; `exporting` and `adapter_exporting` say what is in the file. Float types are rounded as ggml rounds
them, Q8_0 blocks are made by the package, which gives ggml's own bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from genepool import progress, staging
from genepool.checked import is_text
from genepool.errors import InputError
from genepool.weights.gguf.ggml_types import BF16, F16, F32, Q8_0, Q8_ENTRIES, row_bytes
from genepool.weights.tensor_info import tensor_bytes

if TYPE_CHECKING:
    import numpy as np
    import torch

# What `--type` takes -> (ggml's type of the matrices, llama.cpp's number of such a file: gguf's `LlamaFileType`).
TYPES: Final = {"f32": (F32, 0), "f16": (F16, 1), "bf16": (BF16, 32), "q8_0": (Q8_0, 7)}
# Entries of a block: 16 MB in float32.
_BLOCK = 1 << 22
_LARGEST_F16, _LARGEST_F32 = 65504.0, 3.4028234663852886e38
# `GGML_QNT_VERSION` of ggml.h.
_QUANTIZATION_VERSION = 2


@dataclass(frozen=True)
class Planned:
    """A tensor to be written.

    Attributes:
        name: llama.cpp's.
        source: the name the user knows it by, for errors.
        shape: in torch's order.
        kind: ggml's number of its type.
        rows: gives rows of it, `(start, stop)` -> `(stop - start, columns)`, in the file's order.
        step: rows are asked for in multiples of this many.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    kind: int
    rows: Callable[[int, int], torch.Tensor]
    step: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes it will take."""
        return prod(self.shape[:-1]) * row_bytes(self.kind, self.shape[-1])

    def blocks(self) -> list[tuple[int, int]]:
        """(start, stop) of the rows that are worked on at once."""
        rows = prod(self.shape[:-1])
        size = max(1, _BLOCK // max(1, self.shape[-1] * self.step)) * self.step
        return [(start, min(start + size, rows)) for start in range(0, rows, size)]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file.
        kind: "model" or "adapter".
        architecture: llama.cpp's name.
        type: what `--type` said.
        tensors: how many.
        nbytes: size of the file.
    """

    path: Path
    kind: str
    architecture: str
    type: str
    tensors: int
    nbytes: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "out": str(self.path),
            "kind": self.kind,
            "architecture": self.architecture,
            "type": self.type,
            "tensors": self.tensors,
            "bytes": self.nbytes,
        }


def kind_of(name: str, shape: Sequence[int], wanted: str) -> int:
    """ggml's type of a tensor: llama.cpp keeps vectors and norms in F32, and in F16 what has no whole Q8_0 blocks."""
    kind = TYPES[wanted][0]
    if len(shape) < 2 or name.endswith("_norm.weight"):
        return F32
    return F16 if kind == Q8_0 and shape[-1] % Q8_ENTRIES else kind


def check_target(out: Path, wanted: str, *, overwrite: bool) -> None:
    """What can be said of an export before a model is opened.

    Raises:
        InputError: the `gguf` package is not installed, there is no such type, or the file cannot be written there.
    """
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise InputError(
            "the package gguf is not installed", where="gguf", fix="pip install 'genepool[gguf]'"
        ) from None
    if wanted not in TYPES:
        raise InputError(f"got {wanted!r}, expected {', '.join(TYPES)}", where="--type", fix="Name one of these")
    if out.suffix != ".gguf":
        raise InputError("the name must end in .gguf", where=out, fix=f"Name it {out.name}.gguf")
    staging.check_file(out, overwrite=overwrite)


def write(
    out: Path,
    architecture: str,
    values: Mapping[str, Any],
    tensors: Sequence[Planned],
    wanted: str,
    *,
    overwrite: bool = False,
) -> Exported:
    """Writes a file, whole or not at all.

    Args:
        out: the file.
        architecture: llama.cpp's name.
        values: key -> value; whole numbers go as uint32, others as float32, lists by their first entry.
        tensors: what is in it, in their order.
        wanted: one of `TYPES`.
        overwrite: replace what is at `out`.

    Raises:
        InputError: a value of `values` does not fit its type; a tensor holds NaN or infinity, or values that its type
            cannot hold; or the disk is full.
    """
    if odd := next((key for key, value in values.items() if not _fits(value)), None):
        what = f"got {values[odd]!r:.60} for {odd}, which a GGUF file cannot hold"
        raise InputError(what, where=out, fix="Correct the model's config.json")
    with staging.staged_file(out, overwrite=overwrite) as file:
        _write_header(file, architecture, {"general.name": out.stem, **values}, tensors, wanted)
        with progress.bar(f"writing {out}", sum(tensor.nbytes for tensor in tensors), "bytes") as bar:
            for tensor in tensors:
                bar.note(tensor.name)
                for start, stop in tensor.blocks():
                    data = _encoded(tensor, tensor.rows(start, stop))
                    file.write(data)
                    bar.advance(len(data))
                _pad(file)
        nbytes = file.tell()
    return Exported(out, str(values["general.type"]), architecture, wanted, len(tensors), nbytes)


def _write_header(
    file: BinaryIO, architecture: str, values: Mapping[str, Any], tensors: Sequence[Planned], wanted: str
) -> None:
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.gguf_writer import WriterState

    writer = GGUFWriter(None, architecture)
    for key, value in values.items():
        _add(writer, key, value)
    writer.add_file_type(TYPES[wanted][1])
    writer.add_quantization_version(_QUANTIZATION_VERSION)
    for tensor in tensors:
        kind = GGMLQuantizationType(tensor.kind)
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=kind)
    # The file is open and locked already; the writer would open it by name.
    writer.fout, writer.state = [file], WriterState.EMPTY
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    _pad(file)


def _fits(value: Any) -> bool:
    """Whether a value can be stored as the type that it goes as."""
    if isinstance(value, bool | str):
        return isinstance(value, bool) or is_text(value)
    if isinstance(value, int):
        return 0 <= value < 2**32
    return not isinstance(value, float) or abs(value) <= _LARGEST_F32


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _pad(file: BinaryIO) -> None:
    from gguf import GGUF_DEFAULT_ALIGNMENT

    file.write(b"\0" * (-file.tell() % GGUF_DEFAULT_ALIGNMENT))


def _encoded(tensor: Planned, rows: torch.Tensor) -> memoryview:
    """Rows as they stand in the file."""
    import torch

    values = rows.to(torch.float32).contiguous()
    largest = float(values.abs().max()) if values.numel() else 0.0
    if not largest < float("inf"):
        raise InputError(
            "holds NaN or infinity", where=tensor.source, fix="Find every such tensor with genepool inspect"
        )
    if tensor.kind == F32:
        return tensor_bytes(values)
    # A Q8_0 block keeps its largest value's 127th part in float16.
    if largest > (_LARGEST_F16 * 127 if tensor.kind == Q8_0 else _LARGEST_F16) and tensor.kind != BF16:
        raise InputError(
            f"holds {largest:.3g}, which its type cannot represent", where=tensor.source, fix="Use --type bf16 or f32"
        )
    if tensor.kind != Q8_0:
        return tensor_bytes(values.to(torch.float16 if tensor.kind == F16 else torch.bfloat16))
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    blocks: np.ndarray[Any, Any] = quantize(values.numpy(), GGMLQuantizationType.Q8_0)
    return blocks.data.cast("B")
