"""`Skill`: what a fine-tune learned, as an object to hold: opened, added, scaled, masked, stored, put on its base.

The face of `genepool.weights.Change` for people: nothing is read before it is needed, and every operation is a view of
what it is made of until `save` streams it to the disk. `genepool.Skill` is this class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from genepool.errors import InputError
from genepool.skills.masks import Dare, TopK
from genepool.skills.peft_folder import write_peft
from genepool.weights import Change, Form, ModelDifference, Scaled, Sum, Weights, open_change, open_weights, store
from genepool.weights.store import stored_form
from genepool.weights.tensor_info import dtype_code

if TYPE_CHECKING:
    import torch

# The types that values of a skill file are stored in.
_STORED = ("float32", "bfloat16", "float16")


class Skill:
    """What a fine-tune learned: the change of a base model's weights.

        import genepool as gp

        reverse = gp.Skill.extract("bed/full/reverse", base="bed/base")
        sort = gp.Skill.extract("bed/full/sort", base="bed/base")
        both = 0.5 * reverse + 0.5 * sort
        both.save("both.safetensors", to="low-rank", rank=16)
        table = gp.evaluate([both.model()], tasks="bed/tasks")

    Args:
        change: what it changes, tensor by tensor. `open` and `extract` make one of names.
        operation, arguments: what made it, as the lineage of its file has it.

    Attributes:
        change: what it changes, to be read block by block.
    """

    def __init__(self, change: Change, operation: str = "convert", arguments: Mapping[str, Any] | None = None) -> None:
        self.change = change
        self._operation, self._arguments = operation, dict(arguments or {})

    @classmethod
    def open(cls, skill: str | Path, base: str | Path | Weights | None = None, *, allow_pickle: bool = False) -> Self:
        """Opens a skill.

        Args:
            skill: a skill file; with `base` also a PEFT adapter's folder.
            base: the model that it changes. A skill file can be read, scaled and added up without it.
            allow_pickle: also open PyTorch's .bin and .pt files, through `torch.load(weights_only=True)`.

        Raises:
            genepool.errors.InputError: there is no such skill, it is damaged, it needs a base or belongs to another.
        """
        return cls(open_change(skill, _opened(base, allow_pickle), allow_pickle=allow_pickle))

    @classmethod
    def extract(cls, tuned: str | Path | Weights, base: str | Path | Weights, *, allow_pickle: bool = False) -> Self:
        """The difference between a fine-tune and its base.

        Args:
            tuned: the fine-tune: a folder, a hub name, BASE+ADAPTER, or open weights.
            base: what it was fine-tuned from.
            allow_pickle: also open PyTorch's .bin and .pt files, through `torch.load(weights_only=True)`.

        Raises:
            genepool.errors.InputError: one of them cannot be opened, or they do not line up.
        """
        opened = _opened(base, allow_pickle)
        assert opened is not None
        if isinstance(tuned, Weights):
            return cls(ModelDifference(tuned, opened), "extract")
        return cls(open_change(tuned, opened, allow_pickle=allow_pickle), "extract")

    # ------------------------------------------------------------------ reading

    @property
    def name(self) -> str:
        """What it is called."""
        return self.change.name

    @property
    def base_name(self) -> str:
        """What its base is called."""
        return self.change.header.base_name

    def names(self) -> tuple[str, ...]:
        """The tensors that it changes."""
        return self.change.names()

    def tensor(self, name: str) -> torch.Tensor:
        """The change of one tensor, float32, in the tensor's shape.

        Raises:
            genepool.errors.InputError: it does not change that tensor.
        """
        if name not in self.names():
            raise InputError("the skill does not change this tensor", where=f"{self.name}:{name}", fix="See names()")
        return self.change.whole(name).reshape(self.change.shape(name))

    def model(self) -> Weights:
        """Its base with the skill added, computed when it is read: to be evaluated, merged or written.

        Raises:
            genepool.errors.InputError: it was opened without its base.
        """
        self._base_needed("to put the skill on its base")
        return self.change.applied()

    # ------------------------------------------------------------------ calculating

    def __add__(self, other: Skill) -> Skill:
        return Skill(Sum([self.change, other.change]), "sum") if isinstance(other, Skill) else NotImplemented

    def __sub__(self, other: Skill) -> Skill:
        return self + -other if isinstance(other, Skill) else NotImplemented

    def __neg__(self) -> Skill:
        return Skill(Scaled(self.change, -1.0), "negate")

    def __mul__(self, factor: float) -> Skill:
        if isinstance(factor, bool) or not isinstance(factor, int | float):
            return NotImplemented
        if not math.isfinite(factor) or factor == 0:
            raise InputError(f"got a factor of {factor}, expected a finite number other than zero", where=self.name)
        return Skill(Scaled(self.change, float(factor)), "scale", {"factor": float(factor)})

    __rmul__ = __mul__

    def largest(self, density: float, scope: str = "model") -> Skill:
        """The entries of largest magnitude alone; the others are zero.

        Args:
            density: share of the entries that stay, over 0 and at most 1.
            scope: choose over the whole "model" or within each "tensor".

        Raises:
            genepool.errors.InputError: the density is out of its range.
        """
        return Skill(TopK(self.change, density, scope), "localise", {"density": density, "scope": scope})

    def dropped(self, density: float, *, rescale: bool = True, seed: int = 0) -> Skill:
        """DARE: entries drawn by chance alone, divided by the density (Yu et al., arXiv:2311.03099).

        Args:
            density: probability that an entry stays, over 0 and at most 1.
            rescale: divide what stays by the density, so that the mean stays.
            seed: decides which entries stay.

        Raises:
            genepool.errors.InputError: the density is out of its range.
        """
        settings = {"density": density, "rescale": rescale, "seed": seed}
        return Skill(Dare(self.change, density, rescale=rescale, seed=seed), "drop", settings)

    # ------------------------------------------------------------------ writing

    def save(
        self,
        out: str | Path,
        *,
        to: str | None = None,
        rank: int | None = None,
        dtype: str | None = None,
        packing: str = "groups",
        bits: int = 4,
        name: str = "",
        description: str = "",
        licence: str = "",
        overwrite: bool = False,
    ) -> Path:
        """Writes a skill file, whole or not at all.

        Args:
            out: the file, ending in .safetensors.
            to: "dense", "sparse", "low-rank" or "packed"; as it is stored already when None, or low-rank with a `rank`.
            rank: the largest number of directions of each matrix; 16 when `to` is "low-rank" and this is None.
            dtype: of stored values: "float32", "bfloat16" or "float16"; float32 for dense changes when None, else
                bfloat16.
            packing: "groups", "signs" or "singular", of a packed skill.
            bits: 2, 4 or 8, of packed groups.
            name, description, licence: recorded in the file, where they are not empty.
            overwrite: replace the file that is there.

        Returns:
            `out`.

        Raises:
            genepool.errors.InputError: a setting is out of its range, or the file cannot be written.
        """
        if to is None and (rank is not None or dtype is not None):
            to = "low-rank" if rank is not None else stored_form(self.change)
        if dtype is not None and dtype not in _STORED:
            raise InputError(f"got dtype {dtype!r}, expected one of {', '.join(_STORED)}", where=out)
        code = dtype_code(dtype) if dtype is not None else None
        form = None if to is None else Form(to, code, rank, packing, bits)
        said = {"name": name, "description": description, "licence": licence}
        words = {key: value for key, value in said.items() if value}
        return store(
            self.change, out, form, self._operation, self._arguments, words=words, overwrite=overwrite
        ).path  # fmt: skip

    def save_adapter(self, out: str | Path, *, rank: int | None = None, overwrite: bool = False) -> Path:
        """Writes the folder of a PEFT LoRA adapter, whole or not at all.

        Args:
            out: the folder.
            rank: the largest number of directions of each matrix; 16 for matrices that are no product yet, when None.
            overwrite: replace what is there.

        Returns:
            `out`.

        Raises:
            genepool.errors.InputError: the skill was opened without its base, PEFT can hold none of its tensors, or
                `out` is occupied.
        """
        base = self._base_needed("to write an adapter")
        return write_peft(self.change, base.name, out, rank=rank, overwrite=overwrite).path

    def _base_needed(self, why: str) -> Weights:
        if self.change.base is None:
            raise InputError(
                f"the base of the skill is not open, and is needed {why}",
                where=self.name,
                fix="Open it with Skill.open(..., base=...)",
            )
        return self.change.base

    def __repr__(self) -> str:
        return f"Skill({self.name!r}, base={self.base_name!r}, {len(self.names())} tensors)"


def _opened(model: str | Path | Weights | None, allow_pickle: bool) -> Weights | None:
    return model if model is None or isinstance(model, Weights) else open_weights(model, allow_pickle=allow_pickle)
