"""The loop file: which stages make a round, and how many rounds there are, as read from a file with the key `loop: 1`.

Pydantic models of the YAML a user writes, and its reader. Opens no model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from genepool.errors import InputError
from genepool.schema import PartError, Strict, has_mark, read_marked, validate
from genepool.training.loops.stage import Stage, find_stage
from genepool.training.recipe import Lora, Training

#: Keys of a training that a loop says once for all of its trainings.
_SHARED = ("train", "base", "tasks", "others", "form", "lora", "test", "seed", "threads", "dtype")


class Loop(Strict):
    """One loop, as read from a file with the key `loop: 1`."""

    page = "reference/loops"
    # The file that it was read from, for errors; empty where there is none.
    _file: str = PrivateAttr(default="")

    loop: Literal[1] = Field(default=1, description="Version of this format; marks a file as a loop.")
    base: str = Field(description="The model it begins with: a folder, a hub model, BASE+ADAPTER or BASE+SKILL.")
    tasks: tuple[str, ...] = Field(min_length=1, description="Task folders, or JSONL files of examples.")
    others: str | None = Field(
        default=None,
        description="Folder of tasks that must not be forgotten; null: the folders beside the first task's.",
    )
    rounds: int = Field(default=3, ge=1, le=10_000, description="How often the stages of `round` run.")
    first: tuple[dict[str, dict[str, Any]], ...] = Field(
        default=(), description="Stages that run once, before the first round."
    )
    round: tuple[dict[str, dict[str, Any]], ...] = Field(
        min_length=1, description="Stages of a round, in order; each is a name with its options, as listed below."
    )
    last: tuple[dict[str, dict[str, Any]], ...] = Field(
        default=(), description="Stages that run once, after the last round."
    )
    training: dict[str, Any] = Field(
        default_factory=dict,
        description="Keys of a training file for every training of the loop, such as `batch` and `learning_rate`.",
    )
    form: Literal["lora", "full"] = Field(
        default="lora", description="lora: each training adds factors; full: every tensor is trained."
    )
    lora: Lora = Field(default=Lora(), description="The factors of each training.")
    test: int | None = Field(
        default=None, ge=1, description="Test examples of each task, at most, for before and after; null: all."
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="Decides every draw.")
    threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Threads torch computes with; null: as many as the machine has cores, one for models below 20 M.",
    )
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = Field(
        default="float32", description="What the models compute in; what is trained is kept in float32."
    )

    @field_validator("tasks", mode="before")
    @classmethod
    def _one_task(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Path) else value

    @field_validator("first", "round", "last", mode="before")
    @classmethod
    def _bare_names(cls, value: Any) -> Any:
        """A stage without options may be a name alone, or a name with nothing behind it."""
        if not isinstance(value, list | tuple):
            return value
        found = []
        for one in value:
            plain = {one: {}} if isinstance(one, str) else one
            found.append({k: {} if v is None else v for k, v in plain.items()} if isinstance(plain, dict) else plain)
        return tuple(found)

    @model_validator(mode="after")
    def _composed(self) -> Loop:
        if self.training.get("learner") is not None:
            what = "does not go with a loop, which teaches its tasks together"
            fix = "Leave it out, or learn the tasks in order without a loop"
            raise PartError(InputError(what, where="training.learner", fix=fix))
        for key in self.training:
            if key in _SHARED and key != "train":
                raise ValueError(f"`training` says `{key}`, which the loop says itself. Move it to the top")
        try:
            validate(Training, {"base": self.base, "tasks": self.tasks, **self.training}, "")
        except InputError as error:
            inner = error.where.removeprefix(":")
            where = f"training.{inner}" if inner else "training"
            raise PartError(InputError(error.what, where=where, fix=error.fix)) from None
        known: set[str] = set()
        trains = False
        for part in ("first", "round", "last"):
            for number, stage in enumerate(self._made(part), 1):
                where = f"{part}.{number}.{stage.name}"
                if missing := [name for name in stage.reads if name not in known]:
                    what = f"reads '{missing[0]}', which no stage before it writes"
                    fix = f"Written before it: {', '.join(sorted(known))}" if known else "Put a draw before it"
                    raise PartError(InputError(what, where=where, fix=fix))
                known |= set(stage.writes)
                trains = trains or stage.trains
        if not trains:
            raise ValueError("no stage trains, so nothing would be learned. Add a stage `train`")
        return self

    def _made(self, part: str) -> list[Stage]:
        """The stages of `first`, `round` or `last`, with their options."""
        found = []
        for number, stage in enumerate(getattr(self, part), 1):
            where = f"{part}.{number}"
            if len(stage) != 1:
                what = f"a stage is one name with its options, got {len(stage)} names"
                raise PartError(InputError(what, where=where, fix="Begin each stage with a `-` of its own"))
            ((name, options),) = stage.items()
            try:
                found.append(find_stage(name, options))
            except InputError as error:
                inner = error.where.removeprefix(":")
                place = f"{where}.{name}.{inner}" if inner else f"{where}.{name}"
                raise PartError(InputError(error.what, where=place, fix=error.fix)) from None
        return found

    def plan(self) -> list[tuple[int, int, Stage]]:
        """Every stage that will run, in order: its round, its number within the round, and the stage.

        The round of `first` is 0, that of `last` one more than `rounds`; numbers are counted from 1.
        """
        parts = [(0, self._made("first"))]
        parts += [(number, self._made("round")) for number in range(1, self.rounds + 1)]
        parts.append((self.rounds + 1, self._made("last")))
        return [(round_, number, stage) for round_, part in parts for number, stage in enumerate(part, 1)]

    def placed(self, error: InputError, round_: int, number: int, stage: Stage) -> InputError:
        """What a stage refuses, under the key of the file that says it; what is wrong elsewhere stays as it is.

        Args:
            error: raised by its `check`.
            round_, number, stage: as `plan` has them.
        """
        part = "first" if round_ == 0 else "last" if round_ > self.rounds else "round"
        key = error.where.removeprefix(f"{self._file}:")
        # Of a training that was made of the stage's options and of what the loop says of all.
        common = key.removeprefix("training:").removeprefix("training.").replace(":", ".")
        own = common.removeprefix(f"{stage.name}.")
        first = own.partition(".")[0]
        if key == stage.name:
            place = f"{part}.{number}.{stage.name}"
        elif first in type(stage.options).model_fields and not (
            getattr(stage.options, first) is None and first in self.training
        ):
            place = f"{part}.{number}.{stage.name}.{own}"
        elif common != key or first in self.training:
            place = f"training.{own}"
        else:
            return error
        return InputError(error.what, where=self._file_and(place), fix=error.fix)

    def _file_and(self, place: str) -> str:
        return f"{self._file}:{place}" if self._file else place

    def training_of(self, **changes: Any) -> Training:
        """A training of the loop.

        Args:
            changes: its base and tasks, and whatever else it says itself.

        Raises:
            InputError: a value is wrong.
        """
        shared = {"form": self.form, "lora": self.lora, "threads": self.threads, "dtype": self.dtype}
        found = validate(Training, {"patience": 0, **self.training, **shared, **changes}, "training")
        found._before = self._file_and("training.")
        return found

    def located(self, folder: Path) -> Loop:
        """The same with paths that are relative to the file's folder made so that they can be found from here."""

        def found(path: str) -> str:
            inside = folder / path
            return str(inside) if not Path(path).is_absolute() and inside.exists() else path

        return self.with_paths(found)

    def resolved(self) -> Loop:
        """The same with paths that can be found from anywhere."""
        return self.with_paths(lambda path: str(Path(path).resolve()) if Path(path).exists() else path)

    def with_paths(self, found: Callable[[str], str]) -> Loop:
        """The same with every file and folder that it names where `found` finds it."""

        def model(name: str) -> str:
            return "+".join(map(found, name.split("+")))

        def placed(options: dict[str, Any]) -> dict[str, Any]:
            from genepool.training.rewards import located

            told = dict(options)
            if "reward" in told:
                told["reward"] = located(told["reward"], model)
            if isinstance(told.get("teacher"), str) and told["teacher"] not in ("base", "parent"):
                told["teacher"] = model(told["teacher"])
            of_sampler = told.get("sampler_options")
            if isinstance(of_sampler, dict):
                from genepool.training.samplers import samplers

                kind, own = samplers().get(str(told.get("sampler"))), dict(of_sampler)
                for key in () if kind is None else kind.paths:
                    if isinstance(own.get(key), list):
                        own[key] = [found(one) if isinstance(one, str) else one for one in own[key]]
                if isinstance(own.get("writer"), str):
                    own["writer"] = model(own["writer"])
                told["sampler_options"] = own
            # Those of an objective, which may name a reward.
            if isinstance(told.get("options"), dict):
                told["options"] = placed(told["options"])
            return told

        parts = {
            part: tuple({name: placed(options) for name, options in stage.items()} for stage in getattr(self, part))
            for part in ("first", "round", "last")
        }
        others = None if self.others is None else found(self.others)
        training = placed(self.training)
        update = {"base": model(self.base), "tasks": tuple(map(found, self.tasks)), "others": others, **parts}
        return self.model_copy(update={**update, "training": training})

    def names(self) -> list[str]:
        """Every file, folder and model that it names; of a sum of models each one."""
        told: list[str] = []

        def note(name: str) -> str:
            told.append(name)
            return name

        self.with_paths(note)
        return told


def is_loop(path: Path) -> bool:
    """Whether a path is a YAML file with the key `loop`."""
    return has_mark(path, "loop")


def load_loop(path: Path) -> Loop:
    """Reads a loop file.

    Raises:
        InputError: naming the key that is wrong; a version from the future is refused.
    """
    found = read_marked(Loop, path, "loop")
    found._file = str(path)
    return found.located(path.parent)
