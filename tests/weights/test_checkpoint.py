"""Checkpoints: shards, tied embeddings, fingerprints, and folders that are not what they should be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genepool.errors import InputError
from genepool.weights import open_weights, write_checkpoint
from genepool.weights.in_memory import TensorWeights

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
TIED = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}

TIED_PRINT = "2381e3cfc641858503cc62621bb356c4039b0cb7160e3f495dce4a9fd828474d"


def _tensors(seed: int = 0, rows: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {EMBED: (rows, 4), "model.norm.weight": (4,)}
    shapes |= {f"model.layers.{i}.self_attn.q_proj.weight": (4, 4) for i in range(3)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_the_fingerprint_is_the_same_for_one_shard_or_twenty(tmp_path: Path, save_model: Callable[..., Path]) -> None:
    one = open_weights(save_model("one", _tensors()))
    many = open_weights(write_checkpoint(one, tmp_path / "many", shard_bytes=70))
    assert len(many.files) > 2
    assert many.fingerprint() == one.fingerprint()
    assert TensorWeights(_tensors()).fingerprint() == one.fingerprint()
    assert all(torch.equal(many.read(name), one.read(name)) for name in one.names())


def test_the_fingerprint_sees_every_bit_name_shape_and_type(save_model: Callable[..., Path]) -> None:
    plain = _tensors()
    flipped = {**plain, EMBED: plain[EMBED].clone()}
    flipped[EMBED][0, 0] = torch.nextafter(flipped[EMBED][0, 0], torch.tensor(9.0))
    renamed = {name.replace("norm", "norm2"): tensor for name, tensor in plain.items()}
    reshaped = {**plain, "model.norm.weight": plain["model.norm.weight"].reshape(2, 2)}
    narrowed = {name: tensor.bfloat16() for name, tensor in plain.items()}
    prints = [
        open_weights(save_model(f"m{i}", tensors)).fingerprint()
        for i, tensors in enumerate([plain, flipped, renamed, reshaped, narrowed])
    ]
    assert len(set(prints)) == 5


def test_a_changed_file_is_hashed_again(save_model: Callable[..., Path]) -> None:
    before = open_weights(save_model("m", _tensors(0))).fingerprint()
    assert open_weights(save_model("m", _tensors(1))).fingerprint() != before


def test_a_tied_head_stored_twice_counts_once(save_model: Callable[..., Path]) -> None:
    plain = _tensors()
    twice = open_weights(save_model("twice", {HEAD: plain[EMBED].clone(), **plain}, **TIED))
    once = open_weights(save_model("once", plain, **TIED))
    assert HEAD not in twice.names()
    assert HEAD in twice
    assert HEAD in twice.stored_names()
    assert torch.equal(twice.read(HEAD), plain[EMBED])
    assert twice.fingerprint() == once.fingerprint()


@pytest.mark.parametrize(
    ("config", "equal"),
    [
        # As transformers 5 loads it: two tensors that are both there and differ are two.
        (TIED, False),
        ({**TIED, "tie_word_embeddings": False}, True),
        # Nothing is known of what a loader of such a config ties.
        ({"tie_word_embeddings": True}, True),
        ({**TIED, "model_type": "mine"}, True),
    ],
)
def test_a_head_that_no_loader_ties_is_a_tensor_of_its_own(
    save_model: Callable[..., Path], config: dict[str, Any], equal: bool
) -> None:
    plain = _tensors()
    weights = open_weights(
        save_model("m", {**plain, HEAD: plain[EMBED].clone() if equal else torch.ones(5, 4)}, **config)
    )
    assert HEAD in weights.names()
    assert not weights.aliases()


def test_fingerprints_of_ordinary_models_stay_what_they_were(save_model: Callable[..., Path]) -> None:
    """The ledger keeps outcomes by them: these were computed before ties were asked of transformers."""
    plain = {name: torch.arange(value.numel()).reshape(value.shape) / 8 for name, value in _tensors().items()}
    head = {HEAD: torch.full((5, 4), 0.5)}
    prints = [
        open_weights(save_model("tied", plain, **TIED)).fingerprint(),
        open_weights(save_model("untied", {**plain, **head}, **{**TIED, "tie_word_embeddings": False})).fingerprint(),
        open_weights(save_model("plain", plain)).fingerprint(),
    ]
    assert prints == [TIED_PRINT, "b70d3ec4eccc531c9190388a7189e57def4b38102da85f14abffdab7b41b86c4", TIED_PRINT]


def test_a_single_file_and_paths_with_plus_and_at_are_opened_as_they_are(save_model: Callable[..., Path]) -> None:
    folder = save_model("odd+name@v1", _tensors())
    assert len(open_weights(folder)) == 5
    assert len(open_weights(folder / "model.safetensors")) == 5


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors and no model.safetensors.index.json"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "only PyTorch pickles"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: is not valid JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json: is not a JSON object"),
        (
            lambda f: (f / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {}})),
            "holds both model.safetensors and",
        ),
    ],
)
def test_folders_that_are_not_models(
    save_model: Callable[..., Path], spoil: Callable[[Path], object], said: str
) -> None:
    folder = save_model("m", _tensors())
    spoil(folder)
    with pytest.raises(InputError) as caught:
        open_weights(folder)
    assert said in str(caught.value)


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "missing.safetensors"])
def test_an_index_cannot_lead_out_of_the_folder(save_model: Callable[..., Path], shard: str) -> None:
    folder = save_model("m", _tensors())
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {EMBED: shard}}))
    with pytest.raises(InputError, match="outside the folder|no such shard"):
        open_weights(folder)


def test_a_name_that_is_nowhere_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the path does not exist"):
        open_weights(tmp_path / "nowhere" / "at" / "all")


def test_writing_is_whole_or_not_at_all(tmp_path: Path, save_model: Callable[..., Path]) -> None:
    weights = open_weights(save_model("m", _tensors()))

    class Failing(TensorWeights):
        def read(self, name: str) -> torch.Tensor:
            if name == "model.norm.weight":
                raise KeyboardInterrupt
            return super().read(name)

    broken = Failing({name: weights.read(name) for name in weights.names()})
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(broken, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))
    write_checkpoint(weights, tmp_path / "out")
    with pytest.raises(InputError, match="not empty"):
        write_checkpoint(weights, tmp_path / "out")
    write_checkpoint(weights, tmp_path / "out", overwrite=True, out_dtype="BF16")
    assert open_weights(tmp_path / "out").info(EMBED).dtype == "BF16"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
