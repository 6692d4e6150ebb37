"""What a stage of a loop is, what it is given, and what it gives back.

A stage reads lines by name, writes lines by name, and may leave another model for the stages after it. Everything that
it draws belongs to (seed, round, number of the stage), so a stage that is run again makes the same files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from genepool.folder_classes import classes_by_name, of_name
from genepool.schema import Strict, validate
from genepool.tasks import Task
from genepool.training.loops.data import Line

if TYPE_CHECKING:
    from genepool.tasks.network import Network
    from genepool.training.loops.recipe import Loop


class StageOptions(Strict):
    """Options of a stage: none, unless it says some."""

    page = "reference/loops"


@dataclass(frozen=True)
class StagePlace:
    """Where a stage runs, and what it may ask for.

    Attributes:
        loop: the whole file.
        folder: the stage's own; it may write there.
        round: counted from 1; 0 for what comes before the first.
        seed: of everything that the stage draws; another one in every stage of every round.
        tasks: by name.
        others: tasks that must not be forgotten, by name.
        lines: the lines that the stages before it wrote, by name; `read` loads them.
        base: the model that the loop began with, as it is named.
        model: the model as the stages before it left it, as it is named: the parent.
        load: a model by its name, in memory.
        device: torch's name of the device.
        threads: that torch computes with.
        trusted, allow_pickle: as for `genepool.training.run_training`.
    """

    loop: Loop
    folder: Path
    round: int
    seed: int
    tasks: Mapping[str, Task]
    others: Mapping[str, Task]
    lines: Mapping[str, Callable[[], list[Line]]]
    base: str
    model: str
    load: Callable[[str], Network]
    device: str = "cpu"
    threads: int = 1
    trusted: Collection[str | Path] = ()
    allow_pickle: bool = False

    def read(self, name: str) -> list[Line]:
        """The lines of this name."""
        return self.lines[name]()


@dataclass(frozen=True)
class Done:
    """What a stage did.

    Attributes:
        lines: what it wrote, by name; an earlier stage's lines of the same name are replaced.
        told: counts and means that describe it, as plain data.
        tokens: that models generated in it.
        steps: of the optimiser.
        labels: the known answers that were looked at, as `Line.label` counts them.
        result: file or folder of what was trained, inside the stage's folder; empty where nothing was.
        fresh: the result was trained from the base, not from the model before the stage.
    """

    lines: Mapping[str, Sequence[Line]] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)
    tokens: int = 0
    steps: int = 0
    labels: Collection[str] = ()
    result: str = ""
    fresh: bool = False


@dataclass(frozen=True)
class StagePlan:
    """What a stage will do at most.

    Attributes:
        lines: that it writes, by name.
        samples: answers that models write in it.
        steps: of the optimiser.
    """

    lines: Mapping[str, int] = field(default_factory=dict)
    samples: int = 0
    steps: int = 0


class Stage(ABC):
    """One step of a round.

    Args:
        options: its options; the defaults when None.

    Attributes:
        name: what a loop file calls it; its file's name.
        source: where it comes from.
        when: one sentence on what it is for.
        resumes: whether it goes on with what a killed run left in its folder; otherwise that is removed.
        trains: whether it leaves another model.
        alters: whether it changes a model in memory that it asked for, which nobody after it may be asked then.
        Options: the model of its options.
        options: those it was made with.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    when: ClassVar[str]
    resumes: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    alters: ClassVar[bool] = False
    Options: ClassVar[type[StageOptions]] = StageOptions

    def __init__(self, options: StageOptions | None = None) -> None:
        self.options = options if options is not None else self.Options()

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the lines that it needs; a stage before it must write them."""
        return ()

    @property
    def writes(self) -> tuple[str, ...]:
        """Names of the lines that it writes."""
        return ()

    def check(self, loop: Loop, tasks: Mapping[str, Task]) -> None:
        """Refuses what cannot work, before anything runs.

        Raises:
            InputError: an option does not suit the loop or its tasks.
        """
        return

    def planned(self, loop: Loop, lines: Mapping[str, int]) -> StagePlan:
        """What it will do at most; as many lines as it reads, unless a stage knows better.

        Args:
            loop: the whole file.
            lines: how many there are at most, by name; "" are the training examples of the tasks.
        """
        most = max((lines[name] for name in self.reads), default=0)
        return StagePlan(dict.fromkeys(self.writes, most))

    @abstractmethod
    def run(self, place: StagePlace) -> Done:
        """Does it.

        Raises:
            InputError: there is nothing to go on with, such as no valid sample.
        """


def stages() -> dict[str, type[Stage]]:
    """Every stage by name."""
    return classes_by_name("genepool.training.loops.stages", Stage)


def find_stage(name: str, options: Mapping[str, Any] | None = None, where: str = "") -> Stage:
    """The stage of this name, with its options.

    Args:
        name: what a loop file calls it.
        options: those that are not the defaults.
        where: for errors.

    Raises:
        InputError: there is none, and the nearest name is suggested; or an option is unknown or wrong.
    """
    kind = of_name(stages(), "stage", name, where)
    return kind(validate(kind.Options, dict(options or {}), where))
