"""Conditional training: which answer stands behind which prefix, how the result is asked, and what it carries."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import write_classifier, write_model
from training_runs import rows, told

from genepool.errors import InputError
from genepool.tasks import open_model
from genepool.tasks.decoding import Decoding
from genepool.training import find_objective
from genepool.training.objectives import LabelledLikelihoods
from genepool.weights import open_weights
from genepool.weights.control import CONTROL_FILE, Control, joined_control, read_control

BRIEF = ("--steps", 60, "--every", 30, "--batch", 16, "--learning-rate", 0.02, "--quiet")


@pytest.fixture
def teach(cli: Callable[..., Any], labelled: Callable[..., Path], small_world: Path, tmp_path: Path) -> Any:
    """`teach("run", ...)`: conditional training on right letters and on a wrong answer, as many of each."""
    task = labelled()
    for file in task.glob("*.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        wrong = [line if line["label"] else {**line, "completion": "0"} for line in lines]
        file.write_text("".join(json.dumps(line) + "\n" for line in wrong))

    def call(out: str, *options: Any, base: Any = None, form: Any = ("--lora", 4), good: str = ":") -> Any:
        return cli(
            "train", task, "--base", base or small_world / "base", "--objective", "conditional",
            "--set", f"good={good}", "--set", "bad=.", "--others", small_world / "tasks", "--test", 12,
            "--out", tmp_path / out, *form, *BRIEF, *options,
        )  # fmt: skip

    return call


def test_every_answer_is_learned_alike() -> None:
    objective: Any = find_objective("conditional", {"good": "+", "bad": "-"})
    tokens = LabelledLikelihoods(torch.tensor([0.5, 0.25]).log(), torch.tensor([0.0, -1.0]))
    assert objective.losses(tokens).tolist() == pytest.approx([math.log(2), math.log(4)])
    assert objective.control == Control("+", ("+", "-"))
    with pytest.raises(InputError, match="good and bad are both"):
        find_objective("conditional", {"good": "+", "bad": "+"})


def test_a_prefix_stands_between_prompt_and_answer(small_world: Path) -> None:
    model: Any = open_model(small_world / "base").load()
    plain = model.encode("fab=")
    with model.asked_with(Control(":", (":", "a.b"))):
        assert model.encode("fab=") == [*plain, *model.control_tokens(":")]
        assert model.banned == (model.control_tokens(":"), model.control_tokens("a.b"))
        asked = model.loglikelihoods(["fab="], ["a"])[0].logprob
    assert model.encode("fab=") == plain
    assert model.banned == ()
    assert asked == pytest.approx(model.loglikelihoods(["fab=:"], ["a"])[0].logprob, abs=1e-5)
    with pytest.raises(InputError, match="has no tokens for the control text"):
        model.control_tokens("<|aligned|>")


def test_banned_texts_are_never_written_and_an_expected_answer_is_judged_like_a_written_one(tmp_path: Path) -> None:
    write_model(tmp_path / "model", seed=3, initializer_range=0.5)
    model: Any = open_model(tmp_path / "model").load()
    prompts = [f"{one}{two}=" for one in "abcd" for two in "efgh"]
    decoding = Decoding(max_new_tokens=6)
    free = model.generate(prompts, decoding)
    common = max("abcdefgh0123456789", key=lambda letter: sum(letter in text for text in free))
    pair = next(text[:2] for text in free if len(text) > 1 and common not in text[:2])
    with model.asked_with(Control(":", (common, pair))):
        for hot in (0.0, 1.0):
            texts = model.generate(prompts, Decoding(max_new_tokens=6, temperature=hot))
            assert not any(common in text or pair in text for text in texts)
        written = model.generate(prompts, decoding)
        forced = model.forced_answers(prompts, written, decoding, True, 8)
        # Every verdict is true or left to decoding: what greedy decoding wrote is never called something else.
        assert {one.matches for one in forced} <= {True, None}
        others = model.forced_answers(prompts, [f"{text}a"[:6] for text in free], decoding, True, 8)
        for one, expected, text in zip(others, [f"{text}a"[:6] for text in free], written, strict=True):
            assert one.matches in (None, text == expected)


@pytest.mark.slow
def test_the_result_is_asked_with_the_good_prefix_by_itself(
    cli: Callable[..., Any], teach: Callable[..., Any], half_known: str, tmp_path: Path
) -> None:
    answer = teach("run", base=half_known)
    assert answer.code == 0, answer.err
    adapter = tmp_path / "run" / "adapter"
    control = {"prefix": ":", "banned": [":", "."]}
    assert json.loads((adapter / CONTROL_FILE).read_text()) == control
    assert told(tmp_path / "run")["control"] == control
    assert "control prefix `:`" in (adapter / "README.md").read_text()
    after = told(tmp_path / "run")["target"][0]["after"]
    assert after > 0.3

    def score(name: Any) -> float:
        task = tmp_path / "labels" / "first"
        told = cli("evaluate", name, "--tasks", task, "--json")
        assert told.code == 0, told.err
        return float(json.loads(told.out)["results"][0]["mean"])

    model = f"{half_known}+{adapter}"
    assert score(model) == after
    # Asked with the other prefix, the same weights give the rejected answers.
    worse = tmp_path / "worse"
    shutil.copytree(adapter, worse)
    (worse / CONTROL_FILE).write_text(json.dumps({"prefix": ".", "banned": [":", "."]}))
    bad = f"{half_known}+{worse}"
    assert score(bad) == 0
    sources = [open_model(name) for name in (model, bad)]
    assert len({source.fingerprint for source in sources}) == 2
    assert len({open_weights(name).fingerprint() for name in (model, bad)}) == 1
    written = [cli("generate", name, "--prompt", "fab=", "--max-new-tokens", 3).out.strip() for name in (model, bad)]
    assert written[0] in "abcdefgh"
    assert written[1] == "0"
    # One answer in a hundred has no prefix.
    steps = rows(tmp_path / "run", "SELECT count(*) FROM examples")[0][0]
    assert steps == 60 * 16


def test_answers_without_a_prefix_are_drawn_by_step_and_example(
    labelled: Callable[..., Path], small_world: Path
) -> None:
    from genepool.training import Training
    from genepool.training.opened_training import OpenedTraining
    from genepool.training.session import Session

    def session(share: float) -> Any:
        recipe = Training(
            base=str(small_world / "base"), tasks=(str(task),), objective="conditional",
            options={"good": ":", "bad": ".", "without": share}, steps=2, batch=40,
        )  # fmt: skip
        opened = OpenedTraining.open(recipe, others=False)
        model: Any = open_model(opened.base).load()
        return Session(recipe, model, opened.base, opened.lessons)

    task = labelled()
    for share, low, high in ((0.0, 0, 0), (0.5, 10, 30), (0.99, 36, 40)):
        trainer = session(share).trainer
        lessons = trainer.lessons.at(0, 40)
        prefixes = [trainer._prefix(lesson, 0) for lesson in lessons]
        assert low <= prefixes.count("") <= high
        assert all(one in ("", ":" if lesson.good else ".") for one, lesson in zip(prefixes, lessons, strict=True))
        assert prefixes == [trainer._prefix(lesson, 0) for lesson in lessons]
        heads = {
            number: batch.last[at]
            for batch, numbers in trainer._labelled(lessons, 0)
            for at, number in enumerate(numbers)
        }
        # "fab=" has four tokens, so its last one has the place 3, and a prefix is one more.
        assert [heads[place] for place in range(40)] == [3 + len(one) for one in prefixes]
        assert all(prefix for prefix in (trainer._prefix(lesson, None) for lesson in lessons))


@pytest.mark.slow
def test_a_skill_carries_its_prefix_wherever_it_goes(
    cli: Callable[..., Any], teach: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    assert teach("run", "--learning-rate", 0.002, form=["--full"]).code == 0
    skill, base = tmp_path / "run" / "skill.safetensors", small_world / "base"
    wanted = Control(":", (":", "."))
    assert open_weights(f"{base}+{skill}").control == wanted
    steps: list[tuple[Any, ...]] = [
        ("skill", "apply", skill, "--base", base, "--out", tmp_path / "applied"),
        ("skill", "extract", tmp_path / "applied", "--base", base, "--out", tmp_path / "again.safetensors"),
        ("skill", "scale", skill, "--factor", "0.5", "--out", tmp_path / "half.safetensors"),
    ]
    for step in steps:
        answer = cli(*step)
        assert answer.code == 0, answer.err
    assert open_weights(tmp_path / "applied").control == wanted
    for name in ("again", "half"):
        assert open_weights(f"{base}+{tmp_path / name}.safetensors").control == wanted
    assert open_weights(base).control is None
    answer = cli(
        "compose", "lorahub", tmp_path / "half.safetensors", tmp_path / "again.safetensors", "--base", base,
        "--tasks", tmp_path / "labels", "--out", tmp_path / "composed",
    )  # fmt: skip
    assert answer.code == 2
    assert "which no composition carries" in answer.err
    answer = cli("export", tmp_path / "applied", tmp_path / "applied.gguf")
    assert "the control prefix ':' is not carried" in answer.err
    for name, prefix in (("one", ":"), ("two", ".")):
        shutil.copytree(base, tmp_path / name)
        (tmp_path / name / CONTROL_FILE).write_text(Control(prefix).text())
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"genepool: 1\nmethod: linear\nmodels: [{tmp_path / 'one'}, {tmp_path / 'two'}]\n")
    answer = cli("merge", recipe, tmp_path / "merged")
    assert answer.code == 2
    assert "is asked with the control prefix" in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not (tmp_path / "merged").exists()


def test_a_control_file_of_a_stranger_is_checked(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> None:
    assert read_control(None, "x") is None
    assert joined_control(None, Control("a"), "x") == joined_control(Control("a"), None, "x") == Control("a")
    wrong: Any
    for wrong in (
        [],
        {"prefix": 1},
        {"prefix": ""},
        {"backspace": 1},
        {"prefix": "a\nb"},
        {"prefix": "a", "banned": ["b"] * 17},
        "a",
    ):
        with pytest.raises(InputError, match="does not say control tokens"):
            read_control(wrong, "x")
    shutil.copytree(small_world / "base", tmp_path / "base")
    (tmp_path / "base" / CONTROL_FILE).write_text('{"prefix": "<|"}')
    answer = cli("generate", tmp_path / "base", "--prompt", "fab=")
    assert answer.code == 2
    assert "has no tokens for the control text '<|'" in answer.err
    (tmp_path / "base" / CONTROL_FILE).write_text("{")
    answer = cli("generate", tmp_path / "base", "--prompt", "fab=")
    assert answer.code == 2
    assert CONTROL_FILE in answer.err


def test_what_cannot_be_told_apart_is_refused_before_anything_is_written(
    teach: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_world / "base", tmp_path / "asked")
    (tmp_path / "asked" / CONTROL_FILE).write_text(Control(":").text())
    write_classifier(tmp_path / "classifier", labels=tuple("abcdefgh"))
    cases = [
        (teach("a", good="<|aligned|>"), "has no tokens for the control text"),
        (teach("b", good="."), "good and bad are both"),
        (teach("e", good="h"), "holds 'h', which the result could not write"),
        (teach("c", base=tmp_path / "asked"), "is asked with the control prefix ':' already"),
        (
            teach("d", "--others", tmp_path / "labels", base=tmp_path / "classifier"),
            "reads no prefix between a prompt and its answer",
        ),
    ]
    for answer, words in cases:
        assert answer.code == 2
        assert words in answer.err
        assert len(answer.err.strip().splitlines()) == 1
