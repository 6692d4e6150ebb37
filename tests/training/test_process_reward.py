"""Process reward models: the loss of both sides, what a tree's steps are labelled, what answers are worth by them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from training_runs import rows, told

from genepool.errors import InputError
from genepool.tasks import Example, Task, load_tasks
from genepool.tasks.reading import read_examples
from genepool.training import find_objective
from genepool.training import run as running
from genepool.training.loops.data import Line, WrittenAnswer
from genepool.training.loops.stages.process import choices, chosen_sample, labelled_steps
from genepool.training.objectives.process_reward import ProcessReward
from genepool.training.process_scores import answer_scores, steps_of
from genepool.training.reward_ensemble import RewardModelSource, preference_task
from genepool.training.rewards import RewardInputs, find_reward

LETTERS = "abcdefgh"


def objective(**options: Any) -> ProcessReward:
    found = find_objective("process_reward", options)
    assert isinstance(found, ProcessReward)
    return found


@given(st.floats(-8, 8, width=32), st.floats(0, 1, width=32))
def test_both_sides_of_a_step_are_learned(reward: float, label: float) -> None:
    good = 1 / (1 + math.exp(-reward))
    wanted = -(label * math.log(good) + (1 - label) * math.log(1 - good))
    found = objective().step_losses(torch.tensor([reward]), torch.tensor([label]))
    assert float(found) == pytest.approx(wanted, rel=1e-3, abs=1e-5)


def test_hard_labels_are_one_side_or_the_other() -> None:
    rewards, labels = torch.tensor([2.0, 2.0, 2.0]), torch.tensor([0.0, 0.25, 1.0])
    sides = objective().step_losses(rewards, torch.tensor([0.0, 1.0, 1.0]))
    assert torch.equal(objective(hard_above=0).step_losses(rewards, labels), sides)
    assert torch.equal(objective(hard_above=0.25).step_losses(rewards, labels)[1], sides[0])


@given(st.text("ab;", max_size=12))
def test_steps_are_the_answer_and_end_where_they_should(text: str) -> None:
    found = steps_of(text, ";")
    assert "".join(step for _, step in found) == text
    assert all(before + step == text[: len(before) + len(step)] for before, step in found)
    assert all(step.endswith(";") for _, step in found[:-1])
    assert all(";" not in step[:-1] for _, step in found)


def step_line(before: str, step: str, value: float) -> Line:
    return Line("t", Example("1", f"p{before}", (step,)), (WrittenAnswer(step, 0, value),), own=True)


def test_labels_are_values_and_lose_what_a_step_loses() -> None:
    lines = [step_line("", "a;", 0.5), step_line("a;", "b;", 0.25), step_line("a;", "c;", 1.0)]
    assert [row[3] for row in labelled_steps(lines, 0)] == [0.5, 0.25, 1.0]
    # The first step has none before it; 0.25 - (0.5 - 0.25); 1 + 0.5 is cut off at 1.
    assert [row[3] for row in labelled_steps(lines, 1)] == [0.5, 0.0, 1.0]
    assert labelled_steps(lines, 1)[1][:3] == ("t", "pa;", "b;")


def test_a_choice_is_told_beside_no_choice_a_vote_and_the_best() -> None:
    def line(*samples: tuple[str, float | None]) -> Line:
        return Line("t", Example("1", "p", ("x",)), tuple(WrittenAnswer(text, 1, reward) for text, reward in samples))

    drawn = [line(("a", 0.0), ("b", 1.0), ("a", 0.0)), line(("c", 1.0), ("d", 0.0))]
    judged = [line(("a", 0.2), ("b", 0.9), ("a", 0.2)), line(("c", 0.4), ("d", 0.4))]
    assert choices(drawn, judged) == {"chosen": 1.0, "first": 0.5, "vote": 0.5, "best": 1.0}
    assert chosen_sample(line(("a", None), ("b", 0.0))) == 1
    assert chosen_sample(line(("a", None))) == 0


# ---------------------------------------------------------------------- data


def write(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    for split, lines in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 3\n")
    return folder


def test_a_label_that_is_a_number_stays_with_its_answer(tmp_path: Path) -> None:
    file = tmp_path / "steps.jsonl"
    lines = [{"prompt": "p", "completion": "a", "label": 0.25}, {"prompt": "p", "completion": "b", "label": 1}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = read_examples(file)
    assert (first.value, second.value, first.answers) == (0.25, 1.0, ("a",))
    assert first.key != Example("1", "p", ("a",)).key
    table = tmp_path / "steps.csv"
    table.write_text("prompt,completion,label\np,a,0.25\np,b,1\n")
    assert [one.value for one in read_examples(table)] == [0.25, 1.0]


@pytest.mark.parametrize("label", [1.5, -0.1, "good", None, [1], float("nan")])
def test_other_labels_are_refused_by_their_line(tmp_path: Path, label: object) -> None:
    file = tmp_path / "steps.jsonl"
    file.write_text(json.dumps({"prompt": "p", "completion": "a", "label": label}) + "\n")
    with pytest.raises(InputError) as refused:
        read_examples(file)
    assert f"{file}:1" in str(refused.value)


def test_test_steps_become_questions_which_step_is_best() -> None:
    def step(prompt: str, text: str, value: float) -> Example:
        return Example(f"{prompt}{text}", prompt, (text,), value=value)

    task = Task("t", {"test": [step("p", "a", 0.5), step("p", "b", 0.1), step("q", "a", 1), step("r", "c", 0.3)]})
    task.splits["test"].append(step("r", "d", 0.3))  # type: ignore[attr-defined]
    (asked,) = preference_task(task).splits["test"]
    assert (asked.prompt, asked.answers, asked.choices) == ("p", ("a",), ("a", "b"))
    with pytest.raises(InputError, match="no test prompt has two answers"):
        preference_task(Task("t", {"test": [step("p", "a", 0.5)]}))


# ---------------------------------------------------------------------- as it is typed


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of steps: a letter of the first half of the alphabet is worth 0.9, one of the second half 0.1."""
    prompts = [f"f{one}{two}=" for one in LETTERS for two in LETTERS]

    def lines(part: list[str]) -> list[dict[str, Any]]:
        return [
            {"prompt": prompt, "completion": letter, "label": label}
            for prompt in part
            for letter, label in (
                ("abcd"[LETTERS.index(prompt[1]) % 4], 0.9),
                ("efgh"[LETTERS.index(prompt[2]) % 4], 0.1),
            )
        ]

    mixed = sorted(prompts, key=lambda prompt: prompt[2] + prompt[1])
    folder = tmp_path_factory.mktemp("steps") / "first"
    return write(folder, train=lines(mixed[:44]), valid=lines(mixed[44:52]), test=lines(mixed[52:]))


