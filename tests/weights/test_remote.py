"""Models behind URLs: whole or not at all, gone on with, fetched once, and nothing outside the cache is touched."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import save

from genepool.errors import InputError
from genepool.weights import open_weights, remote, write_checkpoint
from genepool.weights.fingerprint_cache import cache_folder

NORM = "model.norm.weight"


def _tensors() -> dict[str, torch.Tensor]:
    return {NORM: torch.arange(4.0), **{f"model.layers.{i}.mlp.up_proj.weight": torch.ones(4, 4) for i in range(3)}}


@pytest.fixture
def store() -> Iterator[Any]:
    """fsspec's file system in memory, empty."""
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


@pytest.fixture
def upload(store: Any, save_model: Callable[..., Path], tmp_path: Path) -> Callable[..., str]:
    def put(name: str = "m", shard_bytes: int = 10**9) -> str:
        folder = write_checkpoint(
            open_weights(save_model("here", _tensors())), tmp_path / name, shard_bytes=shard_bytes
        )
        (folder / "tokenizer_config.json").write_text("{}")
        (folder / "optimizer.bin").write_text("not part of the model")
        for path in folder.iterdir():
            store.pipe(f"/bucket/{name}/{path.name}", path.read_bytes())
        return f"memory://bucket/{name}"

    return put


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the remote files that were opened to be read."""
    names: list[str] = []
    real = MemoryFileSystem.open

    def open_(self: Any, path: str, mode: str = "rb", **settings: Any) -> Any:
        if mode == "rb":
            names.append(path.rpartition("/")[2])
        return real(self, path, mode, **settings)

    monkeypatch.setattr(MemoryFileSystem, "open", open_)
    return names


def _cached(tmp_path: Path) -> Path:
    (folder,) = (cache_folder() / "remote").iterdir()
    return folder


@pytest.mark.parametrize("shard_bytes", [70, 10**9])
def test_a_folder_is_fetched_once_and_only_what_belongs_to_a_model(
    upload: Callable[..., str], opened: list[str], tmp_path: Path, shard_bytes: int
) -> None:
    url = upload(shard_bytes=shard_bytes)
    weights = open_weights(url)
    assert weights.name == url
    assert weights.fingerprint() == open_weights(tmp_path / "m").fingerprint()
    assert weights.config == {"model_type": "llama", "dtype": "float32"}
    assert "tokenizer_config.json" in opened
    assert "optimizer.bin" not in opened
    assert len(opened) == len(set(opened))
    opened.clear()
    open_weights(url)
    assert opened == []


def test_a_single_file_an_adapter_and_a_base_can_each_be_remote(store: Any, upload: Callable[..., str]) -> None:
    url = upload()
    assert open_weights(f"{url}/model.safetensors").config is not None
    prefix = "base_model.model.model.layers.0.mlp.up_proj"
    factors = {f"{prefix}.lora_A.weight": torch.ones(2, 4), f"{prefix}.lora_B.weight": torch.ones(4, 2)}
    store.pipe("/bucket/lora/adapter_model.safetensors", save(factors))
    store.pipe("/bucket/lora/adapter_config.json", b'{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    weights = open_weights(f"{url}+memory://bucket/lora")
    assert torch.equal(weights["model.layers.0.mlp.up_proj.weight"], torch.full((4, 4), 3.0))


def test_a_file_that_changed_is_fetched_again_and_one_that_went_is_gone(
    store: Any, upload: Callable[..., str], opened: list[str], tmp_path: Path
) -> None:
    url = upload()
    open_weights(url)
    opened.clear()
    store.pipe("/bucket/m/model.safetensors", save({NORM: torch.zeros(4)}))
    store.rm("/bucket/m/tokenizer_config.json")
    assert torch.equal(open_weights(url)[NORM], torch.zeros(4))
    assert opened == ["model.safetensors"]
    assert not (_cached(tmp_path) / "tokenizer_config.json").exists()


def test_a_change_that_keeps_the_size_is_seen_where_the_key_is_only_the_address(
    store: Any, upload: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on http: fsspec's key is made of the address, and the server sends an ETag."""
    url = upload()
    etag = "one"
    real = MemoryFileSystem.info

    def info(self: Any, path: str, **settings: Any) -> Any:
        found = real(self, path, **settings)
        return {**{key: found[key] for key in ("name", "size", "type")}, "ETag": etag}

    monkeypatch.setattr(MemoryFileSystem, "info", info)
    monkeypatch.setattr(MemoryFileSystem, "ukey", lambda self, path: path)
    open_weights(url)
    store.pipe("/bucket/m/model.safetensors", save({**_tensors(), NORM: torch.zeros(4)}, metadata={"format": "pt"}))
    etag = "two"
    assert torch.equal(open_weights(url)[NORM], torch.zeros(4))


