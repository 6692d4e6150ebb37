"""Compositions in logit space against what they must beat, on testbeds of strings of several seeds.

`python -m benchmarks.composition_logits [--seeds 5] [--examples 256] [--default-size] [--beds DIR]` prints a table for
each of the three rules below. They were written before the first figure:

- fusion: the score of dynamic logit fusion less that of the best fixed factor, chosen on the validation split out of
  `FACTORS`, is above 0 with its whole interval.
- gap: dynamic logit fusion closes more than half of the gap from the large base to the tuned large model.
- weights: the weights by shift less the best static sum of the same skills, its factor chosen on the validation split,
  is above 0 with its whole interval.

Tuned large models, and the base, stand in every table. Everything is scored on the test split; an interval is of the
mean over seeds and tasks, by a paired bootstrap over examples.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from genepool import progress
from genepool.composition.composer import make_composer
from genepool.composition.skill_set import open_skills
from genepool.composition.world import World
from genepool.measure import macro_paired_bootstrap
from genepool.tasks import Ledger, Task, evaluate, load_tasks, open_model
from genepool.tasks.models import Source
from genepool.testbed import Testbed, build

FACTORS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
# Of all skills at once, where factors add up.
SUMS = (0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
BEDS = Path(__file__).parent.parent.parent / ".cache"


class Asked:
    """Asks models and keeps every score.

    Args:
        ledger: where outcomes are kept.
        limit: examples of each task.
    """

    def __init__(self, ledger: Ledger, limit: int) -> None:
        self.ledger, self.limit = ledger, limit

    def scores(self, model: Source, task: Task, split: str = "test") -> np.ndarray:
        """One score an example."""
        table = evaluate([model], [task], split=split, limit=self.limit, ledger=self.ledger)
        return table.scores(table.models[0], task.name)


def composed(method: str, base: Path, skills: Sequence[Path], **options: object) -> Source:
    """A composition in logit space as a model."""
    composer = make_composer(method, options)
    opened = open_skills(str(base), [str(skill) for skill in skills], members="models")
    return composer.fit(World(opened, [])).source()


def best(asked: Asked, models: Iterable[Source], tasks: Sequence[Task]) -> Source:
    """The model with the highest mean over tasks on the validation split; the first of equals."""
    return max(models, key=lambda model: float(np.mean([asked.scores(model, task, "valid").mean() for task in tasks])))


def steered(asked: Asked, bed: Testbed, skills: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """Scores of each skill's task by arm: a large base steered by one small specialist."""
    small = bed.folder / "small"
    found: dict[str, dict[str, np.ndarray]] = {}
    for skill in skills:
        (task,) = load_tasks(bed.tasks, [skill])
        settings = {"small_base": str(small / "base")}
        expert = [small / "full" / skill]
        fixed = [composed("proxy_tuning", bed.base, expert, scale=factor, **settings) for factor in FACTORS]
        arms = {
            "large base": open_model(bed.base),
            "small specialist": open_model(expert[0]),
            "tuned large": open_model(bed.full[skill]),
            "factor 1": fixed[FACTORS.index(1.0)],
            "best fixed factor": best(asked, fixed, [task]),
            "dynamic": composed("dynamic_logit_fusion", bed.base, expert, **settings),
        }
        found[skill] = {arm: asked.scores(model, task) for arm, model in arms.items()}
    return found


def weighted(asked: Asked, bed: Testbed, skills: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """Scores of every task by arm: all specialists of one base at once, and nothing says whose task it is."""
    tasks = load_tasks(bed.tasks, [*skills, "generic"])
    experts = [bed.full[skill] for skill in skills]
    sums = [composed("proxy_tuning", bed.base, experts, scale=factor) for factor in SUMS]
    arms = {
        "base": open_model(bed.base),
        "best static sum": best(asked, sums, tasks),
        "mean logits": composed("emulated_fine_tuning", bed.base, experts),
        "dynamic": composed("dynamic_logit_fusion", bed.base, experts),
        "weights by shift": composed("weighted_by_shift", bed.base, experts),
    }
    found: dict[str, dict[str, np.ndarray]] = {task.name: {} for task in tasks}
    for task in tasks:
        for arm, model in arms.items():
            found[task.name][arm] = asked.scores(model, task)
        if task.name in bed.full:
            found[task.name]["its own specialist"] = asked.scores(open_model(bed.full[task.name]), task)
        else:
            found[task.name]["its own specialist"] = found[task.name]["base"]
    return found


def table(title: str, seeds: Sequence[dict[str, dict[str, np.ndarray]]]) -> str:
    """Means over seeds as Markdown: a row an arm, a column a task."""
    tasks, arms = list(seeds[0]), list(next(iter(seeds[0].values())))
    lines = [f"## {title}", "", f"| | {' | '.join(tasks)} | mean |", "|---|" + "---|" * (len(tasks) + 1)]
    for arm in arms:
        means = [float(np.mean([seed[task][arm].mean() for seed in seeds])) for task in tasks]
        lines.append(f"| {arm} | {' | '.join(f'{mean:.3f}' for mean in [*means, float(np.mean(means))])} |")
    return "\n".join(lines)


def difference(seeds: Sequence[dict[str, dict[str, np.ndarray]]], new: str, old: str) -> str:
    """The mean difference of two arms, with its interval."""
    cells = [seed[task] for seed in seeds for task in seed]
    found = macro_paired_bootstrap([cell[new] for cell in cells], [cell[old] for cell in cells])
    return f"{found.difference:+.3f} [{found.lo:+.3f}, {found.hi:+.3f}]"


def main() -> None:
    """Builds the beds that are missing, asks, and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--default-size", action="store_true")
    parser.add_argument("--beds", type=Path, default=BEDS)
    given = parser.parse_args()
    progress.set_quiet(True)
    size = "default" if given.default_size else "tiny"
    steering, weighing = [], []
    with tempfile.TemporaryDirectory() as place, Ledger(os.path.join(place, "ledger.sqlite")) as ledger:
        asked = Asked(ledger, given.examples)
        for seed in range(given.seeds):
            folder = given.beds / f"sizes-{size}-{seed}"
            bed = build(folder, bed="text_sizes", tiny=not given.default_size, seed=seed)
            skills = list(bed.full)
            steering.append(steered(asked, bed, skills))
            weighing.append(weighted(asked, bed, skills))
    title = f"{size} size, {given.seeds} seeds, {given.examples} examples a task"
    print(table(f"A large base steered by one small specialist ({title})", steering), end="\n\n")
    print(f"fusion, dynamic less the best fixed factor: {difference(steering, 'dynamic', 'best fixed factor')}")
    print(f"gap closed by dynamic fusion: {_gap(steering):.2f}", end="\n\n")
    print(table(f"All specialists of one base at once ({title})", weighing), end="\n\n")
    print(f"weights, by shift less the best static sum: {difference(weighing, 'weights by shift', 'best static sum')}")


def _gap(seeds: Sequence[dict[str, dict[str, np.ndarray]]]) -> float:
    """The share of the gap from the large base to the tuned large model, of the means over seeds and tasks."""
    base, tuned, found = (
        float(np.mean([seed[task][arm].mean() for seed in seeds for task in seed]))
        for arm in ("large base", "tuned large", "dynamic")
    )
    return (found - base) / (tuned - base)


main()
