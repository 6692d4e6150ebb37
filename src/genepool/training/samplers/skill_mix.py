"""Skill-mix data: examples that combine k skills, drawn at random, by a template or by a model that writes."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from genepool.errors import InputError
from genepool.schema import Strict
from genepool.training.generating import GeneratingSampler, MakingOptions, RoundMaking, Wanted
from genepool.training.makers import A_NAME, WriterMaker

# Draws in a row that no task can combine before it is said that none can.
_TRIES = 1000


class SkillMixOptions(MakingOptions):
    """Options of skill-mix data."""

    examples: int = Field(
        default=4000, ge=1, le=10**6, description="Examples of all rounds together, at most (paper: 4,000 are enough)."
    )
    k: int = Field(default=2, ge=1, le=16, description="Skills that each example combines (paper: 2).")
    kinds: tuple[str, ...] = Field(
        default=(),
        description="Kinds of question, of which one is drawn for each example, and stands for {kind} in `ask`.",
    )
    name: int = Field(
        default=0, ge=0, le=1000, description="Skills that the writer names itself, from examples; 0: the tags."
    )
    name_ask: str = Field(
        default="{examples}\n\nName {count} skills that these problems need, one in a line.\nSkills:\n",
        description="What asks the writer to name skills, with {examples} and {count}.",
    )

    @field_validator("name_ask")
    @classmethod
    def _shows_examples(cls, value: str) -> str:
        if "{examples}" not in value:
            raise ValueError("`name_ask` must contain {examples}")
        return value


class SkillMixData(GeneratingSampler):
    """Draws k different skills, each set as likely as any other, and a kind of question; nothing is observed.

    Skills are the tags of examples, or what the writer names. Over templates, those of a `mix` are combined, in any
    order where the mix is shuffled; the kind of question is then that of the task.
    """

    name = "skill_mix"
    source = "Kaur et al., Instruct-SkillMix (arXiv:2408.14774): skills that a model names, k = 2, a kind of question"
    when = "Examples that need several skills at once are few, and each skill alone is known."
    needs = "nothing"
    asks = False
    Options: ClassVar[type[Strict]] = SkillMixOptions
    options: SkillMixOptions

    def check(self) -> None:
        if self.options.permuted:
            raise InputError(
                "skill_mix observes nothing, so there is nothing to shuffle",
                where="sampler_options.permuted",
                fix="Leave it out",
            )
        if self.options.name and self.options.writer is None:
            raise InputError(
                "skills are named by a writer, and there is none", where="sampler_options.name", fix="Give a writer"
            )

    def plan(self, making: RoundMaking) -> list[Wanted]:
        assert making.maker is not None
        skills = self._skills(making)
        if len(skills) < self.options.k:
            raise InputError(
                f"{self.options.k} skills are combined, and there are {len(skills)}",
                where="sampler_options.k",
                fix="Give a smaller k, or tasks with more tags",
            )
        found: list[Wanted] = []
        for number in range(self.size(making)):
            generator = making.generator("mix", number)
            for _ in range(_TRIES):
                chosen = tuple(skills[int(at)] for at in generator.permutation(len(skills))[: self.options.k])
                if making.maker.able(chosen):
                    break
            else:
                raise InputError(
                    f"no task combines {self.options.k} of {len(skills)} skills",
                    where="sampler_options.k",
                    fix="Give a task whose template mixes them, or a writer: --set sampler.writer=MODEL",
                )
            kinds = self.options.kinds
            kind = kinds[int(generator.integers(len(kinds)))] if kinds else ""
            found.append(Wanted(chosen, kind=kind, exact=True, said={"kind": kind} if kind else {}))
        return found

    def _skills(self, making: RoundMaking) -> tuple[str, ...]:
        """Those that are combined: the tags, or what the writer named in the first round."""
        maker = making.maker
        if not self.options.name or not isinstance(maker, WriterMaker):
            return maker.skills if maker is not None else ()
        known = self.rounds[0].told.get("skills", []) if self.rounds else self._named(maker, making)
        making.counts["skills"] = list(known)
        maker.named = tuple(known)
        return maker.named

    def _named(self, maker: WriterMaker, making: RoundMaking) -> list[str]:
        order = making.generator("named").permutation(len(making.stored))
        shown = [making.stored[int(at)].example.prompt for at in order[: max(1, self.options.shown)]]
        ask = self.options.name_ask.replace("{examples}", "\n\n".join(shown))
        tokens = A_NAME * self.options.name
        if tokens > making.tokens:
            raise InputError(
                f"naming {self.options.name} skills may take {tokens} tokens",
                where="sampler_options.tokens",
                fix="Give more, or name fewer skills",
            )
        asked = ask.replace("{count}", str(self.options.name))
        (found,) = maker.named_in([asked], self.options.name, making, "skills")
        if not found:
            raise InputError(
                "the writer named no skill", where="sampler_options.name", fix="Name another writer, or leave it out"
            )
        return found
