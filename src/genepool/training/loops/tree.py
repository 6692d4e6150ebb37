"""A tree of the steps that answers consist of, searched by Monte Carlo: no model, no text, just counts and values.

`stages/search` writes the steps. Kept apart so that the arithmetic can be read, and tested, by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Node:
    """A step of an answer.

    Attributes:
        tokens: of everything that was written up to its end.
        text: the same as text.
        step: its own text.
        parent: the step before it; None for the root, where nothing is written.
        depth: steps up to it.
        ended: the answer ends with it.
        visits: simulations that went through it.
        total: the sum of their rewards.
        children: the steps that were tried after it.
    """

    tokens: tuple[int, ...] = ()
    text: str = ""
    step: str = ""
    parent: Node | None = field(default=None, repr=False)
    depth: int = 0
    ended: bool = False
    visits: int = 0
    total: float = 0.0
    children: list[Node] = field(default_factory=list)

    @property
    def value(self) -> float:
        """The mean reward of the simulations through it: the soft label of the step."""
        return self.total / self.visits if self.visits else 0.0

    def add(self, step: str, tokens: tuple[int, ...], *, ended: bool) -> Node | None:
        """A new step after this one; None where one of this text is there already."""
        if any((child.step, child.ended) == (step, ended) for child in self.children):
            return None
        child = Node((*self.tokens, *tokens), self.text + step, step, self, self.depth + 1, ended)
        self.children.append(child)
        return child

    def back_up(self, reward: float) -> None:
        """Counts a simulation in this step and in all before it."""
        node: Node | None = self
        while node is not None:
            node.visits += 1
            node.total += reward
            node = node.parent

    def below(self) -> Iterator[Node]:
        """This step and all after it, in the order in which they were tried."""
        yield self
        for child in self.children:
            yield from child.below()


def upper_bound(node: Node, exploration: float) -> float:
    """The mean reward of a step plus exploration * sqrt(ln visits of the step before / its own visits) (UCT)."""
    assert node.parent is not None
    if not node.visits:
        return math.inf
    return node.value + exploration * math.sqrt(math.log(node.parent.visits) / node.visits)


def chosen_leaf(root: Node, exploration: float, deepest: int) -> Node | None:
    """The step to go on from: down the highest upper bounds to one that nothing was tried after.

    Branches that cannot grow are left out: every answer in them ends or is as deep as it may be.

    Args:
        root: where nothing is written.
        exploration: the weight of what was rarely tried.
        deepest: steps of an answer, at most.

    Returns:
        None where nothing can grow.
    """
    if not _grows(root, deepest):
        return None
    node = root
    while node.children:
        open_ = [child for child in node.children if _grows(child, deepest)]
        # Of equal bounds the first one that was tried.
        node = max(open_, key=lambda child: upper_bound(child, exploration))
    return node


def _grows(node: Node, deepest: int) -> bool:
    if node.ended or node.depth >= deepest:
        return False
    return not node.children or any(_grows(child, deepest) for child in node.children)
