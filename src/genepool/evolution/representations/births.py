"""Populations: a genome is a birth, whatever the models of the population are held as.

What `whole_models`, `adapters` and `models_or_adapters` have in common. It uses the breeding room and the record of the
study; no kind of its own is registered here.
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field

from genepool.errors import InputError
from genepool.evolution import older_keys
from genepool.evolution.breeding import Founders, Learner, Offspring
from genepool.evolution.breeding.founders import SPECTRA
from genepool.evolution.breeding.learning_settings import Learning
from genepool.evolution.breeding.offspring import MEMORY
from genepool.evolution.candidates import Candidate
from genepool.evolution.records import POPULATION_FOLDER, STORE_FILE, WINNER_FOLDER
from genepool.evolution.representations.base import FinishedRun, Held, Ingredients, Representation, Vary
from genepool.evolution.store import StudyStore
from genepool.evolution.strategies import Breeder, make_breeder, strategy_entry
from genepool.evolution.strategies.base import Birth
from genepool.weights.tensor_info import dtype_code

if TYPE_CHECKING:
    from genepool.evolution.study import Study
    from genepool.tasks import Model
    from genepool.weights import Weights


class BirthOptions(Vary):
    """What all populations can be told."""

    learn: Learning | None = Field(
        default=None, description="Fine-tune children briefly before they are evaluated; null: do not."
    )

    @property
    def how(self) -> str:
        return "breeding"

    def recorded(self, form: Literal["auto", "models", "adapters"]) -> dict[str, Any]:
        """`settings` as they have always been recorded."""
        learn = None if self.learn is None else self.learn.model_dump(mode="json")
        return older_keys.recorded(breed={"form": form}, learn=learn)


AnyBirths = TypeVar("AnyBirths", bound=BirthOptions)


class BirthRepresentation(Representation[Birth, AnyBirths]):
    """A population of models; children lie in the study's folder, founders are read where they lie."""

    proposals = "births"

    def __init__(self, found: Ingredients) -> None:
        super().__init__(found)
        self._found, self._told = found, dict[str, Birth]()
        study, self._learn = found.study, self.options.learn
        dtype = None if study.dtype is None else dtype_code(study.dtype)
        # What small steps add up to must not be rounded away in between.
        fine = self._learn is not None and self._learn.inherit
        held = "F32" if fine else getattr(strategy_entry(study.strategy.name).build, "held", None)
        self._founders = self.hold_founders(found.base, self._open_founders(), dtype, held)
        folder = None if found.out is None else found.out / POPULATION_FOLDER
        self.offspring = Offspring(self._founders, self._birth, folder, learner=self._learner())

    @abstractmethod
    def hold_founders(
        self, base: Weights, founders: Mapping[str, Weights], dtype: str | None, held: str | None
    ) -> Founders:
        """The founders as the population holds them.

        Args:
            base, founders, dtype: as for `Founders`.
            held: safetensors name of the type that children are held in; as models are when None.
        """

    @classmethod
    def check(cls, study: Study) -> None:
        fewest = getattr(strategy_entry(study.strategy.name).build, "fewest", 1)
        if len(study.skills) < fewest:
            raise ValueError(f"{study.strategy.name} needs {fewest} skills or more, got {len(study.skills)}")
        assert isinstance(study.vary, BirthOptions)
        learn = study.vary.learn
        if getattr(strategy_entry(study.strategy.name).build, "trains", False) and (learn is None or not learn.inherit):
            raise ValueError(
                f"{study.strategy.name} trains its models, so `vary` needs `learn: {{steps: N}}` with `inherit: true`"
            )

    @classmethod
    def forked(cls, study: Study, run: FinishedRun) -> Study:
        # A winner is a model, whatever made it: it becomes one more skill.
        name, winner = f"winner-of-{run.folder.resolve().name}", (run.folder / WINNER_FOLDER).resolve()
        if not winner.is_dir() or name in {skill.name for skill in study.skills}:
            return study
        return study.with_skill(name, str(winner))

    @property
    def child_bytes(self) -> int:
        """Bytes of one child, in memory and on the disk."""
        return self._founders.nbytes

    @property
    def child_numbers(self) -> int:
        """Entries of one child."""
        return sum(info.numel for info in self._founders.infos.values())

    def begin(self) -> Breeder[Any]:
        study = self.study
        return make_breeder(
            study.strategy.name,
            [skill.name for skill in study.skills],
            [task.name for task in self._found.tasks],
            seed=study.seed,
            options=study.strategy.options,
            where=f"{self.where}:strategy",
        )

    def genome(self, one: Birth, /) -> dict[str, Any]:
        return one.to_genome()

    def source(self, candidate: Candidate) -> Weights:
        # A guess has a name that no birth can refer to, and may differ from one end of the search to the next.
        name = candidate.name if candidate.index >= 0 else f"guess-{candidate.id[:12]}"
        return self.offspring.child(name, Birth.from_genome(candidate.genome))

    def template(self) -> Weights:
        return next(iter(self._founders.models.values()), self._founders.base)

    def write(self, candidate: Candidate, folder: Path, sections: Mapping[str, str], *, overwrite: bool = True) -> None:
        from genepool.weights.writer import write_checkpoint

        pedigree = json.dumps(self.record(candidate), indent=2, allow_nan=False) + "\n"
        files = {"README.md": self.card(candidate, sections), "pedigree.json": pedigree}
        write_checkpoint(self.source(candidate), folder, overwrite=overwrite, extra_files=files)

    def card(self, candidate: Candidate, sections: Mapping[str, str]) -> str:
        base = self._founders.base
        front = [f"base_model: {base.folder.name}"] if base.folder is not None else []
        lines = [
            "---",
            *front,
            "library_name: transformers",
            "tags:",
            "- genepool",
            "- merge",
            "---",
            "",
            "# Bred model",
        ]
        ancestors = ", ".join(self._founders.models)
        lines += ["", f"Bred by genepool from {ancestors}; `pedigree.json` holds every birth on the way.", ""]
        for title, text in sections.items():
            lines += [f"## {title}", "", text, ""]
        return "\n".join(lines)

    def record(self, candidate: Candidate) -> dict[str, Any]:
        """Every birth on the way to the candidate, by name; founders are what is left."""
        return {"pedigree": self.ancestors(candidate)}

    def held(self, room: float) -> Held:
        children = min(MEMORY, 64 * self.child_bytes)
        if getattr(strategy_entry(self.study.strategy.name).build, "spectral", False):
            # Of a square matrix, two of its size; every task has an expert.
            experts = min(len(self._found.tasks), len(self.study.skills))
            children += min(SPECTRA, experts * 2 * 4 * self.child_numbers)
        if self._learn is not None:
            # What is trained in float32, its gradient and AdamW's two moments.
            children += 4 * self.child_numbers * 4
        return Held(children=children)

    def ancestors(self, candidate: Candidate) -> dict[str, Any]:
        births: dict[str, Any] = {candidate.name: candidate.genome}
        waiting = list(candidate.genome["parents"])
        while waiting:
            name = waiting.pop()
            if name not in births and name not in self._founders.models:
                births[name] = self._birth(name).to_genome()
                waiting += births[name]["parents"]
        return dict(sorted(births.items(), key=lambda pair: _age(pair[0])))

    def tell_ancestors(self, genomes: Mapping[str, Mapping[str, Any]]) -> None:
        self._told.update({name: Birth.from_genome(genome) for name, genome in genomes.items()})

    def lend(self, model: Model) -> None:
        # One model is enough: a child is put into it to learn, and again to be judged.
        if self.offspring.learner is not None:
            self.offspring.learner.use(model)

    def keep_only(self, names: Collection[str], writing: bool) -> None:
        self.offspring.keep_only(names, writing=writing)

    def _open_founders(self) -> dict[str, Weights]:
        """Founders by name; a name that reads like a child's is refused."""
        for skill in self.study.skills:
            if re.fullmatch(r"-?\d+\.-?\d+", skill.name):
                raise InputError(
                    f"the skill name '{skill.name}' reads like the name of a child",
                    where=f"{self.where}:skills",
                    fix="Give it a `name` that has a letter",
                )
        return {skill.name: self._found.skills[skill.model] for skill in self.study.skills}

    def _learner(self) -> Learner | None:
        study = self.study
        if self._learn is None:
            return None
        return Learner(
            self._founders,
            self._found.tasks,
            study.tasks.weights,
            self._learn,
            seed=study.seed,
            threads=study.threads,
            compute=study.compute,
            device=self._found.device,
        )

    def _birth(self, name: str) -> Birth:
        if name in self._told:
            return self._told[name]
        if self._found.out is None:
            raise KeyError(name)
        with StudyStore(self._found.out / STORE_FILE) as store:
            candidate = store.candidate(name)
        if candidate is None:
            raise KeyError(name)
        return Birth.from_genome(candidate.genome)


def _age(name: str) -> tuple[int, int]:
    generation, _, index = name.partition(".")
    return int(generation), int(index)
