"""Tasks of lm-evaluation-harness, by name or YAML file: asked in memory, one outcome per example, the same ledger.

lm-eval brings the documents, the prompts and the metrics; genepool asks and keeps. Needs the extra `eval`. A task's
YAML may name Python functions beside it, so a file is used only when whoever asks trusts it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from genepool.errors import InputError, nearest, one_line
from genepool.tasks.example import Example
from genepool.tasks.harness_names import advice_on_name, harness_installed, written_in_harness
from genepool.tasks.ledger import Outcome
from genepool.tasks.task import Task
from genepool.tasks.trust import check_trusted

if TYPE_CHECKING:
    from genepool.tasks.models import Model

#: What `load_tasks` and `--tasks` know these tasks by: "lm-eval:arc_easy,hellaswag", a YAML file, and with shown
#: examples, chat template and metric "lm-eval:gsm8k@5+chat=exact_match/strict-match".
PREFIX = "lm-eval:"
_YAML = (".yaml", ".yml")
# What tasks are usually ranked by, the first that an example has; lm-eval 0.4.
RANKED_BY = ("exact_match", "acc_norm", "acc", "contains", "f1", "em")
# Percentages that lm-eval computes over a corpus; of one example they are computed as over a corpus of one.
_PERCENT = ("bleu", "chrf")
# (log-likelihood, length) pairs; e to the log-likelihood per unit is a share from 0 to 1.
_PER_UNIT = {"word_perplexity": "word_likelihood", "byte_perplexity": "byte_likelihood"}
# The seed of lm-eval's choice of shown examples, so that prompts are those of its own runs.
_FEW_SHOT_SEED = 1234


def lm_eval_tasks(
    names: Sequence[str] | str,
    *,
    few_shot: int | None = None,
    chat_template: bool = False,
    system: str | None = None,
    allow_unsafe_code: bool = False,
) -> list[Task]:
    """Tasks of lm-evaluation-harness.

    Args:
        names: tasks, groups or tags of lm-eval, or paths of YAML files of tasks. "name@5" shows five solved examples,
            "name+chat" uses the chat template, and the score of "name=acc" is that metric ("name=exact_match/filter"
            where answers go through several filters).
        few_shot: solved examples shown before each question, for tasks that name no number of their own.
        chat_template: put prompts through the tokenizer's chat template.
        system: system message; needs `chat_template`.
        allow_unsafe_code: also tasks that run what a model wrote.

    Returns:
        One task per leaf task, with one split, which answers to any name: the documents lm-eval evaluates on.

    Raises:
        InputError: lm-eval is not installed, a name is unknown, a file is wrong, data that is not on this machine, or
            code that is not allowed.
    """
    if system is not None and not chat_template:
        raise InputError("a system message needs the chat template", fix="Set `chat_template` too")
    found: dict[str, _LmEvalTask] = {}
    for name in [names] if isinstance(names, str) else names:
        asked = parse_notation(name)
        shots = few_shot if asked.shots is None else asked.shots
        for label, task in _loaded(asked.name).items():
            if label in found:
                raise InputError(f"the task '{label}' is named twice", where=name, fix="Name each task once")
            chat = chat_template or asked.chat
            found[label] = _LmEvalTask(label, _set_up(task, shots), chat, system, allow_unsafe_code, asked.metric)
    return [one.task() for one in found.values()]


def metrics_of(name: str) -> dict[str, tuple[str, ...]]:
    """The metrics of a task of lm-eval by its leaf tasks, as `lm_eval_tasks` loads it.

    Raises:
        InputError: as `lm_eval_tasks`.
    """
    return {label: tuple(task.aggregation()) for label, task in _loaded(name).items()}


def tasks_named(notation: str, *, trusted: Collection[str | Path] = ()) -> list[Task]:
    """The tasks of "lm-eval:NAME[@SHOTS][,NAME...]"; see `lm_eval_tasks`.

    Args:
        notation: the names; lm-eval's own tasks, or YAML files.
        trusted: the YAML files that may be used: their templates and `!function` entries run code.
    """
    names = [name.strip() for name in notation.removeprefix(PREFIX).split(",") if name.strip()]
    if not names:
        raise InputError("no task is named", where=notation, fix="Write it like lm-eval:arc_easy or lm-eval:task.yaml")
    for name in names:
        file = Path(parse_notation(name).name)
        if file.suffix in _YAML and file.is_file():
            check_trusted(file, trusted, "is a task file of lm-eval, which can run code")
    return lm_eval_tasks(names)


def ranking_score(values: Mapping[str, object], known: Sequence[str] = ()) -> str | None:
    """The metric an example's score is: the usual ones first, then those the task names."""
    return next((name for name in (*RANKED_BY, *known) if name in values), None)


