"""Statistics of models that some merge methods weigh entries or inputs by: what a calibration run found out.

A file of them holds tensors called `KIND/FINGERPRINT/TENSOR`, so statistics are found by what a model is, wherever it
lies, and those of another model are never taken for its own. Kinds: `fisher` is the mean squared gradient of the
log-likelihood, in the tensor's shape. `gram` is `X^T X / N` of the inputs X of a linear layer, `(inputs, inputs)`.
`gram_transposed` is the same of a layer whose matrix is `(inputs, outputs)`. Merge methods read them through their
groups; `genepool.composition` computes them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from genepool import progress
from genepool.errors import InputError, listed
from genepool.merging.outputs import Input, OutputTensor
from genepool.weights import Weights
from genepool.weights.checkpoint import Checkpoint

if TYPE_CHECKING:
    import torch

#: What a merge method may need to know of every model.
StatisticKind = Literal["fisher", "gram"]
_TRANSPOSED = "gram_transposed"
_SHOWN = 12
# How far mirrored entries of a Gram matrix in float32 may lie apart: of their inputs' norms, and of the trace where
# squares are too small for float32.
_OF_INPUTS, _OF_ALL = 1e-3, 1e-9


class Statistic(NamedTuple):
    """What is known of one model's tensor.

    Attributes:
        values: some rows of the Fisher information, `(rows, columns)` float32; or the Gram matrix, `(inputs, inputs)`
            float64.
        transposed: whether the tensor is `(inputs, outputs)`.
    """

    values: torch.Tensor
    transposed: bool = False


class Statistics:
    """The statistics of the models of one merge.

    Args:
        tensors: the file, or tensors in memory with the same names.
        keys: model, as the recipe calls it -> its fingerprint.
        kind: what the merge method needs.

    Raises:
        InputError: there are none of a model.
    """

    def __init__(self, tensors: Weights, keys: Mapping[str, str], kind: StatisticKind) -> None:
        self.tensors, self.keys, self.kind = tensors, dict(keys), kind
        self._prefixes = (kind,) if kind == "fisher" else (kind, _TRANSPOSED)
        known = {tuple(name.split("/", 2)[:2]) for name in tensors.names()}
        for model, key in self.keys.items():
            if not any((prefix, key) in known for prefix in self._prefixes):
                raise InputError(
                    f"holds no {kind} statistics of {model} (sha256 {key[:_SHOWN]})",
                    where=tensors.name,
                    fix="Compute them of the models as they are now",
                )

    def of(self, model: str, tensor: str) -> str | None:
        """The name of a tensor's statistic; None where there is none."""
        names = (f"{prefix}/{self.keys[model]}/{tensor}" for prefix in self._prefixes)
        return next((name for name in names if name in self.tensors), None)

    def read(self, model: str, tensor: str, start: int, stop: int) -> Statistic | None:
        """What is known of some rows of a tensor; None where nothing is.

        Raises:
            InputError: it holds NaN, infinity, or what no such statistic can be.
        """
        import torch

        name = self.of(model, tensor)
        if name is None:
            return None
        if self.kind == "fisher":
            values = self.tensors.read_rows(name, start, stop).to(torch.float32)
            possible = values
        else:
            values = self.tensors.read(name).to(torch.float64)
            possible = values.diagonal()
        if not bool(torch.isfinite(values).all()) or bool((possible < 0).any()):
            raise InputError(
                "holds NaN, infinity or a negative square", where=f"{self.tensors.name}:{name}", fix="Compute it again"
            )
        if self.kind == "gram" and not _is_symmetric(values):
            raise InputError(
                "is not symmetric, as a Gram matrix is", where=f"{self.tensors.name}:{name}", fix="Compute it again"
            )
        return Statistic(values, name.startswith(_TRANSPOSED))

    def check(self, outputs: Iterable[OutputTensor]) -> None:
        """Looks at the shapes, and says which tensors are averaged because nothing is known of them.

        Raises:
            InputError: a statistic has another shape than its tensor asks for.
        """
        unknown = []
        for out in outputs:
            found = [self._checked(one.model, one.tensor, out.info.shape) for one in out.inputs]
            if self._is_wanted(out) and not all(found):
                unknown.append(out.name)
        if unknown:
            progress.message(
                f"note: of {listed(unknown, 2)} there are no {self.kind} statistics; the weighted mean is taken."
            )

    def _is_wanted(self, out: OutputTensor) -> bool:
        """Whether a tensor is one that such statistics are there for: all, or the matrices of linear layers."""
        layer = len(out.info.shape) == 2 and out.role.part not in ("embedding", "norm")
        return out.info.is_float and out.info.numel > 0 and (layer or self.kind == "fisher")

    def _checked(self, model: str, tensor: str, shape: tuple[int, ...]) -> bool:
        name = self.of(model, tensor)
        if name is None:
            return False
        expected = shape
        if self.kind == "gram":
            inputs = shape[0 if name.startswith(_TRANSPOSED) else -1] if len(shape) == 2 else 0
            expected = (inputs, inputs)
        info = self.tensors.info(name)
        if info.shape != expected or not info.is_float:
            raise InputError(
                f"is {list(info.shape)} of {info.dtype}, expected floats of {list(expected)}",
                where=f"{self.tensors.name}:{name}",
                fix="Compute it of the models that are merged",
            )
        return True


def _is_symmetric(gram: torch.Tensor) -> bool:
    """Whether a matrix is symmetric but for rounding, measured by the inputs of each entry."""
    norms = gram.diagonal().sqrt()
    allowed = norms[:, None] * (_OF_INPUTS * norms)
    allowed += _OF_ALL * float(norms.square().sum())
    return bool(((gram - gram.mT).abs_() <= allowed).all())


def statistic_of(
    statistics: Statistics | None, inputs: Sequence[Input], start: int, stop: int, device: torch.device, model: int
) -> Statistic | None:
    """What is known of some rows of one model's tensor; None where nothing is.

    Args:
        statistics: of the merge, where there are any.
        inputs: the models' tensors.
        start, stop: the rows.
        device: where the values are wanted.
        model: the number of the model among the inputs.
    """
    given = inputs[model]
    found = None if statistics is None else statistics.read(given.model, given.tensor, start, stop)
    return None if found is None else found._replace(values=found.values.to(device))


def open_statistics(path: str, folder: Path | None) -> Weights:
    """A file of statistics; headers only.

    Args:
        path: as the recipe names it.
        folder: that of the recipe, where a relative path is looked up first.

    Raises:
        InputError: there is none, or it is damaged.
    """
    place = Path(os.path.expanduser(path))
    if folder is not None and (folder / place).is_file():
        place = folder / place
    if not place.is_file():
        raise InputError("no such file of statistics", where=path, fix="Check the path")
    return Checkpoint(place)
