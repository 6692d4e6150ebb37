"""Trust region gradient projection: GPM, and a new task may scale what the most related earlier tasks have learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from genepool.training.continual.memory import Memory
from genepool.training.continual.spaces import ScaledSpace, input_covariances, task_directions
from genepool.training.learners import LearnerOptions
from genepool.training.learners.gpm import Gpm, GpmOptions

if TYPE_CHECKING:
    import torch


class TrgpOptions(GpmOptions):
    """Options of `trgp`."""

    related: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="The share of the norm of a task's first gradient that must lie in the space of an earlier task, "
        "layer by layer, for that task to be related.",
    )
    tasks: int = Field(default=2, ge=1, description="Related tasks of a layer whose weights are scaled, at most.")


class Trgp(Gpm):
    """Where a layer's gradient lies in the space S of an earlier task, the new task uses `W + W S (Q - I) S^T`.

    The matrix Q, (directions, directions), begins as I, is trained with the task, and is kept for it; W itself moves
    outside of the spaces of all earlier tasks alone, as in GPM. Of each layer the nearest earlier tasks are scaled,
    those with the largest part of the gradient. Since the matrices belong to a task, every task is asked with its own,
    and what was never learned is asked of the base. A task's space is taken of its inputs with its own scales, as it is
    asked; the authors' code takes it without them.
    """

    name = "trgp"
    source = (
        "Lin et al., Trust Region Gradient Projection, arXiv:2202.02931: related from 0.2 on as the authors' code for "
        "permuted MNIST, 2 tasks; energy and examples as gpm"
    )
    when = "no example may be kept, later tasks are like earlier ones, and a model is told the task"
    Options: ClassVar[type[LearnerOptions]] = TrgpOptions
    options: TrgpOptions

    @property
    def knows_task(self) -> bool:
        return True

    def begin_task(self) -> None:
        super().begin_task()
        place = self.place
        self._scales: dict[tuple[str, int], ScaledSpace] = {}
        self._free: dict[str, torch.Tensor] = {}
        if not place.number:
            return
        gradients = place.loss_gradient(self._read())
        for name in [name for name in self._layers if name in self._bases and name in gradients]:
            basis = self._bases[name]
            scaled, free = self._sorted(name, gradients[name])
            for task in scaled:
                self._scales[name, task] = ScaledSpace.unscaled(basis[:, self._own(name, task)])
            if free:
                held = {int(one) for task in range(place.number) if task not in free for one in self._own(name, task)}
                own = {int(one) for task in free for one in self._own(name, task)}
                self._free[name] = basis[:, sorted(own - held)]
                self._bases[name] = basis[:, sorted(held)]
        for name in {name for name, _ in self._scales}:
            self._layers[name].module.register_forward_pre_hook(self._hook(name))

    def _sorted(self, name: str, gradient: torch.Tensor) -> tuple[list[int], list[int]]:
        """Of a layer, the earlier tasks whose weights are scaled, and those whose weights may be moved."""
        shares = self._shares(name, gradient)
        near = [task for task, share in shares.items() if share >= self.options.related]
        return sorted(near, key=lambda task: (-shares[task], task))[: self.options.tasks], []

    def _shares(self, name: str, gradient: torch.Tensor) -> dict[int, float]:
        """The part of a gradient's norm that lies in the space of each earlier task that has one in this layer."""
        norm, found = float(gradient.norm()), {}
        for task in range(self.place.number):
            space = self._whole[name][:, self._own(name, task)].to(gradient.dtype)
            if space.shape[1] and norm:
                found[task] = float(self._layers[name].projected(gradient, space).norm()) / norm
        return found

    @property
    def _whole(self) -> Mapping[str, torch.Tensor]:
        """The bases of all earlier tasks together, by layer."""
        device = self.place.model.device
        return {name: self.memory.tensors[name].to(device) for name in self._layers if name in self.memory.tensors}

    def _own(self, name: str, task: int) -> torch.Tensor:
        """Which columns of a layer's basis are an earlier task's."""
        import torch

        own = self.memory.tensors.get(f"own:{task}:{name}")
        return torch.zeros(0, dtype=torch.int64) if own is None else own

    def _hook(self, name: str) -> Any:
        spaces = [space for (layer, _), space in self._scales.items() if layer == name]

        def scale(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            # W (x + S (Q - I) S^T x) is the scaled layer of x.
            return (inputs[0] + sum(space.added(inputs[0]) for space in spaces), *inputs[1:])

        return scale

    def beside(self) -> dict[str, torch.nn.Parameter]:
        return {f"{task}:{name}": space.scale for (name, task), space in self._scales.items()}

    def deployed(self) -> Mapping[str, torch.Tensor]:
        return self._folded(((name, space) for (name, _), space in self._scales.items()))

    def _folded(self, scales: Iterator[tuple[str, ScaledSpace]]) -> dict[str, torch.Tensor]:
        """What is trained, with scales put into it."""
        values = self.place.values
        found = dict(values)
        for name, space in scales:
            change = space.change(values[name], inputs_first=self._layers[name].inputs_first)
            found[name] = found[name] + change
        return found

    def views(self, memory: Memory) -> list[Mapping[str, torch.Tensor]]:
        device = self.place.model.device
        found: list[Mapping[str, torch.Tensor]] = []
        for number in range(self.place.number + 1):
            scales = []
            for key, scale in memory.tensors.items():
                kind, _, rest = key.partition(":")
                if kind == "scale" and rest.split(":", 1)[0] == str(number):
                    _, other, name = rest.split(":", 2)
                    space = memory.tensors[name][:, memory.tensors[f"own:{other}:{name}"]]
                    scales.append((name, ScaledSpace.scaled(space.to(device), scale.to(device))))
            found.append(self._folded(iter(scales)))
        return found

    def end_task(self) -> Memory:
        place, ask = self.place, self.options
        energy = min(1.0, ask.energy + ask.rise * place.number)
        tensors = dict(self.memory.tensors)
        for name, covariance in input_covariances(place, self._layers, self._read()).items():
            known = tensors.get(name)
            basis, own = task_directions(
                None if known is None else known.to(covariance.device).double(), covariance, energy
            )
            tensors[name], tensors[f"own:{place.number}:{name}"] = basis.float().cpu(), own.cpu()
        for (name, task), space in self._scales.items():
            tensors[f"scale:{place.number}:{task}:{name}"] = space.scale.detach().clone()
        bases = {name: tensors[name] for name in self._layers if name in tensors}
        scaled = [task for _, task in self._scales]
        counts = {str(task): scaled.count(task) for task in sorted({*scaled})}
        return Memory(tensors, facts={**self._told(bases), "scaled": counts})
