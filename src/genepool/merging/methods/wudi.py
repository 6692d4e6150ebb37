"""WUDI merging (Cheng et al., arXiv:2503.08099): descend until what the merge adds lies out of every task's way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.merging.group import TensorGroup
from genepool.merging.matrix_method import LAMBDA, WEIGHT, MatrixMethod
from genepool.merging.parameters import Parameter
from genepool.merging.registry import register

if TYPE_CHECKING:
    import torch

# Rows do not depend on each other, so the descent takes a few at a time: its state stays small and in the cache.
_ROWS = 256
# Adam's moments (Kingma & Ba 2015), which the authors leave at torch's defaults.
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


@register
class Wudi(MatrixMethod):
    """Per linear layer, Adam from `M = sum_i t_i` on `sum_i ||(M - t_i) t_i^T||_F^2 / ||t_i||_F^2`.

    The loss is quadratic, with gradient `2 (M S - C)` where `S = sum_i t_i^T t_i / ||t_i||^2` and
    `C = sum_i t_i t_i^T t_i / ||t_i||^2`: a step costs one product whatever the number of tasks.
    """

    name = "wudi"
    source = "WUDI-Merging, Cheng et al. 2025, arXiv:2503.08099"
    when = "Several fine-tunes and no data, if there is time or an accelerator. There is nothing to tune."
    formula = "th0 + lambda M,  M = argmin sum_i ||(M - t_i) t_i^T||_F^2 / ||t_i||_F^2 from sum_i t_i by Adam"
    parts = ("attention", "mlp")
    parameters = (
        WEIGHT,
        LAMBDA,
        Parameter("steps", 300, "Steps of Adam.", kind=int, low=0, source="the authors' code"),
        Parameter(
            "learning_rate", 1e-5, "Adam's step size: about how far an entry moves in one step. It suits full "
            "fine-tunes.", low=0, source="the authors' code",
        ),
        Parameter(
            "norm_power", 2, "Power of a task's norm that its interference is divided by.", kind=int, low=0, high=2,
            source="the paper's equation and the authors' vit/wudi_main.py; a side script of theirs, coef.py, has 1",
        ),
        Parameter(
            "embeddings", "base", "Embeddings and head: as in the base, as all else but attention and MLPs, or treated "
            "as linear layers.", kind=str, choices=("base", "matrix"), source="the authors leave them at the base",
        ),
    )  # fmt: skip

    def working_entries(self, rows: int, columns: int, models: int) -> int:
        # M, C and S; a task vector as it is read, or with its Gram matrix; or the state of the descent. And half a
        # matrix for what a large product packs.
        area, square = rows * columns, min(rows, columns) ** 2
        return 2 * area + area // 2 + columns**2 + max(2 * area, area + square, 5 * min(rows, _ROWS) * columns)

    def merged_rest(self, group: TensorGroup) -> torch.Tensor:
        import torch

        return torch.zeros(group.rows, device=group.device)

    def merged_matrix(self, group: TensorGroup) -> torch.Tensor:
        import torch

        rows, columns = group.rows
        merged = torch.zeros(rows, columns, device=group.device)
        curvature = torch.zeros(columns, columns, device=group.device)
        pull = torch.zeros_like(merged)
        for weight, delta in self.weighted_deltas(group):
            task = delta if weight == 1 else weight * delta
            del delta
            # The smaller Gram matrix gives t t^T t, and the norm.
            products = task.mT @ task if columns <= rows else task @ task.mT
            norm = float(products.diagonal().double().sum()) ** 0.5
            if norm == 0:
                continue
            factor = 2 / norm ** group.shared["norm_power"]
            merged += task
            if columns <= rows:
                curvature.add_(products, alpha=factor)
                pull.addmm_(task, products, alpha=factor)
            else:
                curvature.addmm_(task.mT, task, alpha=factor)
                pull.addmm_(products, task, alpha=factor)
            del products
            del task
        for start in range(0, rows, _ROWS):
            block = slice(start, start + _ROWS)
            descend_(merged[block], curvature, pull[block], group.shared["steps"], group.shared["learning_rate"])
        return merged


def descend_(merged: torch.Tensor, curvature: torch.Tensor, pull: torch.Tensor, steps: int, rate: float) -> None:
    """Adam, in place, along the gradient `merged @ curvature - pull`.

    Args:
        merged: some rows of M, `(rows, columns)`.
        curvature: 2 S, `(columns, columns)`.
        pull: the same rows of 2 C, `(rows, columns)`.
        steps, rate: how many steps and their size.
    """
    import torch

    gradient, scale = torch.empty_like(merged), torch.empty_like(merged)
    mean, square = torch.zeros_like(merged), torch.zeros_like(merged)
    for step in range(1, steps + 1):
        torch.addmm(pull, merged, curvature, beta=-1, out=gradient)
        mean.lerp_(gradient, 1 - _BETA1)
        square.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        torch.sqrt(square, out=scale).div_((1 - _BETA2**step) ** 0.5).add_(_EPSILON)
        merged.addcdiv_(mean, scale, value=-rate / (1 - _BETA1**step))
