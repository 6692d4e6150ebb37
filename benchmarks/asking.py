"""Asking a model of the tiny testbed, against transformers' own `generate`."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.measuring import table
from genepool import progress
from genepool.tasks import LanguageModel, Ledger, Task, evaluate, load_tasks
from genepool.testbed import build
from genepool.weights import open_weights

BED = Path(__file__).parent.parent / ".cache" / "testbed-tiny"
EXAMPLES = 512


def run() -> str:
    """The table."""
    progress.set_quiet(True)
    torch.set_num_threads(1)
    bed = build(BED, tiny=True)
    (task,) = load_tasks(bed.tasks, ["reverse"])
    model = LanguageModel.load(open_weights(bed.full["reverse"]))
    weak = LanguageModel.load(open_weights(bed.base))
    rows = []
    for name, who in (("a model that is mostly right", model), ("a model that is mostly wrong", weak)):
        peer = _seconds(lambda who=who: _with_transformers(who, task))
        for kept in (False, True):
            ours = _seconds(lambda who=who, kept=kept: _with_genepool(who, task, kept))
            what = "scores and outputs" if kept else "scores"
            rows.append([f"{what}, {name}", f"{EXAMPLES / ours:.0f}", f"{EXAMPLES / peer:.0f}", f"{peer / ours:.1f}"])
    note = (
        f"{EXAMPLES} examples of exact match, one thread, a 2-layer model; the peer is `model.generate` in batches of "
        "128. Examples per second, medians of five."
    )
    return table("Asking", note, ("what", "genepool", "transformers", "ratio"), rows)


def _with_genepool(model: LanguageModel, task: Task, keep_outputs: bool) -> None:
    with tempfile.TemporaryDirectory() as place, Ledger(Path(place) / "ledger.sqlite") as ledger:
        evaluate([model], [task], limit=EXAMPLES, ledger=ledger, keep_outputs=keep_outputs)


def _with_transformers(model: LanguageModel, task: Task) -> None:
    examples = list(task.examples("test"))[:EXAMPLES]
    tokenizer = model.tokenizer
    tokenizer.padding_side = "left"
    for start in range(0, len(examples), 128):
        prompts = [example.prompt for example in examples[start : start + 128]]
        batch = tokenizer(prompts, return_tensors="pt", padding=True)
        written = model.model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=task.settings.max_new_tokens,
            do_sample=False,
        )
        tokenizer.batch_decode(written[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)


def _seconds(work: Callable[[], object]) -> float:
    work()
    seen = []
    for _ in range(5):
        began = time.perf_counter()
        work()
        seen.append(time.perf_counter() - began)
    return statistics.median(seen)
