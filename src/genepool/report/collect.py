"""From study folders to a page: outcomes from the ledger, searches from the histories, recipes, cost and lineage.

One study is the subject; others may stand beside it, and so may models that were not searched. Uses evolve's and
tasks' files through the report's own rooms; the command line and the demo call `collect_study`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import yaml

from genepool.errors import InputError, listed, nearest
from genepool.report import outcomes, recorded, trade_offs
from genepool.report.data import (
    Ability,
    Estimate,
    Finalist,
    Kind,
    ModelRow,
    Origin,
    RecipePicture,
    ReferenceLine,
    ReportData,
    Scatter,
    SearchRun,
)
from genepool.report.gathered import gathering
from genepool.report.study_folder import StudyFolder, open_study_folder
from genepool.report.text import percent
from genepool.tasks import OutcomeTable, Task

_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
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


def collect_study(
    folder: str | Path,
    *,
    beside: Sequence[str | Path] = (),
    extra_models: Sequence[ExtraModel] = (),
    ledger: str | Path | None = None,
    groups: Mapping[str, str] | None = None,
    best_merge: str = "",
    title: str = "",
    summary: str = "",
    commands: Sequence[str] = (),
    trusted: Collection[str | Path] = (),
) -> ReportData:
    """Everything a page shows about a study, finished or not.

    Args:
        folder: the study the page is about.
        beside: folders of further studies on the same tasks (random search at an equal budget).
        extra_models: models to show with them (static merges, adapters).
        ledger: where outcomes are; the one the study recorded, else the default, when None.
        groups: group of every task; "skills" for tasks named like a skill and "generic" for others when None.
        best_merge: name of the extra model that was chosen on validation as the best static merge. When empty, the
            one with the highest fitness on all validation examples, on those the study used, or on test: the first of
            these that the ledger holds for all static merges.
        title, summary: replace the words made from the study.
        commands: replace the command lines made from the study.
        trusted: files of tasks that may run code; without it the page shows recorded means alone.

    Raises:
        InputError: a folder is no study, a file of it is damaged, or its tasks are gone.
    """
    study = open_study_folder(folder)
    others = [open_study_folder(path) for path in beside]
    return _Collection(study, others, list(extra_models), _ledger(study, ledger), groups, best_merge, trusted).report(
        title, summary, tuple(commands)
    )


class _Collection:
    """Studies and models by the names the page gives them, and the outcomes found for them."""

    def __init__(
        self,
        study: StudyFolder,
        others: Sequence[StudyFolder],
        extras: Sequence[ExtraModel],
        ledger: Path,
        groups: Mapping[str, str] | None,
        best_merge: str,
        trusted: Collection[str | Path],
    ) -> None:
        self.study, self.ledger, self._named_merge = study.study, ledger, best_merge
        self.folders = dict(zip(_search_names([study, *others]), [study, *others], strict=True))
        self.subject = next(iter(self.folders))
        self.extras = {extra.name: extra for extra in extras}
        if len(self.extras) < len(extras) or self.extras.keys() & {*self.folders, "base", *self._skills}:
            raise InputError("two models of the page have one name", fix="Give every extra model a name of its own")
        if best_merge and best_merge not in self.extras:
            raise InputError(f"no extra model '{best_merge}'", where="best_merge", fix=nearest(best_merge, self.extras))
        self._troubles: list[str] = []
        self.tasks = self._tasks(trusted)
        self.origins = self._origins()
        self.kinds: dict[str, Kind] = {origin.name: origin.kind for origin in self.origins}
        prints = {origin.name: origin.fingerprint for origin in self.origins if origin.fingerprint}
        self.test = self._table("test", self.study.tasks.test, prints)
        self.groups = self._groups(groups)
        leaders = {
            name: str(folder.leader["fingerprint"])
            for name, folder in self.folders.items()
            if folder.leader is not None and folder.leader.get("fingerprint")
        }
        merges = {name: extra.fingerprint for name, extra in self.extras.items()}
        self.valid = self._table("valid", self.study.tasks.valid, {**merges, **leaders})

    @property
    def _skills(self) -> list[str]:
        return [skill.name for skill in self.study.skills]

    def report(self, title: str, summary: str, commands: tuple[str, ...]) -> ReportData:
        merge, how = self._best_merge()
        finished = all(folder.best is not None for folder in self.folders.values())
        tested = self.subject in self.test.models
        rivals = [name for name in (*self._skills, merge, *self.folders, "base") if name != self.subject]
        rivals = [name for name in rivals if name in self.test.models]
        return ReportData(
            title or f"{_word(len(self._skills)).capitalize()} skills in one model",
            summary or self._summary(),
            notices=tuple(self._notices()),
            subject=self.subject,
            standings=outcomes.standings(self.test, self.subject, self._roles(merge), self.groups) if tested else (),
            standings_note=f"The best specialist is the one with the highest test score of that group.{how}",
            abilities=self._abilities(),
            models=tuple(self._rows(merge)),
            searches=tuple(
                SearchRun(name, folder.evaluations(), self._fitness(name), self._finalists(folder))
                for name, folder in self.folders.items()
            ),
            references=self._references(merge),
            scatters=tuple(self._scatters()),
            gatherings=tuple(filter(None, (gathering(name, folder) for name, folder in self.folders.items()))),
            recipes=tuple(self._recipes(merge)),
            comparisons=outcomes.comparisons(self.test, self.subject, rivals, self.kinds, self.groups)
            if tested
            else (),
            costs=tuple(folder.cost(name) for name, folder in self.folders.items() if folder.history),
            lineage=tuple(self.origins),
            commands=commands or tuple(_command(folder) for folder in self.folders.values()),
            facts=tuple(self._facts()),
            finished=finished,
        )

    # -- models -------------------------------------------------------------------------------------------------

    def _origins(self) -> list[Origin]:
        first = self.folders[self.subject]
        found = [Origin("base", "base", self._place(self.study.base), first.inputs.get("base", ""))]
        found += [
            Origin(skill.name, "parent", self._place(skill.model), first.inputs.get(skill.name, ""))
            for skill in self.study.skills
        ]
        found += [Origin(e.name, e.kind, e.source, e.fingerprint) for e in self.extras.values()]
        for name, folder in reversed(self.folders.items()):
            kind: Kind = "random" if folder.study.strategy.name == "random_search" else "winner"
            best = folder.best or {}
            found.append(Origin(name, kind, str(folder.path / "winner") if best else "", best.get("fingerprint", "")))
        return found

    def _rows(self, merge: str) -> list[ModelRow]:
        rows = []
        for name, kind in self.kinds.items():
            # Where the ledger is gone the study's own record still tells the means, though no differences.
            told = self.folders[name].tested("winner") if name in self.folders else {}
            told = told or self.folders[self.subject].tested(name)
            if name in self.test.models:
                note = "the best static merge" if name == merge and len(self.extras) > 1 else ""
                rows.append(outcomes.model_row(self.test, name, kind, self.groups, note=note))
            elif told:
                rows.append(ModelRow(name, kind, told))
            elif name in self.extras:
                rows.append(ModelRow(name, kind, {}, note="no test outcomes in the ledger"))
        return rows

    def _abilities(self) -> tuple[Ability, ...]:
        if self.test.models:
            return outcomes.abilities(self.test, self.groups)
        told = self.folders[self.subject].tested("winner")
        found = [Ability(name, self.groups[name], score.n) for name, score in told.items()]
        return tuple(sorted(found, key=lambda ability: list(self.groups.values()).index(ability.group)))

    def _roles(self, merge: str) -> list[tuple[str, list[str]]]:
        have = set(self.test.models)
        parents = [name for name, kind in self.kinds.items() if kind == "parent" and name in have]
        roles = [("best specialist", parents)]
        if merge in have:
            roles.append(("best static merge", [merge]))
        roles += [
            ("equal budget" if self._same_budget(name) else "another search", [name])
            for name in self.folders
            if name != self.subject and name in have
        ]
        return roles

    def _same_budget(self, name: str) -> bool:
        return len(self.folders[name].history) == len(self.folders[self.subject].history)

    def _best_merge(self) -> tuple[str, str]:
        """The static merge to hold the subject against, and how it was chosen, as a sentence."""
        merges = [name for name, extra in self.extras.items() if extra.kind == "merge" and name in self.test.models]
        if not merges:
            return "", ""
        if self._named_merge in merges:
            return self._named_merge, f" {_CHOSEN}"
        # All validation examples decide where all merges were asked them, else those that the search used.
        prints = {name: self.extras[name].fingerprint for name in merges}
        for table in (self._table("valid", None, prints), self.valid):
            if all(name in table.models for name in merges):
                best = max(merges, key=lambda name: recorded.fitness_value(table, name, self.study))
                return best, f" {_CHOSEN}"
        best = max(merges, key=lambda name: recorded.fitness_value(self.test, name, self.study))
        return best, " The best static merge is the one that did best on test, which favours it."

    # -- searches and recipes -----------------------------------------------------------------------------------

    def _fitness(self, name: str) -> Estimate | None:
        return recorded.fitness_estimate(self.valid, name, self.study) if name in self.valid.models else None

    def _finalists(self, folder: StudyFolder) -> tuple[Finalist, ...]:
        told = folder.finalists
        prints = {name: line["fingerprint"] for name, line in told if line["fingerprint"]}
        whole = self._table("valid", None, prints)
        return tuple(
            Finalist(
                name,
                line["searched"],
                recorded.fitness_estimate(whole, name, self.study)
                if name in whole.models
                else Estimate(line["fitness"]),
            )
            for name, line in told
        )

    def _references(self, merge: str) -> tuple[ReferenceLine, ...]:
        score = self._fitness(merge)
        return (ReferenceLine("best static merge", score, merge),) if score is not None else ()

    def _recipes(self, merge: str) -> list[RecipePicture]:
        pictures = []
        for name, folder in self.folders.items():
            genes, spread_of = folder.genes()
            recipe = (folder.best or {}).get("recipe")
            text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=110) if recipe else ""
            if genes or text:
                label = name if folder.best is not None else f"{name}, best so far"
                pictures.append(RecipePicture(label, folder.study.how, genes, text, spread_of))
        extra = self.extras.get(merge)
        if extra is not None and extra.recipe:
            pictures.append(RecipePicture(merge, extra.method, text=extra.recipe))
        return pictures

    def _scatters(self) -> Iterator[Scatter]:
        parents, limit = ["base", *self._skills], self.study.tasks.valid
        for found in (
            trade_offs.searched_trade_off(
                self.folders, self.origins, parents, self.study, lambda prints: self._table("valid", limit, prints)
            ),
            trade_offs.tested_trade_off(self.test, self.study, self.kinds, list(self.folders), parents),
        ):
            if found is not None:
                yield found

    # -- words --------------------------------------------------------------------------------------------------

    def _summary(self) -> str:
        first = self.folders[self.subject]
        sentence = f"{first.strategy} tried {len(first.history):,} " + self.study.vary.tried(listed(self._skills))
        if self.tasks:
            examples = max(len(task.examples("valid")[: self.study.tasks.valid]) for task in self.tasks)
            each = f"each of {_word(len(self.tasks))} tasks" if len(self.tasks) > 1 else self.tasks[0].name
            sentence += f", scored on {examples:,} validation examples of {each}"
        if first.finalists:
            sentence += f"; the best {_word(len(first.finalists))} were judged again on every validation example"
        if first.best is not None and self.subject in self.test.models:
            count = len(self.test.examples(self.test.tasks[0]))
            sentence += f"; the winner was written, read back and tested once on {count:,} unseen examples of each"
        curse = (first.best or {}).get("curse", {})
        if "searched" in curse:
            said = [f"{percent(curse['searched'])}% in the search"]
            if "fresh" in curse:
                said.append(f"{percent(curse['fresh'])}% on validation examples it was not chosen by")
            sentence += f". Its mean: {', '.join(said)}, {percent(curse['test'])}% on test"
        vote = (first.best or {}).get("ensemble", {})
        if vote.get("test"):
            mean = sum(score["mean"] for score in vote["test"].values()) / len(vote["test"])
            together = f"The best {_word(len(vote['members']))} answering together, by majority vote"
            sentence += f". {together}: {percent(mean)}% on test"
        equal = [name for name in self.folders if name != self.subject and self._same_budget(name)]
        if equal:
            verb = "stands" if len(equal) == 1 else "stand"
            sentence += f". {_capital(listed(equal))} {verb} beside it at an equal budget"
        return sentence + "."

    def _notices(self) -> list[str]:
        found = list(self._troubles)
        for name, folder in self.folders.items():
            if folder.best is None:
                budget = folder.study.budget.evaluations
                of = f" of {budget:,}" if budget is not None else ""
                found.append(
                    f"The study {folder.path.name} ({name}) is unfinished: {len(folder.history):,}{of} evaluations are "
                    f"done, and nothing has been tested yet. To go on: {_command(folder)}"
                )
            elif name not in self.test.models and self.tasks:
                found.append(
                    f"The ledger {self.ledger} does not hold the test outcomes of {name}, so nothing is compared "
                    "example by example. Name the right one with --ledger."
                )
        return found

    def _facts(self) -> list[tuple[str, str]]:
        study = self.study
        per_task = {
            split: "all" if limit is None else f"{limit:,} per task"
            for split, limit in (("valid", study.tasks.valid), ("test", study.tasks.test))
        }
        return [
            ("method", study.how),
            ("seed", str(study.seed)),
            ("tasks", f"{self._place(study.tasks.dir)} ({listed(list(self.groups))})"),
            ("validation examples", per_task["valid"]),
            ("test examples", per_task["test"]),
            ("ledger", self._place(str(self.ledger))),
            ("genepool", version("genepool")),
        ]

    def _place(self, model: str) -> str:
        """A path as seen from the folder the study lies in; what is not below it stays as it is."""
        home = f"{self.folders[self.subject].path.resolve().parent}{os.sep}"
        return "+".join(part.removeprefix(home) for part in model.split("+"))

    def _tasks(self, trusted: Collection[str | Path]) -> list[Task]:
        try:
            found = recorded.study_tasks(self.study, trusted)
        except InputError as error:
            self._troubles.append(f"The study's tasks cannot be read, so only recorded means are shown. {error}")
            return []
        # Abilities in the order of the specialists put every specialist's own ability on the diagonal.
        order = {name: place for place, name in enumerate(self._skills)}
        return sorted(found, key=lambda task: order.get(task.name, len(order)))

    def _table(self, split: str, limit: int | None, prints: Mapping[str, str]) -> OutcomeTable:
        return recorded.recorded(self.ledger, self.tasks, split, limit, prints)

    def _groups(self, given: Mapping[str, str] | None) -> dict[str, str]:
        names = [task.name for task in self.tasks] or list(self.folders[self.subject].tested("winner"))
        if given is not None:
            missing = [name for name in names if name not in given]
            if missing:
                raise InputError(f"no group is given for the task '{missing[0]}'", fix="Name one for every task")
            return {name: given[name] for name in names}
        if not set(names) & set(self._skills):
            return dict.fromkeys(names, "abilities")
        return {name: "skills" if name in self._skills else "generic" for name in names}


def _ledger(study: StudyFolder, given: str | Path | None) -> Path:
    return Path(given or (study.best or {}).get("ledger") or os.environ.get("GENEPOOL_LEDGER") or "genepool.sqlite")


def _search_names(folders: Sequence[StudyFolder]) -> list[str]:
    """The strategy of each, with the folder's name where two would be called the same."""
    names = [folder.strategy for folder in folders]
    named = [f"{n} ({f.path.name})" if names.count(n) > 1 else n for n, f in zip(names, folders, strict=True)]
    return [name if named.count(name) == 1 else f"{name} {i}" for i, name in enumerate(named, start=1)]


def _command(folder: StudyFolder) -> str:
    return f"genepool evolve {folder.path / 'study.yaml'} --out {folder.path}"


def _word(count: int) -> str:
    return _WORDS[count] if count < len(_WORDS) else f"{count:,}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
