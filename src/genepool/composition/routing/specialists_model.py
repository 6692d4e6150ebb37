"""Whole models behind a router, as a model of the base's kind that tasks can ask.

The base reads each prompt, the router chooses one model for it or none, and then the base answers. Prompts of one
model are answered together. Uses `routed_model`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from genepool import progress
from genepool.composition.routing.routed_model import RoutedModel, routed_like
from genepool.errors import InputError
from genepool.tasks.models import Model, Source, WeightsSource
from genepool.tasks.network import Network

# Of fewer prompts it is no news that all of them are declined.
_TELLING = 8


class Chooser(Protocol):
    """Sends inputs to owners."""

    @property
    def width(self) -> int:
        """How many features an input has."""

    def chosen(self, features: torch.Tensor) -> torch.Tensor:
        """The owner of each input, shape (inputs,); -1 or the number of models for the base."""


class SpecialistsModel(RoutedModel):
    """A base that reads, and the models that answer; `specialists_kind` gives the class for a kind of base.

    Args:
        base: reads each prompt, and answers those that no other model is chosen for.
        models: the others.
        chooser: what chooses.
        names: of the others.
        name: what the user calls the composition.
        fingerprint: of the composition.
        resident: the others are weights of the base's architecture that take its place in memory in turn; they are
            loaded beside it when they are first asked otherwise.

    Raises:
        InputError: the chooser reads features of another width.
    """

    def __init__(
        self,
        base: Network,
        models: Sequence[Source],
        chooser: Chooser,
        names: Sequence[str],
        name: str,
        fingerprint: str,
        *,
        resident: bool,
    ) -> None:
        self.base, self._reader, self._models, self._chooser = base, base, tuple(models), chooser
        self.names = tuple(names)
        self._name, self._fingerprint, self._resident = name, fingerprint, resident
        self._own = base._held()
        self._device, self._dtype = str(base.device), str(next(base.model.parameters()).dtype).removeprefix("torch.")
        self._loaded: dict[int, Network] = {}
        self._known: dict[str, tuple[float, ...]] = {}
        self._put: tuple[float, ...] | None = (0.0,) * len(self._models)
        self._told = False

    @property
    def labels(self) -> tuple[str, ...]:
        """As the base's."""
        return self._reader.labels

    def chat_text(self, messages: Sequence[Mapping[str, str]]) -> str:
        """As the base does, which reads the prompts."""
        return self._reader.chat_text(messages)

    def weights(self, prompts: Sequence[str]) -> torch.Tensor:
        """1 for the model that answers a prompt, shape (prompts, models); all 0 where the base does."""
        new = [one for one in dict.fromkeys(prompts) if one not in self._known]
        found = super().weights(prompts)
        if len(new) >= _TELLING and not self._told and not any(any(self._known[one]) for one in new):
            self._told = True
            progress.message(f"{self.name}: none of {len(new)} prompts is like what it learned from: the base answers")
        return found

    @property
    def _skills(self) -> int:
        return len(self._models)

    def _weights_of(self, vectors: torch.Tensor) -> torch.Tensor:
        if vectors.shape[1] != self._chooser.width:
            raise InputError(
                f"its router reads {self._chooser.width} numbers, and hidden states have {vectors.shape[1]}",
                where=self.name,
                fix="Compose it again",
            )
        chosen = self._chooser.chosen(vectors)
        return (chosen[:, None] == torch.arange(self._skills)).float()

    def _encoder(self, weights: tuple[float, ...]) -> Network:
        # Models that are loaded beside the base may have other tokens.
        if not self._resident:
            self._hold(weights)
        return self.base

    def _hold(self, weights: tuple[float, ...]) -> None:
        """Makes `base` the model that answers."""
        if self._put == weights:
            return
        self._put = None
        number = weights.index(1.0) if any(weights) else None
        if not self._resident:
            self.base = self._reader if number is None else self._model(number)
        elif number is None:
            self._reader.assign(self._own)
        else:
            source = self._models[number]
            assert isinstance(source, WeightsSource)
            self._reader.assign(source.weights)
        self._put = weights

    def _model(self, number: int) -> Network:
        """One of the others, loaded when it is first asked.

        Raises:
            InputError: it is of another kind than the base, or has other classes.
        """
        if number not in self._loaded:
            source = self._models[number]
            loaded = source.load(self._device, self._dtype)
            if "classes" in loaded.can and loaded.labels != self._reader.labels:
                raise InputError("has other classes than the base", where=source.name, fix="Compose models of one kind")
            assert isinstance(loaded, Network)
            self._loaded[number] = loaded
        return self._loaded[number]


@functools.cache
def specialists_kind(base: type[Model]) -> type[SpecialistsModel]:
    """The class of such compositions for a kind of base."""
    return routed_like(base, SpecialistsModel)
