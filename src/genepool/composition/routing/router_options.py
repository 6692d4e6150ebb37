"""What every composer can be told whose token router is trained; imports nothing heavy. Uses `module_fit`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from genepool.composition.module_fit import ModuleFitOptions


class RouterFitOptions(ModuleFitOptions):
    """How a token router is trained."""

    objective: Literal["likelihood", "match"] = Field(
        default="likelihood",
        description="What a step minimises: likelihood (of the right answers), or match (the distance to what each "
        "skill predicts on its own task, without labels).",
    )
    check_inputs: bool = Field(
        default=True, description="Refuse inputs on which a skill always answers alike; only without labels."
    )
