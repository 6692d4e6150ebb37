"""A merge written as a PEFT LoRA adapter of its base: merged minus base, to a rank, with what that loses.

`MergedChange` is merged minus base; `genepool.weights.peft` writes it. `genepool merge --as-lora` is its command.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from genepool import seeding, staging
from genepool.devices import check_device
from genepool.errors import InputError
from genepool.kernels import gram
from genepool.merging.adapter_report import AdapterReport, remark, report_files
from genepool.merging.engine import Engine
from genepool.merging.nesting import say_remarks
from genepool.merging.outputs import Input
from genepool.merging.plan import Plan
from genepool.merging.run import refuse_own_input
from genepool.merging.untying import untied_names
from genepool.threads import core_count
from genepool.weights import (
    AlignedVocabulary,
    BaseWithHead,
    Change,
    Checkpoint,
    TensorWeights,
    Weights,
    vocabulary_rows,
    without_head,
)
from genepool.weights.peft.writer import AdapterWriter

if TYPE_CHECKING:
    import torch


class MergedChange(Change):
    """Merged minus base, in float32, computed as merges are.

    Args:
        plan: what to merge.
        base: the base.
        device: where to compute.
    """

    base: Weights

    def __init__(self, plan: Plan, base: Weights, device: str = "cpu") -> None:
        # Not rounded to what a merged model would be stored as: that would be noise in every direction.
        recipe = plan.recipe.model_copy(update={"dtype": "float32"}).located(plan.recipe.where, plan.recipe.folder)
        self.plan, self.base, self.name = Plan(recipe, plan.method, plan.sources, plan.layout), base, recipe.where
        self.engine = Engine(self.plan, device)
        self._outputs = {out.name: out for out in plan.layout.outputs if out.info.is_float and out.info.numel}

    def names(self) -> tuple[str, ...]:
        return tuple(self._outputs)

    def shape(self, name: str) -> tuple[int, ...]:
        # Of a vocabulary that was padded for the merge, the base's own rows.
        return self.base.info(name).shape

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.engine.rows(self._outputs[name], start, stop) - self._base_rows(name, start, stop)

    def whole(self, name: str) -> torch.Tensor:
        return self.whole_and_rounding(name)[0]

    def whole_and_rounding(self, name: str) -> tuple[torch.Tensor, float]:
        import torch

        size = 0.0
        rows, columns = self.matrix(name)
        change = torch.empty(rows, columns, dtype=torch.float32)
        for start, block in self.engine.blocks(self._outputs[name]):
            stop = min(rows, start + block.shape[0])
            if stop <= start:
                break
            merged = block[: stop - start]
            torch.sub(merged, self._base_rows(name, start, stop), out=change[start:stop])
            size += float(gram(merged.unsqueeze(0))[0, 0])
        # The largest singular value of independent errors of half a unit in the last place of the merged values.
        return change, 2**-24 * size**0.5 * (rows**-0.5 + columns**-0.5)

    def moves(self, name: str) -> bool:
        out = self._outputs[name]
        if out.kept is not None:
            return self.engine.moved(out)
        own_base = out.base == Input(str(self.plan.recipe.base), name)
        return not own_base or self.plan.method.inputs != "deltas" or self.engine.moved(out)

    def working_bytes(self, name: str) -> int:
        return self.engine.working_bytes(self._outputs[name])

    def _base_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        import torch

        return self.base.read_rows(name, start, stop).to(torch.float32)


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
    factors_only: bool = False,
) -> AdapterReport:
    """Writes the merge as a PEFT LoRA adapter of its base, whole or not at all.

    Factors are the singular vectors times the square roots of the singular values on either side, float32. Norms go
    along whole (`modules_to_save`), and so does a head of classes that the base lacks; biases as the base's biases.

    Args:
        plan: what to merge; it must have a base, which is what the adapter belongs to.
        out: the folder; `.OUT.partial` beside it is used while working.
        rank: most directions a matrix's change is given.
        overwrite: replace what is at `out`.
        max_bytes: largest file of weights; PEFT reads an adapter from one file, so a larger one is an error.
        threads: how many tensors are worked on at once; the processor's cores, at most 8, when None.
        device: where to compute.
        verify: read the result back and compare the hash of every tensor with what was computed.
        factors_only: hold nothing beside factors: norms and biases stay as in the base, and the report says so.

    Returns:
        What the adapter holds and loses.

    Raises:
        InputError: the rank is no rank, the merge is not a change of its base, there is no such device, the adapter
            would be larger than `max_bytes`, or `out` is occupied.
        CheckFailed: `verify` found a difference.
    """
    out = Path(out)
    if rank < 1:
        raise InputError(f"must be at least 1, got {rank}", where="--as-lora", fix="Give 1 or more")
    check_device(device)
    base = _base(plan)
    if factors_only and isinstance(base, BaseWithHead):
        raise InputError(
            f"the merge has a head of classes ({base.head.architecture}), which {base.name} lacks and no factors hold",
            where="--factors-only",
            fix="Leave it out: the head goes along whole",
        )
    refuse_own_input(plan, out)
    staging.check_free(out, overwrite=overwrite)
    say_remarks(plan)
    threads = threads or min(8, core_count())
    draw = partial(seeding.torch_generator, plan.recipe.seed, "adapter")
    with staging.staged_folder(out, overwrite=overwrite) as folder:
        change = MergedChange(plan, base, device)
        with AdapterWriter(change, folder, rank, device=device, factors_only=factors_only, draw=draw) as writer:
            change.engine.prepare(threads)
            title = f"merging by {plan.method.name} into an adapter"
            writer.hold(title, threads=threads, memory=change.engine.memory_budget())
            _check_adapts(plan, writer)
            _check_size(out, writer.nbytes, max_bytes)
            nbytes = writer.finish(_reference(plan, base), verify=verify)
        report = AdapterReport(max(held.rank for held in writer.held), writer.held, nbytes, _tokens_left_out(plan))
        for name, text in report_files(plan, report).items():
            (folder / name).write_text(text, encoding="utf-8")
    remark(report, rank)
    return report


def _base(plan: Plan) -> Weights:
    """The base, if an adapter on it can stand for the merge."""
    where = plan.recipe.where
    if plan.recipe.base is None:
        raise InputError("an adapter belongs to a base, and the recipe names none", where=where, fix="Add `base:`")
    base = plan.sources[plan.recipe.base]
    shown = base if isinstance(base, AlignedVocabulary) else None
    base = base if shown is None else shown.model
    if not isinstance(without_head(base), Checkpoint | TensorWeights):
        raise InputError(
            f"the base {base.name} is a change on a model, expected a model",
            where=where,
            fix="Write the base as a model of its own first",
        )
    # Rows behind the base's own are left out; rows in another order have no place in it.
    more = {} if shown is None or shown.added_rows is None else vocabulary_rows(shown)
    outputs = {out.name: out.info.shape for out in plan.layout.outputs if out.name not in more}
    other = [name for name, shape in outputs.items() if name not in base or base.info(name).shape != shape]
    outputs |= dict.fromkeys(more, ())
    if plan.layout.depths:
        other += [name for name in base.names() if name not in outputs]
    if other := other or list(untied_names(base, plan.config, plan.infos)):
        raise InputError(
            f"the merge differs from its base in other ways than values: {other[0]}",
            where=where,
            fix="Leave out --as-lora: an adapter changes neither layers nor vocabulary nor what is tied",
        )
    return base


def _tokens_left_out(plan: Plan) -> int:
    """How many tokens the merge has that its base lacks; an adapter of the base holds no rows for them."""
    base = plan.sources[str(plan.recipe.base)]
    return (base.added_rows or 0) if isinstance(base, AlignedVocabulary) else 0


def _check_adapts(plan: Plan, writer: AdapterWriter) -> None:
    if not writer.factored:
        left = f"; {writer.left_out}" if writer.left_out else ""
        raise InputError(
            f"no weight matrix that PEFT can adapt differs from the base{left}",
            where=plan.recipe.where,
            fix="Leave out --as-lora",
        )


def _check_size(out: Path, nbytes: int, max_bytes: int | None) -> None:
    if max_bytes is not None and nbytes > max_bytes:
        raise InputError(
            f"the adapter takes {nbytes:,} bytes in one file, and PEFT reads no shards: expected at most {max_bytes:,}",
            where=out,
            fix="Raise --out-shard-size, or lower the rank",
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
