"""The text of the page on the format of streams, below the table of its settings; `generate.py` writes the page."""

from __future__ import annotations

STREAM_INTRO = (
    "`genepool adapt --stream` takes a folder: `stream.json` says what the stream is, `stream.jsonl` holds its "
    "examples. [Adapt models to a stream](../how-to/adapt.md) shows how to use one. This page is the whole format."
)

# ruff: noqa: E501
STREAM_NOTES = """\
## Examples

`stream.jsonl` has one JSON object a line.

| key | value | meaning |
|---|---|---|
| `id` | text | Names the example. Each has its own. |
| `input` | nested lists of numbers | What the model reads, as it reads it: 64 pixels from 0 to 1 for a model of the testbed, `[channels][height][width]` for a classifier of images. All inputs of a stream have one shape. NaN and infinity are refused. |
| `prompt` | text | What the model reads, instead of `input`: a text, 64 whole numbers, or the file of an image within the stream's folder, named from there. |
| `answer` | text | The right class. Without it the label never comes, and the example counts for no score. |
| `domain` | text | Where the example is from, such as the name of a corruption. Adapters never see it. |
| `severity` | 1 to 5 | How hard it is. The order `gradual` needs it. |
| `known` | true or false | False for a class that the model cannot know. Such an example counts for no accuracy; how well the entropy tells it from others is told instead. |

A causal language model has no classes. `choices` in `stream.json` names the answers that it chooses among, and its
prediction is how likely it is to write each of them after the prompt. Every answer is one of them.

`labels.jsonl` may hold answers that came later, as lines `{"id": "1", "answer": "cat"}`. A label for an example that
never came is an error.

`source.jsonl` may hold examples of what the model was trained on, with `id`, `input` or `prompt`, and `answer`. Some
adapters need them.

## Series

Where stream.json has `lookback` and `horizon`, a line of `stream.jsonl` is one step of time. Its `input` holds a number
for each variable, in units of the training: `{"id": "1990-03", "input": [0.31], "domain": "late"}`. A step has no `answer`,
`severity` or `known`. An example is a window: `lookback` steps that the model reads and the `horizon` steps after them,
which it forecasts. Its domain is that of the first step that is forecast. The next window begins `stride` steps later.

A series comes in the order of time and is gone through once. Nobody needs to say when labels come: after a batch
everything is known up to the last step that its windows read. So a batch becomes known whole some batches later, and of
the batch itself the first steps are known at once.

The score of a forecast is 1 / (1 + mean squared error). Windows that overlap share most of what is forecast, so the
interval of a verdict takes as many neighbours as a horizon is long as one example.

`source.jsonl` holds the steps of the training. Its domains may be several systems of one kind.

A forecaster is a folder as other models are. Its `config.json` says

| key | value | meaning |
|---|---|---|
| `model_type` | `genepool_forecaster` | the kind of model |
| `lookback`, `horizon` | whole numbers | steps that are read, and forecast |
| `hidden_size` | whole number | units of a hidden layer beside the linear map; 0 for none |
| `normalised` | `none`, `last` or `window` | what is taken from a window before and given back after: nothing, its last value, or its mean and standard deviation |

Its tensors are `linear.weight` (horizon, lookback) and `linear.bias`; with a hidden layer also those of `first` and
`second`. Variables do not mix, so a forecaster takes series of any number of them.

## Orders

| order | in which order the examples come |
|---|---|
| `file` | As in the file, the same in every round. |
| `shuffled` | Domain after domain, in the order in which they first come in the file; within a domain by chance. |
| `correlated` | Domain after domain; within one, labels come in runs. Each class is shared out over as many slices as there are classes by a Dirichlet distribution of concentration 0.1, as in NOTE (arXiv:2208.05117). |
| `gradual` | Domain after domain; within one, severities 1-2-3-4-5-4-3-2-1. Half of the examples of a severity come on the way up, the others on the way down. |
| `reset` | As `shuffled`, and the adapter is put back to its start at every domain. |
| `mixed` | All examples of all domains by chance. |

Chance belongs to (seed, round), so every round has another order and a run that was killed goes on with the same one. A
last example that would stand alone goes into the batch before it.

The digest of a stream is over its examples, the order of the file, `order`, `batch`, `choices` and the source examples. A skill
that came of a stream names it. Of image files it holds what is in them, not their names.

## Example

```json
{"genepool_stream": 1, "order": "mixed", "batch": 64, "rounds": 15}
```

```json
{"id": "noise-0001", "prompt": "images/0001.png", "answer": "cat", "domain": "noise", "severity": 3}
```
"""
