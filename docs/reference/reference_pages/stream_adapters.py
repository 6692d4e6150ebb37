"""The page of stream adapters, from what they declare."""

from __future__ import annotations

import inspect

from genepool.adaptation import all_adapters
from genepool.schema import described_options
from reference_pages import NOTE
from reference_pages.words import plain

_ASKED = {
    ("classes",): "classifiers",
    ("series",): "forecasters of series",
    ("classes", "series"): "classifiers and forecasters of series",
}

_TRAINED = {
    "norm": "the norm layers",
    "all": "all weights",
    "added": "weights of its own beside the model",
    "nothing": "nothing",
}


def stream_adapters_page() -> str:
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
            f"*Source:* {adapter.source}. *Adapts* {_ASKED[tuple(sorted(adapter.asks))]}. "
            f"*Trains* {_TRAINED[adapter.trains]}. *Needs* {needs}. *Order:* "
            f"{adapter.order}", "",
        ]  # fmt: skip
        options = described_options(adapter.Options)
        if options:
            parts += ["| option | value | default | meaning |", "|---|---|---|---|"]
        for one in options:
            kind, default = one["type"].replace("|", "or"), plain(one["default"])
            parts.append(f"| `{one['name']}` | {kind} | `{default}` | {one['description']} |")
        parts += [""] if options else []
    return "\n".join(parts).rstrip() + "\n"
