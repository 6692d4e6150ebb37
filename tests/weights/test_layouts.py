"""One model in several layouts: each is read as every other, to the last bit, and as transformers itself loads it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import layout_models as models
import pytest
import torch

from genepool.errors import InputError
from genepool.weights import Checkpoint, Weights
from genepool.weights.naming import in_layout_of, in_memory_layout, renaming_of

FAST = ("gpt2", "mixtral")
EVERY = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in models.MODELS]
# The layouts that a model's files have, beside the hub's.
OTHERS: dict[str, Callable[[Any], Mapping[str, torch.Tensor]]] = {
    "in memory": models.in_memory,
    "without prefix": models.without_prefix,
    "gamma and beta": models.as_old_tensorflow,
    "weight_g and weight_v": models.as_old_weight_norm,
}
WRAPPED: dict[str, Callable[[str], str]] = {
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "DDP": lambda name: f"module.{name}",
    "DDP around torch.compile": lambda name: f"module._orig_mod.{name}",
    "FSDP around every layer": lambda name: name.replace("layers.0.", "layers.0._fsdp_wrapped_module."),
    "checkpointed layers": lambda name: name.replace("mlp.", "mlp._checkpoint_wrapped_module."),
}


def _check_equal(weights: Weights, expected: Mapping[str, torch.Tensor]) -> None:
    """Every tensor, whole and by rows that begin and end anywhere."""
    assert set(expected) <= {*weights.names(), *weights.aliases()}
    for name, tensor in expected.items():
        assert torch.equal(weights.read(name), tensor), name
        rows, columns = weights.info(name).matrix
        start, stop = rows // 3, rows - rows // 4
        assert torch.equal(weights.read_rows(name, start, stop), tensor.reshape(rows, columns)[start:stop]), name


def _load(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    return dict(type(model).from_pretrained(folder).state_dict())


@pytest.mark.parametrize("name", EVERY)
def test_a_file_in_memory_is_what_transformers_loads(name: str, tmp_path: Path) -> None:
    model = models.build(name)
    folder = models.save(model, tmp_path / "hub")
    loaded = _load(model, folder)
    _check_equal(in_memory_layout(Checkpoint(folder)), {own: loaded[own] for own in models.in_memory(model)})


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("other", OTHERS)
def test_every_layout_is_read_as_every_other(name: str, other: str, tmp_path: Path) -> None:
    model = models.build(name)
    hub = models.save(model, tmp_path / "hub")
    folder = models.save_as(model, tmp_path / "other", OTHERS[other](model))
    loaded = _load(model, folder)
    assert all(torch.equal(loaded[own], tensor) for own, tensor in model.state_dict().items())
    first, second = Checkpoint(hub), Checkpoint(folder)
    _check_equal(in_layout_of(second, first), models.stored(hub))
    _check_equal(in_layout_of(first, second), models.stored(folder))


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_what_a_training_wrapper_adds_to_names_is_taken_off(wrapper: str, tmp_path: Path) -> None:
    model = models.build("llama")
    plain = models.save_as(model, tmp_path / "plain", models.in_memory(model))
    names = {WRAPPED[wrapper](name): tensor for name, tensor in models.in_memory(model).items()}
    wrapped = Checkpoint(models.save_as(model, tmp_path / "wrapped", names))
    assert set(wrapped.names()) == set(Checkpoint(plain).names())
    _check_equal(wrapped, models.in_memory(model))
    assert wrapped.fingerprint() == Checkpoint(plain).fingerprint()
    renaming = renaming_of(wrapped)
    assert renaming is not None
    stored, name = renaming.example
    assert stored in names
    assert WRAPPED[wrapper](name) == stored


def test_half_of_the_names_with_the_wrapper_s_word_are_refused_by_name(tmp_path: Path) -> None:
    model = models.build("llama")
    names = {
        f"module.{name}" if "layers.0" in name else name: tensor for name, tensor in models.in_memory(model).items()
    }
    folder = models.save_as(model, tmp_path / "half", names)
    with pytest.raises(InputError, match=r"module.model.layers.0.*: begins with 'module.', as DDP saves it"):
        Checkpoint(folder)


def test_a_tensor_with_and_without_the_wrapper_s_word_is_refused_by_name(tmp_path: Path) -> None:
    model = models.build("llama")
    tensors = models.in_memory(model)
    twice = {**tensors, "_orig_mod.model.norm.weight": tensors["model.norm.weight"] + 1}
    folder = models.save_as(model, tmp_path / "twice", twice)
    with pytest.raises(InputError, match=r"model.norm.weight: is the same tensor as .*model.norm.weight, and both"):
        Checkpoint(folder)


def test_a_file_with_both_layouts_is_refused_by_name(tmp_path: Path) -> None:
    model = models.build("mixtral")
    hub = models.save(model, tmp_path / "hub")
    both = {**models.stored(hub), **{n: t for n, t in models.in_memory(model).items() if "experts.down_proj" in n}}
    folder = models.save_as(model, tmp_path / "both", both)
    plain = models.save_as(model, tmp_path / "memory", models.in_memory(model))
    with pytest.raises(InputError, match=r"layers.0.mlp.experts.down_proj: is the same tensor as .*w2.weight"):
        in_layout_of(Checkpoint(folder), Checkpoint(plain))


@pytest.mark.parametrize("lost", ["experts.2.w1", "experts.3.w2", "experts.0.w3"])
def test_a_missing_expert_is_named(lost: str, tmp_path: Path) -> None:
    model = models.build("mixtral")
    hub = models.save(model, tmp_path / "hub")
    rest = {name: t for name, t in models.stored(hub).items() if f"layers.1.block_sparse_moe.{lost}" not in name}
    folder = models.save_as(model, tmp_path / "lost", rest)
    plain = models.save_as(model, tmp_path / "memory", models.in_memory(model))
    with pytest.raises(InputError, match=rf"layers.1.block_sparse_moe.{lost}.weight: is missing, and .* is present"):
        in_layout_of(Checkpoint(folder), Checkpoint(plain))


def test_one_prefix_more_is_seen_where_no_class_is_known(
    save_model: Callable[..., Path],
) -> None:
    tensors = {name: torch.randn(4, 3) for name in ("h.0.w", "h.1.w", "end.w")}
    bare = Checkpoint(save_model("bare", tensors, model_type="ours"))
    longer = Checkpoint(save_model("longer", {f"net.{n}": t for n, t in tensors.items()}, model_type="ours"))
    _check_equal(in_layout_of(longer, bare), tensors)
    _check_equal(in_layout_of(bare, longer), {f"net.{name}": tensor for name, tensor in tensors.items()})


def test_of_other_names_that_are_no_layout_nothing_is_made_up(save_model: Callable[..., Path]) -> None:
    one = Checkpoint(save_model("one", {"a.w": torch.randn(4, 3), "b.w": torch.randn(4, 3)}, model_type="ours"))
    other = Checkpoint(save_model("other", {"x.a.w": torch.randn(4, 3), "c.w": torch.randn(4, 3)}, model_type="ours"))
    assert in_layout_of(one, other) is one


@pytest.mark.slow
def test_where_names_agree_neither_torch_nor_transformers_is_asked(tmp_path: Path) -> None:
    folders = [models.save(models.build("mixtral", seed), tmp_path / str(seed)) for seed in (0, 1)]
    code = (
        "import sys; from genepool.weights import open_weights\n"
        f"base = open_weights({str(folders[0])!r}); other = open_weights({str(folders[1])!r}, base=base)\n"
        "assert other.info(other.names()[0]); print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    # The first time the class is asked what it ties; the answer is in the cache from then on.
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
