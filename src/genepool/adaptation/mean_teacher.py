"""A mean teacher: a second network whose weights are the running mean of the adapted one's.

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

    def follow(self, student: Mapping[str, torch.Tensor]) -> None:
        """One step towards the student's weights, by name."""
        with torch.no_grad():
            for name, tensor in student.items():
                self._tensors[name].mul_(self.decay).add_(tensor.detach(), alpha=1 - self.decay)

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
