"""Writes the reference pages that are made from the code: commands, files, merge methods, strategies.

Run `make docs`. A test compares the committed pages with what this writes, so they cannot fall behind.
"""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from adapter_pages import adapters_page
from form_page import forms_page
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from python_pages import python_pages
from quantised_page import quantised_page
from sampler_page import samplers_page
from stream_page import STREAM_INTRO, STREAM_NOTES

from genepool import measure
from genepool.adaptation import StreamSettings, all_adapters
from genepool.cli.main import build_app
from genepool.cli.options import Panel
from genepool.composition import Composing, all_composers
from genepool.evolution.representations import kind_for, kinds_for, representations, strategies_for
from genepool.evolution.representations.base import Vary
from genepool.evolution.strategies import strategies
from genepool.evolution.study import Study
from genepool.faithful import HeldAgainst, recorded
from genepool.faithful import table as comparison_table
from genepool.measure.gates import Gates
from genepool.merging import Recipe, all_methods
from genepool.schema import described_options
from genepool.tasks import TaskSettings
from genepool.tasks.generated import Template
from genepool.training import Training, objectives
from genepool.training.learners import learners
from genepool.training.loops import Loop
from genepool.training.loops.stage import stages
from genepool.training.rewards import rewards

HERE = Path(__file__).parent
NOTE = "<!-- Written by docs/reference/generate.py from the code; edit the code and run `make docs`. -->"


def pages() -> dict[str, str]:
    """File name -> text of every generated page."""
    return {
        "recipe.md": _models_page(
            "Recipe files",
            "`genepool merge` and `genepool plan` read a recipe. A file without the key `genepool: 1` is read as a "
            "recipe of mergekit; see [Coming from mergekit](mergekit.md).",
            Recipe,
            _RECIPE_NOTES,
        ),
        "study.md": _models_page(
            "Study files",
            "`genepool evolve` reads a study. Relative paths start at the file's folder.",
            Study,
            _STUDY_NOTES,
        ),
        "task.md": _models_page(
            "Task settings",
            "The optional `task.yaml` beside a task's `train.jsonl`, `valid.jsonl` and `test.jsonl`. A line of those: "
            '`{"id": ..., "prompt": ..., "answer": ...}`; `answer` may be a list of accepted answers; multiple choice '
            "adds `choices`. How tasks are written: [write-tasks.md](../how-to/write-tasks.md).",
            TaskSettings,
            "",
        ),
        "template.md": _models_page(
            "Templates",
            "A `template.yaml` draws the examples of a task; see [Write tasks](../how-to/write-tasks.md).",
            Template,
            "",
        ),
        "gates.md": _models_page(
            "Gates",
            "`genepool compare --gate` and `genepool train --gate` read a file of gates; see "
            "[Compare models](../how-to/compare-models.md#gates).",
            Gates,
            "",
        ),
        "training.md": _models_page(
            "Training files",
            "`genepool train` reads a training file. Relative paths start at the file's folder; see "
            "[Train models](../how-to/train-models.md).",
            Training,
            _training_notes(),
        ),
        "loops.md": _models_page(
            "Loop files",
            "`genepool train` reads a loop file: trainings whose data the model writes itself between rounds. Relative "
            "paths start at the file's folder; see [Run loops](../how-to/loops.md).",
            Loop,
            _loop_notes(),
        ),
        "compose.md": _models_page(
            "Composition files",
            "`genepool compose` reads a composition file. Relative paths start at the file's folder; see "
            "[Compose skills](../how-to/compose-skills.md).",
            Composing,
            "",
        ),
        "composers.md": _composers_page(),
        "stream-adapters.md": _stream_adapters_page(),
        "stream.md": _models_page("Streams", STREAM_INTRO, StreamSettings, STREAM_NOTES),
        "methods.md": _methods_page(),
        "strategies.md": _strategies_page(),
        "measures.md": _measures_page(),
        "adapters.md": adapters_page(NOTE),
        "adapter-forms.md": forms_page(NOTE),
        "samplers.md": samplers_page(NOTE),
        "quantised.md": quantised_page(NOTE),
        "cli.md": _commands_page(),
        **python_pages(NOTE),
    }


