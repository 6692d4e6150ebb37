"""What a model is asked: examples, how they are put to it, and the task that holds both.

A task never stores a score; `evaluate` turns it into one outcome per example. Settings live in an optional
`task.yaml` beside a task's files.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from genepool import seeding
from genepool.checked import is_line
from genepool.errors import InputError, listed, nearest
from genepool.schema import Strict
from genepool.tasks.example import EXAMPLE_KEYS, Example
from genepool.tasks.ledger import Outcome
from genepool.tasks.metrics import all_metrics, find_metric
from genepool.tasks.shown import ShownChoice, find_shown_choice, shown_choices

if TYPE_CHECKING:
    from genepool.tasks.models import Model

# What asks a model several examples at once: (model, examples, batch size) -> an outcome each, in their order.
Asker = Callable[["Model", Sequence["Example"], int], Sequence[Outcome]]


# Settings that say how a prompt is written.
_OF_TEXT = frozenset({"few_shot", "show", "show_for", "separator", "prefix", "suffix", "chat_template", "system"})


class TaskSettings(Strict):
    """How a task is put to a model and judged: the content of `task.yaml`."""

    page = "reference/task"

    metric: str = Field(
        "exact_match", description=f"One of {listed(all_metrics())}. For plain texts the default is likelihood."
    )
    input: Literal["text", "image"] = Field("text", description="What a model reads: the prompt, or the image.")
    returns: tuple[float, float] | None = Field(
        None, description="The least and the largest return of an episode, for episode_return: scores 0 and 1."
    )
    clip: bool = Field(
        False, description="Score a return outside of `returns` as the nearer of the two; otherwise it is an error."
    )
    max_new_tokens: int = Field(64, ge=1, description="Tokens a model may write before it is stopped.")
    stop: list[str] = Field(default_factory=list, description="Texts that end an answer; they are not part of it.")
    strip: bool = Field(True, description="Ignore white space around the answer.")
    few_shot: int = Field(0, ge=0, description="Solved examples from the training split shown before each question.")
    show: str = Field(
        "drawn",
        description=f"Which examples are shown, one of {listed(shown_choices())}: drawn ones, those whose prompts look "
        "most alike, those tagged with the question's skills, one of each skill before one of all together, or drawn "
        "ones that do not contradict the others.",
    )
    show_for: str | None = Field(
        None,
        description="Choose by `show` only for questions with this tag, such as hard ones; draw for others.",
    )
    separator: str = Field("\n\n", description="What stands between shown examples.")
    prefix: str = Field("", description="Text before every prompt.")
    suffix: str = Field("", description="Text after every prompt, before the answer.")
    chat_template: bool = Field(False, description="Put the prompt through the tokenizer's chat template.")
    system: str | None = Field(None, description="System message; needs chat_template.")
    temperature: float = Field(0.0, ge=0, description="0 takes the most likely token; above 0, tokens are drawn.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Draw from the most likely tokens that together have this probability."
    )
    seed: int = Field(0, ge=0, description="Seed of drawing tokens and of choosing shown examples.")
    window: int = Field(
        1000,
        ge=2,
        le=10**7,
        description="Characters of a window, at most, that a plain text is cut into; each window is an example.",
    )
    classes: list[str] = Field(
        default_factory=list,
        description="What every answer is one of; a head for these is made where a model that is trained has none.",
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Names of columns, if the files have others: `{prompt: question, answer: target}`.",
    )

    @field_validator("stop")
    @classmethod
    def _not_empty(cls, value: list[str]) -> list[str]:
        if "" in value:
            raise ValueError("an empty text would end every answer. Leave it out")
        return value

    @field_validator("classes")
    @classmethod
    def _told_apart(cls, value: list[str]) -> list[str]:
        if len(value) == 1 or len(set(value)) < len(value) or not all(is_line(one) and one for one in value):
            raise ValueError("`classes` must hold two or more different names of one line each")
        return value

    @model_validator(mode="after")
    def _heard(self) -> TaskSettings:
        if self.system is not None and not self.chat_template:
            raise ValueError("a `system` message needs `chat_template: true`")
        if self.show != "drawn" and not self.few_shot:
            raise ValueError(f"`show: {self.show}` has no effect without `few_shot`. Write how many are shown")
        if self.show_for is not None and self.show == "drawn":
            raise ValueError("`show_for` has no effect with `show: drawn`. Write another way, or leave it out")
        if (find_metric(self.metric).needs == "episode") != (self.returns is not None):
            what = "has no effect with" if self.returns else "is needed by"
            raise ValueError(f"`returns` {what} the metric {self.metric}. Write `returns: [LOW, HIGH]`")
        if self.clip and self.returns is None:
            raise ValueError("`clip` has no effect without `returns`. Leave it out")
        if self.input == "image" and (texts := sorted(self.model_fields_set & _OF_TEXT)):
            raise ValueError(f"`{texts[0]}` has no effect with `input: image`. Leave it out")
        return self

    @field_validator("returns")
    @classmethod
    def _a_range(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not (math.isfinite(value[1] - value[0]) and value[0] < value[1]):
            raise ValueError("`returns` must be two finite numbers, the lower one first")
        return value

    @field_validator("columns")
    @classmethod
    def _own_names(cls, value: dict[str, str]) -> dict[str, str]:
        for key in value:
            if key not in EXAMPLE_KEYS:
                raise ValueError(f"examples have no '{key}'. {nearest(key, EXAMPLE_KEYS)}")
        return value

    @field_validator("show")
    @classmethod
    def _known_way(cls, value: str) -> str:
        try:
            return find_shown_choice(value).name
        except InputError as error:
            raise ValueError(f"{error.what}. {error.fix}") from None

    @field_validator("metric")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            return find_metric(value).name
        except InputError as error:
            raise ValueError(f"{error.what}. {error.fix}") from None


@dataclass
class Task:
    """Examples in splits, under one name, and how they are put and judged.

    Attributes:
        name: appears in tables and ledgers.
        splits: split name -> its examples. A lone file has one split, "all", which answers to any name. Generated
            tasks have as many as are asked for: "valid@3" is the third fresh draw like "valid".
        settings: how it is put and judged.
        asker: for tasks that ask and judge by themselves, such as Python callables; then `settings` are not used.
        version: says which version of the asker outcomes come from.
    """

    name: str
    splits: Mapping[str, Sequence[Example]]
    settings: TaskSettings = field(default_factory=TaskSettings)
    asker: Asker | None = None
    version: str = "1"

    def examples(self, split: str) -> Sequence[Example]:
        """The examples of one split.

        Raises:
            InputError: there is no such split.
        """
        if split in self.splits:
            return self.splits[split]
        if "all" in self.splits:
            return self.splits["all"]
        raise InputError(f"no split '{split}'", where=self.name, fix=nearest(split, self.splits))

    @cached_property
    def asking(self) -> str:
        """SHA-256, hex, of everything that decides an outcome besides the model and the example."""
        if self.asker is not None:
            return hashlib.sha256(f"callable\x1f{self.name}\x1f{self.version}".encode()).hexdigest()
        # What columns and classes are called does not matter, nor where texts are cut: examples are known by their
        # content.
        parts: dict[str, Any] = self.settings.model_dump(mode="json", exclude={"columns", "classes", "window"})
        if parts["input"] == "text":
            del parts["input"]  # what there was before images keeps its digest
        if parts["returns"] is None:
            del parts["returns"]  # and what there was before episodes
        if not parts["clip"]:
            del parts["clip"]  # and what there was before returns could lie outside
        way = find_shown_choice(parts["show"])
        if way.name == "drawn":
            del parts["show"], parts["show_for"]  # and what there was before other ways than drawing
        elif way.tagged or self.settings.show_for is not None:
            # Tags are no part of an example, and decide here what is shown.
            # All splits of a template are tagged by one rule, and have no end.
            known = self.splits if isinstance(self.splits, dict) else {"train": self._pool}
            parts["tags"] = {split: [one.tags for one in examples] for split, examples in sorted(known.items())}
        metric = find_metric(self.settings.metric)
        parts["metric_version"] = metric.version
        if metric.plugin is not None:
            parts["metric_code"] = metric.plugin.code
        if self.settings.few_shot:
            parts["shown"] = [example.key for example in self._pool]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def _pool(self) -> Sequence[Example]:
        return self.splits.get("train", self.splits.get("all", ()))

    def shown_before(self, example: Example) -> list[Example]:
        """The solved examples shown before `example`, chosen as `show` says by the seed and the example; never itself.

        Raises:
            InputError: the training split has fewer examples than are to be shown, or none that `show` needs.
        """
        count = self.settings.few_shot
        if count == 0:
            return []
        pool = [other for other in self._pool if other.key != example.key]
        if len(pool) < count:
            raise InputError(
                f"few_shot is {count}, and the task has {len(pool)} training examples",
                where=self.name,
                fix="Write a smaller few_shot",
            )
        only = self.settings.show_for
        way = self._ways[1] if only is None or only in example.tags else self._ways[0]
        return way.chosen(example, count, seeding.numpy_generator(self.settings.seed, "few-shot", example.key))

    @cached_property
    def _ways(self) -> tuple[ShownChoice, ShownChoice]:
        """How examples are chosen: by drawing, and as the settings say."""
        drawn, own = (find_shown_choice(name)(self._pool, self.name) for name in ("drawn", self.settings.show))
        return drawn, own

    def conversation_text(self, example: Example, chat_text: Callable[[list[dict[str, str]]], str], kind: str) -> str:
        """The messages of an example as one text.

        Args:
            example: one with messages.
            chat_text: puts messages through a chat template.
            kind: what kind of model it is for, for errors.

        Raises:
            InputError: there is no chat template, or it refuses these messages.
        """
        try:
            return chat_text([{"role": role, "content": text} for role, text in example.messages])
        except InputError as error:
            raise InputError(
                f"the conversation cannot be put to {kind} ({error.what})",
                where=example.place(self.name),
                fix="Name a model with a chat template, or write `prompt` and `answer` instead of `messages`",
            ) from None

    def check_reader(self, kind: type[Model], name: str) -> None:
        """Refuses a model that reads something else than the task shows.

        Args:
            kind: the kind of model.
            name: of the model, for errors.

        Raises:
            InputError: the task shows images and the model reads texts, or the other way round.
        """
        shown = self.settings.input
        if shown != kind.reads:
            raise InputError(
                f"the task '{self.name}' shows {shown}s, and {kind.kind} reads {kind.reads}s",
                where=name,
                fix=f"Name a model that reads {shown}s, or another task",
            )

    def prompt_for(self, example: Example, model: Model) -> str:
        """The whole text `model` reads for `example`: template, shown examples and question; or the path of its image.

        Raises:
            InputError: the model reads something else than the task shows, an image is missing, or the chat template
                refuses the messages.
        """
        if example.episode is not None:
            raise InputError(
                "is an episode of an environment, which is played and shows no prompt",
                where=example.place(self.name),
                fix="Use it with `genepool evaluate`, or with a composer that learns from what policies do",
            )
        # A model in training has no name.
        if self.settings.input != model.reads:
            self.check_reader(type(model), model.name)
        if self.settings.input == "image":
            if example.image is None:
                raise InputError("has no image", where=example.place(self.name), fix="Add an image to the example")
            return str(example.image.path)
        ask = self.settings
        if example.messages:
            return self.conversation_text(example, model.chat_text, model.kind)
        shown = self.shown_before(example)
        if ask.chat_template:
            messages = [{"role": "system", "content": ask.system}] if ask.system is not None else []
            for other in shown:
                messages.append({"role": "user", "content": f"{ask.prefix}{other.prompt}{ask.suffix}"})
                messages.append({"role": "assistant", "content": other.answer})
            messages.append({"role": "user", "content": f"{ask.prefix}{example.prompt}{ask.suffix}"})
            return model.chat_text(messages)
        pieces = [f"{ask.prefix}{other.prompt}{ask.suffix}{other.answer}" for other in shown]
        return ask.separator.join([*pieces, f"{ask.prefix}{example.prompt}{ask.suffix}"])
