"""What transformers makes of a config: the tensors in memory, which are tied, the modules, and files' names for them.

Asked of the class itself, built without memory for its weights and without remote code by `meta_model`. The answer is
plain data, kept in the process and on the disk by the config's content and transformers' version, so that the second
question imports neither torch nor transformers. Everything that must know what a loader computes asks here; nothing is
told from the names of tensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.metadata import version
from typing import Any, Literal, TypeVar, get_args

from genepool import staging
from genepool.errors import InputError
from genepool.weights.fingerprint_cache import cache_folder
from genepool.weights.tensor_info import DTYPE_BYTES, TensorInfo

ModuleKind = Literal["linear", "transposed", "conv1d", "conv2d", "conv3d", "embedding", "norm", "other"]
MODULE_KINDS: tuple[ModuleKind, ...] = get_args(ModuleKind)
# Part of the entries' names: another form of the answer needs another entry.
_VERSION = 3
# Keys of a config that change neither names nor shapes nor ties.
_WITHOUT_EFFECT = frozenset({"_name_or_path", "transformers_version", "torch_dtype", "dtype", "auto_map"})
_Plain = dict[str, Any]
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Conversion:
    """Stored tensors that a loader turns into others: experts stacked, a fused matrix split, axes exchanged.

    Attributes:
        stored: names in the file.
        memory: names in memory.
        operations: transformers' operations in order, as it writes them ("MergeModulelist(dim=0)").
    """

    stored: tuple[str, ...]
    memory: tuple[str, ...]
    operations: tuple[str, ...]


@dataclass(frozen=True)
class Naming:
    """What the tensors of one file are in memory, as a loader of one architecture decides.

    Attributes:
        renamed: stored name -> name in memory, of tensors that are taken as they are.
        conversions: the others.
        unexpected: stored names that the loader has no use for.
        missing: names in memory that no stored tensor fills, neither by a tie; the loader draws them at random.
    """

    renamed: Mapping[str, str]
    conversions: tuple[Conversion, ...]
    unexpected: tuple[str, ...]
    missing: tuple[str, ...]

    @cached_property
    def _memory(self) -> dict[str, tuple[str, ...]]:
        found = {stored: (name,) for stored, name in self.renamed.items()}
        return found | {stored: one.memory for one in self.conversions for stored in one.stored}

    @cached_property
    def _stored(self) -> dict[str, tuple[str, ...]]:
        found = {name: (stored,) for stored, name in self.renamed.items()}
        return found | {name: one.stored for one in self.conversions for name in one.memory}

    def in_memory(self, stored: str) -> tuple[str, ...]:
        """The names in memory that a stored tensor goes into; empty when the loader has no use for it."""
        return self._memory.get(stored, ())

    def in_file(self, name: str) -> tuple[str, ...]:
        """The stored tensors that a name in memory is made of; empty when there are none (a tied or missing one)."""
        return self._stored.get(name, ())

    def conversion(self, name: str) -> Conversion | None:
        """The conversion a name, stored or in memory, takes part in."""
        return self._conversions.get(name)

    @cached_property
    def _conversions(self) -> dict[str, Conversion]:
        return {name: one for one in self.conversions for name in (*one.stored, *one.memory)}


@dataclass(frozen=True)
class Architecture:
    """One class of transformers at one config, seen from outside.

    Attributes:
        name: of the class.
        base_model_prefix: what names of the body begin with in a model that has a head.
        tensors: parameters and stored buffers by their names in memory, tied ones under all their names; floats are
            "F32", whatever a checkpoint stores them in.
        buffers: the names among them that are buffers.
        ties: name -> the name whose tensor it is, as the class and the config say. A loader ties two that are both
            stored only if they are equal.
        modules: every module by name -> its kind; the model itself, "", included.
        input_embeddings, output_embeddings: modules that read and write tokens; empty where there is none.
        settings: the config as it is read, with every default filled in and older keys in their newer form.
        config: the config it was built of.
    """

    name: str
    base_model_prefix: str
    tensors: Mapping[str, TensorInfo]
    buffers: frozenset[str]
    ties: Mapping[str, str]
    modules: Mapping[str, ModuleKind]
    input_embeddings: str
    output_embeddings: str
    settings: Mapping[str, Any]
    config: Mapping[str, Any]

    @cached_property
    def tied_groups(self) -> tuple[tuple[str, ...], ...]:
        """The names in memory of each tied tensor, the one that the others are tied to first."""
        members: dict[str, list[str]] = {}
        for name, source in self.ties.items():
            members.setdefault(source, [source]).append(name)
        return tuple(map(tuple, members.values()))

    @cached_property
    def _groups(self) -> dict[str, tuple[str, ...]]:
        return {name: group for group in self.tied_groups for name in group}

    def tied_with(self, name: str) -> tuple[str, ...]:
        """All names in memory of one tied tensor, the one that the others are tied to first; `(name,)` if it is not."""
        return self._groups.get(name, (name,))

    def naming(self, stored: Iterable[str]) -> Naming:
        """What the tensors of a file of these names are in memory.

        Args:
            stored: every name in the file, not some: a loader looks at all of them.
        """
        names = tuple(sorted(stored))
        return _naming(_text_of(self.config), names)


def architecture_of(config: Mapping[str, Any] | None) -> Architecture | None:
    """What transformers makes of a config; None when the config names no architecture that it can build.

    Args:
        config: the parsed config.json, from whomever: no code of its own is run, and too large a model not built.
    """
    answer = _answer(_text_of(config))
    return answer if isinstance(answer, Architecture) else None


def why_unknown(config: Mapping[str, Any] | None) -> str:
    """Why `architecture_of` gives None, in a clause; empty where it does not."""
    answer = _answer(_text_of(config))
    return answer if isinstance(answer, str) else ""


@lru_cache(maxsize=16)
def classes_in(*mappings: str) -> frozenset[str]:
    """The names of transformers' classes in some of its `MODEL_FOR_..._MAPPING_NAMES`.

    Args:
        mappings: what the dots stand for, such as SEQUENCE_CLASSIFICATION.
    """

    def compute() -> _Plain:
        from transformers.models.auto import modeling_auto

        tables = (getattr(modeling_auto, f"MODEL_FOR_{one}_MAPPING_NAMES", {}) for one in mappings)
        return {"classes": sorted({name for table in tables for name in table.values() if isinstance(name, str)})}

    return _remembered("mappings", ",".join(mappings), compute, lambda kept: frozenset(_texts(kept["classes"])))


def _text_of(config: Mapping[str, Any] | None) -> str:
    """A config's content in one form."""
    kept = {key: value for key, value in (config or {}).items() if key not in _WITHOUT_EFFECT}
    return json.dumps(kept, sort_keys=True, default=str)


