"""The page of adapters, from what the kinds declare and from what benchmarks/adapters measured against PEFT."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from genepool.weights.peft.kinds import REFUSED, kinds
from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.kinds.refused import WAY_OUT
from genepool.weights.peft.prompt_settings import PROMPTS
from genepool.weights.peft.settings import COMMON, Setting

_MEASURED = Path(__file__).parents[3] / "benchmarks" / "adapters" / "largest_differences.json"
_ROLES = {"read": "read", "unused": "no effect", "refused": "refused unless off"}
_OPENING = (
    "Every kind of adapter that PEFT makes is read as `BASE+ADAPTER`, or refused by name. A setting that a table does "
    "not name is refused too, unless its value is null: what is passed over might change the result. Settings are read "
    "from adapter_config.json; ranks and sizes are those of the tensors in the file.",
    "The arithmetic is that of PEFT's own code; the sources are where a kind is from. "
    "Changes are computed in float32 from the base's stored weights. Where PEFT rounds what it takes out of a base in "
    "bfloat16 or float16, results differ by that rounding.",
    "Kinds marked with ◆ need the base's weight for their change. They are computed a whole tensor at a time, and each "
    "thread of a merge holds the one it works on in float32.",
    "The last column is the largest difference of any entry of any tensor to PEFT's `merge_and_unload`, over adapters "
    "of random numbers with the settings of `benchmarks/adapters/cases.py`; `python -m benchmarks.adapters` measures "
    "it again.",
    "Where an adapter trains the embedding or the head of a base that ties the two, `merge_and_unload` adds its change "
    "to both, which is another model than the one that was trained. There a merge by genepool equals the adapter "
    "beside its base in PEFT, unmerged: head and embedding become two tensors, and the config says so. They stay one "
    "where the file holds the same change for both.",
)


_PROMPTS = (
    "Two kinds change no weight and have the same arithmetic as a form of ours. `BASE+ADAPTER` names such a model "
    "wherever one is asked (`generate`, `evaluate`, `compare`, a teacher); what reads weights, as a merge does, says "
    "that it does not fold. `genepool export BASE+FORM OUT --type peft` writes the form for PEFT.",
    "PEFT lets an input begin behind a prefix, genepool at place 0, so keys are turned by the length of the prefix as "
    "the model's class turns them. Where that is not possible it is refused: models without rotary positions, with "
    "rotary positions that depend on the length, and models whose attention reaches back a limited number of places.",
)


def adapters_page(note: str) -> str:
    """The page, under a note that says where it is from."""
    measured = json.loads(_MEASURED.read_text(encoding="utf-8"))
    parts = [note, "", "# Adapters", "", *(line for text in _OPENING for line in (text, ""))]
    parts += ["| kind | PEFT's name | source | difference to PEFT |", "|---|---|---|---|"]
    for kind in kinds().values():
        mark = " ◆" if kind.needs_base else ""
        figure = f"{measured[kind.peft_type]:.1e}" if measured[kind.peft_type] else "none"
        parts.append(f"| [{kind.title}](#{_anchor(kind)}){mark} | `{kind.peft_type}` | {kind.source} | {figure} |")
    parts += ["", "## Refused kinds", "", f"They change no weight, or not one that can be known. {WAY_OUT}.", ""]
    parts += ["| PEFT's name | why |", "|---|---|", *(f"| `{name}` | {why} |" for name, why in REFUSED.items())]
    parts += ["", "## Prefixes and prompts", "", *(line for text in _PROMPTS for line in (text, ""))]
    parts += ["| PEFT's name | form |", "|---|---|"]
    parts += [
        f"| [`{name}`](#{name.lower()}) | [`{form}`](adapter-forms.md#{form}) |" for name, (form, _) in PROMPTS.items()
    ]
    parts += ["", "## Settings of every kind", "", *_table(COMMON)]
    for kind in kinds().values():
        own = {key: setting for key, setting in kind.settings.items() if COMMON.get(key) != setting}
        text = " ".join((type(kind).__doc__ or "").split())
        parts += ["", f"## {kind.peft_type}", "", f"{kind.title}: {text}", "", *_table(own)]
    for name, (form, settings) in PROMPTS.items():
        own = {key: setting for key, setting in settings.items() if COMMON.get(key) != setting}
        parts += ["", f"## {name}", "", f"Read as the form `{form}`.", "", *_table(own)]
    return "\n".join(parts).rstrip() + "\n"


def _table(settings: Mapping[str, Setting]) -> list[str]:
    rows = ["| setting | | |", "|---|---|---|"]
    for key, setting in sorted(settings.items()):
        fix = f". {setting.fix}" if setting.fix else ""
        rows.append(f"| `{key}` | {_ROLES[setting.role]} | {setting.why}{fix} |")
    return rows


def _anchor(kind: Kind) -> str:
    return kind.peft_type.lower()
