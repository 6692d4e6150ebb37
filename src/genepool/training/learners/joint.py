"""All tasks at once, shuffled, with as many steps as all of them have together: what no order can take away."""

from __future__ import annotations

from genepool.training.learners import TaskLearner


class Joint(TaskLearner):
    """One training on the examples of all tasks."""

    name = "joint"
    source = "the baseline; often called multi-task training"
    when = "to see what can be learned where all data is there at once"

    def groups(self, tasks: int) -> list[tuple[int, ...]]:
        return [tuple(range(tasks))]
