"""DataEnvGym: a policy looks at what the model gets wrong, has data made for it, and looks again after some steps."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from genepool.errors import InputError
from genepool.schema import Strict
from genepool.training.generating import GeneratingSampler, MakingOptions, RoundMaking, Wanted, skills_of
from genepool.training.makers import A_NAME, Maker, TemplateMaker, WriterMaker


class DataEnvGymOptions(MakingOptions):
    """Options of DataEnvGym."""

    every: int | None = Field(
        default=50, ge=1, le=10**7, description="Steps between two rounds (ours: 50); null: one, before the first step."
    )
    environment: Literal["open_ended", "skill_list", "skill_tree"] = Field(
        default="skill_list",
        description="What the policy sees and decides. open_ended: failed examples, more like them; skill_list: scores "
        "by skill, data for each skill that is failed; skill_tree: skills with subskills, which are opened and filled.",
    )
    policy: Literal["fill", "errors", "open"] = Field(
        default="fill",
        description="How a skill_tree is filled: fill gives every subskill equally much, up to `most` (authors' code); "
        "errors gives more to those whose examples the model failed before it learned from them (ours); open only "
        "opens further subskills, in every round and as many as there are.",
    )
    each: int = Field(
        default=25,
        ge=1,
        le=10**5,
        description="Examples of a round, for every skill that is failed; for open_ended of them all (authors: 25).",
    )
    new: int = Field(default=2, ge=1, le=1000, description="Subskills that are opened in a round (authors: 2).")
    allocation: int = Field(default=30, ge=1, le=10**5, description="Examples of a subskill in a round (authors: 30).")
    subskills: int = Field(default=4, ge=1, le=1000, description="Subskills of a skill, at most (ours).")
    most: int = Field(default=200, ge=1, le=10**6, description="Examples of a subskill in all, at most (authors: 200).")
    open_ask: str = Field(
        default="{examples}\n\nThese problems need this skill: {skill}. Parts of it that are known: {known}.\nName "
        "{count} further parts of this skill, one in a line.\nParts:\n",
        description="What asks the writer for subskills of a skill_tree, with {skill}, {known}, {examples}, {count}.",
    )

    @field_validator("open_ask")
    @classmethod
    def _shows_skill(cls, value: str) -> str:
        if missing := next((name for name in ("{skill}", "{known}") if name not in value), None):
            # Without those it knows, the writer names the same ones again.
            raise ValueError(f"`open_ask` must contain {missing}")
        return value


class DataEnvGym(GeneratingSampler):
    """Rounds of: report on the validation examples, plan, make, train on all that was made so far.

    A skill is a tag. Over templates, the subskills of a skill are its combinations with the other skills of a
    template's mix, and the parts of the ranges that the variables of its templates are drawn from. A writer names them
    itself, as in the authors' code: it is shown those that it named before, and a name that it repeats opens nothing.
    A policy explores, by opening subskills that were not seen yet, until a skill has `subskills` of them or there are
    no more; then it exploits. The budget is that of all rounds together, where the authors' code looks at the last one.
    """

    name = "dataenvgym"
    source = "Khan et al., DataEnvGym (arXiv:2410.06215); counts and the policy fill as in the authors' code"
    when = "Templates, or a writer, can make as much data as wanted, and the question is which."
    Options: ClassVar[type[Strict]] = DataEnvGymOptions
    options: DataEnvGymOptions

    @property
    def attempts(self) -> bool:
        return self.options.environment == "skill_tree"

    def plan(self, making: RoundMaking) -> list[Wanted]:
        if self.options.environment == "open_ended":
            found = self._open_ended(making)
        elif self.options.environment == "skill_list":
            found = self._skill_list(making)
        else:
            found = self._skill_tree(making)
        # What there is no room for shall not be always of the same skills.
        order = making.generator("order").permutation(len(found)).tolist()
        return [found[at] for at in order]

    def _open_ended(self, making: RoundMaking) -> list[Wanted]:
        """Examples of the skills of failed ones, drawn among these."""
        places = self.errors(making)
        if not places:
            return []
        drawn = making.generator("errors").choice(len(places), self.options.each)
        found = []
        for at in drawn.tolist():
            lesson = making.seen.lessons[places[at]]
            # The writer is shown the training examples that need the same: what is failed is a validation example.
            found.append(Wanted(skills_of(lesson), lesson.task.name, exact=True, said={"failed": lesson.example.key}))
        return found

    def _skill_list(self, making: RoundMaking) -> list[Wanted]:
        failed = {skill for place in self.errors(making) for skill in skills_of(making.seen.lessons[place])}
        making.counts["allocation"] = dict.fromkeys(sorted(failed), self.options.each)
        return [Wanted((skill,)) for skill in sorted(failed) for _ in range(self.options.each)]

    # ------------------------------------------------------------------ the tree

    def _skill_tree(self, making: RoundMaking) -> list[Wanted]:
        maker = making.maker
        assert maker is not None
        scores = making.seen.by_skill
        try:
            before, given = self._before(), {skill: self._given(skill) for skill in maker.skills}
        except (AttributeError, TypeError, ValueError):
            raise InputError(
                "its rounds on record are not those of a skill_tree",
                where="run.sqlite:rounds",
                fix="Start again with --overwrite",
            ) from None
        rooms = {skill: self._room(len(own)) for skill, own in given.items()}
        opened = self._opened(maker, {skill: room for skill, room in rooms.items() if room}, given, making)
        actions: dict[str, Any] = {}
        found: list[Wanted] = []
        for skill, own in given.items():
            action, allocation = self._action(opened.get(skill, []), own)
            reward = scores[skill][0] - before[skill] if skill in scores and skill in before else None
            actions[skill] = {"action": action, "allocation": allocation, "reward": reward}
            possible = maker.subskills(skill) if isinstance(maker, TemplateMaker) else {}
            for subskill, count in allocation.items():
                said = {"skill": skill, "subskill": subskill}
                one = possible.get(subskill) or Wanted((skill,), called=f"{skill}, and of it: {subskill}")
                found += [replace(one, said=said)] * count
        making.counts["actions"] = actions
        return found

    def _room(self, known: int) -> int:
        """How many subskills of a skill may be opened in a round.

        Args:
            known: that were opened before.
        """
        ask = self.options
        return ask.new if ask.policy == "open" else min(ask.new, max(0, ask.subskills - known))

    def _opened(
        self, maker: Maker, rooms: Mapping[str, int], given: Mapping[str, Collection[str]], making: RoundMaking
    ) -> dict[str, list[str]]:
        """The subskills that are opened of each skill, at most as many as there is room for; perhaps none."""
        if isinstance(maker, WriterMaker):
            return self._named(maker, rooms, given, making)
        assert isinstance(maker, TemplateMaker)
        found = {}
        for skill, room in rooms.items():
            unseen = [one for one in maker.subskills(skill) if one not in given[skill]]
            order = making.generator("explore", skill).permutation(len(unseen))
            found[skill] = [unseen[int(at)] for at in order[:room]]
        return found

    def _named(
        self, maker: WriterMaker, rooms: Mapping[str, int], given: Mapping[str, Collection[str]], making: RoundMaking
    ) -> dict[str, list[str]]:
        """Subskills that the writer names, as far as its tokens allow; what it knows already opens nothing."""
        asked: list[str] = []
        skills: list[str] = []
        left = making.tokens
        for skill, room in rooms.items():
            if (left := left - A_NAME * self.options.new) < 0:
                making.count("unnamed", room)
                continue
            pool = maker.known.get(skill, [])
            order = making.generator("shown", skill).permutation(len(pool))[: self.options.shown]
            ask = self.options.open_ask.replace("{examples}", "\n\n".join(pool[int(at)].example.prompt for at in order))
            ask = ask.replace("{count}", str(room)).replace("{known}", ", ".join(given[skill]) or "none")
            asked.append(ask.replace("{skill}", skill))
            skills.append(skill)
        if not asked:
            return {}
        found = {}
        for skill, names in zip(skills, maker.named_in(asked, self.options.new, making, "subskills"), strict=True):
            known = {one.casefold() for one in given[skill]}
            found[skill] = [name for name in names if name.casefold() not in known][: rooms[skill]]
            if short := rooms[skill] - len(found[skill]):
                making.count("unnamed", short)
        return found

    def _before(self) -> dict[str, float]:
        """The score of each skill in the last report."""
        told: dict[str, Any] = next((one.told["report"] for one in reversed(self.rounds) if "report" in one.told), {})
        return {skill: float(mean) for skill, (mean, _) in told.items()}

    def _given(self, skill: str) -> dict[str, list[float]]:
        """The subskills that were opened, each with the attempts at its examples, in the order in which they came."""
        found: dict[str, list[float]] = {}
        for one in self.rounds:
            for subskill in one.told.get("actions", {}).get(skill, {}).get("allocation", {}):
                found.setdefault(subskill, [])
            for example in one.examples:
                if example.made.get("skill") == skill and example.made.get("subskill") in found:
                    found[str(example.made["subskill"])].append(float(example.made.get("attempt", 0.0)))
        return found

    def _action(self, opened: list[str], given: Mapping[str, list[float]]) -> tuple[str, dict[str, int]]:
        """What is done for a skill: explore or exploit, and the examples of each subskill."""
        ask = self.options
        if opened:
            return "explore", dict.fromkeys(opened, ask.allocation)
        if ask.policy == "open":
            return "explore", {}
        left = {one: max(0, ask.most - len(own)) for one, own in given.items()}
        if ask.policy == "fill" or not given:
            return "exploit", {one: min(ask.allocation, room) for one, room in left.items()}
        # Half a failure more than were seen, so that what was always solved is looked at again.
        failed = {one: (sum(1 - score for score in own) + 0.5) / (len(own) + 1) for one, own in given.items()}
        total = sum(failed.values())
        whole = ask.allocation * len(given)
        return "exploit", {one: min(left[one], round(whole * share / total)) for one, share in failed.items()}
