"""A mean teacher: a second network whose weights are the running mean of the adapted one's; and a loss with it.

Shared by adapters with a teacher. Uses the stream's model alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from genepool.adaptation.stream_model import Inputs, StreamModel


class MeanTeacher:
    """th_t <- d th_t + (1 - d) th after every step.

    Args:
        model: the student, as it begins.
        decay: d.
    """

    def __init__(self, model: StreamModel, decay: float) -> None:
        self.model, self.decay = model.copy(), decay
        self._tensors = dict(self.model.network.named_parameters())

    def logits(self, inputs: Inputs) -> torch.Tensor:
        """Of every example, shape (n, classes), without gradients."""
        with torch.no_grad():
            return self.model.logits(inputs)

    def follow(
        self, student: Mapping[str, torch.Tensor], except_where: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        """One step towards the student's weights, by name.

        Args:
            student: its weights.
            except_where: true for weights of the teacher that stay as they are; none when None.
        """
        with torch.no_grad():
            for name, tensor in student.items():
                kept = None if except_where is None else self._tensors[name].clone()
                own = self._tensors[name].mul_(self.decay).add_(tensor.detach(), alpha=1 - self.decay)
                if kept is not None and except_where is not None:
                    own.copy_(torch.where(except_where[name], kept, own))

    def tensors(self, names: Mapping[str, object]) -> dict[str, torch.Tensor]:
        """Its weights of these names."""
        return {name: self._tensors[name] for name in names}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Puts weights back.

        Raises:
            KeyError: it has no such weight.
        """
        with torch.no_grad():
            for name, tensor in tensors.items():
                self._tensors[name].copy_(tensor)


def symmetric(logits: torch.Tensor, teacher: torch.Tensor, weight: float) -> torch.Tensor:
    """The symmetric cross-entropy of each prediction with a teacher's, shape (n,), both given as logits."""
    forward = -(teacher.softmax(-1) * logits.log_softmax(-1)).sum(-1)
    reverse = -(logits.softmax(-1) * teacher.log_softmax(-1)).sum(-1)
    return (1 - weight) * forward + weight * reverse
