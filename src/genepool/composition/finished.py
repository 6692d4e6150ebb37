"""Whether a folder already holds what a composition would make, so that the same command called again does nothing.

A composition that is written says in its record what decided it: `asked`, a hash of the skills, the examples and the
options. A folder that says nothing of that, or something else, is never taken for finished. Uses `saved_model`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from genepool.checked import parsed_json
from genepool.composition.composer import Composer
from genepool.composition.recipe import Composing
from genepool.composition.saved_model import MARKER, found_from_anywhere
from genepool.composition.world import World
from genepool.tasks import open_model

#: What a fold says of how it was made.
RECORD_FILE = "genepool.json"
#: The key of a record.
ASKED = "asked"


def asked_of(recipe: Composing, composer: Composer[Any], world: World) -> str:
    """SHA-256, hex, of everything that decides what is written, except for the machine.

    Args:
        recipe: the composition.
        composer: made of its options.
        world: the skills and the examples that were drawn.
    """
    options = composer.options
    folded = recipe.fold and composer.out != "module"
    # What is kept beside its skills finds them by their paths.
    places = [] if folded else [found_from_anywhere(one) for one in (recipe.base, *recipe.skills)]
    whole = {
        **{key: value for key, value in world.identity().items() if key != "device"},
        "method": composer.name,
        "options": options.model_dump(mode="json", exclude=set(type(options).models)),
        "models": {key: open_model(name).fingerprint for key, name in composer.models().items()},
        "tasks": [
            [one.task.name, one.task.asking, one.owner, [example.key for example in one.examples]]
            for one in world.tasks
        ],
        "names": list(world.skills.names),
        "written": [folded, recipe.bundle, places],
    }
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def finished_record(out: Path, asked: str) -> dict[str, Any] | None:
    """The record in a folder whose composition was asked for alike and is still there; None where there is none.

    Args:
        out: the folder; need not exist.
        asked: see `asked_of`.
    """
    if not any(out.glob("*.safetensors")):
        return None
    for name in (MARKER, RECORD_FILE):
        try:
            said = parsed_json((out / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        record = said.get("record") if isinstance(said, dict) else None
        if isinstance(record, dict) and record.get(ASKED) == asked:
            return record
    return None


def form_of(out: Path) -> str:
    """What lies in the folder of a finished composition: "checkpoint", "adapter" or "composition"."""
    if (out / MARKER).is_file():
        return "composition"
    return "adapter" if (out / "adapter_config.json").is_file() else "checkpoint"
