"""Asking a model, and applying a candidate, on the tiny testbed: against transformers' own `generate` and the disk."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.measuring import table
from genepool import progress
from genepool.merging import Recipe, plan_merge, run_plan
from genepool.tasks import LanguageModel, Ledger, Task, evaluate, load_tasks
from genepool.testbed import Testbed, build
from genepool.weights import load_resident, open_weights

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
    asked = table("Asking", note, ("what", "genepool", "transformers", "ratio"), rows)
    return asked + "\n" + _applying(bed, model, task)


def _applying(bed: Testbed, model: LanguageModel, task: Task) -> str:
    base = open_weights(bed.base)
    held = load_resident(base)
    names = [str(path) for path in bed.full.values()]
    sources = {"base": held} | {n: load_resident(open_weights(n, base=base), (base, held)) for n in names}
    asking = _seconds(lambda: _with_genepool(model, task, False))
    rows = []
    for method, parameters in (("task_arithmetic", {}), ("ties", {"density": 0.5}), ("dare_ties", {"density": 0.5})):
        recipe = Recipe(method=method, base="base", models=names, parameters=parameters)
        plan = plan_merge(recipe, sources)
        memory = _seconds(lambda recipe=recipe, plan=plan: model.assign(plan_merge(recipe, like=plan).weights()))
        disk = _seconds(lambda recipe=recipe: _through_the_disk(recipe.model_copy(update={"base": str(bed.base)})))
        rows.append(
            [method, f"{1e3 * memory:.1f}", f"{1e3 * disk:.1f}", f"{disk / memory:.1f}", f"{memory / asking:.0%}"]
        )
    note = (
        "Milliseconds to make a candidate ready to be asked: in place in memory, against merging to a folder and "
        f"loading it, both in this process. The last column is the share of asking it {EXAMPLES} examples."
    )
    return table("Applying a candidate", note, ("method", "in memory", "through the disk", "ratio", "of asking"), rows)


def _through_the_disk(recipe: Recipe) -> None:
    with tempfile.TemporaryDirectory() as place:
        LanguageModel.load(open_weights(run_plan(plan_merge(recipe), Path(place) / "out")))


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
