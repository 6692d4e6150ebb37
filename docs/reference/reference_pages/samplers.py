"""The page of samplers, from what they declare."""

from __future__ import annotations

import inspect

from genepool.schema import described_options
from genepool.training.samplers import samplers

_NEEDS = {
    "nothing": "nothing",
    "loss": "the loss of each example",
    "reward": "rewards of samples",
    "loss or reward": "the loss of each example, or rewards of samples",
    "first training": "a first training",
    "answers": "answers to examples",
}
_OPENING = (
    "`genepool train TASK TASK ... --sampler NAME` lets a sampler say how many examples of a step are of each task, or "
    "which examples these are; one that observes a first training, or chooses by numbers, chooses single examples, and "
    "one task is enough. `--set sampler.KEY=VALUE`, or `sampler_options` in a training file, sets its options. Without "
    "one, all examples are taken in shuffled rounds.",
    "A sampler knows the seed and what was observed of the examples of the steps before. A training that goes on, and "
    "`verify-run`, observe the record again, to the same bits. `train.json` says under `drawn` how many examples of "
    "each task there were.",
    "A first training runs in memory before the first step, on the model that is trained, and is undone. The score "
    "that it gives to each example stands in the record (`run.sqlite`), so it runs once. It goes with objectives that "
    "learn from answers, such as likelihood.",
    "`alp_gmm`, `again`, `mbtl` and `mpts` choose by numbers that every training example has: tags such as `length=5`. "
    "They propose points, and the examples that are nearest to them make the step. What they observe of an example is "
    "the mean reward of its samples, or exp(-loss) where nothing is rewarded; `mpts` observes the loss.",
    "Some samplers have examples made: by the templates of the tasks, or by a model that writes, `sampler.writer`, "
    "whose answers must agree. They do so in rounds, before a step, by what the model does on validation examples. The "
    "record (`run.sqlite`, tables `rounds` and `made`) keeps every example with what it was made of, and each round "
    "with what it saw; `train.json` counts them under `made`, with what was refused. Prompts of validation and test "
    "examples are refused. `examples` and `tokens` are budgets of the whole training, never exceeded.",
    "Every sampler that learns from evidence has its control: `--set sampler.permuted=true` shuffles among the tasks "
    "what was observed, or among the examples of a step, or among all examples their scores. `uniform` and "
    "`stratified` are controls too.",
)


def samplers_page(note: str) -> str:
    """The page, under a note that says where it is from."""
    parts = [note, "", "# Samplers", "", *(line for text in _OPENING for line in (text, ""))]
    parts += ["| sampler | when | observes | source |", "|---|---|---|---|"]
    for name, kind in samplers().items():
        parts.append(f"| [`{name}`](#{name}) | {kind.when} | {_NEEDS[kind.needs]} | {kind.source} |")
    for name, kind in samplers().items():
        parts += ["", f"## {name}", "", inspect.cleandoc(kind.__doc__ or "")]
        if described := described_options(kind.Options):
            parts += ["", "| option | type | default | meaning |", "|---|---|---|---|"]
            parts += [
                f"| `{one['name']}` | {' or '.join(str(one['type']).split(' | '))} | `{one['default']}` "
                f"| {one['description']} |"
                for one in described
            ]
    return "\n".join(parts).rstrip() + "\n"
