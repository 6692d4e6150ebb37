"""What a population is made of: the tensors that operators work on, and how they become a model again.

Whole models are held as the tensors that founders move; adapters that fit together as their factors, so that a child
of eight adapters of a large base is as small as one of them. Operators see named float32 tensors either way.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from genepool.errors import InputError
from genepool.kernels.spectral import SingularTriplets, singular_triplets
from genepool.weights import BaseWithChange, Change, TensorInfo, Weights
from genepool.weights.encodings.low_rank import Product
from genepool.weights.peft.adapter import PeftAdapter
from genepool.weights.tensor_info import shape_text, torch_dtype

if TYPE_CHECKING:
    import torch

    Tensors = Mapping[str, torch.Tensor]


class FounderError(InputError):
    """A model that a population is made of cannot be used: no child's fault, and the end of the study."""


#: Bytes of singular vectors of experts that are remembered between births.
SPECTRA = 1 << 30


class Founders(ABC):
    """The founders of a population in one form.

    Args:
        base: the model they were fine-tuned from.
        founders: the fine-tuned models by name.
        dtype: safetensors name of the type models are held in; as the base's tensors when None.

    Attributes:
        infos: the tensors that operators work on, in the order of the flat vector, as children hold them.
    """

    infos: Mapping[str, TensorInfo]
    # Fingerprints of children begin with this. It never changes, so that outcomes on record stay theirs.
    _digest_prefix: ClassVar[str]

    def __init__(self, base: Weights, founders: Mapping[str, Weights], dtype: str | None) -> None:
        self.base, self.models, self.dtype = base, dict(founders), dtype
        self._spectra: dict[tuple[str, str], SingularTriplets] = {}
        self._remembered = 0

    @property
    def nbytes(self) -> int:
        """Bytes of one child."""
        return sum(info.nbytes for info in self.infos.values())

    def founder(self, name: str, tensor: str) -> torch.Tensor:
        """A founder's tensor, float32.

        Raises:
            FounderError: it holds NaN or infinity.
        """
        from genepool.kernels.reading import is_finite

        found = self._founder(name, tensor)
        if not is_finite(found):
            raise FounderError(
                "holds NaN or infinity",
                where=f"{self.models[name].name}:{tensor}",
                fix="Its training diverged or the file is damaged: leave this model out",
            )
        return found

    @abstractmethod
    def _founder(self, name: str, tensor: str) -> torch.Tensor:
        """A founder's tensor as it is, float32."""

    @abstractmethod
    def origin(self, tensor: str) -> torch.Tensor | None:
        """Where the changes of a tensor start from, float32; None for zero."""

    @abstractmethod
    def express(self, tensors: Tensors, label: str, fingerprint: str) -> Weights:
        """The model that a child's tensors make."""

    @abstractmethod
    def moving(self) -> tuple[str, ...]:
        """Names of the model's tensors that are made of the population's."""

    @abstractmethod
    def pull_back(self, target: str, gradient: torch.Tensor, tensors: Tensors) -> dict[str, torch.Tensor]:
        """Gradients of a child's tensors from the gradient of the model's tensor that is made of them."""

    def spectrum(self, founder: str, tensor: str) -> SingularTriplets:
        """Singular vectors and values of a founder's change of a matrix."""
        known = self._spectra.get((founder, tensor))
        if known is None:
            change, origin = self.founder(founder, tensor), self.origin(tensor)
            change = change if origin is None else change - origin
            matrix = change.reshape(self.infos[tensor].matrix)
            known = singular_triplets(matrix, min(matrix.shape))
            # Every child asks for all matrices in turn. Whoever forgot the oldest to make room would find nothing.
            size = sum(part.nbytes for part in known)
            if self._remembered + size <= SPECTRA:
                self._spectra[founder, tensor] = known
                self._remembered += size
        return known

    def fingerprint(self) -> str:
        """SHA-256, hex, of what the founders are and how they are held."""
        parts = [self._digest_prefix, self.dtype or "", self.base.fingerprint()]
        parts += [f"{name}={weights.fingerprint()}" for name, weights in self.models.items()]
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