def _loop_notes() -> str:
    """The stages, found by being there."""
    rows = [
        f"| `{name}` | {one.__doc__.splitlines()[0]} | {one.when} | {one.source} |"  # type: ignore[union-attr]
        for name, one in stages().items()
    ]
    return "\n".join(
        [
            "## Stages",
            "",
            "An item of `first`, `round` or `last` is the name of a stage with its options.",
            "",
            "| name | what it does | when | source |",
            "|---|---|---|---|",
            *rows,
            "",
            "## Options of stages",
            "",
            "| stage | option | type | default | meaning |",
            "|---|---|---|---|---|",
            *(
                f"| `{name}` | `{one['name']}` | {' or '.join(one['type'].split(' | '))} | `{one['default']}` "
                f"| {one['description']} |"
                for name, stage in stages().items()
                for one in described_options(stage.Options)
            ),
            "",
        ]
    )


def _training_notes() -> str:
    """The objectives, the learners and the rewards, found by being there."""
    rows = [
        f"| `{name}` | {one.__doc__.splitlines()[0]} | {one.when} | {one.source} |"  # type: ignore[union-attr]
        for name, one in objectives().items()
    ]
    given = [
        f"| `{reward.name}` | {reward.__doc__.splitlines()[0]} | {reward.when} | {reward.source} |"  # type: ignore[union-attr]
        for reward in rewards().values()
    ]
    return "\n".join(
        [
            "## Objectives",
            "",
            "`--objective NAME`, or `objective` in the file.",
            "",
            "| name | what a step minimises | when | source |",
            "|---|---|---|---|",
            *rows,
            "",
            "## Options of objectives",
            "",
            "`--set KEY=VALUE`, or `options` in the file.",
            "",
            "| objective | option | type | default | meaning |",
            "|---|---|---|---|---|",
            *(
                f"| `{name}` | `{one['name']}` | {' or '.join(one['type'].split(' | '))} | `{one['default']}` "
                f"| {one['description']} |"
                for name, objective in objectives().items()
                for one in described_options(objective.Options)
            ),
            "",
            "## Learners",
            "",
            "`--learner NAME`, or `learner` in the file: the tasks are learned one after the other. See "
            "[Learn tasks in order](../how-to/learn-tasks-in-order.md).",
            "",
            "| name | what it does | when | source |",
            "|---|---|---|---|",
            *(
                f"| `{name}` | {one.__doc__.splitlines()[0]} | {one.when} | {one.source} |"  # type: ignore[union-attr]
                for name, one in learners().items()
            ),
            "",
            "| learner | option | type | default | meaning |",
            "|---|---|---|---|---|",
            *(
                f"| `{name}` | `{one['name']}` | {' or '.join(one['type'].split(' | '))} | `{one['default']}` "
                f"| {one['description']} |"
                for name, learner in learners().items()
                for one in described_options(learner.Options)
            ),
            "",
            "## Rewards",
            "",
            "The option `reward` names one, or several with their weights: `{metric: 1, majority: 0.5}`. A map instead "
            "of a weight sets options too: `{majority: {weight: 0.5, after: '='}}`.",
            "",
            "| name | what it rewards | when | source |",
            "|---|---|---|---|",
            *given,
            "",
            "| reward | option | type | default | meaning |",
            "|---|---|---|---|---|",
            *(
                f"| `{name}` | `{one['name']}` | {' or '.join(one['type'].split(' | '))} | `{one['default']}` "
                f"| {one['description']} |"
                for name, reward in rewards().items()
                for one in described_options(reward.Options)
            ),
            "",
        ]
    )


_RECIPE_NOTES = """\
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

_STUDY_NOTES = """\
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


def _models_page(title: str, intro: str, model: type[BaseModel], notes: str) -> str:
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
        text = "required" if default is PydanticUndefined else f"`{_plain(default)}`"
        lines.append(f"| `{key}` | {_type(field.annotation)} | {text} | {field.description or ''} |")
    return [*lines, ""]


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if not value or "\n" in value else value
    if isinstance(value, BaseModel):
        return "{}"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]


