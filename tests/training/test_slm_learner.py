"""SLM as a learner: adapters in training by the formula, the pool that comes out, and what it is asked with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_runs import rows, told

from genepool.errors import InputError
from genepool.tasks import open_model, quantised
from genepool.training import Training, run_training
from genepool.training.continual.memory import read_memory
from genepool.training.continual.retrieved import FactorLayer, RetrievedFactors, cut, factor_layers
from genepool.training.retrieval import GroupedKeys

SHORT = ("--steps", 6, "--every", 3, "--batch", 8, "--learning-rate", 0.02, "--test", 6, "--quiet")
OPTIONS = ("--lora", 4, "--set", "deltas=2", "--set", "groups=2")


class Adapted(torch.nn.Module):
    """A linear layer with factors, as PEFT has it."""

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float) -> None:
        super().__init__()
        self.base = torch.nn.Linear(inputs, outputs)
        self.lora_A = torch.nn.ModuleDict({"default": torch.nn.Linear(inputs, rank, bias=False)})
        self.lora_B = torch.nn.ModuleDict({"default": torch.nn.Linear(rank, outputs, bias=False)})
        self.scaling = {"default": scale}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.lora_B["default"](self.lora_A["default"](x)) * self.scaling["default"]


@pytest.fixture
def learn(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> Callable[..., Any]:
    def call(out: str, *options: Any, tasks: tuple[str, ...] = ("first", "grade"), base: str = "base") -> Any:
        named = [small_world / "tasks" / name for name in tasks]
        # A base that is a path or a sum stands for itself.
        where = ("--base", base if "/" in base else small_world / base, "--out", tmp_path / out)
        return cli("train", *named, "--learner", "slm", *where, *SHORT, *options)

    return call


@pytest.mark.parametrize("flat", [False, True])
def test_what_a_layer_computes_is_the_weighed_sum_of_all_adapters(flat: bool) -> None:
    torch.manual_seed(0)
    module, scale = Adapted(5, 3, 4, 2.0), 2.0
    layer = FactorLayer("w", module, "A", "B", scale)
    before = {"down/w": torch.randn(3, 2, 5), "up/w": torch.randn(3, 2, 3)}
    x, weights = torch.randn(2, 7, 5), torch.rand(2, 5)
    plain = module(x)
    factors = RetrievedFactors([layer], 2, before)
    assert torch.equal(module(x), plain)
    values = {"A": module.lora_A["default"].weight.detach(), "B": module.lora_B["default"].weight.detach()}
    pool = {name: torch.cat([before[name], one]) for name, one in cut(values, [layer], 2).items()}
    products = torch.einsum("kri,kro->koi", pool["down/w"], pool["up/w"])
    changes = torch.einsum("lk,koi->loi", weights, products)
    wanted = module.base(x) + torch.einsum("loi,lti->lto", changes, x)
    factors.weights = weights
    found = module(x.reshape(14, 5)).reshape(2, 7, 3) if flat else module(x)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_lines_that_cannot_be_told_and_trained_heads_are_refused() -> None:
    module = Adapted(5, 3, 4, 1.0)
    RetrievedFactors([FactorLayer("w", module, "A", "B", 1.0)], 2, {}).weights = torch.rand(2, 2)
    factors = RetrievedFactors([FactorLayer("w", module, "A", "B", 1.0)], 2, {})
    factors.weights = torch.rand(3, 2)
    with pytest.raises(InputError, match="is given 2 lines in a batch of 3"):
        module(torch.randn(2, 7, 5))
    network = torch.nn.Sequential(Adapted(5, 3, 4, 1.0), torch.nn.Linear(3, 2))
    named = dict(network.named_parameters())
    own = {name: one for name, one in named.items() if "lora_" in name or name == "1.weight"}
    place: Any = SimpleNamespace(parameters=own, model=SimpleNamespace(model=network, title="tiny"))
    with pytest.raises(InputError, match=r"1\.weight is trained too"):
        factor_layers(place)
    place.parameters.pop("1.weight")
    assert [layer.matrix for layer in factor_layers(place)] == ["0.weight"]


@pytest.mark.slow
def test_the_result_is_a_composition_that_answers_by_the_pool(
    learn: Callable[..., Any], cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    answer = learn("run", *OPTIONS, "--json")
    assert answer.code == 0, answer.err
    run, said = tmp_path / "run", told(tmp_path / "run")
    assert said["result"] == "composition"
    first, both = (read_memory(run / "tasks" / number) for number in ("0001", "0002"))
    assert said["memory_bytes"] == both.bytes == sum(4 * one.numel() for one in both.tensors.values())
    # What the first task learned stands still, and its prompts find its own adapters.
    for name, tensor in first.tensors.items():
        assert torch.equal(both.tensors[name][: len(tensor)], tensor), name
    assert max(one.abs().max() for name, one in both.tensors.items() if name.startswith("up/")) > 0
    assert sum(first.facts["weights"]) == pytest.approx(1, abs=1e-4)
    assert sum(both.facts["weights"][2:]) > 0.5
    tensors = load_file(run / "composition" / "router.safetensors")
    assert tensors.keys() == both.tensors.keys()
    assert all(torch.equal(tensor, both.tensors[name]) for name, tensor in tensors.items())
    prompts = ["fab=", "gba=", "fhc="]
    model = open_model(run / "composition").load()
    states = open_model(small_world / "base").load().embeddings(prompts)
    wanted = GroupedKeys(tensors["keys"], 2, 2).weights(states)
    torch.testing.assert_close(model.weights(prompts), wanted, atol=1e-5, rtol=1e-4)
    assert [list(one.weights) for one in model.skills_used(["gba="], ["b"])] == [["grade 1", "grade 2"]]
    # What the matrix says of it is what it scores as a model like any other.
    scores = cli("evaluate", run / "composition", "--tasks", small_world / "tasks", "--limit", 6, "--json", "-q")
    assert scores.code == 0, scores.err
    found = {one["task"]: one["mean"] for one in json.loads(scores.out)["results"]}
    assert [found[name] for name in said["sequence"]] == pytest.approx(said["matrix"][1])
    assert rows(run, "SELECT count(*) FROM stages") == [(3,)]


@pytest.mark.slow
def test_it_is_finished_repeated_and_reported_as_any_run(
    learn: Callable[..., Any], cli: Callable[..., Any], tmp_path: Path
) -> None:
    assert learn("run", *OPTIONS, "--set", "keys=orthogonal").code == 0
    before = {path: path.read_bytes() for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()}
    assert learn("run", *OPTIONS, "--set", "keys=orthogonal").code == 0
    assert before == {path: path.read_bytes() for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()}
    assert cli("verify-run", tmp_path / "run", "--step", 8, "--quiet").code == 0
    answer = cli("report", tmp_path / "run", "--out", tmp_path / "page.md", "--quiet")
    assert answer.code == 0, answer.err
    assert "composition" in (tmp_path / "page.md").read_text()
    keys = load_file(tmp_path / "run" / "composition" / "router.safetensors")["keys"]
    for part in torch.tensor_split(keys[2:], 2, -1):
        assert torch.allclose(part @ part.T, torch.eye(2), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "base", "said"),
    [
        (("--lora", 4, "--set", "deltas=3"), "base", "error: --set deltas: got 3, into which factors of rank 4"),
        (("--lora", 64, "--set", "deltas=64"), "base", "has 48 examples to learn from, fewer than it has adapters"),
        (
            ("--lora", 2050, "--set", "deltas=2"),
            "base",
            "error: --lora: is 2050, so each of 2 adapters has a rank of 1025",
        ),
        (("--lora", 4, "--pack"), "base", "error: --pack: does not go with the learner slm"),
        (("--lora", 4), "classifier", "the learner slm needs a model that writes, got a text classifier"),
        (("--full",), "base", "trains factors alone"),
        (("--lora", 4, "--set", "groups=0"), "base", "--set groups"),
        (("--lora", 4, "--set", "keys=drawn"), "base", "--set keys"),
    ],
)
def test_what_it_cannot_teach_is_refused_at_once(
    learn: Callable[..., Any], tmp_path: Path, options: Any, base: str, said: str
) -> None:
    answer = learn("run", *options, base=base)
    assert answer.code == 2
    assert said in answer.err
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_pool_that_was_altered_is_refused(
    learn: Callable[..., Any], cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    assert learn("run", *OPTIONS).code == 0
    folder = tmp_path / "run" / "composition"
    tensors, said = load_file(folder / "router.safetensors"), json.loads((folder / "composition.json").read_text())

    def asked() -> str:
        answer = cli("evaluate", folder, "--tasks", small_world / "tasks", "--limit", 2, "-q")
        assert answer.code == 2
        assert answer.err.count("\n") == 1
        return str(answer.err)

    save_file({**tensors, "keys": tensors["keys"][:3].contiguous()}, folder / "router.safetensors")
    assert "keys: has shape [3, 32], expected [4, any]" in asked()
    save_file({**tensors, "up/elsewhere": torch.zeros(1)}, folder / "router.safetensors")
    assert "up/elsewhere: is of a layer that is not named" in asked()
    save_file(tensors, folder / "router.safetensors")
    labels = {**said["labels"], "tasks": []}
    (folder / "composition.json").write_text(json.dumps({**said, "labels": labels}))
    assert "slm needs 1 or more skills, got 0" in asked()
    (folder / "composition.json").unlink()
    (tmp_path / "run" / "tasks" / "0002" / "composition" / "router.safetensors").unlink()
    # The mark of a task does not stand for what is gone.
    (tmp_path / "run" / "train.json").unlink()
    answer = learn("run", *OPTIONS)
    assert answer.code == 2
    assert "tasks/0002/composition/router.safetensors: what was trained is missing" in answer.err
    assert answer.err.count("\n") == 1


@pytest.mark.slow
def test_the_base_may_be_a_sum_and_may_need_pickles(
    learn: Callable[..., Any], cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    first = cli(
        "train", small_world / "tasks" / "first", "--base", small_world / "base", "--out", tmp_path / "one", *SHORT
    )
    assert first.code == 0, first.err
    pickled = shutil.copytree(small_world / "base", tmp_path / "bin")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    for name, base, more in (
        ("sum", f"{small_world / 'base'}+{tmp_path / 'one' / 'adapter'}", ()),
        ("pickled", str(pickled), ("--allow-pickle",)),
    ):
        answer = learn(name, *OPTIONS, *more, base=base)
        assert answer.code == 0, answer.err
        folder = tmp_path / name / "composition"
        asked = cli("evaluate", folder, "--tasks", small_world / "tasks", "--limit", 6, "--json", "-q", *more)
        assert asked.code == 0, asked.err
        found = {one["task"]: one["mean"] for one in json.loads(asked.out)["results"]}
        assert [found[task] for task in ("first", "grade")] == pytest.approx(told(tmp_path / name)["matrix"][1])
        said = json.loads((folder / "composition.json").read_text())
        assert said["record"]["tasks"] == {"first": {"steps": 6}, "grade": {"steps": 6}}
        assert "0 examples" not in (folder / "README.md").read_text()
    # Without the option nothing is opened.
    assert learn("refused", *OPTIONS, base=str(pickled)).code == 2
    assert not (tmp_path / "refused").exists()


def test_a_file_is_named_with_its_key(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = {
        "train": 1, "base": str(small_world / "base"), "learner": "slm", "steps": 2,
        "tasks": [str(small_world / "tasks" / name) for name in ("first", "grade")],
    }  # fmt: skip
    file = tmp_path / "order.yaml"

    def refused(**more: Any) -> str:
        file.write_text(json.dumps({**plain, **more}))
        answer = cli("train", file, "--out", tmp_path / "run", "-q")
        assert answer.code == 2
        assert answer.err.count("\n") == 1
        assert not (tmp_path / "run").exists()
        return str(answer.err)

    assert refused(lora={"rank": 6}).startswith(f"error: {file}:options.deltas: got 4, into which factors of rank 6")
    targets = refused(lora={"rank": 4, "targets": ["q_proj", "lm_head"]})
    assert targets.startswith(f"error: {file}:lora.targets: name lm_head, which writes the tokens")
    with monkeypatch.context() as patch:
        patch.setattr(quantised, "packed_base", lambda _: object())
        assert "is computed as it is quantised" in refused(lora={"rank": 4})


def test_whoever_calls_it_must_say_who_writes_the_result(small_world: Path, tmp_path: Path) -> None:
    tasks = tuple(str(small_world / "tasks" / name) for name in ("first", "grade"))
    recipe = Training(base=str(small_world / "base"), tasks=tasks, learner="slm")
    with pytest.raises(InputError, match="nobody is named who writes one"):
        run_training(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
