"""`compose task_expert` and `compose task_tokens` as they are typed: `FOLDER#TASK`, what they learn and refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from genepool.composition.kept_fit import HeldOutLooks
from genepool.tasks import open_model
from genepool.tasks.answers import Question

Cli = Callable[..., Any]
SKILLS = {"task_expert": ("first", "second"), "task_tokens": ("first",)}


def compose(cli: Cli, bed: Path, out: Path, method: str, *options: Any, **settings: Any) -> Any:
    usual = {"steps": 20, "every": 10, "batch": 8, "learning_rate": 0.01, **settings}
    chosen = [word for key, value in usual.items() for word in ("--set", f"{key}={value}")]
    return cli(
        "compose", method, *(bed / "full" / name for name in SKILLS[method]), "--base", bed / "base",
        "--tasks", bed / "tasks", "--examples", 24, "--out", out, "--json", *chosen, *options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def bed(small_bed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small bed with answers that can be learned: the base's own, and those moved by some digits."""
    place = tmp_path_factory.mktemp("told") / "bed"
    shutil.copytree(small_bed, place)
    model = open_model(place / "base").load()
    for number, task in enumerate(("first", "second", "third", "plain")):
        for split in ("train", "test"):
            file = place / "tasks" / task / f"{split}.jsonl"
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            classes = model.class_scores([row["prompt"] for row in rows]).argmax(1).tolist()
            told = [
                json.dumps({**row, "answer": str((answer + number) % 10)})
                for row, answer in zip(rows, classes, strict=True)
            ]
            file.write_text("\n".join(told) + "\n")
    return place


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("told-out")


@pytest.fixture(params=SKILLS)
def made(cli: Cli, bed: Path, kept: Path, request: pytest.FixtureRequest) -> Path:
    """A composition of either kind, made once."""
    out = kept / request.param
    if not out.exists():
        answer = compose(cli, bed, out, request.param)
        assert answer.code == 0, answer.err
        record = json.loads(answer.out)["record"]
        assert record["steps"] == 20
        assert set(record["examples"]) == {"first", "second", "third", "plain"}
        assert record["loss"][-1] < record["loss"][0]
    return out


def test_a_task_is_named_and_stands_wherever_a_model_is_named(cli: Cli, made: Path, bed: Path) -> None:
    tasks = bed / "tasks"
    asked = cli("evaluate", f"{made}#first", f"{made}#plain", "--tasks", tasks, "--task", "first", "--json")
    assert asked.code == 0, asked.err
    results = json.loads(asked.out)["results"]
    assert len({row["fingerprint"] for row in results}) == 2
    again = cli("evaluate", f"{made}#first", "--tasks", tasks, "--task", "first", "--json")
    assert json.loads(again.out)["evaluated"] == 0
    assert cli("compare", bed / "base", f"{made}#third", "--tasks", tasks, "--task", "third").code == 0
    for wrong, message in (
        (made, "answers each task by a part of its own. Name the task, as in"),
        (f"{made}#fourth", "has no task 'fourth'"),
    ):
        told = cli("evaluate", wrong, "--tasks", tasks)
        assert told.code == 2
        assert message in told.err
    folded = cli("inspect", f"{made}#first")
    assert folded.code == 2
    assert "no weights do the same" in folded.err


def test_many_are_answered_as_each_alone_and_learned_as_they_are_asked(made: Path, bed: Path) -> None:
    lines = (bed / "tasks" / "second" / "test.jsonl").read_text().splitlines()
    prompts = [json.loads(line)["prompt"] for line in lines]
    model = open_model(f"{made}#second").load()
    scores = model.class_scores(prompts)
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(len(prompts)))
    fresh = open_model(f"{made}#second").load()
    alone = torch.cat([fresh.class_scores([one]) for one in prompts])
    torch.testing.assert_close(scores, alone, atol=1e-5, rtol=1e-5)
    other = open_model(f"{made}#first").load().class_scores(prompts)
    assert not torch.allclose(scores, other, atol=1e-3)
    (batch,) = model.answer_batches([Question(one, one, "0") for one in prompts])
    logits = model.answer_logits(batch).detach().log_softmax(-1)
    torch.testing.assert_close(logits, scores[batch.numbers], atol=1e-5, rtol=1e-5)


def test_a_frozen_network_is_not_changed_by_the_tokens_of_another_call(made: Path, bed: Path) -> None:
    """Nothing is left in the network: asked by itself it answers as ever."""
    prompts = [json.loads(line)["prompt"] for line in (bed / "tasks" / "first" / "test.jsonl").read_text().splitlines()]
    model = open_model(f"{made}#first").load()
    model.class_scores(prompts)
    inner = model.models[1] if hasattr(model, "models") else model.base
    own = open_model(bed / "full" / "first").load()
    assert torch.equal(inner.class_scores(prompts), own.class_scores(prompts))


def test_a_damaged_folder_is_refused(cli: Cli, made: Path, bed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(made, out)
    tensors = load_file(made / "router.safetensors")
    name = "heads.1.weight" if "heads.1.weight" in tensors else "outer.1.weight"
    for wrong, message in (
        ({name: None}, f"{name}: the tensor is missing"),
        ({name: tensors[name][:, :-1].contiguous()}, f"{name}: has shape"),
        ({name: tensors[name] * float("nan")}, "no finite numbers"),
    ):
        held = {key: value for key, value in {**tensors, **wrong}.items() if value is not None}
        save_file(held, out / "router.safetensors", {"format": "pt"})
        answer = cli("evaluate", f"{out}#first", "--tasks", bed / "tasks", "--task", "first")
        assert answer.code == 2
        assert message in answer.err


def test_models_that_give_no_classes_are_refused(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    for method, names in (("task_expert", ("one", "two")), ("task_tokens", ("one",))):
        answer = cli(
            "compose", method, *(text_bed / "lora" / name for name in names), "--base", text_bed / "base",
            "--tasks", text_bed / "tasks", "--out", tmp_path / "out",
        )  # fmt: skip
        assert answer.code == 2
        assert f"{method} needs a classifier, got a causal language model" in answer.err
        assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("method", SKILLS)
def test_a_stopped_command_goes_on_to_the_same_folder(
    cli: Cli, bed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    assert compose(cli, bed, tmp_path / "whole", method).code == 0
    add = HeldOutLooks.add

    def stopped(self: HeldOutLooks, step: int, *others: Any) -> bool:
        ended = add(self, step, *others)
        if step == 10:
            raise KeyboardInterrupt
        return ended

    monkeypatch.setattr(HeldOutLooks, "add", stopped)
    assert compose(cli, bed, tmp_path / "out", method).code == 130
    monkeypatch.setattr(HeldOutLooks, "add", add)
    assert "going on after step 10" in compose(cli, bed, tmp_path / "out", method).err
    for name in ("router.safetensors", "composition.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
