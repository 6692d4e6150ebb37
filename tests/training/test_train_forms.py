"""`genepool train --form` as it is typed: what comes out, where it stands, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import write_classifier, write_model
from training_runs import QUICK, rows, told

from genepool.weights import open_weights
from genepool.weights.adapter_forms import adapter_forms

#: Options under which every form fits the small world, whose models are 32 wide and have two layers.
SMALL = {
    "qa_lora": ["group=8", "rank=4"], "stage_sharing": ["stages=2"], "relaxed_recursive": ["rank=4"],
    "personal": ["width=3", "experts=2"], "das": ["rounds=2", "examples=2"], "prompt": ["length=4"],
    "prefix": ["length=4"],
}  # fmt: skip
#: Crash needs a middle, and two are for classifiers.
TRAINED = sorted(set(adapter_forms()) - {"crash", "abnn", "unipt"})


def _set(name: str, tmp_path: Path) -> list[str]:
    pairs = list(SMALL.get(name, []))
    if name == "personal":
        path = tmp_path / "users.safetensors"
        save_file({"first": torch.tensor([1.0, 0, 0]), "grade": torch.tensor([0.0, 1, 0])}, path)
        pairs.append(f"users={path}")
    return [word for pair in pairs for word in ("--set", f"form.{pair}")]


@pytest.mark.slow
def test_hydra_learns_and_is_told_and_stands_wherever_a_model_does(
    train: Callable[..., Any], cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    answer = train("run", "--form", "hydra", "--set", "form.rank=8", "--steps", 50, "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert (found["form"], found["form_options"], found["result"]) == ("hydra", {"rank": 8}, "form")
    (target,) = found["target"]
    assert target["after"] > target["before"]
    base, form = small_world / "base", tmp_path / "run" / "form"
    assert open_weights(f"{base}+{form}").fingerprint() == found["fingerprint"]
    asked = cli("evaluate", f"{base}+{form}", "--tasks", small_world / "tasks" / "first", "--json")
    assert json.loads(asked.out)["results"][0]["mean"] == pytest.approx(target["after"])
    # As a skill, and as plain weights.
    assert cli("skill", "convert", form, "--base", base, "--to", "dense", "--out", tmp_path / "s.safetensors").code == 0
    assert cli("skill", "apply", form, "--base", base, "--out", tmp_path / "whole").code == 0
    wanted = open_weights(f"{base}+{form}")
    for other in (open_weights(tmp_path / "whole"), open_weights(f"{base}+{tmp_path / 's.safetensors'}")):
        for name in wanted.names():
            assert torch.allclose(other.read(name), wanted.read(name), atol=1e-6), name
    again = train("run", "--form", "hydra", "--set", "form.rank=8", "--steps", 50, "--json")
    assert json.loads(again.out)["finished_before"]
    changed = train("run", "--form", "hydra", "--set", "form.rank=4", "--steps", 50)
    assert changed.code == 2
    assert "form_options" in changed.err


def test_nothing_is_trained_on_a_form_that_does_not_fold(
    cli: Callable[..., Any], train: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    assert train("run", "--form", "sequential_adapter", "--steps", 1).code == 0
    base = f"{small_world / 'base'}+{tmp_path / 'run' / 'form'}"
    answer = cli("train", small_world / "tasks" / "first", "--base", base, "--out", tmp_path / "more")
    assert answer.code == 2
    assert f"error: {base}: the form sequential_adapter does not fold into weights, so nothing" in answer.err
    assert not (tmp_path / "more").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_every_form_trains_and_its_steps_can_be_taken_again(
    name: str, train: Callable[..., Any], cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    tasks = [small_world / "tasks" / one for one in ("first", "grade")] if adapter_forms()[name].by_task else None
    answer = train("run", "--form", name, *_set(name, tmp_path), "--steps", 6, "--every", 3, tasks=tasks)
    assert answer.code == 0, answer.err
    run = tmp_path / "run"
    losses = [row[0] for row in rows(run, "SELECT loss FROM validations ORDER BY step")]
    assert losses[-1] < losses[0]
    assert cli("verify-run", run, "--step", 5).code == 0
    where = f"{small_world / 'base'}+{run / 'form'}"
    wanted = {row["task"]: row["after"] for row in told(run)["target"]}
    for task, after in wanted.items():
        model = f"{where}#{task}" if adapter_forms()[name].by_task else where
        asked = cli("evaluate", model, "--tasks", small_world / "tasks" / task, "--json")
        assert json.loads(asked.out)["results"][0]["mean"] == pytest.approx(after), task
    merged = cli("skill", "apply", run / "form", "--base", small_world / "base", "--out", tmp_path / "whole")
    if adapter_forms()[name].why_not:
        assert merged.code == 2
        assert f"the form {name} does not fold into weights" in merged.err
        assert not (tmp_path / "whole").exists()
    else:
        assert merged.code == 0, merged.err


@pytest.mark.slow
def test_mtlora_with_a_norm_is_trained_asked_and_not_applied(
    train: Callable[..., Any], cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    tasks = [small_world / "tasks" / name for name in ("first", "grade")]
    options = ("--form", "mtlora", "--set", "form.mode=norm", "--set", "form.rank=2", "--steps", 6, "--every", 3)
    answer = train("run", *options, tasks=tasks)
    assert answer.code == 0, answer.err
    form = tmp_path / "run" / "form"
    gains = [one for name, one in load_file(form / "tensors.safetensors").items() if name.endswith("norm_gain")]
    assert any(bool(one.any()) for one in gains)
    assert cli("verify-run", tmp_path / "run", "--step", 5).code == 0
    asked = cli("evaluate", f"{small_world / 'base'}+{form}#grade", "--tasks", tasks[1], "--json")
    wanted = {row["task"]: row["after"] for row in told(tmp_path / "run")["target"]}
    assert json.loads(asked.out)["results"][0]["mean"] == pytest.approx(wanted["grade"])
    applied = cli("skill", "apply", form, "--base", small_world / "base", "--out", tmp_path / "whole")
    assert applied.code == 2
    assert "the form mtlora does not fold into weights" in applied.err
    assert not (tmp_path / "whole").exists()


@pytest.mark.slow
def test_a_form_of_factors_becomes_an_adapter_of_pefts(
    train: Callable[..., Any], cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = small_world / "base"
    assert train("run", "--form", "corda", "--set", "form.rank=2", "--steps", 4).code == 0
    form = tmp_path / "run" / "form"
    answer = cli("skill", "convert", form, "--base", base, "--to", "peft", "--out", tmp_path / "adapter")
    assert answer.code == 0, answer.err
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    # The directions as they are and as they began: nothing is lost.
    assert config["r"] == 4
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    state = merged.merge_and_unload().state_dict()
    wanted = open_weights(f"{base}+{form}")
    for name in wanted.names():
        assert torch.allclose(state[name], wanted.read(name), atol=1e-5), name


@pytest.mark.slow
def test_panda_keeps_a_prompt_near_the_one_it_began_as(
    train: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    short = ("--form", "prompt", "--set", "form.length=2", "--steps", 3, "--every", 3)
    assert train("source", *short).code == 0
    teacher = f"{small_world / 'base'}+{tmp_path / 'source' / 'form'}"
    moved = {}
    for weight in (0, 100):
        panda = ("--objective", "panda", "--teacher", teacher, "--set", f"weight={weight}")
        answer = train(
            f"run{weight}", *short, *panda, "--fork", tmp_path / "source", tasks=[small_world / "tasks" / "grade"]
        )
        assert answer.code == 0, answer.err
        began = load_file(tmp_path / "source" / "form" / "tensors.safetensors")["embeddings"]
        moved[weight] = load_file(tmp_path / f"run{weight}" / "form" / "tensors.safetensors")["embeddings"] - began
    assert not torch.equal(moved[0], moved[100])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--form", "hidra"], "there is no form 'hidra'"),
        (["--form", "hydra", "--full"], "error: --form: contradicts --full. Leave one of them out"),
        (["--form", "hydra", "--set", "form.rank=0"], "error: --set form.rank: input should be greater than or equal"),
        (["--form", "hydra", "--set", "form.rnak=1"], "rank"),
        (["--set", "form.rank=4"], "`form_options` are of forms of adapters, and the form is lora"),
        (["--form", "qa_lora", "--set", "form.group=7"], "which groups of 7 do not divide"),
        (["--form", "relaxed_recursive", "--set", "form.loops=3"], "which 3 loops do not divide"),
        (["--form", "crash"], "cannot stand for the middle. Use another form, or a deeper model"),
        (["--form", "unipt"], "the form unipt is made for models that tell classes"),
        (["--form", "personal"], "error: --set form.users: names no file of users' vectors"),
        (["--form", "mtlora", "--objective", "dpo"], "has parts for each task, which the objective dpo"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    train: Callable[..., Any], tmp_path: Path, options: list[Any], said: str
) -> None:
    answer = train("run", *options)
    assert answer.code == 2
    assert said in answer.err
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["abnn", "unipt", "hydra", "parallel_adapter"])
def test_a_classifier_gets_a_form_and_its_head_is_trained_with_it(
    name: str, cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    base = write_classifier(tmp_path / "classifier", labels=tuple("abcdefgh"))
    task, run = small_world / "tasks" / "first", tmp_path / "run"
    answer = cli("train", task, "--base", base, "--form", name, *QUICK, "--steps", 30, "--out", run)
    assert answer.code == 0, answer.err
    losses = [row[0] for row in rows(run, "SELECT loss FROM validations ORDER BY step")]
    assert losses[-1] < losses[0]
    assert cli("verify-run", run, "--step", 25).code == 0
    (target,) = told(run)["target"]
    asked = cli("evaluate", f"{base}+{run / 'form'}", "--tasks", task, "--json")
    assert json.loads(asked.out)["results"][0]["mean"] == pytest.approx(target["after"])
    head = load_file(run / "form" / "tensors.safetensors")["head.classifier.weight"]
    assert not torch.equal(head, open_weights(base).read("classifier.weight"))


@pytest.mark.slow
def test_crash_trains_outer_layers_before_a_middle_that_is_not_all_there(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    base = write_model(tmp_path / "deep", num_hidden_layers=5, initializer_range=0.1)
    task, run = small_world / "tasks" / "first", tmp_path / "run"
    answer = cli(
        "train", task, "--base", base, "--form", "crash", "--set", "form.kept=2", *QUICK, "--learning-rate", 0.003,
        "--out", run,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    losses = [row[0] for row in rows(run, "SELECT loss FROM validations ORDER BY step")]
    assert min(losses[1:]) < losses[0]
    assert cli("verify-run", run, "--step", 15).code == 0
    centres = load_file(run / "form" / "tensors.safetensors")["centres"].tolist()
    assert (centres[0], centres[4]) == (0, 4)
    assert len(set(centres[1:4])) == 2
    plain, tuned = open_weights(base), open_weights(f"{base}+{run / 'form'}")
    moved = {name.split(".")[2] for name in plain.names() if not torch.equal(plain.read(name), tuned.read(name))}
    assert moved == {"0", "4"}
