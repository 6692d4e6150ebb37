"""Rules that rank answers and checks by which answer passes which check; searched for by evolution.

A rule is two formulas over what the matrix of passes shows: one scores checks, the other answers. A small set of
problems whose right answers are known says how good a rule is. Uses numpy and the seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genepool.seeding import numpy_generator

if TYPE_CHECKING:
    import numpy as np

#: A formula: the name of a feature, a number, or an operation with its parts.
Formula = Any

#: What a formula may read of a check: the share of answers that it accepts; by how much these pass more checks than
#: those that it rejects; how rarely it accepts; how evenly it splits.
CHECK_FEATURES = ("accepts", "gap", "rarity", "spread")
#: What a formula may read of an answer: the share of checks that it passes; that share weighted by the scores of
#: checks; how hard the passed checks are; the share of answers that pass just the same checks.
ANSWER_FEATURES = ("passed", "weighted", "hardness", "alike")
_PAIRS, _SINGLES = ("add", "sub", "mul", "min", "max"), ("neg", "square", "sqrt")
# A formula with more parts than this is not kept. Numbers stay within a range in which products stay finite.
_LARGEST, _LIMIT = 15, 1e6
# Elites are kept by the size of a rule and by how many features it reads (MAP-Elites).
_SIZES = (2, 4, 8, 16)


def is_formula(told: Any, features: Sequence[str], depth: int = _LARGEST) -> bool:
    """Whether plain data, such as of a record, is a formula over some features, at most so deep."""
    if depth <= 0:
        return False
    if isinstance(told, str):
        return told in features
    if isinstance(told, int | float):
        return abs(told) <= _LIMIT
    if not isinstance(told, list | tuple) or not told or told[0] not in (*_PAIRS, *_SINGLES):
        return False
    return len(told) == (3 if told[0] in _PAIRS else 2) and all(
        is_formula(one, features, depth - 1) for one in told[1:]
    )


@dataclass(frozen=True)
class Rule:
    """How checks and answers are scored.

    Attributes:
        checks: the formula that scores checks.
        answers: the formula that scores answers.
    """

    checks: Formula
    answers: Formula

    def scores(self, passes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores of answers, (answers,), and of checks, (checks,); the higher, the better.

        Args:
            passes: whether an answer passes a check, (answers, checks) booleans.
        """
        import numpy as np

        table = passes.astype(float)
        accepts, passed = table.mean(0), table.mean(1)
        taken, left = table.sum(0), (1 - table).sum(0)
        among = np.divide(table.T @ passed, taken, out=np.zeros_like(taken), where=taken > 0)
        beside = np.divide((1 - table).T @ passed, left, out=np.zeros_like(left), where=left > 0)
        of_checks = {
            "accepts": accepts,
            "gap": among - beside,
            "rarity": -np.log((taken + 1) / (len(table) + 1)),
            "spread": accepts * (1 - accepts),
        }
        checks = value_of(self.checks, of_checks, len(accepts))
        whole, count = np.abs(checks).sum(), table.sum(1)
        of_answers = {
            "passed": passed,
            "weighted": table @ checks / whole if whole > 0 else np.zeros(len(table)),
            "hardness": np.divide(table @ (1 - accepts), count, out=np.zeros_like(count), where=count > 0),
            "alike": (passes[:, None] == passes[None]).all(-1).mean(1),
        }
        return value_of(self.answers, of_answers, len(table)), checks

    @property
    def size(self) -> int:
        """Parts of both formulas."""
        return _size(self.checks) + _size(self.answers)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {"checks": self.checks, "answers": self.answers}


#: What the search begins with (the paper's two principles): an answer is better that passes more checks, and a check
#: that accepts more answers. The first ranks as a majority does.
FIRST = Rule("accepts", "passed")


@dataclass(frozen=True)
class Checked:
    """A problem whose answers were checked.

    Attributes:
        passes: whether an answer passes a check, (answers, checks) booleans.
        right: whether an answer is right, (answers,) booleans.
    """

    passes: np.ndarray
    right: np.ndarray


def consistent(rule: Rule, problem: Checked) -> bool:
    """Whether a rule agrees with what is known of a problem.

    Its best answer is right, and its best check says of its best and its worst answer what is known of them.
    """
    answers, checks = rule.scores(problem.passes)
    best, worst, check = int(answers.argmax()), int(answers.argmin()), int(checks.argmax())
    agrees = all(bool(problem.passes[at, check]) == bool(problem.right[at]) for at in (best, worst))
    return bool(problem.right[best]) and agrees


def agreement(rule: Rule, problems: Sequence[Checked]) -> float:
    """The share of problems that a rule is consistent with."""
    return sum(consistent(rule, one) for one in problems) / len(problems)


