"""Poly and MHR: modules are mixed as the definition and PEFT say, a task is one LoRA, and new tasks reuse modules."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from genepool.composition import load_composition
from genepool.composition.composers.poly import InventoryComposition
from genepool.composition.linear_layers import linear_layers
from genepool.composition.routing.inventory import InventoryHooks, LayerModules
from genepool.tasks import open_model

Cli = Callable[..., Any]
QUICK = [word for key, value in {"steps": 6, "every": 3, "batch": 8}.items() for word in ("--set", f"{key}={value}")]


def told(answer: Any) -> dict[str, Any]:
    assert answer.code == 0, answer.err
    return dict(json.loads(answer.out))


def refused(answer: Any, *parts: str) -> None:
    lines = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert answer.code == 2, answer.err
    assert len(lines) == 1
    for part in parts:
        assert part in lines[0]


def inventory(folder: Path) -> InventoryComposition:
    found = load_composition(folder)
    assert isinstance(found, InventoryComposition)
    return found


def compose(cli: Cli, bed: Path, out: Path, method: str, *options: Any, skills: tuple[str, ...] = ()) -> Any:
    named = [bed / "lora" / name for name in skills]
    return cli(
        "compose", method, *named, "--base", bed / "base", "--tasks", bed / "tasks", "--examples", 8, "--out", out,
        "--json", *QUICK, *options,
    )  # fmt: skip


# ---------------------------------------------------------------------- the definition


@settings(max_examples=25)
@given(seed=st.integers(0, 999), heads=st.sampled_from([1, 2, 4]), rank=st.integers(1, 3))
def test_factors_are_mixed_apart_head_by_head(seed: int, heads: int, rank: int) -> None:
    """In head h rows of A are `sum_i z_hi A_hi`, columns of B `sum_i z_hi B_hi`, z = sigmoid / sum."""
    dice = torch.Generator().manual_seed(seed)
    modules = LayerModules(
        torch.randn(heads, 3, 8 // heads, rank, generator=dice),
        torch.randn(heads, 3, rank, 12 // heads, generator=dice),
        torch.randn(2, heads * 3, generator=dice),
    )
    down, up = modules.mixed(1)
    assert down.shape == (8, rank)
    assert up.shape == (rank, 12)
    for head in range(heads):
        on = torch.sigmoid(modules.logits[1, 3 * head : 3 * head + 3])
        shares = on / on.sum()
        rows, columns = 8 // heads, 12 // heads
        expected = sum(shares[i] * modules.down[head, i] for i in range(3))
        torch.testing.assert_close(down[head * rows : (head + 1) * rows], expected)
        expected = sum(shares[i] * modules.up[head, i] for i in range(3))
        torch.testing.assert_close(up[:, head * columns : (head + 1) * columns], expected)
    # The mean of the modules is what equal shares give, and one module without shares.
    even = LayerModules(modules.down, modules.up, torch.zeros(1, heads * 3)).mixed(0)
    mean = modules.mean()
    assert mean.down.shape[:2] == (1, 1)
    for found, wanted in zip(mean.mixed(0), even, strict=True):
        torch.testing.assert_close(found, wanted)


# ---------------------------------------------------------------------- the commands


@pytest.fixture(scope="module")
def pretrained(text_bed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MHR inventory of four heads and three modules, trained for six steps."""
    from genepool.cli.main import run

    out = tmp_path_factory.mktemp("mhr") / "mhr"
    line = ["compose", "mhr", "--base", text_bed / "base", "--tasks", text_bed / "tasks", "--examples", 8, "--out", out]
    more = [
        "-q",
        *QUICK,
        "--set",
        "heads=4",
        "--set",
        "modules=3",
        "--set",
        "rank=2",
        "--set",
        "targets=[q_proj, up_proj]",
    ]
    assert run([str(word) for word in (*line, *more)]) == 0
    return out


@pytest.mark.slow
def test_a_task_is_one_lora_and_has_a_name(cli: Cli, pretrained: Path, text_bed: Path, tmp_path: Path) -> None:
    whole = inventory(pretrained)
    assert list(whole.tasks) == ["one", "two"]
    change = whole.for_task("two").fold()
    products = [change.factors(name) for name in change.names()]
    assert {product.left.shape[1] for product in products if product is not None} == {2}
    assert None not in products
    # What the hooks of the training add is what the fold adds.
    network: Any = open_model(text_bed / "base").load()
    hooks = InventoryHooks(whole.modules, linear_layers(network.model))
    hooks.task = 1
    expected = [one.logprob for one in network.loglikelihoods(["abcd="] * 2, ["dcba", "abcd"])]
    hooks.remove()
    folded = open_model(f"{pretrained}#two").load()
    found = [one.logprob for one in folded.loglikelihoods(["abcd="] * 2, ["dcba", "abcd"])]
    assert found == pytest.approx(expected, rel=1e-4)
    assert cli("generate", f"{pretrained}#one", "--prompt", "abcd=").code == 0
    refused(cli("generate", f"{pretrained}#tow", "--prompt", "abcd="), "has no task 'tow'", "two")
    refused(cli("generate", pretrained, "--prompt", "abcd="), "answers each task by weights of its own", "#one")
    assert cli("evaluate", f"{pretrained}#one", "--tasks", text_bed / "tasks", "--task", "one").code == 0


