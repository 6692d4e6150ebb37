"""MTLoRA: factors that all tasks share, and factors of each task."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from genepool.weights.encodings.low_rank import Product
from genepool.weights.formed.adapter_form import Beginning, FormOptions, LinearForm, Parts, Shapes
from genepool.weights.formed.sites import LinearSite, ModelSites

if TYPE_CHECKING:
    import torch

    from genepool.weights.formed.attached import Attached


class MtLoraOptions(FormOptions):
    """Options of MTLoRA."""

    rank: int = Field(default=16, ge=1, le=4096, description="Rank of the factors that all tasks share.")
    task_rank: int = Field(default=4, ge=1, le=4096, description="Rank of the factors of each task.")
    alpha: float = Field(default=32.0, gt=0, description="Each change is scaled by alpha / its rank.")
    mode: Literal["with_shared", "task_alone", "norm"] = Field(
        default="with_shared",
        description="Whether a task gets the shared factors beside its own, or what they share is a LayerNorm of the "
        "sum of their layers (norm).",
    )


class MtLora(LinearForm):
    """y = W x + b + s B A x + s_t B_t A_t x for task t; without a task, the shared factors alone.

    With the mode `norm` there are no shared factors: `y_t = W x + b + s_t B_t A_t x`, and what all tasks share is
    `W x + b + LayerNorm(sum_t y_t)`. As in the authors' network, every layer but the last gives what is shared, and the
    last one gives what belongs to the task, or what is shared where no task is named.
    """

    name = "mtlora"
    source = "Agiza et al., MTLoRA (arXiv:2403.20320); the defaults of ranks and alpha are ours"
    when = "Several tasks trained at once, with what they share apart from what each needs."
    traps = (
        "The authors' code has two sets of factors for each task and does not merge any. Here a task has one set of "
        "its own, FORM#TASK folds it together with the shared one, and FORM alone folds the shared one. The mode "
        "norm does not fold; the gain of its LayerNorm begins at 0 instead of 1, so that the start is the base."
    )
    by_task = True
    Options = MtLoraOptions
    options: MtLoraOptions

    @property
    def why_no_fold(self) -> str:
        return "what its tasks share is a LayerNorm, which no weights do" if self.options.mode == "norm" else ""

    def _computed(self, site: LinearSite, attached: Attached) -> Callable[..., torch.Tensor]:
        if self.options.mode != "norm":
            return super()._computed(site, attached)
        parts = self.parts_of(site, attached.sites, attached.tensors)
        last = site.layer == attached.sites.depth[site.stack] - 1

        def forward(plain: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
            return self.forward(site, parts, x, plain, attached.task if last else -1)

        return forward

    def parts(self, site: LinearSite, sites: ModelSites) -> Shapes:
        found: Shapes = {}
        if self.options.mode == "with_shared":
            found = {"A": (self.options.rank, site.inputs), "B": (site.outputs, self.options.rank)}
        for task in range(len(self.tasks)):
            found[f"{task}.A"] = (self.options.task_rank, site.inputs)
            found[f"{task}.B"] = (site.outputs, self.options.task_rank)
        if self.options.mode == "norm":
            found |= {"norm_gain": (site.outputs,), "norm_shift": (site.outputs,)}
        return found

    def begin_at(self, site: LinearSite, beginning: Beginning) -> dict[str, torch.Tensor]:
        import torch

        return {
            part: beginning.kaiming(f"{site.module}.{part}", shape) if part.endswith("A") else torch.zeros(shape)
            for part, shape in self.parts(site, beginning.sites).items()
        }

    def _sets(self, parts: Parts, task: int) -> list[Product]:
        """The sets of factors that act for a task."""
        found = []
        if "A" in parts:
            found.append(Product(parts["B"], parts["A"], self.options.alpha / self.options.rank))
        if task >= 0:
            scale = self.options.alpha / self.options.task_rank
            found.append(Product(parts[f"{task}.B"], parts[f"{task}.A"], scale))
        return found

    def forward(
        self, site: LinearSite, parts: Parts, x: torch.Tensor, plain: Callable[[torch.Tensor], torch.Tensor], task: int
    ) -> torch.Tensor:
        y = plain(x)
        if self.options.mode == "norm" and task < 0:
            return y + self._normed(parts, x, y)
        for one in self._sets(parts, task):
            y = y + (x @ one.right.T @ one.left.T) * one.factor
        return y

    def _normed(self, parts: Parts, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The LayerNorm of the sum of what the tasks' layers give."""
        from torch.nn.functional import layer_norm

        total = y * len(self.tasks)
        for task in range(len(self.tasks)):
            for one in self._sets(parts, task):
                total = total + (x @ one.right.T @ one.left.T) * one.factor
        return layer_norm(total, total.shape[-1:], parts["norm_gain"], parts["norm_shift"])

    def change(
        self, site: LinearSite, parts: Parts, weight: torch.Tensor, bias: torch.Tensor | None, task: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        import torch

        total = torch.zeros_like(weight)
        for one in self._sets(parts, task):
            total += one.factor * (one.left @ one.right)
        return total, None

    def product(self, site: LinearSite, parts: Parts, task: int) -> Product | None:
        import torch

        sets = self._sets(parts, task)
        if not sets:
            return None
        # The first factors stay as they are; the others take their scale on the left.
        scale = sets[0].factor
        left = torch.cat([one.left * (one.factor / scale) for one in sets], 1)
        return Product(left, torch.cat([one.right for one in sets]), scale)
