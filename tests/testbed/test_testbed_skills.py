"""What the testbed's skills promise for any input, and their names and tags."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.errors import InputError
from genepool.testbed import DEFAULT_SKILLS, PRIMITIVES, SKILLS
from genepool.testbed.skills import LETTERS, choose
from genepool.testbed.tokenizer import VOCABULARY

words = st.text(alphabet=LETTERS, min_size=4, max_size=7)


@given(words)
def test_every_answer_is_short_and_made_of_known_characters(text: str) -> None:
    for skill in [*SKILLS.values(), *PRIMITIVES.values()]:
        answer = skill.answer(text)
        assert 1 <= len(answer) <= len(text)
        assert set(answer) <= set(VOCABULARY)


@given(words)
def test_skills_that_move_letters_keep_them(text: str) -> None:
    for name in ("reverse", "sort", "rotate", "swap", "comb", "ends"):
        assert sorted(SKILLS[name].answer(text)) == sorted(text)


@given(words)
def test_skills_that_undo_themselves(text: str) -> None:
    for name in ("reverse", "swap", "atbash"):
        assert SKILLS[name].answer(SKILLS[name].answer(text)) == text


@given(words)
def test_skills_that_mark_letters_leave_the_rest(text: str) -> None:
    for name in ("upper", "loud", "alternate"):
        assert SKILLS[name].answer(text).lower() == text
    masked = SKILLS["mask"].answer(text)
    assert all(a == b or (a == "*" and b in "aeiou") for a, b in zip(masked, text, strict=True))


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("reverse", "dlrow"),
        ("sort", "dlorw"),
        ("upper", "WORLD"),
        ("caesar", "zruog"),
        ("rotate", "rldwo"),
        ("swap", "owlrd"),
        ("atbash", "dliow"),
        ("mask", "w*rld"),
        ("loud", "wOrld"),
        ("alternate", "wOrLd"),
        ("comb", "wrdol"),
        ("ends", "wdolr"),
    ],
)
def test_each_skill_on_one_word(name: str, answer: str) -> None:
    assert SKILLS[name].answer("world") == answer


def test_every_skill_is_tried_above() -> None:
    assert len(SKILLS) == 12


def test_tags_are_all_different() -> None:
    everything = [*SKILLS.values(), *PRIMITIVES.values()]
    assert len({skill.mark for skill in everything}) == len(everything)
    tags = [skill.tag for skill in SKILLS.values()] + [skill.pretraining_tag for skill in everything]
    assert len(set(tags)) == len(tags)


@given(st.lists(words, min_size=60, max_size=60, unique=True))
def test_no_two_skills_are_the_same_function(texts: list[str]) -> None:
    answers = {
        name: tuple(skill.answer(text) for text in [*texts, "hello"])
        for name, skill in {**SKILLS, **PRIMITIVES}.items()
    }
    assert len(set(answers.values())) == len(answers)


def test_choosing_keeps_the_order_asked_for() -> None:
    assert [skill.name for skill in choose(("sort", "mask"))] == ["sort", "mask"]
    assert [skill.name for skill in choose(DEFAULT_SKILLS)] == ["reverse", "sort", "upper", "caesar"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["revers"], "there is no skill 'revers'. Did you mean 'reverse'?"),
        (["reverse", "reverse"], "is named twice"),
        ([], "no skill is named"),
    ],
)
def test_wrong_names_are_refused(names: list[str], said: str) -> None:
    with pytest.raises(InputError) as raised:
        choose(names)
    assert said in str(raised.value)
