"""The testbed without tags: worked examples that fit one skill, prompts that name none, and a task of all skills."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.testbed.beds import untagged as untagged_bed
from genepool.testbed.data import Lengths, StringExample, draw_input, split_of, task_items
from genepool.testbed.schedule import Phase, Schedule
from genepool.testbed.skills import DEFAULT_SKILLS, PRIMITIVES, StringTask, choose
from genepool.testbed.tokenizer import END_ID, encode
from genepool.testbed.worked_examples import WorkedExamples, WorkedMixture

LENGTHS = Lengths(3, 4)
SKILLS = choose(DEFAULT_SKILLS)
ALL = (*SKILLS, *PRIMITIVES.values())
PROMPTS = WorkedExamples(ALL, LENGTHS, 2)
MINUTE = Schedule(
    hidden=16,
    layers=1,
    heads=2,
    feed_forward=24,
    lengths=LENGTHS,
    base=Phase(2, 8, 1e-3),
    full=Phase(1, 8, 1e-3, replay=0.25),
    lora=Phase(1, 8, 1e-3),
)


def _read(prompt: str, arrow: str) -> tuple[list[list[str]], str]:
    """The worked examples of a prompt, and the input that is asked."""
    *shown, asked = prompt.split(";")
    assert asked.endswith(arrow)
    return [one.split(arrow) for one in shown], asked[:-1]


def _meant(shown: Sequence[Sequence[str]], skills: Sequence[StringTask] = ALL) -> list[StringTask]:
    return [skill for skill in skills if all(skill.answer(text) == answer for text, answer in shown)]


@given(st.sampled_from(ALL), st.integers(0, 10**6), st.booleans())
def test_the_worked_examples_fit_one_skill_and_are_of_the_training_split(
    skill: StringTask, seed: int, own: bool
) -> None:
    generator = Random(seed)
    text = draw_input(generator, LENGTHS, "test")
    prompt = (PROMPTS.own if own else PROMPTS.pretraining)(skill, text, generator)
    shown, asked = _read(prompt, ":" if own else "|")
    assert asked == text
    assert len(shown) == 2
    assert _meant(shown) == [skill]
    assert all(split_of(one) == "train" and one != text for one, _ in shown)


def test_the_skill_of_every_item_can_be_inferred_and_its_answer_is_right() -> None:
    for item in task_items("mixed", SKILLS, "valid", 0, LENGTHS, PROMPTS)[:64]:
        shown, asked = _read(item.prompt, ":")
        (skill,) = _meant(shown)
        assert item.answer == skill.answer(asked) != asked


def test_the_mixed_task_asks_for_all_skills_in_turn() -> None:
    items = task_items("mixed", SKILLS, "test", 0, LENGTHS, PROMPTS)[:12]
    assert [_meant(_read(item.prompt, ":")[0])[0].name for item in items] == list(DEFAULT_SKILLS) * 3


def test_half_of_the_lessons_have_a_tag_and_nothing_that_is_asked_has_one() -> None:
    mixture = WorkedMixture(SKILLS, LENGTHS, 0, teach_base=True, prompts=PROMPTS)
    lessons = [example for step in range(8) for example in mixture.base_batch(step, 48)]
    reliable = [example for example in lessons if example.prompt.endswith("|")]
    tagged = [example for example in reliable if "#" in example.prompt]
    assert 0.4 < len(tagged) / len(reliable) < 0.6
    assert len(reliable) == 0.75 * len(lessons)
    for task, skills in (("mixed", SKILLS), ("generic", ())):
        assert not [item for item in task_items(task, skills, "test", 0, LENGTHS, PROMPTS) if "#" in item.prompt]


def test_answers_of_worked_examples_are_learned_where_something_tells_them() -> None:
    mixture = WorkedMixture(SKILLS, LENGTHS, 0, teach_base=True, prompts=PROMPTS)
    for example in (example for step in range(4) for example in mixture.base_batch(step, 48)):
        parts = [example.prompt[start:stop] for start, stop in example.learned]
        if example.prompt.endswith(":"):
            assert parts == []
            continue
        tag, found, rest = example.prompt.rpartition("#")
        shown, _ = _read(rest if found else tag, "|") if found else _read(example.prompt, "|")
        answers = [answer for _, answer in shown]
        assert parts == (answers if found else answers[1:])


def test_parts_of_a_prompt_that_are_learned_are_predicted_one_place_before() -> None:
    from genepool.testbed.training import _IGNORED, _tensors

    ids, labels = _tensors([StringExample("ab|ba;c|", "c", ((3, 5),))])
    assert ids.tolist() == [encode("ab|ba;c|c")]
    assert labels.tolist() == [[_IGNORED] * 2 + encode("ba") + [_IGNORED] * 3 + [*encode("c"), END_ID]]


@pytest.mark.slow
def test_a_folder_has_the_skills_tasks_and_the_mixed_one(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untagged_bed, "untagged_schedule_for", lambda *, tiny, skills: MINUTE)
    call = ["testbed", "build", tmp_path / "bed", "--bed", "untagged", "--skills", "reverse,upper", "--json"]
    answer = cli(*call)
    assert answer.code == 0, answer.err
    manifest = json.loads(answer.out)["manifest"]
    assert (manifest["settings"]["bed"], manifest["worked_examples"]) == ("untagged", 2)
    assert set(manifest["models"]) == {"base", "full/reverse", "full/upper", "lora/reverse", "lora/upper"}
    assert set(manifest["models"]["base"]["scores"]) == {"reverse", "upper", "mixed", "generic"}
    assert json.loads(cli(*call).out)["cached"]


def test_there_is_one_regime(cli: Callable[..., Any], tmp_path: Path) -> None:
    answer = cli("testbed", "build", tmp_path / "bed", "--bed", "untagged", "--regime", "acquire")
    assert answer.code == 2
    assert "one regime" in answer.err


@pytest.mark.slow
def test_every_specialist_is_good_at_its_skill_and_none_at_the_mixed_task(
    cli: Callable[..., Any], tmp_path: Path
) -> None:
    answer = cli("testbed", "build", tmp_path / "bed", "--bed", "untagged", "--tiny", "--json")
    assert answer.code == 0, answer.err
    models = json.loads(answer.out)["manifest"]["models"]
    for skill in DEFAULT_SKILLS:
        for kind in ("full", "lora"):
            assert models[f"{kind}/{skill}"]["scores"][skill] > models["base"]["scores"][skill] + 0.25
    assert max(model["scores"]["mixed"] for model in models.values()) < 0.6
