"""How long and how fast children learn: what a study says of it. Uses the schema room alone."""

from __future__ import annotations

from pydantic import Field

from genepool.schema import Strict


class Learning(Strict):
    """How a child is fine-tuned on the training examples before it is evaluated."""

    steps: int = Field(default=8, ge=1, description="Steps of gradient descent (AdamW).")
    batch: int = Field(default=16, ge=1, description="Examples in a step, equally many from each task.")
    rate: float = Field(default=1e-4, gt=0, description="Learning rate.")
    inherit: bool = Field(
        default=True,
        description="true (Lamarck): a child passes on what it learned. false (Baldwin): it is judged after "
        "learning, but passes on what it was born with.",
    )
