"""Skills written as PEFT LoRA adapters. Changes that are products already keep their factors, to the last bit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from genepool import staging
from genepool.errors import InputError
from genepool.weights import Change, WrittenChange
from genepool.weights.control import CONTROL_FILE
from genepool.weights.peft.folder import NOTES_FILE
from genepool.weights.peft.writer import AdapterWriter


def write_peft(
    changes: Change,
    base_name: str,
    out: str | Path,
    *,
    rank: int | None = None,
    factors_only: bool = False,
    whole: Sequence[str] = (),
    overwrite: bool = False,
) -> WrittenChange:
    """Writes a change as the folder of a PEFT LoRA adapter, whole or not at all.

    A matrix that is stored as a product keeps its factors and their type, unless it has more than `rank` directions;
    any other is factorised. Norms go along whole (`modules_to_save`), and so does a head of classes that the base
    lacks; biases as the base's biases. What PEFT has no adapter for is lost, and counted so.

    Args:
        changes: what to write, opened on its base.
        base_name: how PEFT finds the base again: a folder or the hub's name.
        out: the folder.
        rank: most directions of a matrix; 16 for matrices that are no product yet, when None.
        factors_only: hold nothing beside factors: norms and biases stay as in the base, and count as lost.
        whole: patterns of tensors that go along whole, without loss, such as "embedding" and "head".
        overwrite: replace what is there.

    Raises:
        InputError: PEFT can adapt none of the matrices that change, the skill carries a head that its base lacks and
            that is to be left out, or `out` is occupied.
    """
    out = Path(out)
    if rank is not None and rank < 1:
        raise InputError(f"must be at least 1, got {rank}", where="--rank", fix="Give 1 or more")
    assert changes.base is not None
    if changes.header.head and factors_only:
        raise InputError(
            f"{changes.name} carries a head of classes ({changes.header.head['architecture']}), which {base_name} "
            "lacks and no factors hold",
            where="--factors-only",
            fix="Leave it out: the head goes along whole",
        )
    base_folder = changes.base.folder
    reference = str(base_folder.resolve()) if base_folder and Path(base_name).exists() else base_name
    with staging.staged_folder(out, overwrite=overwrite) as folder:
        with AdapterWriter(changes, folder, rank, factors_only=factors_only, whole=whole) as writer:
            writer.hold(f"writing {out}")
            if not writer.factored:
                why = f"; {writer.left_out}" if writer.left_out else ""
                raise InputError(
                    f"it changes no weight matrix that PEFT can adapt{why}",
                    where=changes.name,
                    fix="Keep it as a skill file",
                )
            nbytes = writer.finish((reference, None))
        size = sum(held.change for held in writer.held)
        error = (sum(held.lost for held in writer.held) / size) ** 0.5 if size else 0.0
        (folder / "README.md").write_text(_card(changes, base_name, error), encoding="utf-8")
        if changes.control is not None:
            (folder / CONTROL_FILE).write_text(changes.control.text(), encoding="utf-8")
        if changes.header.head:
            # PEFT keeps the head and not the names of its classes.
            notes = json.dumps({"genepool": 1, "head": changes.header.head}, ensure_ascii=False, indent=2)
            (folder / NOTES_FILE).write_text(notes + "\n", encoding="utf-8")
    entries = sum(writer.change.numel(held.name) for held in writer.held)
    return WrittenChange(out, nbytes, len(writer.held), entries, error, writer.left_out)


def _card(changes: Change, base_name: str, error: float) -> str:
    """README.md, with the metadata the hub understands."""
    header = changes.header
    front: dict[str, Any] = {
        "base_model": base_name,
        "base_model_relation": "adapter",
        "library_name": "peft",
        "tags": ["lora", "genepool"],
    }
    if header.licence:
        front["license"] = header.licence
    title = header.name or Path(changes.name).stem
    text = [
        f"# {title}",
        "",
        header.description,
        "",
        f"A skill of `{base_name}`, written with genepool {version('genepool')}.",
    ]
    lines = ["---", yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(), "---", "", *text]
    if header.scores:
        lines += ["", "| task | score |", "|---|---|", *(f"| {k} | {v:.3f} |" for k, v in header.scores.items())]
        if error > 0:
            lines += [
                "",
                f"Scores are of the change before {error:.1%} of its size (Frobenius norm) was lost here.",
            ]
    return "\n".join(lines) + "\n"
