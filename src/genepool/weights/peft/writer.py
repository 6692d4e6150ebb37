"""Writes a `Change` of a base as a PEFT LoRA adapter, with what the adapter loses of it, tensor by tensor.

A change that is a product already keeps its factors; any other matrix is factorised to a rank, and its factors go to
the disk at once, so memory is that of the tensors in work. What an adapter cannot hold is named, with its share of the
change. Used by `genepool merge --as-lora` and by `genepool skill convert --to peft`, which lay their own words beside.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool import progress
from genepool.errors import CheckFailed, InputError
from genepool.kernels import gram, spectral
from genepool.kernels.memory import MemoryGate
from genepool.kernels.reading import is_finite
from genepool.threads import core_count, torch_threads
from genepool.weights.change import Change
from genepool.weights.class_head import BaseWithHead
from genepool.weights.encodings.low_rank import Product
from genepool.weights.float_rows import is_finite_change
from genepool.weights.formats.safetensors import ADAPTER_FILE, SafetensorsFile
from genepool.weights.naming import change_in_memory_layout
from genepool.weights.peft.config import adapter_config
from genepool.weights.peft.experts import in_order, stores_inputs_first
from genepool.weights.peft.folder import CONFIG_FILE, PREFIX
from genepool.weights.peft.forms import FACTORED, AdapterForm, adapter_forms
from genepool.weights.peft.spool import Spool
from genepool.weights.tensor_info import tensor_bytes
from genepool.weights.writer import ShardedWriter

if TYPE_CHECKING:
    import torch

# Directions of a matrix that is no product yet, where the caller names no rank.
DEFAULT_RANK = 16
_FACTOR_NAMES = {"embedding": ("lora_embedding_A", "lora_embedding_B")}
_MEMORY = 1 << 29


@dataclass(frozen=True)
class HeldTensor:
    """What an adapter holds of one tensor's change.

    Attributes:
        name: the tensor.
        form: how it is held.
        shape: of the tensor.
        rank: of the factors; 0 when it is held whole or not at all.
        exact: whether the factors are the best of their rank for certain.
        change: squared Frobenius norm of the change.
        lost: the same of what the adapter does not hold of it.
        scale: what the product of the factors is multiplied by.
    """

    name: str
    form: AdapterForm
    shape: tuple[int, ...]
    rank: int
    exact: bool
    change: float
    lost: float
    scale: float = 1.0

    @property
    def alpha(self) -> float:
        """PEFT's `lora_alpha` that stands for the scale."""
        alpha = self.scale * self.rank
        return int(alpha) if alpha == int(alpha) else alpha

    def to_dict(self, total: float) -> dict[str, Any]:
        """For `genepool.json`; `share` is its part of the squared norm of the whole change."""
        return {
            "tensor": self.name,
            "held": "no" if self.form.kind == "none" else "factors" if self.rank else "whole",
            "rank": self.rank,
            "exact": self.exact,
            "relative_error": math.sqrt(self.lost / self.change),
            "share": self.change / total,
            **({"reason": self.form.reason} if self.form.reason else {}),
        }


def _same_start(_: str) -> torch.Generator:
    """The range finder starts from the same numbers for every tensor: the same change gives the same factors."""
    import torch

    return torch.Generator().manual_seed(0)


