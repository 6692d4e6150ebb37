"""A form that folds, as a `Change` of its base: what it adds to every weight and bias, computed when it is asked for.

So a base with such a form is plain weights: merged, stored as a skill, applied, written as a PEFT adapter where its
change is a product of two factors.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.weights.change import Change, fingerprint_of
from genepool.weights.encodings.low_rank import Product
from genepool.weights.formed.adapter_form import LinearForm, head_key
from genepool.weights.formed.form_folder import FormFolder
from genepool.weights.formed.sites import LinearSite
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch


class FormChange(Change):
    """What a form that folds adds to its base.

    Args:
        folder: the form on its base.
        base: that base under the names of memory.
        task: number of the task it is for; -1 for none.
        name: what the user calls it.
    """

    kind = "form"
    base: Weights
    path: Path

    def __init__(self, folder: FormFolder, base: Weights, task: int, name: str) -> None:
        assert isinstance(folder.form, LinearForm)
        self.path, self.base, self.name = folder.path, base, name
        self._folder, self._form, self._task = folder, folder.form, task
        self._here = threading.local()
        self._held: dict[str, tuple[LinearSite, str]] = {}
        aliases = base.aliases()
        for site in self._form.chosen(folder.sites):
            self._held[f"{site.module}.weight"] = site, "weight"
            if site.bias and self._form.changes_bias(site):
                self._held[f"{site.module}.bias"] = site, "bias"
        for site in folder.sites.heads:
            for leaf in ("weight", "bias") if site.bias else ("weight",):
                self._held[f"{site.module}.{leaf}"] = site, leaf
        self._held = {aliases.get(name, name): one for name, one in self._held.items()}

    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self.base.names() if name in self._held)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.base.info(name).shape

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        kept: tuple[str, torch.Tensor] | None = getattr(self._here, "kept", None)
        if kept is None or kept[0] != name:
            # Each thread keeps the last one, because a tensor is read block by block by one thread.
            self._here.kept = None
            kept = self._here.kept = (name, self._whole(name))
        return kept[1].reshape(self.matrix(name))[start:stop]

    def factors(self, name: str) -> Product | None:
        site, leaf = self._held[name]
        if leaf != "weight" or site.layer < 0:
            return None
        found = self._form.product(site, self._parts(site), self._task)
        return Product(found.right.T, found.left.T, found.factor) if found and site.transposed else found

    def identity(self) -> dict[str, Any]:
        return {
            "models": [{"name": str(self.path), "fingerprint": fingerprint_of(self.kind, self.base, self.digest())}]
        }

    def digest(self) -> str:
        return f"{self._folder.digest()}#{self._task}"

    def working_bytes(self, name: str) -> int:
        return 24 * self.numel(name)

    def _parts(self, site: LinearSite) -> dict[str, torch.Tensor]:
        return self._form.parts_of(site, self._folder.sites, self._folder.tensors)

    def _whole(self, name: str) -> torch.Tensor:
        site, leaf = self._held[name]
        if site.layer < 0:
            return self._folder.tensors[head_key(site, leaf)] - self.base.read(name).float()
        weight = self.base.read(f"{site.module}.weight").float()
        weight = weight.T if site.transposed else weight
        bias = self.base.read(f"{site.module}.bias").float() if site.bias else None
        added, shift = self._form.change(site, self._parts(site), weight, bias, self._task)
        if leaf == "bias":
            assert shift is not None, f"{self._form.name} says that the bias of {site.module} changes"
            return shift
        return (added.T if site.transposed else added).contiguous()
