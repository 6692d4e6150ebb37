"""A training with its base and its tasks opened and checked; headers and task files only. Uses weights and tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from genepool import progress
from genepool.errors import InputError, nearest
from genepool.saved_models import TASK_MARK
from genepool.tasks import LanguageModel, Task, load_tasks, open_model
from genepool.tasks.answering import check_fits
from genepool.tasks.models import Source, check_kind
from genepool.tasks.network import Network
from genepool.tasks.pretrained import load_tokenizer
from genepool.tasks.tokenized import templated
from genepool.training.class_prior import class_prior
from genepool.training.examples import TrainingExample, TrainingExamples, load_training_task
from genepool.training.makers import TemplateMaker, check_written
from genepool.training.objectives import LabelledObjective
from genepool.training.objectives.reward_model import RewardModelObjective
from genepool.training.recipe import Training
from genepool.training.reward_ensemble import RewardModelSource, preference_task
from genepool.training.samplers import make_sampler
from genepool.weights import BaseWithHead, ClassHead, Weights, head_for, open_weights, with_head
from genepool.weights.class_head import class_names
from genepool.weights.dequantised import dequantised_in
from genepool.weights.formed.formed_weights import FormedWeights
from genepool.weights.formed.sites import sites_of
from genepool.weights.quantised import quantised_by


@dataclass(frozen=True)
class OpenedTraining:
    """A recipe with its base (headers read) and its tasks.

    Attributes:
        recipe: the training.
        base: the model that is trained, with an empty head where it has none and the tasks say their classes.
        lessons: what it learns from.
        others: tasks that must not be forgotten.
    """

    recipe: Training
    base: Weights
    lessons: TrainingExamples
    others: tuple[Task, ...]
    allow_pickle: bool = False

    @classmethod
    def open(
        cls,
        recipe: Training,
        *,
        others: bool = True,
        trusted: Collection[str | Path] = (),
        allow_pickle: bool = False,
    ) -> OpenedTraining:
        """Opens and checks everything a recipe names.

        Raises:
            InputError: a model or a task is wrong, or nothing can be learned from them.
        """
        tasks = [load_training_task(path) for path in recipe.tasks]
        base = _able(open_weights(recipe.base, allow_pickle=allow_pickle), tasks)
        if isinstance(base, FormedWeights):
            name = base.formed.form.name
            raise InputError(
                f"the form {name} does not fold into weights, so nothing can be trained on top of it",
                where=recipe.base,
                fix="Name the model below it, or train a form that folds",
            )
        packed = next(dequantised_in(base), None)
        if recipe.form == "full" and (method := quantised_by(base if packed is None else packed.stored)):
            raise InputError(
                f"quantised by {method}, so its tensors cannot be trained",
                where=recipe.base,
                fix="Train factors: --lora",
            )
        objective = recipe.made_objective()
        # The models that its options name are there.
        objective.settings()
        pairs, labels = objective.reads_pairs, isinstance(objective, LabelledObjective)
        check_named(recipe, [task.name for task in tasks])
        if recipe.is_form:
            _check_form(recipe, base, [task.name for task in tasks])
        lessons = TrainingExamples(
            tasks,
            seed=recipe.seed,
            valid=recipe.valid,
            pairs=pairs,
            labels=labels,
            values=objective.reads_values,
            shares=recipe.shares,
            portions=recipe.portions,
        )
        if recipe.sampler is not None:
            name, options = recipe.sampler, recipe.sampler_options
            lessons.sampled_by(lambda arms: make_sampler(name, options, arms))
            check_making(recipe, lessons, allow_pickle)
        # A reward model answers no other task.
        others = others and not isinstance(objective, RewardModelObjective)
        kept = _others(recipe, tasks, base, trusted) if others else ()
        for task in tasks:
            _check_askable(task, base)
            _check_classes(task, base)
        _check_conversations(lessons, base)
        opened = cls(recipe, base, lessons, kept, allow_pickle)
        if opened.rewards:
            check_kind(LanguageModel, open_model(base), f"the objective {recipe.objective}")
            # Its test examples must be pairs too.
            assert opened.targets
        return opened

    @property
    def head(self) -> ClassHead | None:
        """The head that is made fresh; None where the base is trained as it is."""
        return self.base.head if isinstance(self.base, BaseWithHead) else None

    @property
    def rewards(self) -> bool:
        """Whether a reward model comes out, which answers nothing itself."""
        return isinstance(self.recipe.made_objective(), RewardModelObjective)

    @cached_property
    def targets(self) -> tuple[Task, ...]:
        """What base and result are asked of the tasks that are taught: a reward model which of two answers is better.

        Raises:
            InputError: test examples are no pairs, where a reward model is trained.
        """
        tasks = self.lessons.tasks
        return tuple(map(preference_task, tasks)) if self.rewards else tasks

    def tuned(self, result: Path) -> Weights | RewardModelSource:
        """What came out of the training.

        Args:
            result: its adapter, skill or reward model.

        Raises:
            InputError: it is damaged, or belongs to another base.
        """
        if self.rewards:
            return RewardModelSource(result, self.base)
        return open_weights(str(result), base=self.base)

    def tuned_by_task(self, result: Path) -> dict[str, Weights]:
        """What came out of the training for each task that was taught, where it has parts for each; empty elsewhere.

        Args:
            result: its folder.
        """
        if not self.recipe.is_form or not self.recipe.made_form(self._names).by_task:
            return {}
        return {name: open_weights(f"{result}{TASK_MARK}{name}", base=self.base) for name in self._names}

    @property
    def _names(self) -> list[str]:
        return [task.name for task in self.lessons.tasks]

    @cached_property
    def before(self) -> Weights | Source:
        """What the result is compared with: the base, or the most frequent class where the base cannot be asked."""
        if (head := self.head) is None:
            return self.base
        answers = [lesson.example.answer for lesson in self.lessons.train if lesson.good]
        return class_prior(head.classes, answers, self.lessons.tasks[0].settings.input)

    def asked(self) -> str:
        """SHA-256, hex, of what base and result are asked in the end: it may change after the training."""
        total = hashlib.sha256()
        for task in (*self.targets, *self.others):
            # What a stage of a loop is trained on has no test split: it is asked nothing.
            tested = task.examples("test") if {"test", "all"} & set(task.splits) else ()
            keys = [example.key for example in tested[: self.recipe.test]]
            total.update("\x1f".join([task.name, task.asking, *keys, ""]).encode())
        return total.hexdigest()

    def settings(self, threads: int) -> dict[str, Any]:
        """Everything that decides the bits of the result, as plain data."""
        outside = {"tasks", "others", "base", "test", "teacher", "threads", "options"}
        recipe = self.recipe.model_dump(mode="json", exclude=outside)
        teacher = self.recipe.teacher
        learner = None if self.recipe.learner is None else self.recipe.made_learner().options.model_dump(mode="json")
        options = self.recipe.made_objective().settings() if learner is None else learner
        if (writer := self.recipe.writer) is not None:
            known = open_model(writer, allow_pickle=self.allow_pickle).fingerprint
            recipe["sampler_options"] = {**self.recipe.sampler_options, "writer": known}
        if self.recipe.is_form:
            recipe["form_options"] = self.recipe.made_form(self._names).settings()
        sampler = self.lessons.sampler
        if sampler is not None and sampler.known:
            recipe["sampler_options"] = {
                key: value for key, value in recipe["sampler_options"].items() if key not in sampler.paths
            }
        return {
            **recipe,
            **({"sampler_known": sampler.known} if sampler is not None and sampler.known else {}),
            **({"options": options} if options else {}),
            "base": self.base.fingerprint(),
            "tasks": [task.name for task in self.lessons.tasks],
            "lessons": self.lessons.digest(),
            "threads": threads,
            **({} if teacher is None else {"teacher": open_model(teacher, allow_pickle=self.allow_pickle).fingerprint}),
        }


def check_making(recipe: Training, lessons: TrainingExamples, allow_pickle: bool) -> None:
    """Refuses a sampler that has examples made, where nobody can make them or there is nothing to go by.

    Args:
        recipe: the training.
        lessons: what it learns from.
        allow_pickle: as for `OpenedTraining.open`.

    Raises:
        InputError: naming the task, or the writer.
    """
    sampler = lessons.generating
    if sampler is None:
        return
    for task in lessons.tasks:
        if any(one.messages or one.image is not None for one in task.examples("train")):
            raise InputError(
                f"holds conversations or images, and {sampler.name} has text prompts made",
                where=task.name,
                fix="Write `prompt` and `answer`; `chat_template: true` puts prompts through the chat template",
            )
    if sampler.asks and not lessons.valid:
        raise InputError(
            f"{sampler.name} looks at what the model does on validation examples, and there are none",
            where="sampler",
            fix="Give the task a valid.jsonl",
        )
    if recipe.writer is not None:
        check_kind(LanguageModel, open_model(recipe.writer, allow_pickle=allow_pickle), f"the sampler {sampler.name}")
        for task in lessons.tasks:
            check_written(task)
    elif sampler.makes:
        TemplateMaker({task.name: task for task in lessons.tasks}, lessons.train)
    sampler.check_skills(lessons.train)


def check_named(recipe: Training, names: Collection[str]) -> None:
    """Refuses shares or portions of tasks that are not trained on, and shares that leave one out.

    Args:
        recipe: the training.
        names: of its tasks.

    Raises:
        InputError: naming the task.
    """
    for key, given in (("shares", recipe.shares or {}), ("portions", recipe.portions or {})):
        if unknown := next((name for name in given if name not in names), None):
            raise InputError(
                f"'{unknown}' is no task of this training", where=recipe.key(key), fix=nearest(unknown, names)
            )
    if recipe.shares is not None and (missing := next((name for name in names if name not in recipe.shares), None)):
        what = f"the task '{missing}' has no share"
        raise InputError(what, where=recipe.key("shares"), fix="Give it one; 0 leaves it out")


def _able(base: Weights, tasks: Sequence[Task]) -> Weights:
    """The base with a head for the classes of the tasks, where it cannot be asked without one.

    Raises:
        InputError: a task does not say its classes, or transformers has no such head for the base.
    """
    reads = tasks[0].settings.input
    architecture = head_for(base.config, reads)
    if architecture is None:
        return base
    for task in tasks:
        if not task.settings.classes or task.settings.input != reads:
            named = (base.config or {}).get("architectures", [""])[0]
            what = "shows something else than the first task" if task.settings.classes else "does not say its classes"
            raise InputError(
                f"{what}, and the base ({named}) has no head, so a new head is needed",
                where=task.name,
                fix="Write `classes: [...]` into the task's task.yaml, or name a base that can be asked",
            )
    classes = dict.fromkeys(name for task in tasks for name in task.settings.classes)
    return with_head(base, ClassHead(architecture, tuple(classes)))


def _check_form(recipe: Training, base: Weights, tasks: Sequence[str]) -> None:
    """Refuses a form of adapter that does not fit the base, before anything is loaded."""
    form = recipe.made_form(tasks)
    if isinstance(base, BaseWithHead):
        raise InputError(
            f"has no head, and a form ({form.name}) is trained on a base that has one",
            where=base.name,
            fix="Train factors first (--lora), merge them, and name the result as the base",
        )
    kind = open_model(base).kind
    if not issubclass(kind, Network):
        raise InputError(f"{kind.kind} takes no form of adapter", where=base.name, fix="Name another model")
    kind.refuse_form(form, base.name)
    # The files that its options name are there.
    form.settings()
    form.all_shapes(sites_of(base))


def _check_classes(task: Task, base: Weights) -> None:
    """Refuses examples to learn from whose answer is none of the classes that the base's head tells apart."""
    labels = class_names(base.config)
    if "classes" not in open_model(base).kind.can or not labels:
        return
    for split in ("train", "valid"):
        for example in task.splits.get(split, ()):
            if example.answer not in labels:
                raise InputError(
                    f"its answer {example.answer[:40]!r} is not a class of {base.name}",
                    where=example.place(task.name),
                    fix=f"Use one of them: {', '.join(labels[:5])}{'...' if len(labels) > 5 else ''}",
                )


