"""Writing merges: whole or not at all, the same bytes with any number of threads, and on after a kill -9."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from genepool.errors import CheckFailed, InputError
from genepool.merging import load_recipe, plan_merge, run, run_plan
from genepool.merging.engine import Engine
from genepool.weights import open_weights
from genepool.weights.writer import ShardedWriter

Answer = Any
LAYERS = 6


def _tensors(seed: int, scale: float = 1.0, layers: int = LAYERS) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (7, 8), "model.norm.weight": (8,)}
    for i in range(layers):
        shapes[f"model.layers.{i}.self_attn.q_proj.weight"] = (8, 8)
        shapes[f"model.layers.{i}.mlp.up_proj.weight"] = (8, 8)
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture
def models(save_model: Callable[..., Path]) -> dict[str, Path]:
    base = _tensors(0)
    config = {"num_hidden_layers": LAYERS, "tie_word_embeddings": True, "layer_types": [f"t{i}" for i in range(LAYERS)]}
    experts = {
        name: {
            key: value + moved for (key, value), moved in zip(base.items(), _tensors(seed, 0.1).values(), strict=True)
        }
        for name, seed in (("x", 1), ("y", 2))
    }
    return {name: save_model(name, tensors, **config) for name, tensors in {"base": base, **experts}.items()}


@pytest.fixture
def recipe(tmp_path: Path, models: dict[str, Path]) -> Callable[..., Path]:
    def write(**changes: Any) -> Path:
        data = {"genepool": 1, "method": "dare_ties", "base": "base", "models": ["x", "y"], **changes}
        (tmp_path / "recipe.yaml").write_text(
            yaml.safe_dump({key: value for key, value in data.items() if value is not None})
        )
        return tmp_path / "recipe.yaml"

    return write


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_merge_can_be_loaded_and_says_where_it_came_from(tmp_path: Path, recipe: Callable[..., Path]) -> None:
    out = run_plan(plan_merge(load_recipe(recipe(dtype="bfloat16"))), tmp_path / "out", verify=True)
    assert {p.name for p in out.iterdir()} == {
        "config.json", "model.safetensors", "recipe.yaml", "genepool.json", "README.md"
    }  # fmt: skip
    written = open_weights(out)
    assert json.loads((out / "genepool.json").read_text())["fingerprint"] == written.fingerprint()
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    front = yaml.safe_load((out / "README.md").read_text().split("---")[1])
    assert front["base_model_relation"] == "merge"
    again = plan_merge(load_recipe(out / "recipe.yaml").located(out, tmp_path)).weights()
    assert all(torch.equal(again.read(name), written.read(name)) for name in written.names())


@pytest.mark.parametrize("shard_bytes", [300, 1000, 10**9])
def test_threads_and_shards_never_change_a_bit(tmp_path: Path, recipe: Callable[..., Path], shard_bytes: int) -> None:
    plan = plan_merge(load_recipe(recipe()))
    lazily = plan.weights()
    for threads in (1, 3):
        out = run_plan(plan, tmp_path / f"out{threads}", threads=threads, shard_bytes=shard_bytes)
        written = open_weights(out)
        assert all(torch.equal(written.read(name), lazily.read(name)) for name in lazily.names())
    assert _bytes(tmp_path / "out1") == _bytes(tmp_path / "out3")


def test_merges_nest_without_touching_the_disk(recipe: Callable[..., Path], models: dict[str, Path]) -> None:
    inner = plan_merge(load_recipe(recipe(method="task_arithmetic", parameters={"lambda": 1.0}))).weights()
    names = {"base": open_weights(models["base"]), "inner": inner}
    from genepool.merging import Recipe

    outer = plan_merge(
        Recipe(method="task_arithmetic", base="base", models=["inner"], parameters={"lambda": -1.0}), names
    ).weights()
    name = "model.norm.weight"
    expected = 2 * names["base"].read(name) - inner.read(name)
    torch.testing.assert_close(outer.read(name), expected, atol=1e-6, rtol=1e-6)
    assert outer.fingerprint() != inner.fingerprint()


def test_slices_change_the_depth_and_the_per_layer_lists(tmp_path: Path, recipe: Callable[..., Path]) -> None:
    slices = [
        {"sources": [{"model": "x", "layer_range": [0, 4]}]},
        {"sources": [{"model": "y", "layer_range": [2, 6]}]},
    ]
    path = recipe(method="passthrough", base=None, models=None, slices=slices)
    out = run_plan(plan_merge(load_recipe(path)), tmp_path / "out")
    config = json.loads((out / "config.json").read_text())
    assert config["num_hidden_layers"] == 8
    assert config["layer_types"] == ["t0", "t1", "t2", "t3", "t2", "t3", "t4", "t5"]
    written, y = open_weights(out), open_weights(tmp_path / "y")
    name = "model.layers.{}.mlp.up_proj.weight"
    assert torch.equal(written.read(name.format(7)), y.read(name.format(5)))


def test_an_error_in_the_middle_leaves_nothing(
    tmp_path: Path, recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_merge(load_recipe(recipe()))
    real, calls = Engine.stored_blocks, []

    def failing(self: Engine, out: Any) -> Any:
        calls.append(out)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(self, out)

    monkeypatch.setattr(Engine, "stored_blocks", failing)
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, tmp_path / "out", threads=1)
    assert not list(tmp_path.glob("*out*"))


def test_verify_finds_a_disk_that_lies(
    tmp_path: Path, recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ShardedWriter.write_rows

    def lying(self: ShardedWriter, name: str, start: int, data: memoryview) -> None:
        real(self, name, start, memoryview(bytes(byte ^ 1 for byte in data)))

    monkeypatch.setattr(ShardedWriter, "write_rows", lying)
    with pytest.raises(CheckFailed, match="what is on the disk is not what was computed"):
        run_plan(plan_merge(load_recipe(recipe())), tmp_path / "out", verify=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_disk_that_refuses_once_is_not_passed_over(
    failing: int, tmp_path: Path, recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = ShardedWriter.sync, []

    def sync(self: ShardedWriter) -> None:
        calls.append(self)
        if len(calls) == failing + 1:
            raise OSError(errno.EIO, "Input/output error")
        real(self)

    monkeypatch.setattr(ShardedWriter, "sync", sync)
    monkeypatch.setattr(run, "_SYNC_BYTES", 1)
    # However the syncs fall together: the last one, that of closing, always comes.
    monkeypatch.setattr(run._Journal, "add", _waiting(run._Journal.add) if failing else run._Journal.add)
    with pytest.raises(InputError, match="the disk failed"):
        run_plan(plan_merge(load_recipe(recipe())), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def _waiting(add: Callable[..., None]) -> Callable[..., None]:
    def add_and_wait(self: Any, name: str, nbytes: int) -> None:
        add(self, name, nbytes)
        self.wait()

    return add_and_wait


KILLED = """
import os, signal, sys
from genepool.merging import load_recipe, plan_merge, run_plan
from genepool.merging.engine import Engine
import genepool.merging.run as run
real, done = Engine.stored_blocks, []
def blocks(self, out):
    done.append(out.name)
    if len(done) > int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, out)
