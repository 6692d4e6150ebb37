"""Frozen classifiers whose hidden states a decoder reads, as one classifier that tasks can ask.

Uses `memorial_experts` and tasks.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import ClassVar

import torch

from genepool.composition.around_one import ModelAroundOne
from genepool.composition.per_task.memorial_experts import LayerFeatures, MemorialExperts
from genepool.errors import InputError
from genepool.tasks.answers import AnswerBatch, Question, class_batch
from genepool.tasks.decoding import DEFAULT_BATCH
from genepool.tasks.models import Capability, Model
from genepool.tasks.network import Network

# The same inputs are asked in every round of a training; their hidden states are kept up to so many bytes.
_REMEMBERED_BYTES = 512 * 1024**2
#: Of one input, of every model, what stands behind each of its layers, (places, width).
States = tuple[tuple[torch.Tensor, ...], ...]


class ExpertModel(ModelAroundOne):
    """Models that read an input, and the decoder that answers; `expert_kind` gives the class for a kind of base.

    Args:
        models: the base first; all have its classes, and as many layers and places.
        decoder: reads their hidden states; called `model`, as the network of any other kind.
        task: the number of the task that is asked.
        name: what the user calls the composition.
        fingerprint: of the composition.
    """

    can: ClassVar[frozenset[Capability]] = frozenset({"classes"})

    def __init__(
        self, models: Sequence[Network], decoder: MemorialExperts, task: int, name: str, fingerprint: str
    ) -> None:
        super().__init__(models[0], name, fingerprint)
        self.models, self.model, self.task = tuple(models), decoder, task
        self._known: dict[str, States] = {}
        self._bytes = 0

    def class_scores(self, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> torch.Tensor:
        """See `Model.class_scores`."""
        found = [torch.zeros(0, len(self.labels))]
        with torch.no_grad():
            for start in range(0, len(prompts), batch_size):
                features = self.features(prompts[start : start + batch_size])
                found.append(self.model(features, self.task).log_softmax(-1).cpu())
        return torch.cat(found)

    def answer_batches(
        self,
        questions: Sequence[Question],
        batch_size: int = DEFAULT_BATCH,
        *,
        closed: bool = False,
        packed: bool = False,
    ) -> list[AnswerBatch]:
        """See `Model.answer_batches`."""
        made = []
        for start in range(0, len(questions), batch_size):
            rows = range(start, min(start + batch_size, len(questions)))
            features = self.features([questions[row].prompt for row in rows])
            inputs = {
                f"{model}.{layer}": states
                for model, layers in enumerate(features.states)
                for layer, states in enumerate(layers)
            }
            made.append(class_batch({**inputs, "mask": features.mask}, rows, questions, self.labels, self.name))
        return made

    def answer_logits(self, batch: AnswerBatch) -> torch.Tensor:
        """See `Model.answer_logits`."""
        layers = range(len(self.model.gates))
        states = [[batch.inputs[f"{model}.{layer}"] for layer in layers] for model in range(len(self.models))]
        logits: torch.Tensor = self.model(LayerFeatures(states, batch.inputs["mask"]), self.task)
        return logits

    def features(self, prompts: Sequence[str]) -> LayerFeatures:
        """What the models give for some inputs, padded to the most places.

        Raises:
            InputError: a model reads an input in other places than the base, or in other layers.
        """
        known = self._states(prompts)
        counts = [len(one[0][0]) for one in known]
        mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
        padded = torch.nn.utils.rnn.pad_sequence
        states = [
            [padded([one[model][layer] for one in known], batch_first=True) for layer in range(len(known[0][model]))]
            for model in range(len(self.models))
        ]
        where = next(self.model.parameters()).device
        return LayerFeatures([[one.to(where) for one in layers] for layers in states], mask.to(where))

    def _states(self, prompts: Sequence[str]) -> list[States]:
        """Hidden states behind every layer, without the embedding's."""
        new = [one for one in dict.fromkeys(prompts) if one not in self._known]
        found: dict[str, States] = {}
        if new:
            asked = [model.hidden_states(new) for model in self.models]
            for prompt, each in zip(new, zip(*asked, strict=True), strict=True):
                own = tuple(layers[1:] for layers in each)
                for model, layers in zip(self.models, own, strict=True):
                    if len(layers) != len(own[0]) or len(layers[0]) != len(own[0][0]):
                        raise InputError(
                            f"reads an input in {len(layers)} layers of {len(layers[0])} places, and the base in "
                            f"{len(own[0])} of {len(own[0][0])}",
                            where=model.title,
                            fix="Compose models of one architecture",
                        )
                found[prompt] = own
                size = sum(one.nbytes for layers in own for one in layers)
                if self._bytes + size <= _REMEMBERED_BYTES:
                    self._known[prompt], self._bytes = own, self._bytes + size
        return [self._known.get(prompt) or found[prompt] for prompt in prompts]


@functools.cache
def expert_kind(base: type[Model]) -> type[ExpertModel]:
    """The class of such compositions for a kind of base."""
    words = base.kind.split(" ", 1)[1]
    return type(
        f"Expert{base.__name__}",
        (ExpertModel,),
        {"kind": f"task experts around {base.kind}", "reads": base.reads, "__doc__": f"Task experts around a {words}."},
    )
