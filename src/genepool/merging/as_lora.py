"""A merge written as a PEFT LoRA adapter of its base: merged minus base, to a rank, with what that loses.

Tensor by tensor, as merges are written: the change of a matrix is factorised and its factors go to the disk, so memory
is that of the tensors in work. What an adapter cannot hold is named, with its share of the change. `genepool merge
--as-lora` is its command.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool import progress, seeding, staging
from genepool.devices import check_device
from genepool.errors import CheckFailed, InputError
from genepool.kernels import gram, spectral
from genepool.kernels.memory import MemoryGate
from genepool.merging.adapter_forms import FACTORED, Form, adapter_config, adapter_form, module_kinds
from genepool.merging.adapter_report import AdapterReport, HeldTensor, remark, report_files
from genepool.merging.engine import Engine
from genepool.merging.layout import Input, OutputTensor
from genepool.merging.plan import Plan
from genepool.merging.run import refuse_own_input
from genepool.threads import core_count, torch_threads
from genepool.weights import Checkpoint, TensorInfo, Weights
from genepool.weights.formats.safetensors import SafetensorsFile
from genepool.weights.overlay import TensorWeights
from genepool.weights.peft.folder import CONFIG_FILE, PREFIX, WEIGHTS_FILE
from genepool.weights.tensor_info import tensor_bytes
from genepool.weights.writer import ShardedWriter

if TYPE_CHECKING:
    import torch

_FACTOR_NAMES = {"embedding": ("lora_embedding_A", "lora_embedding_B")}


def write_adapter(
    plan: Plan,
    out: str | Path,
    rank: int,
    *,
    overwrite: bool = False,
    max_bytes: int | None = None,
    threads: int | None = None,
    device: str = "cpu",
    verify: bool = False,
) -> AdapterReport:
    """Writes the merge as a PEFT LoRA adapter of its base, whole or not at all.

    Factors are the singular vectors times the square roots of the singular values on either side, float32. Norms go
    along whole (`modules_to_save`), biases as the base's biases.

    Args:
        plan: what to merge; it must have a base, which is what the adapter belongs to.
        out: the folder; `.OUT.partial` beside it is used while working.
        rank: most directions a matrix's change is given.
        overwrite: replace what is at `out`.
        max_bytes: largest file of weights; PEFT reads an adapter from one file, so a larger one is an error.
        threads: how many tensors are worked on at once; the processor's cores, at most 8, when None.
        device: where to compute.
        verify: read the result back and compare the hash of every tensor with what was computed.

    Returns:
        What the adapter holds and loses.

    Raises:
        InputError: the rank is no rank, the merge is not a change of its base, there is no such device, the adapter
            would be larger than `max_bytes`, or `out` is occupied.
        CheckFailed: `verify` found a difference.
    """
    out = Path(out)
    if rank < 1:
        raise InputError(f"a rank of {rank}", where="--as-lora", fix="Give 1 or more")
    check_device(device)
    base = _base(plan)
    refuse_own_input(plan, out)
    staging.check_free(out, overwrite=overwrite)
    # Not rounded to what a merged model would be stored as: that would be noise in every direction.
    recipe = plan.recipe.model_copy(update={"dtype": "float32"}).located(plan.recipe.where, plan.recipe.folder)
    exact = Plan(recipe, plan.method, plan.sources, plan.layout)
    with staging.staged_folder(out, overwrite=overwrite) as folder:
        with _Spool(folder / "factors") as spool:
            writer = _AdapterWriter(exact, base, rank, device, spool)
            tensors = writer.run(threads or min(8, core_count()))
            config = _config(plan, base, tensors)
            _check_size(out, spool, max_bytes)
            nbytes = _assemble(folder, spool, verify)
        report = AdapterReport(config["r"], tensors, nbytes)
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        for name, text in report_files(plan, report).items():
            (folder / name).write_text(text)
    remark(report, rank)
    return report


def _base(plan: Plan) -> Weights:
    """The base, if an adapter on it can stand for the merge."""
    where = plan.recipe.where
    if plan.recipe.base is None:
        raise InputError("an adapter belongs to a base, and the recipe names none", where=where, fix="Add `base:`")
    base = plan.sources[plan.recipe.base]
    if not isinstance(base, Checkpoint | TensorWeights):
        raise InputError(
            f"the base {base.name} is not one model but a change on one",
            where=where,
            fix="Write the base as a model of its own first",
        )
    outputs = {out.name: out.info.shape for out in plan.layout.outputs}
    other = [name for name, shape in outputs.items() if name not in base or base.info(name).shape != shape]
    if plan.recipe.slices is not None:
        other += [name for name in base.names() if name not in outputs]
    if other or plan.layout.untied:
        raise InputError(
            f"the merge differs from its base in more than values: {(other or ['its head is not the embedding'])[0]}",
            where=where,
            fix="Leave out --as-lora: an adapter changes neither layers nor vocabulary nor what is tied",
        )
    return base


class _AdapterWriter:
    """Computes every change and puts what the adapter holds of it into the spool."""

    def __init__(self, plan: Plan, base: Weights, rank: int, device: str, spool: _Spool) -> None:
        self.plan, self.base, self.rank, self.device, self.spool = plan, base, rank, device, spool
        self.engine = Engine(plan, device)
        modules = module_kinds(base.config)
        self.forms = {
            out.name: adapter_form(out.name, out.info, out.role, base, modules) for out in plan.layout.outputs
        }

    def run(self, threads: int) -> tuple[HeldTensor, ...]:
        """Works through the tensors; those that do not change are not in the answer."""
        outputs = [out for out in self.plan.layout.outputs if out.info.is_float and out.info.numel]
        self.engine.prepare(threads)
        largest = max((out.info.numel for out in outputs if self.forms[out.name].kind in FACTORED), default=0)
        memory = MemoryGate(max(self.engine.memory_budget(), 32 * largest))
        stopped = threading.Event()

        def work(out: OutputTensor) -> HeldTensor | None:
            if stopped.is_set():
                return None
            with memory.held(self.engine.working_bytes(out) + 4 * self._factor_entries(out)):
                held = self._hold(out)
            bar.advance(out.info.numel)
            return held

        found: dict[str, HeldTensor] = {}
        with (
            progress.bar(f"merging by {self.plan.method.name} into an adapter", _entries(outputs), "entries") as bar,
            torch_threads(1),
            ThreadPoolExecutor(threads) as pool,
        ):
            futures = [pool.submit(work, out) for out in sorted(outputs, key=lambda out: -out.info.numel)]
            try:
                for future in as_completed(futures):
                    if (held := future.result()) is not None:
                        found[held.name] = held
            except BaseException:
                stopped.set()
                for future in futures:
                    future.cancel()
                raise
        # A module that goes along whole has all its tensors with it, those that stayed as they were too.
        whole = {held.form.module for held in found.values() if held.form.kind == "whole"}
        for out in outputs:
            if self.forms[out.name].module in whole and out.name not in found:
                self.spool.add(PREFIX + out.name, self.base.read(out.name))
        return tuple(found[out.name] for out in outputs if out.name in found)

    def _factor_entries(self, out: OutputTensor) -> int:
        rows, columns = out.info.matrix
        if self.forms[out.name].kind not in FACTORED:
            return rows * columns
        return 2 * rows * columns + spectral.low_rank_entries(rows, columns, self.rank)

    def _hold(self, out: OutputTensor) -> HeldTensor | None:
        form = self.forms[out.name]
        own_base = out.base == Input(str(self.plan.recipe.base), out.name)
        if own_base and self.plan.method.inputs == "deltas" and not self.engine.moved(out):
            return None
        change, noise = self._change(out)
        size = _squared_norm(change)
        if size == 0:
            return None
        if form.kind in FACTORED:
            rank, exact = self._factorise(out.name, form, change, noise)
            return HeldTensor(out.name, form, out.info.shape, rank, exact, size, _squared_norm(change))
        if form.kind == "none":
            return HeldTensor(out.name, form, out.info.shape, 0, True, size, size)
        merged = self.base.read(out.name).float() + change.reshape(out.info.shape).cpu()
        # PEFT wraps a layer it adapts, and finds the layer's own bias inside.
        place = f"{form.module}.base_layer.bias" if self._is_wrapped(form) else out.name
        self.spool.add(PREFIX + place, merged)
        return HeldTensor(out.name, form, out.info.shape, 0, True, size, 0.0)

    def _is_wrapped(self, form: Form) -> bool:
        return form.kind == "bias" and self.forms[f"{form.module}.weight"].kind in FACTORED

    def _change(self, out: OutputTensor) -> tuple[torch.Tensor, float]:
        """Merged minus base, `(rows, columns)` float32, and what rounding alone puts into its singular values."""
        import torch

        size = 0.0
        change = torch.empty(out.info.matrix, dtype=torch.float32)
        for start, merged in self.engine.blocks(out):
            stop = start + merged.shape[0]
            stored = self.base.read_rows(out.name, start, stop).to(torch.float32)
            torch.sub(merged, stored, out=change[start:stop])
            size += _squared_norm(merged)
        # The largest singular value of independent errors of half a unit in the last place of the merged values.
        rows, columns = out.info.matrix
        noise = 2**-24 * size**0.5 * (rows**-0.5 + columns**-0.5)
        return change.to(self.device), noise

    def _factorise(self, name: str, form: Form, change: torch.Tensor, noise: float) -> tuple[int, bool]:
        """Puts the factors into the spool and takes their product from `change`."""
        generator = seeding.torch_generator(self.plan.recipe.seed, "adapter", name)
        (left, values, right), exact = spectral.low_rank(change, self.rank, generator, noise)
        root = values.sqrt()
        left, right = left * root, root.unsqueeze(1) * right
        change.addmm_(left, right, alpha=-1)
        # `change` is as stored: (out, in) for linear layers, (in, out) or (tokens, width) for the others.
        a, b = (right, left) if form.kind == "linear" else (left.mT, right.mT)
        names = _FACTOR_NAMES.get(form.kind, ("lora_A.weight", "lora_B.weight"))
        for factor, leaf in zip((a, b), names, strict=True):
            self.spool.add(f"{PREFIX}{form.module}.{leaf}", factor)
        return len(values), exact


def _squared_norm(tensor: torch.Tensor) -> float:
    return float(gram(tensor.unsqueeze(0))[0, 0])


def _entries(outputs: Sequence[OutputTensor]) -> int:
    return sum(out.info.numel for out in outputs)


class _Spool:
    """Finished tensors, one after the other in a file of their own until all their shapes are known."""

    def __init__(self, path: Path) -> None:
        self.path, self.infos = path, dict[str, TensorInfo]()
        self._lock = threading.Lock()
        self._offsets: dict[str, int] = {}
        self._file = open(path, "w+b")  # noqa: SIM115  (open for the whole run)

    def add(self, name: str, tensor: torch.Tensor) -> None:
        import torch

        tensor = tensor.to("cpu", torch.float32).contiguous()
        with self._lock:
            self.infos[name] = TensorInfo(tuple(tensor.shape), "F32")
            self._offsets[name] = self._file.seek(0, 2)
            self._file.write(tensor_bytes(tensor))

    def read(self, name: str) -> torch.Tensor:
        import torch

        info = self.infos[name]
        self._file.seek(self._offsets[name])
        data = bytearray(self._file.read(info.nbytes))
        return torch.frombuffer(data, dtype=torch.float32).reshape(info.shape)

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        self.path.unlink()


def _check_size(out: Path, spool: _Spool, max_bytes: int | None) -> None:
    size = sum(info.nbytes for info in spool.infos.values())
    if max_bytes is not None and size > max_bytes:
        raise InputError(
            f"the adapter takes {size:,} bytes in one file, which is how PEFT reads it, and {max_bytes:,} are allowed",
            where=out,
            fix="Raise --out-shard-size, or lower the rank",
        )


def _assemble(folder: Path, spool: _Spool, verify: bool) -> int:
    """Writes the adapter's weights from the spool, in the order of their names; returns their size."""
    infos = dict(sorted(spool.infos.items()))
    hashes = {}
    writer = ShardedWriter(folder, infos, shard_bytes=2**62)
    for name in infos:
        tensor = spool.read(name)
        if verify:
            hashes[name] = hashlib.sha256(tensor_bytes(tensor)).hexdigest()
        writer.write(name, tensor)
    writer.sync()
    writer.close()
    (path,) = writer.files
    path = path.rename(folder / WEIGHTS_FILE)
    written = SafetensorsFile(path)
    for name, digest in hashes.items():
        if hashlib.sha256(written.view_bytes(name)).hexdigest() != digest:
            raise CheckFailed(f"{path}:{name}: what is on the disk is not what was computed. Check the disk.")
    return path.stat().st_size


