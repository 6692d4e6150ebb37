"""Stage-wise weight sharing: the layers of a stage share one set of weights (a learngene)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import Field

from genepool.errors import InputError
from genepool.weights.adapter_forms.relaxed_recursive import in_place
from genepool.weights.formed.adapter_form import Beginning, FormOptions, LinearForm, Parts, Shapes
from genepool.weights.formed.sites import LinearSite, ModelSites

if TYPE_CHECKING:
    import torch


class StageSharingOptions(FormOptions):
    """Options of stage-wise weight sharing."""

    stages: int = Field(default=3, ge=1, le=1000, description="How many stages the layers are parted into.")


class StageSharing(LinearForm):
    """Layer l of d computes with the weights of stage floor(l stages / d), which begin as the mean of its layers'."""

    name = "stage_sharing"
    source = "Shi et al., stage-wise weight sharing (arXiv:2404.16897); derived from the text"
    when = "A small set of weights to build models of other depths from; distil with --objective distance."
    traps = (
        "The start is not the base: layers of a stage become equal before the first step. Norms and biases stay those "
        "of the base's layers. The paper then grows models of other depths out of the stages; that is a recipe of "
        "slices over the result."
    )
    Options = StageSharingOptions
    options: StageSharingOptions
    boost = 1.0

    def parts(self, site: LinearSite, sites: ModelSites) -> Shapes:
        depth = sites.depth[site.stack]
        if self.options.stages > depth:
            raise InputError(
                f"{site.stack} has {depth} layers, fewer than {self.options.stages} stages",
                where=sites.where,
                fix=f"Set `stages` to at most {depth}: --set form.stages=N",
            )
        return {"weight": (site.outputs, site.inputs)}

    def _stage(self, site: LinearSite, sites: ModelSites) -> int:
        return site.layer * self.options.stages // sites.depth[site.stack]

    def key(self, site: LinearSite, part: str, sites: ModelSites) -> str:
        return f"stage.{site.stack}.{self._stage(site, sites)}.{site.place}.{part}"

    def begin_at(self, site: LinearSite, beginning: Beginning) -> dict[str, torch.Tensor]:
        import torch

        sites = beginning.sites
        own = self.key(site, "weight", sites)
        alike = [one for one in self.chosen(sites) if self.key(one, "weight", sites) == own]
        return {"weight": torch.stack([beginning.read(one)[0] for one in alike]).mean(0)}

    def forward(
        self, site: LinearSite, parts: Parts, x: torch.Tensor, plain: Callable[[torch.Tensor], torch.Tensor], task: int
    ) -> torch.Tensor:
        return in_place(plain, x, parts["weight"], site)

    def change(
        self, site: LinearSite, parts: Parts, weight: torch.Tensor, bias: torch.Tensor | None, task: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return parts["weight"] - weight, None
