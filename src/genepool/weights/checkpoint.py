"""Checkpoints on disk as `Weights`: a Hugging Face folder, sharded or not, or one safetensors file.

Headers are read and checked when a checkpoint is opened; tensors are mapped when they are read. Tied embeddings
that were stored twice count once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.weights import fingerprint_cache
from genepool.weights.roles import infer_roles
from genepool.weights.safetensors_file import SafetensorsFile
from genepool.weights.source import Weights, entry_digest
from genepool.weights.tensor_info import TensorInfo

if TYPE_CHECKING:
    import torch

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


class Checkpoint(Weights):
    """A checkpoint on disk.

    Args:
        path: a folder with `config.json` and safetensors files, or one safetensors file (its folder's config is
            used when there is one).
        name: what the user calls it; the path when not given.

    Raises:
        InputError: nothing usable is there, a shard is missing or damaged, or only pickles are.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        path = Path(path)
        self.path = path
        self.name = name or str(path)
        self.folder = path if path.is_dir() else path.parent
        self.config = read_json(self.folder / "config.json") if (self.folder / "config.json").is_file() else None
        self.files = _open_files(path)
        self._where: dict[str, SafetensorsFile] = {}
        for file in self.files:
            for tensor in file.infos:
                if tensor in self._where:
                    raise InputError(
                        f"stored a second time (first in {self._where[tensor].path.name})",
                        where=f"{file.path}:{tensor}",
                        fix="The folder holds shards of two saves: remove the files the index does not name",
                    )
                self._where[tensor] = file
        self._aliases = self._find_tied()
        self._names = tuple(tensor for tensor in self._where if tensor not in self._aliases)

    def names(self) -> tuple[str, ...]:
        return self._names

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

    def fingerprint(self) -> str:
        paths = [file.path for file in self.files]
        config = self.folder / "config.json" if self.folder else None
        return fingerprint_cache.cached(paths + ([config] if config and config.is_file() else []), self._hash)

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

    def _find_tied(self) -> dict[str, str]:
        """Heads and second embeddings that are copies of the embedding: by the config's word, else by content."""
        infos = {name: file.infos[name] for name, file in self._where.items()}
        roles = infer_roles(infos)
        embeddings = [n for n, role in roles.items() if role.part == "embedding" and len(infos[n].shape) == 2]
        said = bool((self.config or {}).get("tie_word_embeddings", False))
        aliases: dict[str, str] = {}
        for name, role in roles.items():
            if role.part not in ("head", "embedding") or len(infos[name].shape) != 2:
                continue
            for first in embeddings:
                if first == name or first in aliases or infos[first] != infos[name]:
                    continue
                later_copy = role.part == "head" or embeddings.index(first) < embeddings.index(name)
                if later_copy and ((role.part == "head" and said) or self._same_bytes(first, name)):
                    aliases[name] = first
                    break
        return aliases

    def _same_bytes(self, a: str, b: str) -> bool:
        first, second = self._where[a].view_bytes(a), self._where[b].view_bytes(b)
        # Untied heads differ at once; only real copies are compared to the end.
        return first[:4096] == second[:4096] and first == second


def _open_files(path: Path) -> list[SafetensorsFile]:
    if path.is_file():
        if path.suffix != ".safetensors":
            raise InputError("not a safetensors file", where=path, fix="Name a .safetensors file or a model folder")
        return [SafetensorsFile(path)]
    index = path / INDEX_FILE
    single = path / SINGLE_FILE
    if index.is_file() and single.is_file():
        raise InputError(
            f"holds both {SINGLE_FILE} and {INDEX_FILE}",
            where=path,
            fix="Remove the one that an older save left",
        )
    if index.is_file():
        return [SafetensorsFile(path / shard) for shard in _shards(index)]
    if single.is_file():
        return [SafetensorsFile(single)]
    others = sorted(path.glob("*.safetensors"))
    if len(others) == 1 and others[0].name != "adapter_model.safetensors":
        return [SafetensorsFile(others[0])]
    if (path / "adapter_config.json").is_file():
        raise InputError("a PEFT adapter, which needs its base", where=path, fix="Write it as BASE+ADAPTER")
    if any(path.glob("*.bin")) or any(path.glob("*.pt")) or any(path.glob("*.pth")):
        raise InputError(
            "holds only PyTorch pickles, which can run code when they are opened",
            where=path,
            fix="Convert it to safetensors first (transformers' save_pretrained does)",
        )
    raise InputError(
        f"no {SINGLE_FILE} and no {INDEX_FILE} here",
        where=path,
        fix="Name a model folder in Hugging Face's layout",
    )


def _shards(index: Path) -> list[str]:
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(shard, str) for shard in table.values()):
        raise InputError("not a map of tensors to files", where=f"{index}:weight_map", fix="Save the model again")
    shards = sorted(set(table.values()))
    for shard in shards:
        # A shard name comes from a file we did not write: it must not lead out of the folder.
        if Path(shard).name != shard:
            raise InputError(f"names a file outside the folder: {shard!r}", where=index, fix="Save the model again")
        if not (index.parent / shard).is_file():
            raise InputError("no such shard", where=index.parent / shard, fix=f"{index.name} names it: fetch it again")
    return shards


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: it cannot be read or is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", where=path, fix="Check the path") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"not valid JSON ({error})", where=path, fix="Fetch or write it again") from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path, fix="Check its permissions") from None
    if not isinstance(value, dict):
        raise InputError("not a JSON object", where=path, fix="Fetch or write it again")
    return value