def _config(plan: Plan, base: Weights, tensors: Sequence[HeldTensor]) -> dict[str, Any]:
    """adapter_config.json of what the spool holds."""
    factored = {held.form.module: held for held in tensors if held.rank}
    if not factored:
        left = next((f"; {held.name}: {held.form.reason}" for held in tensors if held.form.kind == "none"), "")
        raise InputError(
            f"no weight matrix that PEFT can adapt differs from the base{left}",
            where=plan.recipe.where,
            fix="Leave out --as-lora",
        )
    return adapter_config(
        base,
        _reference(plan, base),
        # Where a matrix has fewer directions, alpha follows, so that every scale is one.
        {module: (held.rank, held.rank) for module, held in factored.items()},
        whole={held.form.module for held in tensors if held.form.kind == "whole"},
        biases=any(held.form.kind == "bias" for held in tensors),
        transposed=any(held.form.kind == "transposed" for held in factored.values()),
    )


def _reference(plan: Plan, base: Weights) -> tuple[str, str | None]:
    """How PEFT finds the base again: the absolute path of a folder, or a hub name and its revision."""
    named = str(plan.recipe.base)
    if base.folder is None:
        return named, None
    here = [Path(named), *([plan.recipe.folder / named] if plan.recipe.folder else [])]
    if any(path.exists() for path in here):
        return str(base.folder.resolve()), None
    name, _, revision = named.partition("@")
    return name, revision or None
