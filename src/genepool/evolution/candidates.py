"""What a study asks for and what it turned out to be worth, and how both come out of the columns of its record.

A record may have been written by somebody else: every value of a row is checked before it becomes one of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genepool.checked import is_digest, is_number, is_text, is_whole, kind_of, numbers, parsed_json

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Candidate:
    """One point or birth the strategy asked for.

    Attributes:
        id: SHA-256, hex, of the run, the strategy, the generation and the index in it.
        genome: the merge parameters by gene name, or the birth of a model.
        seed: what the merge's own randomness starts from; the same for all candidates of a study, so that two
            candidates differ by their genes alone.
        final: whether it is judged as a finalist, on every validation example.
        look: how many examples of each task this look at it asks, when it races; 0 for all that score a candidate.
    """

    id: str
    generation: int
    index: int
    genome: dict[str, Any]
    seed: int
    final: bool = False
    look: int = 0

    @property
    def name(self) -> str:
        """The name by which births name their parents: "generation.index"."""
        return f"{self.generation}.{self.index}"

    @property
    def stage(self) -> int:
        """What sets its results apart: -1 as a finalist, 0 in the search, else the size of the look."""
        return -1 if self.final else self.look


@dataclass(frozen=True)
class Verdict:
    """What one candidate turned out to be worth. A failure is a verdict too.

    Attributes:
        fitness: larger is better; None when the evaluation failed.
        valid: mean validation score by task.
        scores: score of every example, float32, task after task in the order of `valid`; none for a failure.
        error: why it failed; empty when it did not.
        seconds, cpu_seconds: wall and processor time of applying and evaluating the candidate.
        examples: examples computed now; the ledger's do not count.
        cached: everything came from the ledger.
        fingerprint: of the candidate's weights, as the ledger knows them.
        behaviour: digest of what it answered to the probe, where candidates that answer alike share a verdict.
        note: why fewer examples than all stand behind it; empty when all do.
        unchanged: share of the base's entries that it leaves as they are; None where the strategy does not ask.
    """

    fitness: float | None
    valid: Mapping[str, float] = field(default_factory=dict)
    scores: bytes = b""
    error: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    examples: int = 0
    cached: bool = False
    fingerprint: str = ""
    behaviour: str = ""
    note: str = ""
    unchanged: float | None = None

    def example_scores(self) -> np.ndarray:
        """`scores` as numbers, shape (examples,)."""
        import numpy as np

        return np.frombuffer(self.scores, dtype="<f4").astype(np.float64)


# Weighted means of scores from 0 to 1 may be rounded over the ends.
HAIR = 1e-9
CANDIDATE_COLUMNS = "c.id, generation, idx, genome, seed"
VERDICT_COLUMNS = (
    "fitness, valid, scores, error, seconds, cpu_seconds, examples, cached, fingerprint, behaviour, note, unchanged"
)


def candidate_of(row: Sequence[Any]) -> Candidate:
    """A candidate out of its columns.

    Raises:
        ValueError: one of them does not hold what belongs there.
    """
    identity, generation, index, genome, seed = row
    if not is_digest(identity):
        raise ValueError(f"got the id {identity!r:.80}")
    for what, value, low in (("generation", generation, 0), ("index", index, 0), ("seed", seed, 0)):
        if not is_whole(value, low):
            raise ValueError(f"got {value!r:.80} for its {what}")
    parsed = parsed_json(genome)
    if not isinstance(parsed, dict):
        raise ValueError(f"got {kind_of(parsed)}, expected its genome")
    return Candidate(identity, generation, index, parsed, seed)


def verdict_of(row: Sequence[Any]) -> Verdict:
    """A result out of its columns.

    Raises:
        ValueError: one of them does not hold what belongs there.
    """
    told = dict(zip(VERDICT_COLUMNS.split(", "), row, strict=True))
    if told["fitness"] is not None and not is_number(told["fitness"], -HAIR, 1 + HAIR):
        raise ValueError(f"got the fitness {told['fitness']!r:.80}")
    told["valid"] = numbers(parsed_json(told["valid"]), -HAIR, 1 + HAIR)
    for key in ("error", "fingerprint", "behaviour", "note"):
        if not is_text(told[key]):
            raise ValueError(f"got {kind_of(told[key])}, expected its {key}")
    for key in ("seconds", "cpu_seconds", "examples", "cached"):
        if not is_number(told[key], 0):
            raise ValueError(f"got {told[key]!r:.80} for its {key}")
    if told["unchanged"] is not None and not is_number(told["unchanged"], 0, 1):
        raise ValueError(f"got the unchanged share {told['unchanged']!r:.80}")
    if not isinstance(told["scores"], bytes) or len(told["scores"]) % 4:
        raise ValueError("its scores of examples are not float32 numbers")
    verdict = Verdict(**{**told, "examples": int(told["examples"]), "cached": bool(told["cached"])})
    scores = verdict.example_scores()
    # NaN is neither.
    if not bool(((scores >= 0) & (scores <= 1)).all()):
        raise ValueError("it has scores of examples that are not from 0 to 1")
    return verdict
