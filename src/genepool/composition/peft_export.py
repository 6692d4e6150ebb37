"""A composition, a prefix or a prompt as files that PEFT loads: nothing may be lost, or it is refused.

What folds into products is one LoRA. Other kinds say what they are in PEFT's words (`Composition.write_peft`): `poly`
and `mhr` write an adapter of their own kind, `x_lora` and `arrow` numbered adapters and what PEFT needs beside them.
Uses `composition`, skills and staging; called by `genepool export --type peft`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool import progress, staging
from genepool.errors import InputError
from genepool.saved_models import saved_model
from genepool.weights import open_weights
from genepool.weights.formed.formed_weights import FormedWeights
from genepool.weights.formed.peft_prompts import write_peft_prompt
from genepool.weights.peft.writer import AdapterWriter

if TYPE_CHECKING:
    import torch

    from genepool.composition.composition import Composition
    from genepool.composition.skill_set import SkillSet
    from genepool.weights import Change

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
#: What PEFT puts before the name of a module.
PREFIX = "base_model.model."


@dataclass(frozen=True)
class PeftExport:
    """What was written.

    Attributes:
        path: the folder.
        kind: what it is for PEFT, in words.
        adapters: how many adapters it holds.
        warnings: what PEFT does otherwise than the composition.
    """

    path: Path
    kind: str
    adapters: int
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """What `genepool export --json` prints."""
        nbytes = sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())
        return {
            "path": str(self.path),
            "kind": self.kind,
            "adapters": self.adapters,
            "bytes": nbytes,
            "warnings": list(self.warnings),
        }


def export_peft(
    model: str | Path,
    out: str | Path,
    *,
    base: str | None = None,
    allow_pickle: bool = False,
    overwrite: bool = False,
) -> PeftExport:
    """Writes a saved composition, or a prefix or a prompt on its base, as PEFT's files, whole or not at all.

    Args:
        model: the folder of a composition, or `FOLDER#TASK`; or `BASE+FORM`.
        out: the folder to write.
        base: of a form that is named alone.
        allow_pickle: the base and the skills may be PyTorch's .bin and .pt files.
        overwrite: replace what is there.

    Raises:
        InputError: it is neither, or PEFT has nothing that does the same; what would be lost is said.
    """
    from genepool.composition import saved_model as room

    out = Path(out)
    if saved_model(model) is not room:
        return _export_form(str(model), out, base, allow_pickle, overwrite)
    if base is not None:
        raise InputError("a composition names its base itself", where="--base", fix="Leave it out")
    composition = room.opened(model, allow_pickle)
    with staging.staged_folder(out, overwrite=overwrite) as folder:
        written: PeftExport = composition.write_peft(folder)
    for warning in written.warnings:
        progress.message(f"warning: {warning}")
    return PeftExport(out, written.kind, written.adapters, written.warnings)


def _export_form(model: str, out: Path, base: str | None, allow_pickle: bool, overwrite: bool) -> PeftExport:
    opened = None
    if base is not None:
        opened = open_weights(model, base=open_weights(base, allow_pickle=allow_pickle), allow_pickle=allow_pickle)
    elif "+" in model:
        opened = open_weights(model, allow_pickle=allow_pickle)
    if not isinstance(opened, FormedWeights):
        raise InputError(
            "is no composition, nor a base with a prefix or a prompt",
            where=model,
            fix="Use `genepool skill convert SKILL --base BASE --to peft` for a skill or a form that folds",
        )
    # What was named alone stands on the base by its own name.
    reference = opened.base.name if base is None else base
    with staging.staged_folder(out, overwrite=overwrite) as folder:
        kind = write_peft_prompt(opened, folder, _found_again(reference))
    return PeftExport(out, kind, 1)


def write_fold(composition: Composition, folder: Path) -> PeftExport:
    """Writes what a composition folds into as one LoRA.

    Raises:
        InputError: it does not fold, or a tensor changes that is no product.
    """
    change = composition.fold()
    for name in change.names():
        if len(change.shape(name)) > 1 and change.factors(name) is None:
            raise InputError(
                f"{name} changes by no product of two factors, of which a LoRA would lose a part",
                where=composition.name,
                fix="Compose adapters, or use `genepool merge --as-lora`, which tells what is lost",
            )
    write_lora(change, composition.skills, folder)
    return PeftExport(folder, "a LoRA adapter", 1)


def write_lora(change: Change, skills: SkillSet, folder: Path) -> None:
    """Writes a change whose matrices are products as one adapter.

    Raises:
        InputError: a tensor changes that no adapter holds.
    """
    with AdapterWriter(change, folder) as writer:
        writer.hold(f"writing {folder.name}")
        if writer.left_out or not writer.factored:
            raise InputError(
                writer.left_out or "the skills change no matrix that an adapter holds",
                where=skills.reference,
                fix="Compose adapters, or by another method",
            )
        writer.finish((base_reference(skills), None))


def base_reference(skills: SkillSet) -> str:
    """How PEFT finds the base again."""
    return _found_again(skills.reference)


def _found_again(reference: str) -> str:
    base = Path(reference)
    return str(base.resolve()) if base.exists() else reference


def write_experts(
    skills: SkillSet, folder: Path, names: Sequence[str], changes: Sequence[Change] | None = None
) -> None:
    """Writes every skill, or what was made of some, as an adapter of its own, in folders of these names."""
    written = [skill.change for skill in skills.skills] if changes is None else changes
    for change, name in zip(written, names, strict=True):
        (folder / name).mkdir()
        write_lora(change, skills, folder / name)


def write_config(config: Any, skills: SkillSet, folder: Path) -> None:
    """Writes PEFT's config of an adapter that no other function writes.

    Args:
        config: one of PEFT's classes.
        skills: whose base it belongs to.
        folder: the folder.
    """
    config.base_model_name_or_path = base_reference(skills)
    config.inference_mode = True
    config.task_type = "CAUSAL_LM"
    config.save_pretrained(str(folder))


def write_tensors(tensors: Mapping[str, torch.Tensor], file: Path) -> None:
    """Writes tensors as PEFT does."""
    from safetensors.torch import save_file

    save_file({name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}, file, {"format": "pt"})


def write_json(said: Mapping[str, Any], file: Path) -> None:
    """Writes plain data."""
    file.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