class AdapterWriter:
    """Computes what an adapter holds of a change, then writes its folder. Use it as a context.

    Norms go along whole (`modules_to_save`), biases as the base's biases, fused experts as `target_parameters`.

    Args:
        change: what to write; its base must be open.
        folder: where the adapter goes; it is there already.
        rank: most directions of a matrix. When None, products keep all of theirs, and others are given 16.
        device: where to factorise.
        factors_only: hold nothing beside factors, which is all that some servers take: neither norms nor biases.
        whole: patterns of tensors that go along whole, without loss.
        draw: tensor -> generator of the numbers that the range finder of a large matrix starts from.

    Attributes:
        change: the same under the names and in the shapes of transformers' class, where PEFT looks for modules.
        held: what the adapter holds and loses, in the order of the change's tensors; empty before `hold`.
    """

    def __init__(
        self,
        change: Change,
        folder: Path,
        rank: int | None = None,
        *,
        device: str = "cpu",
        factors_only: bool = False,
        whole: Sequence[str] = (),
        draw: Callable[[str], torch.Generator] = _same_start,
    ) -> None:
        self.change = change_in_memory_layout(change)
        assert self.change.base is not None
        self.base, self.folder, self.rank = self.change.base, folder, rank
        self._device, self._draw = device, draw
        self._forms = adapter_forms(self.base, factors_only=factors_only, whole=whole)
        self._spool = Spool(folder / "factors")
        self.held: tuple[HeldTensor, ...] = ()

    def __enter__(self) -> AdapterWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._spool.remove()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that the adapter holds."""
        return sum(info.nbytes for info in self._spool.infos.values())

    @property
    def factored(self) -> dict[str, HeldTensor]:
        """The modules, and the parameters of experts, that are adapted. PEFT has no adapter without one."""
        return {held.name if held.form.kind == "experts" else held.form.module: held for held in self.held if held.rank}

    @property
    def left_out(self) -> str:
        """A tensor that changes and that no adapter holds, and why; empty where there is none."""
        return next((f"{held.name}: {held.form.reason}" for held in self.held if held.form.kind == "none"), "")

    def hold(self, title: str, *, threads: int | None = None, memory: int = _MEMORY) -> None:
        """Works through the tensors, several at a time; those that do not change are not in `held`.

        Args:
            title: of the progress bar.
            threads: how many tensors are worked on at once; the processor's cores, at most 8, when None.
            memory: bytes that all tensors in work together may take.
        """
        names = self.change.names()
        largest = max((self.change.numel(name) for name in names if self._forms[name].kind in FACTORED), default=0)
        gate = MemoryGate(max(memory, 32 * largest))
        stopped = threading.Event()

        def work(name: str) -> HeldTensor | None:
            if stopped.is_set():
                return None
            with gate.held(self.change.working_bytes(name) + 4 * self._entries(name)):
                held = self._hold(name)
            bar.advance(self.change.numel(name))
            return held

        found: dict[str, HeldTensor] = {}
        with (
            progress.bar(title, sum(map(self.change.numel, names)), "entries") as bar,
            torch_threads(1),
            ThreadPoolExecutor(threads or min(8, core_count())) as pool,
        ):
            futures = [pool.submit(work, name) for name in sorted(names, key=lambda name: -self.change.numel(name))]
            try:
                for future in as_completed(futures):
                    if (held := future.result()) is not None:
                        found[held.name] = held
            except BaseException:
                stopped.set()
                for future in futures:
                    future.cancel()
                raise
        self.held = tuple(found[name] for name in names if name in found)
        self._complete_modules()

    def finish(self, reference: tuple[str, str | None], *, verify: bool = False) -> int:
        """Writes the folder's two files.

        Args:
            reference: how PEFT finds the base again: a path or hub name, and a revision.
            verify: read the weights back and compare the hash of every tensor with what was computed.

        Returns:
            The size of the weights' file.

        Raises:
            CheckFailed: `verify` found a difference.
        """
        factored = self.factored
        for held in self.held:
            if held.form.kind == "bias" and held.form.module in factored:
                # PEFT wraps a layer it adapts, and finds the layer's own bias inside.
                self._spool.rename(PREFIX + held.name, f"{PREFIX}{held.form.module}.base_layer.bias")
        experts = [name for name, held in factored.items() if held.form.kind == "experts"]
        self._wrap(experts)
        config = adapter_config(
            self.base,
            reference,
            {module: (held.rank, held.alpha) for module, held in factored.items()},
            experts=experts,
            whole=self._whole(),
            biases=any(held.form.kind == "bias" for held in self.held),
            transposed=any(held.form.kind == "transposed" for held in factored.values()),
        )
        nbytes = self._assemble(verify)
        (self.folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        return nbytes

    # ------------------------------------------------------------------ one tensor

    def _entries(self, name: str) -> int:
        """Entries in memory beside what the change itself is computed from."""
        rows, columns = self.change.matrix(name)
        if self._forms[name].kind not in FACTORED:
            return rows * columns
        if self._forms[name].kind == "experts":
            # One expert after the other, and the factors of all of them.
            rows = self.change.shape(name)[1]
        return 2 * rows * columns + spectral.low_rank_entries(rows, columns, self.rank or DEFAULT_RANK)

    def _hold(self, name: str) -> HeldTensor | None:
        form, shape = self._forms[name], self.change.shape(name)
        if not self.change.moves(name):
            return None
        if form.kind == "experts":
            return self._hold_experts(name, form)
        if form.kind in FACTORED and (product := self._product(name)) is not None:
            self._spool_factors(form, product)
            if not is_finite_change(self.change, name):
                raise self._not_finite(name)
            size = _squared_norm(self.change.whole(name))
            return HeldTensor(name, form, shape, product.left.shape[1], True, size, 0.0, product.factor)
        whole, rounding = self.change.whole_and_rounding(name)
        change = whole.to(self._device)
        size = self._size(name, change)
        if size == 0:
            return None
        if form.kind in FACTORED:
            return self._factorise(name, form, change, size, rounding)
        if form.kind == "none":
            return HeldTensor(name, form, shape, 0, True, size, size)
        self._spool.add(PREFIX + name, self.base.read(name).float() + change.reshape(shape).cpu())
        return HeldTensor(name, form, shape, 0, True, size, 0.0)

    def _hold_experts(self, name: str, form: AdapterForm) -> HeldTensor | None:
        """A product for every expert of a parameter, laid beside each other as PEFT's ParamWrapper takes them."""
        import torch

        experts, rows, columns = shape = self.change.shape(name)
        rank = min(self.rank or DEFAULT_RANK, rows, columns)
        lefts, rights = torch.zeros(experts, rows, rank), torch.zeros(experts, rank, columns)
        size = lost = 0.0
        exact = True
        for expert in range(experts):
            change = self.change.rows(name, expert * rows, (expert + 1) * rows).to(self._device)
            norm = self._size(name, change)
            if norm == 0:
                continue
            (left, values, right), best = spectral.low_rank(change, rank, self._draw(f"{name}.{expert}"), 0.0)
            root = values.sqrt()
            left, right = left * root, root.unsqueeze(1) * right
            lost += _squared_norm(torch.addmm(change, left, right, alpha=-1))
            lefts[expert, :, : len(values)], rights[expert, : len(values)] = left.cpu(), right.cpu()
            size, exact = size + norm, exact and best
        if size == 0:
            return None
        if stores_inputs_first(self.base.config, form.module):
            lefts, rights = rights.mT, lefts.mT
        self._spool.add(f"{PREFIX}{name}.lora_A.weight", rights.reshape(experts * rank, -1))
        self._spool.add(f"{PREFIX}{name}.lora_B.weight", lefts.permute(1, 2, 0).reshape(lefts.shape[1], -1))
        return HeldTensor(name, form, shape, rank, exact, size, lost)

    def _size(self, name: str, change: torch.Tensor) -> float:
        size = _squared_norm(change)
        if not math.isfinite(size) and not is_finite(change):
            raise self._not_finite(name)
        return size

    def _not_finite(self, name: str) -> InputError:
        where, fix = f"{self.change.name}:{name}", "Correct the model or leave it out"
        return InputError("the change is NaN or infinite", where=where, fix=fix)

    def _wrap(self, experts: list[str]) -> None:
        """Names the factors of experts as PEFT's wrappers do, which lie one around the other, the last outside."""
        for module in {name.rpartition(".")[0] for name in experts}:
            own = [name for name in in_order(self.base.config, experts) if name.rpartition(".")[0] == module]
            for depth, name in enumerate(reversed(own)):
                for factor in ("lora_A.weight", "lora_B.weight"):
                    new = f"{PREFIX}{module}{'.base_layer' * depth}.{factor}"
                    self._spool.rename(f"{PREFIX}{name}.{factor}", new)

    def _product(self, name: str) -> Product | None:
        """The factors the change has already, unless they have more directions than are wanted."""
        product = self.change.factors(name)
        if product is None or (self.rank is not None and product.left.shape[1] > self.rank):
            return None
        return product

    def _factorise(
        self, name: str, form: AdapterForm, change: torch.Tensor, size: float, rounding: float
    ) -> HeldTensor:
        """Singular vectors times the square roots of the singular values on either side, float32."""
        import torch

        rank = self.rank or DEFAULT_RANK
        (left, values, right), exact = spectral.low_rank(change, rank, self._draw(name), rounding)
        root = values.sqrt()
        left, right = left * root, root.unsqueeze(1) * right
        lost = _squared_norm(torch.addmm(change, left, right, alpha=-1))
        self._spool_factors(form, Product(left, right))
        return HeldTensor(name, form, self.change.shape(name), len(values), exact, size, lost)

    def _spool_factors(self, form: AdapterForm, product: Product) -> None:
        left, right = product.left, product.right
        if not left.shape[1]:
            return
        # The change is as stored: (out, in) for linear layers, (in, out) or (tokens, width) for the others.
        a, b = (right, left) if form.kind == "linear" else (left.mT, right.mT)
        names = _FACTOR_NAMES.get(form.kind, ("lora_A.weight", "lora_B.weight"))
        for factor, leaf in zip((a, b), names, strict=True):
            self._spool.add(f"{PREFIX}{form.module}.{leaf}", factor)

    # ------------------------------------------------------------------ the whole

    def _whole(self) -> set[str]:
        # A head that the base lacks goes along even where it stayed zeros: without it nothing can be loaded.
        head = self.base.modules if isinstance(self.base, BaseWithHead) else ()
        return {*head, *(held.form.module for held in self.held if held.form.kind == "whole")}

    def _complete_modules(self) -> None:
        """A module that goes along whole has all its tensors with it, those that stayed as they were too."""
        whole, changed = self._whole(), {held.name for held in self.held}
        for name in self.base.names():
            if self._forms[name].module in whole and name not in changed and self.base.info(name).is_float:
                self._spool.add(PREFIX + name, self.base.read(name).float())

    def _assemble(self, verify: bool) -> int:
        """Writes the weights from the spool, in the order of their names; returns their size."""
        infos = dict(sorted(self._spool.infos.items()))
        hashes = {}
        writer = ShardedWriter(self.folder, infos, shard_bytes=2**62)
        for name in infos:
            tensor = self._spool.read(name)
            if verify:
                hashes[name] = hashlib.sha256(tensor_bytes(tensor)).hexdigest()
            writer.write(name, tensor)
        writer.sync()
        writer.close()
        (path,) = writer.files
        path = path.rename(self.folder / ADAPTER_FILE)
        written = SafetensorsFile(path)
        for name, digest in hashes.items():
            if hashlib.sha256(written.view_bytes(name)).hexdigest() != digest:
                raise CheckFailed(f"{path}:{name}: what is on the disk is not what was computed. Check the disk.")
        return path.stat().st_size


def _squared_norm(tensor: torch.Tensor) -> float:
    return float(gram(tensor.unsqueeze(0))[0, 0])
