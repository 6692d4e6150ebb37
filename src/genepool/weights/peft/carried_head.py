"""The head of classes that an adapter carries for a base without one, told by genepool's notes or PEFT's own file.

PEFT keeps a head that was trained beside the factors among `modules_to_save`, and not the names of its classes; those
genepool writes into `genepool.json` beside the adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genepool.errors import InputError
from genepool.weights.architecture import architecture_of
from genepool.weights.class_head import MOST_CLASSES, BaseWithHead, ClassHead, head_for, read_class_head
from genepool.weights.json_file import read_json
from genepool.weights.peft.content import AdapterContent
from genepool.weights.peft.folder import NOTES_FILE
from genepool.weights.weights import Weights

# PEFT's word for what a model is for -> transformers' table of the classes for it.
_TABLES = {
    "SEQ_CLS": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "TOKEN_CLS": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "QUESTION_ANS": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
}


def carried_head(folder: Path, content: AdapterContent, config: Mapping[str, Any] | None) -> ClassHead | None:
    """The head; None where the adapter carries none that its base lacks.

    Args:
        folder: of the adapter.
        content: what it holds.
        config: of the base.

    Raises:
        InputError: what genepool wrote of it is damaged.
    """
    notes = folder / NOTES_FILE
    if notes.is_file() and (head := read_class_head(read_json(notes).get("head"), f"{notes}:head")) is not None:
        return head
    if not content.settings.get("modules_to_save"):
        return None
    architecture = _architecture(content.settings.get("task_type"), config)
    count = None if architecture is None else _classes(architecture, config or {}, content)
    return None if architecture is None or count is None else ClassHead(architecture, _unnamed(count))


def task_of_head(architecture: str) -> str | None:
    """PEFT's word for what a class with a head is for; None where it has none, as for images."""
    from transformers.models.auto import modeling_auto

    tables = {task: getattr(modeling_auto, table) for task, table in _TABLES.items()}
    return next((task for task, table in tables.items() if architecture in table.values()), None)


def refuse_random_parts(base: Weights, content: AdapterContent) -> None:
    """Refuses a base that was given a head of which the adapter holds only a part, such as no pooler.

    Raises:
        InputError: what nobody holds is drawn anew whenever transformers loads such a model.
    """
    if not isinstance(base, BaseWithHead):
        return
    lacking = [name for name in base.fresh if name not in content.replacements]
    if not lacking:
        return
    module = next((one for one in base.modules if lacking[0].startswith(f"{one}.")), lacking[0])
    more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    raise InputError(
        f"{base.head.architecture} has {lacking[0]}{more}, which neither the base nor the adapter holds: transformers "
        "draws what it lacks at random whenever it loads the model, so there is no one result",
        where=content.file.path,
        fix=f"Train it again with {module.rpartition('.')[2]} among modules_to_save, or name the model that it was "
        "trained on, saved with its head",
    )


def _architecture(task: object, config: Mapping[str, Any] | None) -> str | None:
    """transformers' class with the head that an adapter for a task has; None where the base is of it already."""
    if isinstance(task, str) and task in _TABLES:
        from transformers.models.auto import modeling_auto

        named = (config or {}).get("architectures")
        found = getattr(modeling_auto, _TABLES[task]).get(str((config or {}).get("model_type")))
        return found if isinstance(found, str) and named != [found] else None
    return head_for(config, "image")


def _classes(architecture: str, config: Mapping[str, Any], content: AdapterContent) -> int | None:
    """How many rows the tensors have that grow with the number of classes; None where the adapter holds none."""
    two, three = (architecture_of({**config, "architectures": [architecture], **_named(n)}) for n in (2, 3))
    if two is None or three is None:
        return None
    growing = {name for name, info in two.tensors.items() if info.shape != three.tensors[name].shape}
    if not growing:
        # A head of a fixed size, such as of an answer's start and end.
        return 2
    held = {name: content.file.infos[stored].shape for name, stored in content.replacements.items()}
    counts = {held[name][0] for name in growing if held.get(name)}
    return counts.pop() if len(counts) == 1 and 1 <= min(counts) <= MOST_CLASSES else None


def _named(count: int) -> dict[str, Any]:
    names = dict(enumerate(_unnamed(count)))
    return {"id2label": {str(n): name for n, name in names.items()}, "label2id": {v: n for n, v in names.items()}}


def _unnamed(count: int) -> tuple[str, ...]:
    """transformers' own names of classes that nobody named."""
    return tuple(f"LABEL_{number}" for number in range(count))