TYPED = ("--objective", "process_reward", "--lora", 2, "--batch", 16, "--learning-rate", 0.02, "--quiet")


@pytest.fixture(scope="module")
def judge(steps: Path, small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from genepool.training import Training, run_training

    folder = tmp_path_factory.mktemp("process")
    recipe = Training(
        base=str(small_world / "base"), tasks=(str(steps),), objective="process_reward", steps=40, every=20, batch=16,
        learning_rate=0.02,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENEPOOL_CACHE", str(folder / "cache"))
        run_training(recipe, folder / "run", ledger=folder / "ledger.sqlite")
    return folder / "run"


def test_it_learns_how_good_steps_are_and_is_asked_which_is_best(judge: Path) -> None:
    found = told(judge)
    (target,) = found["target"]
    assert (target["n"], found["result"]) == (12, "reward_model")
    assert target["after"] > 0.8 > target["before"]
    assert json.loads((judge / "reward_model" / "reward_model.json").read_text())["steps"] is True
    assert "process reward model" in (judge / "reward_model" / "README.md").read_text()
    rewards = [value for (value,) in rows(judge, "SELECT reward FROM examples WHERE step = 40")]
    assert all(0 < value < 1 for value in rewards)


def test_a_step_is_read_to_its_last_token_and_nothing_behind_it(judge: Path, small_world: Path) -> None:
    from peft import PeftModel

    from genepool.tasks import open_model

    source = RewardModelSource(judge / "reward_model")
    found = source.load().rewards(["fab="], ["a"])
    model: Any = open_model(small_world / "base").load()
    adapted = PeftModel.from_pretrained(model.model, str(judge / "reward_model" / "member_0"))
    head = load_file(judge / "reward_model" / "heads.safetensors")["member_0"]
    ids = torch.tensor([[*model.encode("fab="), *model.tokenizer("a", add_special_tokens=False).input_ids]])
    with torch.no_grad():
        last = adapted(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1]
    assert float(last @ head) == pytest.approx(float(found), rel=1e-4, abs=1e-5)


def test_an_answer_is_worth_what_its_steps_are(judge: Path) -> None:
    ensemble = RewardModelSource(judge / "reward_model").load()
    task, example = Task("first", {}), Example("1", "fab=", ("a",))
    steps = [(before, step) for before, step in steps_of("ab", "a")]
    assert steps == [("", "a"), ("a", "b")]
    chances = (
        ensemble.rewards([f"fab={before}" for before, _ in steps], [step for _, step in steps]).sigmoid()[0].tolist()
    )

    def worth(by: Any) -> float:
        (found,) = answer_scores(ensemble, [(task, example)], ["ab"], "a", by)
        return found

    assert worth("min") == pytest.approx(min(chances), rel=1e-4)
    assert worth("product") == pytest.approx(math.prod(chances), rel=1e-4)
    assert worth("last") == pytest.approx(chances[1], rel=1e-4)
    assert worth("mean") == pytest.approx(sum(chances) / 2, rel=1e-4)
    assert math.isnan(answer_scores(ensemble, [(task, example)], [""], "a", "min")[0])


def test_each_reward_takes_its_own_kind_of_reward_model(judge: Path, small_world: Path, tmp_path: Path) -> None:
    path = str(judge / "reward_model")
    inputs = RewardInputs(lambda texts: [], "cpu", "float32")
    with pytest.raises(InputError, match="Use the reward process_reward"):
        find_reward("reward_model", {"path": path}).begin(inputs)
    whole = tmp_path / "whole"
    shutil.copytree(path, whole)
    about = json.loads((whole / "reward_model.json").read_text())
    del about["steps"]
    (whole / "reward_model.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="says nothing of their steps"):
        find_reward("process_reward", {"path": str(whole)}).begin(inputs)


def test_it_rewards_a_training_by_rewards(
    cli: Callable[..., Any], judge: Path, small_world: Path, tmp_path: Path
) -> None:
    asked = ("--objective", "grpo", "--set", "samples=4", "--steps", 2, "--batch", 4, "--test", 4, "--quiet")
    reward = f"reward={{process_reward: {{path: {judge / 'reward_model'}, by: mean}}}}"
    answer = cli(
        "train", small_world / "tasks" / "first", "--base", small_world / "base", "--out", tmp_path / "run", *asked,
        "--set", reward,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    found = [value for (value,) in rows(tmp_path / "run", "SELECT reward FROM examples WHERE reward IS NOT NULL")]
    assert found
    assert all(0 < value < 1 for value in found)


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(
    cli: Callable[..., Any], steps: Path, small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(out: str) -> Any:
        line = ("train", steps, "--base", small_world / "base", "--out", tmp_path / out)
        return cli(*line, "--steps", 8, "--every", 4, *TYPED)

    assert train("whole").code == 0
    after = running.Run._after

    def stopping(self: Any, step: Any, *more: Any) -> bool:
        ended = after(self, step, *more)
        if step.number == 6:
            raise KeyboardInterrupt
        return ended

    with monkeypatch.context() as patch:
        patch.setattr(running.Run, "_after", stopping)
        assert train("stopped").code == 130
    assert train("stopped").code == 0
    files = ("heads.safetensors", "member_0/adapter_model.safetensors")
    one, two = (
        b"".join((tmp_path / out / "reward_model" / f).read_bytes() for f in files) for out in ("whole", "stopped")
    )
    assert one == two
    assert cli("verify-run", tmp_path / "stopped", "--step", 7, "--quiet").code == 0


BAD = {
    "likelihood of numbers": (("--objective", "likelihood"), "only a process reward model learns from"),
    "labels of another objective": (("--objective", "unlikelihood"), "only a process reward model learns from"),
    "every tensor": (("--objective", "process_reward", "--full"), "trains factors alone"),
    "a threshold beyond its range": (("--objective", "process_reward", "--set", "hard_above=1"), "hard_above"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_what_cannot_be_is_one_line(
    cli: Callable[..., Any], steps: Path, small_world: Path, tmp_path: Path, case: str
) -> None:
    options, said = BAD[case]
    answer = cli("train", steps, "--base", small_world / "base", "--out", tmp_path / "run", "--quiet", *options)
    assert answer.code == 2
    assert said in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not (tmp_path / "run" / "train.json").exists()


def test_labels_that_are_all_alike_say_nothing(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> None:
    answer = cli(
        "train", small_world / "tasks" / "first", "--base", small_world / "base", "--out", tmp_path / "run", "--quiet",
        "--objective", "process_reward",
    )  # fmt: skip
    assert answer.code == 2
    assert "first: all labels are alike" in answer.err
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------- the stage


@pytest.mark.slow
def test_a_loop_learns_from_its_own_trees_and_says_what_it_would_choose(
    cli: Callable[..., Any], half_known: str, small_world: Path, tmp_path: Path
) -> None:
    loop = {
        "loop": 1, "base": half_known, "tasks": [str(small_world / "tasks" / "first")], "rounds": 1, "test": 4,
        "lora": {"rank": 2}, "training": {"every": 3, "batch": 8},
        "round": [
            {"draw": {"count": 8}},
            {"search": {"step": "a", "nodes": 6, "depth": 2, "width": 3, "of": "prompts"}},
            {"process": {"step": "a", "steps": 4, "learning_rate": 0.02}},
            {"select": {"of": "judged"}},
            {"train": {"steps": 2}},
        ],
    }  # fmt: skip
    (tmp_path / "loop.yaml").write_text(yaml.safe_dump(loop))
    answer = cli("train", tmp_path / "loop.yaml", "--out", tmp_path / "run", "--quiet", "--json")
    assert answer.code == 0, answer.err
    stages = {one["stage"]: one for one in json.loads(answer.out)["stages"]}
    process = stages["process"]
    assert process["steps"] == 4
    assert {"chosen", "first", "vote", "best", "steps"} <= set(process["told"])
    assert process["told"]["best"] >= process["told"]["chosen"]
    folder = tmp_path / "run" / "stages" / "0001-03-process"
    learned = [json.loads(line) for line in (folder / "data" / "first" / "train.jsonl").read_text().splitlines()]
    tried = (tmp_path / "run" / "stages" / "0001-02-search" / "steps.jsonl").read_text().splitlines()
    values = [json.loads(line)["samples"][0][2] for line in tried]
    assert [line["label"] for line in learned] == [value for value in values if value is not None]
    judged = [json.loads(line) for line in (folder / "judged.jsonl").read_text().splitlines()]
    assert all(0 <= reward <= 1 for line in judged for _, _, reward in line["samples"] if reward is not None)
    (task,) = load_tasks(folder / "data" / "first")
    assert all(example.value is not None for example in task.splits["train"])
    # Nothing is learned twice.
    before = (folder / "judged.jsonl").read_bytes()
    shutil.rmtree(tmp_path / "run" / "stages" / "0001-05-train")
    (tmp_path / "run" / "loop.json").unlink()
    assert cli("train", tmp_path / "loop.yaml", "--out", tmp_path / "run", "--quiet").code == 0
    assert (folder / "judged.jsonl").read_bytes() == before
