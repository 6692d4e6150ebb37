"""PEFT LoRA adapters on a base, as `Weights`: the base's tensors with `scale * B @ A` added where the adapter says.

Only this file knows PEFT's folder layout. The product is formed tensor by tensor when it is read; `delta` gives it
exactly, in float32, without the rounding of a sum. Handles rank and alpha patterns, rsLoRA, fan-in/fan-out layers,
embeddings, DoRA magnitudes, trained biases and `modules_to_save`.
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
from genepool.weights.change_on_base import ChangeOnBase
from genepool.weights.checkpoint import read_json
from genepool.weights.formats import open_adapter
from genepool.weights.formats.safetensors import ADAPTER_FILE
from genepool.weights.source import Weights
from genepool.weights.tensor_info import shape_text

if TYPE_CHECKING:
    import torch

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = ADAPTER_FILE
_PREFIX = "base_model.model."
_FACTORS = {
    "lora_A.weight": "a", "lora_B.weight": "b", "lora_embedding_A": "a", "lora_embedding_B": "b",
    "lora_magnitude_vector": "magnitude", "lora_magnitude_vector.weight": "magnitude", "lora_B.bias": "bias",
}  # fmt: skip


@dataclass(slots=True)
class _Change:
    """What the adapter holds for one tensor of the base: names of factors, or of a replacement."""

    factors: dict[str, str] = field(default_factory=dict)
    replacement: str = ""
    embedding: bool = False


class LoraOnBase(ChangeOnBase):
    """`base` with a PEFT LoRA adapter applied.

    Args:
        base: the model the adapter was trained on.
        path: the adapter's folder.
        name: what the user calls the whole.
        allow_pickle: take `adapter_model.bin` where there is no safetensors file.

    Raises:
        InputError: not a LoRA adapter, a damaged one, or one made for tensors the base does not have.
    """

    def __init__(self, base: Weights, path: Path, name: str | None = None, *, allow_pickle: bool = False) -> None:
        super().__init__(base, name or f"{base.name}+{path}")
        self.path = Path(path)
        self._settings = read_json(self.path / CONFIG_FILE)
        kind = self._settings.get("peft_type")
        if kind != "LORA":
            raise InputError(
                f"adapters of type {kind} are not supported",
                where=self.path / CONFIG_FILE,
                fix="Use a LoRA adapter",
            )
        self._file = open_adapter(self.path, allow_pickle)
        self._changes = self._collect()

    def changed(self) -> frozenset[str]:
        """Names of the base's tensors that the adapter changes."""
        return frozenset(self._changes)

    def change_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        change = self._changes[name]
        if set(change.factors) == {"a", "b"} and not change.replacement:
            return self._product(change, name, slice(start, stop))
        # What needs the whole tensor (a norm over it, a replacement) is small or rare.
        return super().change_rows(name, start, stop)

    def factors(self, name: str) -> tuple[torch.Tensor, torch.Tensor, float] | None:
        """A change that is a product, as it is stored: `(rows, rank)`, `(rank, columns)` and the factor of `B @ A`.

        None for what is no product alone: replaced tensors, trained biases, DoRA.
        """
        change = self._changes[name]
        if set(change.factors) != {"a", "b"} or (change.replacement and not self._repeats_base(change, name)):
            return None
        a, b = (self._file.read(change.factors[key]) for key in ("a", "b"))
        left, right = (a.T, b.T) if self._is_transposed(change, name) else (b, a)
        return left, right, self._scaling(change, name)

    def _repeats_base(self, change: _Change, name: str) -> bool:
        """Whether the embedding that was saved beside its factors is the base's own."""
        own, base = self._file.read(change.replacement), self.base.read(name)
        return own.dtype == base.dtype and own.equal(base)

    def fingerprint(self) -> str:
        adapter = fingerprint_cache.cached([self._file.path, self.path / CONFIG_FILE], self._hash_adapter)
        return hashlib.sha256(f"lora\x1f{self.base.fingerprint()}\x1f{adapter}".encode()).hexdigest()

    def _hash_adapter(self) -> str:
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

    def _collect(self) -> dict[str, _Change]:
        changes: dict[str, _Change] = {}
        for stored in self._file.infos:
            module, factor = self._split(stored)
            if factor in _FACTORS:
                target = f"{module}.bias" if factor == "lora_B.bias" else f"{module}.weight"
                change = changes.setdefault(self._canonical(target, stored), _Change())
                change.factors[_FACTORS[factor]] = stored
                change.embedding |= factor.startswith("lora_embedding")
            else:
                target = f"{module}.{factor}" if factor else module
                changes.setdefault(self._canonical(target, stored), _Change()).replacement = stored
        for name, change in changes.items():
            self._check(name, change)
        return changes

    def _split(self, stored: str) -> tuple[str, str]:
        name = stored.removeprefix(_PREFIX)
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

    def _check(self, name: str, change: _Change) -> None:
        expected = self.base.info(name).shape
        if change.replacement and (found := self._file.infos[change.replacement].shape) != expected:
            raise self._wrong_shape(change.replacement, found, name, expected)
        if not change.factors or set(change.factors) == {"bias"}:
            return
        missing = {"a", "b"} - set(change.factors)
        if missing:
            raise InputError(
                f"factor {missing.pop().upper()} of {name} is missing",
                where=self._file.path,
                fix="Save it again",
            )
        a, b = (self._file.infos[change.factors[key]].shape for key in ("a", "b"))
        if len(a) != 2 or len(b) != 2:
            raise InputError(
                f"factors of {name} are not matrices ({shape_text(a)}, {shape_text(b)})",
                where=self._file.path,
                fix="Merge the adapter with PEFT first: only linear and embedding layers are supported",
            )
        product = (a[1], b[0]) if self._is_transposed(change, name) else (b[0], a[1])
        if a[0] != b[1] or product != expected:
            raise self._wrong_shape(change.factors["b"], product, name, expected)

    def _wrong_shape(self, stored: str, found: tuple[int, ...], name: str, expected: tuple[int, ...]) -> InputError:
        return InputError(
            f"has shape {shape_text(found)} where {name} of the base has {shape_text(expected)}",
            where=f"{self._file.path}:{stored}",
            fix="The adapter was made for another model: name the base it was trained on",
        )

    # ------------------------------------------------------------------ arithmetic

    def _is_transposed(self, change: _Change, name: str) -> bool:
        """Whether the base stores the tensor as the transpose of B @ A: embeddings, and fan-in/fan-out layers."""
        if change.embedding or not self._settings.get("fan_in_fan_out"):
            return change.embedding
        a, b = (self._file.infos[change.factors[key]].shape for key in ("a", "b"))
        # PEFT ignores the setting for ordinary linear layers, such as the head beside GPT-2's transposed ones.
        return (b[0], a[1]) != self.base.info(name).shape or b[0] == a[1]

    def _scaling(self, change: _Change, name: str) -> float:
        rank = self._file.infos[change.factors["a"]].shape[0]
        module = name.rpartition(".")[0]
        alpha = _by_pattern(self._settings.get("alpha_pattern"), module, self._settings.get("lora_alpha", rank))
        return float(alpha) / (math.sqrt(rank) if self._settings.get("use_rslora") else rank)

    def change(self, name: str) -> torch.Tensor:
        import torch

        change = self._changes[name]
        if set(change.factors) == {"a", "b"} and not change.replacement:
            return self._product(change, name, slice(None))

        def factor(key: str) -> torch.Tensor:
            return self._file.read(change.factors[key]).to(torch.float32)

        base = self.base.read(name).to(torch.float32)
        # Embedding adapters carry the embedding they were trained on, so both can be there for one tensor.
        start = self._file.read(change.replacement).to(torch.float32) if change.replacement else base
        if not change.factors:
            return start - base
        if "a" not in change.factors:
            weight = self._changes[name.removesuffix(".bias") + ".weight"]
            return start - base + self._scaling(weight, name) * factor("bias")
        product = self._product(change, name, slice(None))
        if "magnitude" not in change.factors:
            return start - base + product
        # DoRA (arXiv:2402.09353, eq. 5): the direction of each output feature is trained apart from its length.
        side = 0 if self._is_transposed(change, name) else 1
        direction = start + product
        length = factor("magnitude").unsqueeze(side) / direction.norm(dim=side, keepdim=True)
        moved: torch.Tensor = direction * length - base
        return moved

    def _product(self, change: _Change, name: str, rows: slice) -> torch.Tensor:
        """Rows of `scale * B @ A` as the base stores them; whole rows only, so the product is never formed in full."""
        import torch

        a, b = (self._file.read(change.factors[key]).to(torch.float32) for key in ("a", "b"))
        if self._is_transposed(change, name):
            a, b = b.T, a.T
        return self._scaling(change, name) * (b[rows] @ a)


def _by_pattern(patterns: object, module: str, default: Any) -> Any:
    """PEFT's rule: the first pattern that matches the end of the module's name, at a dot, wins."""
    if isinstance(patterns, dict):
        for pattern, value in patterns.items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
    return default
