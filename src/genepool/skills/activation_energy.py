"""What flows through a model's weights on some examples: the mean square of each column's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from genepool import progress
from genepool.errors import InputError
from genepool.tasks import LanguageModel, Task

if TYPE_CHECKING:
    import torch

_BATCH = 16


def input_energies(
    model: LanguageModel, tasks: Sequence[Task], *, split: str = "train", limit: int = 128
) -> dict[str, torch.Tensor]:
    """The mean square of what every linear layer's weights are multiplied by.

    Args:
        model: what to run.
        tasks: whose examples it reads, prompts and answers.
        split: which of them.
        limit: how many of each task.

    Returns:
        Name of the weight -> `(columns,)` float32.

    Raises:
        InputError: the tasks have no examples in this split.
    """
    import torch

    texts = [task.prompt_for(e, model) + e.answer for task in tasks for e in list(task.examples(split))[:limit]]
    if not texts:
        raise InputError(f"the split {split} has no examples", where="--calibrate", fix="Name a folder of tasks")
    totals: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}
    kept: list[torch.Tensor] = []

    def watch(name: str) -> Any:
        def hook(_: Any, inputs: tuple[Any, ...]) -> None:
            seen = inputs[0].detach().float()[kept[0]]
            squares = seen.double().square().sum(0)
            totals[name] = totals[name] + squares if name in totals else squares
            counts[name] = counts.get(name, 0) + len(seen)

        return hook

    layers = [(n, m) for n, m in model.model.named_modules() if isinstance(m, torch.nn.Linear)]
    handles = [layer.register_forward_pre_hook(watch(f"{name}.weight")) for name, layer in layers]
    try:
        with torch.inference_mode(), progress.bar("calibrating", len(texts), "examples") as bar:
            for start in range(0, len(texts), _BATCH):
                tokens = [model.encode(text)[: model.context] for text in texts[start : start + _BATCH]]
                longest = max(map(len, tokens))
                ids = torch.zeros(len(tokens), longest, dtype=torch.long)
                mask = torch.zeros_like(ids)
                for row, known in enumerate(tokens):
                    ids[row, : len(known)] = torch.tensor(known)
                    mask[row, : len(known)] = 1
                kept[:] = [mask.bool().to(model.device)]
                model.model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device))
                bar.advance(len(tokens))
    finally:
        for handle in handles:
            handle.remove()
    return {name: (total / counts[name]).float().cpu() for name, total in totals.items()}
