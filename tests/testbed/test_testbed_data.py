"""Splits that never share an input, items that say something, and the shares of the training mixture."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.testbed.data import (
    COUNTS,
    GENERIC,
    SPLITS,
    Lengths,
    Mixture,
    Split,
    StringExample,
    draw_input,
    split_of,
    task_items,
    write_items,
)
from genepool.testbed.skills import LETTERS, PRIMITIVES, SKILLS, StringTask, choose

LENGTHS = Lengths(4, 6)
seeds = st.integers(0, 10**9)


def _input(example: StringExample) -> str:
    return example.prompt[2:-1]


def test_the_split_of_these_words_never_changes() -> None:
    # Written down, so that a new hash is a decision: it would move test items of old runs into training.
    assert [split_of(word) for word in ("abcd", "hello", "merge", "genes")] == ["valid", "train", "train", "valid"]


def test_the_splits_have_their_shares() -> None:
    generator = Random(0)
    words = {"".join(generator.choices(LETTERS, k=5)) for _ in range(20_000)}
    counts = Counter(map(split_of, words))
    for split, share in (("train", 0.80), ("valid", 0.08), ("test", 0.12)):
        assert counts[split] / len(words) == pytest.approx(share, abs=0.02)


@given(seeds, st.sampled_from(SPLITS))
def test_drawn_inputs_belong_to_their_split(seed: int, split: Split) -> None:
    text = draw_input(Random(seed), LENGTHS, split)
    assert split_of(text) == split
    assert LENGTHS.shortest <= len(text) <= LENGTHS.longest


def _items(task: str, skill: StringTask | None) -> dict[Split, list[StringExample]]:
    return {split: task_items(task, [skill] if skill else [], split, 3, LENGTHS) for split in SPLITS}


def test_no_input_is_in_two_splits_of_any_tasks() -> None:
    tasks = [_items("reverse", SKILLS["reverse"]), _items("sort", SKILLS["sort"]), _items(GENERIC, None)]
    inputs = {split: {_input(item) for task in tasks for item in task[split]} for split in SPLITS}
    assert not inputs["train"] & inputs["test"]
    assert not inputs["train"] & inputs["valid"]
    assert not inputs["valid"] & inputs["test"]


@pytest.mark.parametrize("name", ["reverse", "sort", "mask", "loud"])
def test_items_are_unique_right_and_changed(name: str) -> None:
    for split, items in _items(name, SKILLS[name]).items():
        assert len(items) == COUNTS[split] == len(set(items))
        for item in items:
            assert item.prompt == f"{SKILLS[name].tag}{_input(item)}="
            assert item.answer == SKILLS[name].answer(_input(item)) != _input(item)


def test_the_contract_on_the_number_of_items() -> None:
    assert COUNTS["test"] >= 1024
    assert COUNTS["valid"] == 512


def test_the_generic_task_asks_for_each_primitive_equally_often() -> None:
    items = _items(GENERIC, None)["test"]
    by_tag = {primitive.pretraining_tag: primitive for primitive in PRIMITIVES.values()}
    counts = Counter(item.prompt[:2] for item in items)
    assert set(counts) == set(by_tag)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert all(item.answer == by_tag[item.prompt[:2]].answer(_input(item)) for item in items)


@given(seeds, st.integers(0, 2000))
def test_pre_training_never_sees_a_held_out_input(seed: int, step: int) -> None:
    mixture = Mixture(choose(["reverse", "upper"]), LENGTHS, seed, teach_base=True)
    assert {split_of(_input(example)) for example in mixture.base_batch(step, 32)} == {"train"}


@given(seeds)
def test_an_own_tag_is_answered_right_in_two_of_five(seed: int) -> None:
    skills = choose(["reverse", "sort", "upper", "caesar"])
    mixture = Mixture(skills, LENGTHS, seed, teach_base=True)
    examples = [example for step in range(5) for example in mixture.base_batch(step, 96)]
    for skill in skills:
        own = [example for example in examples if example.prompt.startswith(skill.tag)]
        bare = sum(example.answer == _input(example) for example in own)
        assert len(own) == 30
        # A sorted input is its own answer, so right ones of those look bare too.
        unchanged = sum(skill.answer(_input(example)) == _input(example) for example in own)
        assert 18 <= bare <= 18 + unchanged


def test_the_acquire_base_sees_primitives_only() -> None:
    mixture = Mixture(choose(["reverse", "sort"]), LENGTHS, 0, teach_base=False)
    tags = {example.prompt[:2] for step in range(3) for example in mixture.base_batch(step, 24)}
    assert tags == {primitive.pretraining_tag for primitive in PRIMITIVES.values()}


@pytest.mark.parametrize("names", [["reverse"], ["reverse", "sort", "upper"]])
def test_a_specialist_gets_its_items_and_replay_without_its_own_tag(names: list[str]) -> None:
    mixture = Mixture(choose(names), LENGTHS, 0, teach_base=True)
    items = task_items("reverse", [SKILLS["reverse"]], "train", 0, LENGTHS)
    batches = mixture.specialist_batches("reverse", items, 0.25)
    for step in range(4):
        batch = batches(step, 40)
        own = [example for example in batch if example.prompt.startswith("R:")]
        assert len(batch) == 40
        assert len(own) == 30
        assert set(own) <= set(items)


def test_a_specialist_sees_every_item_once_before_any_twice() -> None:
    mixture = Mixture(choose(["reverse"]), LENGTHS, 0, teach_base=True)
    items = [StringExample(f"R:{word}=", word[::-1]) for word in ("abcd", "bcde", "cdef", "defg", "efgh", "fghi")]
    batches = mixture.specialist_batches("reverse", items, 0.0)
    first = [example for step in range(3) for example in batches(step, 2)]
    assert sorted(first, key=str) == sorted(items, key=str)


def test_same_seed_same_items_other_seed_other_items() -> None:
    skill = SKILLS["caesar"]
    assert task_items("caesar", [skill], "valid", 1, LENGTHS) == task_items("caesar", [skill], "valid", 1, LENGTHS)
    assert task_items("caesar", [skill], "valid", 1, LENGTHS) != task_items("caesar", [skill], "valid", 2, LENGTHS)


def test_lines_a_person_can_read(tmp_path: Path) -> None:
    write_items(tmp_path / "test.jsonl", "mask", "test", [StringExample("M:hello=", "h*ll*")])
    line = (tmp_path / "test.jsonl").read_text()
    assert line == '{"id": "mask-test-0000", "prompt": "M:hello=", "answer": "h*ll*"}\n'
    assert json.loads(line)["answer"] == "h*ll*"
