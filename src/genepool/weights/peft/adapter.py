"""A PEFT adapter as a `Change` of its base: read tensor by tensor, exactly, in float32.

What a kind of adapter does to a module is in `kinds`, one file each. Here is what all kinds have in common: trained
biases, modules and rows that are replaced whole, and the layout of the base's weights.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError, one_line
from genepool.weights import fingerprint_cache
from genepool.weights.architecture import ModuleKind, architecture_of, why_unknown
from genepool.weights.change import Change, fingerprint_of
from genepool.weights.control import control_of
from genepool.weights.encodings.low_rank import Product
from genepool.weights.peft.content import AdapterContent
from genepool.weights.peft.kinds.trainable_tokens import token_rows
from genepool.weights.peft.layer import Layer, Layout
from genepool.weights.peft.targets import parameters_of, targeted_modules
from genepool.weights.tensor_info import TensorInfo, shape_text
from genepool.weights.ties import tied_names
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch

_OTHER_MODEL = "The adapter was made for another model: name the base it was trained on"


@dataclass(slots=True)
class _Held:
    """What the adapter does to one tensor of the base.

    Attributes:
        layer, leaf: the module that a kind changes, and which tensor of it this is; None for none.
        replacement: the file's name of what stands in the tensor's place; empty for none.
        tokens: the rows that `rows` of the file stand in place of.
    """

    layer: Layer | None = None
    leaf: str = ""
    replacement: str = ""
    tokens: list[int] | None = None
    rows: str = ""


class PeftAdapter(Change):
    """What a PEFT adapter adds to its base.

    Args:
        path: the adapter's folder.
        base: the model the adapter was trained on, its tensors named as PEFT found them (see `fitted_base`).
        name: what the user calls it.
        content: what is in the folder, where it has been read.

    Raises:
        InputError: an adapter that cannot be merged, a damaged one, one that holds no tensors, or one made for tensors
            that the base does not have.
    """

    kind = "adapter"
    base: Weights
    path: Path

    def __init__(
        self, path: str | Path, base: Weights, name: str | None = None, *, content: AdapterContent | None = None
    ) -> None:
        self.path, self.base, self.name = Path(path), base, name or str(path)
        self._content = content or AdapterContent(self.path)
        self._file, self.settings, self._kind = self._content.file, self._content.settings, self._content.kind
        self.control = control_of(self.path)
        self._held: dict[str, _Held] = {}
        self._here = threading.local()
        self._collect()
        if not self._held and self.control is None:
            raise InputError(
                "holds no tensors, so it changes nothing",
                where=self._file.path,
                fix="Save the adapter again with PEFT, or leave it out",
            )

    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self.base.names() if name in self._held)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.base.info(name).shape

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        product = self.factors(name)
        if product is not None:
            left, right = product.left[start:stop].float(), product.right.float()
            return (left @ right).mul_(product.factor)
        return self._whole(name).reshape(self.matrix(name))[start:stop]

    def factors(self, name: str) -> Product | None:
        """A change that is a product, as it is stored; None for any other.

        Each thread keeps the last one: it may have taken a decomposition of the base, and rows are asked for in blocks.
        """
        kept: tuple[str, Product | None] | None = getattr(self._here, "product", None)
        if kept is None or kept[0] != name:
            kept = self._here.product = (name, self._factors(name))
        return kept[1]

    def _factors(self, name: str) -> Product | None:
        held = self._held[name]
        if held.layer is None or held.leaf != "weight" or held.tokens or held.layer.parameter or held.layer.kernel:
            return None
        if held.replacement and not self._repeats_base(held.replacement, name):
            return None
        with self._computing(held.layer):
            product = self._kind.product(held.layer)
        if product is None or held.layer.layout == "linear":
            return product
        return Product(product.right.T, product.left.T, product.factor)

    def identity(self) -> dict[str, Any]:
        fingerprint = fingerprint_of(self.kind, self.base, self.digest())
        return {"models": [{"name": str(self.path), "fingerprint": fingerprint}]}

    def digest(self) -> str:
        return fingerprint_cache.cached([self._file.path, self.settings.path], self._hash)

    def working_bytes(self, name: str) -> int:
        held = self._held[name]
        whole = held.layer is not None and self._kind.needs_base
        return (24 if whole else 8) * self.numel(name)

    def _hash(self) -> str:
        total = hashlib.sha256(repr(sorted(self.settings.arithmetic().items())).encode())
        for name in sorted(self._file.infos):
            total.update(f"\x1e{name}\x1f{self._file.infos[name]}\x1f".encode())
            total.update(self._file.view_bytes(name))
        return total.hexdigest()

    # ------------------------------------------------------------------ what the file holds

    def _collect(self) -> None:
        for target, stored in self._content.replacements.items():
            self._hold(target, stored).replacement = stored
        for name, held in self._held.items():
            self._expect(held.replacement, self._file.infos[held.replacement].shape, self.base.info(name).shape)
        for layer in self._layers.values():
            if not layer.has_weight():
                raise self._missing(layer.tensor("weight"), next(iter(layer.parts.values()), layer.module))
            with self._computing(layer):
                self._kind.check(layer)
                leaves = self._kind.leaves(layer)
            for leaf in leaves:
                self._add(layer, leaf)
        self._collect_tokens()

    def _add(self, layer: Layer, leaf: str) -> None:
        held = self._hold(layer.tensor(leaf), next(iter(layer.parts.values()), ""))
        held.layer, held.leaf = layer, leaf

    def _collect_tokens(self) -> None:
        for module, stored in self._content.tokens.items():
            name = f"{module}.weight"
            held = self._hold(name, stored)
            rows = self._content.token_setting(name)
            layer = Layer(module, {}, {}, self._file, self.settings, self.base, "embedding", dict)
            held.tokens, held.rows = token_rows(layer, rows, "trainable_token_indices"), stored
            self._expect(stored, self._file.infos[stored].shape, (len(held.tokens), self.base.info(name).shape[1]))

    def _hold(self, target: str, stored: str) -> _Held:
        name = self._tied.get(target, target)
        if name not in self.base:
            raise self._missing(target, stored)
        return self._held.setdefault(name, _Held())

    def _missing(self, target: str, stored: str) -> InputError:
        return InputError(
            f"changes {target}, which the base {self.base.name} does not have",
            where=f"{self._file.path}:{stored}",
            fix=_OTHER_MODEL,
        )

    def _expect(self, stored: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if found != expected:
            raise InputError(
                f"got shape {shape_text(found)}, expected {shape_text(expected)} as in the base",
                where=f"{self._file.path}:{stored}",
                fix=_OTHER_MODEL,
            )

    @cached_property
    def _tied(self) -> Mapping[str, str]:
        """Names that are one tensor with another, in the file or in memory alone -> the base's name of it."""
        return {**tied_names(self.base), **self.base.aliases()}

    @cached_property
    def _layers(self) -> Mapping[str, Layer]:
        """The adapted modules, in the order of the model where that is known."""
        content = self._content
        found: dict[str, dict[str, str]] = {module: dict(parts) for module, parts in content.modules.items()}
        if self._kind.by_settings:
            for module in targeted_modules(self.settings, self.base):
                found.setdefault(module, {})
        architecture = architecture_of(self.base.config) if self._kind.shared else None
        if architecture is not None:
            order = {module: place for place, module in enumerate(architecture.modules)}
            self._expect_order(found, order)
            found = dict(sorted(found.items(), key=lambda one: order.get(one[0], len(order))))
        else:
            self._expect_order(found, {})
        layers: dict[str, Layer] = {}
        start = _Start(self.base, self._content)
        for module, parts in found.items():
            layers[module] = self._layer(module, parts, start)
        for module, wrappers in content.parameters.items():
            for parameter, held in parameters_of(module, wrappers, self.settings, self.base).items():
                layers[parameter] = self._layer(module, held, start, parameter)
        return layers

    def _expect_order(self, modules: Collection[str], order: Mapping[str, int]) -> None:
        """Refuses modules whose order the arithmetic depends on where the model does not tell it."""
        unknown = [module for module in modules if module not in order]
        if not self._kind.by_order or not unknown or len(modules) < 2:
            return
        why = why_unknown(self.base.config) or f"{unknown[0]} is no module of the base's architecture"
        raise InputError(
            f"{self._kind.title} tells the vector of a module by its place among the adapted ones, and {why}",
            where=self._file.path,
            fix="Merge the adapter with PEFT (merge_and_unload) and name the merged checkpoint",
        )

    @contextmanager
    def _computing(self, layer: Layer) -> Iterator[None]:
        """Whatever a kind runs into is of a file that it cannot be computed from: one line says which."""
        try:
            yield
        except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:
            first = str(error).strip().partition("\n")[0]
            raise InputError(
                f"what it holds for {layer.module} cannot be computed as {self._kind.title} "
                f"({type(error).__name__}: {one_line(first)})",
                where=self._file.path,
                fix="Save the adapter again with PEFT",
            ) from error

    def _layer(self, module: str, parts: Mapping[str, str], start: Weights, parameter: str = "") -> Layer:
        def made(layout: Layout) -> Layer:
            return Layer(
                module,
                parts,
                self._content.shared,
                self._file,
                self.settings,
                start,
                layout,
                self._siblings(),
                parameter,
            )

        layer = made("linear")
        if parameter or not layer.has_weight():
            return layer
        if any("embedding" in part for part in parts) or self._kind.peft_type == "TRAINABLE_TOKENS":
            return made("embedding")
        if self._kind.peft_type == "TINYLORA" and self._known_as(module) == "embedding":
            return made("embedding")
        return made("transposed") if self._is_transposed(layer) else layer

    def _is_transposed(self, layer: Layer) -> bool:
        """Whether the base stores the weight of a module as (in, out).

        The setting does not tell it: PEFT turns it on and off with every layer it meets, and saves the last.
        """
        if "fan_in_fan_out" not in self._kind.settings or len(layer.shape) != 2:
            return False
        said = self.settings.flag("fan_in_fan_out")
        if not said and not self._base_has_transposed:
            return False
        known = self._known_as(layer.module)
        if known is not None:
            return known == "transposed"
        with self._computing(layer):
            features = self._kind.stored_features(layer)
        if features is None or layer.shape[0] == layer.shape[1]:
            return said
        return features != layer.shape

    def _known_as(self, module: str) -> ModuleKind | None:
        """What transformers makes of a module; None where it is not known."""
        architecture = architecture_of(self.base.config)
        return None if architecture is None else architecture.modules.get(module)

    @cached_property
    def _base_has_transposed(self) -> bool:
        """Whether the base has a bias that fits the columns of its module's weight alone."""
        for name in self.base.names():
            if name.endswith(".weight") and (bias := f"{name.removesuffix('weight')}bias") in self.base:
                shape = self.base.info(name).shape
                if len(shape) == 2 and self.base.info(bias).shape == (shape[1],) != (shape[0],):
                    return True
        return False

    def _siblings(self) -> Callable[[], Mapping[str, Layer]]:
        # Layers that held their adapter would keep its file open until garbage is looked for.
        own = weakref.ref(self)

        def siblings() -> Mapping[str, Layer]:
            adapter = own()
            assert adapter is not None, "layers are read by their adapter"
            return adapter._layers

        return siblings

    def _repeats_base(self, stored: str, name: str) -> bool:
        """Whether an embedding that was saved beside its factors is the base's own."""
        own, base = self._file.read(stored), self.base.read(name)
        return own.dtype == base.dtype and own.equal(base)

    # ------------------------------------------------------------------ arithmetic

    def _whole(self, name: str) -> torch.Tensor:
        """The change of a tensor that is no product, of the tensor's shape.

        Each thread keeps the last one, because a tensor is read block by block by one thread.
        """
        kept: tuple[str, torch.Tensor] | None = getattr(self._here, "kept", None)
        if kept is None or kept[0] != name:
            self._here.kept = None
            kept = self._here.kept = (name, self._changed(name))
        return kept[1]

    def _changed(self, name: str) -> torch.Tensor:
        import torch

        held = self._held[name]
        total: torch.Tensor | None = None
        if held.replacement:
            base = self.base.read(name).to(torch.float32)
            total = self._file.read(held.replacement).to(torch.float32) - base
        if held.tokens:
            base = self.base.read(name).to(torch.float32)
            total = torch.zeros_like(base) if total is None else total
            total[held.tokens] = self._file.read(held.rows).to(torch.float32) - base[held.tokens]
        if held.layer is not None:
            with self._computing(held.layer):
                change = self._kind.change(held.layer, held.leaf)
            whole = held.leaf != "weight" or held.layer.parameter or self._kind.peft_type == "LN_TUNING"
            change = change if whole else held.layer.as_stored(change)
            total = change if total is None else total + change
        assert total is not None
        return total


class _Start(Weights):
    """The base as the adapter found it: with the biases and modules that the file holds whole in place of its own."""

    def __init__(self, base: Weights, content: AdapterContent) -> None:
        self._base, self._content, self.name, self.config = base, content, base.name, base.config
        aliases = base.aliases()
        self._replaced = {aliases.get(name, name): stored for name, stored in content.replacements.items()}

    def names(self) -> tuple[str, ...]:
        return self._base.names()

    def aliases(self) -> Mapping[str, str]:
        return self._base.aliases()

    def info(self, name: str) -> TensorInfo:
        return self._base.info(name)

    def read(self, name: str) -> torch.Tensor:
        stored = self._replaced.get(self._base.aliases().get(name, name))
        return self._base.read(name) if stored is None else self._content.file.read(stored)
