"""Bad input ends in one line and exit code 2, and nothing is left; odd but good input is merged."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from genepool.merging import parse_recipe, plan_merge
from genepool.weights import TensorWeights, Weights, open_weights

LAYERS = 4
EMBED, NORM, UP = "model.embed_tokens.weight", "model.norm.weight", "model.layers.{}.mlp.up_proj.weight"


def _tensors(seed: int) -> dict[str, torch.Tensor]:
    common, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    names = [EMBED, *(UP.format(i) for i in range(LAYERS))]
    return {
        name: torch.randn(6, 6, generator=common) + 0.1 * torch.randn(6, 6, generator=own) for name in names
    } | {NORM: torch.ones(6)}  # fmt: skip


@pytest.fixture
def models(save_model: Callable[..., Path]) -> dict[str, Path]:
    config = {"num_hidden_layers": LAYERS, "tie_word_embeddings": True}
    return {name: save_model(name, _tensors(seed), **config) for seed, name in enumerate(["base", "x", "y"], 1)}


@pytest.fixture
def merge(tmp_path: Path, cli: Callable[..., Any]) -> Callable[..., Any]:
    def run(*options: Any, **changes: Any) -> Any:
        data = {"genepool": 1, "method": "dare_ties", "base": "base", "models": ["x", "y"], **changes}
        data = {key: value for key, value in data.items() if value is not None}
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(data))
        return cli("merge", tmp_path / "r.yaml", tmp_path / "out", "--quiet", *options)

    return run


@pytest.fixture
def refused(tmp_path: Path, merge: Callable[..., Any]) -> Callable[..., None]:
    def check(said: str, **changes: Any) -> None:
        answer = merge(**changes)
        assert answer.code == 2, answer.err
        assert answer.out == ""
        (line,) = answer.err.strip().splitlines()
        assert line.startswith("error: ")
        assert said in line
        assert not list(tmp_path.glob("*out*"))

    return check


def _slices(end: int) -> list[dict[str, Any]]:
    return [{"sources": [{"model": model, "layer_range": [0, end]} for model in ("base", "x")]}]


RECIPES: dict[str, tuple[dict[str, Any], str]] = {
    "a layer beyond the last, in a slice": (
        {"method": "passthrough", "base": None, "models": None,
         "slices": [{"sources": [{"model": "x", "layer_range": [2, 5]}]}]},
        "slices[0].sources[0].layer_range: layer_range [2, 5] of x, which has 4 layers. End it at 4 or before.",
    ),
    "a layer beyond the last, in a condition": (
        {"parameters": {"density": [{"layers": [2, 4], "value": 0.5}, {"value": 0.2}]}},
        "r.yaml:parameters.density[0].layers: layers [2, 4], where there are 4: 0 to 3. End at 3 or before.",
    ),
    "a layer beyond the last, of one model": (
        {"models": ["x", {"model": "y", "parameters": {"weight": [{"layers": [9, 9], "value": 2}]}}]},
        "r.yaml:models[1].parameters.weight[0].layers: layers [9, 9], where there are 4",
    ),
    "more anchors than layers": (
        {"parameters": {"density": [0.1, 0.2, 0.3, 0.4, 0.5]}},
        "r.yaml:parameters.density: a gradient has 5 anchors over 4 layers. Give at most 4, or say `lenient: true`.",
    ),
    "more anchors than layers, in a condition": (
        {"parameters": {"density": [{"role": "mlp", "value": [0.1] * 7}, {"value": 0.5}]}},
        "a gradient has 7 anchors over 4 layers",
    ),
    "more anchors than the slice has layers": (
        {"method": "slerp", "models": None, "slices": _slices(3), "parameters": {"t": [0, 0.1, 0.2, 0.3]}},
        "a gradient has 4 anchors over 3 layers",
    ),
    "densities that keep nothing": (
        {"parameters": {"density": 0}}, "r.yaml:parameters.density: a density of 0 for every model keeps no entry",
    ),
    "densities that keep nothing, model by model": (
        {"models": [{"model": model, "parameters": {"density": [0.0, 0]}} for model in ("x", "y")]},
        "a density of 0 for every model keeps no entry",
    ),
    "a model without a name": ({"models": ["x", ""]}, "r.yaml:models.1.model: string should have at least 1 character"),
    "a path that is a folder of something else": ({"models": ["x", "."]}, "no model.safetensors and no"),
    "a base without a name": ({"base": ""}, "r.yaml:base: string should have at least 1 character"),
    "models of another kind": ({"models": [3]}, "models.0"),
    "a seed below zero": ({"seed": -1}, "r.yaml:seed"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(RECIPES))
def test_recipes_that_cannot_be_meant(case: str, refused: Callable[..., None], models: dict[str, Path]) -> None:
    changes, said = RECIPES[case]
    refused(said, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": {"density": [0.1, 0.2, 0.3, 0.4]}},
        {"parameters": {"density": [0.0, 0.5]}},
        {"models": [{"model": "x", "parameters": {"density": 0}}, "y"]},
        {"parameters": {"density": 0}, "lenient": True},
        {"parameters": {"density": [0.1] * 9}, "lenient": True},
        {"parameters": {"density": [{"layers": [0, 3], "value": [0.2, 0.5]}, {"value": 0.1}]}},
        {"method": "slerp", "models": None, "slices": _slices(1), "parameters": {"t": [0, 1]}},
    ],
)
def test_their_neighbours_that_can_be_meant(
    changes: dict[str, Any], merge: Callable[..., Any], models: dict[str, Path]
) -> None:
    assert merge(**changes).code == 0


def test_what_was_read_from_mergekit_can_be_read_again(
    tmp_path: Path, models: dict[str, Path], cli: Callable[..., Any]
) -> None:
    """mergekit takes gradients of any length and densities of zero; so does the recipe written beside the result."""
    theirs = {
        "merge_method": "ties", "base_model": "base", "parameters": {"weight": [1.0] * 9, "density": 0},
        "models": [{"model": "x"}, {"model": "y"}],
    }  # fmt: skip
    (tmp_path / "theirs.yaml").write_text(yaml.safe_dump(theirs))
    assert cli("merge", tmp_path / "theirs.yaml", tmp_path / "out", "--quiet").code == 0
    (tmp_path / "again.yaml").write_text((tmp_path / "out" / "recipe.yaml").read_text())
    assert cli("merge", tmp_path / "again.yaml", tmp_path / "again", "--quiet").code == 0
    assert open_weights(tmp_path / "out").fingerprint() == open_weights(tmp_path / "again").fingerprint()


# ---------------------------------------------------------------------- files


def _rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def _shard(folder: Path, **index: str) -> None:
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    table = dict.fromkeys(load_file(folder / "a.safetensors"), "a.safetensors") | index
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "experts of another depth": (
        lambda f: _rewrite(f, lambda t: t.update({UP.format(LAYERS): torch.ones(6, 6)})),
        "base has 4 layers and x has 5. Use `slices` to say which layers go together; run `genepool inspect",
    ),
    "a layer less": (lambda f: _rewrite(f, lambda t: t.pop(UP.format(3))), "base has 4 layers and x has 3"),
    "fp8": (
        lambda f: _rewrite(f, lambda t: t.update({NORM: torch.ones(6).to(torch.float8_e4m3fn)})),
        "x:model.norm.weight: the model is quantised: stored as F8_E4M3. Merge the unquantised checkpoint, and",
    ),
    "quantised, by its config": (
        lambda f: (f / "config.json").write_text('{"quantization_config": {"bits": 4}}'), "x: the model is quantised",
    ),
    "an index and a shard of two saves": (
        lambda f: _shard(f, more="a.safetensors"),
        "model.safetensors.index.json: maps more to a.safetensors, which does not hold it",
    ),
    "a shard that is not there": (lambda f: _shard(f, more="b.safetensors"), "x/b.safetensors: no such shard"),
    "an index that leads out": (lambda f: _shard(f, more="../base/model.safetensors"), "a file outside the folder"),
    "an index that leads to the root": (lambda f: _shard(f, more="/etc/passwd"), "a file outside the folder"),
    "an index that is no index": (
        lambda f: (_shard(f), (f / "model.safetensors.index.json").write_text('{"weight_map": [1]}')),
        "not a map of tensors to files",
    ),
    "a dead link": (
        lambda f: ((f / "model.safetensors").unlink(), (f / "model.safetensors").symlink_to("gone")),
        "x/model.safetensors: is a symbolic link that leads nowhere or in a circle",
    ),
    "no tensors": (lambda f: _rewrite(f, lambda t: t.clear()), "x lacks 6 tensors that base has"),
    "an empty file": (lambda f: (f / "model.safetensors").write_bytes(b""), "too few for a safetensors file"),
    "half a file": (lambda f: os.truncate(f / "model.safetensors", 300), "model.safetensors"),
    "pickles": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "which can run code when they are opened. Convert it to safetensors",
    ),
    "a tokenizer that is none": (
        lambda f: (f / "tokenizer.json").write_text("[]"), "x/tokenizer.json: is not a JSON object",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(FILES))
def test_files_that_cannot_be_merged(case: str, refused: Callable[..., None], models: dict[str, Path]) -> None:
    spoil, said = FILES[case]
    spoil(models["x"])
    refused(said)


@pytest.mark.parametrize("name", ["w.qweight", "w.weight_packed", "w.weight.absmax", "w.SCB"])
def test_packed_weights_are_known_by_their_names(
    refused: Callable[..., None], models: dict[str, Path], name: str
) -> None:
    for folder in models.values():
        _rewrite(folder, lambda t: t.update({name: torch.ones(3, dtype=torch.int32)}))
    refused(f"{name}: the model is quantised: packed weights (I32)")


def test_a_folder_that_is_a_loop_of_links(tmp_path: Path, refused: Callable[..., None], models: Any) -> None:
    (tmp_path / "loop").symlink_to("loop")
    refused("loop: is a symbolic link that leads nowhere or in a circle", models=["x", "loop"])


# ---------------------------------------------------------------------- odd and good


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("linear", {}), ("task_arithmetic", {}), ("ties", {}), ("ties", {"scope": "tensor"}), ("dare_linear", {}),
        ("dare_ties", {}), ("slerp", {"t": 0.5}), ("model_stock", {}), ("passthrough", {}),
    ],
)  # fmt: skip
def test_tensors_without_elements_and_scalars_go_through_every_method(
    method: str, parameters: dict[str, Any], merge: Callable[..., Any], models: dict[str, Path], tmp_path: Path
) -> None:
    for i, folder in enumerate(models.values()):
        odd = {"none": torch.empty(0, 3), "scalar": torch.tensor(float(i + 1)), "count": torch.tensor(7)}
        _rewrite(folder, lambda t, odd=odd: t.update(odd))
    count = {"slerp": 1, "passthrough": 1}.get(method, 2)
    base = None if method in ("linear", "passthrough") else "base"
    answer = merge("--verify", method=method, parameters=parameters, models=["x", "y"][:count], base=base)
    assert answer.code == 0, answer.err
    out = open_weights(tmp_path / "out")
    assert out["none"].shape == (0, 3)
    assert out["scalar"].shape == ()
    assert bool(torch.isfinite(out["scalar"]))
    assert int(out["count"]) == 7


@pytest.mark.parametrize("twice", [("x", "base"), ("x",), ("x", "y")])
def test_a_tied_head_that_is_stored_twice_is_merged_once(
    merge: Callable[..., Any], models: dict[str, Path], tmp_path: Path, twice: tuple[str, ...]
) -> None:
    for name, folder in models.items():
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))
        if name in twice:
            _rewrite(folder, lambda t: t.update({"lm_head.weight": t[EMBED].clone()}))
    assert merge("--verify").code == 0
    made = load_file(tmp_path / "out" / "model.safetensors")
    # Stored as the base stores it; the same tensor under either name.
    assert ("lm_head.weight" in made) == ("base" in twice)
    assert made.get("lm_head.weight", made[EMBED]).equal(made[EMBED])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is True


class _Counted(TensorWeights):
    """Counts how often the whole list of names is asked for."""

    asked = 0

    def names(self) -> tuple[str, ...]:
        type(self).asked += 1
        return super().names()


@pytest.mark.slow
def test_planning_asks_for_the_list_of_names_a_fixed_number_of_times() -> None:
    """Whatever looks through all tensors for every tensor makes mixture-of-experts models take minutes."""

    def asked(tensors: int) -> int:
        layers, experts = 10, tensors // 10
        names = [f"model.layers.{i}.mlp.experts.{e}.w.weight" for i in range(layers) for e in range(experts)]
        one = torch.ones(2, 2)
        sources: dict[str, Weights] = {m: _Counted(dict.fromkeys(names, one), m) for m in ("b", "x", "y")}
        _Counted.asked = 0
        plan = plan_merge(parse_recipe({"genepool": 1, "method": "ties", "base": "b", "models": ["x", "y"]}), sources)
        assert len(plan.describe()["steps"]) == tensors
        return _Counted.asked

    assert asked(10_000) == asked(100) < 50


@pytest.mark.slow
def test_ten_thousand_tensors_are_merged(tmp_path: Path, cli: Callable[..., Any]) -> None:
    names = [f"model.layers.{i}.mlp.experts.{e}.w.weight" for i in range(20) for e in range(500)]
    tensors = {name: torch.full((2,), float(i)) for i, name in enumerate(names)}
    for name in ("base", "x", "y"):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    (tmp_path / "r.yaml").write_text("genepool: 1\nmethod: ties\nbase: base\nmodels: [x, y]\n")
    assert cli("merge", tmp_path / "r.yaml", tmp_path / "out", "--quiet").code == 0
    assert len(open_weights(tmp_path / "out")) == 10_000


# ---------------------------------------------------------------------- the disk


def test_no_space_in_the_middle_is_one_line_and_leaves_nothing(
    refused: Callable[..., None], models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = os.pwrite, []

    def pwrite(handle: int, data: Any, offset: int) -> int:
        written.append(offset)
        if len(written) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    refused("no space left on the disk. Free some space and run again.")


def _genepool(arguments: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "genepool", *arguments]
    return subprocess.run(call, capture_output=True, text=True, check=False, **more)


@pytest.mark.slow
def test_a_limit_on_file_sizes_is_one_line(tmp_path: Path, models: dict[str, Path]) -> None:
    import resource

    (tmp_path / "r.yaml").write_text("genepool: 1\nmethod: ties\nbase: base\nmodels: [x, y]\n")
    done = _genepool(
        ["merge", str(tmp_path / "r.yaml"), str(tmp_path / "out"), "--quiet"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400)),
    )
    assert done.returncode == 2, done.stderr
    assert "the file would exceed the size limit of this process" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_small_disk_that_fills_up_is_one_line(tmp_path: Path, save_model: Callable[..., Path]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], check=False).returncode:
        pytest.skip("this machine does not let root mount")
    try:
        for name in ("x", "y"):
            save_model(name, {NORM: torch.ones(40_000)})
        (tmp_path / "r.yaml").write_text("genepool: 1\nmethod: linear\nmodels: [x, y]\n")
        done = _genepool(["merge", str(tmp_path / "r.yaml"), str(disk / "out"), "--quiet"])
        assert done.returncode == 2, done.stderr
        assert "no space left on the disk" in done.stderr
        assert not any(disk.iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8])
def test_whole_numbers_of_eight_bits_are_no_weights(
    refused: Callable[..., None], models: dict[str, Path], kind: torch.dtype
) -> None:
    _rewrite(models["x"], lambda t: t.update({"model.layers.0.mlp.up_proj.weight": torch.ones(4, 6, dtype=kind)}))
    refused("the model is quantised: stored as " + ("I8" if kind is torch.int8 else "U8"))
