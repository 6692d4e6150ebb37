"""A composition whose weights depend on the input, as a model of the base's kind that tasks can ask.

Each prompt is read by the shared model, and the router turns what it reads into the weights of the skills' parts. Parts
that are low-rank changes of linear layers run beside the network, so prompts of any weights are answered in one batch
(`mixing`). Otherwise prompts of equal weights are answered together, by the network with these weights (`gradient`). A
result is that of the prompt alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch

from genepool.composition.around_one import ModelAroundOne
from genepool.composition.gradient import MergedNetwork
from genepool.composition.mixing.attached import AttachedSkills
from genepool.composition.mixing.listeners import WeightsByRequest
from genepool.composition.routing.router import Router
from genepool.errors import InputError
from genepool.tasks.answers import AnswerBatch, Question
from genepool.tasks.decoding import DEFAULT_BATCH, Decoding, Forced, Written
from genepool.tasks.likelihoods import ContinuationLikelihood
from genepool.tasks.models import Model
from genepool.tasks.network import Network
from genepool.tasks.used_skills import UsedSkills

#: How the router's logits become weights: their softmax, or the likeliest skill alone.
Choice = Literal["softmax", "top"]
# Prompts whose weights are remembered: a few MB.
_REMEMBERED = 50_000
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Routing:
    """A router, and what its logits mean.

    Attributes:
        router: in evaluation mode.
        choice: see `Choice`.
        levels: weights are rounded to multiples of 1 / levels, so that more prompts share theirs; 0 does not round.
        where: what the user calls the composition, for errors.
    """

    router: Router
    choice: Choice
    levels: int
    where: str = ""

    def weights(self, vectors: torch.Tensor) -> torch.Tensor:
        """The weight of every skill for each input, shape (inputs, skills), float32.

        Args:
            vectors: shape (inputs, width).

        Raises:
            InputError: the router was trained for another width, or gives NaN or infinity.
        """
        if vectors.shape[1] != self.router.width:
            raise InputError(
                f"its router reads {self.router.width} numbers, and hidden states have {vectors.shape[1]}",
                where=self.where,
                fix="Compose it again",
            )
        with torch.no_grad():
            logits: torch.Tensor = self.router(vectors)
        if not bool(torch.isfinite(logits).all()):
            raise InputError("its router gives NaN or infinity", where=self.where, fix="Compose it again")
        if self.choice == "top":
            return _one_hot(logits.argmax(1), logits.shape[1])
        shares = logits.softmax(1)
        return (shares * self.levels).round() / self.levels if self.levels else shares


def _one_hot(places: torch.Tensor, count: int) -> torch.Tensor:
    """Rows with a 1 at their place, float32."""
    return torch.nn.functional.one_hot(places, count).float()


def input_vectors(network: Network, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> torch.Tensor:
    """The mean last hidden state of each prompt, shape (prompts, width): what a router reads."""
    # All layers of a batch are in memory while it is asked.
    parts = [
        network.embeddings(prompts[start : start + batch_size], batch_size)
        for start in range(0, len(prompts), batch_size)
    ]
    return torch.cat(parts)


@dataclass(frozen=True)
class RoutedBatch(AnswerBatch):
    """Questions, and the weights of the skills.

    Attributes:
        weights: shape (questions of all batches, skills); (skills,) where all questions of a batch share theirs.
    """

    weights: torch.Tensor


class RoutedModel(ModelAroundOne):
    """A network that holds, for each prompt, what the router says; `routed_kind` gives the class for a kind of base.

    Args:
        base: the network, which is changed in place from now on.
        merged: what puts a mixture into it: the shared part first, then one part for each skill.
        routing: what decides the mixture.
        name: what the user calls the composition.
        fingerprint: of the composition.
        skills: their names.
        attached: the skills' parts beside the network, numbered as in `merged`; None: prompts are answered in groups.
    """

    names: tuple[str, ...] = ()
    _attached: AttachedSkills | None = None

    def __init__(
        self,
        base: Network,
        merged: MergedNetwork,
        routing: Routing,
        name: str,
        fingerprint: str,
        *,
        skills: Sequence[str] = (),
        attached: AttachedSkills | None = None,
    ) -> None:
        super().__init__(base, name, fingerprint)
        self._merged, self._routing = merged, routing
        self.names, self._attached = tuple(skills), attached
        self._known: dict[str, tuple[float, ...]] = {}
        self._put: tuple[float, ...] | None = None

    def weights(self, prompts: Sequence[str]) -> torch.Tensor:
        """The weight of every skill for each prompt, shape (prompts, skills)."""
        new = [one for one in dict.fromkeys(prompts) if one not in self._known]
        if new:
            if len(self._known) + len(new) > _REMEMBERED:
                self._known.clear()
                new = list(dict.fromkeys(prompts))
            self._hold((0.0,) * self._skills)
            found = self._weights_of(input_vectors(self.base, new)).tolist()
            self._known |= {prompt: tuple(row) for prompt, row in zip(new, found, strict=True)}
        return torch.tensor([self._known[prompt] for prompt in prompts]).view(len(prompts), self._skills)

    def skills_used(self, prompts: Sequence[str], answers: Sequence[str]) -> list[UsedSkills]:
        """See `Model.skills_used`: a prompt's skills answer all of it."""
        names = self.names or [f"skill {number}" for number in range(1, self._skills + 1)]
        return [
            UsedSkills({name: weight for name, weight in zip(names, row, strict=True) if weight})
            for row in self.weights(prompts).tolist()
        ]

    def write(
        self, prompts: Sequence[str], keys: Sequence[str], decoding: Decoding, batch_size: int = DEFAULT_BATCH
    ) -> list[Written]:
        """See `Model.write`."""
        return self._each(
            prompts,
            lambda some: self.base.write([prompts[i] for i in some], [keys[i] for i in some], decoding, batch_size),
        )

    def forced_answers(
        self, prompts: Sequence[str], answers: Sequence[str], decoding: Decoding, strip: bool, batch_size: int
    ) -> list[Forced]:
        """See `Model.forced_answers`."""
        return self._each(
            prompts,
            lambda some: self.base.forced_answers(
                [prompts[i] for i in some], [answers[i] for i in some], decoding, strip, batch_size
            ),
        )

    def loglikelihoods(
        self, prompts: Sequence[str], continuations: Sequence[str], batch_size: int = DEFAULT_BATCH
    ) -> list[ContinuationLikelihood]:
        """See `Model.loglikelihoods`."""
        return self._each(
            prompts,
            lambda some: self.base.loglikelihoods(
                [prompts[i] for i in some], [continuations[i] for i in some], batch_size
            ),
        )

    def class_scores(self, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> torch.Tensor:
        """See `Model.class_scores`."""
        rows = self._each(prompts, lambda some: list(self.base.class_scores([prompts[i] for i in some], batch_size)))
        return torch.stack(rows) if rows else torch.zeros(0, len(self.labels))

    def hidden_states(self, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> list[tuple[torch.Tensor, ...]]:
        """See `Model.hidden_states`; each prompt's are those of the network that answers it."""
        return self._each(prompts, lambda some: self.base.hidden_states([prompts[i] for i in some], batch_size))

    def answer_batches(
        self,
        questions: Sequence[Question],
        batch_size: int = DEFAULT_BATCH,
        *,
        closed: bool = False,
        packed: bool = False,
    ) -> list[AnswerBatch]:
        """See `Model.answer_batches`; rows hold one question, or a batch holds questions of equal weights."""
        found: list[AnswerBatch] = []
        if self._attached is not None:
            each = self.weights([one.prompt for one in questions])
            made = self.base.answer_batches(questions, batch_size, closed=closed, packed=False)
            return [RoutedBatch(**vars(batch), weights=each) for batch in made]
        for weights, some in self._groups([one.prompt for one in questions]):
            asked = [questions[i] for i in some]
            for batch in self._encoder(weights).answer_batches(asked, batch_size, closed=closed, packed=packed):
                plain = replace(batch, numbers=[some[number] for number in batch.numbers])
                found.append(RoutedBatch(**vars(plain), weights=torch.tensor(weights)))
        return found

    def answer_logits(self, batch: AnswerBatch) -> torch.Tensor:
        """See `Model.answer_logits`.

        Raises:
            InputError: another model made the batch.
        """
        if not isinstance(batch, RoutedBatch):
            raise InputError("the questions are not routed", where=self.name, fix="Make the batch with this model")
        if self._attached is not None:
            with self._beside(batch.weights):
                return self.base.answer_logits(batch)
        self._hold(tuple(batch.weights.tolist()))
        return self.base.answer_logits(batch)

    def _encoder(self, weights: tuple[float, ...]) -> Network:
        """Whose tokens questions of these weights are asked in."""
        return self.base

    @property
    def _skills(self) -> int:
        return self._merged.layout.skills - 1

    def _weights_of(self, vectors: torch.Tensor) -> torch.Tensor:
        return self._routing.weights(vectors)

    def _each(self, prompts: Sequence[str], ask: Callable[[list[int]], Sequence[_Answer]]) -> list[_Answer]:
        """Asks the numbers of some prompts at a time, each time the network that answers them."""
        if self._attached is not None:
            with self._beside(self.weights(prompts)):
                return list(ask(list(range(len(prompts)))))
        found: dict[int, _Answer] = {}
        for weights, some in self._groups(prompts):
            self._hold(weights)
            found |= dict(zip(some, ask(some), strict=True))
        return [found[number] for number in range(len(prompts))]

    def _groups(self, prompts: Sequence[str]) -> list[tuple[tuple[float, ...], list[int]]]:
        """The numbers of the prompts of equal weights, with these."""
        groups: dict[tuple[float, ...], list[int]] = {}
        for number, row in enumerate(self.weights(prompts).tolist()):
            groups.setdefault(tuple(row), []).append(number)
        return list(groups.items())

    @contextmanager
    def _beside(self, weights: torch.Tensor) -> Iterator[None]:
        """Inside, the skills' parts run beside the network, weighed as these requests want: (requests, skills)."""
        assert self._attached is not None
        self._hold((0.0,) * self._skills)
        with_shared = torch.cat([weights.new_zeros(len(weights), 1), weights], 1)
        with self.base.listened(WeightsByRequest(self._attached, with_shared)):
            yield

    def _hold(self, weights: tuple[float, ...]) -> None:
        """Puts a mixture into the network: the shared part, and the skills' parts times their weights."""
        if self._put == weights:
            return
        self._put = None
        coefficients = torch.tensor([1.0, *weights])[:, None, None].expand(self._merged.layout.shape)
        self._merged.put(coefficients)
        self._put = weights


_Routed = TypeVar("_Routed", bound=RoutedModel)


@functools.cache
def routed_kind(base: type[Model]) -> type[RoutedModel]:
    """The class of compositions that answer as a kind of model does, which can all that it can."""
    return routed_like(base, RoutedModel)


def routed_like(base: type[Model], routed: type[_Routed]) -> type[_Routed]:
    """A class of compositions that answers as a kind of model does, whose answers `routed` decides.

    It plays no episodes: a router reads prompts, and an episode shows none.
    """
    words = base.kind.split(" ", 1)[1]
    return type(
        f"{routed.__name__.removesuffix('Model')}{base.__name__}",
        (routed,),
        {
            "kind": f"a routed {words}",
            "can": base.can - {"episodes"},
            "reads": base.reads,
            "__doc__": f"A routed {words}.",
        },
    )
