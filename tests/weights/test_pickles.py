"""PyTorch's own files: refused unless asked for, tensors only, never a line of code of theirs, never a lie believed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import genepool as gp
from genepool.errors import InputError
from genepool.weights import Checkpoint, open_weights
from genepool.weights.formats.pytorch import PickleFile

EMBED, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def _tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        EMBED: torch.randn(5, 4, generator=generator),
        "model.layers.0.mlp.up_proj.weight": torch.randn(4, 4, generator=generator).bfloat16(),
        NORM: torch.ones(4),
    }


def _folder(path: Path, files: dict[str, Any], **config: Any) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    for name, content in files.items():
        torch.save(content, path / name)
    return path


def test_they_are_refused_unless_asked_for(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "m", {"pytorch_model.bin": _tensors()})
    for name in (folder, folder / "pytorch_model.bin"):
        with pytest.raises(InputError, match="can run code when.*--allow-pickle"):
            open_weights(name)
        assert len(gp.load(name, allow_pickle=True)) == 3


def test_they_hold_what_the_safetensors_file_holds(tmp_path: Path, save_model: Callable[..., Path]) -> None:
    plain = open_weights(save_model("plain", _tensors()))
    pickled = open_weights(_folder(tmp_path / "m", {"pytorch_model.bin": _tensors()}), allow_pickle=True)
    assert pickled.fingerprint() == plain.fingerprint()
    assert all(torch.equal(pickled.read(name), plain.read(name)) for name in plain.names())


def test_shards_old_files_and_trainers_wrappers(tmp_path: Path) -> None:
    tensors = _tensors()
    whole = _folder(tmp_path / "whole", {"pytorch_model.bin": tensors})
    shards = {f"pytorch_model-0000{i}-of-00003.bin": {name: t} for i, (name, t) in enumerate(tensors.items())}
    sharded = _folder(tmp_path / "sharded", shards)
    where = {name: file for file, content in shards.items() for name in content}
    (sharded / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    wrapped = _folder(tmp_path / "wrapped", {"last.ckpt": {"state_dict": tensors, "epoch": 3}, "optimizer.pt": {}})
    old = _folder(tmp_path / "old", {})
    torch.save(tensors, old / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    prints = [open_weights(folder, allow_pickle=True).fingerprint() for folder in (whole, sharded, wrapped, old)]
    assert len(set(prints)) == 1


def test_safetensors_come_first_even_where_pickles_are_allowed(save_model: Callable[..., Path]) -> None:
    folder = save_model("m", _tensors())
    (folder / "pytorch_model.bin").write_bytes(b"never looked at")
    weights = open_weights(folder, allow_pickle=True)
    assert isinstance(weights, Checkpoint)
    assert [file.path.name for file in weights.files] == ["model.safetensors"]


@pytest.mark.parametrize("order", [(EMBED, HEAD), (HEAD, EMBED)])
def test_shared_storages_count_once(tmp_path: Path, save_model: Callable[..., Path], order: tuple[str, str]) -> None:
    embedding = _tensors()[EMBED]
    tensors = {**dict.fromkeys(order, embedding), "model.other": embedding, "model.part": embedding[1:]}
    config = {"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}
    weights = open_weights(_folder(tmp_path / "m", {"pytorch_model.bin": tensors}, **config), allow_pickle=True)
    assert set(weights.names()) == {EMBED, "model.part"}
    assert weights.aliases() == {HEAD: EMBED, "model.other": EMBED}
    once = open_weights(save_model("once", {EMBED: embedding, "model.part": embedding[1:].clone()}))
    assert weights.fingerprint() == once.fingerprint()
    # The loader makes the head of the embedding; nobody else would make the other.
    assert set(weights.stored_names()) == {EMBED, "model.part", "model.other"}


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_one_line_and_does_not(
    tmp_path: Path, cli: Callable[..., Any], zipped: bool
) -> None:
    trap = tmp_path / "it-ran"
    folder = _folder(tmp_path / "evil", {})
    torch.save(
        {NORM: torch.ones(4), "w": _Evil(trap)}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped
    )
    (tmp_path / "r.yaml").write_text("genepool: 1\nmethod: linear\nmodels: [evil]\n")
    answer = cli("merge", tmp_path / "r.yaml", tmp_path / "out", "--quiet", "--allow-pickle")
    assert answer.code == 2
    assert "pytorch_model.bin: asks for posix.system, which is not a tensor: opening it could run code" in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not trap.exists()
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"w": torch.ones(1).expand(10**12)}, "claims 4000000000000 bytes"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, "is a tensor of layout torch.complex64"),
        ({"w": torch.ones(2).to_sparse()}, "is a tensor of layout torch.sparse_coo"),
        ({"w": torch.ones(2), "step": 3}, "holds a int, expected a tensor"),
        ({"w": {"x": torch.ones(2)}}, "holds a dict"),
        ([torch.ones(2)], "is not a mapping of names to tensors"),
        ({3: torch.ones(2)}, "expected a tensor"),
    ],
)
def test_what_is_no_set_of_tensors_is_refused(tmp_path: Path, content: Any, said: str) -> None:
    torch.save(content, tmp_path / "x.bin")
    with pytest.raises(InputError, match="x.bin") as caught:
        PickleFile(tmp_path / "x.bin")
    assert said in str(caught.value)


@given(st.data())
def test_truncated_or_flipped_files_never_crash(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.bin"
    zipped = data.draw(st.booleans())
    torch.save({"a": torch.arange(6.0).reshape(2, 3)}, path, _use_new_zipfile_serialization=zipped)
    raw = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    for _ in range(data.draw(st.integers(0, 3))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        file = PickleFile(path)
        for name in file.infos:
            assert file.read(name).numel() == file.infos[name].numel <= len(raw)
    except InputError as error:
        assert "x.bin" in str(error)


@pytest.mark.parametrize("shard", ["../secret.bin", "/etc/passwd", "..", "a\\b.bin", "gone.bin"])
def test_an_index_cannot_lead_out_of_the_folder(tmp_path: Path, shard: str) -> None:
    folder = _folder(tmp_path / "m", {})
    torch.save({NORM: torch.ones(4)}, tmp_path / "secret.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {NORM: shard}}))
    with pytest.raises(InputError, match="outside the folder|no such shard"):
        open_weights(folder, allow_pickle=True)


def test_an_adapters_pickle_equals_its_safetensors(tmp_path: Path, save_model: Callable[..., Path]) -> None:
    from safetensors.torch import save_file

    base = save_model("base", {"model.layers.0.mlp.up_proj.weight": torch.randn(4, 4)})
    prefix = "base_model.model.model.layers.0.mlp.up_proj"
    factors = {f"{prefix}.lora_A.weight": torch.randn(2, 4), f"{prefix}.lora_B.weight": torch.randn(4, 2)}
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 4}')
    save_file(factors, tmp_path / "new" / "adapter_model.safetensors")
    torch.save(factors, tmp_path / "old" / "adapter_model.bin")
    with pytest.raises(InputError, match="can run code.*--allow-pickle"):
        open_weights(f"{base}+{tmp_path / 'old'}")
    new = open_weights(f"{base}+{tmp_path / 'new'}")
    old = open_weights(f"{base}+{tmp_path / 'old'}", allow_pickle=True)
    assert old.fingerprint() == new.fingerprint()
    assert all(torch.equal(old.read(name), new.read(name)) for name in new.names())


def test_merging_pickles_from_the_command_line_and_from_python(
    tmp_path: Path, cli: Callable[..., Any], save_model: Callable[..., Path]
) -> None:
    for name in ("x", "y"):
        _folder(tmp_path / name, {"pytorch_model.bin": _tensors()})
    recipe = tmp_path / "r.yaml"
    recipe.write_text("genepool: 1\nmethod: linear\nmodels: [x, y]\n")
    assert "--allow-pickle" in cli("plan", recipe).err
    assert cli("plan", recipe, "--allow-pickle", "--json").code == 0
    assert cli("merge", recipe, tmp_path / "out", "--allow-pickle", "--verify", "--quiet").code == 0
    merged = gp.merge(recipe, allow_pickle=True)
    assert all(torch.equal(merged[name], open_weights(tmp_path / "out")[name]) for name in _tensors())
    base = save_model("base", {**_tensors(), NORM: torch.zeros(4)})
    skill = tmp_path / "s.safetensors"
    assert cli("skill", "extract", tmp_path / "x", "--base", base, "--out", skill, "--quiet").code == 2
    assert cli("skill", "extract", tmp_path / "x", "--base", base, "--out", skill, "--allow-pickle").code == 0
