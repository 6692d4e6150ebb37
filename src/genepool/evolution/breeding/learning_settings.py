"""How long and how fast children learn: what a study says of it. Uses the schema room alone."""

from __future__ import annotations

from pydantic import Field

from genepool.schema import Strict


class Learning(Strict):
    """What a child learns for itself before it is judged, from the tasks' training examples."""

    steps: int = Field(default=8, ge=1, description="Steps of gradient descent (AdamW).")
    batch: int = Field(default=16, ge=1, description="Examples a step, evenly from all tasks.")
    rate: float = Field(default=1e-4, gt=0, description="Learning rate.")
    inherit: bool = Field(
        default=True,
        description="Lamarck: its own children get what it learned. false, Baldwin: it is judged by what it learned "
        "and passes on what it was born with.",
    )