def test_a_broken_connection_is_gone_on_with(
    upload: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = upload()
    monkeypatch.setattr(remote, "_CHUNK", 16)
    read: list[int] = []
    breaks_after = 3
    real = MemoryFileSystem.open

    class Breaking:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Breaking:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def seek(self, place: int) -> int:
            return int(self.file.seek(place))

        def read(self, size: int) -> bytes:
            read.append(self.file.tell())
            if len(read) > breaks_after:
                raise ConnectionResetError("the peer is gone")
            return bytes(self.file.read(size))

    def open_(self: Any, path: str, *args: Any, **settings: Any) -> Any:
        file = real(self, path, *args, **settings)
        return Breaking(file) if path.endswith(".safetensors") else file

    monkeypatch.setattr(MemoryFileSystem, "open", open_)
    with pytest.raises(InputError, match="the connection failed .*the peer is gone.*what was fetched is kept"):
        open_weights(url)
    (partial,) = _cached(tmp_path).glob("*.partial")
    assert partial.stat().st_size == 48
    assert not (_cached(tmp_path) / "model.safetensors").exists()
    breaks_after = 10**9
    read.clear()
    assert open_weights(url).fingerprint() == open_weights(tmp_path / "m").fingerprint()
    assert read[0] == 48
    assert not list(_cached(tmp_path).glob("*.partial"))


def test_a_store_that_cannot_go_on_begins_again(
    upload: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = upload()
    find = remote._Place.of(url).find("model.safetensors")
    open_weights(url)
    folder = _cached(tmp_path)
    (folder / "model.safetensors").unlink()
    remote._partial(folder, "model.safetensors", find).write_bytes(b"never to be seen again")
    from fsspec.implementations.memory import MemoryFile

    def no_seek(self: Any, *_: Any) -> int:
        raise ValueError("streams cannot be rewound")

    monkeypatch.setattr(MemoryFile, "seek", no_seek)
    monkeypatch.setattr(MemoryFileSystem, "open", lambda self, path, mode: _Stream(self.cat_file(path), no_seek))
    assert open_weights(url).fingerprint() == open_weights(tmp_path / "m").fingerprint()


class _Stream:
    def __init__(self, data: bytes, seek: Any) -> None:
        self.data, self.seek = data, lambda place: seek(self, place)

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, size: int) -> bytes:
        chunk, self.data = self.data[:size], self.data[size:]
        return chunk


def test_a_size_that_is_not_kept_is_refused(
    upload: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = upload()
    real = MemoryFileSystem.info

    def info(self: Any, path: str, **settings: Any) -> Any:
        found = real(self, path, **settings)
        return {**found, "size": found["size"] + (100 if path.endswith(".safetensors") else 0)}

    monkeypatch.setattr(MemoryFileSystem, "info", info)
    with pytest.raises(InputError, match=r"m/model.safetensors: the connection ended after \d+ of \d+ bytes"):
        open_weights(url)
    assert not (_cached(tmp_path) / "model.safetensors").exists()


def test_more_than_the_disk_has_is_refused_before_the_first_byte(
    upload: Callable[..., str], opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    url = upload()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(InputError, match="must be fetched, and 0.0 GB are free"):
        open_weights(url)
    assert opened == []


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", ""])
def test_a_remote_index_cannot_lead_out_of_the_cache(store: Any, tmp_path: Path, shard: str) -> None:
    store.pipe("/bucket/secret.safetensors", save({NORM: torch.ones(4)}))
    store.pipe("/bucket/m/model.safetensors.index.json", json.dumps({"weight_map": {NORM: shard}}).encode())
    with pytest.raises(InputError, match="names a file outside the folder"):
        open_weights("memory://bucket/m")
    assert {p.name for p in _cached(tmp_path).iterdir() if not p.name.startswith(".")} == {
        "model.safetensors.index.json"
    }


def test_pickles_are_fetched_only_when_they_are_allowed(store: Any, opened: list[str], tmp_path: Path) -> None:
    torch.save(_tensors(), tmp_path / "x.bin")
    store.pipe("/bucket/m/pytorch_model.bin", (tmp_path / "x.bin").read_bytes())
    with pytest.raises(InputError, match="can run code.*--allow-pickle"):
        open_weights("memory://bucket/m")
    assert opened == []
    assert torch.equal(open_weights("memory://bucket/m", allow_pickle=True)[NORM], torch.arange(4.0))


def test_a_local_url_is_opened_where_it_lies(save_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = save_model("m", _tensors())
    assert open_weights(f"file://{folder}").folder == folder
    assert open_weights(f"file://{folder}/model.safetensors").folder == folder
    assert not (cache_folder() / "remote").exists()
    with pytest.raises(InputError, match="the path does not exist"):
        open_weights(f"file://{tmp_path}/nowhere")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memory://bucket/nothing", "holds no model. Check the address, the network"),
        ("memory://bucket/nothing.safetensors", "holds no model"),
        ("nosuch://bucket/m", "cannot be reached"),
        ("hf://just-a-name", "Write it as hf://org/name"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(store: Any, cli: Callable[..., Any], url: str, said: str) -> None:
    answer = cli("generate", url, "--prompt", "x", "--quiet")
    assert answer.code == 2
    assert len(answer.err.strip().splitlines()) == 1
    assert said in answer.err


def test_a_missing_package_is_named(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.registry import _registry, known_implementations

    absent = {"class": "no_such_s3fs.FileSystem", "err": "Install s3fs to access S3"}
    monkeypatch.setitem(known_implementations, "s3", absent)
    monkeypatch.delitem(_registry, "s3", raising=False)
    answer = cli("generate", "s3://bucket/m", "--prompt", "x", "--quiet")
    assert answer.code == 2
    assert "the package that reads s3:// is not installed (Install s3fs to access S3)" in answer.err


def test_hub_models_come_from_the_hubs_own_cache(
    save_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a download leaves behind, without a network: refs name a commit, its snapshot links to the files."""
    from huggingface_hub import constants

    hub = tmp_path / "hub"
    commit = "c" * 40
    entry = hub / "models--org--name"
    (entry / "refs").mkdir(parents=True)
    (entry / "snapshots" / commit).mkdir(parents=True)
    (entry / "refs" / "main").write_text(commit)
    for path in save_model("m", _tensors()).iterdir():
        (entry / "snapshots" / commit / path.name).symlink_to(path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    expected = open_weights(tmp_path / "m").fingerprint()
    for name in ("org/name", "org/name@main", f"org/name@{commit}", "hf://org/name", "hf://org/name@main"):
        assert open_weights(name).fingerprint() == expected
        assert open_weights(name).name == name
    for name in ("org/name@other", "hf://org/elsewhere"):
        with pytest.raises(InputError, match="the hub has not delivered it") as refused:
            open_weights(name)
        # What the hub's client says ends with a whole sentence or word.
        said = refused.value.what.partition(": ")[2].removesuffix(")")
        assert said.endswith((" ...", "disabled", "cache", "connection")), said