@pytest.mark.slow
def test_a_new_task_trains_its_shares_alone(cli: Cli, pretrained: Path, text_bed: Path, tmp_path: Path) -> None:
    """MHR-z: the modules stay to the bit, and what is trained is far less than they are."""
    settings = ("--task", "one", "--set", "trains=z", "--set", f"inventory={pretrained}")
    out = tmp_path / "z"
    record = told(compose(cli, text_bed, out, "mhr", *settings))["record"]
    before, after = load_file(pretrained / "router.safetensors"), load_file(out / "router.safetensors")
    kept = [name for name in before if not name.startswith("logits/")]
    assert all(torch.equal(before[name], after[name]) for name in kept)
    assert record["trained_numbers"] == 4 * 4 * 3
    assert record["loss"][-1] < record["loss"][0]
    assert record["inventory"]["path"] == str(pretrained)
    # The inventory is in the composition: it need not be there any more.
    assert json.loads((out / "composition.json").read_text())["parameters"]["inventory"] is None
    assert list(inventory(out).tasks) == ["one"]


@pytest.mark.slow
def test_the_mean_module_is_trained_without_shares(cli: Cli, pretrained: Path, text_bed: Path, tmp_path: Path) -> None:
    """MHR-mu begins at the mean of the modules; one module is left."""
    out = tmp_path / "mu"
    settings = (
        "--task",
        "one",
        "--set",
        "trains=mu",
        "--set",
        f"inventory={pretrained}",
        "--set",
        "learning_rate=1e-9",
    )
    assert compose(cli, text_bed, out, "mhr", *settings).code == 0
    found, begun = inventory(out), inventory(pretrained)
    for name, one in found.modules.items():
        assert one.down.shape[:2] == (1, 1)
        for part, wanted in zip(one.mixed(0), begun.modules[name].mean().mixed(0), strict=True):
            torch.testing.assert_close(part, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_named_skills_are_the_modules(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    """With trains=z the modules are the adapters' factors, of ranks 2 and 3; a share of one alone is the adapter."""
    out = tmp_path / "out"
    assert compose(cli, text_bed, out, "poly", "--set", "trains=z", skills=("one", "two")).code == 0
    found = inventory(out)
    for number, skill in enumerate(found.skills.skills):
        for name, one in found.modules.items():
            product = skill.change.factors(name)
            assert product is not None
            whole = (one.down[0, number] @ one.up[0, number]).mT
            torch.testing.assert_close(whole, product.left @ product.right * product.factor, atol=1e-5, rtol=1e-4)


def test_a_plan_of_modules_needs_no_skills(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(
        json.dumps({"compose": 1, "method": "poly", "base": str(text_bed / "base"), "tasks": str(text_bed / "tasks")})
    )
    one = told(cli("plan", file, "--json"))
    file.write_text(file.read_text().replace("}", ', "options": {"modules": 16}}'))
    # Twice as many modules.
    assert told(cli("plan", file, "--json"))["kept_bytes"] == 2 * one["kept_bytes"] > 0


def test_what_poly_cannot_use(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(compose(cli, text_bed, out, "mhr"), "--set heads", "64 heads do not divide")
    refused(compose(cli, text_bed, out, "poly", "--set", "trains=z"), "--set trains", "no modules to begin with")
    refused(compose(cli, text_bed, out, "poly", "--set", f"inventory={text_bed / 'base'}"), str(text_bed / "base"))
    wrong = ("--set", "targets=[nope]")
    refused(compose(cli, text_bed, out, "poly", *wrong), "--set targets: the model has no layer nope")
    refused(compose(cli, text_bed, out, "adamerging"), "Missing argument 'SKILL...'")
    assert not out.exists()


@pytest.mark.slow
def test_damaged_modules_are_refused(cli: Cli, pretrained: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "damaged"
    shutil.copytree(pretrained, folder)
    file = folder / "router.safetensors"
    tensors = load_file(file)
    name = next(one for one in tensors if one.startswith("down/"))
    save_file({**tensors, name: tensors[name][:, :, :2].contiguous()}, file, {"format": "pt"})
    refused(cli("generate", f"{folder}#one", "--prompt", "a="), name, "inputs are not cut into")
    save_file(tensors, file, {"format": "pt"})
    said = json.loads((folder / "composition.json").read_text())
    said["parameters"]["heads"] *= 2
    (folder / "composition.json").write_text(json.dumps(said))
    refused(
        cli("generate", f"{folder}#one", "--prompt", "a="), "router.safetensors:down/", "heads, and the options ask"
    )
