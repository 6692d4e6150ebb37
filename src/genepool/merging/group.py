"""What a merge method is given: some rows of one tensor, from every model, with the parameters that hold there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from genepool import seeding
from genepool.merging.parameters import Site
from genepool.merging.statistics import Statistic

if TYPE_CHECKING:
    import torch

    from genepool.kernels.stored import StoredVectors


@dataclass
class TensorGroup:
    """All that goes into some rows of one output tensor.

    Tensors are seen as matrices: rows run along the last axis, and a scalar or a vector is one row. Everything is
    float32, and a tensor; for methods `on_arrays` mostly a numpy array. What a group returns belongs to the caller, who
    may write into it once it is not needed again.

    Attributes:
        name: the output tensor's name.
        site: its role and layer.
        shape: of the whole tensor.
        start, stop: which of its rows these are.
        shared: parameters that hold for all models, resolved for this tensor.
        per_model: for each model its own parameters, resolved for this tensor.
        seed: the recipe's seed.
        device: where the tensors are; None for arrays.
        read_base: the base's rows; None when the method has no base.
        read_model: writes one model's rows, by its number, into the tensor it is given.
        read_delta: writes one model's rows minus the base's into the tensor it is given.
        has_base: whether the merge has a base.
        statistic: what calibration found out about one model's rows, by its number; None where nothing.
        held: every model's rows minus the base's, `(models, rows, columns)`, where they lie in memory like that; they
            must not be written into.
        read_deltas: gives all models' rows minus the base's, `(models, rows, columns)`, where they are arrays; where it
            is None they are tensors.
        window: the columns that belong to a sample; all of them for a block.
        stored: the models' rows and the base's as bits, where they lie in files as they are.
    """

    name: str
    site: Site
    shape: tuple[int, ...]
    start: int
    stop: int
    shared: Mapping[str, Any]
    per_model: Sequence[Mapping[str, Any]]
    seed: int
    device: Any
    read_base: Callable[[], Any]
    read_model: Callable[[int, Any], None]
    read_delta: Callable[[int, Any], None]
    has_base: bool = True
    statistic: Callable[[int], Statistic | None] = lambda _: None
    held: torch.Tensor | None = None
    read_deltas: Callable[[], Any] | None = None
    window: slice = field(default_factory=lambda: slice(None))
    stored: StoredVectors | None = None

    @property
    def rows(self) -> tuple[int, int]:
        """Shape of what is merged: (rows, columns)."""
        columns = self.shape[-1] if self.shape else 1
        return self.stop - self.start, columns

    @cached_property
    def base(self) -> torch.Tensor:
        """The base, `(rows, columns)`; only for methods that have a base."""
        base: torch.Tensor | None = self.read_base()
        assert base is not None, "the method has no base here"
        return base

    @cached_property
    def tensors(self) -> torch.Tensor:
        """Every model, `(models, rows, columns)`, in the recipe's order."""
        return self._stack(self.read_model)

    @cached_property
    def deltas(self) -> torch.Tensor:
        """Every model's task vector, model minus base, `(models, rows, columns)`."""
        if self.read_deltas is not None:
            arrays: Any = self.read_deltas()
            return arrays  # type: ignore[no-any-return]
        return self._stack(self.read_delta) if self.held is None else self.held.clone()

    @property
    def resting_deltas(self) -> torch.Tensor:
        """The same for methods that only look: nothing is copied where they are in memory."""
        return self.deltas if self.held is None else self.held

    def delta(self, model: int) -> torch.Tensor:
        """One model's task vector by itself, `(rows, columns)`, read anew: for methods that take one at a time."""
        from genepool.kernels import empty

        rows = empty(self.rows, self.device)
        self.read_delta(model, rows)
        return rows

    @property
    def vectors(self) -> torch.Tensor:
        """What methods with an optional base merge: the task vectors when there is a base, else the models."""
        return self.deltas if self.has_base else self.tensors

    def column(self, parameter: str) -> list[Any]:
        """One parameter of every model, in the recipe's order."""
        return [values[parameter] for values in self.per_model]

    def uniform(self, model: int) -> torch.Tensor:
        """Random numbers in [0, 1) that belong to (seed, tensor, model, place), `(rows, columns)`.

        The same in every pass, in blocks of any size, on any device.
        """
        from genepool.kernels import uniform

        rows, columns = self.rows
        return uniform(rows * columns, *self.stream(model), self.device).reshape(rows, columns)

    def stream(self, model: int) -> tuple[int, int]:
        """Key and offset of those numbers, for kernels that draw them themselves."""
        return seeding.derive(self.seed, self.name, model), self.start * self.rows[1]

    def _stack(self, read: Callable[[int, torch.Tensor], None]) -> torch.Tensor:
        from genepool.kernels import empty

        stacked = empty((len(self.per_model), *self.rows), self.device)
        for i, rows in enumerate(stacked):
            read(i, rows)
        return stacked
