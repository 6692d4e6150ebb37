"""A head of classes for a base that has none: an encoder, or a model made for something else than telling classes.

What is trained on such a base carries its own head: a PEFT adapter among its `modules_to_save`, a skill as a change
from zeros. `BaseWithHead` is the base as transformers' class with the head loads it, the head empty, so that either is
a change of it like any other. transformers says which class has the head and which tensors the base lacks for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from genepool.checked import is_line
from genepool.errors import InputError, listed
from genepool.weights.architecture import Architecture, architecture_of, classes_in, why_unknown
from genepool.weights.tensor_info import TensorInfo, torch_dtype
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch

    from genepool.weights.formats import TensorFile

#: Names that a head tells apart, at most: the largest sets of classes have some 20,000.
MOST_CLASSES = 100_000
_LONGEST = 1000
# transformers' tables of classes, by what a model of them reads or does.
_WITH_CLASSES = {"text": "SEQUENCE_CLASSIFICATION", "image": "IMAGE_CLASSIFICATION"}
_OF_CLASSES = ("SEQUENCE_CLASSIFICATION", "TOKEN_CLASSIFICATION", "QUESTION_ANSWERING", "IMAGE_CLASSIFICATION")
_ASKED_OTHERWISE = ("CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", *_WITH_CLASSES.values())
# Of what a model with a head has in its body, the share that its base may lack: a pooler, no layers.
_LACKING = 0.25


@dataclass(frozen=True)
class ClassHead:
    """A head of classes.

    Attributes:
        architecture: transformers' class that has it, such as BertForSequenceClassification.
        classes: what it tells apart, in the order of its rows.
    """

    architecture: str
    classes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "classes": list(self.classes)}


def read_class_head(data: object, where: str | Path) -> ClassHead | None:
    """The head that a file says it carries; None where it says none.

    Raises:
        InputError: it is something else than a class of transformers and names.
    """
    if data is None or data == {}:
        return None
    classes = data.get("classes") if isinstance(data, dict) else None
    architecture = data.get("architecture") if isinstance(data, dict) else None
    if (
        not (isinstance(architecture, str) and architecture.isidentifier() and len(architecture) < _LONGEST)
        or not (isinstance(classes, list) and 2 <= len(classes) <= MOST_CLASSES)
        or not all(is_line(one, _LONGEST) and one for one in classes)
        or len(set(classes)) < len(classes)
    ):
        raise InputError("its head is not a class of transformers with label names", where=where, fix="Make it again")
    return ClassHead(architecture, tuple(classes))


def head_for(config: Mapping[str, Any] | None, reads: Literal["text", "image"]) -> str | None:
    """transformers' class with a head of classes for a model that cannot be asked as it is.

    Args:
        config: of the model.
        reads: what it is to be shown.

    Returns:
        None where the model writes or tells classes already, or transformers has no such class.
    """
    from transformers.models.auto import modeling_auto

    def known(what: str) -> Mapping[str, Any]:
        return dict(getattr(modeling_auto, f"MODEL_FOR_{what}_MAPPING_NAMES", {}))

    named = (config or {}).get("architectures")
    kind = (config or {}).get("model_type")
    if not isinstance(named, list) or not named or not isinstance(kind, str):
        return None
    for what in _ASKED_OTHERWISE:
        for classes in known(what).values():
            if named[0] == classes or (isinstance(classes, tuple | list) and named[0] in classes):
                return None
    found = known(_WITH_CLASSES[reads]).get(kind)
    return found if isinstance(found, str) else None


def class_head_of(config: Mapping[str, Any] | None) -> ClassHead | None:
    """The head of classes that a model has; None where its class has none, or is not known."""
    found = architecture_of(config)
    if found is None or found.name not in classes_in(*_OF_CLASSES):
        return None
    # A config of two classes without names does not list them.
    classes = class_names(found.settings)
    return ClassHead(found.name, classes) if classes else None


class BaseWithHead(Weights):
    """A base as transformers' class with a head names it. The head is zeros; what the class has no use for is left out.

    Args:
        base: the model without a head.
        head: the head.

    Attributes:
        base: the model without a head.
        head: the head.
        fresh: the tensors that the base lacks.
        modules: the modules that these make up, the outermost of each.

    Raises:
        InputError: transformers cannot build the class from this base.
    """

    def __init__(self, base: Weights, head: ClassHead) -> None:
        self.base, self.head, self.name = base, head, base.name
        self.folder, self.chat_template, self.control = base.folder, base.chat_template, base.control
        names = dict(enumerate(head.classes))
        left_out = {"problem_type", "num_labels"}
        self.config = {
            **{key: value for key, value in (base.config or {}).items() if key not in left_out},
            "architectures": [head.architecture],
            "id2label": {str(number): name for number, name in names.items()},
            "label2id": {name: number for number, name in names.items()},
        }
        built = architecture_of(self.config)
        if built is None:
            raise self._unfit(why_unknown(self.config))
        stored = (*base.names(), *base.aliases())
        naming = built.naming(stored)
        if naming.conversions:
            raise self._unfit(f"{naming.conversions[0].memory[0]} has another layout in memory")
        self._renamed = {memory: name for name, memory in naming.renamed.items()}
        self._stored = {memory: name for memory, name in self._renamed.items() if name in base.names()}
        self._aliases = {
            naming.renamed[alias]: naming.renamed[name]
            for alias, name in base.aliases().items()
            if alias in naming.renamed and name in naming.renamed
        }
        for alias, name in base.aliases().items():
            if alias in naming.renamed and name not in naming.renamed:
                self._stored.setdefault(naming.renamed[alias], alias)
        self.fresh = naming.missing
        self.modules = _outermost(self.fresh, built)
        self._check_body(built)
        floats = (info.dtype for name in base.names() if (info := base.info(name)).is_float)
        self._dtype = next(floats, "F32")
        self._infos = {name: TensorInfo(built.tensors[name].shape, self._dtype) for name in self.fresh}

    @property
    def tokenizer_folder(self) -> Path | None:
        return self.base.tokenizer_folder

    def names(self) -> tuple[str, ...]:
        return (*self._stored, *self.fresh)

    def aliases(self) -> Mapping[str, str]:
        return self._aliases

    def stored_names(self) -> tuple[str, ...]:
        held = set(self.base.stored_names())
        kept = (memory for memory, stored in self._renamed.items() if stored in held)
        return (*dict.fromkeys((*kept, *self._stored)), *self.fresh)

    def info(self, name: str) -> TensorInfo:
        name = self._aliases.get(name, name)
        return self._infos[name] if name in self._infos else self.base.info(self._stored[name])

    def read(self, name: str) -> torch.Tensor:
        import torch

        name = self._aliases.get(name, name)
        if name in self._infos:
            return torch.zeros(self._infos[name].shape, dtype=torch_dtype(self._dtype))
        return self.base.read(self._stored[name])

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        name = self._aliases.get(name, name)
        if name in self._infos:
            return super().read_rows(name, start, stop)
        return self.base.read_rows(self._stored[name], start, stop)

    def delta_rows(self, name: str, base: Weights, start: int, stop: int) -> torch.Tensor | None:
        inner = self._base_inside(base)
        if inner is None:
            return super().delta_rows(name, base, start, stop)
        own = self._stored.get(self._aliases.get(name, name))
        return None if own is None else self.base.delta_rows(own, inner, start, stop)

    def delta(self, name: str, base: Weights) -> torch.Tensor | None:
        inner = self._base_inside(base)
        if inner is None:
            return super().delta(name, base)
        own = self._stored.get(self._aliases.get(name, name))
        return None if own is None else self.base.delta(own, inner)

    def moves(self, name: str, base: Weights) -> bool:
        inner = self._base_inside(base)
        if inner is None:
            return super().moves(name, base)
        own = self._stored.get(self._aliases.get(name, name))
        return own is not None and self.base.moves(own, inner)

    def holds_change(self, base: Weights) -> bool:
        return self._base_inside(base) is not None

    def _base_inside(self, base: Weights) -> Weights | None:
        """What the model without the head is a change of, where both were given the same head."""
        if not isinstance(base, BaseWithHead) or base.head != self.head or base is self:
            return None
        return base.base if self.base.holds_change(base.base) else None

    def stored_in(self, name: str) -> tuple[TensorFile, str] | None:
        name = self._aliases.get(name, name)
        return None if name in self._infos else self.base.stored_in(self._stored[name])

    def fingerprint(self) -> str:
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        text = json.dumps([self.base.fingerprint(), self.head.to_dict()], ensure_ascii=False)
        return hashlib.sha256(f"head\x1f{text}".encode()).hexdigest()

    def _check_body(self, built: Architecture) -> None:
        """Refuses a base that lacks more of the body than what stands before a head, such as a pooler."""
        prefix = f"{built.base_model_prefix}."
        body = {name: info.numel for name, info in built.tensors.items() if name.startswith(prefix)}
        lacking = [name for name in self.fresh if name in body]
        if not body or not self._stored or sum(body[name] for name in lacking) > _LACKING * sum(body.values()):
            told = f"the base lacks {listed(lacking[:3])} and more" if lacking else "the base has none of its tensors"
            raise self._unfit(told)

    def _unfit(self, why: str) -> InputError:
        return InputError(
            f"cannot be loaded as {self.head.architecture} ({why})",
            where=self.base.name,
            fix="Name a base that transformers loads with such a head",
        )


def class_names(config: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The names of the classes in a config's `id2label`, by their numbers; none where it says none.

    In a file the numbers are text, and may stand in another order ("0", "1", "10", "2").
    """
    named = (config or {}).get("id2label")
    if not isinstance(named, dict):
        return ()
    try:
        return tuple(str(named[number]) for number in sorted(named, key=int))
    except ValueError:
        # Which row such a key means is for whoever reads the config to refuse.
        return tuple(map(str, named.values()))


def with_head(base: Weights, head: ClassHead | None) -> Weights:
    """The base with a head, where one is said and the base is not this model already."""
    if head is None:
        return base
    config = base.config or {}
    if (config.get("architectures") or [None])[0] != head.architecture:
        return BaseWithHead(base, head)
    known = class_names(config)
    if known != head.classes:
        raise InputError(
            f"its classes are {listed(known)}, and those of the change are {listed(head.classes)}",
            where=base.name,
            fix="Name the base it was trained on",
        )
    return base


def without_head(weights: Weights) -> Weights:
    """The model that was given a head; the model itself where it was given none."""
    return weights.base if isinstance(weights, BaseWithHead) else weights


def _outermost(fresh: tuple[str, ...], built: Architecture) -> tuple[str, ...]:
    """The outermost modules all of whose tensors are fresh."""
    held = set(built.tensors) - set(fresh)
    found: dict[str, None] = {}
    for name in fresh:
        parts = name.split(".")
        prefixes = (".".join(parts[:count]) for count in range(1, len(parts)))
        whole = next((one for one in prefixes if not any(other.startswith(f"{one}.") for other in held)), None)
        if whole is not None:
            found[whole] = None
    return tuple(found)
