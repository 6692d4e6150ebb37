"""How an answer becomes a score: one metric a file beside this one, found by being there, or a user's own plugin.

A metric that looks at what was written is a function with `metric` above it; one that reads likelihoods registers a
`Metric` without a judge. Knows examples, and neither models nor tasks.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Literal

from genepool.errors import InputError, nearest
from genepool.plugins import Door, Plugin, plugin_of
from genepool.tasks.example import Example

# (what the model wrote, example, strip) -> score from 0 to 1; with `strip`, white space around an answer is ignored.
Judge = Callable[[str, Example, bool], float]


@dataclass(frozen=True)
class Metric:
    """One way to judge.

    Attributes:
        name: what `task.yaml` calls it.
        version: part of how an outcome is kept: outcomes of another version are never mixed in.
        needs: what the model is asked for: "text" that it writes, "choices", the likelihoods of what an example has
            to choose from, the "likelihood" of its answer, or to play an "episode".
        judge: scores what was written; None where nothing is.
        within: it looks for something within what was written, so that right answers need not be alike.
        equality: the score is 1 exactly when what was written is an answer, so that reading the answer can tell.
        answers_are_texts: an example's answer is a text that a right model may write, so that its likelihood means
            something and a model can be taught to write it.
        from_prompt: what is right is read from the prompt; an example's answers are never looked at.
        wrong: what keeps an example from being judged so, and the way out; None when nothing does.
    """

    name: str
    version: str
    needs: Literal["text", "choices", "likelihood", "episode"] = "text"
    judge: Judge | None = None
    within: bool = False
    equality: bool = False
    answers_are_texts: bool = True
    from_prompt: bool = False
    wrong: Callable[[Example], tuple[str, str] | None] = lambda _example: None

    @property
    def plugin(self) -> Plugin | None:
        """The user's file it is from; None for the package's own."""
        return None if self.judge is None else plugin_of(self.judge)

    def score(self, output: str, example: Example, strip: bool) -> float:
        """What the judge says of an output, from 0 to 1.

        Raises:
            InputError: a plugin's judge fails, or what it returns is no such number.
        """
        assert self.judge is not None
        try:
            found: object = self.judge(output, example, strip)
        except Exception as error:
            if self.plugin is None:
                raise
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            raise InputError(
                f"the metric '{self.name}' fails on the example '{example.id}' ({said})",
                where=self.plugin.place(error),
                fix="Correct the metric",
            ) from None
        if not isinstance(found, Real) or not 0 <= float(found) <= 1:
            raise InputError(
                f"the metric '{self.name}' gives {found!r:.60} for the example '{example.id}', expected a number from "
                "0 to 1",
                where=self.plugin.path if self.plugin is not None else "",
                fix="Correct what the metric returns",
            )
        return float(found)


_registry: dict[str, Metric] = {}


def register(metric: Metric) -> Metric:
    """Puts a metric on the list.

    Raises:
        ValueError: it needs text and has no judge, or has a judge and needs none.
        InputError: its name is taken.
    """
    if (metric.judge is None) == (metric.needs == "text"):
        raise ValueError(f"the metric {metric.name} needs {metric.needs}, and {metric.judge} judges it")
    known = _registry.get(metric.name)
    # A plugin that is loaded again replaces itself.
    if known is not None and (known.plugin is None or known.plugin != metric.plugin):
        raise InputError(f"there is already a metric '{metric.name}'", fix="Choose another name")
    _registry[metric.name] = metric
    return metric


def metric(
    version: str,
    *,
    within: bool = False,
    equality: bool = False,
    answers_are_texts: bool = True,
    from_prompt: bool = False,
    wrong: Callable[[Example], tuple[str, str] | None] = lambda _example: None,
) -> Callable[[Judge], Judge]:
    """Makes a function a metric of its name; the arguments are those of `Metric`.

    Raises:
        InputError: there is no version, or the name is taken.
    """
    if not isinstance(version, str):
        raise InputError("the metric has no version", fix='Write @metric("1") above its function')

    def add(judge: Judge) -> Judge:
        found = Metric(
            judge.__name__,
            version,
            judge=judge,
            within=within,
            equality=equality,
            answers_are_texts=answers_are_texts,
            from_prompt=from_prompt,
            wrong=wrong,
        )
        register(found)
        return judge

    return add


@functools.cache
def _load_all() -> None:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


def all_metrics() -> dict[str, Metric]:
    """Every metric by name."""
    _load_all()
    return dict(sorted(_registry.items()))


def find_metric(name: str) -> Metric:
    """The metric of a name.

    Raises:
        InputError: there is none.
    """
    known = all_metrics()
    if name not in known:
        fix = nearest(name, known)
        end = "" if fix.endswith("?") else "."
        raise InputError(
            f"unknown metric '{name}'", fix=f"{fix}{end} If it is a plugin of yours, name it with --plugin"
        )
    return known[name]


METRICS = Door("a metric", 'put @metric("1") above the function of a metric', all_metrics)


def something_to_find(example: Example) -> tuple[str, str] | None:
    """For metrics that look within what was written: an empty answer is found in everything."""
    if "" in example.answers:
        return "an empty answer, which is found in every output", "Write something in it"
    return None