@lru_cache(maxsize=256)
def _answer(text: str) -> Architecture | str:
    """The architecture of a config's text, or why there is none."""
    config = json.loads(text)
    named = config.get("architectures")
    if not isinstance(named, list) or not named or not isinstance(named[0], str):
        return "the config names no architecture"
    if not isinstance(config.get("model_type"), str):
        return "the config names no model_type"

    def compute() -> _Plain:
        from genepool.weights.meta_model import describe

        return describe(config, named[0])

    return _remembered("architecture", text, compute, lambda kept: _architecture(kept, config))


@lru_cache(maxsize=64)
def _naming(text: str, stored: tuple[str, ...]) -> Naming:
    config = json.loads(text)

    def compute() -> _Plain:
        from genepool.weights.meta_model import describe_names

        return describe_names(config, config["architectures"][0], stored)

    return _remembered("naming", "\x1f".join((text, *stored)), compute, _naming_of)


def _remembered(what: str, key: str, compute: Callable[[], _Plain], parsed: Callable[[_Plain], _Answer]) -> _Answer:
    """`parsed(compute())`, with the plain data from the disk where it is there; an entry that makes no sense is not."""
    digest = hashlib.sha256(f"{_VERSION}\x1f{version('transformers')}\x1f{what}\x1f{key}".encode()).hexdigest()
    entry = cache_folder() / "architectures" / digest
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return parsed(json.loads(entry.read_text(encoding="utf-8")))
    data = compute()
    # What a library lacks today may be installed tomorrow: such an answer is not kept.
    if not data.get("passing"):
        with contextlib.suppress(OSError, InputError):
            staging.write_text(entry, json.dumps(data, separators=(",", ":")))
    return parsed(data)


def _architecture(data: _Plain, config: _Plain) -> Architecture | str:
    if "unknown" in data:
        return _text(data["unknown"])
    tensors = {_text(name): _info(*entry) for name, entry in data["tensors"].items()}
    ties = {_text(name): _text(source) for name, source in data["ties"].items()}
    if not {*ties, *ties.values(), *data["buffers"]} <= set(tensors):
        raise ValueError("names that are not there")
    kinds = {name: MODULE_KINDS[place] for name, place in data["modules"].items()}
    return Architecture(
        _text(data["name"]),
        _text(data["base_model_prefix"]),
        tensors,
        frozenset(data["buffers"]),
        ties,
        kinds,
        _text(data["input_embeddings"]),
        _text(data["output_embeddings"]),
        dict(data["settings"]),
        config,
    )


def _naming_of(data: _Plain) -> Naming:
    conversions = tuple(Conversion(*(_texts(part) for part in one)) for one in data["conversions"])
    renamed = {_text(stored): _text(name) for stored, name in data["renamed"].items()}
    return Naming(renamed, conversions, _texts(data["unexpected"]), _texts(data["missing"]))


def _info(shape: Any, dtype: Any) -> TensorInfo:
    if dtype not in DTYPE_BYTES or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("not a tensor")
    return TensorInfo(tuple(shape), dtype)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(_text(value) for value in values)
