"""Dense skills: the change from a base to a fine-tune, one tensor of deltas each, in one safetensors file.

The header carries the base's fingerprint, so a skill is never added to another base by mistake. A skill file stands
wherever a model is named, as BASE+SKILL.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.weights import TensorInfo, Weights
from genepool.weights.overlay import BASE_KEY, BASE_NAME_KEY, FORM_KEY, SKILL_KEY
from genepool.weights.tensor_info import shape_text
from genepool.weights.writer import write_file

if TYPE_CHECKING:
    import torch


def extract_skill(
    tuned: Weights, base: Weights, out: str | Path, *, dtype: str = "F32", overwrite: bool = False
) -> Path:
    """Writes `tuned - base` as a skill file. Tensors that do not differ are left out.

    Args:
        tuned: the fine-tune.
        base: what it was fine-tuned from.
        out: the file, ending in .safetensors.
        dtype: what the deltas are stored as: "F32" keeps `base + skill` equal to `tuned` to rounding, "BF16" and "F16"
            take half the space.
        overwrite: replace a file that is there.

    Raises:
        InputError: the models do not line up, or do not differ at all.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise InputError("a skill is a .safetensors file", where=out, fix=f"Name it {out.name}.safetensors")
    infos: dict[str, TensorInfo] = {}
    for name in base.names():
        if name not in tuned:
            raise InputError(f"{tuned.name} has no tensor {name}", where=tuned.name, fix="Name its own base")
        ours, theirs = base.info(name), tuned.info(name)
        if ours.shape != theirs.shape:
            raise InputError(
                f"shape {shape_text(theirs.shape)} where {base.name} has {shape_text(ours.shape)}",
                where=f"{tuned.name}:{name}",
                fix="Name its own base",
            )
        if ours.is_float and _differs(tuned, base, name):
            infos[name] = ours.with_dtype(dtype)
    if not infos:
        raise InputError(
            f"{tuned.name} does not differ from {base.name}", where=out, fix="Name a fine-tune and its base"
        )
    extra = [name for name in tuned.names() if name not in base]
    if extra:
        raise InputError(
            f"{tuned.name} has tensors its base has not ({extra[0]})", where=base.name, fix="Name its own base"
        )
    metadata = {SKILL_KEY: "1", FORM_KEY: "dense", BASE_KEY: base.fingerprint(), BASE_NAME_KEY: base.name}

    def delta(name: str) -> torch.Tensor:
        moved = tuned.delta(name, base)
        assert moved is not None
        return moved

    return write_file(out, infos, delta, metadata={**metadata, "source": tuned.name}, overwrite=overwrite)


def _differs(tuned: Weights, base: Weights, name: str) -> bool:
    moved = tuned.delta(name, base)
    return moved is not None and bool((moved != 0).any())
