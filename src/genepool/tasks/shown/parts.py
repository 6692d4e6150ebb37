"""Shown examples of each skill of the question by itself, and then of all of them together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.tasks.example import Example
from genepool.tasks.shown import ShownChoice, refuse_untagged, shown_choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np


@shown_choice
class PartExamples(ShownChoice):
    """For each skill of the question an example that needs it alone, then examples that need exactly all of them.

    The parts stand first, in the order of the question's tags, and their composition behind them. A question of one
    skill, and one without tags, has no parts: it gets examples with the same tags.
    """

    name = "parts"
    source = "skills in context, Chen et al. 2023, arXiv:2308.00304: the skills are shown with their composition"
    when = "a question composes skills, its tags name them, and the training split has each of them alone"
    tagged = True

    def __init__(self, pool: Sequence[Example], name: str) -> None:
        super().__init__(pool, name)
        refuse_untagged(self.pool, name, self.name)

    def chosen(self, example: Example, count: int, drawn: np.random.Generator) -> list[Example]:
        """See `ShownChoice.chosen`."""
        others = self.others(example)
        order = [others[int(at)] for at in drawn.permutation(len(others))]
        wanted = list(dict.fromkeys(example.tags))
        parts = wanted if len(wanted) > 1 else []
        if parts and count <= len(parts):
            raise InputError(
                f"composes {len(parts)} skills, and few_shot is {count}",
                where=example.place(self.task),
                fix=f"Write `few_shot: {len(parts) + 1}` or more: one example for each, and one of all together",
            )
        found = [self._one(example, order, {skill}) for skill in parts]
        whole = [other for other in order if set(other.tags) == set(wanted)][: count - len(found)]
        if len(whole) < count - len(found):
            raise InputError(
                f"needs {count - len(found)} training examples with exactly its tags "
                f"({', '.join(wanted) or 'none'}), and {len(whole)} have them",
                where=example.place(self.task),
                fix="Write a smaller few_shot, or tag more training examples",
            )
        return [*found, *whole]

    def _one(self, example: Example, order: list[Example], tags: set[str]) -> Example:
        """The first drawn example with exactly these tags.

        Raises:
            InputError: there is none.
        """
        for other in order:
            if set(other.tags) == tags:
                return other
        raise InputError(
            f"composes '{next(iter(tags))}', and no training example has this tag alone",
            where=example.place(self.task),
            fix="Add one, or write `show: skills`",
        )
