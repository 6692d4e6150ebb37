"""What is told of a finished training beside its scores: the part of `train.json`, and the lineage of the result.

Plain data out of the opened recipe and the record; `run` writes it, pages and cards read it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from genepool.training.journal import Journal
from genepool.training.made_examples import counted
from genepool.training.objectives import LabelledObjective
from genepool.training.opened_training import OpenedTraining
from genepool.training.recipe import Training
from genepool.training.rollout_objective import RolloutObjective
from genepool.training.samplers.parameters import ParameterSampler
from genepool.weights import without_head

# Points of a curve: more than a page shows.
_POINTS = 200


@dataclass(frozen=True)
class Ending:
    """How a training ended.

    Attributes:
        result: the name of the adapter or skill in the run's folder.
        best: the step whose state was written.
        last: the last step.
        rate: the largest learning rate.
        fingerprint: of the result.
    """

    result: str
    best: int
    last: int
    rate: float
    fingerprint: str


def lineage(opened: OpenedTraining, step: int) -> dict[str, Any]:
    """How a result was made, as it is kept with it.

    Args:
        opened: the training.
        step: the step whose state it is.
    """
    recipe = opened.recipe
    return {
        "made_by": "train",
        "base": {"name": recipe.base, "fingerprint": without_head(opened.base).fingerprint()},
        "objective": recipe.objective,
        **_options(recipe),
        **_average(recipe),
        "tasks": [task.name for task in opened.lessons.tasks],
        "lessons": opened.lessons.digest(),
        "steps": step,
        "seed": recipe.seed,
        "genepool": version("genepool"),
    }


def described(opened: OpenedTraining, journal: Journal, ending: Ending) -> dict[str, Any]:
    """What `train.json` says beside scores.

    Args:
        opened: the training.
        journal: its record.
        ending: how it ended.
    """
    recipe, lessons = opened.recipe, opened.lessons
    control = recipe.made_objective().control
    return {
        "schema": 1,
        "result": ending.result,
        "base": {"path": recipe.base, "fingerprint": without_head(opened.base).fingerprint()},
        **_head(opened),
        "fingerprint": ending.fingerprint,
        "form": recipe.form,
        **({"form_options": recipe.form_options} if recipe.form_options else {}),
        "objective": recipe.objective,
        **_options(recipe),
        "steps": ending.last,
        "best_step": ending.best,
        "stopped_early": ending.last < recipe.steps,
        "learning_rate": ending.rate,
        "seed": recipe.seed,
        "asked": opened.asked(),
        "examples": {"train": len(lessons.train), "valid": len(lessons.valid)},
        **_average(recipe),
        **({} if recipe.sampler is None else {"sampler": recipe.sampler, "sampler_options": recipe.sampler_options}),
        **({} if recipe.shares is None and recipe.sampler is None else {"drawn": journal.drawn()}),
        **_curriculum(opened, journal, ending.last),
        **({} if opened.lessons.generating is None else {"made": counted(journal.rounds())}),
        **_learned_from(opened, journal),
        **({} if control is None else {"control": control.to_dict()}),
        "cost": _cost(recipe, journal, ending.last),
        "validations": [asdict(one) for one in journal.validations()],
    }


def _curriculum(opened: OpenedTraining, journal: Journal, last: int) -> dict[str, Any]:
    """Of a sampler of parameters: by parameter its mean over the examples of a few steps in a row, as [step, mean]."""
    sampler = opened.lessons.sampler
    if not isinstance(sampler, ParameterSampler):
        return {}
    width = max(1, -(-last // _POINTS))
    parts: dict[str, dict[int, tuple[float, int]]] = {name: {} for name in sampler.space.names}
    for step, rows in journal.evidence(last):
        end = min(-(-step // width) * width, last)
        for name, mean in sampler.means(rows).items():
            total, count = parts[name].get(end, (0.0, 0))
            parts[name][end] = (total + mean, count + 1)
    return {
        "curriculum": {
            name: [[end, total / count] for end, (total, count) in ends.items()] for name, ends in parts.items()
        }
    }


def _options(recipe: Training) -> dict[str, Any]:
    """Those of the objective, defaults included, where it has any."""
    options = recipe.made_objective().options.model_dump(mode="json")
    return {"options": options} if options else {}


def _average(recipe: Training) -> dict[str, Any]:
    return {} if recipe.average is None else {"average": recipe.average.model_dump(mode="json")}


def _learned_from(opened: OpenedTraining, journal: Journal) -> dict[str, Any]:
    """What of the data there was nothing to learn from, where something is left out; how many labels there were."""
    objective = opened.recipe.made_objective()
    if objective.reads_pairs:
        return {"equal_pairs": opened.lessons.equal}
    if isinstance(objective, LabelledObjective):
        train = opened.lessons.train
        accepted = sum(lesson.good for lesson in train)
        return {"labels": {"accepted": accepted, "rejected": len(train) - accepted}}
    if isinstance(objective, RolloutObjective):
        return {"samples": journal.samples(objective.drawing.group)}
    return {}


def _cost(recipe: Training, journal: Journal, steps: int) -> dict[str, int]:
    """What controls must have as much of: steps, examples or samples that they saw, and tokens that they wrote."""
    objective = recipe.made_objective()
    tokens = journal.generated(objective.drawing.iterations) if isinstance(objective, RolloutObjective) else 0
    tokens += sum(one.tokens for one in journal.rounds())
    return {"steps": steps, "examples": sum(journal.drawn().values()), "tokens": tokens}


def _head(opened: OpenedTraining) -> dict[str, Any]:
    """The head that was made fresh, and what stands before it in the table."""
    if (head := opened.head) is None:
        return {}
    return {"head": {**head.to_dict(), "before": opened.before.name}}
