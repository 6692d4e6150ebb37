"""How an answer becomes a score: one metric a file beside this one, found by being there.

A metric that looks at what was written is a function with `metric` above it; one that reads likelihoods registers a
`Metric` without a judge. Knows examples, and neither models nor tasks.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from genepool.errors import InputError, nearest
from genepool.tasks.example import Example

# (what the model wrote, example, strip) -> score from 0 to 1; with `strip`, white space around an answer is ignored.
Judge = Callable[[str, Example, bool], float]


@dataclass(frozen=True)
class Metric:
    """One way to judge.

    Attributes:
        name: what `task.yaml` calls it.
        version: part of how an outcome is kept: outcomes of another version are never mixed in.
        needs: what the model is asked for: "text" that it writes, or "choices", the likelihoods of what an example has
            to choose from.
        judge: scores what was written; None where nothing is.
        within: it looks for something within what was written, so that right answers need not be alike.
        equality: the score is 1 exactly when what was written is an answer, so that reading the answer can tell.
        wrong: what keeps an example from being judged so, and the way out; None when nothing does.
    """

    name: str
    version: str
    needs: Literal["text", "choices"] = "text"
    judge: Judge | None = None
    within: bool = False
    equality: bool = False
    wrong: Callable[[Example], tuple[str, str] | None] = lambda example: None


_registry: dict[str, Metric] = {}


def register(metric: Metric) -> Metric:
    """Puts a metric on the list.

    Raises:
        ValueError: it needs text and has no judge, has a judge and needs none, or its name is taken.
    """
    if (metric.judge is None) == (metric.needs == "text"):
        raise ValueError(f"the metric {metric.name} needs {metric.needs}, and {metric.judge} judges it")
    if metric.name in _registry:
        raise ValueError(f"there is already a metric '{metric.name}'")
    _registry[metric.name] = metric
    return metric


def metric(
    version: str,
    *,
    within: bool = False,
    equality: bool = False,
    wrong: Callable[[Example], tuple[str, str] | None] = lambda example: None,
) -> Callable[[Judge], Judge]:
    """Makes a function a metric of its name; the arguments are those of `Metric`."""

    def add(judge: Judge) -> Judge:
        name = judge.__name__
        register(Metric(name, version, judge=judge, within=within, equality=equality, wrong=wrong))
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
        raise InputError(f"unknown metric '{name}'", fix=nearest(name, known))
    return known[name]


def something_to_find(example: Example) -> tuple[str, str] | None:
    """For metrics that look within what was written: an empty answer is found in everything."""
    if "" in example.answers:
        return "an empty answer, which is found in every output", "Write something in it"
    return None
