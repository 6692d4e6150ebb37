"""What learning a task costs in computing: operations of the matrices of a network, counted as it runs. Uses torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class ComputeMeter:
    """Counts floating-point operations of linear layers and convolutions, a multiplication and an addition as two.

    A pass costs 2 operations for each entry of a weight and each place that it is used at; where gradients are on, as
    many again for the gradient of the inputs, and for that of the weight where it is trained. What has no matrix of its
    own, such as the products inside of attention, is not counted, nor are the steps of the optimiser.

    Attributes:
        total: operations so far.
    """

    def __init__(self) -> None:
        self.total = 0

    def watch(self, network: torch.nn.Module) -> None:
        """From now on counts what a network does too."""
        import torch
        from transformers.pytorch_utils import Conv1D

        for module in network.modules():
            if isinstance(module, torch.nn.Linear | Conv1D | torch.nn.modules.conv._ConvNd):
                module.register_forward_hook(self._count)

    def _count(self, module: Any, _: Any, output: torch.Tensor) -> None:
        import torch

        weight = module.weight
        if isinstance(module, torch.nn.Linear):
            # Of a packed weight the sizes of the layer tell the entries.
            outputs, entries = module.out_features, module.in_features * module.out_features
        else:
            outputs = weight.shape[0] if isinstance(module, torch.nn.modules.conv._ConvNd) else weight.shape[1]
            entries = weight.numel()
        places = output.numel() // outputs
        passes = 1
        if torch.is_grad_enabled() and output.requires_grad:
            passes += 1 + int(weight.requires_grad)
        self.total += 2 * entries * places * passes