def evolved(
    problems: Sequence[Checked], seed: int, *, rounds: int, islands: int = 3, migrate: int = 5, elite: float = 0.7
) -> tuple[Rule, float]:
    """The rule that agrees with most problems, and its share; of equals the smallest, then the first.

    MAP-Elites on islands: an island keeps the best rule of every size and number of features. In a round each makes a
    child, of its best rule with the chance `elite`, else of any; every few rounds the best one goes to the next island.

    Args:
        problems: those whose right answers are known; one or more.
        seed: decides every draw.
        rounds: children of each island.
        islands: how many.
        migrate: rounds between two migrations.
        elite: chance that a child is of the best.
    """
    worth: dict[str, float] = {}

    def fit(rule: Rule) -> float:
        if (known := repr(rule)) not in worth:
            worth[known] = agreement(rule, problems)
        return worth[known]

    def better(rule: Rule) -> tuple[float, int]:
        return -fit(rule), rule.size

    grids: list[dict[tuple[int, int], Rule]] = [{_cell(FIRST): FIRST} for _ in range(islands)]
    for number in range(rounds):
        for at, grid in enumerate(grids):
            generator = numpy_generator(seed, "rules", at, number)
            known = list(grid.values())
            parent = (
                min(known, key=better) if generator.random() < elite else known[int(generator.integers(len(known)))]
            )
            other = known[int(generator.integers(len(known)))]
            _place(grid, _child(parent, other, generator), better)
        if migrate and (number + 1) % migrate == 0:
            leaders = [min(grid.values(), key=better) for grid in grids]
            for at, leader in enumerate(leaders):
                _place(grids[(at + 1) % islands], leader, better)
    best = min((rule for grid in grids for rule in grid.values()), key=better)
    return best, fit(best)


def value_of(formula: Formula, features: dict[str, np.ndarray], count: int) -> np.ndarray:
    """What a formula comes to, (count,); always finite.

    Args:
        formula: the formula.
        features: what it may read, (count,) each.
        count: of answers or checks.
    """
    import numpy as np

    if isinstance(formula, str):
        return features[formula]
    if isinstance(formula, int | float):
        return np.full(count, float(formula))
    name, *parts = formula
    first, *rest = (value_of(part, features, count) for part in parts)
    found: np.ndarray
    if name == "neg":
        found = -first
    elif name == "square":
        found = first * first
    elif name == "sqrt":
        found = np.sign(first) * np.sqrt(np.abs(first))
    else:
        doing = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "min": np.minimum, "max": np.maximum}
        found = doing[name](first, rest[0])
    bounded: np.ndarray = np.clip(found, -_LIMIT, _LIMIT)
    return bounded


def _size(formula: Formula) -> int:
    return 1 if not isinstance(formula, tuple | list) else 1 + sum(map(_size, formula[1:]))


def _reads(formula: Formula) -> set[str]:
    if isinstance(formula, str):
        return {formula}
    return set().union(*map(_reads, formula[1:])) if isinstance(formula, tuple | list) else set()


def _cell(rule: Rule) -> tuple[int, int]:
    return sum(rule.size > one for one in _SIZES), len(_reads(rule.checks) | _reads(rule.answers))


def _place(grid: dict[tuple[int, int], Rule], rule: Rule, better: Any) -> None:
    if max(_size(rule.checks), _size(rule.answers)) > _LARGEST:
        return
    cell = _cell(rule)
    if cell not in grid or better(rule) < better(grid[cell]):
        grid[cell] = rule


def _child(parent: Rule, other: Rule, generator: np.random.Generator) -> Rule:
    """A rule with one part of one formula replaced: by a drawn one, or by a part of another rule's."""
    of_checks = bool(generator.random() < 0.5)
    own, lent = (parent.checks, other.checks) if of_checks else (parent.answers, other.answers)
    features = CHECK_FEATURES if of_checks else ANSWER_FEATURES
    part = _part(lent, generator) if generator.random() < 0.2 else _drawn(features, generator, 2)
    found = _replaced(own, int(generator.integers(_size(own))), part, generator)
    return Rule(found, parent.answers) if of_checks else Rule(parent.checks, found)


def _drawn(features: Sequence[str], generator: np.random.Generator, depth: int) -> Formula:
    if depth == 0 or generator.random() < 0.4:
        if generator.random() < 0.15:
            return round(float(generator.normal()), 2)
        return features[int(generator.integers(len(features)))]
    if generator.random() < 0.3:
        return _SINGLES[int(generator.integers(len(_SINGLES)))], _drawn(features, generator, depth - 1)
    name = _PAIRS[int(generator.integers(len(_PAIRS)))]
    return name, _drawn(features, generator, depth - 1), _drawn(features, generator, depth - 1)


def _part(formula: Formula, generator: np.random.Generator) -> Formula:
    """A part of a formula, each as likely."""
    at = int(generator.integers(_size(formula)))
    stack = [formula]
    while stack:
        one = stack.pop()
        if at == 0:
            return one
        at -= 1
        if isinstance(one, tuple | list):
            stack += reversed(one[1:])
    return formula


def _replaced(formula: Formula, at: int, part: Formula, generator: np.random.Generator) -> Formula:
    """The same with its part number `at` replaced; half of the time the old part becomes one of an operation."""
    if at == 0:
        if generator.random() < 0.5:
            return part
        return _PAIRS[int(generator.integers(len(_PAIRS)))], formula, part
    if not isinstance(formula, tuple | list):
        return part
    name, *parts = formula
    at -= 1
    for number, one in enumerate(parts):
        if at < (size := _size(one)):
            parts[number] = _replaced(one, at, part, generator)
            break
        at -= size
    return (name, *parts)
