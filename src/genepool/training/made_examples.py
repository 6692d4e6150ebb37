"""Examples that a sampler had made for its training: what each was made of, and what must never be made.

A round is what a sampler made before one step: its examples, and what it saw and counted. The record keeps rounds
whole, so a training that goes on, or a step that is taken again, takes them from there. Uses tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from genepool.checked import is_number, is_text, is_whole
from genepool.tasks import Example, Task

#: Why an example that was wanted is not made: its prompt is one of a validation or test example; it was made before; it
#: is empty or too long for the model; the writer does not find it sound; too few answers agree; no answer is better
#: than another; no draw fitted; its tokens would be too many; the writer names no missing skill.
REFUSED = (
    "contaminated", "repeated", "unfit", "unsound", "disagreed", "trivial", "failed", "beyond_tokens", "unnamed",
)  # fmt: skip
# Skills of a report that a page shows.
_SHOWN = 5


@dataclass(frozen=True)
class MadeExample:
    """An example and where it is from.

    Attributes:
        task: the name of the task that says how it is asked and judged.
        example: the example; its first answer is learned from.
        made: who made it (`by`: template, writer, or stored for one that the tasks had), and of what, as plain data.
    """

    task: str
    example: Example
    made: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        one = self.example
        return {
            "id": one.id,
            "prompt": one.prompt,
            "answers": list(one.answers),
            **({"choices": list(one.choices)} if one.choices else {}),
            **({"tags": list(one.tags)} if one.tags else {}),
            "made": dict(self.made),
        }

    @classmethod
    def from_dict(cls, task: str, told: Any) -> MadeExample:
        """What `to_dict` gave.

        Raises:
            ValueError: it is something else.
        """
        if not isinstance(told, dict):
            raise ValueError(f"{told!r:.40}")
        lists = [told.get(key, []) for key in ("answers", "choices", "tags")]
        name, prompt, made = told.get("id"), told.get("prompt"), told.get("made")
        known = all(isinstance(part, list) and all(map(is_text, part)) for part in lists) and bool(lists[0])
        if not (known and is_text(name) and is_text(prompt) and isinstance(made, dict)):
            raise ValueError(f"{told!r:.40}")
        answers, choices, tags = map(tuple, lists)
        return cls(task, Example(str(name), str(prompt), answers, choices, tags), made)


@dataclass(frozen=True)
class Round:
    """What a sampler made before one step.

    Attributes:
        number: counted from 0.
        examples: what it made.
        told: what it saw and counted, as plain data: always `wanted` and `tokens`, and what was refused, by the names
            in `REFUSED`.
    """

    number: int
    examples: tuple[MadeExample, ...]
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """That a writer generated for it."""
        found = self.told.get("tokens", 0)
        return found if is_whole(found, 0) else 0


class Forbidden:
    """The prompts that no made example may have: those of all validation and test examples.

    Args:
        tasks: what is trained on, and what is asked beside it.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._known: set[str] = set()
        for task in tasks:
            for split in ("valid", "test", "all"):
                self._known |= {plain(one.prompt) for one in task.splits.get(split, ()) if one.prompt}

    def __contains__(self, prompt: str) -> bool:
        return plain(prompt) in self._known


def plain(text: str) -> str:
    """A text without differences of case and white space."""
    return " ".join(text.casefold().split())


def counted(rounds: Sequence[Round]) -> dict[str, Any]:
    """What all rounds came to, as `train.json` says it: examples, tokens, what was refused, and who made them."""
    refused: dict[str, int] = {}
    makers: dict[str, int] = {}
    for one in rounds:
        for key in ("wanted", *REFUSED):
            if is_whole(count := one.told.get(key, 0), 0):
                refused[key] = refused.get(key, 0) + count
        for example in one.examples:
            by = str(example.made.get("by", ""))
            makers[by] = makers.get(by, 0) + 1
    return {
        "rounds": len(rounds),
        "examples": sum(len(one.examples) for one in rounds),
        "tokens": sum(one.tokens for one in rounds),
        **refused,
        "by": makers,
    }


def shown(found: Round) -> dict[str, Any]:
    """A round as a page shows it; what is not as it should be is left out.

    Returns:
        `round`, counted from 1, `wanted`, `made`, `tokens`; `refused` as text; `weakest` as text, the skills with the
        lowest scores of the report.
    """
    told = found.told
    counts = {key: told.get(key) for key in REFUSED}
    refused = [f"{key.replace('_', ' ')} {count:,}" for key, count in counts.items() if is_whole(count, 1)]
    report = told.get("report")
    scores = [
        (pair[0], skill)
        for skill, pair in (report.items() if isinstance(report, dict) else ())
        if isinstance(pair, list) and len(pair) == 2 and is_number(pair[0], 0, 1)
    ]
    return {
        "round": found.number + 1,
        "wanted": wanted if is_whole(wanted := told.get("wanted"), 0) else 0,
        "made": len(found.examples),
        "tokens": found.tokens,
        "refused": ", ".join(refused),
        "weakest": ", ".join(f"{skill} {100 * score:.1f}%" for score, skill in sorted(scores)[:_SHOWN]),
    }
