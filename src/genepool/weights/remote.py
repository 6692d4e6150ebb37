"""Models behind any URL that fsspec knows, fetched into the cache before they are opened.

A file appears in the cache whole or not at all; what was fetched of it is kept beside it and gone on with. Nothing is
fetched twice unless it changed. Only files that belong to a model are fetched, and a name from a remote index can
never lead out of the cache folder. Used by `opening`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genepool import locking, progress, staging
from genepool.errors import InputError, one_line
from genepool.weights.carried import KNOWN_FILES
from genepool.weights.checkpoint import shards_of
from genepool.weights.fingerprint_cache import cache_folder
from genepool.weights.formats import TensorFile, formats, usable_formats
from genepool.weights.json_file import MOST_BYTES
from genepool.weights.waiting import waited

_URL = re.compile(r"[a-z][a-z0-9.-]*://.+", re.IGNORECASE)
_COMPANIONS = ("config.json", "adapter_config.json", *KNOWN_FILES)
# What file systems call the things that change when a file does.
_MARKS = frozenset(
    {"etag", "md5hash", "content_md5", "digest", "generation", "lastmodified", "last_modified", "mtime", "created"}
)
_RECORD = ".fetched.json"
_CHUNK = 1 << 22
# Bytes of one file of weights: the largest that hubs take have 50 GB.
_MOST_OF_WEIGHTS = 10**12


def is_url(text: str) -> bool:
    """Whether `text` names something by a URL rather than a path."""
    return _URL.fullmatch(text) is not None


def fetch(url: str, *, allow_pickle: bool = False) -> Path:
    """The local folder or file that holds what `url` names, after fetching what is missing of it.

    Args:
        url: a folder of a model or adapter, or one file of weights. A `file://` URL is opened where it lies.
        allow_pickle: fetch PyTorch files where there is no safetensors file.

    Raises:
        InputError: a package for this kind of URL is missing, nothing usable is there, the connection broke, or the
            disk is full.
    """
    url = url.rstrip("/")
    place = _Place.of(url)
    if place.local is not None:
        return place.local
    folder = cache_folder() / "remote" / hashlib.sha256(url.encode()).hexdigest()[:32]
    with locking.reporting_full_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _alone_in(folder):
            return _Mirror(place, folder).bring(allow_pickle)


@dataclass(frozen=True)
class _File:
    """A remote file: where, how large (None when the server does not say), and a mark that changes when it does."""

    path: str
    size: int | None
    stamp: str


@dataclass(frozen=True)
class _Place:
    """A folder that fsspec can read, and the one file in it that is meant, if one is."""

    url: str
    filesystem: Any
    folder: str
    single: str = ""

    @classmethod
    def of(cls, url: str) -> _Place:
        import fsspec

        scheme = url.partition("://")[0]
        try:
            filesystem, path = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise InputError(
                f"the package that reads {scheme}:// is not installed ({error})",
                where=url,
                fix="Install it",
            ) from None
        except Exception as error:
            # No such scheme, no credentials, an address that cannot be parsed: each filesystem has its own classes.
            raise InputError(f"cannot be reached ({_short(error)})", where=url, fix="Check the address") from None
        if any(Path(path).suffix in kind.suffixes for kind in formats()):
            folder, _, single = path.rpartition("/")
            return cls(url, filesystem, folder, single)
        return cls(url, filesystem, path)

    @property
    def local(self) -> Path | None:
        """The path itself when the URL is of a local file."""
        names = self.filesystem.protocol
        return Path(self.folder) / self.single if "file" in ([names] if isinstance(names, str) else names) else None

    def find(self, name: str) -> _File | None:
        """What is known of one file of the folder; None when it is not there."""
        path = f"{self.folder}/{name}"
        try:
            info = waited(lambda: self.filesystem.info(path), f"{self.url}/{name}")
            if info.get("type") == "directory":
                return None
            # fsspec's own key knows nothing but the address on http, and retrained weights have the size of the old.
            marks = {key: str(value) for key, value in info.items() if key.lower().replace("-", "_") in _MARKS}
            mark = json.dumps(marks, sort_keys=True) if marks else self.filesystem.ukey(path)
        except (FileNotFoundError, PermissionError):
            # Some stores answer "forbidden" for what does not exist.
            return None
        except InputError:
            raise
        except Exception as error:
            raise self.unreachable(error) from None
        return _File(path, info.get("size"), f"{info.get('size')} {mark}")

    def list(self) -> list[str]:
        """Names in the folder; empty where the store cannot list them."""
        try:
            names = waited(lambda: self.filesystem.ls(self.folder, detail=False), self.url)
            return sorted(path.rpartition("/")[2] for path in names)
        except InputError:
            raise
        except Exception:
            return []

    def unreachable(self, error: Exception, kept: str = "") -> InputError:
        return InputError(
            f"the connection failed ({_short(error)})",
            where=self.url,
            fix=f"Check the network and run again{kept}",
        )


class _Mirror:
    """One remote place and the cache folder that holds what was fetched of it."""

    def __init__(self, place: _Place, folder: Path) -> None:
        self.place, self.folder = place, folder
        self.record = _read_record(folder / _RECORD)

    def bring(self, allow_pickle: bool) -> Path:
        """Makes the cache folder like the remote one, and says what to open."""
        wanted = self._weights(allow_pickle)
        for name in _COMPANIONS:
            if name not in wanted and (found := self.place.find(name)) is not None:
                wanted[name] = found
        self._remove_all_but(wanted)
        self._check_space(wanted)
        missing = {name: file for name, file in wanted.items() if not self._here(name, file)}
        sizes = [file.size for file in missing.values()]
        total = None if None in sizes else sum(size or 0 for size in sizes)
        if missing:
            with progress.bar(f"fetching {self.place.url}", total, "bytes") as bar:
                for name, file in missing.items():
                    bar.note(name)
                    self._fetch(name, file, bar)
        return self.folder / self.place.single if self.place.single else self.folder

    def _weights(self, allow_pickle: bool) -> dict[str, _File]:
        """The files that hold tensors, found by the names every loader looks for."""
        if self.place.single:
            file = self.place.find(self.place.single)
            if file is None:
                raise self._nothing()
            return {self.place.single: file}
        usable = usable_formats(allow_pickle)
        for kind in usable:
            if kind.index_file and (file := self.place.find(kind.index_file)) is not None:
                return {kind.index_file: file, **self._shards(kind.index_file, file)}
            if kind.model_file and (file := self.place.find(kind.model_file)) is not None:
                return {kind.model_file: file}
        for name in (*(kind.adapter_file for kind in usable if kind.adapter_file), *self._only_ones()):
            if (file := self.place.find(name)) is not None:
                return {name: file}
        raise self._nothing(next((kind for kind in formats() if kind not in usable and self._has(kind)), None))

    def _only_ones(self) -> list[str]:
        """Files of other names that are the model because they are the only ones of their format in the folder."""
        names = self.place.list()
        candidates = [[name for name in names if kind.may_be_model(name)] for kind in usable_formats(False)]
        return [found[0] for found in candidates if len(found) == 1]

    def _has(self, kind: type[TensorFile]) -> bool:
        return bool(kind.model_file) and self.place.find(kind.model_file) is not None

    def _shards(self, index: str, file: _File) -> dict[str, _File]:
        with progress.bar(f"fetching {self.place.url}", file.size, "bytes") as bar:
            self._fetch(index, file, bar)
        result = {}
        for shard in sorted(set(shards_of(self.folder / index).values())):
            found = self.place.find(shard)
            if found is None:
                raise InputError("no such shard", where=f"{self.place.url}/{shard}", fix=f"{index} names it")
            result[shard] = found
        return result

    def _nothing(self, refused: type[TensorFile] | None = None) -> InputError:
        if refused is not None:
            return InputError(
                f"holds only {refused.title}s, which can run code when they are opened",
                where=self.place.url,
                fix="Name a safetensors checkpoint, or allow them: --allow-pickle",
            )
        return InputError(
            "holds no model", where=self.place.url, fix="Check the address, the network and your credentials"
        )

    def _here(self, name: str, file: _File) -> bool:
        path = self.folder / name
        return self.record.get(name) == file.stamp and path.is_file() and file.size in (None, path.stat().st_size)

    def _remove_all_but(self, wanted: Mapping[str, _File]) -> None:
        kept = {_partial(self.folder, name, file).name for name, file in wanted.items()} | wanted.keys()
        for path in self.folder.iterdir():
            if path.name not in kept and (not path.name.startswith(".") or path.name.endswith(".partial")):
                path.unlink()

    def _check_space(self, wanted: Mapping[str, _File]) -> None:
        needed = sum(file.size or 0 for name, file in wanted.items() if not self._here(name, file))
        needed -= sum(path.stat().st_size for path in self.folder.glob(".*.partial"))
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise InputError(
                f"{needed / 1e9:.1f} GB must be fetched, and {free / 1e9:.1f} GB are free",
                where=self.folder,
                fix="Free some space, or set GENEPOOL_CACHE to a folder on another disk",
            )

    def _fetch(self, name: str, file: _File, bar: progress.Bar) -> None:
        """Brings one file: into a partial file that is gone on with, published by rename."""
        if self._here(name, file):
            return
        partial = _partial(self.folder, name, file)
        most = _most_bytes(name)
        if file.size is not None and file.size > most:
            raise self._too_large(name, f"has {file.size:,} bytes, expected at most {most:,}")
        with open(partial, "ab") as target:
            for chunk in self._chunks(file, target, bar):
                target.write(chunk)
                bar.advance(len(chunk))
                if target.tell() > (most if file.size is None else file.size):
                    break
            target.flush()
            os.fsync(target.fileno())
            size = target.tell()
        if file.size is None and size > most:
            partial.unlink()
            raise self._too_large(name, f"has no size and does not end after {most:,} bytes")
        if file.size is not None and size > file.size:
            partial.unlink()
            raise self._too_large(name, f"sends more than the {file.size:,} bytes that it announced")
        if file.size is not None and size != file.size:
            raise InputError(
                f"the connection ended after {size} of {file.size} bytes",
                where=f"{self.place.url}/{name}" if not self.place.single else self.place.url,
                fix="Run again: it goes on from there",
            )
        os.replace(partial, self.folder / name)
        self.record[name] = file.stamp
        staging.write_text(self.folder / _RECORD, json.dumps(self.record))

    def _too_large(self, name: str, what: str) -> InputError:
        where = f"{self.place.url}/{name}" if not self.place.single else self.place.url
        return InputError(what, where=where, fix="Check the address")

    def _chunks(self, file: _File, target: Any, bar: progress.Bar) -> Iterator[bytes]:
        """The remote bytes from where `target` ends; from the beginning where the store cannot go on."""
        try:
            with waited(lambda: self.place.filesystem.open(file.path, "rb"), self.place.url) as source:
                if begun := target.tell():
                    try:
                        source.seek(begun)
                        bar.advance(begun)
                    except Exception:
                        target.truncate(0)
                while chunk := waited(lambda: source.read(_CHUNK), self.place.url):
                    yield chunk
        except (InputError, GeneratorExit):
            raise
        except Exception as error:
            raise self.place.unreachable(error, ": what was fetched is kept") from None


def _most_bytes(name: str) -> int:
    """What a file of this name holds at most: configs and tokenizers take little, weights may take a disk."""
    return _MOST_OF_WEIGHTS if any(Path(name).suffix in kind.suffixes for kind in formats()) else MOST_BYTES


def _partial(folder: Path, name: str, file: _File) -> Path:
    """Where a file is gathered; named by its version, so that parts of two versions never meet."""
    return folder / f".{name}.{hashlib.sha256(file.stamp.encode()).hexdigest()[:12]}.partial"


def _read_record(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in content.items()} if isinstance(content, dict) else {}


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Two processes that want the same model fetch it once, one after the other."""
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"
