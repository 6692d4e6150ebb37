"""The tokens that two tokenizers make of one answer, aligned by dynamic programming, and predictions carried across.

`trainers.aligned` asks a teacher with other tokens than its student through this. Uses tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from genepool.tasks.token_bytes import token_bytes

if TYPE_CHECKING:
    import torch

    from genepool.tasks import LanguageModel

#: What stands for a token that writes nothing, such as the end of an answer.
_SPECIAL = b"\xff\xff"


def edit_distance(first: bytes, second: bytes) -> int:
    """How many bytes must be put in, left out or replaced to turn one text into the other (Levenshtein)."""
    row = list(range(len(second) + 1))
    for place, one in enumerate(first, 1):
        left, row[0] = row[0], place
        for at, other in enumerate(second, 1):
            left, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, left + (one != other))
    return row[-1]


def warped(
    first: Sequence[bytes], second: Sequence[bytes], distance: Callable[[bytes, bytes], float]
) -> list[list[int]]:
    """The cheapest monotone alignment of two rows (dynamic time warping).

    Args:
        first, second: what is aligned, one or more each.
        distance: what it costs to put one beside another.

    Returns:
        For each of `second` the places of `first` that stand beside it, in order, one or more. Of alignments that cost
        the same, the one that goes on in both rows at once, seen from the end.
    """
    infinite = float("inf")
    costs = [[infinite] * (len(second) + 1) for _ in range(len(first) + 1)]
    costs[0][0] = 0.0
    for row, one in enumerate(first, 1):
        above, here = costs[row - 1], costs[row]
        for column, other in enumerate(second, 1):
            here[column] = distance(one, other) + min(above[column], here[column - 1], above[column - 1])
    found: list[list[int]] = [[] for _ in second]
    row, column = len(first), len(second)
    while row and column:
        found[column - 1].append(row - 1)
        steps = [(row - 1, column - 1), (row - 1, column), (row, column - 1)]
        row, column = min(steps, key=lambda at: costs[at[0]][at[1]])
    return [places[::-1] for places in found]


class TokenAlignment:
    """Two language models' tokens, compared by the bytes that they stand for.

    Args:
        student: whose tokens are predicted.
        teacher: whose predictions are carried across.
        top: the likeliest tokens of a prediction that are carried, at most; None: all.
    """

    def __init__(self, student: LanguageModel, teacher: LanguageModel, top: int | None) -> None:
        import torch

        self._texts = token_bytes(student.tokenizer), token_bytes(teacher.tokenizer)
        # Of several tokens with one text, the first.
        numbers = {text: number for number, text in sorted(self._texts[0].items(), reverse=True)}
        self._to_student = torch.full((teacher.vocabulary_size,), -1, dtype=torch.long)
        for number, text in self._texts[1].items():
            if text and text in numbers and number < teacher.vocabulary_size:
                self._to_student[number] = numbers[text]
        self._width, self._top = student.vocabulary_size, top
        self._known: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
        self._distances: dict[tuple[bytes, bytes], int] = {}

    def places(self, student: Sequence[int], teacher: Sequence[int]) -> list[int]:
        """For each token of the student the teacher's token that is the same text at the same place; -1 for none.

        Args:
            student, teacher: what each tokenizer makes of one answer.
        """
        key = tuple(student), tuple(teacher)
        if key not in self._known:
            ours = [self._texts[0].get(number, _SPECIAL) for number in student]
            theirs = [self._texts[1].get(number, _SPECIAL) for number in teacher]
            found = warped(theirs, ours, self._distance)
            self._known[key] = [
                beside[0] if len(beside) == 1 and theirs[beside[0]] == text and text != _SPECIAL else -1
                for text, beside in zip(ours, found, strict=True)
            ]
        return self._known[key]

    def _distance(self, first: bytes, second: bytes) -> int:
        # Tokenizers differ in which token a space belongs to.
        key = first.replace(b" ", b""), second.replace(b" ", b"")
        if key not in self._distances:
            self._distances[key] = edit_distance(*key)
        return self._distances[key]

    def wanted(self, student: Sequence[int], teacher: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        """What the student should predict for every token of an answer: probabilities, (tokens, choices), float32.

        Args:
            student, teacher: what each tokenizer makes of the answer.
            logits: what the teacher predicts for each of its tokens, (its tokens, its choices).
        """
        import torch

        found = torch.zeros(len(student), self._width)
        found[torch.arange(len(student)), torch.tensor(student)] = 1
        sources = self.places(student, teacher)
        aligned = [place for place, source in enumerate(sources) if source >= 0]
        if aligned:
            carried = self._carried(logits[[sources[place] for place in aligned]].float().cpu())
            total = carried.sum(-1, keepdim=True)
            # Where the student has none of the tokens, its own one stays.
            found[aligned] = torch.where(total > 0, carried / total.clamp_min(1e-30), found[aligned])
        return found

    def _carried(self, logits: torch.Tensor) -> torch.Tensor:
        """The probabilities of the teacher's likeliest tokens under the student's numbers; no longer adding up to 1."""
        import torch

        shares = logits.softmax(-1)
        best, numbers = shares.topk(min(self._top or shares.shape[-1], shares.shape[-1]), -1)
        targets = self._to_student[numbers]
        return torch.zeros(len(shares), self._width).scatter_add_(-1, targets.clamp_min(0), best * (targets >= 0))
