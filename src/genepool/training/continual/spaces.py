"""The spaces that the inputs of linear layers span: what learners by projection keep of a task.

A step of a linear layer changes what it does to the directions of its gradient alone, so a gradient that is orthogonal
to the inputs of earlier tasks leaves their answers as they are. Uses torch; GPM and InfLoRA are built on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from genepool.tasks.answers import AnswerBatch
    from genepool.training.continual.lesson_place import LessonPlace
    from genepool.training.examples import TrainingExample


@dataclass(frozen=True)
class ProjectedLayer:
    """A linear layer whose weight is trained and belongs to it alone.

    Attributes:
        module: it.
        inputs_first: whether its weight is (inputs, outputs), as GPT-2's is, and not (outputs, inputs).
    """

    module: Any
    inputs_first: bool

    def projected(self, matrix: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
        """The part of a matrix of the weight's shape that acts on the space of a basis.

        Args:
            matrix: of the weight's shape.
            basis: orthonormal columns, (inputs, directions).
        """
        return basis @ (basis.T @ matrix) if self.inputs_first else (matrix @ basis) @ basis.T


@dataclass(frozen=True)
class ScaledSpace:
    """A space in which the weight W of a linear layer is scaled: `W + W S (Q - I) S^T` stands in its place.

    Attributes:
        space: S, orthonormal columns, (inputs, directions).
        scale: Q, (directions, directions).
    """

    space: torch.Tensor
    scale: torch.nn.Parameter

    @classmethod
    def scaled(cls, space: torch.Tensor, scale: torch.Tensor) -> ScaledSpace:
        """With a scale that is known."""
        import torch

        return cls(space.float(), torch.nn.Parameter(scale.float()))

    @classmethod
    def unscaled(cls, space: torch.Tensor) -> ScaledSpace:
        """With the scale I, which changes nothing."""
        import torch

        return cls.scaled(space, torch.eye(space.shape[1], device=space.device))

    def added(self, inputs: torch.Tensor) -> torch.Tensor:
        """What is added to the inputs of the layer, (..., inputs), so that it does what the scaled one does."""
        inside = inputs @ self.space.to(inputs.dtype)
        scaled = inside @ self.scale.T.to(inputs.dtype) - inside
        return scaled @ self.space.T.to(inputs.dtype)

    def change(self, weight: torch.Tensor, *, inputs_first: bool) -> torch.Tensor:
        """What the scale adds to a weight, of its shape, without gradients."""
        scale = self.scale.detach().to(weight.dtype)
        space = self.space.to(weight.dtype)
        if inputs_first:
            inside = space.T @ weight
            return space @ (scale.T @ inside - inside)
        inside = weight @ space
        return (inside @ scale - inside) @ space.T


def linear_layers(place: LessonPlace) -> dict[str, ProjectedLayer]:
    """The linear layers, by the name of their weight.

    A weight that is something else too, such as an embedding that is also the head, is left out: other inputs reach it.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    users: dict[int, list[Any]] = {}
    for module in place.model.model.modules():
        for parameter in module.parameters(recurse=False):
            users.setdefault(id(parameter), []).append(module)
    found = {}
    for name, parameter in place.parameters.items():
        owners = users.get(id(parameter), [])
        if len(owners) == 1 and parameter is getattr(owners[0], "weight", None):
            if isinstance(owners[0], torch.nn.Linear):
                found[name] = ProjectedLayer(owners[0], inputs_first=False)
            elif isinstance(owners[0], Conv1D):
                found[name] = ProjectedLayer(owners[0], inputs_first=True)
    return found


def input_covariances(
    place: LessonPlace, layers: Mapping[str, ProjectedLayer], lessons: Sequence[TrainingExample]
) -> dict[str, torch.Tensor]:
    """The sum of `x x^T` over everything that each layer is given while the model reads some examples.

    Args:
        place: the task.
        layers: by name.
        lessons: the examples. Places that are padding, or that come after the last predicted one, do not count.

    Returns:
        By the layer's name, (inputs, inputs), float64.
    """
    import torch

    found: dict[str, torch.Tensor] = {}
    with torch.no_grad(), place.model.watched():
        for batch in _watched_batches(place, lessons):
            with _watching(layers, _read_places(batch), found):
                place.model.answer_logits(batch)
    return found


def _watched_batches(place: LessonPlace, lessons: Sequence[TrainingExample]) -> Iterator[AnswerBatch]:
    """The examples as batches; each alone where encoder and decoder read different places.

    No mask tells then which of both a layer reads. Alone, an example has no padding on either side, and what comes
    after the last predicted place is cut off.
    """
    encoded = place.encode(lessons)
    if not any("decoder_input_ids" in batch.inputs for batch, _ in encoded):
        yield from (batch for batch, _ in encoded)
        return
    for lesson in lessons:
        for batch, _ in place.encode([lesson]):
            read = batch.inputs["decoder_input_ids"][:, : int(batch.places.max()) + 1]
            yield replace(batch, inputs={**batch.inputs, "decoder_input_ids": read})


