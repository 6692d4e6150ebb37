"""What every kind of genome is a subclass of: its options, how it opens, and how a candidate becomes a model.

A representation turns what a strategy proposes into a genome, a genome into lazy `Weights`, and the winner into a
folder. It may use strategies and weights; the driver and every worker of a study hold one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast, get_args

from pydantic import Field, PrivateAttr

from genepool.errors import InputError
from genepool.evolution.permissions import NOTHING, Permissions
from genepool.evolution.strategies import Breeder, Strategy, make_strategy
from genepool.schema import Strict

if TYPE_CHECKING:
    import numpy as np

    from genepool.evolution.candidates import Candidate
    from genepool.evolution.genome import SearchRange
    from genepool.evolution.strategies.base import Proposals
    from genepool.evolution.study import Study
    from genepool.merging import Method
    from genepool.tasks import Model, Task
    from genepool.weights import Weights


class Vary(Strict):
    """What a study varies: a kind of genome and its options. A plain string is short for `kind`."""

    page = "reference/study"

    kind: str = Field(
        default="",
        description="One of the kinds below; by default the strategy's own (`genepool strategies`).",
    )
    # Where the options stand in the study file; elsewhere in files from before there was `vary`.
    _key: str = PrivateAttr(default="vary")

    def __eq__(self, other: object) -> bool:
        # Where a file says it makes no difference to what it says.
        return type(other) is type(self) and self.__dict__ == other.__dict__

    @property
    def older(self) -> bool:
        """Whether the file says it by the keys of before there was `vary`."""
        return self._key != "vary"

    @property
    def how(self) -> str:
        """How models come about, as the end of a sentence: "breeding"."""
        return f"other {self.kind.replace('_', ' ')}"

    @property
    def searched(self) -> Mapping[str, SearchRange]:
        """The ranges of merge parameters that are searched, by name; empty where a genome has none."""
        return {}

    def standing_at(self, key: str) -> Vary:
        """The same options, for errors that name keys below `key` of the study file."""
        self._key = key
        return self

    def place(self, key: str) -> str:
        """Where one of the options stands in the study file."""
        return f"{self._key}.{key}" if self._key else key

    def settings(self) -> dict[str, Any]:
        """The part of `Study.settings`: what of it decides which candidates are tried and what they are worth."""
        return {"vary": self.model_dump(mode="json")}

    def tried(self, skills: str) -> str:
        """What a search tried, for a sentence.

        Args:
            skills: names of the skills, as one phrase.
        """
        return f"models made of {skills} by {self.how}"


@dataclass(frozen=True)
class Ingredients:
    """What a representation is opened from.

    Attributes:
        study: the study, its paths resolved.
        where: its file, for errors.
        base: the base; of a study without one, the first skill.
        skills: the skills by their model strings.
        tasks: the chosen tasks.
        out: the study's folder, where a run keeps what it bred; None before a run has one.
        resident: names of the skills whose tensors are to be held in memory, and "base".
        in_memory: whether base and skills are what a worker is to hold already.
        trust: what may be opened.
        device: torch's name of the device that models are asked on.
    """

    study: Study
    where: str
    base: Weights
    skills: Mapping[str, Weights]
    tasks: Sequence[Task]
    out: Path | None = None
    resident: Collection[str] = ()
    in_memory: bool = False
    trust: Permissions = NOTHING
    device: str = "cpu"


@dataclass(frozen=True)
class FinishedRun:
    """An earlier run that a study may begin at.

    Attributes:
        folder: its folder.
        kind: what it varied.
        genome: its winner's.
    """

    folder: Path
    kind: type[Representation[Any, Any]]
    genome: Mapping[str, Any]


@dataclass(frozen=True)
class Held:
    """What a worker holds beside the model it evaluates with, in bytes.

    Attributes:
        base: the base; 0 when it is streamed or not needed.
        skills: by name, what each that stays in memory takes.
        streamed: names of the skills (and "base") that are read from the disk for every candidate.
        children: at most, of what was bred, of directions it moves along and of what is learning.
    """

    base: int = 0
    skills: Mapping[str, int] = field(default_factory=dict)
    streamed: tuple[str, ...] = ()
    children: int = 0


Proposal = TypeVar("Proposal")
AnyVary = TypeVar("AnyVary", bound=Vary)


class Representation(ABC, Generic[Proposal, AnyVary]):
    """One kind of genome; a file subclasses `PointRepresentation` or `BirthRepresentation` and registers it.

    Args:
        found: the study's models and tasks.

    Attributes:
        sources: the base and the skills, by their model strings, as candidates are made of them.

    Raises:
        InputError: the skills, the options or how they fit together are wrong.
    """

    #: What it is parametrised with: `class MergeParameters(PointRepresentation[MergeParametersOptions])`.
    Options: ClassVar[type[Vary]] = Vary
    #: What a study file calls it, and what is varied in the plural; both from `register`.
    kind: ClassVar[str] = ""
    noun: ClassVar[str] = ""
    #: Whether a candidate is a merge by a recipe, which may say what it keeps.
    merges: ClassVar[bool] = False
    #: What strategies must propose to search it.
    proposals: ClassVar[Proposals]

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        # Of this class alone: a subclass of a finished representation inherits that one's.
        for base in cls.__dict__.get("__orig_bases__", ()):
            for argument in get_args(base):
                if isinstance(argument, type) and issubclass(argument, Vary):
                    cls.Options = argument

    def __init__(self, found: Ingredients) -> None:
        self.study, self.where = found.study, found.where
        self.options = cast("AnyVary", found.study.vary)
        self.sources: Mapping[str, Weights] = {found.study.reference: found.base, **found.skills}

    # -- before anything is opened ------------------------------------------------------------------------------

    @classmethod
    def check(cls, study: Study) -> None:
        """Refuses a study that this kind of genome cannot be made from.

        Raises:
            ValueError: what does not fit, as a clause.
        """

    @classmethod
    def works_without_base(cls, study: Study) -> bool:
        """Whether candidates can be made of the skills alone."""
        return False

    @classmethod
    def forked(cls, study: Study, run: FinishedRun) -> Study:
        """The study with its start moved to the winner of an earlier run.

        Raises:
            InputError: this kind cannot begin there.
        """
        other = f"that run varied {run.kind.noun}, and " if run.kind.noun != cls.noun else ""
        raise InputError(
            f"{other}{study.strategy.name} varies {cls.noun}, which cannot begin at its winner",
            where=run.folder,
            fix="Leave --fork out: the outcomes of that run stay in the ledger",
        )

    # -- from proposals to models -------------------------------------------------------------------------------

    @abstractmethod
    def begin(self) -> Strategy[Any] | Breeder[Any]:
        """The study's strategy over this representation, nothing asked or told yet."""

    @abstractmethod
    def genome(self, one: Proposal, /) -> dict[str, Any]:
        """The genome of a point or a birth, as plain data."""

    @abstractmethod
    def source(self, candidate: Candidate) -> Weights:
        """The candidate's model, computed as it is read."""

    @abstractmethod
    def template(self) -> Weights:
        """Some model of the architecture that every candidate has."""

    # -- what is kept -------------------------------------------------------------------------------------------

    @abstractmethod
    def write(self, candidate: Candidate, folder: Path, sections: Mapping[str, str], *, overwrite: bool = True) -> None:
        """Writes a candidate as a checkpoint with a card that has these sections.

        Args:
            candidate: it.
            folder: where.
            sections: by their titles.
            overwrite: replace what is there; a study does so with its own winner.

        Raises:
            InputError: something is there and `overwrite` is false, or another process is writing there.
        """

    @abstractmethod
    def card(self, candidate: Candidate, sections: Mapping[str, str]) -> str:
        """The model card of a candidate."""

    def record(self, candidate: Candidate) -> dict[str, Any]:
        """What `best.json` says beyond the genome on how to make the candidate again."""
        return {}

    def held(self, room: float) -> Held:
        """What a worker holds beside its model.

        Args:
            room: bytes that are left for it.
        """
        return Held()

    def genes(self) -> list[dict[str, Any]]:
        """What each number of a genome stands for, as `Gene.to_dict` has it; empty where a genome is something else."""
        return []

    # -- what few kinds need ------------------------------------------------------------------------------------

    def code(self) -> str:
        """Digest of code from outside the package; empty where there is none."""
        return ""

    def method(self) -> Method | None:
        """The merge method that makes candidates; None where none does."""
        return None

    def ancestors(self, candidate: Candidate) -> Mapping[str, Any]:
        """Genomes by name that a candidate is made of; empty where it is made of the skills alone."""
        return {}

    def tell_ancestors(self, genomes: Mapping[str, Mapping[str, Any]]) -> None:
        """Genomes by name, for a worker that cannot read the study's record."""

    def lend(self, model: Model) -> None:
        """Lends the one model that a worker holds, for what needs one to make candidates."""

    def keep_only(self, names: Collection[str], writing: bool) -> None:
        """Lets go of children that are not among `names`; `writing` says that others are being written."""


class PointRepresentation(Representation["np.ndarray", AnyVary]):
    """A genome is a point of the unit cube: named numbers, for strategies that propose points."""

    proposals = "points"

    @property
    @abstractmethod
    def start(self) -> np.ndarray:
        """Where the search begins, shape (d,), in the unit cube."""

    def begin(self) -> Strategy[Any]:
        chosen, where = self.study.strategy, f"{self.where}:strategy"
        return make_strategy(chosen.name, self.start, seed=self.study.seed, options=chosen.options, where=where)
