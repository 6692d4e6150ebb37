"""The streaming engine: computes a plan's tensors block by block, so that memory is that of the blocks in work.

A block is some rows of one tensor from every model. Methods see blocks only; what they must know of a whole tensor or
of the whole vector is gathered by surveys that stream the same blocks past first. Used by `run` (to write a merge) and
by `MergedWeights` (to read one lazily).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.kernels.reading import is_finite
from genepool.merging.agreed_buffers import agreed_buffer
from genepool.merging.double_sum import all_doubles, summed_doubles
from genepool.merging.group import TensorGroup
from genepool.merging.group_inputs import GroupInputs
from genepool.merging.lines_scaling import LinesScale, changed_norm, summed_norm
from genepool.merging.method import Grain
from genepool.merging.outputs import OutputTensor, in_batches
from genepool.merging.stored_arrays import StoredArrays, is_moved
from genepool.merging.stored_sum import StoredSums
from genepool.merging.survey import Survey
from genepool.merging.weighted_sum import Gram, WeightedSum
from genepool.threads import core_count, in_order, torch_threads
from genepool.weights.change import BLOCK_ENTRIES
from genepool.weights.tensor_info import shape_text, tensor_bytes, torch_dtype

if TYPE_CHECKING:
    import torch

    from genepool.merging.plan import Plan

# On an accelerator larger blocks are better: launches cost more than memory.
DEVICE_BLOCK_ENTRIES = 1 << 25
# Finished surveys of single tensors that are remembered, for readers that come back for more rows.
_REMEMBERED = 64


class Engine:
    """Computes the tensors of one plan.

    Args:
        plan: what to merge.
        device: where to compute ("cpu", "cuda"); inputs and results pass through it block by block.
    """

    def __init__(self, plan: Plan, device: str = "cpu") -> None:
        self.plan, self.method, self.device_name = plan, plan.method, device
        self._lock = threading.Lock()
        self._model_survey: Survey | None = None
        self._surveyed = plan.scope != "model"
        self._surveys: OrderedDict[str, Survey | None] = OrderedDict()
        self._whole = threading.local()
        self._grains: dict[str, Grain] = {}
        self._on_arrays: dict[str, bool] = {}
        self._lines = LinesScale(plan.recipe.lines, plan.depth) if plan.recipe.lines else None
        self._lines_lock = threading.Lock()
        self._sums = StoredSums(plan)
        self._arrays = StoredArrays(plan, self._sums)
        self._inputs = GroupInputs(plan, device, self._block_rows)

    @cached_property
    def needs_torch(self) -> bool:
        """Whether anything here computes with torch, whose import takes longer than many a merge."""
        if not all(self._takes_stored(out) for out in self.plan.layout.outputs):
            return True
        settings = [self.plan.settings(out) for out in self.plan.layout.merged if not self._takes_arrays(out)]
        surveys = (self.method.survey(own.shared, own.per_model, 1) for own in settings)
        return not all(survey is None or isinstance(survey, Gram) for survey in surveys)

    # ------------------------------------------------------------------ surveys over the whole vector

    def prepare(self, threads: int | None = None) -> None:
        """Makes the passes over the whole vector, once, if the method or the recipe needs them."""
        self._prepare_survey(threads)
        if self._lines is not None:
            with self._lines_lock:
                if self._lines.needs_norms:
                    self._measure_lines(self._lines, threads or core_count())

    def _prepare_survey(self, threads: int | None = None) -> None:
        with self._lock:
            if self._surveyed:
                return
            survey = self.plan.new_model_survey()
            if survey is not None:
                self._survey_model(survey, threads or core_count())
            self._model_survey, self._surveyed = survey, True

    def _measure_lines(self, lines: LinesScale, threads: int) -> None:
        """One pass over the merged blocks for the norms LiNeS takes its alpha from."""
        from genepool import progress

        outputs = self._float_outputs()
        with (
            progress.bar("measuring for LiNeS", sum(out.info.numel for out in outputs), "entries") as bar,
            torch_threads(1),
            ThreadPoolExecutor(threads) as pool,
        ):
            summed = merged = 0.0
            for out, norms in in_order(pool, self._norms, outputs, threads):
                summed, merged = summed + norms[0], merged + norms[1]
                bar.advance(out.info.numel)
        lines.set_norms(summed, merged, max(len(out.inputs) for out in self.plan.layout.merged))

    def _norms(self, out: OutputTensor) -> tuple[float, float]:
        """L1 norms of the summed task vectors and of the merged one, of one tensor."""
        survey = self._survey(out)
        summed = merged = 0.0
        for group in self._groups(out):
            # First, because merging may write into the deltas.
            summed += summed_norm(group)
            result, base = self.method.merge(group, survey), group.read_base()
            assert base is not None
            merged += changed_norm(result, base)
        return summed, merged

    def _float_outputs(self) -> list[OutputTensor]:
        return [out for out in self.plan.layout.merged if out.info.is_float and out.info.numel]

    def _survey_model(self, survey: Survey, threads: int) -> None:
        from genepool import progress

        outputs = self._float_outputs()
        batches = in_batches(outputs)
        total = survey.passes * sum(out.info.numel for batch in batches for out in batch)
        with (
            progress.bar(f"surveying for {self.method.name}", total, "entries") as bar,
            torch_threads(1 if self.needs_torch else None),
            # To start a thread takes as long as a pass over a small model.
            ThreadPoolExecutor(threads) if len(batches) > 1 else nullcontext() as pool,
        ):
            for number in range(survey.passes):
                self._sample(survey, number, outputs)
                if not survey.wanted(number):
                    bar.advance(total // survey.passes)
                    continue
                # Folded in the order of the output whatever finishes first: sums come out the same every time.
                for batch, summary in in_order(pool, partial(self._observe, survey, number), batches, threads):
                    survey.fold(number, summary)
                    bar.advance(sum(out.info.numel for out in batch))
                survey.finish(number)

    def _sample(self, survey: Survey, number: int, outputs: Sequence[OutputTensor]) -> None:
        if survey.samples(number) and all(self._takes_arrays(out) for out in outputs):
            self._arrays.sample(survey, number, outputs)

    def _observe(self, survey: Survey, number: int, outputs: Sequence[OutputTensor]) -> Any:
        summary = survey.begin(number)
        for out in outputs:
            stored = isinstance(survey, Gram) and self._takes_stored(out)
            arrays = self._takes_arrays(out)
            for start, stop in self._block_rows(out):
                if arrays and (start := self._arrays.observe(survey, number, out, start, stop, summary)) == stop:
                    continue
                products = self._sums.products(out, start, stop) if stored else None
                if products is not None:
                    assert isinstance(survey, Gram)
                    survey.add(products, summary)
                else:
                    survey.observe(number, self._inputs.group(out, start, stop), summary)
        return summary

    def _survey(self, out: OutputTensor) -> Survey | None:
        """The finished survey that holds for one tensor."""
        self._prepare_survey()
        if self.plan.scope == "model":
            return self._model_survey
        with self._lock:
            if out.name in self._surveys:
                return self._surveys[out.name]
        settings = self.plan.settings(out)
        survey = self.method.survey(settings.shared, settings.per_model, out.info.numel)
        if survey is not None:
            for number in range(survey.passes):
                self._sample(survey, number, [out])
                if survey.wanted(number):
                    survey.fold(number, self._observe(survey, number, [out]))
                    survey.finish(number)
        with self._lock:
            self._surveys[out.name] = survey
            if len(self._surveys) > _REMEMBERED:
                self._surveys.popitem(last=False)
        return survey

    # ------------------------------------------------------------------ results

    def stored_blocks(self, out: OutputTensor) -> Iterator[tuple[int, memoryview]]:
        """One output tensor as (first row, bytes of rows as they are stored), from top to bottom.

        The bytes hold until the next block is asked for.

        Raises:
            InputError: as for `blocks`.
        """
        for start, stop in self._block_rows(out):
            rows = self._stored_rows(out, start, stop)
            yield start, tensor_bytes(self._computed(out, start, stop)) if rows is None else rows

    def blocks(self, out: OutputTensor) -> Iterator[tuple[int, torch.Tensor]]:
        """One output tensor as (first row, rows) in its stored type, from top to bottom.

        Raises:
            InputError: an input holds NaN or infinity, or a non-float tensor differs between models.
        """
        for start, stop in self._block_rows(out):
            yield start, self._merged(out, start, stop)

    def rows(self, out: OutputTensor, start: int, stop: int) -> torch.Tensor:
        """Some rows of one output tensor in its stored type; what merges of merges read."""
        if out.info.is_float and self.grain(out) in ("entry", "row"):
            return self._merged(out, start, stop)
        # What cannot be computed in parts is computed once and kept until another tensor is asked for.
        if getattr(self._whole, "name", None) != out.name:
            self._whole.tensor, self._whole.name = self.tensor(out), out.name
        whole: torch.Tensor = self._whole.tensor
        return whole.reshape(out.info.matrix)[start:stop]

    def tensor(self, out: OutputTensor) -> torch.Tensor:
        """One output tensor in its stored type."""
        import torch

        stored = torch_dtype(self.plan.infos[out.name].dtype)
        result: torch.Tensor | None = None
        for start, block in self.blocks(out):
            if block.shape[0] == out.info.matrix[0]:
                return block.reshape(out.info.shape)
            if result is None:
                result = torch.empty(out.info.matrix, dtype=stored)
            result[start : start + block.shape[0]] = block
        return torch.empty(out.info.shape, dtype=stored) if result is None else result.reshape(out.info.shape)

    def grain(self, out: OutputTensor) -> Grain:
        """The smallest part of this tensor that can be computed by itself."""
        if out.kept is not None:
            return "entry"
        if out.name not in self._grains:
            settings = self.plan.settings(out)
            self._grains[out.name] = self.method.grain_of(self.plan.site(out), out.info.shape, settings.shared)
        return self._grains[out.name]

    def working_bytes(self, out: OutputTensor) -> int:
        """Memory that computing one tensor takes, about: float32 inputs and the method's copies of what is in work."""
        rows, columns = out.info.matrix
        rows = min(rows, self._rows_at_once(out))
        return 4 * self.method.held_entries(self.grain(out), rows, columns, len(out.inputs))

    def memory_budget(self) -> int:
        """What all tensors in work together may take: eight times the largest matrix that is not computed in parts."""
        whole = [
            self._rows_at_once(out) * out.info.matrix[1]
            for out in self.plan.layout.outputs
            if self.grain(out) in ("matrix", "tensor")
        ]
        return max(32 * max(whole, default=0), 2**27)

    def _takes_stored(self, out: OutputTensor) -> bool:
        return self._takes_arrays(out) or (self.device_name == "cpu" and out.info.is_float and self._sums.takes(out))

    def _takes_arrays(self, out: OutputTensor) -> bool:
        usable = self.device_name == "cpu" and out.info.is_float and out.name not in self._inputs.agreed
        if not usable:
            return False
        if out.name not in self._on_arrays:
            self._on_arrays[out.name] = self._arrays.takes(out)
        return self._on_arrays[out.name]

    def _stored_rows(self, out: OutputTensor, start: int, stop: int) -> memoryview | None:
        """Rows that need no torch; None when they do, or when something in them is not finite."""
        if start == stop or not self._takes_stored(out):
            return None
        if out.kept is not None:
            return self._sums.copied(out, start, stop)
        self.prepare()
        survey = self._survey(out)
        if self._takes_arrays(out):
            return self._arrays.merged(out, survey, start, stop)
        # The survey may just have met a buffer that is carried.
        return self._sums.merged(out, survey, start, stop) if self._sums.takes(out) else None

    def _merged(self, out: OutputTensor, start: int, stop: int) -> torch.Tensor:
        import torch

        rows = self._stored_rows(out, start, stop)
        if rows is None:
            return self._computed(out, start, stop)
        flat = torch.frombuffer(bytearray(rows), dtype=torch_dtype(self.plan.infos[out.name].dtype))
        return flat.reshape(stop - start, -1)

    def _computed(self, out: OutputTensor, start: int, stop: int) -> torch.Tensor:
        import torch

        if out.kept is not None:
            rows = self.plan.sources[out.kept.model].read_rows(out.kept.tensor, start, stop)
            stored = torch_dtype(self.plan.infos[out.name].dtype)
            return self._inputs.finite(rows.to(stored), out, out.kept) if out.info.is_float else rows
        if not out.info.is_float:
            return self._inputs.copied(out).reshape(out.info.matrix)[start:stop]
        stored = torch_dtype(self.plan.infos[out.name].dtype)
        if out.base is not None and self.method.inputs != "tensors" and not self.moved(out):
            # No model touches this tensor: the base's bytes, not the rounding of an addition of zero.
            base = self.plan.sources[out.base.model].read_rows(out.base.tensor, start, stop)
            return self._inputs.finite(base.to(stored), out, out.base)
        self.prepare()
        if stored == torch.float64 and (doubles := self._doubles(out, start, stop)) is not None:
            return doubles
        group = self._inputs.group(out, start, stop)
        merged = self.method.merge(group, self._survey(out))
        if tuple(merged.shape) != group.rows:
            raise InputError(
                f"{shape_text(tuple(merged.shape))} was computed, expected {shape_text(group.rows)}",
                where=out.name,
                fix="The merge method returned a tensor of another shape",
            )
        if self._lines is not None:
            # Read again: the method may have written into the base it was given.
            unchanged = group.read_base()
            assert unchanged is not None
            merged = self._lines.apply(merged, unchanged, out.role.layer)
        if out.name in self._inputs.agreed:
            agreed = agreed_buffer(self.plan.sources, out, start, stop)
            assert agreed is not None
            return agreed.to(stored)
        result: torch.Tensor = merged.to(device="cpu", dtype=stored)
        if self.plan.recipe.nonfinite == "refuse" and not is_finite(result):
            # Values are computed in float32, so a wider type to store them in holds no larger ones.
            kind = torch.float32 if stored == torch.float64 else stored
            wider = "Set `dtype: bfloat16` or `dtype: float32`, or s" if stored == torch.float16 else "S"
            raise InputError(
                f"the merged values are too large for {str(kind).removeprefix('torch.')}",
                where=f"{self.plan.recipe.where}:{out.name}",
                fix=f"{wider}et smaller weights in the recipe, or `genepool merge --allow-nonfinite`",
            )
        return result

    def _doubles(self, out: OutputTensor, start: int, stop: int) -> torch.Tensor | None:
        """Rows of a weighted sum of tensors in float64; None where another path has to say why."""
        method, settings, sources = self.method, self.plan.settings(out), self.plan.sources
        if not isinstance(method, WeightedSum) or self._lines is not None or not all_doubles(sources, out):
            return None
        survey = self._survey(out)
        factors = method.factors(self.plan.site(out), settings.shared, settings.per_model, survey, out.base is not None)
        if factors is None:
            return None
        found = summed_doubles(sources, out, factors, start, stop, method.inputs == "deltas")
        return found if is_finite(found) else None

    # ------------------------------------------------------------------ inputs

    def moved(self, out: OutputTensor) -> bool:
        """Whether any model may differ from the base here; False when it is known without reading that none does."""
        return is_moved(self.plan, out)

    def _rows_at_once(self, out: OutputTensor) -> int:
        """Rows of a block: as many as the grain asks for, or as fill a block well."""
        rows, columns = out.info.matrix
        grain = self.grain(out)
        if grain == "tensor":
            return max(1, rows)
        if grain == "matrix":
            return max(1, out.info.shape[-2]) if len(out.info.shape) > 1 else 1
        entries = BLOCK_ENTRIES if self.device_name == "cpu" else DEVICE_BLOCK_ENTRIES
        return max(1, entries // max(1, columns))

    def _block_rows(self, out: OutputTensor) -> Iterator[tuple[int, int]]:
        """First row and end of every block. What is copied, and what has no entries, is one block or none."""
        rows, _ = out.info.matrix
        step = self._rows_at_once(out) if out.info.is_float else max(1, rows)
        for start in range(0, rows, step):
            yield start, min(rows, start + step)

    def _groups(self, out: OutputTensor) -> Iterator[TensorGroup]:
        for start, stop in self._block_rows(out):
            yield self._inputs.group(out, start, stop)
