"""What is measured: every learner with its settings, on the four skills of a testbed of strings in two orders.

Whatever is the same for two arms of a claim is said once: the factors' rank, steps, examples of a step, learning rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.composition.bed import TINY

KIND = TINY[1]
#: Tasks in both orders; the second one is the first one backwards.
ORDERS = {"forwards": ("reverse", "sort", "upper", "caesar"), "backwards": ("caesar", "upper", "sort", "reverse")}
#: Steps of each task, examples of a step, rank of the factors, test examples that each task is asked after every task.
STEPS, BATCH, RANK, ASKED = 40, 32, 8, 128
#: The learning rate of all arms: the default of a training of this width.
RATE = 7.4e-3
#: The testbed whose figures choose the settings that are ours; no claim uses it.
CHOOSING = 5
#: Bytes that `ewc` keeps of these factors: twice their 19,712 entries, in float32.
EWC_BYTES = 2 * 4 * 19_712


@dataclass(frozen=True)
class LearnerArm:
    """One arm.

    Attributes:
        name: in tables and on the command line.
        words: what it is, for the page.
        learner: its name.
        options: of the learner, where they are not its defaults.
        first: whether it is measured before the others.
    """

    name: str
    words: str
    learner: str
    options: Mapping[str, Any] = field(default_factory=dict)
    first: bool = True

    def recipe(self, bed: Path, order: str, seed: int) -> dict[str, Any]:
        """The keys of the training file.

        Args:
            bed: the testbed's folder.
            order: one of `ORDERS`.
            seed: of every draw.
        """
        return {
            "base": str(bed / "base"),
            "tasks": tuple(str(bed / "tasks" / name) for name in ORDERS[order]),
            "learner": self.learner,
            "options": dict(self.options),
            "lora": {"rank": RANK},
            "steps": STEPS,
            "batch": BATCH,
            "every": STEPS,
            "learning_rate": RATE,
            "test": ASKED,
            "seed": seed,
            "threads": 1,
        }


ARMS = (
    LearnerArm("sequential", "the same factors go on from task to task", "sequential"),
    LearnerArm("replay", "64 examples of each earlier task, half of every step", "replay"),
    LearnerArm("o_lora", "O-LoRA with its authors' weight", "o_lora"),
    LearnerArm("ewc", "online EWC", "ewc"),
    LearnerArm("gpm", "GPM on both factors", "gpm"),
    LearnerArm("lwf", "learning without forgetting, task after task", "lwf"),
    LearnerArm("joint", "all tasks at once, as many steps in all", "joint"),
    LearnerArm("experts", "a model for each task, which is told the task", "experts", first=False),
    LearnerArm("each", "new factors for every task, nothing else", "sequential", {"factors": "each"}, first=False),
    LearnerArm("inf_lora", "InfLoRA", "inf_lora", first=False),
    LearnerArm("merging", "each task from the base, then TIES", "merging", first=False),
    LearnerArm("momentum", "slow weights", "momentum", first=False),
    LearnerArm("der_pp", "DER++ with 128 examples in all", "der_pp", first=False),
    LearnerArm("replay, few", "replay with 32 examples of each task: 128 in the end, as DER++ keeps", "replay",
               {"examples": 32}, first=False),
    LearnerArm("replay, EWC's bytes", "replay with as many bytes as EWC keeps", "replay",
               {"examples": 4096, "budget": EWC_BYTES}, first=False),
)  # fmt: skip
