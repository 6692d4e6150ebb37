"""Where a skill comes from: a skill file, an adapter, or the difference of two models, all read the same way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.kernels.reading import subtract
from genepool.merging.engine import BLOCK_ENTRIES
from genepool.skills.header import Header
from genepool.weights import Weights, open_weights
from genepool.weights.adapter import LoraOnBase
from genepool.weights.change_on_base import ChangeOnBase
from genepool.weights.encodings import Encoded, Encoding, Entry, encodings
from genepool.weights.encodings.encoding import FACTOR, in_memory
from genepool.weights.encodings.low_rank import LowRank
from genepool.weights.skill_file import SkillFile, is_skill
from genepool.weights.tensor_info import TensorInfo, shape_text

if TYPE_CHECKING:
    import torch


class Changes(ABC):
    """The change a fine-tune made, tensor by tensor, read when it is asked for.

    Attributes:
        name: what the user calls it.
        header: what is known about it.
        base: the model it is relative to, where that is open.
    """

    name: str
    header: Header
    base: Weights | None = None

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The tensors that may be changed."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one of them."""

    @abstractmethod
    def change_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows of the change of a tensor as a matrix, `(stop - start, columns)` float32; ours to write into."""

    def change(self, name: str) -> torch.Tensor:
        """All of them, `(rows, columns)`."""
        return self.change_rows(name, 0, self.matrix(name)[0])

    def matrix(self, name: str) -> tuple[int, int]:
        """(rows, columns) of a tensor as a matrix."""
        return TensorInfo(self.shape(name), "F32").matrix

    def moves(self, name: str) -> bool:
        """Whether any entry of it changes."""
        return True

    def stored(self, name: str) -> tuple[Encoding, Entry] | None:
        """How the change is stored, where it is stored in a form of its own."""
        return None

    def identity(self) -> dict[str, Any]:
        """What goes into the lineage of what is made of it: {"parents": [..]} or {"models": [..]}."""
        return {}


def block_rows(rows: int, columns: int) -> list[tuple[int, int]]:
    """(start, stop) of the blocks of rows that a matrix is streamed in."""
    step = max(1, BLOCK_ENTRIES // max(1, columns))
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


class Difference(Changes):
    """`tuned - base`, of two models of one architecture.

    Raises:
        InputError: they do not line up.
    """

    def __init__(self, tuned: Weights, base: Weights) -> None:
        self.tuned, self.base, self.name = tuned, base, tuned.name
        for name in base.names():
            if name not in tuned:
                raise InputError(f"{tuned.name} has no tensor {name}", where=tuned.name, fix="Name its own base")
            ours, theirs = base.info(name).shape, tuned.info(name).shape
            if ours != theirs:
                raise InputError(
                    f"shape {shape_text(theirs)} where {base.name} has {shape_text(ours)}",
                    where=f"{tuned.name}:{name}",
                    fix="Name its own base",
                )
        extra = next((name for name in tuned.names() if name not in base), None)
        if extra is not None:
            raise InputError(
                f"{tuned.name} has tensors its base has not ({extra})", where=base.name, fix="Name its own base"
            )
        self.header = Header(base.fingerprint(), base.name)

    def names(self) -> tuple[str, ...]:
        base = self.base
        assert base is not None
        return tuple(name for name in base.names() if base.info(name).is_float and base.info(name).numel)

    def shape(self, name: str) -> tuple[int, ...]:
        assert self.base is not None
        return self.base.info(name).shape

    def change_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        import torch

        assert self.base is not None
        if self.tuned.holds_change(self.base):
            found = self.tuned.delta_rows(name, self.base, start, stop)
            return torch.zeros(stop - start, self.matrix(name)[1]) if found is None else found
        mine, theirs = self.tuned.read_rows(name, start, stop), self.base.read_rows(name, start, stop)
        out = torch.empty(mine.shape)
        subtract(mine.contiguous(), theirs.contiguous(), out)
        return out

    def moves(self, name: str) -> bool:
        assert self.base is not None
        if not self.tuned.moves(name, self.base):
            return False
        # A tensor that moved shows it in its first block; only one that did not is read to its end.
        return any(bool(self.change_rows(name, a, b).any()) for a, b in block_rows(*self.matrix(name)))

    def identity(self) -> dict[str, Any]:
        return {"models": [{"name": self.tuned.name, "fingerprint": self.tuned.fingerprint()}]}


class AdapterChanges(Changes):
    """An adapter on its base, whose factors are kept as they are."""

    def __init__(self, adapter: ChangeOnBase) -> None:
        self.adapter, self.base, self.name = adapter, adapter.base, adapter.name
        self.header = Header(adapter.base.fingerprint(), adapter.base.name)

    def names(self) -> tuple[str, ...]:
        changed = self.adapter.changed()
        return tuple(name for name in self.adapter.names() if name in changed)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.adapter.info(name).shape

    def change_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.adapter.change_rows(name, start, stop)

    def stored(self, name: str) -> tuple[Encoding, Entry] | None:
        if (factors := self.adapter.factors(name)) is None:
            return None
        kind = encodings()["low-rank"]
        assert isinstance(kind, LowRank)
        return kind, in_memory(name, self.shape(name), kind.of_factors(*factors))

    def identity(self) -> dict[str, Any]:
        name = str(self.adapter.path) if isinstance(self.adapter, LoraOnBase) else self.adapter.name
        return {"models": [{"name": name, "fingerprint": self.adapter.fingerprint()}]}


class FileChanges(Changes):
    """A skill file; with a base, only one that it belongs to."""

    def __init__(self, skill: SkillFile, base: Weights | None = None) -> None:
        self.skill, self.base, self.name = skill, base, str(skill.path)
        self.header = Header.of(skill)

    def names(self) -> tuple[str, ...]:
        return self.skill.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.skill.shape(name)

    def change_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.skill.change_rows(name, start, stop)

    def stored(self, name: str) -> tuple[Encoding, Entry] | None:
        return self.skill.stored(name)

    def identity(self) -> dict[str, Any]:
        return {"parents": [self.skill.digest()]}


class Scaled(Changes):
    """Another's changes times a factor."""

    def __init__(self, inner: Changes, factor: float) -> None:
        self.inner, self.factor = inner, factor
        self.name, self.header, self.base = inner.name, inner.header, inner.base

    def names(self) -> tuple[str, ...]:
        return self.inner.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.inner.shape(name)

    def change_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.inner.change_rows(name, start, stop).mul_(self.factor)

    def moves(self, name: str) -> bool:
        return self.inner.moves(name)

    def stored(self, name: str) -> tuple[Encoding, Entry] | None:
        found = self.inner.stored(name)
        if found is None:
            return None
        encoding, entry = found
        return encoding, encoding.scaled(entry, self.factor)

    def identity(self) -> dict[str, Any]:
        return self.inner.identity()


