"""`TensorFile`: what the rest of the house sees of a file of weights, whatever its format.

A format is one file beside this one with a subclass; `genepool.weights.formats` finds it there. Uses nothing but
`tensor_info`; `checkpoint`, `adapter`, `remote` and `hub` ask the subclasses what their files are called.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from genepool.weights.tensor_info import TensorInfo, tensor_bytes

if TYPE_CHECKING:
    import torch


class TensorFile(ABC):
    """A mapping of names to tensors in one file, read lazily.

    Attributes:
        title: what a file of this format is called in an error, after "a".
        suffixes: of its files, with the dot.
        magic: its first bytes; empty for a format that has none of its own. They decide before the suffix does.
        preference: where a folder holds several formats, the lowest is opened.
        model_file: the file of a whole model in a model folder; empty where the format has no such name.
        index_file: the table of its shards in a model folder; empty where there is none.
        adapter_file: the weights of a PEFT adapter; empty where PEFT writes no such file.
        hub_files: patterns of what is fetched of a model on the hub; empty for a format that is fetched by name alone.
        no_models: names that carry its suffix in a model folder and are no model.
        self_contained: whether config and tokenizer are in the file, so that what lies beside it does not count.
        runs_code: whether opening a stranger's file could run code, so that the user must ask for it.

        path: the file.
        infos: shape and type of every tensor, in the order in which they are best read.
        metadata: what else the file says.
        shared: names whose tensor is a second view of the same values -> the name that came first.

    Raises:
        InputError: the file is missing, damaged, or contradicts itself.
    """

    title: ClassVar[str]
    suffixes: ClassVar[frozenset[str]]
    magic: ClassVar[bytes] = b""
    preference: ClassVar[int]
    model_file: ClassVar[str] = ""
    index_file: ClassVar[str] = ""
    adapter_file: ClassVar[str] = ""
    hub_files: ClassVar[tuple[str, ...]] = ()
    no_models: ClassVar[frozenset[str]] = frozenset()
    self_contained: ClassVar[bool] = False
    runs_code: ClassVar[bool] = False

    path: Path
    infos: dict[str, TensorInfo]
    metadata: Mapping[str, Any]
    shared: Mapping[str, str]

    @abstractmethod
    def __init__(self, path: Path) -> None:
        """Opens the file; reads its header and no tensor."""

    @abstractmethod
    def read(self, name: str) -> torch.Tensor:
        """The tensor, in its stored type. Never write into it: it may be the file itself."""

    @abstractmethod
    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` of the tensor as a matrix, `(stop - start, columns)`. Never write into them."""

    def holds_bytes(self, name: str) -> bool:
        """Whether the file holds the tensor's bytes as they are, so that `read_bytes` spares all arithmetic."""
        return False

    def read_bytes(self, name: str, start: int, stop: int, into: memoryview) -> None:
        """Fills a buffer with the bytes of rows `start` to `stop`, in the type that `infos` says."""
        into[:] = tensor_bytes(self.read_rows(name, start, stop))

    def view_bytes(self, name: str) -> memoryview:
        """The tensor's bytes in row-major order: what is hashed and compared."""
        return tensor_bytes(self.read(name))

    def companions(self) -> dict[str, str]:
        """The files of a model folder that a self-contained file stands for, name -> text.

        Raises:
            InputError: what the file carries makes no sense.
        """
        return {}

    @classmethod
    def may_be_model(cls, name: str) -> bool:
        """Whether a file of this name in a model folder can be the model."""
        return Path(name).suffix in cls.suffixes and name not in cls.no_models