Engine.stored_blocks = blocks
add = run._Journal.add
def add_and_wait(self, name, nbytes):
    add(self, name, nbytes)
    self.wait()
run._Journal.add = add_and_wait
run_plan(plan_merge(load_recipe(sys.argv[1])), sys.argv[2], threads=1)
print(len(done))
"""


def _run_killed(recipe: Path, out: Path, after: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", KILLED, str(recipe), str(out), str(after)], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_killed_merge_goes_on_where_it_stopped(tmp_path: Path, recipe: Callable[..., Path]) -> None:
    path, out = recipe(), tmp_path / "out"
    undisturbed = _bytes(run_plan(plan_merge(load_recipe(path)), tmp_path / "whole"))
    assert _run_killed(path, out, 5).returncode == -signal.SIGKILL
    assert not out.exists()
    assert (tmp_path / ".out.partial").is_dir()
    done = _run_killed(path, out, 10**6)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(_tensors(0)) - 5
    assert _bytes(out) == undisturbed


@pytest.mark.slow
def test_a_killed_merge_of_another_recipe_is_not_gone_on_with(tmp_path: Path, recipe: Callable[..., Path]) -> None:
    out = tmp_path / "out"
    _run_killed(recipe(), out, 5)
    changed = recipe(seed=9)
    done = _run_killed(changed, out, 10**6)
    assert int(done.stdout) == len(_tensors(0))
    assert _bytes(out) == _bytes(run_plan(plan_merge(load_recipe(changed)), tmp_path / "whole"))


# ---------------------------------------------------------------------- bad input, through the command line


def _spoil(models: dict[str, Path], name: str, **tensors: torch.Tensor | None) -> None:
    from safetensors.torch import load_file, save_file

    path = models[name] / "model.safetensors"
    content = {key: value.clone() for key, value in load_file(path).items()}
    for key, value in tensors.items():
        full = key.replace("__", ".")
        if value is None:
            del content[full]
        else:
            content[full] = value
    save_file(content, path)


NORM = "model__norm__weight"
BAD_INPUT: dict[str, tuple[Callable[[dict[str, Path]], object], dict[str, Any], str]] = {
    "missing model": (lambda m: None, {"models": ["x", "nowhere"]}, "nowhere: no such model"),
    "truncated file": (
        lambda m: os.truncate(m["x"] / "model.safetensors", os.path.getsize(m["x"] / "model.safetensors") - 7),
        {},
        "x/model.safetensors: the tensors take",
    ),
    "another shape": (
        lambda m: _spoil(m, "x", **{NORM: torch.ones(9)}), {}, "the shapes differ: [9] in x, [8] in base"
    ),
    "a missing tensor": (lambda m: _spoil(m, "x", **{NORM: None}), {}, "x has no tensor model.norm.weight"),
    "NaN in a skill": (
        lambda m: _spoil(m, "y", **{NORM: torch.full((8,), float("nan"))}), {}, "y:model.norm.weight: holds NaN"
    ),
    "infinity in the base": (
        lambda m: _spoil(m, "base", **{NORM: torch.full((8,), float("inf"))}), {}, "base:model.norm.weight: holds NaN"
    ),
    "other vocabulary size": (
        lambda m: _spoil(m, "x", model__embed_tokens__weight=torch.ones(9, 8)), {}, "the vocabularies differ in size"
    ),
    "other depth": (
        lambda m: _spoil(m, "x", **{f"model__layers__{LAYERS}__mlp__up_proj__weight": torch.ones(8, 8)}),
        {},
        "base has 6 layers and x has 7",
    ),
    "fp8": (
        lambda m: _spoil(m, "x", **{NORM: torch.ones(8).to(torch.float8_e4m3fn)}),
        {},
        "x:model.norm.weight: the model is quantised: stored as F8_E4M3",
    ),
    "quantised": (
        lambda m: (m["x"] / "config.json").write_text('{"quantization_config": {}}'), {}, "x: the model is quantised"
    ),
    "unknown method": (lambda m: None, {"method": "tie"}, "Did you mean 'ties'?"),
    "density of two": (lambda m: None, {"parameters": {"density": 2}}, "density is out of range, got 2. Give a value"),
    "density by layer over the whole vector": (
        lambda m: None, {"method": "ties", "parameters": {"density": [0.1, 0.9]}}, "'density' varies over the model"
    ),
    "one model twice": (lambda m: None, {"models": ["x", "x"]}, "x is listed twice"),
    "too many models": (
        lambda m: None, {"method": "slerp", "parameters": {"t": 0.5}}, "takes exactly 1 model besides the base"
    ),
    "a layer that does not exist": (
        lambda m: None,
        {
            "method": "passthrough", "base": None, "models": None,
            "slices": [{"sources": [{"model": "x", "layer_range": [0, 9]}]}],
        },
        "x, which has 6 layers. End it at 6 or before.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BAD_INPUT))
def test_bad_input_is_one_line_and_leaves_nothing(
    case: str, tmp_path: Path, recipe: Callable[..., Path], models: dict[str, Path], cli: Callable[..., Answer]
) -> None:
    spoil, changes, said = BAD_INPUT[case]
    spoil(models)
    answer = cli("merge", recipe(**changes), tmp_path / "out", "--quiet")
    assert answer.code == 2
    assert answer.out == ""
    lines = answer.err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert said in lines[0]
    assert not list(tmp_path.glob("*out*"))


def test_models_of_another_origin_are_refused(
    tmp_path: Path, save_model: Callable[..., Path], cli: Callable[..., Answer]
) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    for i, model in enumerate(("base", "x")):
        save_model(model, {name: torch.randn(64, 64, generator=torch.Generator().manual_seed(i))})
    (tmp_path / "r.yaml").write_text("genepool: 1\nmethod: ties\nbase: base\nmodels: [x]\n")
    answer = cli("merge", tmp_path / "r.yaml", tmp_path / "out", "--quiet")
    assert answer.code == 2
    assert "x was not fine-tuned from base" in answer.err


def test_tokenizers_that_disagree_are_refused(
    tmp_path: Path, recipe: Callable[..., Path], models: dict[str, Path], cli: Callable[..., Answer]
) -> None:
    for name, ids in (("base", {"a": 0, "b": 1}), ("x", {"a": 1, "b": 0})):
        (models[name] / "tokenizer.json").write_text(json.dumps({"model": {"vocab": ids}}))
    answer = cli("merge", recipe(), tmp_path / "out", "--quiet")
    assert answer.code == 2
    assert "token 'a' is 0 in base, 1 in x" in answer.err
    assert cli("merge", recipe(), tmp_path / "out", "--quiet", "--unchecked-vocabulary").code == 0
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (models["base"] / "tokenizer.json").read_bytes()


def test_an_occupied_folder_is_left_alone(
    tmp_path: Path, recipe: Callable[..., Path], models: dict[str, Path], cli: Callable[..., Answer]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    answer = cli("merge", recipe(), tmp_path / "out", "--quiet")
    assert answer.code == 2
    assert "the output folder is not empty" in answer.err
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"
    for own in ("base", "x"):
        answer = cli("merge", recipe(), tmp_path / own, "--quiet", "--overwrite")
        assert answer.code == 2
        assert "the output is one of the inputs" in answer.err


def test_a_full_disk_is_one_line(
    tmp_path: Path, recipe: Callable[..., Path], cli: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    answer = cli("merge", recipe(), tmp_path / "out", "--quiet")
    assert answer.code == 2
    assert "no space left on the disk" in answer.err
    assert not list(tmp_path.glob("*out*"))


def test_plan_shows_what_merge_does(recipe: Callable[..., Path], tmp_path: Path, cli: Callable[..., Answer]) -> None:
    answer = cli("plan", recipe(method="ties"), "--json")
    plan = json.loads(answer.out)
    assert plan["schema"] == 1
    # One pass finds the thresholds, with a sample; one the majority sign; one merges.
    assert plan["passes"] == 3
    size = sum(t.numel() * 4 for t in _tensors(0).values())
    assert plan["bytes_read"] == 3 * 3 * size
    assert plan["bytes_written"] == size
    assert len(plan["steps"]) == len(_tensors(0))
    assert not list(tmp_path.glob("*partial*"))
    assert cli("plan", recipe(method="ties")).code == 0


def test_methods_lists_every_method(cli: Callable[..., Answer]) -> None:
    listed = json.loads(cli("methods", "--json").out)["methods"]
    assert {"linear", "ties", "slerp", "model_stock"} <= {method["name"] for method in listed}
    assert all(method["source"] and method["passes"] >= 1 for method in listed)
    assert cli("methods", "tise").code == 2
