"""Writes checkpoints: shards laid out before the first byte, tensors put in their place in any order.

Because every shape and type is known in advance, no shard is ever held in memory, several threads can write at
once, and a killed write knows which tensors it had finished. Folders are published whole by `genepool.staging`.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool import progress, staging
from genepool.errors import InputError
from genepool.weights.carried import carried_files
from genepool.weights.control import CONTROL_FILE, Control
from genepool.weights.formats.safetensors import INDEX_FILE, MODEL_FILE
from genepool.weights.json_file import read_json
from genepool.weights.tensor_info import (
    DTYPE_BYTES,
    DTYPE_NAMES,
    TensorInfo,
    dtype_code,
    shape_text,
    tensor_bytes,
    torch_dtype,
)
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch

DEFAULT_SHARD_BYTES = 5 * 10**9


class ShardedWriter:
    """Tensors of known shapes, written into safetensors shards in any order.

    Args:
        folder: where the shards go; files of the right size that are already there are kept, so that a killed
            write can go on.
        infos: every tensor that will be written, with the type it is stored in.
        shard_bytes: a shard is closed before it grows beyond this; a larger tensor gets a shard of its own.
        metadata: goes into every header; `format: pt` is added, which transformers requires.
    """

    def __init__(
        self,
        folder: Path,
        infos: Mapping[str, TensorInfo],
        *,
        shard_bytes: int = DEFAULT_SHARD_BYTES,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.infos = folder, dict(infos)
        self._metadata = {"format": "pt", **(metadata or {})}
        self._places: dict[str, tuple[int, int]] = {}
        self._handles: list[int] = []
        shards = _assign(self.infos, shard_bytes)
        self.files = [
            folder / (MODEL_FILE if len(shards) == 1 else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors")
            for i in range(len(shards))
        ]
        self._index = {name: path.name for path, shard in zip(self.files, shards, strict=True) for name in shard}
        for number, (path, shard) in enumerate(zip(self.files, shards, strict=True)):
            self._open(number, path, shard)

    def _open(self, number: int, path: Path, shard: list[str]) -> None:
        header: dict[str, Any] = {"__metadata__": self._metadata}
        offset = 0
        for name in shard:
            info = self.infos[name]
            header[name] = {
                "dtype": info.dtype,
                "shape": list(info.shape),
                "data_offsets": [offset, offset + info.nbytes],
            }
            offset += info.nbytes
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        total = 8 + len(text) + offset
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._handles.append(handle)
        if os.fstat(handle).st_size != total:
            os.ftruncate(handle, 0)
            # Asking for the space now turns a full disk into an error before hours of work, not after.
            if total:
                os.posix_fallocate(handle, 0, total)
        os.pwrite(handle, struct.pack("<Q", len(text)) + text, 0)
        for name in shard:
            self._places[name] = (number, 8 + len(text) + header[name]["data_offsets"][0])

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Puts one tensor in its place; safe to call from several threads.

        Raises:
            InputError: shape or type is not what was announced (a fault of the caller, named all the same).
        """
        info = self.infos[name]
        if tuple(tensor.shape) != info.shape or dtype_code(tensor.dtype) != info.dtype:
            raise InputError(
                f"{shape_text(tuple(tensor.shape))} {dtype_code(tensor.dtype)} was computed, "
                f"expected {shape_text(info.shape)} {info.dtype}",
                where=name,
                fix="The merge method returned a tensor of another shape or type",
            )
        self._put(name, tensor_bytes(tensor.cpu()), 0)

    def write_rows(self, name: str, start: int, data: memoryview) -> None:
        """Puts the bytes of rows of a tensor as a matrix in their place, `start` being the first row."""
        info = self.infos[name]
        offset = start * info.matrix[1] * DTYPE_BYTES[info.dtype]
        assert offset + len(data) <= info.nbytes, f"{name}: rows beyond its end"
        self._put(name, data, offset)

    def _put(self, name: str, data: memoryview, offset: int) -> None:
        number, begin = self._places[name]
        offset += begin
        while data:
            written = os.pwrite(self._handles[number], data, offset)
            data, offset = data[written:], offset + written

    def sync(self) -> None:
        """Forces what was written so far to the disk."""
        for handle in self._handles:
            os.fsync(handle)

    def close(self) -> None:
        """Writes the index, if there are several shards, and closes the files."""
        for handle in self._handles:
            os.close(handle)
        self._handles = []
        if len(self.files) > 1:
            size = sum(info.nbytes for info in self.infos.values())
            index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(self._index.items()))}
            (self.folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")


def _assign(infos: Mapping[str, TensorInfo], shard_bytes: int) -> list[list[str]]:
    if shard_bytes <= 0:
        raise InputError(
            f"the size of a shard must be positive, got {shard_bytes} bytes", fix="Give a positive size such as 5GB"
        )
    shards: list[list[str]] = [[]]
    filled = 0
    for name, info in infos.items():
        if shards[-1] and filled + info.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += info.nbytes
    # Wider types first, so that every tensor starts at a multiple of its element size.
    return [sorted(shard, key=lambda name: -DTYPE_BYTES[infos[name].dtype]) for shard in shards]


def write_config(
    folder: Path,
    config: Mapping[str, Any] | None,
    source: Path | None,
    *,
    tokenizer_from: Path | None = None,
    chat_template: str | None = None,
    control: Control | None = None,
) -> None:
    """Puts config.json and the files that go with a model into `folder`.

    Args:
        config: what config.json says; none is written when None.
        source: folder of the model whose config it is; see `carried` for what is copied.
        tokenizer_from: folder of the tokenizer, when it is another.
        chat_template: replaces the tokenizer's, in every place where a loader may look for it.
        control: the control prefix that the model is asked with.
    """
    if config is not None:
        # Sorted at the top alone: within, "10" would come before "2" among classes that are read in their order.
        (folder / "config.json").write_text(json.dumps(dict(sorted(config.items())), indent=2) + "\n")
    for name, origin in carried_files(source, tokenizer_from).files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(origin, folder / name)
    if control is not None:
        (folder / CONTROL_FILE).write_text(control.text(), encoding="utf-8")
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
        (folder / "chat_template.json").unlink(missing_ok=True)
        settings = folder / "tokenizer_config.json"
        if settings.is_file() and "chat_template" in (content := read_json(settings)):
            del content["chat_template"]
            settings.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def stored_infos(weights: Weights, out_dtype: str | None = None) -> dict[str, TensorInfo]:
    """What `weights` will be stored as: float tensors in `out_dtype` when one is given, all else as it is."""
    infos = {name: weights.info(name) for name in weights.stored_names()}
    if out_dtype is None:
        return infos
    return {name: info.with_dtype(out_dtype) if info.is_float else info for name, info in infos.items()}


def config_for(config: Mapping[str, Any] | None, infos: Iterable[TensorInfo]) -> dict[str, Any] | None:
    """`config` with the stored type of the weights filled in."""
    if config is None:
        return None
    result = dict(config)
    kinds = {info.dtype for info in infos if info.is_float}
    if len(kinds) == 1:
        key = "torch_dtype" if "torch_dtype" in result else "dtype"
        result[key] = DTYPE_NAMES[kinds.pop()]
    return result


def write_checkpoint(
    weights: Weights,
    out: Path,
    *,
    overwrite: bool = False,
    out_dtype: str | None = None,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    metadata: Mapping[str, str] | None = None,
    extra_files: Mapping[str, str] | None = None,
) -> Path:
    """Writes any `Weights` as a Hugging Face folder, whole or not at all.

    Args:
        weights: what to write; read tensor by tensor.
        out: the folder.
        overwrite: replace what is there.
        out_dtype: safetensors name of the stored type ("BF16"); as read when None.
        shard_bytes: largest shard.
        metadata: goes into the safetensors headers.
        extra_files: name -> text of further files of the folder (a model card).

    Returns:
        `out`.
    """
    infos = stored_infos(weights, out_dtype)
    with staging.staged_folder(out, overwrite=overwrite) as folder:
        writer = ShardedWriter(folder, infos, shard_bytes=shard_bytes, metadata=metadata)
        with progress.bar(f"writing {out}", len(infos), "tensors") as bar:
            for name, info in infos.items():
                writer.write(name, weights.read(name).to(torch_dtype(info.dtype)))
                bar.advance()
        writer.close()
        write_config(
            folder,
            config_for(weights.config, infos.values()),
            weights.folder,
            tokenizer_from=weights.tokenizer_folder,
            chat_template=weights.chat_template,
            control=weights.control,
        )
        for file, text in (extra_files or {}).items():
            (folder / file).write_text(text, encoding="utf-8")
    return out