def _type(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type(part) for part in inner if part is not type(None))
    if origin is list or (origin is tuple and inner[-1] is Ellipsis):
        return f"list of {_type(inner[0])}"
    if origin is tuple:
        return "[" + ", ".join(_type(part) for part in inner) + "]"
    if origin is dict:
        return f"map of {_type(inner[1])}" if inner[1] is not Any else "map"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return names.get(annotation, str(annotation))


def _methods_page() -> str:
    parts = [
        NOTE, "", "# Merge methods", "",
        "In the formulas `th0` is the base, `x_i` is model i, and `t_i = x_i - th0` is its task vector. Defaults come "
        "from the papers. Recipes in mergekit's format get mergekit's defaults. `genepool methods NAME` prints "
        "the same.",
        "",
        _FAITHFUL,
    ]  # fmt: skip
    for method in all_methods().values():
        shown = method.to_dict()
        doc = " ".join((type(method).__doc__ or "").split())
        parts += [f"## {method.name}", "", doc, "", f"    {method.formula}", "", f"*When:* {method.when}", ""]
        passes = f"{shown['passes']} pass{'es' if shown['passes'] > 1 else ''}"
        parts += [f"*Source:* {method.source}. *Takes* {method.needs()}; {passes} over the inputs.", ""]
        if method.parameters:
            parts += ["| parameter | for | default | meaning | source of the default |", "|---|---|---|---|---|"]
        for parameter in shown["parameters"]:
            default = "required" if parameter["required"] else f"`{_plain(parameter['default'])}`"
            scope = "each model" if parameter["per_model"] else "the merge"
            choices = f" One of {', '.join(parameter['choices'])}." if parameter["choices"] else ""
            parts.append(
                f"| `{parameter['name']}` | {scope} | {default} | {parameter['doc']}{choices} | {parameter['source']} |"
            )
        parts += ["", *_held_against(method.comparisons)] if method.parameters else _held_against(method.comparisons)
    return "\n".join(parts).rstrip() + "\n"


def _composers_page() -> str:
    parts = [
        NOTE, "", "# Composers", "",
        "`genepool compose METHOD` takes one of these, and so does the key `method` of a [composition file]"
        "(compose.md). An option is set by `--set NAME=VALUE`. In the formulas `th0` is the base, `t_i` is the task "
        "vector of skill i and `b` is a tensor. [Compose skills](../how-to/compose-skills.md) explains how to choose "
        "one. "
        "`genepool compose METHOD --list` prints the same.", "",
    ]  # fmt: skip
    for composer in all_composers().values():
        parts += [f"## {composer.name}", "", inspect.getdoc(composer) or "", "", f"*When:* {composer.when}", ""]
        low, high = composer.skills
        count = f"{low} or more" if high is None else str(low) if low == high else f"{low} to {high}"
        parts += [
            f"*Source:* {composer.source}. *Takes* {count} skills; {composer.needs_in_words()}. *Gives* "
            f"{_GIVEN[composer.out]}. *Cost:* {composer.cost}.", "",
        ]  # fmt: skip
        parameters = composer.parameters()
        if parameters:
            parts += ["| option | value | default | meaning |", "|---|---|---|---|"]
        for parameter in parameters:
            kind, default = parameter["type"].replace("|", "or"), _plain(parameter["default"])
            parts.append(f"| `{parameter['name']}` | {kind} | `{default}` | {parameter['description']} |")
        parts += [""] if parameters else []
    return "\n".join(parts).rstrip() + "\n"


