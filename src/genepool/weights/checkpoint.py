"""Checkpoints on disk as `Weights`: a Hugging Face folder, sharded or not, or one file.

Any of `genepool.weights.formats`; those that could run code where the caller allows them. Headers are read and checked
when a checkpoint is opened; tensors when they are read. Tied embeddings that were stored twice count once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.weights import fingerprint_cache
from genepool.weights.companions import companion_folder
from genepool.weights.control import control_of
from genepool.weights.formats import NEED_ASKING, TensorFile, format_of, formats, open_file, usable_formats
from genepool.weights.formats.safetensors import INDEX_FILE, MODEL_FILE
from genepool.weights.json_file import read_json
from genepool.weights.tensor_info import TensorInfo
from genepool.weights.ties import stored_twice
from genepool.weights.weights import Weights, entry_digest
from genepool.weights.wrappers import unwrapped

if TYPE_CHECKING:
    import torch


class Checkpoint(Weights):
    """A checkpoint on disk.

    Args:
        path: a folder with `config.json` and weights, or one file of weights (its folder's config is used when
            there is one).
        name: what the user calls it; the path when not given.
        allow_pickle: take PyTorch's .bin and .pt files where there is no safetensors file; they are loaded with
            `weights_only`.

    Attributes:
        wrapped: name -> name in the file, of tensors that a training wrapper saved under a longer one.

    Raises:
        InputError: nothing usable is there, a shard is missing or damaged, or only pickles are and they were not
            allowed.
    """

    def __init__(self, path: Path, name: str | None = None, *, allow_pickle: bool = False) -> None:
        path = Path(path)
        self.path = path
        self.name = name or str(path)
        self.files, self.wrapped = unwrapped(_open_files(path, allow_pickle))
        self.folder = self._find_folder()
        self.config = read_json(self.folder / "config.json") if (self.folder / "config.json").is_file() else None
        self.control = control_of(self.folder)
        self._where: dict[str, TensorFile] = {}
        for file in self.files:
            for tensor in file.infos:
                if tensor in self._where:
                    raise InputError(
                        f"is stored twice (first in {self._where[tensor].path.name})",
                        where=f"{file.path}:{tensor}",
                        fix="The folder holds shards of two saves: remove the files the index does not name",
                    )
                self._where[tensor] = file

    def _find_folder(self) -> Path:
        """Where config and tokenizer are found."""
        if len(self.files) == 1 and self.files[0].self_contained:
            return companion_folder(self.files[0])
        return self.path if self.path.is_dir() else self.path.parent

    def names(self) -> tuple[str, ...]:
        return self._names

    def stored_names(self) -> tuple[str, ...]:
        # Views of one storage take no room of their own, and the loader makes those that it ties.
        views = {name for file in self.files for pair in file.shared.items() for name in pair}
        return tuple(name for name in self._where if not (name in views and name in self._tied))

    def aliases(self) -> Mapping[str, str]:
        return self._aliases

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def info(self, name: str) -> TensorInfo:
        return self._where[name].infos[name]

    def read(self, name: str) -> torch.Tensor:
        stored = self._aliases.get(name, name)
        return self._where[stored].read(stored)

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        stored = self._aliases.get(name, name)
        return self._where[stored].read_rows(stored, start, stop)

    def file_of(self, name: str) -> TensorFile:
        """The file that holds a tensor."""
        return self._where[name]

    def stored_in(self, name: str) -> tuple[TensorFile, str] | None:
        stored = self._aliases.get(name, name)
        file = self._where[stored]
        return (file, stored) if file.holds_bytes(stored) else None

    def fingerprint(self) -> str:
        paths = [file.path for file in self.files]
        config = self._find_folder() / "config.json"
        beside = config.is_file() and not self.files[0].self_contained
        return fingerprint_cache.cached(paths + ([config] if beside else []), self._hash)

    def _hash(self) -> str:
        from genepool import progress

        total = hashlib.sha256()
        size = sum(self.info(name).nbytes for name in self._names)
        with progress.bar(f"hashing {self.name}", size, "bytes") as bar:
            for name in sorted(self._names):
                data = self._where[name].view_bytes(name)
                total.update(entry_digest(name, self.info(name), data))
                bar.advance(len(data))
        return total.hexdigest()

    @cached_property
    def _tied(self) -> dict[str, str]:
        """Stored tensors that the loader ties to another stored one -> that one."""

        def equal(name: str, other: str) -> bool:
            first, second = self._where[name], self._where[other]
            same = first.infos[name] == second.infos[other]
            return same and first.view_bytes(name) == second.view_bytes(other)

        return stored_twice(self.config, self._where, equal)

    @cached_property
    def _aliases(self) -> dict[str, str]:
        """Second names: of tensors that the loader ties, and of one storage that a file keeps under several names."""
        aliases = dict(self._tied)
        for file in self.files:
            for name, first in file.shared.items():
                # A head that is stored before the embedding it is tied to is still the copy.
                first = aliases.get(first, first)
                if name not in aliases and name != first:
                    aliases[name] = first
        return aliases

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(tensor for tensor in self._where if tensor not in self._aliases)


def _open_files(path: Path, allow_pickle: bool) -> list[TensorFile]:
    try:
        if path.is_file():
            return [_open_file(path, allow_pickle)]
        return _open_folder(path, allow_pickle)
    except PermissionError:
        raise InputError("cannot be read", where=path, fix="Check its permissions") from None


def _open_file(path: Path, allow_pickle: bool) -> TensorFile:
    if (kind := format_of(path)) is not None:
        return open_file(path, kind, allow_pickle)
    if path.suffix in (".yaml", ".yml"):
        raise InputError("is a recipe, expected a model", where=path, fix="Merge it first: genepool merge")
    raise InputError("is not a safetensors file", where=path, fix="Name a .safetensors file or a model folder")


def _open_folder(path: Path, allow_pickle: bool) -> list[TensorFile]:
    for kind in usable_formats(allow_pickle):
        single, index = kind.model_file, kind.index_file
        if not single:
            continue
        _refuse_dead_link(path / single)
        _refuse_dead_link(path / index)
        if (path / index).is_file() and (path / single).is_file():
            raise InputError(f"holds both {single} and {index}", where=path, fix="Remove the file of the older save")
        if (path / index).is_file():
            return _open_shards(path / index, allow_pickle)
        if (path / single).is_file():
            return [_open_file(path / single, allow_pickle)]
    present = sorted(path.iterdir())
    candidates = {kind: [file for file in present if kind.may_be_model(file.name)] for kind in formats()}
    for kind in usable_formats(allow_pickle):
        if len(candidates[kind]) == 1:
            _refuse_dead_link(candidates[kind][0])
            return [_open_file(candidates[kind][0], allow_pickle)]
    if (path / "adapter_config.json").is_file():
        raise InputError("is a PEFT adapter, which needs its base", where=path, fix="Write it as BASE+ADAPTER")
    found = next((kind for kind in formats() if candidates[kind]), None)
    if found is not None and found.runs_code:
        raise InputError(
            f"holds only {found.title}s ({candidates[found][0].name}), which can run code when they are opened",
            where=path,
            fix="Name one of them" if allow_pickle else NEED_ASKING,
        )
    raise InputError(
        f"no {MODEL_FILE} and no {INDEX_FILE} here",
        where=path,
        fix="Name a model folder in Hugging Face's layout",
    )


def _open_shards(index: Path, allow_pickle: bool) -> list[TensorFile]:
    table = shards_of(index)
    files: dict[str, TensorFile] = {}
    for shard in sorted(set(table.values())):
        _refuse_dead_link(index.parent / shard)
        if not (index.parent / shard).is_file():
            raise InputError("no such shard", where=index.parent / shard, fix=f"{index.name} names it: fetch it again")
        files[shard] = _open_file(index.parent / shard, allow_pickle)
    for tensor, shard in table.items():
        if tensor not in files[shard].infos:
            raise InputError(
                f"maps {tensor} to {shard}, which does not hold it",
                where=index,
                fix="Index and shards are of two saves: fetch or save the model again",
            )
    return list(files.values())


def shards_of(index: Path) -> dict[str, str]:
    """Which file holds which tensor, as a sharded model's index says.

    Raises:
        InputError: it is no index, or names a file outside its folder.
    """
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(shard, str) for shard in table.values()):
        raise InputError("is not a map of tensors to files", where=f"{index}:weight_map", fix="Save the model again")
    for shard in set(table.values()):
        # A shard name comes from a file we did not write: it must not lead out of the folder.
        if Path(shard).name != shard or "\\" in shard or "\0" in shard or shard in ("", ".", ".."):
            raise InputError(f"names a file outside the folder: {shard!r}", where=index, fix="Save the model again")
    return table


def _refuse_dead_link(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise InputError("is a symbolic link that leads nowhere or in a circle", where=path, fix="Fetch the file again")
