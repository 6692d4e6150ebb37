"""The children of a run: births become tensors, from memory, from the disk, or made again from their parents.

A birth determines its tensors to the last bit, so what is kept is only ever saved work: any file may be deleted, and
whoever needs a child that is gone makes it again. Used by every worker of a study that breeds models.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from genepool import locking
from genepool.errors import InputError
from genepool.evolution.breeding.founders import Founders
from genepool.evolution.breeding.learning import Learner
from genepool.evolution.breeding.operators import operator
from genepool.evolution.strategies.base import Birth
from genepool.weights import Weights
from genepool.weights.tensor_info import torch_dtype

if TYPE_CHECKING:
    import torch

    Tensors = Mapping[str, torch.Tensor]

#: Bytes of children that a worker keeps in memory; what does not fit is read from the disk again.
MEMORY = 2 << 30
# What a child's tensors after learning are called, where its own children do not get them.
_GROWN = "-grown"


class Offspring:
    """Founders and their descendants.

    Args:
        founders: the founders.
        births: the birth of a child by its name; raises `KeyError` for a name that nobody has.
        folder: where children are kept between workers and sittings; None keeps them in memory alone.
        memory: bytes of children kept in memory where a folder has them too.
        learner: what teaches children before they are judged; None where they are not taught. Copies of founders are
            left as they are.
    """

    def __init__(
        self,
        founders: Founders,
        births: Callable[[str], Birth],
        folder: Path | None = None,
        *,
        memory: int = MEMORY,
        learner: Learner | None = None,
    ) -> None:
        self.founders, self._births, self._folder, self._memory = founders, births, folder, memory
        self.learner = learner
        self._held: OrderedDict[str, Tensors] = OrderedDict()
        self._fingerprints: dict[str, str] = {}

    def child(self, name: str, birth: Birth) -> Weights:
        """The model of a birth; its tensors are kept, so that its own children need not make it again."""
        if birth.op == "copy" and self.founders.dtype is None:
            # The founder itself, under its own fingerprint: what is known of it need not be asked again.
            (founder,) = birth.parents
            for tensor in self.founders.infos:
                self.founders.founder(founder, tensor)
            return self.founders.models[founder]
        tensors = self._tensors(name, birth)
        if self.learner is not None and not self.learner.inherit and birth.op != "copy":
            # Baldwin: what it learned counts for it alone, so it is kept beside what it was born with.
            grown = f"{name}{_GROWN}"
            lessons = self._fingerprint(name, birth)
            taught = self._find(grown)
            tensors = taught or self._keep(grown, self.learner.teach(lessons, tensors, birth.parameters.get("learn")))
        return self.founders.express(tensors, name, self._fingerprint(name, birth))

    def keep_only(self, names: Collection[str], *, writing: bool = False) -> None:
        """Lets go of all children but these, in memory and on the disk.

        Args:
            names: the children to keep.
            writing: whether others write children meanwhile, whose unfinished files are then left alone.
        """
        names = {*names, *(f"{name}{_GROWN}" for name in names)}
        for name in [name for name in self._held if name not in names]:
            del self._held[name]
        if self._folder is None or not self._folder.is_dir():
            return
        wanted = {f"{name}.safetensors" for name in names}
        for path in self._folder.iterdir():
            ours = ".safetensors" in path.name and path.is_file()
            if ours and path.name not in wanted and not (writing and path.name.startswith(".")):
                path.unlink(missing_ok=True)

    # ------------------------------------------------------------------ tensors

    def _tensors(self, name: str, birth: Birth) -> Tensors:
        # Made again from the oldest on: lines of descent are longer than the interpreter's stack is deep.
        waiting = [(name, birth)]
        while True:
            current, its = waiting[-1]
            found = self._find(current)
            if found is None:
                missing = [p for p in its.parents if p not in self.founders.models and self._find(p) is None]
                if missing:
                    waiting += [(parent, self._born(parent)) for parent in missing]
                    continue
                made = self._make(its)
                if self.learner is not None and self.learner.inherit and its.op != "copy":
                    own = its.parameters.get("learn")
                    made = self.learner.teach(self._fingerprint(current, its), made, own)
                found = self._keep(current, made)
            waiting.pop()
            if not waiting:
                return found

    def _make(self, birth: Birth) -> dict[str, torch.Tensor]:
        import torch

        parents: list[Tensors] = []
        for parent in birth.parents:
            held = _Founder(self.founders, parent) if parent in self.founders.models else self._find(parent)
            assert held is not None
            parents.append(held)
        made = {}
        with torch.no_grad():
            for tensor, value in operator(birth.op)(self.founders, parents, birth):
                made[tensor] = value.to(torch_dtype(self.founders.infos[tensor].dtype)).contiguous()
        return made

    def _find(self, name: str) -> Tensors | None:
        if name in self._held:
            self._held.move_to_end(name)
            return self._held[name]
        path = self._path(name)
        tensors = None if path is None or not path.is_file() else self._load(path)
        return None if tensors is None else self._hold(name, tensors)

    def _load(self, path: Path) -> dict[str, torch.Tensor] | None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors: dict[str, torch.Tensor] = load_file(path)
        except FileNotFoundError:
            # The driver let go of it just now; it is made again.
            return None
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"cannot be read ({error})", where=path, fix="Delete it: the child is then computed again"
            ) from error
        if {name: tuple(t.shape) for name, t in tensors.items()} != {
            n: i.shape for n, i in self.founders.infos.items()
        }:
            raise InputError(
                "is not a child of this study", where=path, fix="Delete it: the child is then computed again"
            )
        return tensors

    def _keep(self, name: str, tensors: dict[str, torch.Tensor]) -> Tensors:
        from safetensors.torch import save_file

        from genepool.kernels.reading import is_finite

        for key, value in tensors.items():
            if not is_finite(value):
                learned, fix = ("", "") if self.learner is None else (" after learning", "Lower `learn.rate`")
                raise InputError(f"{key} of the child holds NaN or infinity{learned}", fix=fix)
        path = self._path(name)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.{os.getpid()}")
            with locking.reporting_full_disk(path):
                try:
                    save_file(tensors, beside)
                    os.replace(beside, path)
                finally:
                    beside.unlink(missing_ok=True)
        return self._hold(name, tensors)

    def _hold(self, name: str, tensors: Tensors) -> Tensors:
        self._held[name] = tensors
        # Without a folder it is the only place: parents that push each other out would be made again for ever.
        while self._folder and len(self._held) > 1 and len(self._held) * self.founders.nbytes > self._memory:
            self._held.popitem(last=False)
        return tensors

    def _path(self, name: str) -> Path | None:
        if self._folder is None:
            return None
        # A name comes out of the record: it must not lead out of the folder.
        if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
            raise InputError(f"no child is called {name!r:.80}", fix="Restore the study's record from a copy")
        return self._folder / f"{name}.safetensors"

    def _born(self, name: str) -> Birth:
        try:
            return self._births(name)
        except KeyError:
            raise InputError(
                f"no founder and no child is called '{name}'", fix="Start the study again with --overwrite"
            ) from None

    # ------------------------------------------------------------------ fingerprints

    @cached_property
    def _root(self) -> str:
        # Hashed when the first child is, not when a study is only planned.
        parts = [self.founders.fingerprint(), *([] if self.learner is None else [self.learner.digest()])]
        return parts[0] if len(parts) == 1 else hashlib.sha256("\x1f".join(parts).encode()).hexdigest()

    def _fingerprint(self, name: str, birth: Birth) -> str:
        waiting = [(name, birth)]
        while waiting:
            current, its = waiting[-1]
            missing = [p for p in its.parents if p not in self.founders.models and p not in self._fingerprints]
            if missing and current not in self._fingerprints:
                waiting += [(parent, self._born(parent)) for parent in missing]
                continue
            waiting.pop()
            if current not in self._fingerprints:
                lines = [self._root] + [self._fingerprints.get(p, f"founder {p}") for p in its.parents]
                own = Birth(its.op, (), its.parameters, its.seed)
                digest = hashlib.sha256("\x1f".join(lines).encode() + own.to_bytes())
                self._fingerprints[current] = digest.hexdigest()
        return self._fingerprints[name]


class _Founder(Mapping[str, "torch.Tensor"]):
    """A founder's tensors, read when they are asked for."""

    def __init__(self, founders: Founders, name: str) -> None:
        self._founders, self.name = founders, name

    def __getitem__(self, tensor: str) -> torch.Tensor:
        return self._founders.founder(self.name, tensor)

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self._founders.infos)

    def __len__(self) -> int:
        return len(self._founders.infos)
