"""What a learner keeps of the tasks it has learned: tensors, examples, and plain data; on the disk between two tasks.

`memory.safetensors` holds the tensors, `memory.json` the rest. An example is kept by its key and counts as many bytes
as its content has, since without the task's folder that content would have to be stored. Uses safetensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool import staging
from genepool.checked import is_text, is_whole, parsed_json
from genepool.errors import InputError, one_line

if TYPE_CHECKING:
    import torch

    from genepool.tasks import Example

TENSORS_FILE, FACTS_FILE = "memory.safetensors", "memory.json"


@dataclass(frozen=True)
class KeptExample:
    """An example that is kept.

    Attributes:
        task: its name.
        key: of the example.
        bytes: what its content takes.
    """

    task: str
    key: str
    bytes: int


@dataclass(frozen=True)
class Memory:
    """What is kept after some tasks.

    Attributes:
        tensors: by name.
        examples: of earlier tasks.
        facts: numbers and names, as plain data; they are not counted.
    """

    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    examples: tuple[KeptExample, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Of the tensors and of the content of the examples."""
        tensors = sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())
        return tensors + sum(one.bytes for one in self.examples)


def example_bytes(example: Example) -> int:
    """What the content of an example takes: its texts in UTF-8, and its image's file."""
    texts = [example.prompt, *example.answers, *example.choices, *example.rejected]
    texts += [text for _, text in example.messages]
    image = 0 if example.image is None else example.image.path.stat().st_size
    return image + sum(len(text.encode()) for text in texts)


def bytes_of(result: Path) -> int:
    """What the tensors of an adapter or a skill take on the disk."""
    files = [result] if result.is_file() else result.glob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def write_memory(folder: Path, memory: Memory) -> None:
    """Writes a memory into a task's folder, replacing what is there; the facts come last."""
    from safetensors.torch import save_file

    (folder / FACTS_FILE).unlink(missing_ok=True)
    if memory.tensors:
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in memory.tensors.items()}
        with staging.staged_path(folder / TENSORS_FILE, overwrite=True) as unfinished:
            save_file(tensors, unfinished)
    else:
        (folder / TENSORS_FILE).unlink(missing_ok=True)
    told = {
        "schema": 1,
        "bytes": memory.bytes,
        "tensors": len(memory.tensors),
        "examples": [[one.task, one.key, one.bytes] for one in memory.examples],
        "facts": dict(memory.facts),
    }
    staging.write_text(folder / FACTS_FILE, json.dumps(told, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def memory_digest(folder: Path) -> str:
    """SHA-256, hex, of the files of the memory in a task's folder."""
    total = hashlib.sha256()
    for path in (folder / FACTS_FILE, folder / TENSORS_FILE):
        if path.is_file():
            with path.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def read_memory(folder: Path, digest: str = "") -> Memory:
    """The memory that a finished task left.

    Args:
        folder: of the task.
        digest: what `memory_digest` gave when it was written; empty for any.

    Raises:
        InputError: it is missing, damaged or another one than was written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / FACTS_FILE
    fix = f"Remove {folder}: the task and those after it are learned again"
    if digest and memory_digest(folder) != digest:
        raise InputError("the memory cannot be used (it is not the one on record)", where=path, fix=fix)
    try:
        told = parsed_json(path.read_text(encoding="utf-8"))
        if not isinstance(told, dict) or told.get("schema") != 1 or not is_whole(told.get("tensors"), 0):
            raise ValueError("not what this version writes")
        examples = tuple(KeptExample(*one) for one in told["examples"])
        if not all(is_text(one.task) and is_text(one.key) and is_whole(one.bytes, 0) for one in examples):
            raise ValueError("an example of it is no example")
        facts = dict(told["facts"])
        tensors = load_file(folder / TENSORS_FILE) if told["tensors"] else {}
        if len(tensors) != told["tensors"]:
            raise ValueError(f"{len(tensors)} tensors, expected {told['tensors']}")
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise InputError(f"the memory cannot be used ({one_line(error)})", where=path, fix=fix) from None
    return Memory(tensors, examples, facts)
