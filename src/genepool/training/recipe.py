"""The training file: what is trained, on which tasks, how long, as read from a file with the key `train: 1`.

Pydantic models of the YAML a user writes, and its reader. `genepool train`'s options fill in the same model. Opens no
model; the rest of the room is built on it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from genepool.errors import InputError, nearest
from genepool.schema import PartError, Strict, has_mark, read_marked, validate_part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from genepool.training.learners import TaskLearner
    from genepool.training.objectives import Objective
    from genepool.weights.formed.adapter_form import FormOfAdapter

#: Forms that are none of adapters' own: PEFT's factors, and every tensor.
OWN_FORMS = ("lora", "full")


class Lora(Strict):
    """Low-rank factors on the linear layers (Hu et al., arXiv:2106.09685)."""

    rank: int = Field(default=8, ge=1, le=4096, description="Rank of the factors.")
    alpha: float = Field(
        default=32.0,
        gt=0,
        description="The change is scaled by alpha / rank. 32 whatever the rank, so that the best learning rate hardly "
        "depends on it (Schulman and Thinking Machines Lab, LoRA Without Regret, 2025).",
    )
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="How likely an input of the factors is left out in a step."
    )
    targets: tuple[str, ...] = Field(
        default=(), description="Names of the linear layers that get factors, such as q_proj; all of them when empty."
    )


class Average(Strict):
    """A running mean of the weights, which is validated and written in their place.

    After every step: mean = decay * mean + (1 - decay) * weights, from the weights at the start on. For factors, the
    mean is of each factor, not of their product.
    """

    decay: float = Field(default=0.999, ge=0, lt=1, description="Weight of the mean so far.")
    rises: bool = Field(
        default=True,
        description="After step t the decay is at most (1 + t) / (10 + t), so that a short training does not stay at "
        "its start (an option of TensorFlow's ExponentialMovingAverage). false: momentum interpolation, which keeps "
        "what the model knew at the start for longer.",
    )

    def decay_after(self, step: int) -> float:
        """The decay after a step, counted from 1."""
        return min(self.decay, (1 + step) / (10 + step)) if self.rises else self.decay


class Training(Strict):
    """One training, as read from a file with the key `train: 1`."""

    page = "reference/training"
    # What stands before a key in errors: the file that it was read from, and a colon.
    _before: str = PrivateAttr(default="")

    train: Literal[1] = Field(default=1, description="Version of this format; marks a file as a training.")
    base: str = Field(description="The model that is trained: a folder, a hub model, BASE+ADAPTER or BASE+SKILL.")
    tasks: tuple[str, ...] = Field(min_length=1, description="Task folders, or JSONL files of examples.")
    others: str | None = Field(
        default=None,
        description="Folder of tasks that must not be forgotten; null: the folders beside the first task's.",
    )
    shares: dict[str, float] | None = Field(
        default=None,
        description="How likely an example of a step is one of each task, as weights by the tasks' names, such as "
        "{generic: 0.5, sort: 0.5}. Examples are then drawn from (seed, step), the same one seldom twice in a step; "
        "null: all examples in shuffled rounds, so that a task counts by its size.",
    )
    sampler: str | None = Field(
        default=None,
        description="What says how much of a step each task gets, or which examples it takes: one of the "
        "[samplers](samplers.md), such as skill_it or less; null: `shares`, or shuffled rounds.",
    )
    sampler_options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the sampler, as its page lists them."
    )
    portions: dict[str, float] | None = Field(
        default=None,
        description="The part of a task's training examples that is used, by the tasks' names, such as "
        "{sort: 0.0039}; which ones, the seed decides. Tasks that are not named are used whole, and null uses all.",
    )
    form: str = Field(
        default="lora",
        description="lora: factors, which become an adapter; full: every tensor, which becomes a skill; or one of the "
        "[forms of adapters](adapter-forms.md), such as hydra.",
    )
    form_options: dict[str, Any] = Field(
        default_factory=dict, description="Options of a form of adapter, as its page lists them."
    )
    lora: Lora = Field(default=Lora(), description="The factors.")
    objective: str = Field(
        default="likelihood", description="What a step minimises; the table below lists the objectives."
    )
    learner: str | None = Field(
        default=None,
        description="Learn the tasks one after the other, in their order, each with `steps` steps, and hold on to the "
        "earlier ones in this way; the table of learners lists them. null: learn them together.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the objective, or of the learner; the tables below list them."
    )
    teacher: str | None = Field(default=None, description="The model whose predictions the objective compares with.")
    steps: int = Field(default=200, ge=1, le=10**7, description="Optimiser steps, at most.")
    batch: int = Field(default=32, ge=1, le=10**6, description="Examples in a step.")
    micro_batch: int | None = Field(
        default=None, ge=1, description="Examples computed at once, so that they fit in memory; null: the whole batch."
    )
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="The largest learning rate; null: 5e-5 (2000 / hidden size)^0.781, ten times that for lora (the "
        "fit to Llama models in LoRA Without Regret).",
    )
    warmup: float = Field(default=0.03, ge=0, le=1, description="Part of the steps in which the learning rate rises.")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        default="linear", description="How the learning rate falls."
    )
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's decoupled weight decay.")
    clip: float = Field(default=1.0, ge=0, description="Largest norm of the gradient; 0 does not clip.")
    average: Average | None = Field(
        default=None, description="Validate and write a running mean of the weights (EMA); null: the weights."
    )
    pack: bool = Field(default=False, description="Put several short examples into one row; no example sees another.")
    activation_checkpoints: bool = Field(
        default=False, description="Compute activations again in the backward pass: a third slower, far less memory."
    )
    every: int = Field(
        default=25, ge=1, description="Steps between two validations; after each the state is kept on the disk."
    )
    patience: int = Field(
        default=4,
        ge=0,
        description="Stop after this many validations without a lower loss; 0 never stops early. The state of the "
        "lowest validation loss is what is written.",
    )
    valid: int = Field(default=256, ge=1, description="Validation examples of each task, at most.")
    test: int | None = Field(
        default=None, ge=1, description="Test examples of each task, at most, for before and after; null: all."
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="Decides the order of the examples and every draw.")
    threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Threads torch computes with; null: as many as the machine has cores, one for models below 20 M.",
    )
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = Field(
        default="float32", description="What the model computes in; what is trained is kept in float32."
    )

    @field_validator("tasks", mode="before")
    @classmethod
    def _one_task(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Path) else value

    @field_validator("shares")
    @classmethod
    def _some_share(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value is not None and (min(value.values(), default=0) < 0 or not 0 < sum(value.values()) < math.inf):
            raise ValueError(f"shares must be 0 or more, and one of them above 0, got {value}")
        return value

    @field_validator("portions")
    @classmethod
    def _parts_of_one(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        for name, part in (value or {}).items():
            if not 0 < part <= 1:
                raise ValueError(f"a portion must be above 0 and at most 1, got {part} for {name}")
        return value

    @field_validator("objective")
    @classmethod
    def _known(cls, value: str) -> str:
        from genepool.training.objectives import objectives

        if value not in objectives():
            raise ValueError(f"there is no objective '{value}'. {nearest(value, objectives())}")
        return value

    @field_validator("form")
    @classmethod
    def _known_form(cls, value: str) -> str:
        from genepool.weights.adapter_forms import adapter_forms

        known = (*OWN_FORMS, *adapter_forms())
        if value not in known:
            raise ValueError(f"there is no form '{value}'. {nearest(value, known)}")
        return value

    @model_validator(mode="after")
    def _formed(self) -> Training:
        from genepool.training.objectives import TargetObjective, objectives
        from genepool.weights.adapter_forms import adapter_forms

        if not self.is_form:
            if self.form_options:
                raise ValueError(
                    f"`form_options` are of forms of adapters, and the form is {self.form}. Leave them out"
                )
            return self
        validate_part(adapter_forms()[self.form].Options, self.form_options, "form_options")
        objective = objectives()[self.objective]
        if objective.factors_only:
            raise ValueError(f"the objective {self.objective} trains factors alone. Leave --form (`form`) out")
        if adapter_forms()[self.form].by_task and not issubclass(objective, TargetObjective):
            raise ValueError(
                f"the form {self.form} has parts for each task, which the objective {self.objective} does not tell "
                "apart. Use likelihood, or another form"
            )
        return self

    @model_validator(mode="after")
    def _sampled(self) -> Training:
        from genepool.training.generating import GeneratingSampler
        from genepool.training.objectives import TargetObjective, objectives
        from genepool.training.objectives.hard import Hard
        from genepool.training.rollout_objective import RolloutObjective
        from genepool.training.samplers import ExampleSampler, samplers

        known = samplers()
        if self.sampler is not None and self.learner is not None:
            # What is said of learners is said by `_in_order`.
            return self
        if self.sampler is None:
            if self.sampler_options:
                raise ValueError("`sampler_options` are of a `sampler`, and there is none. Leave them out")
            return self
        if self.sampler not in known:
            raise ValueError(f"there is no sampler '{self.sampler}'. {nearest(self.sampler, known)}")
        validate_part(known[self.sampler].Options, self.sampler_options, "sampler_options")
        if self.shares is not None:
            raise ValueError(f"`shares` say what the sampler {self.sampler} is to say. Leave one of them out")
        if known[self.sampler].needs == "reward" and not issubclass(objectives()[self.objective], RolloutObjective):
            raise ValueError(
                f"the sampler {self.sampler} learns from rewards, which the objective {self.objective} has not. Use "
                "grpo, or another sampler"
            )
        kind = objectives()[self.objective]
        # HARD writes other answers beside those of the data.
        answers = issubclass(kind, TargetObjective) and not issubclass(kind, Hard)
        if issubclass(known[self.sampler], ExampleSampler) and not answers:
            raise ValueError(
                f"the sampler {self.sampler} scores answers, of which the objective {self.objective} learns otherwise. "
                "Use likelihood, or another sampler"
            )
        if known[self.sampler].needs == "loss or reward" and not (answers or issubclass(kind, RolloutObjective)):
            raise ValueError(
                f"the sampler {self.sampler} observes losses of answers or rewards of samples, and the objective "
                f"{self.objective} has neither. Use likelihood or grpo, or another sampler"
            )
        if issubclass(known[self.sampler], GeneratingSampler) and not answers:
            raise ValueError(
                f"the sampler {self.sampler} has examples with answers made, of which the objective {self.objective} "
                "learns otherwise. Use likelihood, or another sampler"
            )
        return self

    @property
    def sampler_paths(self) -> tuple[str, ...]:
        """The options of the sampler that name folders."""
        from genepool.training.samplers import samplers

        return () if self.sampler is None else samplers()[self.sampler].paths

    @property
    def writer(self) -> str | None:
        """The model that writes examples for the sampler; None where there is none."""
        found = self.sampler_options.get("writer")
        return found if isinstance(found, str) else None

    @property
    def is_form(self) -> bool:
        """Whether a form of adapter is trained: neither factors nor every tensor."""
        return self.form not in OWN_FORMS

    def made_form(self, tasks: Sequence[str]) -> FormOfAdapter:
        """The form of adapter with its options.

        Args:
            tasks: names of the tasks that it is trained on.
        """
        from genepool.weights.adapter_forms import make_form

        return make_form(self.form, self.form_options, tasks, "form_options")

    @model_validator(mode="after")
    def _in_order(self) -> Training:
        if self.learner is None:
            return self
        from genepool.training.learners import learners

        if self.learner not in learners():
            fix = nearest(self.learner, learners())
            raise PartError(InputError(f"there is no learner '{self.learner}'", where="learner", fix=fix))
        kind = learners()[self.learner]
        made = kind(validate_part(kind.Options, self.options, "options"))
        if made.compares_examples and self.micro_batch is not None:
            what = f"the learner {self.learner} compares all examples of a step with each other"
            raise PartError(InputError(what, where="micro_batch", fix="Leave it out"))
        if kind.one_a_row and self.pack:
            what = f"does not go with the learner {self.learner}, which needs a row for every example"
            raise PartError(InputError(what, where="pack", fix="Leave it out"))
        if self.is_form:
            what = f"the learner {self.learner} trains factors or every tensor, and no form of adapter ({self.form})"
            raise PartError(InputError(what, where="form", fix="Leave out the form, or the learner"))
        if kind.factors_only and self.form == "full":
            raise ValueError(f"the learner {self.learner} trains factors alone. Leave --full (`form`) out")
        for key, plain in (
            ("objective", "likelihood"),
            ("teacher", None),
            ("average", None),
            ("shares", None),
            ("sampler", None),
        ):
            if getattr(self, key) != plain:
                what = f"does not go with the learner {self.learner}"
                if key in ("shares", "sampler"):
                    what += ", which takes the tasks one after the other, so nothing chooses between them"
                raise PartError(InputError(what, where=key, fix="Leave it out, or leave out the learner"))
        if "patience" in self.model_fields_set and self.patience:
            fix = "Leave it out: every task has all of its steps"
            raise PartError(InputError(f"does not go with the learner {self.learner}", where="patience", fix=fix))
        return self

    @model_validator(mode="after")
    def _taught(self) -> Training:
        from genepool.training.objectives import objectives

        if self.learner is not None:
            # The options are the learner's.
            return self
        options = validate_part(objectives()[self.objective].Options, self.options, "options")
        if (iterations := getattr(options, "iterations", 1)) > 1 and self.every % iterations:
            raise ValueError(f"`every` must be a multiple of the option iterations ({iterations}), got {self.every}")
        if objectives()[self.objective].factors_only and self.form == "full":
            raise ValueError(f"the objective {self.objective} trains factors alone. Leave --full (`form`) out")
        for key in objectives()[self.objective].at_odds:
            if getattr(self, key) != type(self).model_fields[key].default:
                what = f"does not go with the objective {self.objective}"
                raise PartError(InputError(what, where=key, fix="Leave it out"))
        needs = objectives()[self.objective].needs_teacher
        if needs and self.teacher is None:
            raise ValueError(f"the objective {self.objective} needs a `teacher`. Name a model with --teacher")
        if not needs and self.teacher is not None:
            raise ValueError(f"the objective {self.objective} does not use a `teacher`. Leave it out")
        return self

    def key(self, name: str) -> str:
        """A key of the file that it was read from, for errors; the key alone where there is no file."""
        return self._before + name

    def made_objective(self) -> Objective:
        """The objective with its options."""
        from genepool.training.objectives import find_objective

        return find_objective(self.objective, {} if self.learner is not None else self.options)

    def made_learner(self) -> TaskLearner:
        """The learner with its options; only for a recipe that names one."""
        from genepool.training.learners import find_learner

        assert self.learner is not None
        return find_learner(self.learner, self.options)

    def located(self, folder: Path) -> Training:
        """The same with paths that are relative to the file's folder made so that they can be found from here."""

        def found(path: str) -> str:
            inside = folder / path
            return str(inside) if not Path(path).is_absolute() and inside.exists() else path

        options = dict(self.options)
        if "reward" in options:
            from genepool.training.rewards import located

            options["reward"] = located(options["reward"], lambda name: _model_near(name, folder))
        of_sampler = dict(self.sampler_options)
        if isinstance(of_sampler.get("writer"), str):
            of_sampler["writer"] = _model_near(of_sampler["writer"], folder)
        for key in set(self.sampler_paths) & set(of_sampler):
            of_sampler[key] = [found(path) for path in of_sampler[key]]
        return self.model_copy(
            update={
                "options": options,
                "sampler_options": of_sampler,
                "base": _model_near(self.base, folder),
                "teacher": None if self.teacher is None else _model_near(self.teacher, folder),
                "tasks": tuple(map(found, self.tasks)),
                "others": None if self.others is None else found(self.others),
            }
        )


def _model_near(name: str, folder: Path) -> str:
    """A model string whose parts that lie beside the file are found from here."""
    parts = []
    for part in name.split("+"):
        inside = folder / part
        parts.append(str(inside) if not Path(part).is_absolute() and inside.exists() else part)
    return "+".join(parts)


def is_training(path: Path) -> bool:
    """Whether a path is a YAML file with the key `train`."""
    return has_mark(path, "train")


def load_training(path: Path) -> Training:
    """Reads a training file.

    Raises:
        InputError: naming the key that is wrong; a version from the future is refused.
    """
    found = read_marked(Training, path, "train")
    found._before = f"{path}:"
    return found.located(path.parent)
