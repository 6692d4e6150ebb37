"""MHR: Poly with heads, so that each part of a layer's factors is mixed in its own way."""

from __future__ import annotations

from pydantic import Field

from genepool.composition.composer import register
from genepool.composition.composers.poly import ModuleInventory, PolyOptions


class MhrOptions(PolyOptions):
    """Options of MHR."""

    heads: int = Field(
        default=64, ge=1, le=4096, description="Parts that the factors of new modules, and of skills, are cut into."
    )


@register(
    "mhr",
    source="Caccia et al., Multi-Head Adapter Routing for Cross-Task Generalization, arXiv:2211.03831: 64 heads and "
    "otherwise as Poly; MHR-z and MHR-mu are --set trains=z and --set trains=mu",
    when="As poly; a new task then needs its shares alone (trains=z), far fewer numbers than modules have.",
    needs="answers",
    gradients=True,
    out="module",
    cost="as poly; with trains=z the shares alone are trained",
    skills=(0, None),
)
class Mhr(ModuleInventory[MhrOptions]):
    """As `poly` in each of q heads: head h of A has its own shares `z_th`, and so has head h of B.

    MHR-z: `--set trains=z --set inventory=FOLDER` learns the shares of new tasks for the modules of FOLDER. MHR-mu:
    `trains=mu` begins at the mean of the modules, and trains it without shares; all tasks that are named share it.
    """

    @property
    def heads(self) -> int:
        return self.options.heads
