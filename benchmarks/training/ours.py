"""One training by genepool in a process of its own; see `side_by_side`."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import patch

from benchmarks.training import world
from benchmarks.training.world import ALPHA, RANK, RATE, SAMPLES, SHAPES, Clock
from genepool.tasks import Example
from genepool.tasks.metrics import metric
from genepool.training import Training, run_training, session

OBJECTIVES = {"sft": "likelihood", "dpo": "dpo", "grpo": "grpo"}


@metric("1")
def even_end(output: str, example: Example, strip: bool) -> float:
    """The reward of both."""
    return world.even_end(output)


def main(shape_name: str, device: str, method: str, form: str, folder: str, told: str) -> None:
    """Trains, and writes what a step took to `told`."""
    shape, place, clock = SHAPES[shape_name], Path(folder), Clock(Path(told), device)
    recipe = Training(
        base=str(place / "base"),
        tasks=(str(place / "tasks" / ("dpo" if method == "dpo" else "sft") / "words"),),
        form=form,
        lora={"rank": RANK, "alpha": ALPHA},
        objective=OBJECTIVES[method],
        options={"samples": SAMPLES} if method == "grpo" else {},
        steps=shape.steps,
        # TRL's batch counts samples.
        batch=shape.batch // SAMPLES if method == "grpo" else shape.batch,
        micro_batch=shape.batch,
        learning_rate=RATE,
        every=shape.steps,
        valid=1,
        test=1,
        threads=1,
        dtype=shape.dtype,
    )
    with patch.object(session.Session, "gradients", clock.ticking(session.Session.gradients)):
        run_training(recipe, place / f"ours-{method}-{form}", ledger=":memory:", device=device, overwrite=True)
    clock.write()


if __name__ == "__main__":
    main(*sys.argv[1:])