class FounderModels(Founders):
    """Whole models: the float tensors that some founder moves; all others are the base's.

    Where no founder moves anything (there is none, or the base is the only one), all float tensors.

    Args:
        base, founders, dtype: as for `Founders`.
        held: safetensors name of the type that children are held in; as models are when None.
    """

    _digest_prefix = "ModelStock"

    def __init__(
        self, base: Weights, founders: Mapping[str, Weights], dtype: str | None = None, held: str | None = None
    ) -> None:
        super().__init__(base, founders, dtype)
        for name, weights in self.models.items():
            check_alike(base, name, weights)
        self._held = held
        wanted = held or dtype
        floats = [name for name in base.names() if base.info(name).is_float]
        moved = [name for name in floats if any(w.moves(name, base) for w in self.models.values())]
        self.infos = {
            name: base.info(name) if wanted is None else base.info(name).with_dtype(wanted) for name in moved or floats
        }

    def fingerprint(self) -> str:
        known = super().fingerprint()
        return known if self._held is None else hashlib.sha256(f"{known}\x1f{self._held}".encode()).hexdigest()

    def _founder(self, name: str, tensor: str) -> torch.Tensor:
        import torch

        return self.models[name].read(tensor).to(torch.float32)

    def origin(self, tensor: str) -> torch.Tensor:
        import torch

        return self.base.read(tensor).to(torch.float32)

    def express(self, tensors: Tensors, label: str, fingerprint: str) -> Weights:
        return _Child(self.base, tensors, label, fingerprint, self.dtype)

    def moving(self) -> tuple[str, ...]:
        return tuple(self.infos)

    def pull_back(self, target: str, gradient: torch.Tensor, tensors: Tensors) -> dict[str, torch.Tensor]:
        return {target: gradient}


class FounderAdapters(Founders):
    """LoRA adapters of one base that change the same tensors.

    They are held as their factors, with the scales multiplied into B. A change that is no product (trained norms and
    biases, DoRA) is held whole.
    """

    _digest_prefix = "AdapterStock"

    def __init__(self, base: Weights, founders: Mapping[str, Weights], dtype: str | None = None) -> None:
        super().__init__(base, founders, dtype)
        self._adapters: dict[str, PeftAdapter] = {}
        for name, weights in self.models.items():
            adapter = _adapter(weights)
            assert adapter is not None
            self._adapters[name] = adapter
            self.infos = _held(adapter)

    @staticmethod
    def fits(founders: Mapping[str, Weights]) -> bool:
        """Whether all founders are adapters with factors, of the same shapes for the same tensors."""
        held = [_held(found) for weights in founders.values() if (found := _adapter(weights)) is not None]
        factors = [name for name in held[0] if name.endswith(":A")] if held else []
        return bool(factors) and len(held) == len(founders) and all(one == held[0] for one in held)

    def _founder(self, name: str, tensor: str) -> torch.Tensor:
        import torch

        target, _, side = tensor.rpartition(":")
        if side == "W":
            return self._adapters[name].whole(target).reshape(self.base.info(target).shape)
        found = self._adapters[name].factors(target)
        assert found is not None
        left, right, scale = found
        return right.to(torch.float32) if side == "A" else left.to(torch.float32) * scale

    def origin(self, tensor: str) -> torch.Tensor | None:
        return None

    def express(self, tensors: Tensors, label: str, fingerprint: str) -> Weights:
        child = _BredFactors(self.base, tensors, label)
        return BaseWithChange(self.base, child, dtype=self.dtype, fingerprint=fingerprint)

    def moving(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name.rpartition(":")[0] for name in self.infos))

    def pull_back(self, target: str, gradient: torch.Tensor, tensors: Tensors) -> dict[str, torch.Tensor]:
        if f"{target}:W" in self.infos:
            return {f"{target}:W": gradient}
        left, right = tensors[f"{target}:B"].detach(), tensors[f"{target}:A"].detach()
        slope = gradient.reshape(left.shape[0], right.shape[1])
        return {f"{target}:B": slope @ right.T, f"{target}:A": left.T @ slope}


