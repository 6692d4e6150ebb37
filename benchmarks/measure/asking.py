"""Examples per second on tasks of lm-evaluation-harness: our engine against lm-eval's runner for Hugging Face models.

Both ask the same model in this process, at the same batch size, with the same YAML files and documents; reading the
documents and building the prompts is not counted for either. Answers are compared one by one. `python -m
benchmarks.measure.asking written` asks the rows in whose name the word stands. The rule for writing, written before its
figure: 1.5 times as fast as lm-eval's runner, in every row.
"""

from __future__ import annotations

import json
import logging
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import table
from genepool import progress
from genepool.tasks import LanguageModel, Ledger, evaluate, lm_eval_tasks
from genepool.testbed import build
from genepool.weights import open_weights

BED = Path(__file__).parent.parent.parent / ".cache" / "testbed-tiny"
BATCH = 32
RUNS = 3
COUNT = 96
SHAPE = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "num_attention_heads": 8}
VOCABULARY = 32_000

_CHOICE = """
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_choice: "{{c}}"
doc_to_target: 0
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
_WRITING = """
output_type: generate_until
doc_to_text: "{{q}}"
doc_to_target: "{{c[0]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 16, do_sample: false}
metric_list: [{metric: exact_match}]
"""
_WRITING_ON = _WRITING.replace("max_gen_toks: 16", "max_gen_toks: 64")
_TEXT = """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{q}}"
metric_list: [{metric: word_perplexity}]
"""
# What the table calls it, what is asked, tokens of a prompt, tokens of a choice, tokens that all prompts begin with,
# and the share of tokens that end an answer.
ROWS = (
    ("4 choices of 1 token after 120", _CHOICE, 120, 1, 0, 0.0),
    ("4 choices of 12 tokens after 120", _CHOICE, 120, 12, 0, 0.0),
    ("4 choices of 40 tokens after 30", _CHOICE, 30, 40, 0, 0.0),
    ("16 tokens written after 120", _WRITING, 120, 4, 0, 0.0),
    ("16 tokens written after 40, and 300 that are alike", _WRITING, 40, 4, 300, 0.0),
    ("up to 64 tokens written after 30, 20 in the mean", _WRITING_ON, 30, 4, 0, 0.05),
    ("perplexity of texts of 150 tokens", _TEXT, 150, 1, 0, 0.0),
)


def run(only: str = "") -> str:
    """The table.

    Args:
        only: rows in whose name this stands.
    """
    progress.set_quiet(True)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = _model(Path(folder))
        for name, body, length, choice, shown, ends in ROWS:
            if only in name:
                file = _yaml(Path(folder), body, length, choice, shown)
                with _ending(model, ends):
                    rows.append(_row(model, name, file, COUNT))
    note = (
        f"A random Llama of {SHAPE['num_hidden_layers']} layers, width {SHAPE['hidden_size']} and "
        f"{VOCABULARY:,} tokens, batches of {BATCH}, {torch.get_num_threads()} threads; examples per CPU second, "
        f"medians of {RUNS}, building prompts not counted. Equal: examples whose scores, and what was chosen or "
        "written, agree."
    )
    heads = ("task", "genepool", "lm-eval's HFLM", "ratio", "of wall seconds", "equal")
    return table("Asking as lm-eval does", note, heads, rows)


def _model(folder: Path) -> LanguageModel:
    """A random model of a real one's proportions, with the testbed's tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    bed = build(BED, tiny=True)
    tokenizer = AutoTokenizer.from_pretrained(bed.base)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.2,
        **SHAPE,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return LanguageModel.load(open_weights(folder / "model"))


@contextmanager
def _ending(model: LanguageModel, share: float) -> Iterator[None]:
    """Inside, a share of all tokens ends an answer, beside the one that does."""
    settings = model.model.generation_config
    before = settings.eos_token_id
    more = range(VOCABULARY - int(share * VOCABULARY), VOCABULARY)
    settings.eos_token_id = [before, *more] if more else before
    model.__dict__.pop("end_tokens", None)
    try:
        yield
    finally:
        settings.eos_token_id = before
        model.__dict__.pop("end_tokens", None)


