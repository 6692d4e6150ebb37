"""The head of classes that an adapter carries for a base without one, told by genepool's notes or PEFT's own file.

PEFT keeps a head that was trained beside the factors among `modules_to_save`, and not the names of its classes; those
genepool writes into `genepool.json` beside the adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from genepool.weights.architecture import architecture_of
from genepool.weights.checkpoint import read_json
from genepool.weights.class_head import MOST_CLASSES, ClassHead, head_for, read_class_head
from genepool.weights.peft.content import AdapterContent
from genepool.weights.peft.folder import NOTES_FILE


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
    is_text = content.settings.get("task_type") == "SEQ_CLS"
    shown: tuple[Literal["text", "image"], ...] = ("text",) if is_text else ("image",)
    for reads in shown:
        if (architecture := head_for(config, reads)) is not None:
            count = _classes(architecture, config or {}, content)
            return None if count is None else ClassHead(architecture, _unnamed(count))
    return None


def _classes(architecture: str, config: Mapping[str, Any], content: AdapterContent) -> int | None:
    """How many rows the tensors have that grow with the number of classes; None where the adapter holds none."""
    two, three = (architecture_of({**config, "architectures": [architecture], **_named(n)}) for n in (2, 3))
    if two is None or three is None:
        return None
    growing = {name for name, info in two.tensors.items() if info.shape != three.tensors[name].shape}
    held = {name: content.file.infos[stored].shape for name, stored in content.replacements.items()}
    counts = {held[name][0] for name in growing if held.get(name)}
    return counts.pop() if len(counts) == 1 and 2 <= min(counts) <= MOST_CLASSES else None


def _named(count: int) -> dict[str, Any]:
    names = dict(enumerate(_unnamed(count)))
    return {"id2label": {str(n): name for n, name in names.items()}, "label2id": {v: n for n, v in names.items()}}


def _unnamed(count: int) -> tuple[str, ...]:
    """transformers' own names of classes that nobody named."""
    return tuple(f"LABEL_{number}" for number in range(count))
