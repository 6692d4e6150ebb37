"""Where in a model a skill sits: the fewest of its changed entries that keep what it is good for.

Entries are put in order, by their magnitude (data-free) or by scores learned on examples (grafting: Panigrahi et al.,
arXiv:2302.06600), and the shortest head of that order that keeps a share of the gain is found by bisection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genepool import progress
from genepool.errors import InputError
from genepool.kernels.selection import MagnitudeSelection, keep_count
from genepool.training import EncodedExamples, answer_likelihoods, descend, target_objective
from genepool.weights import Change, infer_roles
from genepool.weights.change import block_rows

if TYPE_CHECKING:
    import torch

    from genepool.tasks import LanguageModel

# What a change does to a model, from 0 to 1: the share of examples it gets right.
Score = Callable[[Change], float]
# How far scores begin below the threshold at which an entry is taken over: the authors' sigmoid(S - 10).
_OFFSET = 10.0


@dataclass(frozen=True)
class Localised:
    """The smallest mask that was found.

    Attributes:
        changes: what is left of the skill.
        density: share of the skill's entries in it.
        score, full, base: of the base with it, with the whole skill, and alone, on the examples it was chosen on.
        tried: density -> score.
    """

    changes: Change
    density: float
    score: float
    full: float
    base: float
    tried: Mapping[float, float]


def smallest(
    changes: Change,
    at: Callable[[float], Change],
    score: Score,
    base: float,
    *,
    keep: float = 0.95,
    least: float = 1e-5,
    steps: int = 12,
) -> Localised:
    """The smallest density at which a share of the gain is kept.

    The score is taken to fall as the density does; where it does not, what is found keeps the share all the same.

    Args:
        changes: the whole skill.
        at: density -> what is left of it.
        score: how good the base with some changes is.
        base: how good it is without.
        keep: share of the gain, `score(changes) - base`, that must stay.
        least: smallest density looked at.
        steps: how many densities are tried, each on a logarithmic scale half way between the last two.

    Raises:
        InputError: the skill gains nothing on the examples, so nothing can be kept.
    """
    if not 0 < keep <= 1:
        raise InputError(f"must be above 0 and at most 1, got {keep:g}", where="--keep", fix="Give another share")
    full = score(changes)
    if full <= base:
        raise InputError(
            f"the skill gains nothing on these examples ({base:.3f} without it, {full:.3f} with it)",
            where=changes.name,
            fix="Name a task that the skill improves",
        )
    wanted = base + keep * (full - base)
    tried: dict[float, float] = {}
    low, high, found, best = least, 1.0, changes, full
    with progress.bar("looking for the smallest mask", steps, "masks") as bar:
        for _ in range(steps):
            density = (low * high) ** 0.5
            candidate = at(density)
            tried[density] = score(candidate)
            if tried[density] >= wanted:
                high, found, best = density, candidate, tried[density]
            else:
                low = density
            bar.note(f"{high:.3%} of the entries keep {(best - base) / (full - base):.0%}")
            bar.advance()
    return Localised(found, high, best, full, base, tried)


class MaskScorer:
    """A base in memory into which changes are put, to be asked examples.

    Args:
        model: the base, loaded.
        changes: opened on that base; what `put` is given changes no other tensors.
        examples: what is asked.
    """

    def __init__(self, model: LanguageModel, changes: Change, examples: EncodedExamples) -> None:
        assert changes.base is not None
        self.model, self.examples, self.base = model, examples, changes.base
        self._parameters: dict[str, torch.nn.Parameter] = dict(model.model.named_parameters())
        self._moved: set[str] = set()
        for name in changes.names():
            if name not in self._parameters:
                raise InputError(
                    "has another name or layout in memory", where=f"{changes.name}:{name}", fix="Localise by --density"
                )

    def put(self, changes: Change | None) -> None:
        """The model becomes the base with these changes; with none of them again for None."""
        wanted = set(changes.names()) if changes is not None else set()
        for name in sorted(self._moved | wanted):
            target = self._parameters[name].data.view(self.base.info(name).matrix)
            for start, stop in block_rows(*self.base.info(name).matrix):
                rows = self.base.read_rows(name, start, stop)
                if changes is not None and name in wanted:
                    rows = rows.float() + changes.rows(name, start, stop)
                target[start:stop].copy_(rows)
        self._moved = wanted

    def score(self, changes: Change | None) -> float:
        """Share of the examples whose whole answer is the likeliest, token by token."""
        import torch

        self.put(changes)
        right = 0
        with torch.inference_mode():
            for batch in self.examples.batches:
                _, hits = answer_likelihoods(self.model, batch)
                right += int((batch.means(hits.double()) == 1).sum())
        return right / len(self.examples.answers)

    def learn(self, changes: Change, *, steps: int = 100, seeded: float = 1e-4) -> dict[str, torch.Tensor]:
        """Scores of entries, learned by gradient on the examples.

        The authors train a mask `sigmoid(S - 10)` between base and fine-tune, from a small seed of the largest changes,
        with plain gradient descent at a rate that suits their model. Here the rate is such that the first step moves
        the entry of steepest slope as far as the threshold; embeddings and head stay fixed, as theirs do. The order of
        the scores is what counts.

        Args:
            changes: the whole skill.
            steps: passes over the examples.
            seeded: share of the entries, the largest, that are taken over from the start.

        Returns:
            Tensor -> scores, `(rows, columns)`, positive: the larger, the sooner an entry is taken over.
        """
        import torch

        roles = infer_roles({name: self.base.info(name) for name in self.base.names()})
        names = [n for n in changes.names() if roles[n].part not in ("embedding", "head")]
        if not names:
            raise InputError("changes nothing but embeddings", where=changes.name, fix="Localise it by magnitude")
        deltas = {name: changes.whole(name) for name in names}
        seeds = _largest(deltas, seeded)
        scores = {name: torch.zeros_like(delta) for name, delta in deltas.items()}
        base = {name: self.base.read(name).float().reshape(delta.shape) for name, delta in deltas.items()}
        self.put(None)
        rate = 0.0
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(name in deltas)
        try:
            with progress.bar("learning a mask", steps, "steps") as bar:
                for _ in range(steps):
                    for name, delta in deltas.items():
                        gate = _gate(scores[name], seeds[name])
                        self._parameters[name].data.view(delta.shape).copy_(base[name] + gate * delta)
                    loss = descend(target_objective("likelihood"), self.model, self.examples)
                    slopes = {}
                    for name, delta in deltas.items():
                        gradient = self._parameters[name].grad
                        if gradient is not None:
                            share = torch.sigmoid(scores[name] - _OFFSET)
                            direction = torch.where(seeds[name], -1.0, 1.0) * share * (1 - share)
                            slopes[name] = gradient.float().cpu().reshape(delta.shape) * delta * direction
                            self._parameters[name].grad = None
                    if not rate:
                        rate = _OFFSET / max(max(float(s.abs().max()) for s in slopes.values()), 1e-30)
                    for name, slope in slopes.items():
                        scores[name] -= rate * slope
                    bar.note(f"loss {loss:.3f}")
                    bar.advance()
        finally:
            for parameter in self._parameters.values():
                parameter.requires_grad_(False).grad = None
            self._moved = set(names)
            self.put(None)
        # Seeds are left when their scores rise; all others are taken over. Shifted, so that magnitudes keep the order.
        return {
            name: torch.where(seeds[name], 2 * _OFFSET - score, score).add_(1e4).clamp_min_(0.0)
            for name, score in scores.items()
        }


def _gate(scores: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
    """How much of each change is in force: `b + (1 - 2 b) sigmoid(S - 10)`."""
    share = (scores - _OFFSET).sigmoid_()
    return share.where(~seeds, 1 - share)


def _largest(deltas: Mapping[str, torch.Tensor], density: float) -> dict[str, Any]:
    """Which entries are the largest, over all tensors."""
    selection = MagnitudeSelection(keep_count(density, sum(delta.numel() for delta in deltas.values())))
    for number in range(selection.passes):
        for delta in deltas.values():
            counts = selection.begin(number)
            selection.observe(number, delta, counts)
            selection.fold(counts)
        selection.finish(number)
    return {name: delta.abs() >= selection.threshold for name, delta in deltas.items()}
