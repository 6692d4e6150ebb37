"""What the pages of training files and loop files say of objectives, learners, rewards and stages."""

from __future__ import annotations

from genepool.training import objectives
from genepool.training.learners import learners
from genepool.training.loops.stage import stages
from genepool.training.rewards import rewards
from reference_pages.registry_tables import options_table, things_table


def loop_notes() -> str:
    """The stages, found by being there."""
    return "\n".join(
        [
            "## Stages",
            "",
            "An item of `first`, `round` or `last` is the name of a stage with its options.",
            "",
            *things_table(stages(), "what it does"),
            "## Options of stages",
            "",
            *options_table(stages(), "stage"),
        ]
    )


def training_notes() -> str:
    """The objectives, the learners and the rewards, found by being there."""
    return "\n".join(
        [
            "## Objectives",
            "",
            "`--objective NAME`, or `objective` in the file.",
            "",
            *things_table(objectives(), "what a step minimises"),
            "## Options of objectives",
            "",
            "`--set KEY=VALUE`, or `options` in the file.",
            "",
            *options_table(objectives(), "objective"),
            "## Learners",
            "",
            "`--learner NAME`, or `learner` in the file: the tasks are learned one after the other. See "
            "[Learn tasks in order](../how-to/learn-tasks-in-order.md).",
            "",
            *things_table(learners(), "what it does"),
            *options_table(learners(), "learner"),
            "## Rewards",
            "",
            "The option `reward` names one, or several with their weights: `{metric: 1, majority: 0.5}`. A map instead "
            "of a weight sets options too: `{majority: {weight: 0.5, after: '='}}`.",
            "",
            *things_table(rewards(), "what it rewards"),
            *options_table(rewards(), "reward"),
        ]
    )