def _check_conversations(lessons: TrainingExamples, base: Weights) -> None:
    """Refuses conversations that the chat template of the base does not take, one for each order of roles."""
    orders: dict[tuple[str, ...], TrainingExample] = {}
    for lesson in (*lessons.train, *lessons.valid):
        if lesson.example.messages:
            orders.setdefault(tuple(role for role, _ in lesson.example.messages), lesson)
    kind = open_model(base).kind
    if not orders or kind.reads != "text":
        return
    tokenizer = load_tokenizer(base)
    for lesson in orders.values():
        lesson.task.conversation_text(
            lesson.example, lambda messages: templated(tokenizer, messages, base.name), kind.kind
        )


def _others(
    recipe: Training, tasks: Sequence[Task], base: Weights, trusted: Collection[str | Path]
) -> tuple[Task, ...]:
    """The tasks that must not be forgotten: those that were named, or the folders beside the first task's."""
    taught = {task.name for task in tasks}
    if recipe.others is not None:
        found = [task for task in load_tasks(recipe.others, trusted=trusted) if task.name not in taught]
        for task in found:
            _check_askable(task, base)
        return tuple(found)
    first = Path(recipe.tasks[0])
    beside = sorted(path for path in first.resolve().parent.iterdir() if path.is_dir()) if first.is_dir() else []
    kept = []
    for path in beside:
        if path.name not in taught and any(path.glob("test.*")):
            try:
                (task,) = load_tasks(path)
                _check_askable(task, base)
                kept.append(task)
            except InputError as error:
                # Nobody named it.
                progress.message(f"{path.name} is not evaluated for forgetting: {error.what}")
    return tuple(kept)


def _check_askable(task: Task, base: Weights) -> None:
    """Refuses a task that the base cannot be asked: found before the training, not after it.

    Raises:
        InputError: it reads something else, or none of the answers is one of its classes.
    """
    kind = open_model(base).kind
    check_fits(task, kind, base.name)
    labels = set(class_names(base.config))
    if "classes" in kind.can and labels and task.asker is None:
        answers = {answer for example in task.examples("test") for answer in example.answers}
        if not answers & labels:
            raise InputError(
                f"none of the answers of the task '{task.name}' is one of its classes",
                where=base.name,
                fix="Name other tasks with --others",
            )
