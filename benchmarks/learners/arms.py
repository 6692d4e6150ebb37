"""What is measured: every learner with its settings, on tasks in two orders.

Whatever is the same for two arms of a claim is said once, by the world that they are asked in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.learners.worlds import DIGITS, FEW, STRINGS, LearningWorld

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
        turn: arms of a lower one are measured with all seeds before the others.
        world: where it is asked.
    """

    name: str
    words: str
    learner: str
    options: Mapping[str, Any] = field(default_factory=dict)
    turn: int = 0
    world: LearningWorld = STRINGS

    def recipe(self, order: str, seed: int) -> dict[str, Any]:
        """The keys of the training file.

        Args:
            order: one of the world's.
            seed: of the base and of every draw.
        """
        base, tasks = self.world.place(seed, order)
        return {
            **self.world.settings,
            "base": str(base),
            "tasks": tuple(str(tasks / name) for name in self.world.orders[order]),
            "learner": self.learner,
            "options": dict(self.options),
            "seed": seed,
        }


def _shots(name: str, words: str, **options: Any) -> LearnerArm:
    return LearnerArm(f"few: {name}", words, "few_shot", options, 3, FEW)


#: The tricks that are asked one by one, each with what it is set to.
TRICKS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "contrast": ("a supervised contrast of the features", {"contrast": 1.0}),
    "assigned": ("prototypes assigned at equal angles", {"assigned": True}),
    "pseudo": ("images turned by a quarter as classes of their own", {"pseudo": 1}),
    "subnet": ("a tenth of the weights moves in later tasks", {"subnet": 0.1}),
    "rotation": ("telling by how many quarters an image is turned", {"rotation": 1.0}),
    "pretraining": ("the first third of the steps without classes", {"pretraining": 1 / 3}),
}

ARMS = (
    LearnerArm("sequential", "the same factors go on from task to task", "sequential"),
    LearnerArm("replay", "64 examples of each earlier task, half of every step", "replay"),
    LearnerArm("o_lora", "O-LoRA with its authors' weight", "o_lora"),
    LearnerArm("ewc", "online EWC", "ewc"),
    LearnerArm("gpm", "GPM on both factors", "gpm"),
    LearnerArm("lwf", "learning without forgetting, task after task", "lwf"),
    LearnerArm("joint", "all tasks at once, as many steps in all", "joint"),
    LearnerArm("experts", "a model for each task, which is told the task", "experts", turn=1),
    LearnerArm("each", "new factors for every task, nothing else", "sequential", {"factors": "each"}, turn=1),
    LearnerArm("inf_lora", "InfLoRA", "inf_lora", turn=1),
    LearnerArm("merging", "each task from the base, then TIES", "merging", turn=1),
    LearnerArm("momentum", "slow weights", "momentum", turn=1),
    LearnerArm("der_pp", "DER++ with 128 examples in all", "der_pp", turn=1),
    LearnerArm("replay, few", "replay with 32 examples of each task: 128 in the end, as DER++ keeps", "replay",
               {"examples": 32}, turn=1),
    LearnerArm("replay, EWC's bytes", "replay with as many bytes as EWC keeps", "replay",
               {"examples": 4096, "budget": EWC_BYTES}, turn=1),
    LearnerArm("slm", "SLM: four adapters of rank 2 for each task, of which a prompt takes two", "slm", turn=1),
    LearnerArm("slm, one", "one adapter of rank 8 for each task, taken by the nearest mean of a task's prompts", "slm",
               {"deltas": 1, "chosen": 1, "groups": 1}, turn=1),
    LearnerArm("trgp", "TRGP on both factors, which is told the task", "trgp", turn=2),
    LearnerArm("cuber", "CUBER on both factors, which is told the task", "cuber", turn=2),
    LearnerArm("experts, last", "a model for each task, begun with the task before", "experts", {"start": "last"}, 2),
    LearnerArm("experts, nearest", "a model for each task, begun with the nearest one", "experts",
               {"start": "nearest"}, 2),
    LearnerArm("digits: sequential", "the same weights go on from task to task", "sequential", turn=3, world=DIGITS),
    LearnerArm("digits: lwf", "learning without forgetting", "lwf", turn=3, world=DIGITS),
    LearnerArm("digits: prd", "PRD, with the paper's relation", "prd", turn=3, world=DIGITS),
    *(
        LearnerArm(f"digits: replay {count}", f"replay of {count} images a task", "replay", {"examples": count}, 3,
                   DIGITS)
        for count in (2, 8, 32)
    ),
    _shots("frozen", "features of the first task, means of the later ones"),
    *(_shots(name, words, **options) for name, (words, options) in TRICKS.items()),
)  # fmt: skip