def _stream_adapters_page() -> str:
    parts = [
        NOTE, "", "# Stream adapters", "",
        "`genepool adapt --adapter NAME` takes one of these. An option is set by `--set NAME=VALUE`. In the formulas "
        "`p_i` is the prediction for example i of a batch, `H` is its entropy in nats, `C` is the number of classes, "
        "`th` are the weights that are trained and `th0` those of the source model. [Adapt models to a stream]"
        "(../how-to/adapt.md) explains how to choose one. `genepool adapt --list` prints the same.", "",
    ]  # fmt: skip
    for name, adapter in all_adapters().items():
        needs = ", ".join(sorted(adapter.needs)) or "nothing else"
        parts += [f"## {name}", "", inspect.getdoc(adapter) or "", "", f"*When:* {adapter.when}.", ""]
        parts += [
            f"*Source:* {adapter.source}. *Trains* {_TRAINED[adapter.trains]}. *Needs* {needs}. *Order:* "
            f"{adapter.order}", "",
        ]  # fmt: skip
        options = described_options(adapter.Options)
        if options:
            parts += ["| option | value | default | meaning |", "|---|---|---|---|"]
        for one in options:
            kind, default = one["type"].replace("|", "or"), _plain(one["default"])
            parts.append(f"| `{one['name']}` | {kind} | `{default}` | {one['description']} |")
        parts += [""] if options else []
    return "\n".join(parts).rstrip() + "\n"


_TRAINED = {
    "norm": "the norm layers",
    "all": "all weights",
    "added": "weights of its own beside the model",
    "nothing": "nothing",
}

_GIVEN = {"weights": "a model folder", "adapter": "an adapter", "module": "a composition beside its skills"}


_FAITHFUL = """\
*Faithful to* says whom each was held against, and the largest difference between two numbers.

| how | meaning |
|---|---|
| run | the other code was run on the same models or numbers, in the type that the table names |
| formula | the formula was written a second time, in numpy and float64 |
| read, not run | somebody read that commit; nothing was computed |
| is what runs | the library does this part of the work |

genepool computes merges in float32. The weights of the models are about 0.3 in size and their changes about 0.015, so
differences up to 5e-7 are rounding. `python -m benchmarks.faithful --update` measures all of it again.
"""


def _held_against(comparisons: Sequence[HeldAgainst]) -> list[str]:
    if not comparisons:
        return ["*Faithful to:* held against nobody.", ""]
    return ["*Faithful to*", "", *comparison_table(comparisons), ""]


def _strategies_page() -> str:
    parts = [
        NOTE, "", "# Search strategies", "",
        "The key `strategy` of a [study](study.md) names one of these. `genepool strategies NAME` prints the same. "
        "[Breed models](../how-to/breed-models.md) explains how to choose one, and "
        "[Run studies](../how-to/run-studies.md) how to run it.", "", _FAITHFUL,
    ]  # fmt: skip
    for entry in strategies().values():
        passes = f"{entry.passes} time{'s' if entry.passes > 1 else ''}"
        others = [f"`{kind}`" for kind in kinds_for(entry) if kind != kind_for(entry)]
        varied = f"`{kind_for(entry)}` (or {' or '.join(others)}, if `vary` says so)"
        facts = f"It varies {varied}, scores each candidate {passes}, and uses {' and '.join(entry.needs)}."
        steady = " It can be `steady`." if entry.build.steady else ""
        parts += [f"## {entry.name}", "", entry.when, "", f"*Source:* {entry.source}. {facts}{steady}", ""]
        parameters = entry.parameters()
        if parameters:
            parts += ["| option | value | default | meaning |", "|---|---|---|---|"]
        for parameter in parameters:
            kind = parameter["type"].replace("|", "or")
            default = _plain(parameter["default"])
            parts.append(f"| `{parameter['name']}` | {kind} | `{default}` | {parameter['description']} |")
        parts += [""] if parameters else []
        parts += _held_against(entry.comparisons)
    return "\n".join(parts).rstrip() + "\n"


def _measures_page() -> str:
    held = recorded("genepool.measure")
    parts = [
        NOTE, "", "# Measures", "",
        "These functions of [`genepool.measure`](python/genepool.measure.md) were held against other implementations. "
        "The functions of the module that are not named here were not.", "",
        "| how | meaning |", "|---|---|",
        "| run | the library was run on the same numbers |",
        "| formula | the definition was written a second time |", "",
        "`python -m benchmarks.faithful --update` measures all of it again.", "",
    ]  # fmt: skip
    for name, comparisons in held.items():
        doc = (inspect.getdoc(getattr(measure, name)) or "").split("\n\n")[0]
        parts += [f"## {name}", "", " ".join(doc.split()), "", *comparison_table(comparisons), ""]
    return "\n".join(parts).rstrip() + "\n"


