"""The folder of a form: `form.json` and `tensors.safetensors`, without code and without pickles.

`form.json` says {"genepool_form": 1, "form", "parameters", "tasks", "base": {"name", "fingerprint"}, "seed",
"lineage"}. Everything is checked from headers before a tensor is read: the form is a known one, its parameters are in
range, the base is the one it was trained on, and every tensor has the name and the shape that the form asks for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool import staging
from genepool.checked import is_digest, is_line, is_whole, kind_of
from genepool.errors import InputError, refuse_newer
from genepool.weights import fingerprint_cache
from genepool.weights.adapter_forms import find_form, make_form
from genepool.weights.formats.safetensors import SafetensorsFile
from genepool.weights.formed.adapter_form import FormOfAdapter
from genepool.weights.formed.form_on_base import FormOnBase
from genepool.weights.formed.sites import ModelSites, sites_of
from genepool.weights.json_file import read_json
from genepool.weights.tensor_info import shape_text
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch

MARKER, TENSORS_FILE = "form.json", "tensors.safetensors"
_VERSION = 1
_AGAIN = "Train it again, or fetch it again"
_MOST_TASKS = 10_000


class FormFolder(FormOnBase):
    """A folder of a form on its base; headers are read and checked.

    Args:
        path: the folder.
        base: the model that it stands on.

    Attributes:
        form: with its options and tasks.
        sites: the places of the base.
        seed: of what the form draws when it is asked.
        lineage: how it was made.

    Raises:
        InputError: a file is missing or damaged, the form is unknown, or it was made for another base.
    """

    def __init__(self, path: Path, base: Weights) -> None:
        self.path, self.base = path, base
        place = path / MARKER
        said = read_json(place)
        refuse_newer("form", said.get("genepool_form"), _VERSION, place)
        if said.get("genepool_form") != _VERSION:
            raise InputError("is no form of genepool's", where=place, fix=_AGAIN)
        name, parameters, tasks = (said.get(key) for key in ("form", "parameters", "tasks"))
        if not is_line(name) or not isinstance(parameters, dict):
            raise InputError("its form or its parameters are damaged", where=place, fix=_AGAIN)
        if not isinstance(tasks, list) or len(tasks) > _MOST_TASKS or not all(map(is_line, tasks)):
            raise InputError(f"got {kind_of(tasks)}, expected names of tasks", where=f"{place}:tasks", fix=_AGAIN)
        if len(set(tasks)) < len(tasks):
            raise InputError("names a task twice", where=f"{place}:tasks", fix=_AGAIN)
        if not is_whole(said.get("seed"), 0):
            raise InputError(f"got {kind_of(said.get('seed'))}", where=f"{place}:seed", fix=_AGAIN)
        self.seed: int = said["seed"]
        self.lineage: dict[str, Any] = said["lineage"] if isinstance(said.get("lineage"), dict) else {}
        find_form(name, f"{place}:form")
        self.form: FormOfAdapter = make_form(name, parameters, tasks, f"{place}:parameters")
        self.form.check_tasks(f"{place}:tasks")
        self._check_base(said.get("base"), place)
        self.sites: ModelSites = sites_of(base)
        self._file = SafetensorsFile(path / TENSORS_FILE)
        self._check_tensors()

    def _check_base(self, said: object, place: Path) -> None:
        if not isinstance(said, dict) or not is_line(said.get("name")) or not is_digest(said.get("fingerprint")):
            raise InputError("its name or its fingerprint is damaged", where=f"{place}:base", fix=_AGAIN)
        if said["fingerprint"] != self.base.fingerprint():
            raise InputError(
                f"was trained on another base, {said['name']} (sha256 {said['fingerprint'][:12]})",
                where=self.path,
                fix="Name that base before it: BASE+FOLDER",
            )

    def _check_tensors(self) -> None:
        expected, found = self.form.all_shapes(self.sites), self._file.infos
        for name in sorted(expected.keys() ^ found.keys()):
            what = "the tensor is missing" if name in expected else "the form has no such tensor"
            raise InputError(what, where=f"{self._file.path}:{name}", fix=_AGAIN)
        for name, shape in expected.items():
            if found[name].shape != tuple(shape) or found[name].dtype != "F32":
                raise InputError(
                    f"is {found[name].dtype} of shape {shape_text(found[name].shape)}, expected F32 of {list(shape)}",
                    where=f"{self._file.path}:{name}",
                    fix=_AGAIN,
                )

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor of the form in float32, read once. Never write into them.

        Raises:
            InputError: one holds NaN or infinity.
        """
        import torch

        found = {name: self._file.read(name) for name in self._file.infos}
        for name, tensor in found.items():
            if not bool(torch.isfinite(tensor).all()):
                raise InputError("holds NaN or infinity", where=f"{self._file.path}:{name}", fix=_AGAIN)
        return found

    def digest(self) -> str:
        """SHA-256, hex, of form.json's arithmetic and every tensor."""
        return fingerprint_cache.cached([self._file.path, self.path / MARKER], self._hash)

    def _hash(self) -> str:
        said = [self.form.name, self.form.saved_parameters(), list(self.form.tasks), self.seed]
        total = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
        for name in sorted(self._file.infos):
            total.update(f"\x1e{name}\x1f{self._file.infos[name]}\x1f".encode())
            total.update(self._file.view_bytes(name))
        return total.hexdigest()


def is_form(path: Path) -> bool:
    """Whether a path is the folder of a form."""
    return (path / MARKER).is_file() and path.is_dir()


def write_form(
    out: Path,
    form: FormOfAdapter,
    tensors: Mapping[str, torch.Tensor],
    base: Mapping[str, Any],
    seed: int,
    lineage: Mapping[str, Any],
) -> None:
    """Writes the folder of a form, replacing what is there, whole or not at all.

    Args:
        out: the folder.
        form: the form.
        tensors: all of its tensors by name.
        base: {"name", "fingerprint"} of the model that it was trained on.
        seed: of what it draws when it is asked.
        lineage: how it was made.
    """
    import torch
    from safetensors.torch import save_file

    said = {
        "genepool_form": _VERSION,
        "form": form.name,
        "parameters": form.saved_parameters(),
        "tasks": list(form.tasks),
        "base": dict(base),
        "seed": seed,
        "lineage": dict(lineage),
    }
    with staging.staged_folder(out, overwrite=True) as folder:
        kept = {name: one.detach().to("cpu", torch.float32).contiguous().clone() for name, one in tensors.items()}
        save_file(kept, folder / TENSORS_FILE, {"format": "pt"})
        text = json.dumps(said, indent=2, ensure_ascii=False) + "\n"
        (folder / MARKER).write_text(text, encoding="utf-8")
