"""Gates: what a new model must show against the old one before it is released, written in a YAML file.

A gate holds a number of a `Comparison` against a limit. By default the unfavourable end of its 95% interval must hold,
so that a gate passes only when the examples suffice to say so. Used by `genepool compare --gate`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from genepool.errors import InputError, nearest
from genepool.measure.comparison import Comparison, TaskComparison
from genepool.measure.intervals import Interval, wilson
from genepool.schema import Strict, read_yaml, validate

EACH, MEAN = "each", "mean"
Measure = Literal["difference", "score", "negative_flips", "positive_flips", "kept"]


class Gate(Strict):
    """One limit."""

    task: str = Field(EACH, description="A task, `each` (every task on its own) or `mean` (all tasks together).")
    measure: Measure = Field(
        "difference",
        description="difference: new minus old score; score: the new one's; negative_flips: share of examples only "
        "the old one solved; positive_flips: only the new one; kept: of what the old one solved, the share still "
        "solved.",
    )
    at_least: float | None = Field(None, description="The value must not be lower.")
    at_most: float | None = Field(None, description="The value must not be higher.")
    judged_by: Literal["bound", "estimate"] = Field(
        "bound",
        description="bound: the unfavourable end of the 95% interval must hold; estimate: the value itself must.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_older_key(cls, data: Any) -> Any:
        """`task` was called `ability` at first; such files are still read."""
        if isinstance(data, dict) and "ability" in data:
            if "task" in data:
                raise ValueError("got both `task` and `ability`, its older name. Remove `ability`")
            return {"task" if key == "ability" else key: value for key, value in data.items()}
        return data

    @model_validator(mode="after")
    def _limited(self) -> Gate:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("a gate must have either `at_least` or `at_most`. Give one of them")
        low = -1 if self.measure == "difference" else 0
        limit = self.at_least if self.at_least is not None else self.at_most
        if limit is not None and not low <= limit <= 1:
            raise ValueError(f"{self.measure} goes from {low} to 1, got {limit:g}. Write 2 points as 0.02")
        return self


class Gates(Strict):
    """The content of a gates file."""

    page = "reference/gates"

    gates: list[Gate] = Field(default_factory=list, description="The gates; all must hold.")
    forgets: float | None = Field(
        None,
        ge=0,
        le=1,
        description="A gate on every task: its score must not fall by more, at the unfavourable end of the interval.",
    )

    @model_validator(mode="after")
    def _some(self) -> Gates:
        if self.forgets is not None:
            self.gates = [*self.gates, Gate(task=EACH, measure="difference", at_least=-self.forgets)]
        if not self.gates:
            raise ValueError("there is no gate. Give `gates`, or `forgets: 0.02`")
        return self


@dataclass(frozen=True)
class GateResult:
    """How one gate went for one task.

    Attributes:
        gate, task: which.
        value: the number with its interval; None where it does not exist (`kept`, where nothing was solved).
        passed: whether the gate holds.
        undecided: it failed only because the interval reaches past the limit: more examples may settle it.
    """

    gate: Gate
    task: str
    value: Interval | None
    passed: bool
    undecided: bool

    @property
    def limit(self) -> str:
        """The gate in words: "difference at least -0.02 (bound)"."""
        gate = self.gate
        words = f"at least {gate.at_least:g}" if gate.at_least is not None else f"at most {gate.at_most:g}"
        return f"{gate.measure} {words} ({gate.judged_by})"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            **self.gate.model_dump(),
            "task": self.task,
            "value": None if self.value is None else self.value._asdict(),
            "passed": self.passed,
            "undecided": self.undecided,
        }


def load_gates(path: str | Path) -> list[Gate]:
    """The gates of a file.

    Raises:
        InputError: it cannot be read, or a key is wrong; file and key are named.
    """
    return validate(Gates, read_yaml(Path(path)), path).gates


def check_gated_tasks(gates: Sequence[Gate], tasks: Collection[str], where: str | Path = "gates") -> None:
    """Refuses gates on what is not compared; can be asked before anything is.

    Args:
        gates: the limits.
        tasks: names of the tasks that are compared.
        where: the file they are from, for messages.

    Raises:
        InputError: a gate names a task that is not compared.
    """
    for number, gate in enumerate(gates):
        if gate.task not in (MEAN, EACH, *tasks):
            raise InputError(
                f"no task '{gate.task}' is compared",
                where=f"{where}:gates.{number}.task",
                fix=nearest(gate.task, [*tasks, EACH, MEAN]),
            )


def check_gates(gates: Sequence[Gate], comparison: Comparison, where: str | Path = "gates") -> list[GateResult]:
    """Every gate on every task it names.

    Args:
        gates: the limits.
        comparison: what was measured.
        where: the file they are from, for messages.

    Raises:
        InputError: a gate names a task that was not compared.
    """
    known = {one.task: one for one in comparison.tasks}
    check_gated_tasks(gates, known, where)
    results = []
    for gate in gates:
        if gate.task == MEAN:
            results.append(_judged(gate, MEAN, _of_all(gate.measure, comparison)))
        elif gate.task == EACH:
            results += [_judged(gate, name, _VALUES[gate.measure](one)) for name, one in known.items()]
        else:
            results.append(_judged(gate, gate.task, _VALUES[gate.measure](known[gate.task])))
    return results


_VALUES: dict[str, Callable[[TaskComparison], Interval | None]] = {
    "difference": lambda one: one.difference.interval,
    "score": lambda one: one.new,
    "negative_flips": lambda one: one.compatibility.negative_flips,
    "positive_flips": lambda one: one.compatibility.positive_flips,
    "kept": lambda one: one.compatibility.kept,
}


def _of_all(measure: Measure, comparison: Comparison) -> Interval | None:
    """Scores and differences count every task the same; flips count every example the same."""
    matrix = comparison.matrix
    if measure == "difference":
        return comparison.difference.interval
    if measure == "score":
        return comparison.mean_new
    if measure == "kept":
        solved = matrix.both_right + matrix.lost
        return wilson(matrix.both_right, solved) if solved else None
    return wilson(matrix.lost if measure == "negative_flips" else matrix.gained, matrix.n)


def _judged(gate: Gate, task: str, value: Interval | None) -> GateResult:
    if value is None:
        # Nothing was solved before, so nothing could be lost.
        return GateResult(gate, task, None, True, False)
    if gate.at_least is not None:
        estimate, bound = value.mean >= gate.at_least, value.lo >= gate.at_least
    else:
        assert gate.at_most is not None
        estimate, bound = value.mean <= gate.at_most, value.hi <= gate.at_most
    passed = bound if gate.judged_by == "bound" else estimate
    return GateResult(gate, task, value, passed, estimate and not passed)
