"""What a composer is given: frozen skills on their base, a few examples of their tasks, and the network in memory.

A task belongs to the skill of its name; other tasks belong to the base. Uses `skill_set`, tasks and training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from genepool import progress
from genepool.composition.skill_set import SkillSet
from genepool.errors import InputError
from genepool.seeding import numpy_generator
from genepool.tasks import Example, Task, open_model
from genepool.tasks.answering import check_fits
from genepool.tasks.network import Network


@dataclass(frozen=True)
class ComposedTask:
    """A task that a composition is fitted on.

    Attributes:
        task: how its examples are put.
        owner: number of the skill that it belongs to; None for the base.
        examples: drawn from its training split.
    """

    task: Task
    owner: int | None
    examples: tuple[Example, ...]


class World:
    """What a composer is given.

    Args:
        skills: the base and the skills.
        tasks: what is fitted on.
        examples: how many of each task's training examples are used, at most.
        seed: decides which, and every draw of a fit.
        device: torch's name of the device.
        dtype: what the network computes in.
        work: the folder where a fit keeps what is needed to go on; None to keep nothing.
        chosen: the tasks are some of their folder, named by the user.

    Raises:
        InputError: a task has no training examples, or the base cannot be asked it.
    """

    def __init__(
        self,
        skills: SkillSet,
        tasks: Sequence[Task],
        *,
        examples: int = 64,
        seed: int = 0,
        device: str = "cpu",
        dtype: str = "float32",
        work: Path | None = None,
        chosen: bool = False,
    ) -> None:
        self._chosen = chosen
        self.skills, self.seed, self.device, self.dtype, self.work = skills, seed, device, dtype, work
        kind = open_model(skills.base).kind
        for task in tasks:
            check_fits(task, kind, skills.base.name)
        owners = {name: number for number, name in enumerate(skills.names)}
        self.tasks = tuple(ComposedTask(task, owners.get(task.name), _drawn(task, examples, seed)) for task in tasks)

    @cached_property
    def network(self) -> Network:
        """The base, loaded when it is first asked for. Whoever changes its tensors assigns others afterwards.

        Raises:
            InputError: the base is of a kind that has no network of its own.
        """
        source = open_model(self.skills.base)
        with progress.bar(f"loading {source.name}"):
            model = source.load(self.device, self.dtype)
        if not isinstance(model, Network):
            raise InputError(
                f"{source.kind.kind} has no weights to compose", where=source.name, fix="Name another base"
            )
        return model

    def identity(self) -> dict[str, Any]:
        """What decides the result of a fit beside the inputs and the options, as plain data."""
        return {
            "base": self.skills.base.fingerprint(),
            "skills": [skill.fingerprint for skill in self.skills.skills],
            "seed": self.seed,
            "device": self.device,
            "dtype": self.dtype,
        }

    def lacks_task(self, name: str, so: str, where: str = "--tasks") -> InputError:
        """What to raise where a skill has no task.

        Args:
            name: of the skill.
            so: what follows from it.
            where: what is at fault unless the user chose among the tasks.
        """
        if self._chosen:
            fix = f"Add --task {name}, or leave --task out"
            return InputError(f"no task that is chosen is called {name}, so {so}", where="--task", fix=fix)
        return InputError(f"no task is called {name}, so {so}", where=where, fix=f"Add a task called {name} to --tasks")

    def check_owned(self) -> None:
        """Says which skills have no task of their name.

        Raises:
            InputError: none has one.
        """
        owned = {task.owner for task in self.tasks}
        missing = [name for number, name in enumerate(self.skills.names) if number not in owned]
        if len(missing) == len(self.skills.names):
            raise InputError(
                f"no task is called like a skill ({', '.join(missing[:5])})",
                where="--task" if self._chosen else "--tasks",
                fix="Name tasks and skills alike: what a skill is good at is learned on the task of its name",
            )
        for name in missing:
            progress.message(f"{name}: there is no task of this name, so the fit does not ask what it is good at")


def _drawn(task: Task, count: int, seed: int) -> tuple[Example, ...]:
    """Some of a task's training examples, drawn without repetition.

    Raises:
        InputError: it has none, or it asks models by itself.
    """
    if task.asker is not None:
        raise InputError(
            "asks models by itself, so it has no inputs to learn from", where=task.name, fix="Leave it out with --task"
        )
    known = list({example.key: example for example in task.examples("train")}.values())
    if not known:
        raise InputError("has no training examples", where=task.name, fix="Add train.jsonl, or leave it out")
    order = numpy_generator(seed, "examples", task.name).permutation(len(known))
    return tuple(known[int(place)] for place in order[:count])
