"""Sparse codes of tasks on a dictionary: the LASSO, and how a dictionary learns from the codes that tasks ended with.

Both are those of CoTASP (Yang et al. 2023, arXiv:2305.18444); small, in numpy. Used by `cotasp`.
"""

from __future__ import annotations

import hashlib

import numpy as np

from genepool.seeding import numpy_generator

# Numbers of a text's vector.
TEXT_WIDTH = 64
_ROUNDS, _TOLERANCE = 10_000, 1e-10


def text_vector(text: str) -> np.ndarray:
    """A text as a vector of length 1: how often each of its runs of three characters comes, hashed to 64 places.

    Feature hashing (Weinberger et al. 2009), which needs no model; the authors use a sentence encoder.

    Returns:
        Shape (64,), float64.
    """
    padded = f"  {text.lower()}  "
    found = np.zeros(TEXT_WIDTH)
    for at in range(len(padded) - 2):
        digest = hashlib.sha256(padded[at : at + 3].encode()).digest()
        found[digest[0] % TEXT_WIDTH] += 1 if digest[1] % 2 else -1
    return found / max(1.0, float(np.linalg.norm(found)))


def new_dictionary(width: int, seed: int, name: str) -> np.ndarray:
    """A dictionary of `width` columns of length 1 from a normal distribution, shape (64, width)."""
    drawn = numpy_generator(seed, "dictionary", name).normal(size=(TEXT_WIDTH, width))
    made: np.ndarray = drawn / np.linalg.norm(drawn, axis=0)
    return made


def sparse_code(vector: np.ndarray, dictionary: np.ndarray, strength: float) -> np.ndarray:
    """The code that minimises `1/2 |vector - D code|^2 + strength |code|_1`, by coordinate descent.

    The authors use LASSO-LARS, whose minimum is the same.

    Args:
        vector: shape (numbers,).
        dictionary: D, shape (numbers, width).
        strength: of the penalty.

    Returns:
        Shape (width,).
    """
    norms = (dictionary**2).sum(0)
    code = np.zeros(dictionary.shape[1])
    left = vector.astype(np.float64).copy()
    for _ in range(_ROUNDS):
        largest = 0.0
        for at in np.flatnonzero(norms > 0):
            before = code[at]
            slope = dictionary[:, at] @ left + norms[at] * before
            code[at] = np.sign(slope) * max(abs(slope) - strength, 0.0) / norms[at]
            if code[at] != before:
                left -= dictionary[:, at] * (code[at] - before)
                largest = max(largest, abs(code[at] - before))
        if largest < _TOLERANCE:
            break
    return code


class OnlineDictionary:
    """A dictionary that learns from one task after the other (Mairal et al. 2009).

    Args:
        start: shape (numbers, width).
        largest: the largest length of a column (the authors' c, 1).

    Attributes:
        columns: the dictionary, shape (numbers, width).
    """

    def __init__(self, start: np.ndarray, largest: float = 1.0) -> None:
        self.columns, self._largest = start.astype(np.float64).copy(), largest
        self._codes = np.zeros((start.shape[1], start.shape[1]))
        self._vectors = np.zeros_like(self.columns)

    def learn(self, vector: np.ndarray, code: np.ndarray) -> None:
        """Takes in a task: its vector, and the code that it ended with; columns that no code uses stay."""
        self._codes += np.outer(code, code)
        self._vectors += np.outer(vector, code)
        for at in np.flatnonzero(np.diag(self._codes) > 1e-12):
            moved = (
                self.columns[:, at] + (self._vectors[:, at] - self.columns @ self._codes[:, at]) / self._codes[at, at]
            )
            self.columns[:, at] = moved / max(1.0, float(np.linalg.norm(moved)) / self._largest)
