"""What a study varies, and how a candidate becomes a model: merge recipes, births of models, singular values.

A ground turns what a strategy asks for into a genome, a genome into lazy `Weights`, and the winner into a folder. Uses
weights and merging; the driver and every worker hold one.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.evolution.breeding import Family, Learner, Stock
from genepool.evolution.candidates import Candidate
from genepool.evolution.genome import Space
from genepool.evolution.store import StudyStore
from genepool.evolution.strategies.base import Birth

if TYPE_CHECKING:
    import numpy as np

    from genepool.merging import Plan, Recipe
    from genepool.weights import Weights

STORE_FILE, POPULATION_FOLDER = "study.sqlite", "population"


class Ground(ABC):
    """See the module."""

    @abstractmethod
    def genome(self, one: Any, /) -> dict[str, Any]:
        """The genome of a point or a birth, as plain data."""

    @abstractmethod
    def weights(self, candidate: Candidate) -> Weights:
        """The candidate's model, computed as it is read."""

    @abstractmethod
    def model(self) -> Weights:
        """Some model of the architecture that every candidate has."""

    @abstractmethod
    def write(self, candidate: Candidate, folder: Path, sections: Mapping[str, str]) -> None:
        """Writes a candidate as a checkpoint with a card that has these sections, replacing what is there."""

    @abstractmethod
    def card(self, candidate: Candidate, sections: Mapping[str, str]) -> str:
        """The model card of a candidate."""

    @abstractmethod
    def record(self, candidate: Candidate) -> dict[str, Any]:
        """What `best.json` says beyond the genome on how to make the candidate again."""

    def code(self) -> str:
        """Digest of a method from outside the package; empty where there is none."""
        return ""

    def keep_only(self, names: Collection[str], writing: bool) -> None:  # noqa: B027 - most keep nothing
        """Lets go of children that are not among `names`; `writing` says that others are being written."""


class MergeGround(Ground):
    """Merge parameters: a genome is a recipe.

    Args:
        space: the genes.
        plan: the merge at the start point; every candidate is planned like it.
        where: the study file, for errors.
    """

    def __init__(self, space: Space, plan: Plan, where: str) -> None:
        self.space, self.plan, self._where = space, plan, where

    @property
    def start(self) -> np.ndarray:
        """Where the search begins, shape (d,), in the unit cube."""
        return self.space.start

    def genome(self, one: np.ndarray, /) -> dict[str, Any]:
        return self.space.genome(one)

    def plan_of(self, candidate: Candidate) -> Plan:
        """The merge of one candidate, from the models already open."""
        from genepool.merging import plan_merge

        recipe = parsed(self.space, candidate.genome, candidate.seed, self._where)
        return plan_merge(recipe, self.plan.sources, like=self.plan)

    def weights(self, candidate: Candidate) -> Weights:
        return self.plan_of(candidate).weights()

    def model(self) -> Weights:
        # From the merge, not from the base: a skill may bring a head of its own where the base ties it.
        return self.plan.weights()

    def write(self, candidate: Candidate, folder: Path, sections: Mapping[str, str]) -> None:
        from genepool.merging import run_plan

        run_plan(self.plan_of(candidate), folder, overwrite=True, sections=dict(sections))

    def card(self, candidate: Candidate, sections: Mapping[str, str]) -> str:
        from genepool.merging.card import model_card

        return model_card(self.plan_of(candidate), dict(sections))

    def record(self, candidate: Candidate) -> dict[str, Any]:
        return {"recipe": self.plan_of(candidate).recipe.to_dict()}

    def code(self) -> str:
        return self.plan.method.code or ""


def parsed(space: Space, genome: Mapping[str, float], seed: int, where: str) -> Recipe:
    """A genome as a checked recipe."""
    from genepool.merging import parse_recipe

    return parse_recipe(space.recipe(genome, seed), where=where)