_COMMANDS_INTRO = """\
`genepool COMMAND --help` prints the same.

| exit code | meaning |
|--:|---|
| 0 | success |
| 1 | a gate or a check failed |
| 2 | the input is wrong |
| 3 | genepool has a fault |
| 130 | you pressed Ctrl-C, or the command got SIGTERM |

An error is one line on stderr. With `--json` a command prints one JSON object on stdout. It contains `"schema": 1`.
Every command that writes a path takes it as `--out`. If the path is also the last argument, you may use either.

`genepool --install-completion` lets your shell (bash, zsh, fish or PowerShell) complete commands and options.
`genepool --show-completion` prints what it would install.
"""


def _commands_page() -> str:
    app = typer.main.get_command(build_app())
    parts = [NOTE, "", "# Commands", "", _COMMANDS_INTRO]
    commands = app.commands  # type: ignore[attr-defined]
    for panel in Panel:
        names = sorted(name for name, command in commands.items() if command.rich_help_panel == panel)
        parts += [f"## {panel}", ""]
        for name in names:
            for words, command in _below(commands[name], (name,)):
                parts += _command(words, command)
    parts += ["## Of genepool itself", "", *_parameters([one for one in app.params if one.param_type_name == "option"])]
    return "\n".join(parts).rstrip() + "\n"


def _below(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield words, command
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        yield from _below(inner, (*words, name))


def _command(words: tuple[str, ...], command: Any) -> list[str]:
    lines = [f"### genepool {' '.join(words)}", "", *_prose(command.help)]
    if hasattr(command, "commands"):
        return [*lines, *(f"- [genepool {' '.join(words)} {name}](#genepool-{'-'.join(words)}-{name})"
                          for name in sorted(command.commands)), ""]  # fmt: skip
    return lines + _parameters(command.params)


def _prose(text: str) -> list[str]:
    """A command's docstring as Markdown: its indented examples in one block."""
    lines: list[str] = []
    block = False
    for line in text.replace("[bold]", "**").replace("[/bold]", "**").splitlines():
        indented = line.startswith("    ")
        if indented and not block:
            lines.append("```console")
        if line and not indented and block:
            lines += ["```", ""]
        block = indented or (block and not line)
        if not (block and not line):
            # A placeholder such as full/<skill> is no HTML.
            lines.append(line.removeprefix("    ") if block else line.replace("<", "&lt;"))
    return [*lines, *(["```"] if block else []), ""]


def _parameters(parameters: list[Any]) -> list[str]:
    lines = ["| | value | default | meaning |", "|---|---|---|---|"]
    for one in parameters:
        if one.param_type_name == "argument":
            name = f"`{(one.metavar or one.name).upper()}`"
        else:
            name = " / ".join(f"`{spelling}`" for spelling in (*one.opts, *one.secondary_opts))
        is_flag = one.type_descriptor.annotation is bool
        default = "required" if one.required else _shown(one.default)
        value = "" if is_flag else _value(one)
        lines.append(f"| {name} | {value} | {default} | {one.help} |")
    return [*lines, ""]


def _shown(default: Any) -> str:
    if default is None or default is False:
        return ""
    return f"`{default.value if isinstance(default, Enum) else _plain(default)}`"


def _value(parameter: Any) -> str:
    kind = parameter.type_descriptor.annotation
    several = get_origin(kind) is list
    inner = get_args(kind)[0] if several else kind
    if isinstance(inner, type) and issubclass(inner, Enum):
        return " or ".join(f"`{one.value}`" for one in inner)
    name = {Path: "path"}.get(inner) or _type(inner)
    return f"{name}, several" if several else name


if __name__ == "__main__":
    for name, text in pages().items():
        (HERE / name).parent.mkdir(exist_ok=True)
        (HERE / name).write_text(text)
        print(f"wrote {HERE / name}")