class Notation(NamedTuple):
    """What "NAME@SHOTS+chat=METRIC/FILTER" says.

    Attributes:
        name: the task, group or tag, or a YAML file.
        shots: solved examples shown before each question; None where it does not say.
        chat: whether the chat template is used.
        metric: the metric that is the score, and the filter behind "/"; None for the usual one.
    """

    name: str
    shots: int | None = None
    chat: bool = False
    metric: str | None = None

    def __str__(self) -> str:
        shots = "" if self.shots is None else f"@{self.shots}"
        return f"{self.name}{shots}{'+chat' if self.chat else ''}{f'={self.metric}' if self.metric else ''}"


def parse_notation(text: str) -> Notation:
    """The parts of a task's notation.

    Raises:
        InputError: the number of shown examples is none, or a part is empty.
    """
    if Path(text).is_file():
        return Notation(text)
    rest, equals, metric = text.partition("=")
    if equals and not metric:
        raise InputError("names no metric behind =", where=text, fix="Write it like arc_easy=acc_norm")
    plain = rest.removesuffix("+chat")
    name, at, count = plain.rpartition("@")
    if at and not count.isdecimal():
        raise InputError(f"'{count}' is not a number of shown examples", where=text, fix="Write it like gsm8k@5")
    return Notation(name if at else plain, int(count) if at else None, plain != rest, metric or None)


def _loaded(name: str) -> dict[str, Any]:
    """lm-eval's own task objects, by name."""
    file = Path(name) if Path(name).suffix in _YAML else None
    if file is not None and not file.is_file():
        raise InputError("no such file", where=file, fix="Check the path")
    if file is None and harness_installed() and not written_in_harness(name):
        raise _unknown(name)
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise InputError(
            f"lm-evaluation-harness is not installed ({error})",
            where=PREFIX + name,
            fix="pip install 'genepool[eval]'",
        ) from None
    # Indexing the thousands of tasks that lm-eval brings takes seconds, and only a group needs it for a file.
    alone = file is not None and not re.search(r"^group:", file.read_text(encoding="utf-8"), re.MULTILINE)
    with _hushed():
        manager = TaskManager(include_defaults=not alone)
        if file is None and name not in manager.task_index:
            raise _unknown(name)
        try:
            found: dict[str, Any] = manager.load([name])["tasks"]
        except InputError:
            raise
        except Exception as error:
            raise _refused(name, error, manager) from error
    if not found:
        raise InputError("names no tasks", where=PREFIX + name, fix="Name a task or a group of tasks")
    return found


def _unknown(name: str) -> InputError:
    return InputError(f"lm-eval has no task '{name}'", where=PREFIX + name, fix=advice_on_name(name))


def _refused(name: str, error: Exception, manager: Any) -> InputError:
    """One line for what lm-eval or the data library raised: most often that there is no network."""
    said = one_line(error, 200)
    offline = ("offline", "connect", "couldn't reach", "max retries", "resolve", "network", "not find", "couldn't find")
    if any(word in f"{type(error).__name__} {str(error)[:200]}".lower() for word in offline):
        data = _dataset(name, manager)
        return InputError(
            f"its data {f'({data}) ' if data else ''}is not on this machine and cannot be fetched",
            where=PREFIX + name,
            fix=(
                f"Where there is a network, run `hf download --repo-type dataset {data or 'NAME'}` and copy its "
                "~/.cache/huggingface here, or point HF_HOME at it"
            ),
        )
    return InputError(
        f"lm-eval cannot load it ({type(error).__name__}: {said})", where=PREFIX + name, fix="Correct the task"
    )


