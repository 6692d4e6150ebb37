"""Writes a change as a skill file, in any form, tensor by tensor and several at a time.

What the file says is in `skill_file`; how a tensor is stored is chosen by the caller.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from genepool import progress
from genepool.errors import InputError
from genepool.kernels.memory import MemoryGate
from genepool.kernels.reading import is_finite
from genepool.staging import check_file
from genepool.threads import core_count, torch_threads
from genepool.weights.appending import AppendingWriter, appending
from genepool.weights.change import Change, block_rows
from genepool.weights.encodings import EncodedChange, Encoding, Entry, encodings
from genepool.weights.float_rows import is_finite_change
from genepool.weights.header import Header
from genepool.weights.skill_file import SAMPLE, part_name, sample
from genepool.weights.tensor_info import TensorInfo

if TYPE_CHECKING:
    import torch

# What one change in work takes beside its parts, in bytes an entry: the change, what it is computed from, a copy.
_ENTRY_BYTES = 16
_MEMORY = 1 << 29


class Choose(Protocol):
    """Decides how a tensor's change is stored."""

    def __call__(self, name: str, shape: tuple[int, ...], stored: tuple[Encoding, Entry] | None) -> Choice:
        """See `Choice`; `stored` is how it is stored already, where it is."""
        ...


@dataclass(frozen=True)
class Choice:
    """How a tensor's change is stored: by an encoding and its settings, as it is stored already, or not at all.

    `encoded` is what the encoding makes of it, where that has been done.
    """

    kind: str | None
    settings: Mapping[str, Any]
    encoded: EncodedChange | None = None

    @property
    def keeps(self) -> bool:
        """Whether it is taken over as it is stored."""
        return self.kind == "as stored"


AS_STORED = Choice("as stored", {})
LEFT_OUT = Choice(None, {})


@dataclass(frozen=True)
class WrittenChange:
    """A change that was written, as a skill file or as an adapter.

    Attributes:
        path: the file or folder.
        nbytes: size of its weights.
        tensors: how many tensors change.
        entries: how many entries those have.
        error: share of the change's size (Frobenius norm) that was lost in storing it.
        left_out: a tensor whose change is lost whole, and why; empty where there is none.
    """

    path: Path
    nbytes: int
    tensors: int
    entries: int
    error: float
    left_out: str = ""


def write_skill(
    change: Change,
    out: str | Path,
    form: str,
    choose: Choose,
    header: Header,
    *,
    overwrite: bool = False,
    threads: int | None = None,
) -> WrittenChange:
    """Writes a change as a skill file, whole or not at all. Tensors that do not change are left out.

    Args:
        change: what to write.
        out: the file, ending in .safetensors.
        form: what its header calls it: dense, sparse, low-rank or packed.
        choose: how each tensor is stored.
        header: what is known about the skill; its error is filled in.
        overwrite: replace a file that is there.
        threads: how many tensors are worked on at once; the processor's cores, at most 8, when None.

    Raises:
        InputError: nothing changes, a change is not finite, or the file cannot be written.
    """
    out = Path(out)
    check_skill_file(out, overwrite=overwrite)
    names = change.names()
    threads = threads or min(8, core_count())
    metadata = sum(len(name) + 120 for name in names) + (1 << 20) + (1 << 16)
    stored_names = [part_name(name, f"{'x' * 16}.{i}") for name in names for i in range(8)]
    with appending(out, stored_names, metadata_bytes=metadata, overwrite=overwrite) as writer:
        work = _Work(change, choose, writer)
        memory = MemoryGate(max(_MEMORY, *(work.nbytes(name) for name in names)) if names else _MEMORY)
        stopped = threading.Event()

        def one(place: int, name: str, room: AbstractContextManager[None]) -> tuple[str, _Done | None]:
            try:
                found = None if stopped.is_set() else work.store(name, place)
            finally:
                work.turns.pass_on(place)
                room.__exit__(None, None, None)
            bar.advance(change.numel(name))
            return name, found

        done: dict[str, _Done] = {}
        total = sum(change.numel(name) for name in names)
        with (
            progress.bar(f"writing {out.name}", total, "entries") as bar,
            torch_threads(1),
            ThreadPoolExecutor(threads) as pool,
        ):
            futures = []
            try:
                for place, name in enumerate(sorted(names, key=lambda n: -change.numel(n))):
                    # Here and not in the threads: the tensor whose turn it is must never wait for memory.
                    room = memory.held(work.nbytes(name))
                    room.__enter__()
                    futures.append(pool.submit(one, place, name, room))
                for future in futures:
                    name, found = future.result()
                    if found is not None:
                        done[name] = found
            except BaseException:
                stopped.set()
                raise
        table = {name: done[name].settings for name in names if name in done and done[name].settings}
        if not table:
            against = change.base.name if change.base is not None else "its base"
            raise InputError(f"{change.name} does not differ from {against}", where=out, fix="Name a fine-tune")
        if change.base is not None:
            import torch

            writer.write(SAMPLE, torch.stack([sample(change.base, name) for name in table]))
        size = sum(found.size for found in done.values())
        lost = sum(found.lost for found in done.values())
        error = (lost / size) ** 0.5 if size > 0 else 0.0
        writer.close(replace(header, error=error or None).metadata(form, table))
    entries = sum(change.numel(name) for name in table)
    return WrittenChange(out, out.stat().st_size, len(table), entries, error)


def check_skill_file(out: Path, *, overwrite: bool) -> None:
    """Refuses an output that cannot be a skill file, or that is taken.

    Raises:
        InputError: another ending, a folder, or a file that is not to be replaced.
    """
    if out.suffix != ".safetensors":
        raise InputError("the name must end in .safetensors", where=out, fix=f"Name it {out.name}.safetensors")
    check_file(out, overwrite=overwrite)


