"""`Kind`: how one kind of adapter changes the weight of a module, and what is done with each of its settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from genepool.weights.encodings.low_rank import Product
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import AdapterSettings, Setting

if TYPE_CHECKING:
    import torch


class Kind(ABC):
    """A kind of adapter.

    Class attributes:
        peft_type: PEFT's name of it.
        title: its name in words.
        source: where the kind is from. The arithmetic is that of PEFT's code.
        prefix: what the names of its tensors begin with, after the module's own name.
        parts: its tensors for one module, `*` standing for numbers.
        shared: its tensors for all modules, as far as the file holds them.
        settings: what is done with each setting.
        needs_base: whether the change depends on the base's weight.
        by_order: whether the change depends on the order of the adapted modules in the model.
        may_be_empty: those of its tensors that have no entries, or no axis, in some adapters.
        by_settings: whether `target_modules` tells which modules are adapted, and the file does not.
    """

    peft_type: ClassVar[str] = ""
    title: ClassVar[str]
    source: ClassVar[str]
    prefix: ClassVar[str]
    parts: ClassVar[tuple[str, ...]]
    shared: ClassVar[tuple[str, ...]] = ()
    settings: ClassVar[Mapping[str, Setting]]
    needs_base: ClassVar[bool] = False
    by_settings: ClassVar[bool] = False
    by_order: ClassVar[bool] = False
    may_be_empty: ClassVar[tuple[str, ...]] = ()

    def refuse(self, settings: AdapterSettings) -> None:
        """Refuses settings that cannot go together.

        Raises:
            InputError: they cannot.
        """
        return

    @abstractmethod
    def check(self, layer: Layer) -> None:
        """Holds the shapes of what the file has for a module against the base's.

        Raises:
            InputError: they do not fit, or the module cannot be changed.
        """

    def leaves(self, layer: Layer) -> tuple[str, ...]:
        """Which of a module's tensors change."""
        return ("weight",)

    @abstractmethod
    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        """What is added to a tensor of the base: `(out, in)` float32 for weight, `(out,)` for bias."""

    def product(self, layer: Layer) -> Product | None:
        """The change of the weight as `left @ right * factor`, where it is one: left `(out, r)`, right `(r, in)`."""
        return None

    def stored_features(self, layer: Layer) -> tuple[int, int] | None:
        """`(out, in)` of the module as the file tells it; None where it does not."""
        return None
