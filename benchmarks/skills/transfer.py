"""Ranking skills from a few examples against the true ranking, on testbeds.

`python -m benchmarks.skills.transfer [--tiny] [--wide] [--seeds 3]`: every specialist of a testbed, full and adapter,
is a skill, and every specialist's task is a target. From the first N training examples of the target the skills are
ranked by each component and by some together; Kendall's tau-b says how far that is the order on the test split. Two
settings:

all       every skill; the truth is the share of exact answers of base + skill on the test split.
unseen    without the target's own two specialists. The others differ little in exact answers, so the truth is the
          log-likelihood per token of the right answers on the test split, mean over the examples.

`--choose` says which components a rule takes, on testbeds of seed 0 of every kind, which are never measured: begin
with the component of the best mean tau over both settings and all N; add the next best as long as the mean tau of
their mean ranks rises. What it took is `genepool.skills.transfer.ENSEMBLE`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from genepool import progress
from genepool.measure import Interval, mean_interval
from genepool.skills.transfer import COMPONENTS, ENSEMBLE, rank_skills
from genepool.skills.transfer_scores import mean_ranks
from genepool.tasks import DEFAULT_BATCH, LanguageModel, Ledger, Task, evaluate, load_tasks
from genepool.tasks.likelihoods import loglikelihoods
from genepool.testbed import Testbed, build
from genepool.testbed.skills import SKILLS
from genepool.threads import torch_threads
from genepool.weights import open_weights

CACHE = Path(__file__).parent.parent.parent / ".cache" / "transfer"
SIZES = (20, 50, 200)
SETTINGS = ("all", "unseen")
# Test examples of each target.
TESTED = 512
# Name of a kind of testbed -> options of `build`; the seed on which the ensemble is chosen.
KINDS: Mapping[str, Mapping[str, Any]] = {
    "text": {},
    "tiny": {"tiny": True},
    "tiny-wide": {"tiny": True, "skills": list(SKILLS)},
}
CHOOSING = 0


@dataclass(frozen=True)
class Case:
    """One target of one testbed.

    Attributes:
        skills: the skills, "full/sort".
        parts: N -> component -> one value a skill.
        truth: setting -> one value a skill.
        own: which skills are the target's own specialists.
    """

    skills: tuple[str, ...]
    parts: Mapping[int, Mapping[str, np.ndarray]]
    truth: Mapping[str, np.ndarray]
    own: np.ndarray

    def tau(self, setting: str, size: int, components: Sequence[str]) -> float:
        """Kendall's tau-b of the mean ranks of some components with the truth; 0 when they tell no skill apart."""
        rows = ~self.own if setting == "unseen" else np.ones(len(self.skills), bool)
        parts = self.parts[size]
        guess = mean_ranks([parts[name][rows] for name in components if name in parts] or [np.zeros(rows.sum())])
        found = float(kendalltau(guess, self.truth[setting][rows]).statistic)
        return 0.0 if np.isnan(found) else found


def cases(kind: str, seed: int) -> list[Case]:
    """Every target of a testbed, ranked and measured; the testbed is trained where it is not there yet."""
    bed = build(CACHE / f"{kind}-{seed}", seed=seed, overwrite=True, **KINDS[kind])
    paths = {
        f"{kind}/{name}": path for kind, of in (("full", bed.full), ("lora", bed.lora)) for name, path in of.items()
    }
    targets = [task for task in load_tasks(bed.tasks) if task.name in bed.full]
    truth = _truth(bed, paths, targets)
    found = []
    with progress.bar("ranking from few examples", len(targets) * len(SIZES), "rankings") as bar:
        for task in targets:
            parts = {}
            for size in SIZES:
                examples = task.examples("train")[:size]
                with progress.silenced():
                    ranking = rank_skills(bed.base, paths, examples, task=task, components=COMPONENTS)
                by_name = {skill.name: skill.parts for skill in ranking.skills}
                parts[size] = {name: np.array([by_name[s][name] for s in paths]) for name in ranking.components}
                bar.advance()
            own = np.array([name.partition("/")[2] == task.name for name in paths])
            found.append(Case(tuple(paths), parts, truth[task.name], own))
    progress.message(f"{kind}, seed {seed}: measured")
    return found


