"""What a report shows, as plain data: models x abilities, searches, recipes, comparisons, cost and lineage.

Everything is optional but the title: a section without data is left out of the page. `collect` fills these from a
study folder and `outcomes` from an outcome table; `page` draws them. Uses nothing but the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["base", "parent", "merge", "random", "winner"]

#: Kinds of models in the order the page shows them, with the heading of each group.
KINDS: Mapping[Kind, str] = {
    "base": "Base",
    "parent": "Specialists",
    "merge": "Static merges",
    "random": "Random search",
    "winner": "Evolved",
}

#: What one model of a kind is called.
KIND_OF_ONE: Mapping[Kind, str] = {
    "base": "base",
    "parent": "specialist",
    "merge": "static merge",
    "random": "random search",
    "winner": "evolved",
}


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval; a difference of means when it says so.

    Attributes:
        value: the mean, scores in [0, 1] and differences in [-1, 1]; None when it was not measured. NaN becomes None.
        low, high: ends of the 95% interval; None when there is none.
        n: number of examples behind it.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0

    def __post_init__(self) -> None:
        for name in ("value", "low", "high"):
            given = getattr(self, name)
            if given is not None and not math.isfinite(given):
                object.__setattr__(self, name, None)

    @property
    def has_interval(self) -> bool:
        """Whether both ends are known."""
        return self.low is not None and self.high is not None


@dataclass(frozen=True)
class Ability:
    """One column of the matrix: a task, and the group whose mean it enters ("skills", "generic")."""

    name: str
    group: str = "skills"
    n: int = 0


@dataclass(frozen=True)
class ModelRow:
    """One row of the matrix.

    Attributes:
        name: what the page calls the model.
        kind: which group of rows it belongs to.
        scores: by ability name; an ability that is missing shows as a dash.
        means: by group name, the mean over that group's abilities.
        note: a short remark behind the name ("chosen on validation").
    """

    name: str
    kind: Kind
    scores: Mapping[str, Estimate]
    means: Mapping[str, Estimate] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Rival:
    """Another model beside the subject on one group of abilities.

    Attributes:
        role: why it is shown ("best specialist").
        name: its name in the matrix.
        score: its own mean.
        ahead: subject minus rival on the same examples, with a paired interval.
    """

    role: str
    name: str
    score: Estimate
    ahead: Estimate


@dataclass(frozen=True)
class Standing:
    """Where the subject stands on one group of abilities: the numbers at the top of the page."""

    group: str
    score: Estimate
    rivals: tuple[Rival, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """One candidate of a search, in the order of evaluation; fitness is None when it failed."""

    fitness: float | None
    generation: int = 0


@dataclass(frozen=True)
class Finalist:
    """One of the best of a search, judged again on more examples than the search used.

    Attributes:
        name: which candidate it is ("candidate 3 of generation 7").
        searched: the fitness the search saw; None for a strategy's own guess, which it never evaluated.
        judged: the fitness it was chosen by in the end.
    """

    name: str
    searched: float | None
    judged: Estimate


@dataclass(frozen=True)
class SearchRun:
    """One search.

    Attributes:
        name: what the page calls it.
        evaluations: its candidates.
        best: the best candidate's validation fitness as the search saw it, with its interval; None when unknown.
        finalists: those judged again, the winner first.
    """

    name: str
    evaluations: tuple[Evaluation, ...]
    best: Estimate | None = None
    finalists: tuple[Finalist, ...] = ()


@dataclass(frozen=True)
class ReferenceLine:
    """A level drawn across the search curves: the validation score of something that was not searched.

    `name` stands beside the line; `model` says in the legend which model it is.
    """

    name: str
    score: Estimate
    model: str = ""


@dataclass(frozen=True)
class GeneValue:
    """One number of a recipe.

    Attributes:
        parameter: the merge parameter it sets ("weight").
        skill: whose parameter it is; None when all share it.
        layers: first and last layer it covers; None for all.
        role: the tensor role it covers; None for all, or for those without a number of their own.
        value: the number.
        low, high: the range it was searched in.
        spread: where the same number lay in the better candidates of the search; None when unknown.
    """

    parameter: str
    skill: str | None
    layers: tuple[int, int] | None
    role: str | None
    value: float
    low: float
    high: float
    spread: tuple[float, float] | None = None


@dataclass(frozen=True)
class RecipePicture:
    """A recipe: its numbers to draw, and the text that reproduces the model.

    Attributes:
        name: the model it makes.
        method: the merge method.
        genes: its numbers; empty draws nothing and shows the text alone.
        text: the recipe file (YAML).
        spread_of: what the genes' `spread` describes ("the best tenth, 20 candidates"); empty when there is none.
    """

    name: str
    method: str
    genes: tuple[GeneValue, ...] = ()
    text: str = ""
    spread_of: str = ""


@dataclass(frozen=True)
class Change:
    """What the subject gained or lost on one ability against one rival.

    Attributes:
        ability, group: as in the matrix.
        delta: subject minus rival, paired over examples.
        gained: examples the rival failed and the subject solves.
        lost: examples the rival solves and the subject fails.
    """

    ability: str
    group: str
    delta: Estimate
    gained: int
    lost: int


@dataclass(frozen=True)
class Flip:
    """One example on which subject and rival differ. All texts come from data and models: untrusted.

    What a model said is None when its output was not kept.
    """

    ability: str
    example: str
    prompt: str
    expected: str
    rival_said: str | None
    subject_said: str | None
    gained: bool


@dataclass(frozen=True)
class Comparison:
    """The subject against one rival, ability by ability, with some of the examples that flipped."""

    subject: str
    rival: str
    kind: Kind
    changes: tuple[Change, ...]
    flips: tuple[Flip, ...] = ()


@dataclass(frozen=True)
class Cost:
    """What one run took. None where it is not known.

    Attributes:
        name: the run.
        evaluations: candidates evaluated, and of these `failed` and `cached` (answered by the ledger alone).
        examples: examples computed, those of the ledger not counted.
        seconds, cpu_seconds: wall and processor time.
    """

    name: str
    evaluations: int | None = None
    failed: int | None = None
    cached: int | None = None
    examples: int | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class Origin:
    """One model of the lineage: where it came from and the fingerprint of its weights."""

    name: str
    kind: Kind
    source: str = ""
    fingerprint: str = ""


@dataclass(frozen=True)
class ScatterPoint:
    """One candidate or model on several objectives.

    Attributes:
        name: what it is called ("candidate 3 of generation 7", or the model's name).
        search: the search it comes from; empty for a model that was not searched.
        kind: of a model that was not searched; None for what was.
        scores: one per objective, larger is better.
        parents: places, among the points, of what it came from.
        won: whether it is what its search chose.
    """

    name: str
    search: str
    kind: Kind | None
    scores: tuple[Estimate, ...]
    parents: tuple[int, ...] = ()
    won: bool = False


@dataclass(frozen=True)
class Scatter:
    """Candidates and models between which two objectives force a choice.

    Attributes:
        split: the examples they are known by ("validation", "test").
        objectives: names of the objectives.
        points: the candidates and models.
        candidates: how many candidates there were; more than are shown where a search was long.
    """

    split: str
    objectives: tuple[str, ...]
    points: tuple[ScatterPoint, ...]
    candidates: int = 0


@dataclass(frozen=True)
class Member:
    """A candidate that a search kept beyond its winner.

    Attributes:
        name: "generation.index", by which `genepool collection --write` knows it.
        group: the front, archive or cell it is in.
        scores: one per name of the collection's `scores`; None where it has no such score.
        atlas: which of the collection's maps it is on; None for none.
    """

    name: str
    group: str
    scores: tuple[float | None, ...]
    atlas: int | None = None


@dataclass(frozen=True)
class Atlas:
    """A map of an archive: cells along two scores, coloured by a third; each is a place among the `scores`."""

    name: str
    quality: int
    across: int
    up: int


@dataclass(frozen=True)
class Gathering:
    """What a search kept beyond its winner: a front, archives, a population.

    Attributes:
        search: the search.
        scores: names of the members' scores.
        members: the candidates.
        maps: of the archives; empty where there are none.
        bins: cells along each side of a map.
        command: the command line that writes a member as a checkpoint, up to the member's name.
    """

    search: str
    scores: tuple[str, ...]
    members: tuple[Member, ...]
    maps: tuple[Atlas, ...] = ()
    bins: int = 10
    command: str = ""


@dataclass(frozen=True)
class ReportData:
    """Everything one page shows. Only `title` is needed.

    Attributes:
        title: the heading.
        summary: one sentence: what was done.
        notices: what the reader must know first (an unfinished search), one sentence each.
        subject: name of the model the page is about; its row is marked.
        standings: the numbers at the top.
        abilities, models: columns and rows of the cross matrix.
        searches, references: search curves, and levels drawn across them.
        scatters: trade-offs between objectives, one for each split, all with the same objectives.
        gatherings: what the searches kept beyond their winners.
        recipes: pictures of recipes.
        comparisons: gains and losses against each rival.
        costs, lineage: tables at the end.
        commands: command lines that reproduce the result, in order.
        facts: further pairs for the end of the page ("seed", "tasks").
        standings_note: a sentence below the standings: how the rivals were chosen.
        finished: whether everything the page is about had come to its end.
    """

    title: str
    summary: str = ""
    notices: tuple[str, ...] = ()
    subject: str = ""
    standings: tuple[Standing, ...] = ()
    abilities: tuple[Ability, ...] = ()
    models: tuple[ModelRow, ...] = ()
    searches: tuple[SearchRun, ...] = ()
    references: tuple[ReferenceLine, ...] = ()
    scatters: tuple[Scatter, ...] = ()
    gatherings: tuple[Gathering, ...] = ()
    recipes: tuple[RecipePicture, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    costs: tuple[Cost, ...] = ()
    lineage: tuple[Origin, ...] = ()
    commands: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    standings_note: str = ""
    finished: bool = True

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of abilities, in order of first appearance."""
        return tuple(dict.fromkeys(ability.group for ability in self.abilities))
