"""The page of forms of adapters, from what they declare."""

from __future__ import annotations

import inspect

from genepool.weights.adapter_forms import adapter_forms

_OPENING = (
    "`genepool train TASK --form NAME` makes one; `--set form.KEY=VALUE`, or `form_options` in a training file, sets "
    "its options. How to use them: [Adapter forms](../how-to/adapter-forms.md).",
    "A form that folds is plain weights wherever it is named as `BASE+FOLDER`: merged, stored as a skill, written as "
    "an adapter where its change is a product. For each of them, fold equals forward to 1e-5 "
    "(`tests/weights/test_adapter_forms.py`). The others are asked, and nothing else.",
    "Forms marked with ◆ have parts for each task: `BASE+FOLDER#TASK` names the model of one. Beside every form, the "
    "head of a classifier is trained whole.",
)


def forms_page(note: str) -> str:
    """The page, under a note that says where it is from."""
    parts = [note, "", "# Adapter forms", "", *(line for text in _OPENING for line in (text, ""))]
    parts += ["| form | when | folds | source |", "|---|---|---|---|"]
    for name, kind in adapter_forms().items():
        mark, folds = " ◆" if kind.by_task else "", f"no: {kind.why_not}" if kind.why_not else "yes"
        parts.append(f"| [`{name}`](#{name}){mark} | {kind.when} | {folds} | {kind.source} |")
    for name, kind in adapter_forms().items():
        parts += ["", f"## {name}", "", inspect.cleandoc(kind.__doc__ or ""), ""]
        if kind.traps:
            parts += [kind.traps, ""]
        parts += ["| option | type | default | meaning |", "|---|---|---|---|"]
        parts += [
            f"| `{one['name']}` | {' or '.join(str(one['type']).split(' | '))} | `{one['default']}` "
            f"| {one['description']} |"
            for one in kind.describe()["parameters"]
        ]
    return "\n".join(parts).rstrip() + "\n"
