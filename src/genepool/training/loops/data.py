"""What the stages of a loop hand to each other: lines, each an example of a task and what was written to its prompt.

One kind of line serves prompts (nothing is written yet), samples, answers to learn from and pairs. A file of lines is
JSONL; what is read back is checked, and a training reads lines as a task folder. Uses tasks and staging.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from genepool import staging
from genepool.checked import is_number, is_text, is_whole, parsed_json
from genepool.errors import InputError
from genepool.tasks import Example, Task


@dataclass(frozen=True)
class WrittenAnswer:
    """An answer that a model wrote.

    Attributes:
        text: without what ended it.
        tokens: how many were generated for it.
        reward: how good it is; None where nobody judged it, or the judge failed.
    """

    text: str
    tokens: int
    reward: float | None = None


@dataclass(frozen=True)
class Line:
    """An example of a task, and what was written to its prompt.

    Attributes:
        task: the name of the task that says how the example is asked and judged.
        example: the prompt; its answers are the known ones, or those to learn from.
        samples: what models wrote, in the order in which it was drawn.
        own: the answers were written by a model: they are no labels.
        known_of: the prompt that the known answer belongs to, where this one was made of it; empty: this one.
    """

    task: str
    example: Example
    samples: tuple[WrittenAnswer, ...] = ()
    own: bool = False
    known_of: str = ""

    @property
    def label(self) -> str:
        """What a known answer is counted by: the task and the prompt, as 16 hexadecimal digits."""
        return hashlib.sha256(f"{self.task}\x1f{self.known_of or self.example.prompt}".encode()).hexdigest()[:16]

    @property
    def rewards(self) -> list[float]:
        """Of the samples that have one."""
        return [one.reward for one in self.samples if one.reward is not None]

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        example = self.example
        return {
            "task": self.task,
            "id": example.id,
            "prompt": example.prompt,
            "answers": list(example.answers),
            **({"rejected": list(example.rejected)} if example.rejected else {}),
            **({"tags": list(example.tags)} if example.tags else {}),
            **({"own": True} if self.own else {}),
            **({"known_of": self.known_of} if self.known_of else {}),
            **({"samples": [[one.text, one.tokens, one.reward] for one in self.samples]} if self.samples else {}),
        }


def write_lines(path: Path, lines: Iterable[Line]) -> str:
    """Writes lines as JSONL, whole or not at all.

    Returns:
        SHA-256, hex, of the file.
    """
    data = "".join(json.dumps(line.to_dict(), ensure_ascii=False) + "\n" for line in lines).encode()
    staging.write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def read_lines(path: Path, digest: str, tasks: Mapping[str, Task]) -> list[Line]:
    """The lines of a file, which must be the one on record.

    Args:
        path: the file.
        digest: SHA-256, hex, of what was written there.
        tasks: whose examples they are.

    Raises:
        InputError: it is missing, or another one than was written.
    """
    fix = f"Remove {path.parent}: the stage and those after it run again"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path, fix=fix) from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise InputError("is not the file on record", where=path, fix=fix)
    found = []
    lines = data.split(b"\n")
    # A file that does not end with its last line was not written here.
    for number, line in enumerate(lines if lines[-1] else lines[:-1], 1):
        try:
            found.append(_line(parsed_json(line.decode()), tasks))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise InputError("is no line of a loop", where=f"{path}:{number}", fix=fix) from None
    return found


def _line(told: Any, tasks: Mapping[str, Task]) -> Line:
    lists = {key: told.get(key, []) for key in ("answers", "rejected", "tags")}
    known_of = told.get("known_of", "")
    texts = [told["task"], told["id"], told["prompt"], known_of, *(text for part in lists.values() for text in part)]
    if not all(map(is_text, texts)) or told["task"] not in tasks or not lists["answers"]:
        raise ValueError(told)
    samples = []
    for text, tokens, reward in told.get("samples", []):
        if not (isinstance(text, str) and is_whole(tokens, 0) and (reward is None or is_number(reward))):
            raise ValueError(told)
        samples.append(WrittenAnswer(text, tokens, reward))
    answers, rejected, tags = (tuple(part) for part in lists.values())
    example = Example(told["id"], told["prompt"], answers, rejected=rejected, tags=tags)
    return Line(told["task"], example, tuple(samples), told.get("own", False) is True, known_of)


def write_tasks(folder: Path, lines: Sequence[Line], tasks: Mapping[str, Task]) -> list[Path]:
    """Lines as task folders that a training reads, one for each task among them, with a training split alone.

    Args:
        folder: where they are put; what is there is replaced.
        lines: what is learned from: the first answer of each, or its pairs.
        tasks: how their examples are asked.

    Returns:
        The folders, by name.
    """
    made = []
    for name in sorted({line.task for line in lines}):
        place = folder / name
        settings = tasks[name].settings.model_dump(mode="json", exclude_defaults=True, exclude={"columns"})
        rows = []
        for number, line in enumerate((line for line in lines if line.task == name), 1):
            one = line.example
            sides = {"chosen": one.answer, "rejected": one.rejected[0]} if one.rejected else {"answer": one.answer}
            rows.append(json.dumps({"id": str(number), "prompt": one.prompt, **sides}, ensure_ascii=False) + "\n")
        with staging.staged_folder(place, overwrite=True) as unfinished:
            (unfinished / "train.jsonl").write_text("".join(rows), encoding="utf-8")
            text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
            (unfinished / "task.yaml").write_text(text, encoding="utf-8")
        made.append(place)
    return made


def lines_of(task: Task, split: str) -> list[Line]:
    """The examples of a split as lines.

    Raises:
        InputError: the split is empty, or an example is more than a text prompt with answers.
    """
    found = [Line(task.name, replace(one, choices=(), rejected=(), where="")) for one in task.splits.get(split, ())]
    if not found:
        raise InputError(f"the split '{split}' is empty", where=task.name, fix=f"Write a {split}.jsonl into its folder")
    if any(line.example.messages or line.example.image is not None for line in found):
        raise InputError(
            "holds conversations or images, and a loop reads text prompts",
            where=task.name,
            fix="Write `prompt` and `answer`; `chat_template: true` puts prompts through the chat template",
        )
    return found