class BreedingGround(Ground):
    """Models: a genome is a birth.

    Args:
        stock: the founders.
        out: the study's folder, where children and the record of births are; None before a run has one.
        learner: what teaches children before they are judged.
    """

    def __init__(self, stock: Stock, out: Path | None, learner: Learner | None = None) -> None:
        self._stock, self._out = stock, out
        self._told: dict[str, Birth] = {}
        folder = None if out is None else out / POPULATION_FOLDER
        self.family = Family(stock, self._birth, folder, learner=learner)

    @property
    def child_bytes(self) -> int:
        """Bytes of one child, in memory and on the disk."""
        return self._stock.nbytes

    @property
    def child_numbers(self) -> int:
        """Entries of one child."""
        return sum(info.numel for info in self._stock.infos.values())

    def genome(self, one: Birth, /) -> dict[str, Any]:
        return one.to_genome()

    def weights(self, candidate: Candidate) -> Weights:
        # A guess has a name that no birth can refer to, and may differ from one end of the search to the next.
        name = candidate.name if candidate.index >= 0 else f"guess-{candidate.id[:12]}"
        return self.family.child(name, Birth.from_genome(candidate.genome))

    def model(self) -> Weights:
        return next(iter(self._stock.founders.values()), self._stock.base)

    def write(self, candidate: Candidate, folder: Path, sections: Mapping[str, str]) -> None:
        from genepool.weights.writer import write_checkpoint

        pedigree = json.dumps(self.record(candidate), indent=2, allow_nan=False) + "\n"
        files = {"README.md": self.card(candidate, sections), "pedigree.json": pedigree}
        write_checkpoint(self.weights(candidate), folder, overwrite=True, extra_files=files)

    def card(self, candidate: Candidate, sections: Mapping[str, str]) -> str:
        base = self._stock.base
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
        ancestors = ", ".join(self._stock.founders)
        lines += ["", f"Bred by genepool from {ancestors}; `pedigree.json` holds every birth on the way.", ""]
        for title, text in sections.items():
            lines += [f"## {title}", "", text, ""]
        return "\n".join(lines)

    def record(self, candidate: Candidate) -> dict[str, Any]:
        """Every birth on the way to the candidate, by name; founders are what is left."""
        births: dict[str, Any] = {candidate.name: candidate.genome}
        waiting = list(candidate.genome["parents"])
        while waiting:
            name = waiting.pop()
            if name not in births and name not in self._stock.founders:
                births[name] = self._birth(name).to_genome()
                waiting += births[name]["parents"]
        return {"pedigree": dict(sorted(births.items(), key=lambda pair: _age(pair[0])))}

    def keep_only(self, names: Collection[str], writing: bool) -> None:
        self.family.keep_only(names, writing=writing)

    def tell_births(self, births: Mapping[str, Mapping[str, Any]]) -> None:
        """Births by name, for a worker that cannot read the study's record."""
        self._told.update({name: Birth.from_genome(genome) for name, genome in births.items()})

    def _birth(self, name: str) -> Birth:
        if name in self._told:
            return self._told[name]
        if self._out is None:
            raise KeyError(name)
        with StudyStore(self._out / STORE_FILE) as store:
            candidate = store.candidate(name)
        if candidate is None:
            raise KeyError(name)
        return Birth.from_genome(candidate.genome)


def _age(name: str) -> tuple[int, int]:
    generation, _, index = name.partition(".")
    return int(generation), int(index)


def founders_of(sources: Mapping[str, Weights], names: Mapping[str, str], where: str) -> dict[str, Weights]:
    """Founders by name; a name that reads like a child's is refused.

    Args:
        sources: opened models by model string.
        names: founder's name -> its model string.
        where: the study file, for errors.
    """
    for name in names:
        if re.fullmatch(r"-?\d+\.-?\d+", name):
            raise InputError(f"a skill called '{name}'", where=f"{where}:skills", fix="Give it a `name` with a letter")
    return {name: sources[model] for name, model in names.items()}
