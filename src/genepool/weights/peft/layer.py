"""One module of a base that an adapter changes: what the adapter's file holds for it, and the base's own weight.

Kinds of adapters compute with weights as matrices `(out, in)`; convolutions have `in` for each channel and place of the
kernel. `Layer` turns the base's tensor into one, and a change of that shape back into the tensor's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from genepool.errors import InputError
from genepool.weights.formats import TensorFile
from genepool.weights.peft.experts import stores_inputs_first
from genepool.weights.peft.settings import AdapterSettings
from genepool.weights.tensor_info import TensorInfo, shape_text
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch

# linear: weights stored (out, in), convolutions (out, in, kernel). transposed: (in, out). embedding: (tokens, width).
Layout = Literal["linear", "transposed", "embedding"]


class Layer:
    """A module of the base with what the adapter holds for it.

    Args:
        module: its dotted name.
        parts: what the adapter calls a tensor of it ("lora_A.weight") -> the tensor's name in the file.
        shared: the same for tensors that all modules share.
        file: the adapter's file.
        settings: of the adapter.
        base: the model.
        layout: how the base stores the weight.
        siblings: every module that is adapted, where the arithmetic depends on the others.
        parameter: the name of the adapted tensor where it is no module's weight, but a parameter such as fused experts.
    """

    def __init__(
        self,
        module: str,
        parts: Mapping[str, str],
        shared: Mapping[str, str],
        file: TensorFile,
        settings: AdapterSettings,
        base: Weights,
        layout: Layout,
        siblings: Callable[[], Mapping[str, Layer]],
        parameter: str = "",
    ) -> None:
        self.module, self.parts, self.settings, self.layout, self.siblings = module, parts, settings, layout, siblings
        self._shared, self._file, self._base = shared, file, base
        self.parameter = parameter

    def __contains__(self, part: str) -> bool:
        return part in self.parts

    # ------------------------------------------------------------------ what the adapter holds

    def read(self, part: str) -> torch.Tensor:
        """A tensor of the adapter for this module, float32."""
        return self._read(self.parts, part)

    def read_stored(self, part: str) -> torch.Tensor:
        """The same in the type it is stored in."""
        return self._file.read(self._stored(self.parts, part))

    def indices(self, part: str) -> torch.Tensor:
        """A tensor of whole numbers, int64."""
        import torch

        return self._file.read(self._stored(self.parts, part)).to(torch.int64)

    def size(self, part: str) -> tuple[int, ...]:
        """Shape of a tensor of the adapter for this module."""
        return self._file.infos[self._stored(self.parts, part)].shape

    def has_shared(self, part: str) -> bool:
        """Whether the file holds a tensor for all modules."""
        return part in self._shared

    def shared(self, part: str) -> torch.Tensor:
        """A tensor of the adapter for all modules, float32."""
        return self._read(self._shared, part)

    def shared_indices(self, part: str) -> torch.Tensor:
        """The same of whole numbers, int64."""
        import torch

        return self._file.read(self._stored(self._shared, part)).to(torch.int64)

    def shared_size(self, part: str) -> tuple[int, ...]:
        """Shape of a tensor for all modules."""
        return self._file.infos[self._stored(self._shared, part)].shape

    def _read(self, parts: Mapping[str, str], part: str) -> torch.Tensor:
        import torch

        return self._file.read(self._stored(parts, part)).to(torch.float32)

    def _stored(self, parts: Mapping[str, str], part: str) -> str:
        if part not in parts:
            raise InputError(
                f"holds no {part} for {self.module}", where=self._file.path, fix="Save the adapter again with PEFT"
            )
        return parts[part]

    # ------------------------------------------------------------------ the base

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the base's weight as it is stored."""
        return self.info().shape

    @property
    def out_features(self) -> int:
        """Rows of the weight as a matrix."""
        return self.shape[0] if self.layout == "linear" else self.shape[-1]

    @property
    def in_features(self) -> int:
        """Columns of the weight as a matrix."""
        return math.prod(self.shape[1:]) if self.layout == "linear" else self.shape[0]

    @property
    def kernel(self) -> tuple[int, ...]:
        """Size of a convolution's kernel; empty for a matrix."""
        return self.shape[2:]

    def info(self, leaf: str = "weight") -> TensorInfo:
        """What is known of a tensor of the module."""
        return self._base.info(self.tensor(leaf))

    def tensor(self, leaf: str) -> str:
        """The base's name of a tensor of the module."""
        return self.parameter or f"{self.module}.{leaf}"

    def has_weight(self) -> bool:
        """Whether the base has such a module."""
        return self.tensor("weight") in self._base

    def has_bias(self) -> bool:
        """Whether the base's module has a bias."""
        return f"{self.module}.bias" in self._base

    def stored_weight(self) -> torch.Tensor:
        """The base's weight as it is stored, float32."""
        import torch

        return self._base.read(self.tensor("weight")).to(torch.float32)

    def weight(self) -> torch.Tensor:
        """The base's weight, `(out, in)` float32."""
        stored = self.stored_weight()
        return stored.reshape(self.out_features, -1) if self.layout == "linear" else stored.T

    def bias(self) -> torch.Tensor:
        """The base's bias, `(out,)` float32."""
        import torch

        return self._base.read(self.tensor("bias")).to(torch.float32)

    def as_stored(self, change: torch.Tensor) -> torch.Tensor:
        """A change of the weight, `(out, in)`, in the shape that the base stores it in."""
        return change.reshape(self.shape) if self.layout == "linear" else change.T

    def is_turned(self) -> bool:
        """Whether a parameter of experts is stored (experts, in, out), as its module says."""
        return stores_inputs_first(self._base.config, self.module)

    # ------------------------------------------------------------------ what is wrong

    def expect(self, part: str, expected: tuple[int, ...], found: tuple[int, ...] | None = None) -> None:
        """Refuses a tensor of another shape than the base's module needs."""
        found = self.size(part) if found is None else found
        if found != expected:
            raise InputError(
                f"got shape {shape_text(found)}, expected {shape_text(expected)} for {self.module} of the base, "
                f"whose weight is {shape_text(self.shape)}",
                where=f"{self._file.path}:{self.parts.get(part, self._shared.get(part, part))}",
                fix="The adapter was made for another model: name the base it was trained on",
            )

    def error(self, what: str, fix: str) -> InputError:
        """Why this module cannot be changed."""
        return InputError(what, where=f"{self._file.path}:{next(iter(self.parts.values()), self.module)}", fix=fix)
