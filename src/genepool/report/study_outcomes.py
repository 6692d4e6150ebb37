"""A study for its page: its models by the names the page gives them, and what the ledger holds of their outcomes.

One study is the subject; others may stand beside it, and so may models that were not searched. Uses study folders and
the ledger's tables; every section collects from it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from genepool.errors import InputError, nearest
from genepool.measure import Interval
from genepool.report import ledger_tables
from genepool.report.kinds import Kind
from genepool.report.study_folder import StudyFolder
from genepool.tasks import OutcomeTable, Task

_CHOSEN = "The best static merge was chosen on validation, as the search chooses its winner."


@dataclass(frozen=True)
class ExtraModel:
    """A model to show beside a study: its outcomes are looked up in the study's ledger.

    Attributes:
        name: what the page calls it.
        fingerprint: of its weights, as `evaluate` reported it (`OutcomeTable.fingerprints`).
        kind: its group of rows.
        source: where it came from, for the lineage.
        recipe: the recipe that makes it, as YAML; shown for the best static merge.
        method: the recipe's method.
    """

    name: str
    fingerprint: str
    kind: Kind = "merge"
    source: str = ""
    recipe: str = ""
    method: str = ""


@dataclass(frozen=True)
class Origin:
    """One model of the page: where it came from and the fingerprint of its weights."""

    name: str
    kind: Kind
    source: str = ""
    fingerprint: str = ""


class StudyOutcomes:
    """What the sections of a study's page are collected from.

    Args:
        study: the study the page is about.
        beside: further studies on the same tasks.
        extras: models to show with them.
        ledger: where outcomes are; what the study recorded, else the default, when None.
        groups: group of every task; made from the skills' names when None.
        best_merge: name of the extra model that was chosen on validation as the best static merge; may be empty.
        commands: replace the command lines made from the study.
        trusted: files of tasks that may run code.

    Attributes:
        folders: the studies by the names the page gives them, the subject first.
        subject: the name of the study the page is about.
        origins, kinds: the models of the page, and the kind of each by name.
        tasks: the study's tasks; empty when they cannot be read, and then `troubles` says so.
        groups: the group of every task.
        test: outcomes on the test examples, of the models of which the ledger has all.
        valid: the same on the validation examples of the search, of static merges and of the best of each search.

    Raises:
        InputError: two models have one name, or an extra model or a group is missing.
    """

    def __init__(
        self,
        study: StudyFolder,
        beside: Sequence[StudyFolder],
        extras: Sequence[ExtraModel] = (),
        *,
        ledger: str | Path | None = None,
        groups: Mapping[str, str] | None = None,
        best_merge: str = "",
        commands: Sequence[str] = (),
        trusted: Collection[str | Path] = (),
    ) -> None:
        self.study, self.ledger, self._named_merge = study.study, _ledger(study, ledger), best_merge
        self.folders = dict(zip(_search_names([study, *beside]), [study, *beside], strict=True))
        self.subject = next(iter(self.folders))
        self.extras = {extra.name: extra for extra in extras}
        self.skills = [skill.name for skill in self.study.skills]
        names = [extra.name for extra in extras]
        taken = [name for name in names if names.count(name) > 1 or name in {*self.folders, "base", *self.skills}]
        if taken:
            raise InputError(
                f"two models of the page have the same name, {taken[0]}",
                fix="Give every extra model a name of its own",
            )
        if best_merge and best_merge not in self.extras:
            raise InputError(
                f"there is no extra model '{best_merge}'", where="best_merge", fix=nearest(best_merge, self.extras)
            )
        self.commands = tuple(commands) or tuple(evolve_command(folder) for folder in self.folders.values())
        self.troubles: list[str] = []
        self.tasks = self._tasks(trusted)
        self.origins = self._origins()
        self.kinds: dict[str, Kind] = {origin.name: origin.kind for origin in self.origins}
        prints = {origin.name: origin.fingerprint for origin in self.origins if origin.fingerprint}
        self.test = self.table("test", self.study.tasks.test, prints)
        self.groups = self._groups(groups)
        leaders = {
            name: str(folder.leader["fingerprint"])
            for name, folder in self.folders.items()
            if folder.leader is not None and folder.leader.get("fingerprint")
        }
        merges = {name: extra.fingerprint for name, extra in self.extras.items()}
        self.valid = self.table("valid", self.study.tasks.valid, {**merges, **leaders})

    @property
    def folder(self) -> StudyFolder:
        """The study the page is about."""
        return self.folders[self.subject]

    @property
    def tested(self) -> bool:
        """Whether the ledger holds the subject's test outcomes."""
        return self.subject in self.test.models

    def table(self, split: str, limit: int | None, prints: Mapping[str, str]) -> OutcomeTable:
        """What the ledger holds of models (name -> fingerprint) on the examples of a split."""
        return ledger_tables.recorded(self.ledger, self.tasks, split, limit, prints)

    def fitness(self, name: str) -> Interval | None:
        """The study's fitness of a model on the validation examples of the search; None when it is not known."""
        return ledger_tables.fitness_interval(self.valid, name, self.study) if name in self.valid.models else None

    def same_budget(self, name: str) -> bool:
        """Whether another search evaluated as many candidates as the subject's."""
        return len(self.folders[name].history) == len(self.folder.history)

    def place(self, model: str) -> str:
        """A path as seen from the folder the study lies in; what is not below it stays as it is."""
        home = f"{self.folder.path.resolve().parent}{os.sep}"
        return "+".join(part.removeprefix(home) for part in model.split("+"))

    @property
    def best_merge(self) -> str:
        """The static merge to hold the subject against; empty without one."""
        return self._best_merge[0]

    @property
    def how_chosen(self) -> str:
        """How the best static merge was chosen, as a sentence with a space before it; empty without one."""
        return self._best_merge[1]

    @cached_property
    def _best_merge(self) -> tuple[str, str]:
        merges = [name for name, extra in self.extras.items() if extra.kind == "merge" and name in self.test.models]
        if not merges:
            return "", ""
        if self._named_merge in merges:
            return self._named_merge, f" {_CHOSEN}"
        # All validation examples decide where all merges were asked them, else those that the search used.
        prints = {name: self.extras[name].fingerprint for name in merges}
        for table in (self.table("valid", None, prints), self.valid):
            if all(name in table.models for name in merges):
                best = max(merges, key=lambda name: ledger_tables.fitness_value(table, name, self.study))
                return best, f" {_CHOSEN}"
        best = max(merges, key=lambda name: ledger_tables.fitness_value(self.test, name, self.study))
        return best, " The best static merge is the one that did best on test, which favours it."

    def _origins(self) -> list[Origin]:
        inputs = self.folder.inputs
        found = [
            Origin(name, "base" if name == "base" else "parent", self.place(model), inputs.get(name, ""))
            for name, model in self.study.named_models.items()
        ]
        found += [Origin(e.name, e.kind, e.source, e.fingerprint) for e in self.extras.values()]
        for name, folder in reversed(self.folders.items()):
            kind: Kind = "random" if folder.study.strategy.name == "random_search" else "winner"
            best = folder.best or {}
            found.append(Origin(name, kind, str(folder.path / "winner") if best else "", best.get("fingerprint", "")))
        return found

    def _tasks(self, trusted: Collection[str | Path]) -> list[Task]:
        try:
            found = ledger_tables.study_tasks(self.study, trusted)
        except InputError as error:
            self.troubles.append(f"The study's tasks cannot be read, so only recorded means are shown. {error}")
            return []
        # Tasks in the order of the specialists put every specialist's own task on the diagonal.
        order = {name: place for place, name in enumerate(self.skills)}
        return sorted(found, key=lambda task: order.get(task.name, len(order)))

    def _groups(self, given: Mapping[str, str] | None) -> dict[str, str]:
        names = [task.name for task in self.tasks] or list(self.folder.tested("winner"))
        if given is not None:
            missing = [name for name in names if name not in given]
            if missing:
                raise InputError(f"no group is given for the task '{missing[0]}'", fix="Name one for every task")
            return {name: given[name] for name in names}
        if not set(names) & set(self.skills):
            return dict.fromkeys(names, "tasks")
        return {name: "skills" if name in self.skills else "generic" for name in names}


def evolve_command(folder: StudyFolder) -> str:
    """The command line that runs a study, or goes on with it."""
    return f"genepool evolve {folder.path / 'study.yaml'} --out {folder.path}"


def _ledger(study: StudyFolder, given: str | Path | None) -> Path:
    return Path(given or (study.best or {}).get("ledger") or os.environ.get("GENEPOOL_LEDGER") or "genepool.sqlite")


def _search_names(folders: Sequence[StudyFolder]) -> list[str]:
    """The strategy of each, with the folder's name where two would be called the same."""
    names = [folder.strategy for folder in folders]
    named = [f"{n} ({f.path.name})" if names.count(n) > 1 else n for n, f in zip(names, folders, strict=True)]
    return [name if named.count(name) == 1 else f"{name} {i}" for i, name in enumerate(named, start=1)]