def _dataset(name: str, manager: Any) -> str:
    """The data set a task names, as far as its file tells; empty when it does not."""
    at = Path(name) if Path(name).is_file() else getattr(manager.task_index.get(name), "yaml_path", None)
    if at is None or not Path(at).is_file():
        return ""
    line = re.search(r"^dataset_path:\s*(\S+)", Path(at).read_text(encoding="utf-8"), re.MULTILINE)
    return line[1] if line else ""


def _set_up(task: Any, few_shot: int | None) -> Any:
    """Shown examples as lm-eval's own run has them."""
    own = task.get_config("num_fewshot")
    # A task that says 0 has prompts that cannot show any; lm-eval leaves those alone too.
    if few_shot is not None and own != 0:
        task.set_config("num_fewshot", few_shot)
    elif own is None:
        task.set_config("num_fewshot", 0)
    task.set_fewshot_seed(_FEW_SHOT_SEED)
    return task


class _LmEvalTask:
    """One task of lm-eval behind the door of our tasks."""

    def __init__(
        self, name: str, task: Any, chat: bool, system: str | None, unsafe: bool, metric: str | None = None
    ) -> None:
        if getattr(task, "UNSAFE_CODE", False) and not unsafe:
            raise InputError(
                "this task runs code that a model wrote",
                where=PREFIX + name,
                fix="In a sandbox, use `lm_eval_tasks(..., allow_unsafe_code=True)`",
            )
        if getattr(task, "MULTIMODAL", False):
            raise InputError("this task shows pictures or sounds", where=PREFIX + name, fix="Name a task of text")
        self._name, self._task, self._chat, self._system = name, task, chat, system
        self._metric, _, self._pipe = (metric or "").partition("/")
        if self._metric:
            known = [_PER_UNIT.get(one, one) for one in task.aggregation()]
            if self._metric not in known:
                fix = nearest(self._metric, known)
                raise InputError(f"the task has no metric '{self._metric}'", where=PREFIX + name, fix=fix)
        pipes = [one.name for one in getattr(task, "_filters", ())]
        if self._pipe and self._pipe not in pipes:
            fix = nearest(self._pipe, pipes)
            raise InputError(f"the task has no filter '{self._pipe}'", where=PREFIX + name, fix=fix)
        self._documents = list(task.eval_docs)
        if not self._documents:
            raise InputError("the task has no documents", where=PREFIX + name, fix="Check its data")

    def task(self) -> Task:
        """As ours."""
        examples = [self._example(number, document) for number, document in enumerate(self._documents)]
        return Task(self._name, {"all": examples}, asker=self._ask, version=self._version())

    def _version(self) -> str:
        """SHA-256, hex, of what decides an outcome besides the model: lm-eval, the task's settings and its data."""
        import lm_eval

        parts = [lm_eval.__version__, self._task.dump_config(), self._chat, self._system, self._documents]
        if self._metric:
            parts.append([self._metric, self._pipe])
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def _example(self, number: int, document: Any) -> Example:
        target = self._task.doc_to_target(document)
        choices: tuple[str, ...] = ()
        if self._task.OUTPUT_TYPE == "multiple_choice":
            choices = tuple(str(choice) for choice in self._task.doc_to_choice(document))
        answers = target if isinstance(target, list | tuple) else [target]
        named = [
            choices[answer] if isinstance(answer, int) and 0 <= answer < len(choices) else str(answer)
            for answer in answers
        ]
        return Example(str(number), str(self._task.doc_to_text(document)), tuple(named) or ("",), choices)

    def _ask(self, model: Model, examples: Sequence[Example], batch_size: int) -> list[Outcome]:
        from genepool.tasks.harness_model import LmEvalModel
        from genepool.tasks.models.causal_lm import LanguageModel

        if not isinstance(model, LanguageModel):
            raise InputError(
                f"tasks of lm-eval need {LanguageModel.kind}, got {model.kind}",
                where=model.name,
                fix="Leave them out for this model",
            )
        numbers = sorted(int(example.id) for example in examples)
        asked = LmEvalModel(model, batch_size)
        with _hushed():
            self._task.build_all_requests(
                samples=set(numbers),
                system_instruction=self._system,
                apply_chat_template=self._chat,
                fewshot_as_multiturn=self._chat,
                chat_template=asked.apply_chat_template if self._chat else None,
                tokenizer_name=asked.tokenizer_name,
            )
            requests: dict[str, list[Any]] = {}
            for instance in self._task.instances:
                requests.setdefault(instance.request_type, []).extend([instance] * instance.repeats)
            for kind, ones in requests.items():
                for instance, answer in zip(ones, getattr(asked, kind)(ones), strict=True):
                    instance.resps.append(answer)
            self._task.apply_filters()
        # lm-eval numbers the documents that were asked from 0, in their order.
        grouped: dict[int, list[Any]] = {}
        for instance in self._task.instances:
            grouped.setdefault(numbers[instance.doc_id], []).append(instance)
        found = {number: self._outcome(number, grouped[number]) for number in numbers}
        return [found[int(example.id)] for example in examples]

    def _outcome(self, number: int, instances: list[Any]) -> Outcome:
        instances.sort(key=lambda instance: instance.idx)
        # The first of several filters is the one a task's name stands for; what each finds is kept under its own.
        pipes = list(instances[0].filtered_resps)
        by_filter = {pipe: [instance.filtered_resps[pipe] for instance in instances] for pipe in pipes}
        found = {
            pipe: self._numbers(self._task.process_results(self._documents[number], given))
            for pipe, given in by_filter.items()
        }
        where = f"{PREFIX}{self._name}:{number}"
        pipe = self._pipe or pipes[0]
        answers, metrics = by_filter[pipe], found[pipe]
        name = ranking_score(metrics, list(metrics)) if not self._metric else self._metric
        if name is None or name not in metrics:
            raise InputError(
                "the task has no metric of single examples", where=where, fix="Name a task with such a metric"
            )
        score = metrics[name]
        if not 0 <= score <= 1:
            raise InputError(
                f"the metric {name} returned {score!r}, expected a number from 0 to 1",
                where=where,
                fix="Choose another metric",
            )
        output, extra = self._said(number, answers)
        # lm-eval's metrics are numbers of their own; one that is no number is told by its absence.
        named = {f"{key},{pipe}": value for pipe in pipes for key, value in found[pipe].items()}
        everything = metrics | (named if len(pipes) > 1 else {})
        kept = {key: value for key, value in everything.items() if math.isfinite(value)}
        return Outcome(score, output, {**kept, **extra})

    def _numbers(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """What each metric says of one example, as a number."""
        found: dict[str, float] = {}
        aggregate: Mapping[str, Callable[[list[Any]], Any]] = self._task.aggregation()
        for name, value in metrics.items():
            if name in _PER_UNIT:
                logprob, units = value
                found[_PER_UNIT[name]] = math.exp(min(logprob, 0.0) / max(units, 1))
                found["logprob"] = float(logprob)
            elif isinstance(value, bool | int | float) or hasattr(value, "__float__"):
                found[name] = float(value)
            elif name in _PERCENT and name in aggregate:
                found[name] = float(aggregate[name]([value])) / 100
        return found

    def _said(self, number: int, answers: Sequence[Any]) -> tuple[str | None, dict[str, float]]:
        """What the model wrote or chose, and how sure it was."""
        first = answers[0]
        if isinstance(first, str):
            return first, {}
        if self._task.OUTPUT_TYPE != "multiple_choice":
            return None, {}
        choices = [str(choice) for choice in self._task.doc_to_choice(self._documents[number])]
        # Metrics that compare with the choice's own likelihood ask for that too, behind the choices.
        logprobs = [float(answer[0]) for answer in answers[: len(choices)]]
        if not all(map(math.isfinite, logprobs)):
            return None, {}
        best = max(logprobs)
        confidence = 1 / sum(math.exp(logprob - best) for logprob in logprobs)
        return choices[logprobs.index(best)], {"logprob": best, "confidence": confidence}


@contextmanager
def _hushed() -> Iterator[None]:
    """lm-eval speaks through its logger and tqdm; here one bar of ours shows how far things are."""
    import datasets
    from lm_eval.api import task as tasks

    logger, bar = logging.getLogger("lm_eval"), tasks.tqdm
    level, shown = logger.level, datasets.utils.logging.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    datasets.utils.logging.disable_progress_bar()
    tasks.tqdm = lambda documents, **_: documents
    try:
        yield
    finally:
        tasks.tqdm = bar
        logger.setLevel(level)
        if shown:
            datasets.utils.logging.enable_progress_bar()
