"""Loop files and what stands in them: what is refused before anything runs, the tree, and the Countdown task."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from genepool.tasks.example import Example
from genepool.tasks.metrics import find_metric
from genepool.training.loops import is_loop, load_loop, stage
from genepool.training.loops.data import Line, WrittenAnswer, read_lines, write_lines
from genepool.training.loops.stage import stages
from genepool.training.loops.tree import Node, chosen_leaf, upper_bound

RECIPES = Path(__file__).parents[2] / "recipes"
TRAIN: dict[str, Any] = {"train": {"of": "prompts"}}
ROUND: list[Any] = ["draw", TRAIN]

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown stage": ({"round": ["drow", TRAIN]}, "round.1.drow: there is no stage 'drow'. Did you mean 'draw'?"),
    "lines that nobody writes": ({"round": ["sample", TRAIN]}, "round.1.sample: reads 'prompts', which no stage"),
    "no training": ({"round": ["draw"]}, "no stage trains"),
    "two stages in one item": ({"round": [{"draw": {}, **TRAIN}]}, "a stage is one name with its options, got 2"),
    "an unknown option": ({"round": [{"draw": {"cont": 3}}, TRAIN]}, "round.1.draw.cont: unknown key 'cont'"),
    "an unknown key of a training": ({"training": {"bach": 3}}, "training.bach: unknown key 'bach'"),
    "a key that the loop says itself": ({"training": {"seed": 3}}, "`training` says `seed`"),
    "an unknown objective": (
        {"round": ["draw", {"train": {"of": "prompts", "objective": "dpu"}}]},
        "loop.yaml:round.2.train.objective: there is no objective 'dpu'",
    ),
    "a part without a measure": ({"round": [{"draw": {"part": [0, 0.5]}}, TRAIN]}, "`part` needs `by`"),
    "a version from the future": ({"loop": 2}, "its format is 2, and this version reads 1"),
    "an unknown reward": ({"round": ["draw", {"sample": {"reward": "metrix"}}, TRAIN]}, "no reward 'metrix'"),
    "a reward that is a number": (
        {"round": ["draw", {"train": {"of": "prompts", "objective": "grpo", "options": {"reward": 5}}}]}, "reward",
    ),
    "a reward model that is a number": (
        {"round": ["draw", {"sample": {"reward": {"reward_model": {"path": 5}}}}, TRAIN]},
        "loop.yaml:round.2.sample.reward.reward_model.path: input should be text",
    ),
    "a training of a reward model": (
        {"round": ["draw", {"train": {"of": "prompts", "objective": "reward_model"}}]},
        "loop.yaml:round.2.train.objective: trains a reward model",
    ),
    "a training of a process reward model": (
        {"round": ["draw", {"train": {"of": "prompts", "objective": "process_reward"}}]},
        "loop.yaml:round.2.train.objective: trains a reward model",
    ),
    "steps that no search tried": (
        {"round": ["draw", "sample", "process", TRAIN]}, "round.3.process: reads 'steps', which no stage before it",
    ),
    "a template without the answer": (
        {"round": ["draw", "sample", {"refine": {"template": "{prompt}"}}, TRAIN]}, "must contain {answer}",
    ),
    "a share of no task": (
        {"round": [{"train": {"of": None, "shares": {"firsd": 1}}}]},
        "loop.yaml:round.1.train.shares: 'firsd' is no task",
    ),
    "a task without a share": (
        {"last": [{"train": {"of": None, "shares": {}}}]}, "shares must be 0 or more",
    ),
    "a learner": (
        {"training": {"learner": "slm"}}, "loop.yaml:training.learner: does not go with a loop, which teaches",
    ),
    "a share of no task, for all trainings": (
        {"round": [{"train": {"of": None}}], "training": {"shares": {"firsd": 1}}},
        "loop.yaml:training.shares: 'firsd' is no task",
    ),
    "a portion of no task": (
        {"last": [{"train": {"of": None, "portions": {"firsd": 0.5}}}]},
        "loop.yaml:last.1.train.portions: 'firsd' is no task",
    ),
    "a task of conversations": ({"tasks": ["talk"]}, "the conversation cannot be put"),
    "an empty split": ({"tasks": ["empty"]}, "has no training examples"),
    "shown examples": ({"tasks": ["shown"]}, "shows solved examples"),
}  # fmt: skip


SPLITS = ("train", "valid", "test")


def write(folder: Path, line: dict[str, Any], settings: str, splits: tuple[str, ...] = SPLITS) -> None:
    folder.mkdir()
    for split in splits:
        (folder / f"{split}.jsonl").write_text(json.dumps(line) + "\n")
    (folder / "task.yaml").write_text(settings)


@pytest.mark.parametrize("case", sorted(BAD))
def test_a_wrong_loop_is_one_line_and_nothing_is_written(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path, case: str
) -> None:
    said = [{"role": "user", "content": "fab="}, {"role": "assistant", "content": "a"}]
    write(tmp_path / "talk", {"messages": said}, "max_new_tokens: 3\n")
    write(tmp_path / "empty", {"prompt": "fab=", "answer": "a"}, "max_new_tokens: 3\n", ("valid", "test"))
    write(tmp_path / "shown", {"prompt": "fab=", "answer": "a"}, "few_shot: 1\n")
    changes, expected = BAD[case]
    file = tmp_path / "loop.yaml"
    plain = {"loop": 1, "base": str(small_world / "base"), "tasks": [str(small_world / "tasks" / "first")]}
    file.write_text(yaml.safe_dump({**plain, "round": ROUND, **changes}))
    answer = cli("train", file, "--out", tmp_path / "run", "--quiet")
    assert answer.code == 2, answer.err
    assert expected in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_what_the_file_says_is_no_option_beside_it(cli: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "loop.yaml"
    file.write_text(yaml.safe_dump({"loop": 1, "base": "base", "tasks": ["one"], "round": ROUND}))
    answer = cli("train", file, "--out", tmp_path / "run", "--steps", 3)
    assert answer.code == 2
    assert "is set by the file" in answer.err
    answer = cli("train", tmp_path / "loop.yaml", "tasks/first", "--base", "base", "--out", tmp_path / "run")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "loop.yaml: stands beside other tasks. Name the file alone" in answer.err


def test_models_in_the_options_of_an_objective_lie_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    reward = {"reward_model": {"path": "judge"}}
    grpo = {"of": "prompts", "objective": "grpo", "options": {"reward": reward}}
    plain = {
        "loop": 1,
        "base": "base",
        "tasks": ["one"],
        "training": {"objective": "grpo", "options": {"reward": reward}},
    }
    (tmp_path / "loop.yaml").write_text(yaml.safe_dump({**plain, "round": ["draw", {"train": grpo}]}))
    loop = load_loop(tmp_path / "loop.yaml")
    found = str(tmp_path / "judge")
    assert loop.round[1]["train"]["options"]["reward"]["reward_model"]["path"] == found
    assert loop.training["options"]["reward"]["reward_model"]["path"] == found
    assert loop.names().count(found) == 2


def test_a_known_answer_that_is_refined_to_is_one_label(tmp_path: Path) -> None:
    line = Line("t", Example("1", "fab=", ("a",)), (WrittenAnswer("b", 1, 0.0),))
    place: Any = SimpleNamespace(read=lambda _: [line], folder=tmp_path)
    done = stage.find_stage("refine", {"by": "answer"}).run(place)
    digest = write_lines(tmp_path / "lessons.jsonl", done.lines["refinements"])
    task: Any = None
    (lesson,) = read_lines(tmp_path / "lessons.jsonl", digest, {"t": task})
    assert lesson.example.prompt == "fab=b\n"
    assert not lesson.own
    assert {lesson.label} == set(done.labels) == {line.label}


def test_a_loop_is_not_written_over_its_teacher(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(small_world / "other", out / "teacher")
    train = {"of": "prompts", "objective": "distance", "teacher": str(out / "teacher")}
    plain = {"loop": 1, "base": str(small_world / "base"), "tasks": [str(small_world / "tasks" / "first")]}
    file = tmp_path / "loop.yaml"
    file.write_text(yaml.safe_dump({**plain, "rounds": 1, "round": [{"draw": {"count": 4}}, {"train": train}]}))
    answer = cli("train", file, "--out", out, "--overwrite", "--quiet")
    assert answer.code == 2, answer.err
    assert (out / "teacher" / "config.json").is_file()


@pytest.mark.parametrize("file", sorted(filter(is_loop, RECIPES.glob("*.yaml"))), ids=lambda file: file.stem)
def test_every_recipe_names_stages_that_can_follow_each_other(file: Path) -> None:
    loop = load_loop(file)
    names = [one.name for _, _, one in loop.plan()]
    assert "train" in names
    assert set(names) <= set(stages())


def test_a_loop_is_planned_before_it_runs(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> None:
    file = tmp_path / "loop.yaml"
    plain = {
        "loop": 1,
        "base": str(small_world / "base"),
        "tasks": [str(small_world / "tasks" / "first")],
        "rounds": 3,
        "first": [{"draw": {"by": "length", "part": [0.5, 1], "to": "hard"}}, {"train": {"of": "hard", "steps": 5}}],
        "round": [{"draw": {"count": 10}}, {"sample": {"samples": 4}}, "pair", {"train": {"of": "pairs", "steps": 7}}],
        "training": {"objective": "dpo"},
    }
    file.write_text(yaml.safe_dump(plain))
    answer = cli("plan", file, "--json", "--quiet")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told["stages"][0]["lines"] == {"hard": 24}
    assert (told["samples"], told["steps"], told["examples"]) == (3 * 10 * 4, 5 + 3 * 7, 48)
    assert (told["tasks"], told["others"]) == (["first"], ["grade"])
    assert 0 < told["memory"]["parameters"] < told["memory"]["total"]
    shown = cli("plan", file, "--quiet")
    assert "3 rounds on 48 examples: at most 120 samples and 26 steps in all" in shown.out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "this loop is not finished"),
        ("nonsense", "loop.json: cannot be read"),
        ('{"schema": 1, "result": "/etc/passwd"}', "loop.json:result: is damaged"),
        ('{"schema": 2}', "is not the result of a loop that this version reads"),
    ],
)
def test_a_result_that_is_missing_or_was_tampered_with_is_named(
    cli: Callable[..., Any], tmp_path: Path, text: str | None, said: str
) -> None:
    (tmp_path / "record.json").write_text("{}")
    (tmp_path / "loop.yaml").write_text("loop: 1\n")
    if text is not None:
        (tmp_path / "loop.json").write_text(text)
    answer = cli("report", tmp_path, "--quiet")
    assert answer.code == 2
    assert said in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not (tmp_path / "report.html").exists()


def test_every_stage_is_a_file_of_its_name_and_says_what_it_is_for() -> None:
    folder = Path(stage.__file__).parent / "stages"
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert set(stages()) == files
    for one in stages().values():
        assert one.__doc__
        assert one.when
        assert one.source


def test_the_next_step_is_that_of_the_highest_upper_bound() -> None:
    root = Node()
    good, bad = root.add("a;", (1,), ended=False), root.add("b;", (2,), ended=False)
    assert good is not None
    assert bad is not None
    assert root.add("a;", (1,), ended=False) is None
    for _ in range(3):
        good.back_up(1.0)
    bad.back_up(0.0)
    assert (root.visits, root.value) == (4, 0.75)
    assert upper_bound(good, 2) == pytest.approx(1 + 2 * math.sqrt(math.log(4) / 3))
    assert upper_bound(bad, 2) == pytest.approx(2 * math.sqrt(math.log(4)))
    # 2.36 and 2.35: what was rarely tried is nearly as good; with less exploration the better one is clearly chosen.
    assert chosen_leaf(root, 2, 6) is good
    bad.back_up(0.0)
    assert chosen_leaf(root, 0, 6) is good
    end = good.add("c", (3,), ended=True)
    assert end is not None
    assert end.text == "a;c"
    assert end.tokens == (1, 3)
    # All below `good` has ended, so only `bad` can grow; and nothing can that is as deep as it may be.
    assert chosen_leaf(root, 0, 6) is bad
    assert chosen_leaf(root, 0, 1) is None


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1)), max_size=20))
def test_a_step_is_visited_as_often_as_the_steps_after_it_and_its_own(turns: list[tuple[int, float]]) -> None:
    root = Node()
    own: dict[int, int] = {}
    for number, (choice, reward) in enumerate(turns):
        nodes = list(root.below())
        node = nodes[choice % len(nodes)].add(f"{number}", (number,), ended=False)
        assert node is not None
        node.back_up(reward)
        own[id(node)] = 1
    for node in root.below():
        assert node.visits == own.get(id(node), 0) + sum(child.visits for child in node.children)
        assert 0 <= node.value <= 1


@pytest.mark.parametrize(
    ("output", "score"),
    [
        ("3*5=15;15+7=22", 1),
        ("7+15=22", 0),  # 15 is not there
        ("3*5=15\n15 + 7 = 22", 1),
        ("5*3=15;7+15=22", 1),
        ("3*5=15", 0),
        ("3*5=16;16+6=22", 0),
        ("3+3=6;6+7=13", 0),
        ("3*5=15;15+7=22;", 0),
        ("", 0),
        ("22", 0),
        ("9" * 5000 + "*5=15", 0),
    ],
)
def test_a_derivation_counts_when_every_step_holds_and_the_last_is_the_target(output: str, score: float) -> None:
    example = Example("1", "3 5 7>22:", ("any",))
    assert find_metric("countdown").score(output, example, True) == score


def test_the_countdown_task_is_what_its_generator_writes_and_no_tested_prompt_is_trained_on() -> None:
    spec = importlib.util.spec_from_file_location("generate_countdown", RECIPES / "countdown" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    prompts: list[str] = []
    for name, text in module.files().items():
        assert (RECIPES / "countdown" / name).read_text() == text
        for line in map(json.loads, text.splitlines()):
            prompts.append(line["prompt"])
            example = Example(line["id"], line["prompt"], (line["answer"],))
            assert find_metric("countdown").score(line["answer"], example, True) == 1
    assert len(prompts) == len(set(prompts))