@dataclass(frozen=True)
class _Done:
    settings: Mapping[str, Any]
    size: float
    lost: float


class _Turns:
    """Lets threads get their places in the file one after the other, so that the same skill is the same file."""

    def __init__(self) -> None:
        self._next = 0
        self._passed: set[int] = set()
        self._changed = threading.Condition()

    def wait_for(self, place: int) -> None:
        """Returns when all before `place` have passed on their turns."""
        with self._changed:
            self._changed.wait_for(lambda: self._next >= place)

    def pass_on(self, place: int) -> None:
        """Ends the turn of `place`, if it has not ended yet."""
        with self._changed:
            self._passed.add(place)
            while self._next in self._passed:
                self._next += 1
            self._changed.notify_all()


class _Work:
    """Stores one tensor after the other; used by several threads."""

    def __init__(self, change: Change, choose: Choose, writer: AppendingWriter) -> None:
        self.change, self.choose, self.writer = change, choose, writer
        self.turns = _Turns()

    def nbytes(self, name: str) -> int:
        """About what storing it takes."""
        return _ENTRY_BYTES * self.change.numel(name)

    def store(self, name: str, place: int) -> _Done | None:
        """Writes one tensor's parts, `place` being its place in the file; None when it does not change."""
        stored = self.change.stored(name)
        shape = self.change.shape(name)
        choice = self.choose(name, shape, stored)
        if choice.kind is None:
            return self._left_out(name)
        if choice.keeps:
            assert stored is not None
            encoding, entry = stored
            if not is_finite_change(self.change, name):
                raise self._not_finite(name)
            self._append(name, place, {part: entry.whole(part) for part in entry.parts})
            own = {key: value for key, value in entry.settings.items() if key not in ("shape", "kind")}
            return _Done({"shape": list(shape), "kind": encoding.kind, **own}, 0.0, 0.0)
        if not self.change.moves(name):
            return None
        encoding = encodings()[choice.kind]
        layout = encoding.layout(shape, choice.settings)
        if layout is not None:
            return self._by_rows(name, place, encoding, choice, layout)
        if encoding.by_rows and choice.encoded is None:
            encoded, size, lost = self._joined(name, encoding, choice)
        else:
            change = self._checked(name, self.change.whole(name))
            encoded = choice.encoded or encoding.encode(change, **choice.settings)
            size, lost = _square(change), _square(encoding.restore(encoded, shape).sub_(change))
        if size == 0:
            return None
        self._append(name, place, encoded.parts)
        return _Done(self._settings(shape, encoding, encoded.settings), size, lost)

    def _append(self, name: str, place: int, parts: Mapping[str, torch.Tensor]) -> None:
        self.turns.wait_for(place)
        for part, tensor in parts.items():
            self.writer.write(part_name(name, part), tensor)

    def _by_rows(
        self, name: str, place: int, encoding: Encoding, choice: Choice, layout: Mapping[str, TensorInfo]
    ) -> _Done:
        self.turns.wait_for(place)
        for part, info in layout.items():
            self.writer.reserve(part_name(name, part), info)
        self.turns.pass_on(place)
        size = lost = 0.0
        settings: Mapping[str, Any] = {}
        shape = self.change.shape(name)
        for start, stop in block_rows(*self.change.matrix(name)):
            rows = self._checked(name, self.change.rows(name, start, stop))
            encoded = encoding.encode(rows, **choice.settings)
            settings = encoded.settings
            for part, tensor in encoded.parts.items():
                self.writer.write_rows(part_name(name, part), start, tensor)
            size += _square(rows)
            lost += self._lost(encoding, encoded, rows)
        return _Done(self._settings(shape, encoding, settings), size, lost)

    def _joined(self, name: str, encoding: Encoding, choice: Choice) -> tuple[EncodedChange, float, float]:
        """Encodes block by block and puts the parts below each other."""
        blocks = []
        size = lost = 0.0
        rows, columns = self.change.matrix(name)
        for start, stop in block_rows(rows, columns):
            change = self._checked(name, self.change.rows(name, start, stop))
            blocks.append(encoding.encode(change, **choice.settings))
            size += _square(change)
            lost += self._lost(encoding, blocks[-1], change)
        return encoding.join(blocks, columns), size, lost

    def _lost(self, encoding: Encoding, encoded: EncodedChange, rows: torch.Tensor) -> float:
        if encoding.kind == "dense" and encoded.parts[""].dtype == rows.dtype:
            return 0.0
        return _square(encoding.restore(encoded, tuple(rows.shape)).sub_(rows))

    def _left_out(self, name: str) -> _Done | None:
        size = 0.0
        for start, stop in block_rows(*self.change.matrix(name)):
            size += _square(self._checked(name, self.change.rows(name, start, stop)))
        # Counted among what is lost, and not stored.
        return _Done({}, size, size) if size else None

    def _checked(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        if not is_finite(rows):
            raise self._not_finite(name)
        return rows

    def _not_finite(self, name: str) -> InputError:
        where, fix = f"{self.change.name}:{name}", "Correct the model or leave it out"
        return InputError("the change is NaN or infinite", where=where, fix=fix)

    @staticmethod
    def _settings(shape: tuple[int, ...], encoding: Encoding, own: Mapping[str, Any]) -> dict[str, Any]:
        return {"shape": list(shape), "kind": encoding.kind, **own}


def _square(values: torch.Tensor) -> float:
    flat = values.reshape(-1)
    return float(flat @ flat)
