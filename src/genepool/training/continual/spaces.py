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
