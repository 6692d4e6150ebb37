"""A PEFT LoRA adapter as a `Change` of its base: `scale * B @ A` where the adapter says.

The product is formed tensor by tensor when it is read, exactly, in float32. Handles rank and alpha patterns, rsLoRA,
fan-in/fan-out layers, embeddings, DoRA magnitudes, trained biases and `modules_to_save`.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.weights import fingerprint_cache
from genepool.weights.change import Change, fingerprint_of
from genepool.weights.checkpoint import read_json
from genepool.weights.encodings.low_rank import Product
from genepool.weights.formats import open_adapter
from genepool.weights.peft.folder import CONFIG_FILE, PREFIX
from genepool.weights.tensor_info import shape_text
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch

_FACTORS = {
    "lora_A.weight": "a", "lora_B.weight": "b", "lora_embedding_A": "a", "lora_embedding_B": "b",
    "lora_magnitude_vector": "magnitude", "lora_magnitude_vector.weight": "magnitude", "lora_B.bias": "bias",
}  # fmt: skip


@dataclass(slots=True)
class _Held:
    """What the adapter holds for one tensor of the base: names of factors, or of a replacement."""

    factors: dict[str, str] = field(default_factory=dict)
    replacement: str = ""
    embedding: bool = False


class LoraAdapter(Change):
    """What a PEFT LoRA adapter adds to its base.

    Args:
        path: the adapter's folder.
        base: the model the adapter was trained on.
        name: what the user calls it.
        allow_pickle: take `adapter_model.bin` where there is no safetensors file.

    Raises:
        InputError: not a LoRA adapter, a damaged one, or one made for tensors the base does not have.
    """

    kind = "lora"
    base: Weights
    path: Path

    def __init__(self, path: str | Path, base: Weights, name: str | None = None, *, allow_pickle: bool = False) -> None:
        self.path, self.base, self.name = Path(path), base, name or str(path)
        self._settings = read_json(self.path / CONFIG_FILE)
        kind = self._settings.get("peft_type")
        if kind != "LORA":
            raise InputError(
                f"adapters of type {kind} are not supported",
                where=self.path / CONFIG_FILE,
                fix="Use a LoRA adapter",
            )
        self._file = open_adapter(self.path, allow_pickle)
        self._held = self._collect()

    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self.base.names() if name in self._held)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.base.info(name).shape

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        held = self._held[name]
        if set(held.factors) == {"a", "b"} and not held.replacement:
            return self._product(held, name, slice(start, stop))
        # What needs the whole tensor (a norm over it, a replacement) is small or rare.
        return self._changed(held, name).reshape(self.matrix(name))[start:stop]

    def factors(self, name: str) -> Product | None:
        """A change that is a product, as it is stored; None for replaced tensors, trained biases and DoRA."""
        held = self._held[name]
        if set(held.factors) != {"a", "b"} or (held.replacement and not self._repeats_base(held, name)):
            return None
        a, b = (self._file.read(held.factors[key]) for key in ("a", "b"))
        left, right = (a.T, b.T) if self._is_transposed(held, name) else (b, a)
        return Product(left, right, self._scaling(held, name))

    def identity(self) -> dict[str, Any]:
        fingerprint = fingerprint_of(self.kind, self.base, self.digest())
        return {"models": [{"name": str(self.path), "fingerprint": fingerprint}]}

    def digest(self) -> str:
        return fingerprint_cache.cached([self._file.path, self.path / CONFIG_FILE], self._hash)

    def _repeats_base(self, held: _Held, name: str) -> bool:
        """Whether the embedding that was saved beside its factors is the base's own."""
        own, base = self._file.read(held.replacement), self.base.read(name)
        return own.dtype == base.dtype and own.equal(base)

    def _hash(self) -> str:
        total = hashlib.sha256(repr(sorted(self._scaling_settings().items())).encode())
        for name in sorted(self._file.infos):
            total.update(f"\x1e{name}\x1f{self._file.infos[name]}\x1f".encode())
            total.update(self._file.view_bytes(name))
        return total.hexdigest()

    def _scaling_settings(self) -> dict[str, Any]:
        keys = (
            "r",
            "lora_alpha",
            "use_rslora",
            "use_dora",
            "rank_pattern",
            "alpha_pattern",
            "fan_in_fan_out",
        )
        return {key: self._settings.get(key) for key in keys}

    # ------------------------------------------------------------------ reading PEFT's names

    def _collect(self) -> dict[str, _Held]:
        found: dict[str, _Held] = {}
        for stored in self._file.infos:
            module, factor = self._split(stored)
            if factor in _FACTORS:
                target = f"{module}.bias" if factor == "lora_B.bias" else f"{module}.weight"
                held = found.setdefault(self._canonical(target, stored), _Held())
                held.factors[_FACTORS[factor]] = stored
                held.embedding |= factor.startswith("lora_embedding")
            else:
                target = f"{module}.{factor}" if factor else module
                found.setdefault(self._canonical(target, stored), _Held()).replacement = stored
        for name, held in found.items():
            self._check(name, held)
        return found

    def _split(self, stored: str) -> tuple[str, str]:
        name = stored.removeprefix(PREFIX)
        for factor in sorted(_FACTORS, key=len, reverse=True):
            if name.endswith("." + factor):
                return name[: -len(factor) - 1], factor
        if "lora_" in name or "trainable_tokens" in name:
            raise InputError(
                "a kind of adapter tensor genepool does not know",
                where=f"{self._file.path}:{stored}",
                fix="Merge the adapter with PEFT first and give the merged checkpoint",
            )
        module, _, leaf = name.replace(".modules_to_save.default", "").replace(".modules_to_save", "").rpartition(".")
        return module.replace(".base_layer", ""), leaf

    def _canonical(self, target: str, stored: str) -> str:
        name = self.base.aliases().get(target, target)
        if name not in self.base:
            raise InputError(
                f"changes {target}, which the base {self.base.name} does not have",
                where=f"{self._file.path}:{stored}",
                fix="The adapter was made for another model: name the base it was trained on",
            )
        return name

    def _check(self, name: str, held: _Held) -> None:
        expected = self.base.info(name).shape
        if held.replacement and (found := self._file.infos[held.replacement].shape) != expected:
            raise self._wrong_shape(held.replacement, found, name, expected)
        if not held.factors or set(held.factors) == {"bias"}:
            return
        missing = {"a", "b"} - set(held.factors)
        if missing:
            raise InputError(
                f"factor {missing.pop().upper()} of {name} is missing",
                where=self._file.path,
                fix="Save it again",
            )
        a, b = (self._file.infos[held.factors[key]].shape for key in ("a", "b"))
        if len(a) != 2 or len(b) != 2:
            raise InputError(
                f"factors of {name} are not matrices ({shape_text(a)}, {shape_text(b)})",
                where=self._file.path,
                fix="Merge the adapter with PEFT first: only linear and embedding layers are supported",
            )
        product = (a[1], b[0]) if self._is_transposed(held, name) else (b[0], a[1])
        if a[0] != b[1] or product != expected:
            raise self._wrong_shape(held.factors["b"], product, name, expected)

    def _wrong_shape(self, stored: str, found: tuple[int, ...], name: str, expected: tuple[int, ...]) -> InputError:
        return InputError(
            f"has shape {shape_text(found)} where {name} of the base has {shape_text(expected)}",
            where=f"{self._file.path}:{stored}",
            fix="The adapter was made for another model: name the base it was trained on",
        )

    # ------------------------------------------------------------------ arithmetic

    def _is_transposed(self, held: _Held, name: str) -> bool:
        """Whether the base stores the tensor as the transpose of B @ A: embeddings, and fan-in/fan-out layers."""
        if held.embedding or not self._settings.get("fan_in_fan_out"):
            return held.embedding
        a, b = (self._file.infos[held.factors[key]].shape for key in ("a", "b"))
        # PEFT ignores the setting for ordinary linear layers, such as the head beside GPT-2's transposed ones.
        return (b[0], a[1]) != self.base.info(name).shape or b[0] == a[1]

    def _scaling(self, held: _Held, name: str) -> float:
        rank = self._file.infos[held.factors["a"]].shape[0]
        module = name.rpartition(".")[0]
        alpha = _by_pattern(self._settings.get("alpha_pattern"), module, self._settings.get("lora_alpha", rank))
        return float(alpha) / (math.sqrt(rank) if self._settings.get("use_rslora") else rank)

    def _changed(self, held: _Held, name: str) -> torch.Tensor:
        """The change of a tensor that is more than a product, of the tensor's shape."""
        import torch

        def factor(key: str) -> torch.Tensor:
            return self._file.read(held.factors[key]).to(torch.float32)

        base = self.base.read(name).to(torch.float32)
        # Embedding adapters carry the embedding they were trained on, so both can be there for one tensor.
        start = self._file.read(held.replacement).to(torch.float32) if held.replacement else base
        if not held.factors:
            return start - base
        if "a" not in held.factors:
            weight = self._held[name.removesuffix(".bias") + ".weight"]
            return start - base + self._scaling(weight, name) * factor("bias")
        product = self._product(held, name, slice(None))
        if "magnitude" not in held.factors:
            return start - base + product
        # DoRA (arXiv:2402.09353, eq. 5): the direction of each output feature is trained apart from its length.
        side = 0 if self._is_transposed(held, name) else 1
        direction = start + product
        length = factor("magnitude").unsqueeze(side) / direction.norm(dim=side, keepdim=True)
        moved: torch.Tensor = direction * length - base
        return moved

    def _product(self, held: _Held, name: str, rows: slice) -> torch.Tensor:
        """Rows of `scale * B @ A` as the base stores them; whole rows only, so the product is never formed in full."""
        import torch

        a, b = (self._file.read(held.factors[key]).to(torch.float32) for key in ("a", "b"))
        if self._is_transposed(held, name):
            a, b = b.T, a.T
        return self._scaling(held, name) * (b[rows] @ a)


def _by_pattern(patterns: object, module: str, default: Any) -> Any:
    """PEFT's rule: the first pattern that matches the end of the module's name, at a dot, wins."""
    if isinstance(patterns, dict):
        for pattern, value in patterns.items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
    return default
