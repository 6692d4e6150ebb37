"""A model, and a change, under the names and in the layout of another file: `Weights` and `Change` made of views.

Nothing is read before it is asked for, and no more than is asked for. Tensors that only have another name are read
from the file as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.weights.change import Change
from genepool.weights.encodings import Encoding, Entry
from genepool.weights.encodings.encoding import Recent
from genepool.weights.encodings.low_rank import Product
from genepool.weights.header import Header
from genepool.weights.naming.views import Cut, Leaf, Permuted, View
from genepool.weights.tensor_info import TensorInfo, torch_dtype, widest_dtype
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch

    from genepool.weights.formats import TensorFile

# Stored tensors, or experts of one, that are kept while rows that lie across them are read.
_KEPT = 4


@dataclass(frozen=True)
class Renaming:
    """What one model's tensors are called in the layout of another.

    Attributes:
        tensors: how many have another name there.
        converted: how many of them are made of several, or of parts.
        example: one of them: its name in its own file, and in the other layout.
    """

    tensors: int
    converted: int
    example: tuple[str, str]

    @classmethod
    def of(cls, views: Mapping[str, View]) -> Renaming | None:
        """What is called otherwise in some views; None when nothing is."""
        other = {name: view for name, view in views.items() if not (isinstance(view, Leaf) and view.name == name)}
        if not other:
            return None
        # One that is made of several says more than one that only has another name.
        name, view = next(((n, v) for n, v in other.items() if not isinstance(v, Leaf)), next(iter(other.items())))
        converted = sum(not isinstance(view, Leaf) for view in other.values())
        return cls(len(other), converted, (next(view.leaves()).name, name))

    def text(self, quote: str = "") -> str:
        """In words, names between quotes."""
        stored, name = (f"{quote}{one}{quote}" for one in self.example)
        if not self.converted:
            return f"{self.tensors:,} have another name ({name} is {stored} there)"
        return f"{self.tensors:,} have another name or shape ({name} is made of {stored} there)"

    def to_dict(self) -> dict[str, Any]:
        """For `genepool plan --json`."""
        return {"tensors": self.tensors, "converted": self.converted, "example": list(self.example)}


class Renamed(Weights):
    """A model in another layout.

    Args:
        inner: the model.
        views: name in the other layout -> what it is made of in the model.
        ties: second names in the other layout that the model does not store -> the name that holds the values.

    Attributes:
        renaming: what is called otherwise; None when nothing is.
    """

    def __init__(self, inner: Weights, views: Mapping[str, View], ties: Mapping[str, str] | None = None) -> None:
        self.inner, self.views = inner, views
        self.name, self.folder, self.config = inner.name, inner.folder, inner.config
        self.chat_template, self.control = inner.chat_template, inner.control
        self._aliases = {**(ties or {}), **_renamed_aliases(inner, views)}
        self._recent = Recent(_KEPT)

    @property
    def tokenizer_folder(self) -> Path | None:
        return self.inner.tokenizer_folder

    @cached_property
    def renaming(self) -> Renaming | None:
        return Renaming.of({name: self.views[name] for name in self.names()})

    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self.views if name not in self._aliases)

    def aliases(self) -> Mapping[str, str]:
        return self._aliases

    def __contains__(self, name: object) -> bool:
        return name in self.views

    def info(self, name: str) -> TensorInfo:
        view = self.views[name]
        if isinstance(view, Leaf):
            return self.inner.info(view.name)
        return TensorInfo(view.shape, widest_dtype([self.inner.info(leaf.name).dtype for leaf in view.leaves()]))

    def read(self, name: str) -> torch.Tensor:
        view = self.views[name]
        if isinstance(view, Leaf):
            return self.inner.read(view.name)
        return view.read(view.full, self._rows_of(view)).to(torch_dtype(self.info(name).dtype))

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        view = self.views[name]
        if isinstance(view, Leaf):
            return self.inner.read_rows(view.name, start, stop)
        return view.read_rows(start, stop, self._rows_of(view)).to(torch_dtype(self.info(name).dtype))

    def stored_in(self, name: str) -> tuple[TensorFile, str] | None:
        view = self.views[name]
        return self.inner.stored_in(view.name) if isinstance(view, Leaf) else None

    def fingerprint(self) -> str:
        """The model's own: under other names it is the same model."""
        return self.inner.fingerprint()

    def _rows_of(self, view: View) -> Any:
        if not view.is_scattered:
            return self.inner.read_rows
        # The next rows lie in the same stored ones.
        return lambda name, start, stop: self._recent.get(
            (name, start, stop), lambda: self.inner.read_rows(name, start, stop)
        )


class RenamedChange(Change):
    """A change in another layout than it was made in.

    Args:
        inner: the change.
        base: the model it changes, in the other layout.
        views: name in the other layout -> what its change is made of in `inner`; what lacks there is zero.

    Attributes:
        renaming: what the change calls otherwise; None when nothing.
    """

    base: Weights

    def __init__(self, inner: Change, base: Weights, views: Mapping[str, View]) -> None:
        self.inner, self.base, self.name, self.path = inner, base, inner.name, inner.path
        self.kind = inner.kind  # type: ignore[misc]
        self.control = inner.control
        self._views = {name: views[name] for name in base.names() if name in views}
        for alias, name in base.aliases().items():
            if alias in views and name not in self._views:
                self._views[name] = views[alias]

    @cached_property
    def renaming(self) -> Renaming | None:
        return Renaming.of(self._views)

    @cached_property
    def header(self) -> Header:
        return replace(self.inner.header, base_fingerprint=self.base.fingerprint(), base_name=self.base.name)

    def names(self) -> tuple[str, ...]:
        return tuple(self._views)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._views[name].shape

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self._views[name].read_rows(start, stop, self.inner.rows)

    def whole_and_rounding(self, name: str) -> tuple[torch.Tensor, float]:
        view = self._views[name]
        return self.inner.whole_and_rounding(view.name) if isinstance(view, Leaf) else super().whole_and_rounding(name)

    def moves(self, name: str) -> bool:
        return any(self.inner.moves(leaf.name) for leaf in self._views[name].leaves())

    def working_bytes(self, name: str) -> int:
        return max(self.inner.working_bytes(leaf.name) for leaf in self._views[name].leaves())

    def factors(self, name: str) -> Product | None:
        """A product that only has another name, or is turned, or of which rows or columns are taken, is still one."""
        return self._factors(self._views[name])

    def _factors(self, view: View) -> Product | None:
        if isinstance(view, Leaf):
            return self.inner.factors(view.name)
        if len(view.shape) != 2 or not isinstance(view, Permuted | Cut):
            return None
        found = self._factors(view.inner)
        if found is None:
            return None
        if isinstance(view, Permuted):
            return Product(found.right.T, found.left.T, found.factor)
        rows, columns = view.box
        return Product(found.left[slice(*rows)], found.right[:, slice(*columns)], found.factor)

    def stored(self, name: str) -> tuple[Encoding, Entry] | None:
        view = self._views[name]
        return self.inner.stored(view.name) if isinstance(view, Leaf) else super().stored(name)

    def identity(self) -> dict[str, Any]:
        return self.inner.identity()

    def digest(self) -> str | None:
        return self.inner.digest()


def _renamed_aliases(inner: Weights, views: Mapping[str, View]) -> dict[str, str]:
    """Second names of tied tensors, in the other layout."""
    called = {view.name: name for name, view in views.items() if isinstance(view, Leaf)}
    aliases = inner.aliases()
    return {called[alias]: called[stored] for alias, stored in aliases.items() if alias in called and stored in called}
