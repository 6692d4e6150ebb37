"""Which solved examples a task shows: each way by its definition, and in the digest of what was asked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny_models import write_model

from genepool.errors import InputError
from genepool.tasks.example import Example
from genepool.tasks.shown import shown_choices
from genepool.tasks.shown.compatible import CompatibleExamples
from genepool.tasks.task import Task, TaskSettings

Cli = Callable[..., Any]


def task(train: list[Example], *asked: Example, **settings: Any) -> Task:
    return Task("t", {"train": train, "test": list(asked)}, TaskSettings(**settings))


def prompts(texts: list[str]) -> list[Example]:
    return [Example(f"e{n}", text, (text,)) for n, text in enumerate(texts)]


def ids(shown: list[Example]) -> list[str]:
    return [one.id for one in shown]


# ---------------------------------------------------------------------- alike


def test_the_most_alike_stand_last() -> None:
    train = prompts(["zzzz", "abcxyz", "abcdef", "qqqqqq", "abcde"])
    question = Example("q", "abcdefg", ("x",))
    assert ids(task(train, question, few_shot=3, show="alike").shown_before(question)) == ["e1", "e4", "e2"]
    # It never shows the question itself, which would be the most alike.
    assert "e2" not in ids(task(train, few_shot=4, show="alike").shown_before(train[2]))


@given(texts=st.lists(st.text("abcd", min_size=1, max_size=9), min_size=3, max_size=8, unique=True))
def test_likeness_is_the_cosine_of_weighted_counts_of_runs(texts: list[str]) -> None:
    question, *rest = texts
    train = prompts(rest)
    shown = task(train, few_shot=len(train), show="alike").shown_before(Example("q", question, ("x",)))

    def runs(text: str) -> Counter[str]:
        return Counter([text] if len(text) < 3 else [text[at : at + 3] for at in range(len(text) - 2)])

    known = sorted({run for text in rest for run in runs(text)})
    weights = np.log([(1 + len(rest)) / (1 + sum(run in runs(text) for text in rest)) for run in known])
    vectors = {text: np.array([runs(text)[run] for run in known]) * weights for text in texts}

    def cosine(text: str) -> float:
        lengths = np.linalg.norm(vectors[text]) * np.linalg.norm(vectors[question])
        return float(vectors[text] @ vectors[question] / lengths) if lengths else 0.0

    likeness = [cosine(one.prompt) for one in shown]
    assert all(a <= b + 1e-6 for a, b in pairwise(likeness))


# ---------------------------------------------------------------------- by skill

TAGGED = [
    Example("add", "1+1", ("2",), tags=("add",)),
    Example("times", "2*3", ("6",), tags=("times",)),
    Example("both", "1+2*3", ("7",), tags=("add", "times")),
    Example("three", "1+2*3-1", ("6",), tags=("add", "times", "minus")),
    Example("minus", "3-1", ("2",), tags=("minus",)),
    Example("none", "5", ("5",)),
]
QUESTION = Example("q", "2+2*2", ("6",), tags=("add", "times"))


def test_each_skill_of_a_question_gets_an_example_in_turn() -> None:
    shown = ids(task(TAGGED, QUESTION, few_shot=4, show="skills").shown_before(QUESTION))
    # Those that share most skills and have no others come first, for either skill.
    assert shown == ["both", "three", "add", "times"]
    lone = Example("q", "9-1", ("8",), tags=("minus",))
    assert ids(task(TAGGED, lone, few_shot=3, show="skills").shown_before(lone))[:2] == ["minus", "three"]


def test_parts_stand_before_their_composition() -> None:
    assert ids(task(TAGGED, QUESTION, few_shot=3, show="parts").shown_before(QUESTION)) == ["add", "times", "both"]
    lone = Example("q", "9-1", ("8",), tags=("minus",))
    assert ids(task(TAGGED, lone, few_shot=1, show="parts").shown_before(lone)) == ["minus"]
    other = Example("q", "1+2*3-2", ("5",), tags=("times", "minus", "add"))
    assert ids(task(TAGGED, other, few_shot=4, show="parts").shown_before(other)) == ["times", "minus", "add", "three"]


@pytest.mark.parametrize(
    ("show", "few_shot", "tags", "message"),
    [
        ("skills", 1, ("root",), "needs 'root', and no training example has this tag"),
        ("parts", 3, ("add", "root"), "composes 'root', and no training example has this tag alone"),
        ("parts", 2, ("add", "times"), "composes 2 skills, and few_shot is 2"),
        ("parts", 4, ("add", "times"), "needs 2 training examples with exactly its tags (add, times), and 1 have them"),
    ],
)
def test_what_cannot_be_shown_is_one_line(show: str, few_shot: int, tags: tuple[str, ...], message: str) -> None:
    question = Example("q", "?", ("6",), tags=tags)
    with pytest.raises(InputError) as raised:
        task(TAGGED, question, few_shot=few_shot, show=show).shown_before(question)
    assert raised.value.what == message


@pytest.mark.parametrize("show", ["skills", "parts"])
def test_tags_that_are_not_there_are_told(cli: Cli, tmp_path: Path, show: str) -> None:
    (tmp_path / "sums").mkdir()
    for split in ("train", "test"):
        rows = [{"prompt": f"{at}+0={split}", "answer": str(at)} for at in range(4)]
        (tmp_path / "sums" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "sums" / "task.yaml").write_text(f"few_shot: 1\nshow: {show}\nmax_new_tokens: 2\n")
    refused = cli("evaluate", write_model(tmp_path / "model"), "--tasks", tmp_path / "sums")
    assert refused.code == 2
    assert f"sums: `show: {show}` chooses by tags, and no training example has any" in refused.err


# ---------------------------------------------------------------------- compatible


def habits() -> list[Example]:
    """Two kinds of prompts; one answer of the first kind is of another habit; one prompt is like no other."""
    first = [Example(f"a{at}", f"abcdefghijklmn{at}", ("B" if at == 5 else "A",)) for at in range(6)]
    second = [Example(f"c{at}", f"opqrstuvwxyzop{at}", ("C",)) for at in range(6)]
    return [*first, *second, Example("lone", "0123456789", ("Z",))]


def test_what_contradicts_the_others_comes_last() -> None:
    pool, question = habits(), Example("q", "qqq", ("x",))
    for seed in range(5):
        shown = ids(task(pool, question, few_shot=13, show="compatible", seed=seed).shown_before(question))
        assert shown[-1] == "a5"
        assert set(shown) == {one.id for one in pool}
    orders = {
        tuple(ids(task(pool, question, few_shot=3, show="compatible", seed=seed).shown_before(question)))
        for seed in range(5)
    }
    assert len(orders) == 5


def test_the_chance_of_an_answer_by_hand() -> None:
    pool = habits()
    made = CompatibleExamples(pool, "t")
    near = made._alike.nearest(pool[0], 6)
    assert near[0][0] == 0
    of = {pool[at].id: share for at, share in near[1:]}
    assert set(of) == {"a1", "a2", "a3", "a4", "a5"}
    assert made.chance(0) == pytest.approx(sum(one for name, one in of.items() if name != "a5") / sum(of.values()))
    assert made.chance(5) == 0.0
    # Nothing is known of what is like no other.
    assert made.chance(12) == 1.0


def test_only_hard_questions_are_shown_their_skills() -> None:
    hard = Example("q", "2+2*2", ("6",), tags=("add", "times", "hard"))
    train = [*TAGGED, Example("hard", "7", ("7",), tags=("hard",))]
    settings = {"few_shot": 2, "show": "skills", "show_for": "hard"}
    assert ids(task(train, hard, **settings).shown_before(hard))[0] == "both"
    drawn = task(train, QUESTION, few_shot=2).shown_before(QUESTION)
    assert task(train, QUESTION, **settings).shown_before(QUESTION) == drawn


# ---------------------------------------------------------------------- what all ways have in common


@given(show=st.sampled_from(sorted(shown_choices())), count=st.integers(1, 4), seed=st.integers(0, 99))
def test_as_many_as_asked_for_each_once_never_the_question_always_the_same(show: str, count: int, seed: int) -> None:
    same = [Example(f"e{n}", f"{n}+1", (str(n + 1),), tags=("add",)) for n in range(8)]
    asked = task(same, few_shot=count, show=show, seed=seed)
    for question in (same[3], Example("q", "9+1", ("10",), tags=("add",))):
        shown = asked.shown_before(question)
        assert len({one.key for one in shown}) == count
        assert question.key not in {one.key for one in shown}
        assert shown == task(same, few_shot=count, show=show, seed=seed).shown_before(question)


def test_drawing_is_what_it_was_and_other_ways_are_other_questions() -> None:
    """The digest of a task that draws is the one that ledgers know; tags count where they decide."""
    plain = task(TAGGED, QUESTION, few_shot=2)
    assert plain.asking == "692bb15d848e5c932060dc6aa110ae91dc9614b9d8ec7d5b2b127b5eba298c80"
    assert len({task(TAGGED, QUESTION, few_shot=2, show=show).asking for show in shown_choices()}) == len(
        shown_choices()
    )
    retagged = Example("q", "2+2*2", ("6",), tags=("add",))
    for show, differs in (("drawn", False), ("alike", False), ("compatible", False), ("skills", True), ("parts", True)):
        one, other = (task(TAGGED, asked, few_shot=2, show=show).asking for asked in (QUESTION, retagged))
        assert (one != other) == differs, show


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"show": "alike"}, "has no effect without `few_shot`"),
        ({"few_shot": 1, "show": "alik"}, "unknown way to show examples 'alik'"),
        ({"few_shot": 1, "show_for": "hard"}, "has no effect with `show: drawn`"),
        ({"input": "image", "show": "alike"}, "has no effect"),
    ],
)
def test_settings_that_say_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TaskSettings(**settings)


def test_a_task_is_asked_with_the_examples_that_its_settings_choose(cli: Cli, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", max_position_embeddings=64)
    folder = tmp_path / "sums"
    folder.mkdir()
    rows = [{"prompt": f"{a}+{a}=", "answer": str(2 * a), "tags": ["even" if a % 2 == 0 else "odd"]} for a in range(6)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "test.jsonl").write_text(json.dumps({"prompt": "7+7=", "answer": "14", "tags": ["odd"]}))
    fingerprints = []
    for show in sorted(shown_choices()):
        (folder / "task.yaml").write_text(f"few_shot: 1\nshow: {show}\nmax_new_tokens: 2\n")
        asked = cli("evaluate", model, "--tasks", folder, "--json")
        assert asked.code == 0, asked.err
        fingerprints.append(json.loads(asked.out)["evaluated"])
        assert json.loads(cli("evaluate", model, "--tasks", folder, "--json").out)["evaluated"] == 0
    assert fingerprints == [1] * len(shown_choices())
    (folder / "task.yaml").write_text("few_shot: 1\nshow: alikes\n")
    refused = cli("evaluate", model, "--tasks", folder)
    assert refused.code == 2
    assert "unknown way to show examples 'alikes'" in refused.err
