"""What a merge reads of its models: rows in blocks, looked at for NaN and infinity as they come."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.kernels.reading import is_finite, subtract
from genepool.merging.agreed_buffers import agreed_buffer
from genepool.merging.group import TensorGroup
from genepool.merging.outputs import Input, OutputTensor
from genepool.merging.statistics import statistic_of
from genepool.weights.in_memory import stacked_changes

if TYPE_CHECKING:
    import torch

    from genepool.merging.plan import Plan


class GroupInputs:
    """Groups of rows of a plan's models.

    Args:
        plan: what is merged.
        device: where groups are computed.
        blocks: the first row and the end of every block of a tensor.

    Attributes:
        agreed: tensors that were met holding infinity in all models alike, which is carried.
    """

    def __init__(self, plan: Plan, device: str, blocks: Callable[[OutputTensor], Iterator[tuple[int, int]]]) -> None:
        self.plan, self.device_name, self._blocks = plan, device, blocks
        self.agreed: set[str] = set()
        # Views of what the models hold.
        self._stacks: dict[str, torch.Tensor | None] = {}
        self._unread: dict[str, TensorGroup] = {}

    def group(self, out: OutputTensor, start: int, stop: int) -> TensorGroup:
        """Rows of one tensor of the result as a method sees them; nothing is read yet."""
        held = self._held(out, start, stop)
        if held is None:
            return self._new_group(out, start, stop, None)
        # A search looks at small tensors in memory, pass after pass: to make a group takes as long as to look at it.
        if out.name not in self._unread:
            self._unread[out.name] = self._new_group(out, start, stop, held)
        return copy.copy(self._unread[out.name])

    def _new_group(self, out: OutputTensor, start: int, stop: int, held: torch.Tensor | None) -> TensorGroup:
        import torch

        settings, sources = self.plan.settings(out), self.plan.sources
        device = torch.device(self.device_name)

        def rows_of(given: Input) -> torch.Tensor:
            return sources[given.model].read_rows(given.tensor, start, stop).to(device)

        @cache
        def base_rows() -> torch.Tensor:
            assert out.base is not None
            return rows_of(out.base)

        def read_base() -> torch.Tensor | None:
            # A copy, since what a group returns may be written into and the rows are read once for all models.
            return None if out.base is None else self._usable(base_rows().to(torch.float32, copy=True), out, out.base)

        def read_model(i: int, into: torch.Tensor) -> None:
            self._usable(into.copy_(rows_of(out.inputs[i])), out, out.inputs[i])

        def read_delta(i: int, into: torch.Tensor) -> None:
            given = out.inputs[i]
            assert out.base is not None
            source, base = sources[given.model], sources[out.base.model]
            # Another layer of the same model, or a head that stands for a tied embedding, is a difference of rows too.
            same = given.tensor == out.base.tensor
            if same and not source.moves(given.tensor, base):
                into.zero_()
                return
            if same and source.holds_change(base):
                delta = source.delta_rows(given.tensor, base, start, stop)
                assert delta is not None
                finite = is_finite(into.copy_(delta))
            else:
                finite = subtract(rows_of(given), base_rows(), into)
            if not finite:
                # A difference is spoilt by either side: name the one that is.
                self.finite(base_rows().to(torch.float32), out, out.base)
                self._usable(into, out, given)

        return TensorGroup(
            out.name,
            self.plan.site(out),
            out.info.shape,
            start,
            stop,
            settings.shared,
            settings.per_model,
            self.plan.recipe.seed,
            device,
            read_base,
            read_model,
            read_delta,
            out.base is not None,
            partial(statistic_of, self.plan.statistics, out.inputs, start, stop, device),
            held,
        )

    def _held(self, out: OutputTensor, start: int, stop: int) -> torch.Tensor | None:
        """All differences of a whole tensor, where a search keeps them in memory beside each other."""
        rows, columns = out.info.matrix
        if out.base is None or self.device_name != "cpu" or stop - start < rows:
            return None
        if any(given.tensor != out.base.tensor for given in out.inputs):
            return None
        if out.name not in self._stacks:
            sources = [self.plan.sources[given.model] for given in out.inputs]
            stack = stacked_changes(sources, out.base.tensor, self.plan.sources[out.base.model])
            self._stacks[out.name] = None if stack is None else stack.reshape(len(sources), rows, columns)
        return self._stacks[out.name]

    def _usable(self, rows: torch.Tensor, out: OutputTensor, given: Input) -> torch.Tensor:
        """Rows to compute with: zeros stand for what an agreed buffer holds, which is put back afterwards."""
        found = self.finite(rows, out, given)
        return found.nan_to_num_(0.0, 0.0, 0.0) if out.name in self.agreed else found

    def finite(self, rows: torch.Tensor, out: OutputTensor, given: Input) -> torch.Tensor:
        """The rows of an input, which are finite, or of a buffer that all models agree on.

        Raises:
            InputError: they hold NaN or infinity, and the recipe does not allow them.
        """
        if self.plan.recipe.nonfinite == "refuse" and not is_finite(rows):
            if all(agreed_buffer(self.plan.sources, out, start, stop) is not None for start, stop in self._blocks(out)):
                self.agreed.add(out.name)
                return rows
            wide = self.plan.sources[given.model].info(given.tensor).dtype == "F64"
            raise InputError(
                "holds NaN, infinity, or values too large for float32" if wide else "holds NaN or infinity",
                where=f"{given.model}:{given.tensor}",
                fix="Its training diverged or the file is damaged: leave this model out, or `genepool merge "
                "--allow-nonfinite`",
            )
        return rows

    def copied(self, out: OutputTensor) -> torch.Tensor:
        """Integer and boolean tensors are not merged: the base's is kept, or the one all models agree on.

        Raises:
            InputError: there is no base, and the models' differ.
        """
        import torch

        sources = self.plan.sources
        if out.base is not None:
            return sources[out.base.model].read(out.base.tensor)
        first, *others = (sources[given.model].read(given.tensor) for given in out.inputs)
        if not all(torch.equal(first, other) for other in others):
            raise InputError(
                f"tensors of type {out.info.dtype} cannot be averaged, and the models' differ",
                where=f"{self.plan.recipe.where}:{out.name}",
                fix="Name a base: its tensor is then kept",
            )
        return first
