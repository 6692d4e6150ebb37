"""Puts the tasks of a digits testbed to models: weights in, one outcome per example out, through the ledger or not.

The counterpart of `genepool.tasks.evaluate` for models that are no language models; what comes back is the same table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from genepool.errors import InputError
from genepool.tasks import Example, Ledger, OutcomeTable, Task
from genepool.tasks.ledger import Outcome
from genepool.tasks.table import Cell
from genepool.testbed.digits.images import encode
from genepool.testbed.digits.model import DigitsTransformer, Shape
from genepool.threads import torch_threads
from genepool.weights import Weights, open_weights

_BATCH = 512


class DigitsModel:
    """A digits model in memory, ready to be asked; other weights can be copied into it in place.

    Attributes:
        model: the network, in evaluation mode.
    """

    def __init__(self, weights: Weights, model: DigitsTransformer) -> None:
        self.model, self._weights = model.eval(), weights
        self._encoded: dict[str, torch.Tensor] = {}

    @classmethod
    def load(cls, weights: Weights) -> DigitsModel:
        """Builds the model that `weights.config` describes, with the tensors of `weights`.

        Raises:
            InputError: they are not a digits model's.
        """
        result = cls(weights, DigitsTransformer(Shape.of(weights.config, weights.name)))
        result.assign(weights)
        return result

    @property
    def name(self) -> str:
        """Of the weights the model holds now."""
        return self._weights.name

    @property
    def fingerprint(self) -> str:
        """Of the weights the model holds now."""
        return self._weights.fingerprint()

    def assign(self, weights: Weights) -> None:
        """Copies other tensors into the model in place; it then is that model, by name and fingerprint.

        Raises:
            InputError: the tensors are not those of this model's shape.
        """
        targets = dict(self.model.named_parameters())
        for name in sorted(set(targets) ^ set(weights.names())):
            raise InputError(
                f"{'lacks' if name in targets else 'has'} the tensor {name}, unlike the model of its config.json",
                where=weights.name,
                fix="Name a model built with --bed digits, or merged from such",
            )
        for name, target in targets.items():
            if tuple(weights.info(name).shape) != tuple(target.shape):
                raise InputError(
                    f"{name} is {list(weights.info(name).shape)} where the model has {list(target.shape)}",
                    where=weights.name,
                    fix="Config and weights come from different models",
                )
        with torch.no_grad():
            for name, target in targets.items():
                target.copy_(weights.read(name))
        self._weights = weights

    def answers(self, examples: Sequence[Example]) -> list[Outcome]:
        """One outcome per example: the digit read, and the log-likelihood of the right one."""
        pixels = torch.stack([self._pixels(example.prompt) for example in examples])
        with torch.inference_mode():
            logits = torch.cat([self.model(part) for part in torch.split(pixels, _BATCH)]).log_softmax(-1)
        read, likelihoods = logits.argmax(-1).tolist(), logits.tolist()
        return [
            Outcome(float(str(digit) in example.answers), str(digit), {"logprob": row[int(example.answer)]})
            for example, digit, row in zip(examples, read, likelihoods, strict=True)
        ]

    def _pixels(self, prompt: str) -> torch.Tensor:
        """A comparison of merges asks the same images hundreds of times: each is taken apart once."""
        if prompt not in self._encoded:
            self._encoded[prompt] = encode(prompt)
        return self._encoded[prompt]


def ask(
    models: Sequence[str | Path | Weights | DigitsModel],
    tasks: Sequence[Task],
    *,
    split: str = "test",
    ledger: Ledger | None = None,
    limit: int | None = None,
    threads: int | None = 1,
) -> OutcomeTable:
    """Every model on every task, one outcome per example.

    Args:
        models: names to open, weights (a merge that was never written, too), or models in memory.
        tasks: what `genepool.tasks.load_tasks` reads from the testbed's `tasks` folder.
        split: which examples.
        ledger: where outcomes come from and go to; none are kept without one.
        limit: only the first so many examples of each task.
        threads: torch's threads while computing: part of what makes a result repeatable to the last bit.

    Raises:
        InputError: a model is not of the digits testbed, or a task's prompts are no images.
    """
    examples = {task.name: list(task.examples(split))[:limit] for task in tasks}
    cells: dict[tuple[str, str], Cell] = {}
    fingerprints: dict[str, str] = {}
    with torch_threads(threads):
        for given in models:
            opened = open_weights(given) if isinstance(given, str | Path) else given
            model = opened if isinstance(opened, DigitsModel) else DigitsModel.load(opened)
            fingerprints[model.name] = model.fingerprint
            for task in tasks:
                cells[model.name, task.name] = _one(model, task, examples[task.name], ledger)
    return OutcomeTable(cells, examples, fingerprints, split)


def _one(model: DigitsModel, task: Task, examples: Sequence[Example], ledger: Ledger | None) -> Cell:
    keys = [example.key for example in examples]
    known = ledger.find(model.fingerprint, task.asking, keys) if ledger is not None else {}
    fresh = [example for example in examples if example.key not in known]
    outcomes = model.answers(fresh) if fresh else []
    if ledger is not None and fresh:
        rows = [(e.key, e.id, outcome) for e, outcome in zip(fresh, outcomes, strict=True)]
        ledger.record(model.fingerprint, model.name, task.name, task.asking, rows)
    known = {**known, **{e.key: outcome for e, outcome in zip(fresh, outcomes, strict=True)}}
    return Cell(tuple(known[key] for key in keys), len(examples) - len(fresh))
