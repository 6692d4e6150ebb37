"""What merge methods that treat weight matrices as matrices share: which tensors those are, and what becomes of others.

Used by `tsv_m`, `iso_c`, `iso_cts` and `wudi`. A fused tensor of experts is a stack of matrices and is treated, and
streamed, one matrix at a time.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from genepool.errors import InputError
from genepool.merging.group import TensorGroup
from genepool.merging.method import Grain, Method
from genepool.merging.parameters import Parameter, Site

if TYPE_CHECKING:
    import torch

WEIGHT = Parameter("weight", 1.0, "Factor of this model's task vector.", per_model=True)
LAMBDA = Parameter("lambda", 1.0, "Factor of the merged task vector; worth tuning on validation data.")
EMBEDDINGS = Parameter(
    "embeddings",
    "mean",
    "Embeddings and head: the mean of the task vectors, or treated as matrices like the rest.",
    kind=str,
    choices=("mean", "matrix"),
    source="the authors merge image encoders, which have neither",
)


class MatrixMethod(Method):
    """A method with one treatment for the matrices of linear layers and a simple one for all else.

    Class attributes:
        parts: roles whose two-dimensional tensors are treated as matrices.
    """

    inputs = "deltas"
    base = "required"
    parts: ClassVar[tuple[str, ...]] = ("attention", "mlp", "other")

    @abstractmethod
    def merged_matrix(self, group: TensorGroup) -> torch.Tensor:
        """The merged task vector of one matrix, `(rows, columns)` float32."""

    def merged_rest(self, group: TensorGroup) -> torch.Tensor:
        """The merged task vector of rows of any other tensor, `(rows, columns)` float32: the weighted mean."""
        total = self.weighted_sum(group)
        return total.div_(len(group.per_model))

    def working_entries(self, rows: int, columns: int, models: int) -> int:
        """Float32 entries in memory while one matrix is treated."""
        return super().held_entries("matrix", rows, columns, models)

    def grain_of(self, site: Site, shape: tuple[int, ...], shared: Mapping[str, Any]) -> Grain:
        if len(shape) == 2:
            treated = site.part in self.parts
            if site.part in ("embedding", "head"):
                treated = shared.get("embeddings") == "matrix"
        else:
            # Other tensors of three axes are kernels of convolutions.
            treated = len(shape) == 3 and site.part in ("attention", "mlp")
        return "matrix" if treated and min(shape) > 0 else "entry"

    def held_entries(self, grain: Grain, rows: int, columns: int, models: int) -> int:
        if grain != "matrix":
            return super().held_entries(grain, rows, columns, models)
        return self.working_entries(rows, columns, models)

    def merge(self, group: TensorGroup, survey: Any) -> torch.Tensor:
        import torch

        if self.grain_of(group.site, group.shape, group.shared) == "matrix":
            try:
                merged = self.merged_matrix(group)
            except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
                raise InputError(
                    f"{self.name} cannot factorise this matrix",
                    where=group.name,
                    fix="Leave out the model whose tensor holds NaN or infinity",
                ) from error
        else:
            merged = self.merged_rest(group)
        return merged.mul_(group.shared["lambda"]).add_(group.base)

    @staticmethod
    def weighted_deltas(group: TensorGroup) -> Iterator[tuple[float, torch.Tensor]]:
        """(weight, task vector) of every model in turn; those without weight are left out. Never write into them."""
        for i, weight in enumerate(group.column("weight")):
            if weight == 0:
                continue
            # Given away rather than kept here while the caller works and the next one is read.
            only = [group.delta(i)]
            yield weight, only.pop()

    def weighted_sum(self, group: TensorGroup) -> torch.Tensor:
        """The sum of the weighted task vectors, `(rows, columns)`."""
        import torch

        total = torch.zeros(group.rows, dtype=torch.float32, device=group.device)
        for weight, delta in self.weighted_deltas(group):
            total.add_(delta, alpha=weight)
            del delta
        return total
