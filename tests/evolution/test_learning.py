"""Children that learn before they are judged: the gradients, the loss, what is inherited, whole studies."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_bred_runs import best, bred_study, history

from genepool.errors import InputError
from genepool.evolution import run_study
from genepool.evolution.breeding import FounderAdapters, FounderModels, Founders, Learner, Offspring
from genepool.evolution.breeding.learning_settings import Learning
from genepool.evolution.strategies.base import Birth
from genepool.evolution.study import Study
from genepool.tasks import LanguageModel, Task, load_tasks
from genepool.training.batches import answer_likelihoods, encode_examples
from genepool.weights import Weights, open_weights

MIX = Birth("mix", ("a", "b"), {"weights": [0.5, 0.5]})


@pytest.fixture(scope="module")
def adapters(world: Path) -> Path:
    """Two LoRA adapters of the base, on the attention and with a trained norm."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    for number, name in enumerate("ab"):
        torch.manual_seed(number)
        model = AutoModelForCausalLM.from_pretrained(world / "base")
        config = LoraConfig(
            r=2, target_modules=["q_proj", "down_proj"], modules_to_save=["norm"], init_lora_weights=False
        )
        adapted = get_peft_model(model, config)
        with torch.no_grad():
            for key, parameter in adapted.named_parameters():
                if "modules_to_save" in key:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        adapted.save_pretrained(str(world / "adapters" / name))
    return world / "adapters"


def founders_of(world: Path, form: str) -> Founders:
    base = open_weights(str(world / "base"))
    place = "skills" if form == "models" else "adapters"
    founders = {name: open_weights(str(world / place / name), base=base) for name in "ab"}
    return FounderModels(base, founders) if form == "models" else FounderAdapters(base, founders)


def learner_of(world: Path, founders: Founders, **settings: Any) -> Learner:
    wanted = Learning(**{"steps": 12, "rate": 3e-3, **settings})
    return Learner(founders, load_tasks(world / "tasks"), {}, wanted, seed=1, threads=1, compute="float32")


def loss_of(weights: Weights, tasks: list[Task], split: str = "train") -> float:
    model = LanguageModel.load(weights)
    total = 0.0
    with torch.inference_mode():
        for task in tasks:
            encoded = encode_examples(model, task.examples(split), task)
            total -= sum(float(b.means(answer_likelihoods(model, b)[0]).sum()) for b in encoded.batches)
    return total


@pytest.mark.parametrize("form", ["models", "adapters"])
def test_what_is_taught_is_learned_the_same_each_time(world: Path, adapters: Path, form: str) -> None:
    founders = founders_of(world, form)
    assert type(founders).__name__ == {"models": "FounderModels", "adapters": "FounderAdapters"}[form]
    born = Offspring(founders, {}.__getitem__)
    plain = born.child("1.0", MIX)
    tensors = born._tensors("1.0", MIX)
    before = {key: value.clone() for key, value in tensors.items()}
    learner = learner_of(world, founders)
    first, again, other = (learner.teach(name, tensors) for name in ("1.0", "1.0", "1.1"))
    assert all(torch.equal(tensors[key], before[key]) for key in before)
    assert all(torch.equal(first[key], again[key]) for key in before)
    assert any(not torch.equal(first[key], other[key]) for key in before)
    assert all(not torch.equal(first[key], before[key]) for key in before if "embed" not in key)
    tasks = load_tasks(world / "tasks")
    assert loss_of(founders.express(first, "x", "x"), tasks) < loss_of(plain, tasks) - 0.1


def test_gradients_of_factors_are_autograds(world: Path, adapters: Path) -> None:
    founders = founders_of(world, "adapters")
    target = next(name for name in founders.moving() if f"{name}:A" in founders.infos)
    left = founders.founder("a", f"{target}:B").requires_grad_()
    right = founders.founder("a", f"{target}:A").requires_grad_()
    slope = torch.randn(left.shape[0], right.shape[1], generator=torch.Generator().manual_seed(0))
    (left @ right).mul(slope).sum().backward()
    found = founders.pull_back(target, slope, {f"{target}:B": left, f"{target}:A": right})
    assert torch.allclose(found[f"{target}:B"], left.grad, atol=1e-6)
    assert torch.allclose(found[f"{target}:A"], right.grad, atol=1e-6)


