"""Pages of files that genepool reads, from the models that they are checked with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from genepool.evolution.representations import kind_for, representations, strategies_for
from genepool.evolution.representations.base import Vary
from genepool.evolution.strategies import strategies
from reference_pages import NOTE
from reference_pages.words import plain, type_in_words

RECIPE_NOTES = """\
## Values that vary over the model

A parameter has one of these forms:

- A number, a word, or true or false. It is the same everywhere.
- A gradient such as `[0.2, 0.8]`. It is interpolated from the first layer to the last one. Embeddings, the head and the
  final norm take the first value.
- A list of conditions. The first condition that matches a tensor counts:

```yaml
weight:
  - {role: attention, layers: [0, 3], value: 0.4}   # layers 0 to 3, both included
  - {filter: down_proj, value: 0.1}                 # part of the tensor's name, in the result's or another layout
  - {value: [0.5, 0.9]}                             # everything else, as a gradient
```

Roles are attention, mlp, norm, embedding, head and other. genepool finds the role of a tensor from its name and shape.
If no condition matches, genepool looks at the next wider level: first the parameters of the model, then those of the
slice, then those of the recipe, then the default of the method. A layer that does not exist is an error. So is a
gradient with more values than layers.

[Name models](../how-to/name-models.md) explains how to name models and how to nest merges.

## Example

```yaml
genepool: 1
method: ties
base: models/base
models:
  - model: models/reverse
    parameters: {weight: 1.0}
  - model: models/base+adapters/sort
parameters:
  density: 0.5
dtype: bfloat16
```
"""


STUDY_NOTES = """\
## Older files

Files from before the key `vary` still work. They use keys at the top level instead. A file uses either `vary` or these
keys.

| older keys | kind |
|---|---|
| `method`, `parameters`, `search` | `merge_parameters` |
| `breed: {form: models}` or `breed: {form: adapters}`, and `learn` | `whole_models`, `adapters` |
| `singular` | `singular_values` |

## Example

```yaml
study: 1
base: testbed/base
skills: [testbed/full/reverse, testbed/full/sort]
vary:
  kind: merge_parameters
  method: task_arithmetic
  parameters: {lambda: 1.0}
  search:
    weight: {low: 0.0, high: 1.2, start: 0.5, per: {layer_groups: 2, roles: [attention, mlp]}}
tasks: {dir: testbed/tasks, valid: 128, weights: {generic: 2}}
strategy: cma_es
budget: {evaluations: 200}
seed: 0
```
"""


def models_page(title: str, intro: str, model: type[BaseModel], notes: str) -> str:
    parts = [NOTE, "", f"# {title}", "", intro, ""]
    seen: list[type[BaseModel]] = []
    queue = [model]
    while queue:
        current = queue.pop(0)
        if current in seen:
            continue
        seen.append(current)
        inner = [kind for field in current.model_fields.values() for kind in _models_in(field.annotation)]
        parts += _table(current, current.__name__)
        if current is Vary:
            for kind, representation in representations().items():
                parts += _table(representation.Options, f"vary: {kind}", _searched_by(kind), leave_out=("kind",))
                inner += [one for f in representation.Options.model_fields.values() for one in _models_in(f.annotation)]
        queue += inner
    return "\n".join([*parts, notes]).rstrip() + "\n"


def _searched_by(kind: str) -> str:
    names = [f"`{name}`" for name in strategies_for(kind)]
    usual = [f"`{name}`" for name, entry in strategies().items() if kind_for(entry) == kind]
    default = f" It is the default of {', '.join(usual)}." if usual else ""
    return f"*Searched by* {', '.join(names)}.{default}"


def _table(model: type[BaseModel], title: str, more: str = "", *, leave_out: Sequence[str] = ()) -> list[str]:
    doc = " ".join((model.__doc__ or "").split("\n\n")[0].split())
    lines = [f"## {title}", "", doc, "", *([more, ""] if more else [])]
    fields = {name: field for name, field in model.model_fields.items() if name not in leave_out}
    lines += ["| key | value | default | meaning |", "|---|---|---|---|"] if fields else []
    for name, field in fields.items():
        key = field.alias or name
        default = field.get_default(call_default_factory=True)
        text = "required" if default is PydanticUndefined else f"`{plain(default)}`"
        lines.append(f"| `{key}` | {type_in_words(field.annotation)} | {text} | {field.description or ''} |")
    return [*lines, ""]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]