class Sum(Changes):
    """Several changes of one base, added up."""

    def __init__(self, parts: list[Changes]) -> None:
        first = parts[0]
        self.parts, self.base = parts, first.base
        self.name = " + ".join(part.name for part in parts)
        for part in parts[1:]:
            if part.header.base_fingerprint != first.header.base_fingerprint:
                raise InputError(
                    f"made for another base ({part.header.base_name}) than {first.name} ({first.header.base_name})",
                    where=part.name,
                    fix="Only skills of one base can be added up",
                )
        self.header = Header(first.header.base_fingerprint, first.header.base_name)
        self._holders: dict[str, list[Changes]] = {}
        for part in parts:
            for name in part.names():
                held = self._holders.setdefault(name, [])
                if held and held[0].shape(name) != part.shape(name):
                    raise InputError("its shape differs", where=f"{part.name}:{name}", fix="Name skills of one base")
                held.append(part)

    def names(self) -> tuple[str, ...]:
        return tuple(self._holders)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._holders[name][0].shape(name)

    def change_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        first, *others = self._holders[name]
        total = first.change_rows(name, start, stop)
        for other in others:
            total += other.change_rows(name, start, stop)
        return total

    def moves(self, name: str) -> bool:
        return any(part.moves(name) for part in self._holders[name])

    def stored(self, name: str) -> tuple[Encoding, Entry] | None:
        """Products of low rank are added by putting their factors side by side."""
        import torch

        kind = encodings()["low-rank"]
        assert isinstance(kind, LowRank)
        found = [part.stored(name) for part in self._holders[name]]
        if len(found) == 1:
            return found[0]
        entries = [entry for pair in found if pair is not None and pair[0] is kind for entry in [pair[1]]]
        rank = sum(entry.parts["left"].info.shape[1] for entry in entries)
        rows, columns = self.matrix(name)
        if len(entries) < len(found) or rank * (rows + columns) > rows * columns:
            return None
        lefts = [entry.whole("left").float() * entry.settings.get(FACTOR, 1.0) for entry in entries]
        factors = torch.cat(lefts, 1), torch.cat([entry.whole("right").float() for entry in entries])
        return kind, in_memory(name, self.shape(name), kind.of_factors(*factors))

    def identity(self) -> dict[str, Any]:
        found: dict[str, list[Any]] = {}
        for part in self.parts:
            for key, values in part.identity().items():
                found.setdefault(key, []).extend(values)
        return found


class OnBase(ChangeOnBase):
    """A base with any changes, as weights: to be asked, written or merged. It has no fingerprint of its own."""

    def __init__(self, changes: Changes, name: str | None = None) -> None:
        assert changes.base is not None
        super().__init__(changes.base, name or changes.name)
        self.changes = changes
        self._changed = frozenset(changes.names())

    def changed(self) -> frozenset[str]:
        return self._changed

    def change(self, name: str) -> torch.Tensor:
        return self.changes.change(name).reshape(self.info(name).shape)

    def change_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.changes.change_rows(name, start, stop)


def open_changes(reference: str | Path, base: Weights | None = None, *, allow_pickle: bool = False) -> Changes:
    """Opens what a user names where a skill is wanted.

    Args:
        reference: a skill file, or with `base` a PEFT adapter's folder, or a fine-tune of the base.
        base: the model it is relative to.

    Raises:
        InputError: nothing is there, it needs a base, or belongs to another.
    """
    path = Path(reference).expanduser()
    if is_skill(path):
        if base is not None:
            # Opened on the base once, for its checks: tensors, shapes, fingerprint.
            open_weights(path, base=base)
        return FileChanges(SkillFile(path), base)
    if base is None:
        if path.exists() or "/" in str(reference):
            raise InputError("not a skill file", where=reference, fix="Name a skill file, or give its base with --base")
        raise InputError("no such file", where=reference, fix="Check the path")
    opened = open_weights(reference, base=base, allow_pickle=allow_pickle)
    if isinstance(opened, LoraOnBase) and opened.base is base:
        return AdapterChanges(opened)
    return Difference(opened, base)


def encoded_change(encoding: Encoding, encoded: Encoded, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """What comes back of a change that was encoded, `(rows, columns)` float32."""
    entry = in_memory(name, shape, encoded)
    return encoding.decode(entry, 0, entry.matrix[0])