def _truth(bed: Testbed, paths: Mapping[str, Path], targets: Sequence[Task]) -> dict[str, dict[str, np.ndarray]]:
    """Target -> setting -> what each skill really is worth on the test split."""
    base = open_weights(bed.base)
    model = LanguageModel.load(base)
    truth = {task.name: {setting: np.zeros(len(paths)) for setting in SETTINGS} for task in targets}
    with progress.bar("asking base + skill", len(paths), "skills") as bar, Ledger(":memory:") as ledger:
        for place, path in enumerate(paths.values()):
            model.assign(open_weights(path, base=base))
            with progress.silenced():
                table = evaluate([model], targets, ledger=ledger, limit=TESTED, keep_outputs=False)
            for task in targets:
                examples = task.examples("test")[:TESTED]
                prompts = [task.prompt_for(example, model) for example in examples]
                read = loglikelihoods(model, prompts, [example.answer for example in examples], DEFAULT_BATCH)
                truth[task.name]["all"][place] = table.mean(table.models[0], task.name)
                truth[task.name]["unseen"][place] = np.mean([answer.logprob / answer.tokens for answer in read])
            bar.advance()
    return truth


def chosen(seen: Sequence[Case]) -> tuple[str, ...]:
    """The ensemble that the rule takes on some cases."""

    def worth(components: Sequence[str]) -> float:
        return float(np.mean([c.tau(s, n, components) for c in seen for s in SETTINGS for n in SIZES]))

    best, *others = sorted(COMPONENTS, key=lambda name: -worth([name]))
    found = (best,)
    for name in others:
        if worth([*found, name]) <= worth(found):
            break
        found = (*found, name)
    return found


def table(measured: Sequence[Case]) -> str:
    """tau-b by component, setting and N as Markdown, with 95% intervals over targets and seeds."""
    heads = [f"{setting}, N={size}" for setting in SETTINGS for size in SIZES]
    lines = ["| ranked by | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    rows = [*((name,) for name in COMPONENTS), ("likelihood", "exact"), ("likelihood", "alignment"), COMPONENTS]
    for components in rows:
        name = "all six" if components == COMPONENTS else " + ".join(components)
        name += " (the default)" if components == ENSEMBLE else " (cheap)" if components == ("alignment",) else ""
        cells = [
            mean_interval(np.array([case.tau(setting, size, components) for case in measured]))
            for setting in SETTINGS
            for size in SIZES
        ]
        lines.append(f"| {name} | " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join(lines)


def _cell(found: Interval) -> str:
    return f"{found.mean:.2f} [{found.lo:.2f}, {found.hi:.2f}]"


def main(arguments: list[str] | None = None) -> None:
    """Trains what is not there yet, ranks, asks, and prints a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.skills.transfer", description=main.__doc__)
    parser.add_argument("--tiny", action="store_true", help="the tiny testbed")
    parser.add_argument("--wide", action="store_true", help="the tiny testbed with all twelve skills instead of four")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="testbeds measured, of seeds 1 to N (3)")
    parser.add_argument(
        "--choose", action="store_true", help="say what the rule takes instead, on seed 0 of every kind"
    )
    asked = parser.parse_args(arguments)
    if asked.seeds < 1:
        parser.error(f"--seeds {asked.seeds}: 1 at least")
    with torch_threads(1):
        if asked.choose:
            print(" + ".join(chosen([case for kind in KINDS for case in cases(kind, CHOOSING)])))
            return
        kind = "tiny-wide" if asked.wide else "tiny" if asked.tiny else "text"
        measured = [case for seed in range(1, asked.seeds + 1) for case in cases(kind, seed)]
    print(
        f"{kind} testbeds of seeds 1 to {asked.seeds}: {len(measured)} targets, {len(measured[0].skills)} skills each;"
    )
    print("Kendall's tau-b with the order on the test split, mean and 95% interval over targets and seeds.\n")
    print(table(measured))


if __name__ == "__main__":
    main()
