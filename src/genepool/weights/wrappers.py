"""Names of tensors without what training wrappers put into them: torch.compile, DDP, FSDP, activation checkpointing.

A wrapper saves the model's own tensors under names with a word more (`_orig_mod.`, `module.`). No loader knows such
names, so files are read without the word, and what is written is free of it. `checkpoint` and `formats` use this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.weights.formats.tensor_file import TensorFile

if TYPE_CHECKING:
    import torch

# torch.compile's OptimizedModule, FSDP now and before torch 2.0, torch's checkpoint_wrapper, Lightning's Fabric.
_WORDS = frozenset(
    {"_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module", "_forward_module"}
)
# DataParallel, DDP and DeepSpeed: an ordinary word, which says something only where every name begins with it.
_OUTERMOST = "module."


class UnwrappedFile(TensorFile):
    """A file under the names its tensors have in the model.

    Args:
        file: the file.
        stored: name in the model -> name in the file.
    """

    def __init__(self, file: TensorFile, stored: Mapping[str, str]) -> None:
        self._file, self._stored = file, stored
        self.path, self.metadata = file.path, file.metadata
        called = {own: name for name, own in stored.items()}
        self.infos = {called[own]: info for own, info in file.infos.items()}
        self.shared = {called[own]: called[first] for own, first in file.shared.items()}

    def read(self, name: str) -> torch.Tensor:
        return self._file.read(self._stored[name])

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self._file.read_rows(self._stored[name], start, stop)

    def holds_bytes(self, name: str) -> bool:
        return self._file.holds_bytes(self._stored[name])

    def read_bytes(self, name: str, start: int, stop: int, into: memoryview) -> None:
        self._file.read_bytes(self._stored[name], start, stop, into)

    def view_bytes(self, name: str) -> memoryview:
        return self._file.view_bytes(self._stored[name])


def unwrapped(files: Sequence[TensorFile]) -> tuple[list[TensorFile], dict[str, str]]:
    """The files of one model, their tensors under the model's own names.

    Returns:
        The files, themselves where no wrapper left its word; and name in the model -> name in the file of the tensors
        that are called otherwise.

    Raises:
        InputError: two tensors are the same one without the words, or only some have the outermost word.
    """
    names = [name for file in files for name in file.infos]
    own = {name: without_wrappers(name) for name in names}
    inside = _without_outermost(own, files)
    if all(name == inside[name] for name in names):
        return list(files), {}
    first: dict[str, str] = {}
    for file in files:
        for name in file.infos:
            if (other := first.setdefault(inside[name], name)) != name:
                raise InputError(
                    f"is the same tensor as {other}, and both are stored",
                    where=f"{file.path}:{name}",
                    fix="The folder holds two saves of one model: save it again",
                )
    changed = {inside[name]: name for name in names if inside[name] != name}
    return [UnwrappedFile(file, {inside[name]: name for name in file.infos}) for file in files], changed


def without_wrappers(name: str) -> str:
    """A name without the words that only wrappers put into one."""
    if "_" not in name:
        return name
    return ".".join(word for word in name.split(".") if word not in _WORDS)


def _without_outermost(own: Mapping[str, str], files: Iterable[TensorFile]) -> dict[str, str]:
    found = dict(own)
    while found and all(name.startswith(_OUTERMOST) for name in found.values()):
        found = {stored: name.removeprefix(_OUTERMOST) for stored, name in found.items()}
    wrapped = {stored: name for stored, name in found.items() if name.startswith(_OUTERMOST)}
    bare = {name.partition(".")[0]: stored for stored, name in found.items() if stored not in wrapped}
    for stored, name in wrapped.items():
        # A model may have a part called module; that this part holds what the model holds too says it is a wrapper.
        if (other := bare.get(name.removeprefix(_OUTERMOST).partition(".")[0])) is not None:
            path = next(file.path for file in files if stored in file.infos)
            raise InputError(
                f"begins with {_OUTERMOST!r}, as DDP saves it, and {other} does not",
                where=f"{path}:{stored}",
                fix="Save the model without its wrapper (`model.module.state_dict()`)",
            )
    return found
