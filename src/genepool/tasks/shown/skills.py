"""Shown examples that need the skills that the question needs, as their tags say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.tasks.example import Example
from genepool.tasks.shown import ShownChoice, refuse_untagged, shown_choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np


@shown_choice
class SkillExamples(ShownChoice):
    """For each skill of the question in turn, an example that needs it.

    Of those that need a skill, the one that shares most of the question's skills and has fewest others comes first; of
    equal ones one is drawn. A question without tags gets drawn examples.
    """

    name = "skills"
    source = (
        "AdaptMI, He et al. 2025, arXiv:2505.00147: examples by the skills of a question; `show_for` restricts them to "
        "hard ones, which the paper finds by a reward model"
    )
    when = "tags say which skills an example needs"
    tagged = True

    def __init__(self, pool: Sequence[Example], name: str) -> None:
        super().__init__(pool, name)
        refuse_untagged(self.pool, name, self.name)

    def chosen(self, example: Example, count: int, drawn: np.random.Generator) -> list[Example]:
        """See `ShownChoice.chosen`."""
        others = self.others(example)
        order = [int(at) for at in drawn.permutation(len(others))]
        wanted = list(dict.fromkeys(example.tags))
        if not wanted:
            return [others[at] for at in order[:count]]
        # A stable sort: equal ones stay as they were drawn.
        order.sort(key=lambda at: _rank(others[at], wanted))
        found: list[int] = []
        for turn in range(count):
            skill = wanted[turn % len(wanted)]
            having = [at for at in order if skill in others[at].tags and at not in found]
            if not having and not any(skill in other.tags for other in others):
                raise InputError(
                    f"needs '{skill}', and no training example has this tag",
                    where=example.place(self.task),
                    fix="Tag training examples with it, or write `show: drawn`",
                )
            # Once all that need it are shown, the next best ones are.
            found.append(having[0] if having else next(at for at in order if at not in found))
        return [others[at] for at in found]


def _rank(example: Example, wanted: list[str]) -> tuple[int, int]:
    """Smaller for those that share more of some skills, then for those that have fewer others."""
    shared = len(set(example.tags) & set(wanted))
    return -shared, len(set(example.tags)) - shared
