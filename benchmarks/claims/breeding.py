"""Populations of models put to the papers' claims: arms of `benchmarks.evolve.quality` on the same test examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from benchmarks.claims.claim import Claim, Measurement
from benchmarks.claims.stamp import stamp
from benchmarks.claims.verdict import Contrast, Rule, better, kept
from benchmarks.claims.worlds import BREEDING
from benchmarks.evolve.quality import ARMS, Result
from benchmarks.evolve.world import world
from genepool.evolution.breeding.operators import operators
from genepool.evolution.strategies import strategies

EVALUATIONS = 400
# What no module imports by name.
_FOUND = sorted(
    {entry.build.__module__ for entry in strategies().values()} | {f.__module__ for f in operators().values()}
)
PLAIN = "M2N2, plain GA (alpha 0, no attraction)"


class BreedingWorld:
    """The testbed of one seed; an arm is run once, and again only when the code that runs it has changed."""

    def __init__(self, seed: int, evaluations: int = EVALUATIONS) -> None:
        found, code = world(seed, tiny=True), stamp("genepool.evolution.run", "genepool.merging.as_lora", *_FOUND)
        self.place = replace(found, folder=found.folder / f"claims-{code[:12]}")
        self.place.folder.mkdir(exist_ok=True)
        self.evaluations = evaluations
        self._known: dict[str, Result] = {}

    def result(self, arm: str) -> Result:
        """What an arm of `benchmarks.evolve.quality` comes to."""
        if arm not in self._known:
            self._known[arm] = ARMS[arm](self.place, self.evaluations)
        return self._known[arm]


def _against(ours: str, theirs: str) -> Callable[[BreedingWorld], Measurement]:
    def measure(place: BreedingWorld) -> Measurement:
        first, second = place.result(ours), place.result(theirs)
        tasks = place.place.tasks
        main = Contrast.of([first.scores[task] for task in tasks], [second.scores[task] for task in tasks])
        contrasts = {"main": main}
        if first.diversity is not None and second.diversity is not None:
            contrasts["disagreement"] = Contrast(first.diversity, second.diversity, ())
        return Measurement(contrasts)

    return measure


def _diverse_and_better() -> Rule:
    words = "M2N2 minus the plain genetic algorithm (mean over the skills, disagreement of the last candidates)"
    return Rule(
        f"both intervals of {words} are above 0",
        lambda figures: figures["main"].lo > 0 and figures["disagreement"].lo > 0,
    )


def _claim(name: str, words: str, source: str, ours: str, theirs: str, rule: Rule) -> Claim:
    return Claim(name, words, source, (BREEDING,), (), _against(ours, theirs), rule)


CLAIMS = (
    _claim(
        "genome-parents", "GENOME beats the best of its parents", "GENOME, Zhang et al. 2025", "GENOME", "best parent",
        better("GENOME minus the best parent (mean over the skills)"),
    ),
    _claim(
        "genome-static", "GENOME beats static merges", "GENOME, Zhang et al. 2025", "GENOME", "best static merge",
        better("GENOME minus the best of 22 static merges (mean over the skills)"),
    ),
    _claim(
        "succession", "Succession helps: GENOME+ beats GENOME", "GENOME+, Zhang et al. 2025", "GENOME+", "GENOME",
        better("GENOME+ minus GENOME (mean over the skills)"),
    ),
    _claim(
        "m2n2", "M2N2 keeps diversity where a plain genetic algorithm collapses, and ends higher",
        "M2N2, Abrantes, Lange & Tang 2025", "M2N2", PLAIN, _diverse_and_better(),
    ),
    _claim(
        "essa", "ESSA comes within a point of gradient fine-tuning of the same adapter, or above",
        "ESSA, Korotyshova et al. 2025", "ESSA (on the average as an adapter)", "the same adapter tuned by gradient",
        kept("ESSA minus AdamW on the same examples (mean over the skills)", 0.01),
    ),
)  # fmt: skip
