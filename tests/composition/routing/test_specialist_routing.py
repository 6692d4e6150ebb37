"""`lda_routing`, `centroid_routing` and `model_sat` as they are typed, on images that tell their tasks apart."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from genepool.composition import load_composition
from genepool.composition.routing.specialists_model import specialists_kind
from genepool.tasks import LanguageModel, open_model
from genepool.tasks.answers import Question

sys.path.append(str(Path(__file__).parents[2] / "tasks"))
from tiny_models import write_model

Cli = Callable[..., Any]
METHODS = ("lda_routing", "centroid_routing", "model_sat")
NAMES = ("first", "second")
#: Of each task, which rows of an image are bright; the last is a task of nobody.
BRIGHT = {"first": slice(0, 3), "second": slice(5, 8), "plain": slice(3, 5)}


def images(task: str, count: int, seed: int) -> list[str]:
    dice = np.random.default_rng([seed, *task.encode()])
    found = dice.integers(0, 4, (count, 8, 8))
    found[:, BRIGHT.get(task, slice(0, 8, 2))] += 12
    return [" ".join(map(str, one.flatten())) for one in found]


@pytest.fixture(scope="module")
def bed(small_bed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small bed with tasks that look unlike each other; what a task's own model says is right."""
    place = tmp_path_factory.mktemp("routed") / "bed"
    place.mkdir()
    for part in ("base", "full"):
        shutil.copytree(small_bed / part, place / part)
    for task in BRIGHT:
        model = open_model(place / "full" / task if task in NAMES else place / "base").load()
        folder = place / "tasks" / task
        folder.mkdir(parents=True)
        for split, count in (("train", 24), ("test", 10)):
            prompts = images(task, count, seed=len(split))
            answers = model.class_scores(prompts).argmax(1).tolist()
            rows = [json.dumps({"prompt": p, "answer": str(a)}) for p, a in zip(prompts, answers, strict=True)]
            (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
        (folder / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 1\n")
    return place


def compose(cli: Cli, bed: Path, out: Path, method: str, *options: Any, skills: tuple[str, ...] = NAMES) -> Any:
    return cli(
        "compose", method, *(bed / "full" / name for name in skills), "--base", bed / "base", "--tasks", bed / "tasks",
        "--examples", 24, "--out", out, "--json", *options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("routed-out")


@pytest.fixture(params=METHODS)
def made(cli: Cli, bed: Path, kept: Path, request: pytest.FixtureRequest) -> Path:
    """A composition of each kind, made once."""
    out = kept / request.param
    if not out.exists():
        answer = compose(cli, bed, out, request.param)
        assert answer.code == 0, answer.err
        said = json.loads(answer.out)
        assert said["form"] == "composition"
        record = said["record"]
        assert record["inputs"] == dict.fromkeys(BRIGHT, 24)
        assert set(record["sent_to"]) == {*NAMES, "the base"}
        assert "warnings" not in record
    return out


def test_every_prompt_is_answered_by_one_whole_model(made: Path, bed: Path) -> None:
    """By its own to the bit, by the base where it belongs to no skill or is like nothing known; a batch is as one."""
    model = open_model(made).load()
    # None of the images that the limit declines, which are some.
    known = {task: images(task, 10, seed=4) for task in BRIGHT}
    for task, prompts in known.items():
        owner = open_model(bed / "full" / task if task in NAMES else bed / "base").load()
        weights = model.weights(prompts)
        own = NAMES.index(task) if task in NAMES else None
        answered = weights[:, own] == 1 if own is not None else weights.sum(1) == 0
        assert answered.float().mean() >= 0.8, (task, weights)
        assert float(weights.sum(1).max()) <= 1
        at = [prompt for prompt, yes in zip(prompts, answered.tolist(), strict=True) if yes]
        assert torch.equal(model.class_scores(at), owner.class_scores(at))
    unlike = images("unlike", 8, seed=0)
    base = open_model(bed / "base").load()
    assert torch.equal(model.weights(unlike), torch.zeros(8, 2))
    assert torch.equal(model.class_scores(unlike), base.class_scores(unlike))
    mixed = [one for prompts in zip(*known.values(), strict=True) for one in prompts]
    fresh = open_model(made).load()
    torch.testing.assert_close(model.class_scores(mixed), torch.cat([fresh.class_scores([one]) for one in mixed]))


def test_what_is_composed_stands_wherever_a_model_is_named(cli: Cli, made: Path, bed: Path) -> None:
    tasks = bed / "tasks"
    asked = cli("evaluate", made, "--tasks", tasks, "--json")
    assert asked.code == 0, asked.err
    assert min(row["mean"] for row in json.loads(asked.out)["results"]) >= 0.8
    assert json.loads(cli("evaluate", made, "--tasks", tasks, "--json").out)["evaluated"] == 0
    assert cli("compare", bed / "base", made, "--tasks", tasks).code == 0
    assert cli("inspect", made).code == 2
    if made.name != "model_sat":
        one = open_model(f"{made}#second").load()
        prompts = images("first", 3, seed=1)
        second = open_model(bed / "full" / "second").load()
        torch.testing.assert_close(one.class_scores(prompts), second.class_scores(prompts), atol=1e-5, rtol=1e-5)
    told = cli("evaluate", f"{made}#third", "--tasks", tasks)
    assert told.code == 2


def test_prompts_that_are_like_nothing_known_are_told(cli: Cli, made: Path, bed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "unlike"
    folder.mkdir()
    rows = [json.dumps({"prompt": one, "answer": "0"}) for one in images("unlike", 9, seed=1)]
    (folder / "test.jsonl").write_text("\n".join(rows))
    (folder / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 1\n")
    told = cli("evaluate", made, "--tasks", folder)
    assert told.code == 0, told.err
    assert "none of 9 prompts is like what it learned from: the base answers" in told.err


def test_a_router_that_does_not_choose_is_told(cli: Cli, bed: Path, tmp_path: Path) -> None:
    """With one task there is nobody else; the model says so, and so does its card."""
    for method in ("lda_routing", "model_sat"):
        out = tmp_path / method
        told = compose(cli, bed, out, method, "--task", "first", skills=("first",))
        assert told.code == 0, told.err
        assert "The router always answers by first: of 24 inputs that it did not learn from" in told.err
        assert "always answers by first" in (out / "README.md").read_text()


@pytest.mark.parametrize("method", METHODS[:2])
def test_skills_whose_inputs_are_alike_are_told(cli: Cli, bed: Path, tmp_path: Path, method: str) -> None:
    """Also beside a task that is unlike both, by which the router does better than chance on the whole."""
    same = tmp_path / "bed"
    for part in ("base", "full", "tasks"):
        shutil.copytree(bed / part, same / part)
    for split in ("train", "test"):
        shutil.copy(same / "tasks" / "first" / f"{split}.jsonl", same / "tasks" / "second" / f"{split}.jsonl")
    warning = "The router tells first from second no better than by chance."
    for more in ((), ("--task", "first", "--task", "second")):
        out = tmp_path / f"out{len(more)}"
        told = compose(cli, same, out, method, *more)
        assert told.code == 0, told.err
        assert json.loads(told.out)["record"]["warnings"] == [warning]
        assert f"warning: {warning}" in told.err
        assert warning in (out / "README.md").read_text()


def test_what_a_router_cannot_learn_from_is_one_line(cli: Cli, bed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for method, options, message in (
        ("lda_routing", ("--task", "first"), "--task: no task that is chosen is called second, so nothing"),
        ("centroid_routing", ("--examples", "1"), "has a single input to learn from, at least 2 are needed"),
        ("model_sat", ("--examples", "1"), "has a single input to learn from, at least 2 are needed"),
        ("lda_routing", ("--set", "abstain=1"), "abstain"),
    ):
        answer = compose(cli, bed, out, method, *options)
        assert answer.code == 2
        assert message in answer.err
        assert not list(tmp_path.iterdir())
    # Models of capability routing need no tasks of their own.
    assert compose(cli, bed, out, "model_sat", "--task", "plain").code == 0


def test_a_damaged_or_altered_folder_is_refused(cli: Cli, made: Path, bed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(made, out)
    tensors = load_file(made / "router.safetensors")
    for wrong, message in (
        ({"means": None}, "means: the tensor is missing"),
        ({"means": tensors["means"][:1].contiguous()}, "means: has shape"),
        ({"log_priors": tensors["log_priors"] * float("nan")}, "no finite numbers"),
    ):
        held = {name: value for name, value in {**tensors, **wrong}.items() if value is not None}
        save_file(held, out / "router.safetensors", {"format": "pt"})
        answer = cli("evaluate", out, "--tasks", bed / "tasks")
        assert answer.code == 2
        assert message in answer.err
    assert load_composition(made).fingerprint == load_composition(made).fingerprint


def test_an_edited_folder_is_refused(cli: Cli, made: Path, bed: Path, tmp_path: Path) -> None:
    """Skills in another order than the router learned them in, and a tensor that nobody asked for."""
    out = tmp_path / "out"
    shutil.copytree(made, out)
    said = json.loads((made / "composition.json").read_text())
    asked = ("evaluate", out, "--tasks", bed / "tasks")
    (out / "composition.json").write_text(json.dumps({**said, "skills": said["skills"][::-1]}))
    told = cli(*asked)
    assert told.code == 2
    assert "labels.skills: names first and second, and the composition has second and first" in told.err
    (out / "composition.json").write_text(json.dumps({**said, "labels": {**said["labels"], "answerd": ["first"]}}))
    assert "composition.json:labels: unknown label 'answerd'" in cli(*asked).err
    (out / "composition.json").write_text(json.dumps(said))
    save_file({**load_file(made / "router.safetensors"), "more": torch.zeros(1)}, out / "router.safetensors")
    assert "router.safetensors:more: the composition has no such tensor" in cli(*asked).err


def test_abstaining_is_a_choice(cli: Cli, bed: Path, tmp_path: Path) -> None:
    """With none allowed, whatever is asked goes to the nearest."""
    assert compose(cli, bed, tmp_path / "out", "centroid_routing", "--set", "abstain=0", "--task", "first",
                   "--task", "second").code == 0  # fmt: skip
    weights = open_model(tmp_path / "out").load().weights(images("unlike", 8, seed=0))
    assert weights.sum(1).tolist() == [1.0] * 8


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_language_model_writes_by_the_chosen_skill(cli: Cli, text_bed: Path, tmp_path: Path, method: str) -> None:
    out, bed = tmp_path / "out", tmp_path / "bed"
    for part in ("base", "lora"):
        (bed / part).parent.mkdir(exist_ok=True)
        (bed / part).symlink_to(text_bed / part)
    dice = np.random.default_rng(0)
    for name, letters in (("one", "abc"), ("two", "fgh")):
        (bed / "tasks" / name).mkdir(parents=True)
        texts = ["".join(dice.choice(list(letters), 3)) for _ in range(24)]
        rows = [json.dumps({"prompt": f"{text}=", "answer": text[::-1]}) for text in texts]
        (bed / "tasks" / name / "train.jsonl").write_text("\n".join(rows))
    skills = [bed / "lora" / name for name in ("one", "two")]
    answer = cli("compose", method, *skills, "--base", bed / "base", "--tasks", bed / "tasks", "--out", out,
                 "--set", "abstain=0")  # fmt: skip
    assert answer.code == 0, answer.err
    prompts = ["abc=", "fgh=", "cab="]
    model = open_model(out).load()
    chosen = model.weights(prompts)
    told = cli("generate", out, *(word for one in prompts for word in ("--prompt", one)), "--max-new-tokens", 4)
    assert told.code == 0, told.err
    for prompt, weights, line in zip(prompts, chosen, told.out.splitlines(), strict=True):
        name = ("one", "two")[int(weights.argmax())] if weights.any() else None
        owner = f"{bed / 'base'}+{bed / 'lora' / name}" if name else bed / "base"
        shown = cli("generate", out, "--prompt", prompt, "--max-new-tokens", 4, "--show-skills")
        assert f"skills: {f'{name} 1' if name else 'none, the base alone'}" in shown.out
        alone = cli("generate", owner, "--prompt", prompt, "--max-new-tokens", 4)
        assert line == alone.out.splitlines()[0]


def test_models_of_other_tokens_read_questions_in_their_own(tmp_path: Path) -> None:
    """The base chooses by its tokens; a question is encoded by the model that answers it."""
    base = open_model(write_model(tmp_path / "base")).load()
    other = open_model(write_model(tmp_path / "other", kind="gpt2", merging=True))
    chooser = SimpleNamespace(width=16, chosen=lambda features: torch.zeros(len(features), dtype=torch.long))
    model: Any = specialists_kind(LanguageModel)(base, [other], chooser, ["other"], "", "", resident=False)  # type: ignore[arg-type]
    questions = [Question("1", "abab=", "ba"), Question("2", "ab=", "b")]
    (routed,), (own,) = model.answer_batches(questions), other.load().answer_batches(questions)
    assert torch.equal(routed.targets, own.targets)
    assert torch.equal(model.answer_logits(routed), other.load().answer_logits(own))