def _adapter(weights: Weights) -> PeftAdapter | None:
    """The adapter of a base with one; None for any other model."""
    change = weights.change if isinstance(weights, BaseWithChange) else None
    return change if isinstance(change, PeftAdapter) else None


def _held(adapter: PeftAdapter) -> dict[str, TensorInfo]:
    """What an adapter holds: "tensor:B" and "tensor:A" for a product, "tensor:W" for another change."""
    infos: dict[str, TensorInfo] = {}
    for tensor in adapter.names():
        found = adapter.factors(tensor)
        if found is None:
            infos[f"{tensor}:W"] = TensorInfo(adapter.shape(tensor), "F32")
        else:
            infos[f"{tensor}:B"] = TensorInfo(tuple(found.left.shape), "F32")
            infos[f"{tensor}:A"] = TensorInfo(tuple(found.right.shape), "F32")
    return infos


def check_alike(base: Weights, name: str, weights: Weights) -> None:
    """Refuses a model that is not of the base's architecture."""
    for tensor in sorted(set(base.names()) ^ set(weights.names())):
        raise InputError(
            f"{name} {'lacks' if tensor in base else 'has'} the tensor {tensor}, unlike the base {base.name}",
            where=weights.name,
            fix="Breed fine-tunes of one base",
        )
    for tensor in base.names():
        mine, theirs = weights.info(tensor).shape, base.info(tensor).shape
        if mine != theirs:
            raise InputError(
                f"{tensor} of {name} has shape {shape_text(mine)}, expected {shape_text(theirs)} as in the base",
                where=weights.name,
                fix="Breed fine-tunes of one base",
            )


class _Child(Weights):
    """A base with some tensors in place of its own."""

    def __init__(self, base: Weights, tensors: Tensors, label: str, fingerprint: str, dtype: str | None) -> None:
        self._base, self._own, self.name = base, tensors, label
        self.folder, self.config, self.chat_template = base.folder, base.config, base.chat_template
        self._fingerprint, self._dtype = fingerprint, dtype

    @property
    def tokenizer_folder(self) -> Path | None:
        return self._base.tokenizer_folder

    def names(self) -> tuple[str, ...]:
        return self._base.names()

    def aliases(self) -> Mapping[str, str]:
        return self._base.aliases()

    def info(self, name: str) -> TensorInfo:
        info = self._base.info(name)
        return info if self._dtype is None or not info.is_float else info.with_dtype(self._dtype)

    def read(self, name: str) -> torch.Tensor:
        own = self._own.get(self.aliases().get(name, name))
        return (self._base.read(name) if own is None else own).to(torch_dtype(self.info(name).dtype))

    def fingerprint(self) -> str:
        return self._fingerprint


class _BredFactors(Change):
    """The products of a child's factors, and its other changes."""

    base: Weights

    def __init__(self, base: Weights, factors: Tensors, label: str) -> None:
        self.base, self.name, self._factors = base, label, factors
        changed = {name.rpartition(":")[0] for name in factors}
        self._names = tuple(name for name in base.names() if name in changed)

    def names(self) -> tuple[str, ...]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        return self.base.info(name).shape

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        whole = self._factors.get(f"{name}:W")
        if whole is not None:
            return whole.reshape(self.matrix(name))[start:stop]
        return self._factors[f"{name}:B"][start:stop] @ self._factors[f"{name}:A"]

    def factors(self, name: str) -> Product | None:
        whole = f"{name}:W" in self._factors
        return None if whole else Product(self._factors[f"{name}:B"], self._factors[f"{name}:A"])
