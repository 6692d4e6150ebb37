"""Skill pairs: examples that need two skills at once, more of the pairs that the model still fails."""

from __future__ import annotations

from itertools import combinations
from typing import ClassVar

from pydantic import Field

from genepool.errors import InputError
from genepool.schema import Strict
from genepool.training.generating import GeneratingSampler, MakingOptions, RoundMaking, Wanted


class SkillPairsOptions(MakingOptions):
    """Options of skill pairs."""

    every: int | None = Field(
        default=50, ge=1, le=10**7, description="Steps between two rounds (ours: 50); null: one, before the first step."
    )
    round: int | None = Field(
        default=100,
        ge=1,
        le=10**6,
        description="Examples wanted in a round, at most (ours: 100); null: the rest of the budget.",
    )
    prior: float = Field(
        default=2.0,
        gt=0,
        le=10**6,
        description="Attempts that the product of both skills' scores counts as, beside those that were made (ours).",
    )
    least: float = Field(
        default=0.05, gt=0, le=1, description="Chance of failing that every pair has at least, so that none is lost."
    )


class SkillPairs(GeneratingSampler):
    """Pairs of different skills, drawn by their chance of being failed; what is made is attempted before it is learned.

    A pair is solved with the chance (m a_i a_j + right) / (m + attempts): a_i, a_j the scores of validation examples
    that need the skills, whose product the paper finds on pairs; right and attempts are those of the examples of the
    pair that were made so far, and m weighs them against each other. A question of a writer is made, attempted, checked
    (`check`) and answered by a vote, as in the paper; the paper's people, who look at what is left, are not here.
    """

    name = "skill_pairs"
    source = (
        "Shah et al., AI-Assisted Generation of Difficult Math Questions (arXiv:2407.21009); drawing by failure is ours"
    )
    when = "Single skills are known, and pairs of them fail."
    Options: ClassVar[type[Strict]] = SkillPairsOptions
    options: SkillPairsOptions

    @property
    def attempts(self) -> bool:
        return True

    def plan(self, making: RoundMaking) -> list[Wanted]:
        assert making.maker is not None
        chances = self.chances(making)
        if not chances:
            raise InputError(
                f"no task combines two of {len(making.maker.skills)} skills",
                where="sampler",
                fix="Give a task whose template mixes them, or a writer: --set sampler.writer=MODEL",
            )
        pairs, total = list(chances), sum(chances.values())
        making.counts["pairs"] = {" + ".join(pair): round(chance, 6) for pair, chance in chances.items()}
        generator = making.generator("pairs")
        drawn = generator.choice(len(pairs), self.size(making), p=[chance / total for chance in chances.values()])
        found = []
        for at in drawn.tolist():
            # Either skill may come first, where the order matters.
            one, other = pairs[at] if generator.random() < 0.5 else pairs[at][::-1]
            found.append(Wanted((one, other), exact=True, said={"pair": list(pairs[at])}))
        return found

    def chances(self, making: RoundMaking) -> dict[tuple[str, str], float]:
        """The chance of failing each pair that can be made, at least `least`."""
        assert making.maker is not None
        seen: dict[tuple[str, str], list[float]] = {}
        for example in self.made:
            pair, score = example.made.get("pair"), example.made.get("attempt")
            if isinstance(pair, list) and len(pair) == 2 and isinstance(score, int | float):
                seen.setdefault((str(pair[0]), str(pair[1])), []).append(float(score))
        scores = making.seen.by_skill
        # Of a skill that no validation example needs nothing is known.
        known = {skill: scores[skill][0] if skill in scores else 0.5 for skill in making.maker.skills}
        found = {}
        for one, other in combinations(making.maker.skills, 2):
            if making.maker.able((one, other)):
                own = seen.get((one, other), [])
                right = self.options.prior * known[one] * known[other] + sum(own)
                found[one, other] = max(1 - right / (self.options.prior + len(own)), self.options.least)
        return found
