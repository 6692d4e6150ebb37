"""Runs a plan: reads, merges and writes tensor by tensor, on several threads, and goes on after a kill.

Work happens in `.OUT.partial`, published by rename. A journal there names the tensors that are complete, so a merge
that was killed computes only the rest; it is trusted only if recipe, sources and layout are those of now.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

from genepool import own_inputs, progress, staging
from genepool.devices import check_device
from genepool.errors import CheckFailed
from genepool.kernels.memory import MemoryGate
from genepool.merging import card
from genepool.merging.engine import Engine
from genepool.merging.mixture.weights import ExpertMixture
from genepool.merging.nesting import input_paths, say_remarks
from genepool.merging.outputs import OutputTensor
from genepool.merging.plan import Plan
from genepool.merging.recipe import Recipe
from genepool.merging.wholeness import check_whole
from genepool.threads import core_count, torch_threads
from genepool.weights import AlignedVocabulary, Checkpoint, Weights
from genepool.weights.dequantised import DequantisedCheckpoint
from genepool.weights.naming import Renamed
from genepool.weights.writer import DEFAULT_SHARD_BYTES, ShardedWriter, write_config

_JOURNAL = "journal.jsonl"
# Written data is forced to the disk before the journal says so, and not for every small tensor.
_SYNC_BYTES = 64 * 1024**2


def run_plan(
    plan: Plan,
    out: str | Path,
    *,
    overwrite: bool = False,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    threads: int | None = None,
    device: str = "cpu",
    verify: bool = False,
    sections: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
) -> Path:
    """Writes the merged model as a Hugging Face folder, whole or not at all.

    Args:
        plan: what to merge.
        out: the folder; `.OUT.partial` beside it is used while working.
        overwrite: replace what is at `out`.
        shard_bytes: largest shard.
        threads: how many tensors are worked on at once; the processor's cores, at most 8, when None.
        device: where to compute: "cpu", or "cuda" to stream the tensors through an accelerator.
        verify: read the result back and compare the hash of every tensor with what was computed.
        sections: further sections of the model card, title -> Markdown.
        files: further files of the folder, name -> text.

    Returns:
        `out`.

    Raises:
        InputError: an input is unusable, `out` is occupied, or the disk is full. Nothing is left behind.
        CheckFailed: `verify` found a difference.
    """
    out = Path(out)
    check_device(device)
    refuse_own_input(plan, out)
    check_whole(plan)
    staging.check_free(out, overwrite=overwrite)
    say_remarks(plan)
    run_key = _run_key(plan, shard_bytes)
    # Made before anything is written: a tokenizer that cannot be changed is a fault of the input.
    tokenizer = plan.tokenizer_folder

    def keep(left: Path) -> bool:
        return _journal_key(left) == run_key

    with staging.staged_folder(out, overwrite=overwrite, keep=keep) as folder:
        if (folder / _JOURNAL).is_file():
            progress.message(f"resuming the merge in {folder}")
        writer = ShardedWriter(folder, plan.stored, shard_bytes=shard_bytes)
        journal = _Journal(folder / _JOURNAL, run_key, writer)
        try:
            hashes = _merge_all(plan, writer, journal, threads or min(8, core_count()), device, verify)
        except BaseException:
            journal.abandon()
            raise
        journal.close()
        writer.close()
        fingerprint = None
        if verify:
            fingerprint = _verified(folder, hashes)
        (folder / _JOURNAL).unlink()
        write_config(
            folder,
            plan.config,
            plan.reference.folder,
            tokenizer_from=tokenizer,
            chat_template=plan.chat_template,
            control=plan.control,
        )
        written = card.extra_files(plan, fingerprint=fingerprint, sections=sections) | dict(files or {})
        for name, text in written.items():
            (folder / name).write_text(text, encoding="utf-8")
    return out


def _merge_all(
    plan: Plan, writer: ShardedWriter, journal: _Journal, threads: int, device: str, hashing: bool
) -> dict[str, str]:
    """Computes and writes every tensor that the journal does not have; returns hashes when asked to."""
    hashes: dict[str, str] = {}
    stopped = threading.Event()

    def work(out: OutputTensor) -> None:
        done, names = out.name in journal.finished, (out.name, *copies.get(out.name, ()))
        if done and not hashing:
            bar.advance(plan.infos[out.name].nbytes)
            return
        digest = hashlib.sha256()
        with memory.held(engine.working_bytes(out)):
            for start, rows in engine.stored_blocks(out):
                if stopped.is_set():
                    return
                if hashing:
                    digest.update(rows)
                if not done:
                    for name in names:
                        writer.write_rows(name, start, rows)
                bar.advance(rows.nbytes)
        hashes.update(dict.fromkeys(names, digest.hexdigest()))
        if not done:
            journal.add(out.name, plan.infos[out.name].nbytes)

    copies: dict[str, list[str]] = {}
    for name, first in plan.layout.copies.items():
        copies.setdefault(first, []).append(name)
    engine = Engine(plan, device)
    engine.prepare(threads)
    memory = MemoryGate(engine.memory_budget())
    total = sum(info.nbytes for info in plan.infos.values())
    with (
        progress.bar(f"merging by {plan.method.name}", total, "bytes") as bar,
        # One thread an operation while tensors are merged side by side: results never depend on the number.
        torch_threads(1 if engine.needs_torch else None),
        ThreadPoolExecutor(threads) as pool,
    ):
        # Large tensors first, so that no thread is left alone with one at the end.
        outputs = sorted(plan.layout.outputs, key=lambda out: -out.info.numel)
        futures = [pool.submit(work, out) for out in outputs]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stopped.set()
            for future in futures:
                future.cancel()
            raise
    return hashes


class _Journal:
    """Names of the tensors that are safely on the disk, one JSON line each, after a line with the run's key.

    A thread of its own waits for the disk while the next tensors are computed.
    """

    def __init__(self, path: Path, key: str, writer: ShardedWriter) -> None:
        self.finished = _finished_tensors(path)
        self._writer, self._lock = writer, threading.Lock()
        self._waiting: list[str] = []
        self._bytes = 0
        self._syncer = ThreadPoolExecutor(1)
        self._syncing: Future[None] | None = None
        fresh = not path.exists()
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  (open for the whole run)
        if fresh:
            self._file.write(json.dumps({"key": key}) + "\n")
            self._file.flush()

    def add(self, name: str, nbytes: int) -> None:
        with self._lock:
            self._waiting.append(name)
            self._bytes += nbytes
            if self._bytes >= _SYNC_BYTES and (self._syncing is None or self._syncing.done()):
                if self._syncing is not None:
                    # What went wrong there is said here.
                    self._syncing.result()
                self._begin_sync()

    def wait(self) -> None:
        """Returns when what was added so far is on the disk.

        Raises:
            OSError: it cannot be.
        """
        with self._lock:
            for _ in range(2):
                # First what is on its way, whose failure a later one would hide, then the rest.
                if self._syncing is not None:
                    self._syncing.result()
                if self._waiting:
                    self._begin_sync()

    def close(self) -> None:
        """Waits and ends."""
        try:
            self.wait()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Ends; what is not on its way to the disk stays off the journal."""
        self._syncer.shutdown(cancel_futures=True)
        self._file.close()

    def _begin_sync(self) -> None:
        self._syncing = self._syncer.submit(self._sync, self._waiting)
        self._waiting, self._bytes = [], 0

    def _sync(self, names: Sequence[str]) -> None:
        self._writer.sync()
        for name in names:
            self._file.write(json.dumps({"tensor": name}) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _finished_tensors(path: Path) -> frozenset[str]:
    if not path.is_file():
        return frozenset()
    return frozenset(line["tensor"] for line in _journal_lines(path) if "tensor" in line)


def _journal_key(folder: Path) -> str | None:
    path = folder / _JOURNAL
    return next((str(line["key"]) for line in _journal_lines(path) if "key" in line), None) if path.is_file() else None


def _journal_lines(path: Path) -> Iterator[dict[str, str]]:
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            # The line that was being written when the process was killed.
            return
        if not isinstance(line, dict) or not all(isinstance(value, str) for value in line.values()):
            return
        yield line


def _run_key(plan: Plan, shard_bytes: int) -> str:
    """Identity of one run: the same key means the same bytes in the same places."""
    parts = [json.dumps(plan.recipe.to_dict(), sort_keys=True), str(shard_bytes), _stamp_of_code(), plan.method.code]
    for name, weights in plan.sources.items():
        parts.append(f"{name}\x1f{_stamp(weights)}")
    if plan.statistics is not None:
        parts.append(_stamp(plan.statistics.tensors))
    return hashlib.sha256("\x1e".join(parts).encode()).hexdigest()


def _stamp(weights: Weights) -> str:
    """Changes when the files behind `weights` do; the fingerprint for kinds that have no files of their own."""
    if isinstance(weights, Checkpoint):
        stats = [os.stat(file.path) for file in weights.files]
        read_as = [weights.told(), weights.scheme.settings] if isinstance(weights, DequantisedCheckpoint) else []
        seen = [[s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for s in stats]
        return json.dumps([os.path.realpath(weights.path), seen, *read_as])
    if isinstance(weights, ExpertMixture):
        parts = [_stamp(one) for one in (weights.base, *weights.experts)]
        return json.dumps([weights.recipe.model_dump(mode="json"), *parts])
    if isinstance(weights, AlignedVocabulary):
        return json.dumps([weights.alignment.digest(), _stamp(weights.model)])
    return _stamp(weights.inner) if isinstance(weights, Renamed) else weights.fingerprint()


def _stamp_of_code() -> str:
    from importlib.metadata import version

    return version("genepool")


def refuse_own_input(plan: Plan, out: Path) -> None:
    """Raises InputError when a model that is merged, or a recipe file behind the plan, lies at `out` or below."""
    own_inputs.refuse_own_input(out, (path for _, path in input_paths(plan)))
    own_inputs.refuse_own_input(out, _recipe_files(plan.recipe))
    if plan.statistics is not None and isinstance(plan.statistics.tensors, Checkpoint):
        own_inputs.refuse_own_input(out, [str(plan.statistics.tensors.path)])


def _recipe_files(recipe: Recipe) -> Iterator[str]:
    if os.path.isfile(recipe.where):
        yield recipe.where
    for inner in recipe.recipes.values():
        yield from _recipe_files(inner)


def _verified(folder: Path, hashes: Mapping[str, str]) -> str:
    """Reads the written tensors back; returns the fingerprint of the result."""
    # What was written is read from the disk again, not from the pages that wrote it.
    written = Checkpoint(folder)
    for file in written.files:
        handle = os.open(file.path, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
    with progress.bar("verifying", len(hashes), "tensors") as bar:
        for file in written.files:
            for name in file.infos:
                if hashlib.sha256(file.view_bytes(name)).hexdigest() != hashes[name]:
                    raise CheckFailed(f"{folder}:{name}: what is on the disk is not what was computed. Check the disk.")
                bar.advance()
    return written.fingerprint()