def _yaml(folder: Path, body: str, length: int, choice: int, shown: int) -> Path:
    """A task with documents of drawn letters, a token each, behind `shown` letters that are alike."""
    chance = random.Random(length * 1000 + choice)

    def letters(size: int) -> str:
        return "".join(chance.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(size))

    name = f"asked_{length}_{choice}_{shown}"
    beginning = letters(shown)
    lines = [
        {
            "q": beginning + letters(length + chance.randint(-length // 4, length // 4)) + "=",
            "c": [letters(choice) for _ in range(4)],
        }
        for _ in range(COUNT)
    ]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = f"dataset_path: json\ndataset_kwargs:\n  data_files: {{test: {folder / name}.jsonl}}\ntest_split: test\n"
    file = folder / f"{name}.yaml"
    file.write_text(f"task: {name}\n{data}{body}")
    return file


def _row(model: LanguageModel, name: str, file: Path, count: int) -> list[str]:
    (task,) = lm_eval_tasks(str(file))

    def ask() -> list[tuple[float, Any]]:
        with Ledger(":memory:") as ledger:
            found = evaluate([model], [task], ledger=ledger, batch_size=BATCH).outcomes(model.name, task.name)
        return [(outcome.score, outcome.output) for outcome in found]

    # In turn, so that a machine whose speed drifts drifts for both.
    turns = [(_with_lm_eval(model, file), _clocked(ask)) for _ in range(RUNS)]
    ((_, their_answers), (_, our_answers)) = turns[0]
    cpu, wall = (statistics.median(theirs[i] / ours[i] for (theirs, _), (ours, _) in turns) for i in range(2))
    theirs, ours = (statistics.median(turn[side][0][0] for turn in turns) for side in range(2))
    equal = sum(
        abs(a - b) <= 1e-4 * max(abs(a), 1e-12) and said in (None, heard)
        for (a, said), (b, heard) in zip(our_answers, their_answers, strict=True)
    )
    return [name, f"{count / ours:.1f}", f"{count / theirs:.1f}", f"{cpu:.1f}", f"{wall:.1f}", f"{equal} of {count}"]


def _clocked(work: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    """(CPU seconds, wall seconds) of some work, and what it returns."""
    start, began = time.process_time(), time.perf_counter()
    answer = work()
    return (time.process_time() - start, time.perf_counter() - began), answer


def _with_lm_eval(model: LanguageModel, file: Path) -> tuple[tuple[float, float], list[tuple[float, Any]]]:
    """lm-eval's runner on the requests of a task: only the runner's own work is timed."""
    import math

    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    (task,) = TaskManager(include_defaults=False).load([str(file)])["tasks"].values()
    task.set_config("num_fewshot", 0)
    runner = HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=BATCH)
    task.build_all_requests()
    kind = task.instances[0].request_type
    seconds, answers = _clocked(lambda: getattr(runner, kind)(task.instances, disable_tqdm=True))
    for instance, answer in zip(task.instances, answers, strict=True):
        instance.resps.append(answer)
    task.apply_filters()
    grouped: dict[int, list[Any]] = {}
    for instance in task.instances:
        grouped.setdefault(instance.doc_id, []).append(instance.filtered_resps["none"])
    found: list[tuple[float, Any]] = []
    for number, document in enumerate(task.eval_docs):
        metrics = task.process_results(document, grouped[number])
        if "word_perplexity" in metrics:
            logprob, words = metrics["word_perplexity"]
            found.append((math.exp(logprob / words), None))
        elif "acc_norm" in metrics:
            likelihoods = [one[0] for one in grouped[number]]
            found.append((metrics["acc_norm"], document["c"][likelihoods.index(max(likelihoods))]))
        else:
            found.append((metrics["exact_match"], grouped[number][0]))
    return seconds, found


if __name__ == "__main__":
    print(run(*sys.argv[1:]))
