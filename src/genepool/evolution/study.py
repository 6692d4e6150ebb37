"""The study file: what is searched, on which skills and tasks, with which strategy and budget.

Pydantic models of the YAML a user writes (`study: 1`), and nothing that opens a model or a file. What is varied has
models of its own, beside each representation. Uses the schema and errors rooms; the rest of `genepool.evolution` and
the documentation's reference page are built on it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    SerializeAsAny,
    SkipValidation,
    field_validator,
    model_validator,
)

from genepool.errors import InputError
from genepool.evolution import older_keys
from genepool.evolution.kept_parts import WORDS, said_of_parts
from genepool.evolution.reading_vary import read_vary
from genepool.evolution.representations import Vary, representation
from genepool.evolution.strategies import StrategyEntry, strategies, strategy_entry
from genepool.merging.recipe_parts import TensorRule
from genepool.schema import PartError, Strict


class SkillChoice(Strict):
    """One fine-tuned model of the base. A plain string is short for `model`."""

    name: str = Field(
        "",
        description="Short name for tables and genes; when left out the last part of the path, and of the "
        "result of a training the run's folder.",
    )
    model: str = Field(description="A checkpoint, `base+adapter`, or any other model string of recipes.")
    parameters: dict[str, Any] = Field(default={}, description="Merge parameters of this model that stay fixed.")

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, data: Any) -> Any:
        return {"model": str(data)} if isinstance(data, str | Path) else data

    @model_validator(mode="after")
    def _named(self) -> SkillChoice:
        if self.name:
            return self
        from genepool.training.folder import RESULTS

        *before, last = re.split(r"[/\\]", self.model.split("+")[-1].rstrip("/\\"))
        # Every training calls its result so: the run's folder says which it is.
        told = before and last in RESULTS and before[-1] not in ("", ".", "..")
        return self.model_copy(update={"name": before[-1] if told else last})


class TaskChoice(Strict):
    """The tasks that drive the search and judge the winner. A plain string is short for `dir`."""

    dir: str = Field(description="Folder of tasks, each a folder with train, valid and test JSONL files.")
    names: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="Tasks to use; by default all of the folder."
    )
    weights: dict[str, float] = Field(default={}, description="Weight of each task in the fitness; 1 by default.")
    valid: int | None = Field(
        default=None, ge=1, description="Validation examples per task that score a candidate; null: all."
    )
    test: int | None = Field(default=None, ge=1, description="Test examples per task that score the winner; null: all.")
    held_out: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Share of the examples of a task with one split that are kept for the test; the others score "
        "candidates. null: such a task is refused.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, data: Any) -> Any:
        return {"dir": str(data)} if isinstance(data, str | Path) else data

    @field_validator("weights")
    @classmethod
    def _positive(cls, weights: dict[str, float]) -> dict[str, float]:
        if any(not weight >= 0 for weight in weights.values()):
            raise ValueError("weights must not be negative")
        return weights


class FitnessSettings(Strict):
    """How the means of the tasks become one fitness: (1 - worst) * weighted mean + worst * smallest mean."""

    worst: float = Field(
        default=0.0, ge=0, le=1, description="Weight of the worst task's score in the fitness, from 0 to 1."
    )


class StrategyChoice(Strict):
    """The search algorithm. A plain string is short for `name`."""

    name: str = Field(default="cma_es", description="One of `genepool strategies`.")
    options: dict[str, Any] = Field(default={}, description="Its options.")

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data


class Racing(Strict):
    """Candidates answer a few examples first, and those that are behind leave. A plain string is short for `kind`."""

    kind: Literal["halving", "test"] = Field(
        default="halving",
        description="halving: the better part goes on to twice as many examples. test: only candidates that are "
        "surely behind leave.",
    )
    first: int | None = Field(
        default=None, ge=1, description="Examples per task in the first round; null: an eighth of them, at least 8."
    )
    keep: float = Field(
        default=0.5, gt=0, lt=1, description="Part that goes on after a round of halving, at least one."
    )
    risk: float = Field(
        default=0.05, gt=0, lt=1, description="Largest probability that a test drops the best of a generation."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, data: Any) -> Any:
        return {"kind": data} if isinstance(data, str) else data


class Screening(Strict):
    """A surrogate model predicts the fitness, and the worse candidates are not evaluated. `true` means the defaults."""

    keep: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="Part of a generation that is evaluated: the candidates with the best predictions.",
    )
    trust: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="If Kendall's tau between prediction and result of the latest 20 candidates is below this, "
        "all candidates are evaluated.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_true(cls, data: Any) -> Any:
        return {} if data is True else data


class Stop(Strict):
    """When the search ends early; checked after every generation."""

    target: float | None = Field(default=None, description="End when the fitness reaches this.")
    stall: int | None = Field(default=None, ge=1, description="End after N generations without a better candidate.")


class SearchBudget(Strict):
    """When the search ends. The first limit that is reached counts."""

    evaluations: int | None = Field(default=None, ge=1, le=10**9, description="Number of candidates.")
    minutes: float | None = Field(default=None, gt=0, description="Minutes of search, added up over all sittings.")

    @model_validator(mode="after")
    def _some_end(self) -> SearchBudget:
        if self.evaluations is None and self.minutes is None:
            raise ValueError("name `evaluations`, `minutes` or both")
        return self


class Study(Strict):
    """One evolution run, over merge parameters or over models, as read from a file with the key `study: 1`."""

    page = "reference/study"

    older_keys: ClassVar[tuple[str, ...]] = tuple(older_keys.DEFAULTS)

    study: Literal[1] = Field(default=1, description="Version of this format; marks a file as a study.")
    base: str | None = Field(
        default=None,
        description="The model every skill was fine-tuned from. May be left out for merge methods that need none.",
    )
    skills: tuple[SkillChoice, ...] = Field(description="The fine-tuned models to merge or breed.")
    vary: SkipValidation[SerializeAsAny[Vary]] = Field(
        default=cast("Vary", None),
        description="What the study varies; by default the strategy's own kind with its defaults.",
    )
    tasks: TaskChoice = Field(description="The tasks that score the candidates.")
    objective: FitnessSettings = Field(default=FitnessSettings(), description="How task scores become one fitness.")
    strategy: StrategyChoice = Field(default=StrategyChoice(), description="The search algorithm.")
    budget: SearchBudget = Field(description="When the search ends.")
    stop: Stop = Field(default=Stop(), description="When to end before that.")
    race: Racing | None = Field(default=None, description="How candidates race on examples; null: no race.")
    screen: Screening | None = Field(
        default=None, description="Whether a surrogate model filters candidates; null or false: no."
    )
    probe: int = Field(
        default=0,
        ge=0,
        description="Examples per task that a candidate answers first. If another candidate gave the same "
        "answers, it gets that one's scores. 0: none.",
    )
    steady: bool = Field(
        default=False,
        description="Ask for new candidates while others are being evaluated, so that no worker waits. The result then "
        "depends on the order in which they finish. For strategies that can be steady (`genepool strategies NAME`).",
    )
    time_limit: float | None = Field(
        default=None, gt=0, description="Seconds that one evaluation may take. A longer one counts as failed."
    )
    finalists: int = Field(
        default=5,
        ge=0,
        description="The N best candidates and the strategy's own guess are evaluated on all validation "
        "examples, and the best one wins. 0: the best of the search wins.",
    )
    ensemble: int = Field(
        default=0,
        ge=0,
        description="The N best finalists also answer the test examples together, by majority vote; at least 3. "
        "0: no ensemble.",
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of every random draw.")
    threads: int = Field(default=1, ge=1, le=1024, description="Threads of one evaluation, for any number of workers.")
    batch: int = Field(
        default=128, ge=1, description="Prompts decoded at once; fixed, so that results do not depend on load."
    )
    compute: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Type that candidates are evaluated in; bfloat16 needs half the memory."
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None, description="What candidates and the winner are stored as; as the base when left out."
    )

    rest: str | None = Field(
        default=None,
        min_length=1,
        description="Merge only the tensors that all models have in one shape; all others, the config and the labels "
        "are this model's: `base`, a skill's name, or any model. For kinds that merge.",
    )
    tensors: tuple[TensorRule, ...] = Field(
        default=(),
        description="Tensors that no candidate merges like the rest, as in a recipe; `from` may be a skill's name. "
        "For kinds that merge.",
    )

    @field_validator("screen", mode="before")
    @classmethod
    def _not_at_all(cls, value: Any) -> Any:
        return None if value is False else value

    @field_validator("base", mode="before")
    @classmethod
    def _path_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    @field_validator("skills")
    @classmethod
    def _with_own_names(cls, skills: tuple[SkillChoice, ...]) -> tuple[SkillChoice, ...]:
        if not skills:
            raise ValueError("name at least one skill")
        names = [skill.name for skill in skills]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two skills are called '{twice[0]}'; give each a name of its own")
        return skills

    @field_validator("ensemble")
    @classmethod
    def _a_majority(cls, value: int) -> int:
        if value in (1, 2):
            raise ValueError("a vote needs 3 members or more")
        return value

    @model_validator(mode="after")
    def _enough_finalists(self) -> Study:
        if self.ensemble > max(self.finalists, 1):
            raise ValueError(f"ensemble must be at most finalists, got {self.ensemble} and {self.finalists}")
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _with_what_it_varies(cls, data: Any, read: ModelWrapValidatorHandler[Study]) -> Study:
        """What a study varies has options of its own, which the strategy may decide the kind of: it is read last."""
        older = {key: data[key] for key in cls.older_keys if key in data} if isinstance(data, dict) else {}
        study = read({key: value for key, value in data.items() if key not in older} if older else data)
        study.vary = read_vary(study.vary, older, study.strategy.name)
        entry = strategy_entry(study.strategy.name)
        study._check_steadiness(entry)
        study._check_savings(entry)
        study._check_parts()
        representation(study.vary.kind).check(study)
        study._check_base()
        return study

    @property
    def merges_a_part(self) -> bool:
        """Whether candidates are merges of only some tensors, so that models may differ in the others."""
        return self.rest is not None or bool(self.tensors)

    def _check_parts(self) -> None:
        kind = representation(self.vary.kind)
        if self.merges_a_part and not kind.merges:
            key = "rest" if self.rest is not None else "tensors"
            raise ValueError(
                f"`{key}` says what a merge keeps, and {self.strategy.name} varies {kind.noun} here. Leave it out, or "
                "take a strategy and a kind that merge"
            )

    def _check_base(self) -> None:
        if self.base is None and not representation(self.vary.kind).works_without_base(self):
            fix = "Add `base: MODEL`, the model that the skills were made from"
            raise PartError(InputError(f"{self.how} needs a base", where="base", fix=fix))
        if self.base is None and "base" in (self.rest, *(rule.source for rule in self.tensors)):
            raise ValueError("`rest` or `tensors` names the base, and the study has none. Name a model")

    def _check_steadiness(self, entry: StrategyEntry) -> None:
        if not self.steady:
            return
        if not entry.build.steady:
            able = ", ".join(name for name, other in strategies().items() if other.build.steady)
            raise ValueError(f"{entry.name} learns from whole generations and cannot be `steady`; {able} can")
        if self.race is not None or self.screen is not None or self.probe:
            raise ValueError("`race`, `screen` and `probe` work by generations. Leave them out, or leave out `steady`")

    def _check_savings(self, entry: StrategyEntry) -> None:
        if self.screen is not None and (entry.proposals == "births" or entry.needs != ("fitness",)):
            raise ValueError(f"a surrogate predicts fitness alone, and {entry.name} needs more. Leave `screen` out")
        if self.race is not None and entry.needs != ("fitness",):
            whole = "the score of every example" if "examples" in entry.needs else "the mean of every task"
            raise ValueError(f"a race compares fitness alone, and {entry.name} needs {whole}. Leave `race` out")

    @property
    def how(self) -> str:
        """How models come about in it, as a clause's end: the merge method, or what the strategy varies."""
        return self.vary.how

    @property
    def reference(self) -> str:
        """The model whose architecture, tokenizer and config the others are held against: the base, or the first."""
        return self.skills[0].model if self.base is None else self.base

    @property
    def named_models(self) -> dict[str, str]:
        """What the study merges or breeds by the names in its tables: the base if there is one, and the skills."""
        base = {} if self.base is None else {"base": self.base}
        return base | {skill.name: skill.model for skill in self.skills}

    def with_skill(self, name: str, model: str) -> Study:
        """The same study with one skill more, a checkpoint."""
        return self.model_copy(update={"skills": (*self.skills, SkillChoice(name=name, model=model))})

    def resolved(self, folder: Path) -> Study:
        """The same study with relative paths taken from `folder`; names of a hub stay as they are."""
        skills = tuple(skill.model_copy(update={"model": resolve_model(skill.model, folder)}) for skill in self.skills)
        here = self.tasks.dir if self.tasks.dir.startswith("lm-eval:") else str((folder / self.tasks.dir).resolve())
        tasks = self.tasks.model_copy(update={"dir": here})
        # A skill's path means the skill, which counts by its name wherever it lies.
        names = {skill.model: skill.name for skill in self.skills}
        kept = {*WORDS, *names.values()}

        def named(word: str) -> str:
            return word if word in kept else names.get(word) or resolve_model(word, folder)

        parts = {
            "rest": None if self.rest is None else named(self.rest),
            "tensors": tuple(rule.model_copy(update={"source": named(rule.source)}) for rule in self.tensors),
        }
        base = None if self.base is None else resolve_model(self.base, folder)
        return self.model_copy(update={"base": base, "skills": skills, "tasks": tasks, **parts})

    def recipe_parts(self) -> dict[str, Any]:
        """`rest` and `tensors` as a recipe has them, with models in place of skills' names."""
        models = {skill.name: skill.model for skill in self.skills if skill.name not in WORDS}
        return said_of_parts(self.rest, self.tensors, lambda word: models.get(word, word))

    def settings(self) -> dict[str, Any]:
        """Everything of the file that decides which candidates are tried and what they are worth.

        Left out are the budget, which may grow, when to stop, and where models and tasks lie: those count by their
        content.
        """
        settings = self.model_dump(
            mode="json",
            exclude={
                "vary": True,
                "budget": True,
                "stop": True,
                "ensemble": True,
                "time_limit": True,
                "base": True,
                "skills": {"__all__": {"model"}},
                "tasks": {"dir", *(("held_out",) if self.tasks.held_out is None else ())},
                "rest": True,
                "tensors": True,
            },
        )
        return {
            **settings,
            **said_of_parts(self.rest, self.tensors, lambda word: Path(word).name),
            **self.vary.settings(),
        }


def resolve_model(model: str, folder: Path) -> str:
    """A model string with every part that exists under `folder` made absolute: `base+adapter`, `path@revision`."""

    def absolute(part: str) -> str:
        path, at, revision = part.partition("@")
        here = folder / Path(os.path.expanduser(path))
        return str(here.resolve()) + at + revision if path and os.path.exists(here) else part

    whole = folder / model
    return str(whole.resolve()) if os.path.exists(whole) else "+".join(absolute(part) for part in model.split("+"))
