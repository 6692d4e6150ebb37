"""`Scheme`: one way in which checkpoints are quantised. A file beside this one with a subclass is found there.

A scheme sorts the tensors of a checkpoint into packed ones and says what each stands for; `dequantised` presents them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from genepool.checked import is_whole
from genepool.errors import InputError
from genepool.weights.checkpoint import Checkpoint
from genepool.weights.schemes.packed_tensor import PackedTensor


class Scheme(ABC):
    """The packed tensors of one checkpoint.

    Args:
        stored: the checkpoint.
        settings: its `quantization_config`.

    Class attributes:
        title: what a user is told, such as "GPTQ".
        methods: the `quant_method`s that are this scheme.
        reads: what of it is read, for the reference page.
        library: the package that computes a network without dequantising it first, on a processor too; empty where
            there is none.
        oracle: what the values were compared with, and how far they differ, for the reference page.
        unused: ends of the names of tensors that only a quantiser's kernels use, such as scales of activations.
    """

    title: ClassVar[str]
    methods: ClassVar[frozenset[str]]
    reads: ClassVar[str]
    library: ClassVar[str] = ""
    oracle: ClassVar[str]
    unused: ClassVar[tuple[str, ...]] = ()

    def __init__(self, stored: Checkpoint, settings: Mapping[str, Any]) -> None:
        self.stored, self.settings = stored, settings

    @classmethod
    def holds(cls, settings: Mapping[str, Any]) -> bool:
        """Whether a `quantization_config` says that a checkpoint is quantised so."""
        return str(settings.get("quant_method")) in cls.methods

    def form(self) -> str:
        """What a user is told of this checkpoint: the title, and which of the scheme's forms it has."""
        return self.title

    def misread(self) -> str:
        """Why `library` computes with other values than the files hold, on a processor; empty when it does not."""
        return ""

    @abstractmethod
    def packed(self) -> Iterator[PackedTensor]:
        """Every packed tensor.

        Raises:
            InputError: a part of one is missing, or parts contradict each other.
        """

    def refused(self, what: str, key: str) -> InputError:
        """What to raise for a setting that is not read.

        Args:
            what: what is wrong, as a clause.
            key: of `quantization_config`.
        """
        return InputError(
            what,
            where=f"{self.stored.name}:config.json:quantization_config.{key}",
            fix="Name the unquantised checkpoint",
        )

    def whole(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number of the settings.

        Raises:
            InputError: it is none, or out of range.
        """
        value = self.settings.get(key, default)
        if not is_whole(value, low, high):
            raise self.refused(f"got {value!r}, expected a whole number from {low} to {high}", key)
        return int(value)

    def stems(self, end: str) -> Iterator[str]:
        """The names of the checkpoint that end so, without that end."""
        return (name.removesuffix(end) for name in self.names() if name.endswith(end))

    def names(self) -> Iterator[str]:
        """Every stored name."""
        return (name for file in self.stored.files for name in file.infos)