@contextmanager
def _watching(
    layers: Mapping[str, ProjectedLayer], read: torch.Tensor | None, found: dict[str, torch.Tensor]
) -> Iterator[None]:
    """Inside, what each layer is given is added to the sums."""

    def watch(name: str) -> Any:
        def look(_: Any, inputs: tuple[Any, ...]) -> None:
            given = inputs[0].detach()
            if read is not None and given.shape[:-1] == read.shape:
                given = given[read.to(given.device)]
            rows = given.reshape(-1, given.shape[-1]).double()
            found[name] = found[name] + rows.T @ rows if name in found else rows.T @ rows

        return look

    hooks = [layer.module.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _read_places(batch: AnswerBatch) -> torch.Tensor | None:
    """Which places of a batch count, (rows, places), bool; None where all do."""
    import torch

    if "attention_mask" in batch.inputs:
        return batch.inputs["attention_mask"].bool()
    if not batch.last or "input_ids" not in batch.inputs:
        return None
    ids = batch.inputs["input_ids"]
    ends = torch.zeros(len(ids), dtype=torch.long)
    ends.scatter_reduce_(0, batch.rows.cpu(), batch.places.cpu(), "amax")
    return torch.arange(ids.shape[1]) <= ends.unsqueeze(1)


def extended_basis(basis: torch.Tensor | None, covariance: torch.Tensor, energy: float) -> torch.Tensor:
    """A basis with as many more directions as are needed to hold a share of the energy of some inputs.

    Saha et al., Gradient Projection Memory, arXiv:2103.09762, equations 8 and 9: the smallest number of singular
    vectors of what lies outside the basis such that these and the basis hold the share.

    Args:
        basis: orthonormal columns, (inputs, directions), float64; None where nothing is kept yet.
        covariance: the sum of `x x^T` over the inputs, (inputs, inputs).
        energy: the share, of the sum of squares.

    Returns:
        Orthonormal columns, (inputs, directions), float64.
    """
    import torch

    total = covariance.diagonal().sum()
    if total <= 0:
        return covariance.new_zeros(len(covariance), 0) if basis is None else basis
    outside = covariance if basis is None else without(covariance, basis)
    held = total - outside.diagonal().sum()
    values, vectors = torch.linalg.eigh(outside)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    known = 0 if basis is None else basis.shape[1]
    room = len(covariance) - known
    reached = held + torch.cat([values.new_zeros(1), values.cumsum(0)])
    # The last bits of a sum must not ask for one direction more than there are.
    enough = (reached >= energy * total * (1 - 1e-12)).nonzero()
    count = min(room, int(enough[0]) if len(enough) else room)
    added: torch.Tensor = vectors[:, :count]
    if basis is None:
        return added
    # Orthogonal to the basis but for rounding, which would add up over many tasks.
    grown: torch.Tensor = torch.linalg.qr(torch.cat([basis, added], 1))[0]
    return grown


def without(covariance: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """The covariance of what is left of the inputs when their part in the space of a basis is taken away."""
    left = covariance - basis @ (basis.T @ covariance)
    return left - (left @ basis) @ basis.T


def task_directions(
    basis: torch.Tensor | None, covariance: torch.Tensor, energy: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """A basis with the new directions that a task needs, and which of all of its columns are the task's own.

    Lin et al., Trust Region Gradient Projection, arXiv:2202.02931, as the authors' code has it: the directions that are
    known and the singular vectors of what lies outside of them are ranked together by the energy that they hold, and
    the task's are the fewest that hold the share. Columns that are known stay as they are, so that numbers of columns
    can be kept.

    Args:
        basis: orthonormal columns, (inputs, directions), float64; None where nothing is kept yet.
        covariance: the sum of `x x^T` over the inputs, (inputs, inputs).
        energy: the share, of the sum of squares.

    Returns:
        Orthonormal columns, (inputs, directions), float64, and the numbers of the task's own, ascending, int64.
    """
    import torch

    known = covariance.new_zeros(len(covariance), 0) if basis is None else basis
    total = covariance.diagonal().sum()
    if total <= 0:
        return known, torch.zeros(0, dtype=torch.int64, device=covariance.device)
    values, vectors = torch.linalg.eigh(without(covariance, known) if known.shape[1] else covariance)
    room = len(covariance) - known.shape[1]
    # What lies outside has as many directions as there is room for; the other eigenvalues are rounding.
    values, vectors = values.flip(0)[:room].clamp(min=0), vectors.flip(1)[:, :room]
    held = torch.cat([((covariance @ known) * known).sum(0), values])
    order = held.argsort(descending=True, stable=True)
    enough = (held[order].cumsum(0) >= energy * total * (1 - 1e-12)).nonzero()
    chosen = order[: int(enough[0]) + 1 if len(enough) else len(order)]
    fresh = chosen[chosen >= known.shape[1]].sort().values - known.shape[1]
    # Orthogonal to the basis but for rounding, which would add up over many tasks.
    added = vectors[:, fresh] - known @ (known.T @ vectors[:, fresh])
    added = torch.linalg.qr(added)[0]
    old = chosen[chosen < known.shape[1]]
    own = torch.cat([old, torch.arange(len(fresh), device=old.device) + known.shape[1]]).sort().values
    return torch.cat([known, added], 1), own
