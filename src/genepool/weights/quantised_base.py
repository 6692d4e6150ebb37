"""A quantised checkpoint as what it stands for: the tensors of its architecture, so that an adapter can be put on it.

Only names and shapes are told. The values are packed for the quantiser's own kernels; a model is computed by these, in
the network that transformers builds, and never tensor by tensor.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.weights.architecture import architecture_of, why_unknown
from genepool.weights.quantised import quantised_by
from genepool.weights.tensor_info import TensorInfo
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch


class QuantisedBase(Weights):
    """The tensors that a quantised checkpoint stands for.

    Args:
        base: the checkpoint.

    Attributes:
        base: the checkpoint.

    Raises:
        InputError: transformers knows no architecture of its config.
    """

    def __init__(self, base: Weights) -> None:
        self.base, self.name, self.config = base, base.name, base.config
        self.folder, self.chat_template, self.control = base.folder, base.chat_template, base.control
        built = architecture_of(base.config)
        if built is None:
            raise InputError(
                f"a quantised model whose layers are not known ({why_unknown(base.config)})",
                where=base.name,
                fix="Name the unquantised checkpoint",
            )
        self._infos = {n: one for n, one in built.tensors.items() if n not in built.ties and n not in built.buffers}
        self._ties = {name: source for name, source in built.ties.items() if source in self._infos}

    @property
    def tokenizer_folder(self) -> Path | None:
        return self.base.tokenizer_folder

    def names(self) -> tuple[str, ...]:
        return tuple(self._infos)

    def aliases(self) -> dict[str, str]:
        return self._ties

    def info(self, name: str) -> TensorInfo:
        return self._infos[self._ties.get(name, name)]

    def read(self, name: str) -> torch.Tensor:
        raise InputError(
            f"{name} is packed by {quantised_by(self.base)}, and nothing is computed on packed weights",
            where=self.name,
            fix="Name the unquantised checkpoint as the base",
        )

    def fingerprint(self) -> str:
        return self.base.fingerprint()


def unpacked(base: Weights) -> Weights:
    """A model to put an adapter on: what a quantised checkpoint stands for, any other as it is."""
    return QuantisedBase(base) if quantised_by(base) and not isinstance(base, QuantisedBase) else base
