"""A classifier of texts, BERT-like: it reads a prompt and gives every class a score.

Any architecture that transformers builds with `AutoModelForSequenceClassification`; the classes are those of id2label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from genepool.tasks.answers import AnswerBatch, Question, class_batch
from genepool.tasks.classes import class_labels
from genepool.tasks.decoding import DEFAULT_BATCH, batches, check_length
from genepool.tasks.models import Capability, model_kind
from genepool.tasks.network import behind_the_body
from genepool.tasks.pretrained import build_network, named_classes
from genepool.tasks.tokenized import TokenizedNetwork, padded
from genepool.weights import Weights

if TYPE_CHECKING:
    import torch


@model_kind
class SequenceClassifier(TokenizedNetwork):
    """A text classifier and its tokenizer, ready to be asked."""

    kind = "a text classifier"
    can: ClassVar[frozenset[Capability]] = frozenset({"classes", "hidden states"})

    def __init__(self, weights: Weights, model: Any, tokenizer: Any) -> None:
        super().__init__(weights, model, tokenizer)
        self._labels = class_labels(model.config, weights.name)

    @classmethod
    def holds(cls, config: Mapping[str, Any]) -> bool:
        """Configs whose architecture has a head for whole texts."""
        return any(name.endswith("ForSequenceClassification") for name in named_classes(config))

    @classmethod
    def _built(cls, weights: Weights, kind: torch.dtype) -> Any:
        return build_network(weights, kind, "AutoModelForSequenceClassification", "text classifier", classes=True)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its classes, from id2label."""
        return self._labels

    @classmethod
    def heads_of(cls, network: Any) -> list[str]:
        """All that stands behind the network's body."""
        return behind_the_body(network)

    def class_scores(self, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> torch.Tensor:
        """See `Model.class_scores`."""
        import torch

        heads = self.encode_all(prompts)
        check_length(self, heads, unread=1)
        # Some architectures find the last token by the padding's number, and cannot without one.
        pad = self.model.config.get_text_config().pad_token_id
        found = torch.zeros(len(heads), len(self.labels))
        with torch.inference_mode():
            for rows in batches([len(head) for head in heads], 1 if pad is None else batch_size, self._token_bytes):
                ids, mask = padded([heads[row] for row in rows], self.device, pad or 0)
                logits = self.run(rows, input_ids=ids, attention_mask=mask).logits
                found[rows] = logits.float().log_softmax(-1).cpu()
        return found

    def answer_batches(
        self,
        questions: Sequence[Question],
        batch_size: int = DEFAULT_BATCH,
        *,
        closed: bool = False,
        packed: bool = False,
    ) -> list[AnswerBatch]:
        """See `Model.answer_batches`."""
        import torch

        heads = self.encode_all([one.prompt for one in questions])
        check_length(self, heads, unread=1)
        pad = self.model.config.get_text_config().pad_token_id
        made = []
        for rows in batches([len(head) for head in heads], 1 if pad is None else batch_size, self._token_bytes):
            ids, mask = padded([heads[row] for row in rows], torch.device("cpu"), pad or 0)
            inputs = {"input_ids": ids, "attention_mask": mask}
            made.append(class_batch(inputs, rows, questions, self.labels, self.title))
        return made

    def answer_logits(self, batch: AnswerBatch) -> torch.Tensor:
        """See `Model.answer_logits`."""
        inputs = {name: tensor.to(self.device) for name, tensor in batch.inputs.items()}
        logits: torch.Tensor = self.run(batch.numbers, **inputs).logits
        return logits.float()

    @cached_property
    def context(self) -> int:
        """The largest number of tokens the model can read, its special tokens included."""
        known = min(super().context, int(getattr(self.tokenizer, "model_max_length", 10**9)))
        for name, module in self.model.named_modules():
            # RoBERTa's kin count places from behind the padding's number on, so that the first ones are never used.
            if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
                known = min(known, module.num_embeddings - module.padding_idx - 1)
        return known
