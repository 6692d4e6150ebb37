"""One thing a model is asked, known by its content."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property

from genepool.tasks.environments import EPISODE_KEYS, Episode
from genepool.tasks.images import ImageFile

# What a line of a file may say of an example.
EXAMPLE_KEYS = (
    "id", "prompt", "messages", "image", "answer", "completion", "chosen", "rejected", "label", "choices", "tags",
    "text", *EPISODE_KEYS,
)  # fmt: skip


@dataclass(frozen=True)
class Example:
    """One thing a model is asked.

    Attributes:
        id: its name within the task and split.
        prompt: what the model reads; for an image, what people read of it.
        answers: every accepted answer; the first is the one shown.
        choices: for multiple choice, everything to choose from, the answers included.
        tags: what it is about, such as the skills it needs; for looking at parts of a task, and no part of the example
            itself: a model is never shown them.
        image: what the model is shown instead, in a task of images.
        messages: the conversation up to the answer, as (role, text), where there is one; put through the tokenizer's
            chat template.
        given: how many of the messages are shown and never learned from; what the assistant says after them is.
        rejected: answers that are worse than the accepted ones, where the line says some: what preferences are learned
            from.
        episode: what a policy plays instead of reading a prompt, in a task of episodes.
        value: how good its answer is, from 0 to 1, where the line says so: what a process reward model learns from.
        where: the file and line it was read from, for errors; empty where there is none.
    """

    id: str
    prompt: str
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    image: ImageFile | None = None
    messages: tuple[tuple[str, str], ...] = ()
    given: int = 0
    rejected: tuple[str, ...] = ()
    episode: Episode | None = None
    value: float | None = None
    where: str = field(default="", compare=False, repr=False)

    @property
    def answer(self) -> str:
        """The answer that is shown and that examples are shown with."""
        return self.answers[0]

    def place(self, task: str) -> str:
        """Where it stands, for errors: its file and line, or where it has none the task of this name and its own."""
        return self.where or f"{task}:{self.id}"

    @cached_property
    def key(self) -> str:
        """SHA-256, hex, of the content: the same example has the same key whatever its id."""
        shown: object = {"image": self.image.digest} if self.image else self.prompt
        if self.messages:
            shown = {"messages": self.messages}
        if self.episode:
            shown = {"episode": self.episode.content()}
        worse = [self.rejected] if self.rejected else []
        worth = [] if self.value is None else [self.value]
        text = json.dumps([shown, self.answers, self.choices, *worse, *worth], ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()
