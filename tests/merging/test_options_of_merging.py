"""The options of `genepool merge` and `genepool plan`: each does what it says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from genepool.merging.engine import Engine
from genepool.weights import open_weights

Cli = Callable[..., Any]
LAYERS = 3


@pytest.fixture
def world(tmp_path: Path, save_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test stands in a folder with three models and a recipe that draws."""
    monkeypatch.chdir(tmp_path)
    names = ["model.embed_tokens.weight", *(f"model.layers.{i}.mlp.up_proj.weight" for i in range(LAYERS))]
    base = {name: torch.randn(8, 8, generator=torch.Generator().manual_seed(i)) for i, name in enumerate(names)}
    for seed, model in enumerate(("base", "x", "y")):
        generator = torch.Generator().manual_seed(seed)
        moved = {name: value + 0.1 * seed * torch.randn(8, 8, generator=generator) for name, value in base.items()}
        save_model(model, moved, tie_word_embeddings=True)
    Path("r.yaml").write_text("genepool: 1\nmethod: dare_ties\nbase: base\nmodels: [x, y]\nseed: 3\n")
    return tmp_path


def _tensors(folder: str) -> dict[str, torch.Tensor]:
    weights = open_weights(folder)
    return {name: weights.read(name) for name in weights.names()}


def _same(one: str, other: str) -> bool:
    ours, theirs = _tensors(one), _tensors(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.usefixtures("world")
def test_no_file_of_weights_is_larger_than_said(cli: Cli) -> None:
    assert cli("merge", "r.yaml", "whole").code == 0
    assert [path.name for path in Path("whole").glob("*.safetensors")] == ["model.safetensors"]
    assert cli("merge", "r.yaml", "parts", "--out-shard-size", "0.6KB", "--verify").code == 0
    shards = sorted(Path("parts").glob("*.safetensors"))
    assert len(shards) == 2
    for shard in shards:
        with safe_open(shard, "pt") as opened:
            assert sum(opened.get_tensor(name).nbytes for name in opened.keys()) <= 600  # noqa: SIM118
    assert set(json.loads(Path("parts/model.safetensors.index.json").read_text())["weight_map"]) == set(
        _tensors("whole")
    )
    assert _same("parts", "whole")
    for size in ("0", "5XB", "-1GB", "much"):
        refused = cli("merge", "r.yaml", "none", "--out-shard-size", size)
        assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
        assert refused.err.startswith(f"error: --out-shard-size: got '{size}', expected a size")


@pytest.mark.usefixtures("world")
def test_a_seed_stands_in_for_the_recipes(cli: Cli) -> None:
    for out, more in (("own", []), ("3", ["--seed", 3]), ("4", ["--seed", 4]), ("4 again", ["--seed", 4])):
        assert cli("merge", "r.yaml", out, *more).code == 0
    assert _same("own", "3")
    assert _same("4", "4 again")
    assert not _same("3", "4")
    assert "seed: 4" in Path("4/recipe.yaml").read_text()


@pytest.mark.usefixtures("world")
def test_so_many_tensors_are_worked_on_at_once_as_is_said(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = Engine.stored_blocks
    workers: set[int] = set()

    def alone(self: Engine, out: Any) -> Any:
        workers.add(threading.get_ident())
        return blocks(self, out)

    monkeypatch.setattr(Engine, "stored_blocks", alone)
    assert cli("merge", "r.yaml", "one", "--threads", 1).code == 0
    assert len(workers) == 1
    # Every tensor waits for all the others: fewer threads would wait for ever.
    every = threading.Barrier(LAYERS + 1, timeout=60)

    def together(self: Engine, out: Any) -> Any:
        every.wait()
        return blocks(self, out)

    monkeypatch.setattr(Engine, "stored_blocks", together)
    assert cli("merge", "r.yaml", "four", "--threads", LAYERS + 1).code == 0
    assert _same("one", "four")
    assert cli("merge", "r.yaml", "none", "--threads", 0).code == 2


@pytest.mark.usefixtures("world")
def test_a_device_that_is_not_there_is_one_line(cli: Cli) -> None:
    refused = cli("merge", "r.yaml", "out", "--device", "abacus", "--quiet")
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert refused.err.startswith("error: --device: got 'abacus', which cannot be used here")
    assert not Path("out").exists()


@pytest.mark.usefixtures("world")
def test_a_plan_shows_every_tensor_when_that_is_said(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    brief, whole = cli("plan", "r.yaml"), cli("plan", "r.yaml", "--all")
    assert "layers (--all shows them)" in brief.out
    for layer in range(LAYERS):
        assert (f"model.layers.{layer}.mlp.up_proj.weight" in brief.out) == (layer == 0)
        assert f"model.layers.{layer}.mlp.up_proj.weight" in whole.out
    assert "--all" not in whole.out