def test_one_step_of_descent_is_adamws_on_the_whole_models_gradient(world: Path) -> None:
    """With one step AdamW moves every entry by the rate against the sign of its gradient."""
    founders = founders_of(world, "models")
    tensors = Offspring(founders, {}.__getitem__)._tensors("1.0", MIX)
    learner = learner_of(world, founders, steps=1, rate=1e-3, batch=4)
    taught = learner.teach("1.0", tensors)
    model = LanguageModel.load(founders.express(tensors, "x", "x"))
    for parameter in model.model.parameters():
        parameter.requires_grad_(True)
    # Two training examples a task, so that a step sees them all.
    for task in load_tasks(world / "tasks"):
        closed = task.settings.metric != "multiple_choice"
        for batch in encode_examples(model, task.examples("train"), task, closed=closed).batches:
            (-batch.means(answer_likelihoods(model, batch)[0]).sum() / 4).backward()
    gradients = {name: p.grad for name, p in model.model.named_parameters()}
    checked = 0
    for name, gradient in gradients.items():
        # Adam's epsilon shortens the steps along gradients near 1e-8.
        sure = gradient.abs() > 1e-4
        expected = tensors[name] - 1e-3 * torch.sign(gradient)
        assert torch.allclose(taught[name][sure], expected[sure], atol=2e-6), name
        checked += int(sure.sum())
    assert checked > 1000


def test_lamarcks_children_inherit_what_was_learned_and_baldwins_do_not(world: Path) -> None:
    births = {"1.0": MIX}
    grandchild = Birth("mix", ("1.0",), {"weights": [1.0]})
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, inherit in (("lamarck", True), ("baldwin", False)):
        founders = founders_of(world, "models")
        offspring = Offspring(founders, births.__getitem__, learner=learner_of(world, founders, inherit=inherit))
        judged = offspring.child("1.0", MIX)
        unborn = offspring._make(grandchild)
        found[name] = unborn
        key = next(iter(founders.infos))
        assert torch.equal(judged.read(key), unborn[key]) == inherit
    founders = founders_of(world, "models")
    plain = Offspring(founders, births.__getitem__)._tensors("1.0", MIX)
    assert all(torch.equal(found["baldwin"][key], plain[key]) for key in plain)
    prints = {
        Offspring(founders, births.__getitem__, learner=one).child("1.0", MIX).fingerprint()
        for one in (None, learner_of(world, founders), learner_of(world, founders, inherit=False))
    }
    assert len(prints) == 3


@pytest.mark.slow
@pytest.mark.parametrize("inherit", [True, False])
def test_a_study_that_learns_ends_the_same_when_robbed_of_its_children(
    world: Path, tmp_path: Path, inherit: bool
) -> None:
    learn = {"steps": 2, "rate": 1e-3, "inherit": inherit}
    study = bred_study(world, f"learn-{inherit}", "m2n2", learn=learn, budget={"evaluations": 9})
    once = run_study(study, tmp_path / "once", ledger=tmp_path / "once.sqlite")
    run_study(study, tmp_path / "steps", evaluations=6, ledger=tmp_path / "steps.sqlite")
    shutil.rmtree(tmp_path / "steps" / "population", ignore_errors=True)
    run_study(study, tmp_path / "steps", ledger=tmp_path / "steps.sqlite")
    assert history(tmp_path / "steps") == history(tmp_path / "once")
    assert best(tmp_path / "steps") == best(tmp_path / "once")
    assert open_weights(once.winner).fingerprint() == once.best["fingerprint"]


def test_what_cannot_be_taught_is_refused(world: Path, tmp_path: Path) -> None:
    founders = founders_of(world, "models")
    tasks = load_tasks(world / "tasks")
    for task in tasks:
        with pytest.raises(InputError, match=f"'{task.name}' has nothing to train on"):
            Learner(
                founders,
                [Task(task.name, {"train": [], "valid": task.examples("valid")}, task.settings)],
                {},
                Learning(),
                seed=0,
                threads=1,
                compute="float32",
            )
    common = {"base": "b", "skills": ["x", "y"], "tasks": "t", "budget": {"evaluations": 9}, "learn": {}}
    with pytest.raises(ValueError, match="only what is bred can `learn`"):
        Study(**common, method="linear", search={"weight": {"low": 0, "high": 1}})


@pytest.mark.parametrize("inherit", [True, False])
def test_children_of_equal_births_learn_alike_and_are_one_model(world: Path, inherit: bool) -> None:
    founders = founders_of(world, "models")
    offspring = Offspring(founders, {}.__getitem__, learner=learner_of(world, founders, inherit=inherit))
    other = Birth(MIX.op, MIX.parents, {"weights": [0.25, 0.75]})
    first, twin, third = offspring.child("1.0", MIX), offspring.child("4.2", MIX), offspring.child("1.1", other)
    assert first.fingerprint() == twin.fingerprint() != third.fingerprint()
    assert all(torch.equal(first.read(key), twin.read(key)) for key in founders.infos)
