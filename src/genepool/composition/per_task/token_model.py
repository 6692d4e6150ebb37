"""A frozen classifier that reads, behind the places of an input, tokens that a tokenizer of the task makes of it.

Task Tokens (Vainshtein et al. 2025, arXiv:2503.22886): the network is never changed, and each task has a small
tokenizer of its own. Uses tasks.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import torch
from torch import nn

from genepool.composition.around_one import ModelAroundOne
from genepool.errors import InputError
from genepool.tasks.answers import AnswerBatch
from genepool.tasks.models import Capability, Model
from genepool.tasks.network import Network
from genepool.tasks.tokenized import TokenizedNetwork


class TaskTokenizers(nn.Module):
    """For each task a perceptron that makes tokens of the mean of an input's embedded places.

    Args:
        width: of an embedded place and of a token.
        tasks: how many there are.
        tokens: of a task.
        hidden: units between.
    """

    def __init__(self, width: int, tasks: int, tokens: int, hidden: int) -> None:
        super().__init__()
        self.width = width
        self.inner = nn.ModuleList(nn.Linear(width, hidden) for _ in range(tasks))
        self.outer = nn.ModuleList(nn.Linear(hidden, tokens * width) for _ in range(tasks))

    def forward(self, places: torch.Tensor, task: int) -> torch.Tensor:
        """Tokens, (rows, tokens, width).

        Args:
            places: embedded, (rows, places, width).
            task: its number.
        """
        seen = nn.functional.layer_norm(places.mean(1), places.shape[-1:])
        tokens: torch.Tensor = self.outer[task](nn.functional.gelu(self.inner[task](seen)))
        return tokens.view(len(tokens), -1, self.width)


class TokenModel(ModelAroundOne):
    """A network and the tokenizers; `token_kind` gives the class for a kind of network.

    Args:
        base: the network; it is not changed.
        tokenizers: called `model`, as the network of any other kind.
        task: the number of the task that is asked.
        name: what the user calls the composition.
        fingerprint: of the composition.

    Raises:
        InputError: the network's layers cannot be told apart, or attend by a mask.
    """

    can: ClassVar[frozenset[Capability]] = frozenset({"classes"})

    def __init__(self, base: Network, tokenizers: TaskTokenizers, task: int, name: str, fingerprint: str) -> None:
        super().__init__(base, name, fingerprint)
        self.model, self.task = tokenizers, task
        layers = transformer_layers(base)
        self._first, self._last = layers[0], layers[-1]

    def answering(self, prompts: Sequence[str]) -> AbstractContextManager[None]:
        """See `ModelAroundOne.answering`."""
        return self._adding()

    def answer_logits(self, batch: AnswerBatch) -> torch.Tensor:
        """See `Model.answer_logits`."""
        with self._adding():
            return self.base.answer_logits(batch)

    @contextmanager
    def _adding(self) -> Iterator[None]:
        """Inside, tokens enter before the first layer and leave behind the last."""
        counts: list[int] = []

        def enter(_module: nn.Module, places: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            tokens = self.model(places[0], self.task)
            counts.append(tokens.shape[1])
            return (torch.cat([places[0], tokens], 1), *places[1:])

        def leave(_module: nn.Module, _places: Any, output: Any) -> Any:
            count = counts.pop()
            if isinstance(output, tuple):
                return (output[0][:, :-count], *output[1:])
            return output[:, :-count]

        handles = [self._first.register_forward_pre_hook(enter), self._last.register_forward_hook(leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def transformer_layers(model: Network) -> Sequence[nn.Module]:
    """The layers of a classifier whose places attend to each other without a mask, in their order.

    Raises:
        InputError: it has a mask, or its layers cannot be told apart.
    """
    if isinstance(model, TokenizedNetwork):
        raise InputError(
            f"{model.kind} attends by a mask, which has no places for the tokens of a task",
            where=model.title,
            fix="Use a classifier of images that is a vision transformer",
        )
    config = getattr(model.model, "config", None)
    count = getattr(config, "num_hidden_layers", None) or getattr(getattr(model.model, "shape", None), "layers", None)
    for module in model.model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise InputError(
        "its layers cannot be told apart",
        where=model.title,
        fix="Use a vision transformer of transformers",
    )


@functools.cache
def token_kind(base: type[Model]) -> type[TokenModel]:
    """The class of such compositions for a kind of network."""
    words = base.kind.split(" ", 1)[1]
    return type(
        f"Token{base.__name__}",
        (TokenModel,),
        {"kind": f"task tokens before {base.kind}", "reads": base.reads, "__doc__": f"Task tokens before a {words}."},
    )
