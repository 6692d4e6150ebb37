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


class MtLoraOptions(FormOptions):
    """Options of MTLoRA."""

    rank: int = Field(default=16, ge=1, le=4096, description="Rank of the factors that all tasks share.")
    task_rank: int = Field(default=4, ge=1, le=4096, description="Rank of the factors of each task.")
    alpha: float = Field(default=32.0, gt=0, description="Each change is scaled by alpha / its rank.")
    mode: Literal["with_shared", "task_alone"] = Field(
        default="with_shared", description="Whether a task gets the shared factors beside its own."
    )


class MtLora(LinearForm):
    """y = W x + b + s B A x + s_t B_t A_t x for task t; without a task, the shared factors alone."""

    name = "mtlora"
    source = "Agiza et al., MTLoRA (arXiv:2403.20320); the defaults of ranks and alpha are ours"
    when = "Several tasks trained at once, with what they share apart from what each needs."
    traps = (
        "The authors' code has two sets of factors for each task and does not merge any. Here a task has one set of "
        "its own, FORM#TASK folds it together with the shared one, and FORM alone folds the shared one. Their third "
        "mode, a LayerNorm of the sum, does not fold and is not there."
    )
    by_task = True
    Options = MtLoraOptions
    options: MtLoraOptions

    def parts(self, site: LinearSite, sites: ModelSites) -> Shapes:
        found: Shapes = {}
        if self.options.mode == "with_shared":
            found = {"A": (self.options.rank, site.inputs), "B": (site.outputs, self.options.rank)}
        for task in range(len(self.tasks)):
            found[f"{task}.A"] = (self.options.task_rank, site.inputs)
            found[f"{task}.B"] = (site.outputs, self.options.task_rank)
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
        for one in self._sets(parts, task):
            y = y + (x @ one.right.T @ one.left.T) * one.factor
        return y

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
