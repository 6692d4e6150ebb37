"""Calibration: what inputs of its own task say about a skill, as statistics that merge methods weigh by.

`fisher_information` takes gradients, `gram_matrices` watches the inputs of linear layers. Every example is asked by
itself, so no padding is ever counted. The tensors are named as `genepool.merging.statistics` reads them. Uses `inputs`
and `world`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from genepool import progress
from genepool.composition.inputs import TaskInputs, own_answers_of
from genepool.composition.linear_layers import LinearLayer, linear_layers
from genepool.composition.world import World
from genepool.errors import InputError
from genepool.seeding import torch_generator
from genepool.tasks.answers import AnswerBatch
from genepool.tasks.network import Network

if TYPE_CHECKING:
    import torch

#: How the labels of the Fisher information are had from the model: one drawn for each target, or all of them, each
#: weighted by its probability.
Labels = Literal["sampled", "expected"]
# More classes than this take as many backward passes for each example.
_MOST_CLASSES = 256


class SkillCalibration:
    """One skill with the inputs of its own task, in a network that holds it.

    Args:
        world: the skills and the tasks. Its network holds the skill afterwards.
        number: of the skill.

    Raises:
        InputError: no task is called like the skill, or it answers none of its inputs.
    """

    def __init__(self, world: World, number: int) -> None:
        self.skill = world.skills.skills[number]
        owned = [task for task in world.tasks if task.owner == number]
        if not owned:
            raise world.lacks_task(self.skill.name, "nothing is known of its inputs", self.skill.reference)
        self.network, self.number, self.seed = world.network, number, world.seed
        self.network.assign(self.skill.change.applied())
        self.inputs = [own_answers_of(task, self.network, False) for task in owned]

    @property
    def count(self) -> int:
        """How many examples there are."""
        return sum(len(inputs.questions) for inputs in self.inputs)

    def batches(self) -> Iterator[AnswerBatch]:
        """Every example by itself."""
        for inputs in self.inputs:
            for question in inputs.questions:
                yield from self.network.answer_batches([question], 1, closed=inputs.closed)


def fisher_information(
    calibration: SkillCalibration, names: Collection[str], labels: Labels
) -> dict[str, torch.Tensor]:
    """The diagonal of the Fisher information: the mean over examples of the squared gradient of the log-likelihood.

    The gradient is that of one example, squared before anything is added up; labels are the model's own.

    Args:
        calibration: the skill and its inputs.
        names: of the parameters, in the network.
        labels: how labels are had.

    Returns:
        Tensor -> float32, in its shape.

    Raises:
        InputError: a gradient is not finite, or there are too many classes for all of them.
    """
    import torch

    found: dict[str, torch.Tensor] = {}

    def square(name: str) -> Callable[[torch.nn.Parameter], None]:
        def take(parameter: torch.nn.Parameter) -> None:
            assert parameter.grad is not None
            found[name].add_(parameter.grad.float().square())
            parameter.grad = None

        return take

    drawing = torch_generator(calibration.seed, "labels", calibration.skill.name)
    with calibration.network.changing(names) as parameters, torch.enable_grad():
        found |= {name: torch.zeros_like(one, dtype=torch.float32) for name, one in parameters.items()}
        hooks = [
            one.register_post_accumulate_grad_hook(square(name))  # type: ignore[no-untyped-call]
            for name, one in parameters.items()
        ]
        try:
            for batch in calibration.batches():
                logs = calibration.network.answer_logits(batch).log_softmax(-1)
                for loss in _losses(logs, labels, drawing, calibration.skill.reference):
                    loss.backward(retain_graph=labels == "expected")  # type: ignore[no-untyped-call]
        finally:
            for hook in hooks:
                hook.remove()
    return {
        name: _finite(one / calibration.count, f"the gradient of {name} is", calibration) for name, one in found.items()
    }


def _losses(logs: torch.Tensor, labels: Labels, drawing: torch.Generator, where: str) -> Iterator[torch.Tensor]:
    """What the gradients of an example are squared of.

    Args:
        logs: log-probabilities, `(targets, choices)`.
        labels: how labels are had.
        drawing: where drawn ones come from.
        where: the skill, for errors.
    """
    import torch

    probabilities = logs.detach().exp()
    if labels == "sampled":
        # NaN cannot be drawn from; what the gradient then is will be refused.
        odds = probabilities.cpu().nan_to_num(nan=1.0)
        drawn = torch.multinomial(odds, 1, generator=drawing).to(logs.device)
        yield logs.gather(1, drawn).sum()
        return
    if len(logs) > 1 or logs.shape[1] > _MOST_CLASSES:
        raise InputError(
            f"an answer has {len(logs)} targets of {logs.shape[1]} choices, too many to go through all",
            where=where,
            fix="Leave `labels` at sampled",
        )
    for choice in range(logs.shape[1]):
        # Squared, the root of the probability weighs the label by it.
        yield probabilities[0, choice].sqrt() * logs[0, choice]


def gram_matrices(
    calibration: SkillCalibration, layers: Mapping[str, LinearLayer], *, until: Sequence[LinearLayer] = ()
) -> dict[str, torch.Tensor]:
    """`X^T X / N` of the inputs X of linear layers, over N places of all examples.

    Args:
        calibration: the skill and its inputs, in whatever the network holds now.
        layers: the layers, by the name of their matrix.
        until: layers before which a forward pass ends, since nothing that follows is asked for.

    Returns:
        Matrix -> `(inputs, inputs)`, added up in float64, float32. Zeros for a layer that no example reaches.

    Raises:
        InputError: an input is not finite.
    """
    import torch

    network = calibration.network
    device = network.device
    widths = {name: layer.inputs for name, layer in layers.items()}
    found = {name: torch.zeros(width, width, dtype=torch.float64, device=device) for name, width in widths.items()}
    places = dict.fromkeys(layers, 0)

    def watch(name: str) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], None]:
        def take(_module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            rows = given[0].detach().reshape(-1, widths[name]).double()
            found[name].addmm_(rows.mT, rows)
            places[name] += len(rows)

        return take

    hooks = [layer.module.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    with torch.no_grad(), network.watched(), _ending_before(until):
        try:
            for batch in calibration.batches():
                _forward(network, batch)
        finally:
            for hook in hooks:
                hook.remove()
    return {
        name: _finite(one / max(1, places[name]), f"what goes into {name} is", calibration).float()
        for name, one in found.items()
    }


def running_order(calibration: SkillCalibration, layers: Mapping[str, LinearLayer]) -> list[str]:
    """The matrices of linear layers in the order in which they are first used; those that no example uses last."""
    import torch

    order: dict[str, None] = {}

    def watch(name: str) -> Callable[[torch.nn.Module, object], None]:
        return lambda _module, _given: order.setdefault(name)

    hooks = [layer.module.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            for batch in calibration.batches():
                calibration.network.answer_logits(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return [*order, *(name for name in layers if name not in order)]


class _Reached(Exception):
    """A forward pass has come to a layer that nobody asks about."""


@contextmanager
def _ending_before(layers: Sequence[LinearLayer]) -> Iterator[None]:
    def end(_module: torch.nn.Module, _given: object) -> None:
        raise _Reached

    hooks = [layer.module.register_forward_pre_hook(end) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _forward(network: Network, batch: AnswerBatch) -> None:
    try:
        network.answer_logits(batch)
    except _Reached:
        return


def _finite(values: torch.Tensor, what: str, calibration: SkillCalibration) -> torch.Tensor:
    import torch

    if not bool(torch.isfinite(values).all()):
        raise InputError(
            f"{what} NaN or infinity on the inputs of its task",
            where=calibration.skill.reference,
            fix="Leave this skill out, or compute in float32 (--dtype float32)",
        )
    return values.cpu()


def statistic_names(
    key: str, layers: Mapping[str, LinearLayer], found: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Gram matrices under the names that merge methods look for.

    Args:
        key: the skill's fingerprint.
        layers: which way round each matrix lies.
        found: matrix -> its Gram matrix.
    """
    return {
        f"gram{'_transposed' if layers[name].transposed else ''}/{key}/{name}": gram for name, gram in found.items()
    }


def calibrated_layers(world: World, names: Collection[str]) -> dict[str, LinearLayer]:
    """The linear layers of the network whose matrices are among some tensors."""
    return {name: one for name, one in linear_layers(world.network.model).items() if name in names}


def calibrations(world: World) -> Iterator[SkillCalibration]:
    """Every skill with its inputs, one after the other, in the one network."""
    count = len(world.skills.skills)
    for name in sorted({one.task.name for one in world.tasks if one.owner is None}):
        progress.message(f"{name}: belongs to no skill, so it is not asked")
    with progress.bar("calibrating", count, "skills") as bar:
        for number in range(count):
            bar.note(world.skills.names[number])
            yield SkillCalibration(world, number)
            bar.advance()


def inputs_in_words(inputs: Sequence[TaskInputs]) -> dict[str, int]:
    """How many examples of each task were asked, for the record."""
    return {one.name: len(one.questions) for one in inputs}
