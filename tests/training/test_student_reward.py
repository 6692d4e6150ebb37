"""The reward that a student gives to what it is shown, and the loop that tunes a teacher by it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from training_runs import QUICK, told

from genepool.tasks import LanguageModel, Task, load_tasks
from genepool.tasks.decoding import Decoding
from genepool.training.examples import TrainingExample
from genepool.training.rewards import RewardInputs, Rewards
from genepool.training.samples import Sample
from genepool.weights import open_weights

RECIPE = Path(__file__).parents[2] / "recipes" / "aligned_teacher.yaml"


@pytest.fixture(scope="module")
def asked(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The task `first`, whose examples may stand behind each other: the tokenizer knows no line breaks."""
    folder = tmp_path_factory.mktemp("asked") / "first"
    shutil.copytree(small_world / "tasks" / "first", folder)
    (folder / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 3\nseparator: ''\n")
    return folder


@pytest.fixture(scope="module")
def student(small_world: Path, asked: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that has read one example before each question, and answers some of them."""
    from genepool.training import Training, run_training

    folder = tmp_path_factory.mktemp("student")
    shown = folder / "first"
    shutil.copytree(asked, shown)
    (shown / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 3\nseparator: ''\nfew_shot: 1\n")
    recipe = Training(
        base=str(small_world / "base"), tasks=(str(shown),), steps=60, every=20, patience=0, learning_rate=0.02,
        batch=16, test=4,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENEPOOL_CACHE", str(folder / "cache"))
        run_training(recipe, folder / "run", ledger=folder / "ledger.sqlite")
    return f"{small_world / 'base'}+{folder / 'run' / 'adapter'}"


def sample(task: Task, text: str) -> Sample:
    return Sample(TrainingExample(task, task.examples("train")[0]), (), (), text)


def test_the_reward_is_the_share_that_the_student_answers_behind_the_example(asked: Path, student: str) -> None:
    (task,) = load_tasks(asked)
    rewards = Rewards({"student": {"student": student, "examples": 6}})
    rewards.begin(RewardInputs(lambda texts: [], "cpu", "float32"))
    texts = ["a", "h", "a", "", "cd"]
    found, why = rewards.of([sample(task, text) for text in texts], len(texts))
    assert not why
    model = LanguageModel.load(open_weights(student))
    questions = task.examples("valid")[:6]
    for text, reward in zip(texts, found, strict=True):
        before = f"{task.examples('train')[0].prompt}{text}"
        prompts = [f"{before}{one.prompt}" for one in questions]
        written = model.write(prompts, [one.key for one in questions], Decoding(3), 8)
        right = [one.text.strip() == question.answer for one, question in zip(written, questions, strict=True)]
        assert reward == sum(right) / 6
    assert max(found) > 0


def test_a_question_that_it_was_shown_is_not_asked(asked: Path, student: str) -> None:
    (task,) = load_tasks(asked)
    own = Task(task.name, {"train": task.splits["train"], "valid": task.examples("train")[:1]}, task.settings)
    rewards = Rewards({"student": {"student": student}})
    rewards.begin(RewardInputs(lambda texts: [], "cpu", "float32"))
    found, why = rewards.of([sample(own, "a")], 1)
    assert found[0] != found[0]
    assert "has no validation examples to ask the student" in why


@pytest.mark.slow
def test_the_recipe_tunes_a_teacher_and_leaves_data_for_the_student(
    cli: Callable[..., Any], asked: Path, student: str, half_known: str, small_world: Path, tmp_path: Path
) -> None:
    recipe = yaml.safe_load(RECIPE.read_text())
    recipe |= {"base": half_known, "tasks": [str(asked)], "others": str(small_world / "tasks"), "rounds": 1}
    recipe |= {"training": {"batch": 8, "every": 3}, "lora": {"rank": 2}, "test": 8}
    draw, sampled, pair, train = recipe["round"]
    draw["draw"]["count"], pair["pair"]["margin"], train["train"]["steps"] = 8, 0.0, 3
    sampled["sample"] |= {"temperature": 1.5, "reward": {"student": {"student": student, "examples": 12}}}
    recipe["last"][0]["draw"]["count"] = 48
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    answer = cli("train", tmp_path / "recipe.yaml", "--out", tmp_path / "aligned", "--quiet")
    assert answer.code == 0, answer.err
    lines = (tmp_path / "aligned" / "stages" / "0001-02-sample" / "samples.jsonl").read_text().splitlines()
    rewards = [reward for line in lines for _, _, reward in json.loads(line)["samples"]]
    assert len(rewards) == 32
    assert len(set(rewards)) > 1
    # As the page on loops says it.
    (tmp_path / "tailored").mkdir()
    lessons = (tmp_path / "aligned" / "stages" / "0002-03-select" / "lessons.jsonl").read_text()
    (tmp_path / "tailored" / "train.jsonl").write_text(lessons.replace('"answers":', '"answer":'))
    for split in ("valid", "test"):
        shutil.copy(asked / f"{split}.jsonl", tmp_path / "tailored")
    (tmp_path / "tailored" / "task.yaml").write_text("columns: {prompt: prompt}\n")
    answer = cli("train", tmp_path / "tailored", "--base", student, "--out", tmp_path / "taught", *QUICK)
    assert answer.code == 0, answer.err
    assert told(tmp_path / "taught")["examples"]["train"] == lessons.count("\n") > 40
