"""QA-LoRA: a factor that reads the means of groups of inputs, so that it fits the groups of a quantised base."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import Field

from genepool.errors import InputError
from genepool.weights.encodings.low_rank import Product
from genepool.weights.formed.adapter_form import Beginning, FormOptions, LinearForm, Parts, Shapes
from genepool.weights.formed.sites import LinearSite, ModelSites

if TYPE_CHECKING:
    import torch


class QaLoraOptions(FormOptions):
    """Options of QA-LoRA."""

    rank: int = Field(default=64, ge=1, le=4096, description="Rank of the factors (authors' code: 64).")
    alpha: float = Field(default=16.0, gt=0, description="The change is scaled by alpha / rank (authors' code: 16).")
    group: int = Field(default=32, ge=1, le=65536, description="Inputs whose mean is read (authors' code: 32).")


class QaLora(LinearForm):
    """y = W x + b + s B A pool(x), where pool takes the mean of each group of inputs.

    Folded, every column of a group gets the same: W' = W + s (B A) / group, repeated over the group. In a base that is
    quantised in the same groups, that shifts the zero point of a group by -s (B A) / (group scale).
    """

    name = "qa_lora"
    source = "Xu et al., QA-LoRA (arXiv:2309.14717)"
    when = "A base that will be served quantised in groups: the change fits into its zero points."
    traps = (
        "Folding into zero points is exact only while they stay floats; integers round the change away. The authors' "
        "script fixes s to 16/64. PEFT multiplies the pooled inputs by the number of groups too, so its A is ours "
        "divided by that number; and PEFT reads the form on GPTQ layers alone, so `skill convert --to peft` writes "
        "the same change as plain LoRA, of which nothing is lost."
    )
    Options = QaLoraOptions
    options: QaLoraOptions

    def parts(self, site: LinearSite, sites: ModelSites) -> Shapes:
        group, rank = self.options.group, self.options.rank
        if site.inputs % group:
            raise InputError(
                f"reads {site.inputs} inputs, which groups of {group} do not divide",
                where=f"{sites.where}:{site.module}",
                fix="Set `group` to a divisor: --set form.group=N",
            )
        return {"A": (rank, site.inputs // group), "B": (site.outputs, rank)}

    def begin_at(self, site: LinearSite, beginning: Beginning) -> dict[str, torch.Tensor]:
        import torch

        shapes = self.parts(site, beginning.sites)
        return {"A": beginning.kaiming(f"{site.module}.A", shapes["A"]), "B": torch.zeros(shapes["B"])}

    def forward(
        self, site: LinearSite, parts: Parts, x: torch.Tensor, plain: Callable[[torch.Tensor], torch.Tensor], task: int
    ) -> torch.Tensor:
        pooled = x.reshape(*x.shape[:-1], -1, self.options.group).mean(-1)
        return plain(x) + (pooled @ parts["A"].T @ parts["B"].T) * (self.options.alpha / self.options.rank)

    def change(
        self, site: LinearSite, parts: Parts, weight: torch.Tensor, bias: torch.Tensor | None, task: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        found = self.product(site, parts, task)
        return found.factor * (found.left @ found.right), None

    def product(self, site: LinearSite, parts: Parts, task: int) -> Product:
        group = self.options.group
        scale = self.options.alpha / self.options.rank
        return Product(parts["B"], parts["A"].repeat_interleave(group, 1) / group, scale)
